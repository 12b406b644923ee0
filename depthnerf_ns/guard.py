"""Watches whether depth supervision works against the colours, by experiment, and lowers its weight if it does.

Colours alone cannot tell in general whether a depth is right, but wrong depth shows: surfaces that it holds in the
wrong place cannot explain several images at once. So supervision pauses now and then for a few steps. If the colour
error of rays with depth then falls by much more than it was falling before, depth was in the way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

WINDOW_SHARE = 0.01
"""Length of a window, as a share of the schedule. A test takes four: two before the pause, whose difference is the
trend; the pause's first, in which the field moves; its second, which is compared."""
MIN_WINDOW = 10
"""Steps of a window at least: the colour error of a batch scatters by some 5 %."""
TESTS = (0.04, 0.1, 0.2, 0.4, 0.7)
"""When tests begin, as shares of the schedule: geometry has to form first. After a test that speaks against depth, the
next one follows at once."""
TOLERANCE = 0.10
"""Fall of the logarithm of the colour error in a pause, beyond the trend, that speaks against depth."""
CONSISTENT = 2
"""Tests in a row that must speak against depth before its weight is lowered."""
REDUCTION = 0.1
"""Factor on the weight when it is lowered."""
SMALLEST = 0.005
"""A factor below this becomes 0."""
NEVER, FINISHED = 2**62, 2**61
"""Step of the next test before the schedule is known, and after the last one."""


class DepthGuard(nn.Module):
    """Factor on the weight of depth supervision, from the colour errors of training steps.

    What it has seen is saved with the model, so that a resumed run decides as an uninterrupted one. Before it is told
    the schedule (`set_schedule`), it makes no tests.
    """

    sums: Tensor
    counts: Tensor
    factor: Tensor
    against: Tensor
    start: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.window = MIN_WINDOW
        self.starts: list[int] = []
        self.register_buffer("sums", torch.zeros(4, dtype=torch.float64))  # of log errors, by window of the test
        self.register_buffer("counts", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("factor", torch.ones((), dtype=torch.float64))
        self.register_buffer("against", torch.zeros((), dtype=torch.long))  # tests in a row that spoke against depth
        self.register_buffer("start", torch.tensor(NEVER))  # first step of the test

    def set_schedule(self, steps: int) -> None:
        """Tell the length of the training, which windows and tests are shares of."""
        self.window = max(MIN_WINDOW, round(WINDOW_SHARE * steps))
        self.starts = [round(share * steps) for share in TESTS]
        if int(self.start) == NEVER:  # otherwise a checkpoint says where it was
            self.start.fill_(self.starts[0])

    def multiplier(self, step: int) -> float:
        """Factor on the weight of depth supervision at a step; 0 in pauses."""
        paused = 2 * self.window <= step - int(self.start) < 4 * self.window
        return 0.0 if paused else float(self.factor)

    def observe(self, step: int, error: float) -> str | None:
        """Take note of a step.

        Args:
            step: absolute step that was made.
            error: mean squared colour error of its rays with depth.
        Returns: what to tell the user, if the weight was lowered.
        """
        window = (step - int(self.start)) // self.window
        if not 0 <= window < 4 or float(self.factor) == 0.0:
            return None
        if 0.0 < error < math.inf:
            self.sums[window] += math.log(error)
            self.counts[window] += 1
        if step != int(self.start) + 4 * self.window - 1:
            return None
        earlier, before, _, paused = (self.sums / self.counts).tolist()
        self.sums.zero_()
        self.counts.zero_()
        # From `before` to `paused` it is twice as far as from `earlier` to `before`.
        fall = (before - paused) - 2.0 * max(0.0, earlier - before)
        if not fall > TOLERANCE:
            self.against.zero_()
            later = [start for start in self.starts if start > step]
            self.start.fill_(later[0] if later else FINISHED)
            return None
        self.against += 1
        self.start.fill_(step + 1)
        if int(self.against) < CONSISTENT:
            return None
        factor = REDUCTION * float(self.factor)
        self.factor.fill_(factor if factor >= SMALLEST else 0.0)
        fell = 100.0 * (1.0 - math.exp(-fall))
        return (
            f"Depth works against the colours: without it their error fell by {fell:.0f} % within {2 * self.window} "
            f"steps. Its weight is now {float(self.factor):g} of what it was at first."
        )
