"""nerfstudio's Adam with the settings that grids need."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig

from common_ns.nerfstudio_seam.renames import SuiteConfig


@dataclass
class FusedAdamConfig(SuiteConfig, AdamOptimizerConfig):
    """Adam in one pass over the parameters."""

    eps: float = 1e-15
    """Added to the root of the second moment. Rows of grids have tiny gradients."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the moments. Short runs need a short memory."""

    def setup(self, params) -> torch.optim.Optimizer:
        """Build the optimizer. Where torch has no fused Adam for the parameters' device, its default is taken."""
        kwargs = {name: value for name, value in vars(self).items() if name not in ("_target", "max_norm")}
        try:
            return self._target(params, fused=True, **kwargs)
        except RuntimeError:
            return self._target(params, **kwargs)
