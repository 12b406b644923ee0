"""The error of everything that a user can get wrong, and mend.

Inside Python it is an ordinary `ValueError`. Commands of this suite end with its one line, without a traceback, and
with exit code 1 (`common_ns.nerfstudio_seam.last_words`).
"""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Something the user gave is wrong, and the user can mend it.

    Args:
        problem: what is wrong, including the offending value.
        remedy: what to do about it, as an instruction.
        file: the file or folder that the problem was found in.
    """

    def __init__(self, problem: str, remedy: str, file: Path | str | None = None) -> None:
        self.problem, self.remedy, self.file = problem, remedy, file
        where = f"{file}: " if file is not None else ""
        # Spaces in paths stay as they are.
        text = f"{where}{problem.rstrip('.')}. {remedy.rstrip('.')}."
        super().__init__(" ".join(line.strip() for line in text.splitlines() if line.strip()))
