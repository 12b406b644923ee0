"""The contraction of Gaussians with full covariance matrices, as the paper has it: what `lift_frustum` is held to."""

from __future__ import annotations

import torch
from torch import Tensor

from common_ns.rays.contraction import contraction_scales


def contract_gaussian(mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of contracted Gaussians, linearized at their means.

    Args:
        mean: means [n, 3] in units of the radius that is left as it is.
        cov: covariances [n, 3, 3].
    Source: mip-NeRF 360, equations 7 and 8.
    """
    along, across, inverse = contraction_scales(mean)
    unit = mean * inverse  # shorter than 1 inside the unit ball, where `along` and `across` are equal
    outer = unit[..., :, None] * unit[..., None, :]
    jacobian = across[..., None] * torch.eye(3, dtype=mean.dtype, device=mean.device)
    jacobian = jacobian + (along - across)[..., None] * outer
    return across * mean, jacobian @ cov @ jacobian
