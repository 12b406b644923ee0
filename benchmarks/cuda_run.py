"""Training on a device whose work is waited for: steps as ns-train takes them, and the time to a given quality."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from torch.cuda.amp.grad_scaler import GradScaler

from benchmarks.mipnerf import Run


def synchronize() -> None:
    """Wait until the device has computed what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def clock() -> float:
    """Seconds of the wall clock, once the device has computed what it was given."""
    synchronize()
    return time.perf_counter()


class ChunkedRun(Run):
    """Steps as ns-train takes them: gradients add up over chunks of rays, and are looked at before they are used."""

    def __init__(self, pipeline: Any, steps: int, optimizers: dict) -> None:
        super().__init__(pipeline, steps, optimizers)
        self.scaler: Any = GradScaler(enabled=False)

    def advance(self, steps: int, seconds: float = math.inf) -> float:
        """Train for so many steps, or until so many seconds have passed; returns the seconds it took."""
        synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            if time.perf_counter() - start > seconds:
                break
            for callback in self.callbacks:
                callback.run_callback_at_location(self.step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
            self.optimizers.zero_grad_all()
            if self.pipeline.backward(self.step, self.scaler).problem is None:
                self.optimizers.optimizer_step_all()
            self.optimizers.scheduler_step_all(self.step)
            for callback in self.callbacks:
                callback.run_callback_at_location(self.step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
            self.step += 1
        synchronize()
        return time.perf_counter() - start

    @torch.no_grad()
    def render(self) -> tuple[float, int]:
        """Render the first held-out view; returns the seconds it took and the number of rays."""
        self.pipeline.eval()
        camera, _ = next(iter(self.pipeline.datamanager.fixed_indices_eval_dataloader))
        synchronize()
        start = time.perf_counter()
        rgb = self.pipeline.model.get_outputs_for_camera(camera)["rgb"]
        synchronize()
        seconds = time.perf_counter() - start
        self.pipeline.train()
        return seconds, rgb.shape[0] * rgb.shape[1]


def train_to(
    run: ChunkedRun, targets: tuple[float, ...], steps: int, test_every: int, minutes: float
) -> tuple[list[dict[str, Any]], dict[float, float | None]]:
    """Train until the held-out views reach the last target; the time of tests does not count as training.

    Args:
        run: at its beginning.
        targets: PSNR in dB, increasing.
        steps: after which it ends.
        test_every: steps between tests.
        minutes: of the wall clock, tests included, after which it ends.
    Returns: a row for each test; for each target, seconds of training until the first test that reached it, or None.
    """
    begin, limit, trained = time.perf_counter(), 60 * minutes, 0.0
    rows: list[dict[str, Any]] = []
    reached: dict[float, float | None] = dict.fromkeys(targets)
    while run.step < steps and time.perf_counter() - begin < limit:
        trained += run.advance(min(test_every, steps - run.step), limit - (time.perf_counter() - begin))
        metrics = run.test_metrics()
        wall = time.perf_counter() - begin
        rows.append({"steps": run.step, "training seconds": trained, "wall-clock seconds": wall, **metrics})
        print(rows[-1], flush=True)
        for target in targets:
            if reached[target] is None and metrics["psnr"] >= target:
                reached[target] = trained
        if reached[targets[-1]] is not None:
            break
    return rows, reached


def outcome(reached: dict[float, float | None]) -> str:
    """What `train_to` reached, in words."""
    return "; ".join(
        f"{target:g} dB not reached" if seconds is None else f"{target:g} dB after {seconds:.0f} s of training"
        for target, seconds in reached.items()
    )
