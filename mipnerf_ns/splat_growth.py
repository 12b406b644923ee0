"""When Gaussians are added and removed: gsplat's strategy for a bounded number of them, and what no picture needs.

Source: 3D Gaussian Splatting (arXiv 2308.04079), section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gsplat.strategy import DefaultStrategy
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass
class BoundedStrategy(DefaultStrategy):
    """gsplat's `DefaultStrategy` that adds no more Gaussians than there is room for, those first whose places in
    pictures have the largest gradients."""

    most: int | None = None
    """Largest number of Gaussians; None: no bound."""

    def step_post_backward(
        self, params: Any, optimizers: Any, state: dict[str, Any], step: int, info: dict[str, Any], packed: bool = False
    ) -> None:
        """As gsplat's, except that the first step resets no opacities."""
        if step == 0:
            self._update_state(params, state, info, packed=packed)
        else:
            super().step_post_backward(params, optimizers, state, step, info, packed)

    def _grow_gs(self, params: Any, optimizers: Any, state: dict[str, Any], step: int) -> tuple[int, int]:
        if self.most is None:
            return super()._grow_gs(params, optimizers, state, step)
        gradients = state["grad2d"] / state["count"].clamp_min(1)
        room = max(self.most - len(gradients), 0)
        if room == 0:
            return 0, 0
        asked, threshold = int((gradients > self.grow_grad2d).sum()), self.grow_grad2d
        if asked > room:
            # The largest that is left out: gradients have to exceed it.
            self.grow_grad2d = float(gradients.kthvalue(len(gradients) - room).values)
        try:
            return super()._grow_gs(params, optimizers, state, step)
        finally:
            self.grow_grad2d = threshold


def faulty(params: Any, origins: Float[Tensor, "c 3"], farthest: float) -> tuple[Bool[Tensor, "n"], Bool[Tensor, "n"]]:
    """Gaussians that are broken.

    Args:
        params: means, scales (logarithms), quats, opacities (logits), features_dc, features_rest.
        origins: of the cameras.
        farthest: largest distance of a mean from the cameras' mean place, in scene units.
    Returns: those with a number that is not finite; and those that have exploded, that is, are farther away, or so
        large that a standard deviation reaches the nearest camera and they cover most of its picture.
    """
    with torch.no_grad():
        finite = torch.stack([torch.isfinite(value).flatten(1).all(dim=1) for value in params.values()]).all(dim=0)
        means, largest = params["means"], params["scales"].amax(dim=-1).exp()
        parts = means.split(max(1, 2**22 // len(origins)))
        nearest = torch.cat([torch.cdist(part, origins).amin(dim=1) for part in parts])
        away = (means - origins.mean(dim=0)).norm(dim=-1) > farthest
        return ~finite, finite & (away | (largest > nearest))
