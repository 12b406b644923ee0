"""Runs a command of a campaign in this process, and follows a training from outside.

    python -m common_ns.campaigns.watched PROGRAM ARGS…

PROGRAM is the name of a console script, the path of a Python script, or `-m` and a module. The environment says where
to (`FIELDSUITE_PROGRESS`): about once a second and after the last step, a training appends a line with step,
core_seconds, seconds, loss and total, the last with end as well. A resumed training continues the file at its step.

It ends when the process that started it has gone, so that nobody writes into a run that another may have taken up.
"""

from __future__ import annotations

import json
import math
import os
import runpy
import signal
import sys
import threading
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

PROGRESS = "FIELDSUITE_PROGRESS"
"""Environment variable: the file that lines are appended to."""
CALIBRATION = "FIELDSUITE_CALIBRATION"
"""Environment variable: training ends when so many core-seconds were spent after the first steps, and the last line has
core_seconds_per_step, and core_seconds_start: those that a model says it spent once, before its first step
(`start_core_seconds`)."""
FIRST_STEPS = 10
"""Steps that are not timed: compilers and caches work in them."""


def core_seconds() -> float:
    """CPU time of this process and of those it has started, ended ones included; of running ones on Linux only."""
    times = os.times()  # counts in hundredths of a second
    own = time.process_time() + times.children_user + times.children_system
    return own + sum(_core_seconds_of(process) for process in _descendants(os.getpid()))


def _descendants(process: int) -> list[int]:
    found: list[int] = []
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(word) for word in file.read_text().split()]
        except OSError:  # it has ended
            continue
        found += children + [each for child in children for each in _descendants(child)]
    return found


def _core_seconds_of(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def read_progress(file: Path) -> list[dict[str, Any]]:
    """Lines of a progress file; one that is being written, or was cut off, is left out."""
    lines = []
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in lines if isinstance(line, dict) and "step" in line]


class Watch:
    """Writes a training's progress.

    Args:
        file: where to.
        start: the first step of this process.
        total: steps of the whole run.
        calibration: core-seconds after which the training is to end; None: it is not cut short.
    """

    def __init__(self, file: Path, start: int, total: int, calibration: float | None = None) -> None:
        self.file, self.total, self.calibration = file, total, calibration
        kept = [line for line in read_progress(file) if line["step"] < start]
        file.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        last = kept[-1] if kept else {}
        self._spent, self._lasted = last.get("core_seconds", 0.0), last.get("seconds", 0.0)
        self._core, self._time = core_seconds(), time.monotonic()
        self._written = self._time
        self._line: dict[str, Any] = {"step": start - 1, **({"loss": last["loss"]} if "loss" in last else {})}
        self._steps: list[float] = []

    def step(self, step: int, loss: Any) -> bool:
        """Take in a step that is done. Returns: whether the training is to end."""
        self._line = {"step": step, "loss": loss}
        if time.monotonic() - self._written >= 1.0:
            self.write()
        if self.calibration is None:
            return False
        self._steps.append(core_seconds() - self._core)
        return len(self._steps) > 2 * FIRST_STEPS and self._steps[-1] - self._steps[FIRST_STEPS] >= self.calibration

    def leave_out(self, core: float, seconds: float) -> None:
        """Do not count time that went into something else than steps."""
        self._core, self._time = self._core + core, self._time + seconds

    def write(self, **more: Any) -> None:
        """Append a line."""
        self._written = time.monotonic()
        spent = self._spent + core_seconds() - self._core
        lasted = self._lasted + self._written - self._time
        line = {"step": self._line["step"], "core_seconds": round(spent, 3), "seconds": round(lasted, 3)}
        if "loss" in self._line:
            loss = float(self._line["loss"])
            line["loss"] = loss if math.isfinite(loss) else str(loss)
        line |= {"total": self.total, **more}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def end(self, start: float = 0.0) -> None:
        """The training has come to its end.

        Args:
            start: core-seconds that went into what was done once, within the first step.
        """
        more: dict[str, Any] = {"end": True, "peak_memory_mb": peak_memory()}
        if self.calibration is not None and len(self._steps) > 2 * FIRST_STEPS:
            # Over the later half: memory has been allocated and what is compiled is compiled.
            middle = len(self._steps) // 2
            more["core_seconds_start"] = start
            more["core_seconds_per_step"] = (self._steps[-1] - self._steps[middle]) / (len(self._steps) - 1 - middle)
        self.write(**more)


def peak_memory() -> float:
    """Most memory that this process has had, in MB (10⁶ bytes): of the GPU where it was used, else of the machine."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6, 1)


def watch_trainings(file: Path, calibration: float | None = None) -> None:
    """Let every training of this process write its progress, and end after its steps in all, resumed or not.

    Args: those of `Watch`.
    """
    from nerfstudio.engine.trainer import Trainer

    from common_ns.nerfstudio_seam.versions import steps_of_a_resume

    original = Trainer.train

    def train(trainer: Any) -> None:
        total, start = trainer.config.max_num_iterations, trainer._start_step
        writes = trainer.local_rank == 0 and trainer.config.machine.machine_rank == 0
        if start >= total:  # nerfstudio's would save a checkpoint of step 0 in place of the last
            if writes:
                Watch(file, start, total).end()
            return
        if not writes:
            trainer.config.max_num_iterations = steps_of_a_resume(total, start)
            original(trainer)
            return
        watch = Watch(file, start, total, calibration)
        trainer.config.max_num_iterations = steps_of_a_resume(total, start)
        take_step = trainer.train_iteration

        def train_iteration(step: int) -> Any:
            result = take_step(step)
            if watch.step(step, result[0].detach()):
                trainer.stop_training = True
            return result

        def not_counted(work: Any) -> Any:
            def do(*args: Any) -> Any:
                core, begin = core_seconds(), time.monotonic()
                try:
                    return work(*args)
                finally:
                    watch.leave_out(core_seconds() - core, time.monotonic() - begin)

            return do

        trainer.train_iteration = train_iteration
        for name in ("eval_iteration", "save_checkpoint"):
            setattr(trainer, name, not_counted(getattr(trainer, name)))
        original(trainer)
        watch.end(getattr(getattr(getattr(trainer, "pipeline", None), "model", None), "start_core_seconds", 0.0))

    Trainer.train = train  # pyright: ignore[reportAttributeAccessIssue]


def _watch_if_asked() -> None:
    if PROGRESS in os.environ:
        calibration = os.environ.get(CALIBRATION)
        watch_trainings(Path(os.environ[PROGRESS]), None if calibration is None else float(calibration))


def end_with_parent() -> None:
    """End this process when the one that has started it is gone, however it went: at once on Linux, else soon."""
    parent = os.getppid()
    if sys.platform == "linux":
        import ctypes

        set_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


def main() -> None:
    """Run what the command line says."""
    end_with_parent()
    program, *words = sys.argv[1:]
    if program == "-m":
        sys.argv = words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif os.sep in program:
        sys.argv = [program, *words]
        runpy.run_path(program, run_name="__main__")
    else:
        sys.argv = [program, *words]
        entry = next(iter(entry_points(group="console_scripts", name=program)))
        if program == "ns-train":
            _watch_if_asked()
        sys.exit(entry.load()())


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__" and sys.argv[0] == "ns-train":  # the process of one of several devices
    _watch_if_asked()
