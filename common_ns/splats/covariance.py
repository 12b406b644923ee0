"""Rotations and covariances of Gaussians.

Source: 3D Gaussian Splatting (arXiv 2308.04079), section 4: Σ = R S Sᵀ Rᵀ.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def rotations(quats: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 3 3"]:
    """Rotation matrices, whose columns are the Gaussians' axes in the world.

    Args:
        quats: quaternions w, x, y, z; of any length but zero.
    """
    w, x, y, z = normalize(quats, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def square_roots(quats: Float[Tensor, "*n 4"], scales: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 3"]:
    """M = R S, which has M Mᵀ = Σ.

    Args:
        quats: quaternions w, x, y, z.
        scales: standard deviations along the axes, in scene units.
    """
    return rotations(quats) * scales[..., None, :]


def covariances(quats: Float[Tensor, "*n 4"], scales: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 3"]:
    """Covariance matrices in the world, in squared scene units. Args: see `square_roots`."""
    root = square_roots(quats, scales)
    return root @ root.mT


def shortest_axes(quats: Float[Tensor, "*n 4"], scales: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Unit vectors along which the Gaussians are thinnest, which are the normals of flat ones; of either sign.

    Among equal scales the first counts. Derivatives are those of the axis, not of the choice.
    """
    axis = scales.detach().argmin(-1)[..., None, None].expand(*scales.shape[:-1], 3, 1)
    return rotations(quats).gather(-1, axis)[..., 0]
