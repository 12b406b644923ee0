"""The last words of a command that cannot do what was asked: one line instead of a traceback."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType, TracebackType

from common_ns.data.files import refusal
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.renames import SuiteConfig


def report_input_errors() -> None:
    """Let an uncaught `InputError` end the process with its one line and exit code 1, without a traceback; and so a
    file that may not be opened, and what nerfstudio's commands refuse to do with a run of this suite.

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
        elif isinstance(error, PermissionError) and isinstance(error.filename, str):
            print(f"Error: {refusal(error, error.filename)}", file=sys.stderr)
        elif kind.__name__ == "ProcessRaisedException" and in_worker is not None:
            print(f"Error: {in_worker[1]}", file=sys.stderr)
        elif (words := _refusal_of_our_run(error, trace)) is not None:
            print(f"Error: {words}", file=sys.stderr)
        else:
            previous(kind, error, trace)

    hook.reports_input_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def _refusal_of_our_run(error: BaseException, trace: TracebackType | None) -> str | None:
    """What one of nerfstudio's commands says, on one line, when an assertion of its own refuses a run of this suite."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if not isinstance(error, AssertionError) or trace is None:
        return None
    script = "nerfstudio/scripts/" in Path(trace.tb_frame.f_code.co_filename).as_posix()
    if not script or not _holds_a_run_of_ours(trace.tb_frame):
        return None
    text = (
        " ".join(str(error).split()) or "nerfstudio's command takes runs of other methods only. See docs/commands.md."
    )
    return f"{text} Use ns-mesh, which also takes densities." if "SDF field" in text else text


def _holds_a_run_of_ours(frame: FrameType) -> bool:
    """Whether a config of this suite, or what was made from one, is among a function's variables."""
    found = [each for value in frame.f_locals.values() for each in (value, getattr(value, "config", None))]
    return any(isinstance(each, SuiteConfig) for each in found)
