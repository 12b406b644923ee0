"""Learning-rate schedules as functions of the absolute step.

They return Python floats: nerfstudio's own schedulers return numpy scalars, which end up in checkpoints that
`torch.load` of torch ≥ 2.6 refuses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from common_ns.nerfstudio_seam.renames import SuiteConfig


def log_linear_decay(
    step: int,
    lr_init: float,
    lr_final: float,
    max_steps: int,
    warmup_steps: int = 0,
    warmup_multiplier: float = 1.0,
) -> float:
    """Learning rate interpolated log-linearly from `lr_init` to `lr_final`, damped by a sine ramp at the start.

    Args:
        step: absolute training step, from 0.
        lr_init: rate at step 0 without warm-up.
        lr_final: rate at `max_steps` and after.
        max_steps: number of steps over which the rate decays.
        warmup_steps: length of the ramp in steps.
        warmup_multiplier: factor on the rate at step 0, rising to 1 at `warmup_steps`.
    Returns: the learning rate.
    Source: mip-NeRF, section 4 and supplement; the ramp is that of its published code.
    """
    progress = min(max(step / max_steps, 0.0), 1.0)
    rate = math.exp(math.log(lr_init) * (1.0 - progress) + math.log(lr_final) * progress)
    if warmup_steps > 0:
        ramp = math.sin(0.5 * math.pi * min(max(step / warmup_steps, 0.0), 1.0))
        rate *= warmup_multiplier + (1.0 - warmup_multiplier) * ramp
    return rate


@dataclass
class LogLinearSchedulerConfig(SuiteConfig, SchedulerConfig):
    """Log-linear decay with a warm-up ramp, as mip-NeRF and mip-NeRF 360 train."""

    _target: type = field(default_factory=lambda: LogLinearScheduler)
    """target class to instantiate"""
    lr_final: float = 5e-6
    """Learning rate at the last step."""
    max_steps: int = 1000000
    """Steps over which the rate decays from the optimizer's lr to lr_final; set it to the length of the run."""
    warmup_steps: int = 2500
    """Steps of the warm-up ramp."""
    warmup_multiplier: float = 0.01
    """Factor on the learning rate at step 0."""


class LogLinearScheduler(Scheduler):
    """Builds nerfstudio's scheduler object around `log_linear_decay`."""

    config: LogLinearSchedulerConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LRScheduler:
        config = self.config

        def factor(step: int) -> float:
            rate = log_linear_decay(
                step, lr_init, config.lr_final, config.max_steps, config.warmup_steps, config.warmup_multiplier
            )
            return rate / lr_init

        return LambdaLR(optimizer, lr_lambda=factor)
