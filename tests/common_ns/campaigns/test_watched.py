"""What is seen of a training from outside, and how its end is read."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.engine.trainer import Trainer

from common_ns.campaigns import watched
from common_ns.campaigns.watched import Watch, core_seconds, read_progress, watch_trainings
from common_ns.campaigns.work import _text, end_of, steps_within
from common_ns.errors import InputError


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


class FewSteps(Trainer):
    """nerfstudio's loop as far as the watch sees it, without a model."""

    def __init__(self, total: int, start: int = 0) -> None:
        machine = SimpleNamespace(machine_rank=0)
        self.config = SimpleNamespace(max_num_iterations=total, machine=machine)  # type: ignore[assignment]
        self._start_step, self.local_rank, self.stop_training = start, 0, False
        self.done: list[int] = []

    def train_iteration(self, step: int) -> Any:
        burn(0.01)
        self.done.append(step)
        return torch.tensor(1.0 / (step + 1)), {}, {}

    def eval_iteration(self, step: int) -> None:
        burn(0.05)

    def save_checkpoint(self, step: int) -> None:
        burn(0.05)


def loop(trainer: Any) -> None:
    """What nerfstudio 1.1.5 does: `max_num_iterations` steps from the first."""
    for step in range(trainer._start_step, trainer._start_step + trainer.config.max_num_iterations):
        if trainer.stop_training:
            break
        trainer.train_iteration(step)
        trainer.eval_iteration(step)
    trainer.save_checkpoint(step)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Trainer, "train", loop)
    return tmp_path / "progress.jsonl"


def test_steps_are_timed_without_evaluation_and_checkpoints(file: Path):
    watch_trainings(file)
    begin = time.monotonic()
    FewSteps(20).train()
    *others, last = read_progress(file)
    assert len(others) <= time.monotonic() - begin + 1  # about once a second
    assert (last["step"], last["total"], last["end"]) == (19, 20, True) and last["loss"] == pytest.approx(0.05)
    assert 0.19 <= last["core_seconds"] < 0.5  # 20 × 0.01 s of steps; evaluations took 1 s
    assert last["peak_memory_mb"] > 10


def test_a_resumed_training_goes_on_to_the_same_step_and_continues_the_file(file: Path):
    lines = [{"step": step, "core_seconds": 1.0 * step, "seconds": 2.0 * step, "loss": 1.0} for step in (3, 7, 11)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 12, "cut')
    watch_trainings(file)
    trainer = FewSteps(20, start=10)
    trainer.train()
    assert trainer.done == list(range(10, 20))
    found = read_progress(file)
    steps = [line["step"] for line in found if "end" not in line]
    assert steps[:2] == [3, 7] and steps == sorted(set(steps)) and found[-1]["end"] and found[-1]["step"] == 19
    assert 7.09 <= found[-1]["core_seconds"] < 8.0 and 14.0 < found[-1]["seconds"] < 20.0


def test_a_training_that_had_ended_is_left_as_it_is(file: Path):
    watch_trainings(file)
    trainer = FewSteps(20, start=20)
    trainer.train()
    (last,) = read_progress(file)  # killed between its last checkpoint and its end, it has ended now
    assert trainer.done == [] and last["end"] and last["step"] == 19 and "loss" not in last


def test_calibration_ends_the_training_and_finds_the_time_of_a_step(file: Path):
    watch_trainings(file, calibration=0.3)
    trainer = FewSteps(10_000)
    trainer.pipeline = SimpleNamespace(model=SimpleNamespace(start_core_seconds=100.0))  # type: ignore[assignment]
    trainer.train()
    last = read_progress(file)[-1]
    assert 25 <= len(trainer.done) < 60 and 0.009 < last["core_seconds_per_step"] < 0.02
    # What a model does once, before its first step, is told apart.
    assert last["core_seconds_start"] == 100.0
    assert steps_within(300.0, last) == round(200.0 / last["core_seconds_per_step"])
    assert steps_within(100.01, last) == 1 and steps_within(10.0, {"core_seconds_per_step": 0.5}) == 20
    with pytest.raises(InputError, match="50 core-seconds is spent before the first step, for which 100 are"):
        steps_within(50.0, last)


def test_losses_that_are_no_numbers_can_be_read_again(file: Path):
    watch = Watch(file, 0, 2)
    watch.step(0, torch.tensor(math.nan))
    watch.end()
    assert json.loads(file.read_text())["loss"] == "nan"


def test_time_of_other_processes_counts():
    before = core_seconds()
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ntime.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    running = core_seconds() - before
    child.kill()
    child.wait()
    assert core_seconds() - before >= 0.25 and (running >= 0.25 or sys.platform != "linux")


def test_a_program_ends_with_the_process_that_started_it(tmp_path: Path):
    program = tmp_path / "program"
    program.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n")
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-m', '{watched.__name__}', r'{program}'])"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline and (state := _state(child)) not in ("", "Z"):
        time.sleep(0.05)
    assert state in ("", "Z")


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


ENDS = {
    "all is well": (0, "done", ""),
    "Error: the disk is full (No space left on device)": (1, "disk_full", "Error: the disk is full"),
    "RuntimeError: [enforce fail] . CUDA out of memory. Tried to allocate 2 GiB": (1, "out_of_memory", "GPU: "),
    "Error: training ends at step 7: 10 in a row had to be left out, the last because": (1, "not_finite", "Error: tra"),
    "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes": (1, "out_of_memory", "DefaultCPU"),
    "Error: no such file\n\x1b[2mTrainer\x1b[0m ended": (1, "failed", "Error: no such file"),
    "\x1b[31mKeyError: 'x'\x1b[0m": (1, "failed", "KeyError: 'x'"),
    "": (-signal.SIGSEGV, "killed", "SIGSEGV"),
    "╭─ Required ─╮\n│ x │\n╰──╯\n╭─ Parsing error ──╮\n│ Unknown option: --y │\n╰─────────╯": (
        2,
        "failed",
        "Parsing error Unknown option: --y",
    ),
    # Chunks were halved long ago, and something else has ended it.
    "CUDA out of memory" + "\nstep" * 50 + "\nKeyError": (1, "failed", "KeyError"),
}


@pytest.mark.parametrize("text", ENDS)
def test_ends_are_told_apart(text: str):
    code, end, detail = ENDS[text]
    found = end_of(code, text, False, True)
    assert found[0] == end and found[1].startswith(detail)


def test_ends_that_the_text_does_not_tell():
    assert end_of(-signal.SIGKILL, "", True, True)[0] == "out_of_memory"
    assert end_of(-signal.SIGKILL, "", False, True)[0] == "killed"
    assert end_of(0, "KeyboardInterrupt", False, False) == ("failed", "it has ended before its last step")


@pytest.mark.skipif(sys.platform != "linux", reason="by /proc")
def test_files_of_the_system_are_read_although_they_are_said_to_be_empty():
    assert _text(Path("/proc/self/status")).startswith("Name:")
    assert _text(Path("/proc/self/status"), 1 << 30) == ""
