"""Switches depth supervision off where the images speak against the depth.

Training itself does not show it in time. A field of few views explains their colors with wrong depth nearly as well as
with right depth: in pauses of supervision, the color error of training rays falls in both cases, on an RGB-D room by
10 to 40 % with right depth and by 5 to 20 % with depth times 1.3. The images know better (`depthnerf_ns.photo_check`),
and before the first step.
"""

from __future__ import annotations

import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor, nn

from depthnerf_ns.photo_check import photo_support

UNDECIDED = -1.0


class DepthGuard(nn.Module):
    """Factor on the weight of depth supervision: 1, or 0 where images contradict the depth.

    What it decides is saved with the model, so that a resumed run goes on in the same way.
    """

    factor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(UNDECIDED, dtype=torch.float64))

    @property
    def decided(self) -> bool:
        """Whether the images have been asked."""
        return float(self.factor) != UNDECIDED

    @property
    def multiplier(self) -> float:
        """Factor on the weight; 1 before it is decided."""
        return float(self.factor) if self.decided else 1.0

    def decide(self, outputs: DataparserOutputs) -> str | None:
        """Ask the images of the training views about their depth.

        Returns: what to tell the user, if supervision is switched off.
        """
        support = photo_support(outputs)
        self.factor.fill_(0.0 if support.contradicts else 1.0)
        if not support.contradicts:
            return None
        return f"{support.words} Supervision by depth is switched off. ns-depth-check tells what is wrong with a depth."
