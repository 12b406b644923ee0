"""Gaussians of a run that trained Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor

from common_ns.splat_baking.gaussians import Gaussians
from common_ns.splat_baking.photographs import Photograph
from common_ns.splats.harmonics import count
from common_ns.splats.sampling import sampling_intervals


def has_gaussians(model: Any) -> bool:
    """Whether a model is of Gaussians."""
    return isinstance(model, SplatfactoModel)


def drawn_classically(model: Any) -> bool:
    """Whether a model trained Gaussians for viewers that draw small ones at full opacity."""
    return has_gaussians(model) and model.config.rasterize_mode == "classic"


@torch.no_grad()
def trained_gaussians(model: Any, degree: int | None) -> Gaussians:
    """A model's Gaussians, as new views show them.

    Args:
        model: see `has_gaussians`.
        degree: up to which colors keep their harmonics, 0 to 3; None, or more than there are: all.
    """
    coefficients = torch.cat([model.shs_0[:, None], model.shs_rest], dim=1)
    return Gaussians(
        means=model.means.detach().cpu(),
        quats=torch.nn.functional.normalize(model.quats.detach(), dim=-1).cpu(),
        scales=model.scales.detach().exp().cpu(),
        opacities=model.opacities.detach().sigmoid()[:, 0].cpu(),
        coefficients=coefficients[:, : None if degree is None else count(degree)].detach().cpu(),
    )


def pixel_sides(gaussians: Gaussians, photographs: Sequence[Photograph]) -> Float[Tensor, "n"]:
    """Side of the smallest pixel that each Gaussian is seen in, in scene units."""
    matrices = torch.stack([photograph.K for photograph in photographs])
    return sampling_intervals(
        gaussians.means.cpu(),
        torch.stack([photograph.viewmat for photograph in photographs]),
        torch.stack([matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 0, 2], matrices[:, 1, 2]], dim=1),
        torch.tensor([photograph.size for photograph in photographs], dtype=torch.float32),
    )
