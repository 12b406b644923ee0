"""Sizes and orientations of Gaussians that stand for points of surfaces."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from common_ns.splat_baking.gaussians import facing

NEIGHBORS = 3
"""Points whose mean distance is a point's spacing, as in 3D Gaussian Splatting's initialization."""
SPACING = 0.5
"""Standard deviations as a fraction of the spacing: neighbors overlap without gaps."""
LEAST_PIXELS, MOST_PIXELS = 0.5, 2.0
"""Bounds of standard deviations in pixels of the photograph that the point was seen in; the upper one where each point
stands for 16 pixels or fewer, else it grows as the square root of their number. Points that hang before the surfaces
are far from others, and would veil these."""
THINNESS = 0.1
"""Standard deviation along a known normal, as a fraction of those across it."""
SURE = 0.5
"""Length of a rendered normal above which it counts: it is short where samples of a ray disagree."""


def spacings(points: Float[NDArray, "n 3"], neighbors: int = NEIGHBORS) -> Float[NDArray, "n"]:
    """Mean distance of each point to its nearest others, in scene units; infinite for a single point."""
    from scipy.spatial import cKDTree

    neighbors = min(neighbors, len(points) - 1)
    if neighbors < 1:
        return np.full(len(points), np.inf)
    distances, _ = cKDTree(points).query(points, k=neighbors + 1)
    # The nearest is the point itself, or another one in the same place.
    return distances[:, 1:].mean(axis=1)


def standard_deviations(
    spacing: Float[Tensor, "n"], footprint: Float[Tensor, "n"], pixels: float
) -> Float[Tensor, "n"]:
    """Of Gaussians that cover a surface given by points, in scene units.

    Args:
        spacing: of the points.
        footprint: side of a pixel at the point, in scene units.
        pixels: of all photographs, for each point.
    """
    most = MOST_PIXELS * max(1.0, (pixels / 16.0) ** 0.5)
    return (SPACING * spacing).maximum(LEAST_PIXELS * footprint).minimum(most * footprint)


def shapes(
    deviations: Float[Tensor, "n"], normals: Float[Tensor, "n 3"] | None
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 4"], Bool[Tensor, "n"]]:
    """Scales and quaternions: discs where normals are known, else balls.

    Args:
        deviations: standard deviations within the surface, in scene units.
        normals: of length 0 to 1 by how sure they are; None: not known.
    Returns: standard deviations along the axes, quaternions w, x, y, z, and which are discs.
    """
    scales = deviations[:, None].repeat(1, 3)
    quats = scales.new_zeros(len(scales), 4)
    quats[:, 0] = 1.0
    flat = torch.zeros(len(scales), dtype=torch.bool, device=scales.device)
    if normals is not None:
        flat = normals.norm(dim=-1) > SURE
        scales[flat, 2] *= THINNESS
        quats[flat] = facing(torch.nn.functional.normalize(normals[flat], dim=-1))
    return scales, quats, flat
