"""The last words of a command that cannot do what was asked: one line instead of a traceback."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import TracebackType

from common_ns.errors import InputError


def report_input_errors() -> None:
    """Let an uncaught `InputError` end the process with its one line and exit code 1, without a traceback.

    Other exceptions keep the hook that was there before. Calling it again changes nothing.
    """
    previous = sys.excepthook
    if getattr(previous, "reports_input_errors", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # With several devices the error happens in a worker, and arrives as the text of its traceback.
        in_worker = re.search(rf"^{InputError.__module__}\.InputError: (.+)$", str(error), re.MULTILINE)
        if isinstance(error, InputError):
            print(f"Error: {error}", file=sys.stderr)
        elif kind.__name__ == "ProcessRaisedException" and in_worker is not None:
            print(f"Error: {in_worker[1]}", file=sys.stderr)
        elif (refusal := _refusal_of_host(error, trace)) is not None:
            print(f"Error: {refusal}", file=sys.stderr)
        else:
            previous(kind, error, trace)

    hook.reports_input_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def _refusal_of_host(error: BaseException, trace: TracebackType | None) -> str | None:
    """What one of nerfstudio's commands says when it refuses a run or an option by an assertion, on one line."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if not isinstance(error, AssertionError) or trace is None or not str(error):
        return None
    if "nerfstudio/scripts/" not in Path(trace.tb_frame.f_code.co_filename).as_posix():
        return None
    text = " ".join(str(error).split())
    return f"{text} Use ns-mesh, which also takes densities." if "SDF field" in text else text
