"""Gaussians that stand for the cones and cylinders that pixels cast into the scene.

A pixel sees a cone, not a line. An interval of it is a conical frustum, whose mean and covariance have closed forms
(mip-NeRF, section 3.1 and appendix A). Covariances are kept as their diagonals: the axis-aligned integrated encoding
needs no more.

In place of `Frustums.get_gaussian_blob` of nerfstudio, whose cones are narrower than the paper's, and which gives NaN
for intervals that start and end at 0.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

PIXEL_TO_RADIUS = 2.0 / math.sqrt(12.0)
"""Radius of a disc with the variance of a unit square, over the square's side (mip-NeRF, section 3.1)."""

MAX_RADIUS = 0.1
"""Largest cone radius at distance 1; a pixel of a 90° view of 20 pixels has 0.06. Rays whose area is a placeholder
(the exporters' probe and texture baking use 1) are rendered with this cone instead of a fog-wide one."""

# Below this many pixels' worth of distance, squares of t underflow; frustums at the camera have no extent anyway.
_TINY = 1e-10


def pixel_radius(pixel_area: Float[Tensor, "*r 1"], max_radius: float = math.inf) -> Float[Tensor, "*r 1"]:
    """Radius of a pixel's cone at ray distance 1.

    Args:
        pixel_area: area of the pixel at distance 1, as nerfstudio's cameras give it.
        max_radius: limit for rays whose area is not a pixel's: the exporters probe with area 1.
    """
    return (pixel_area.clamp_min(0.0).sqrt() * PIXEL_TO_RADIUS).clamp_max(max_radius)


def frustum_moments(
    t0: Float[Tensor, "*n 1"], t1: Float[Tensor, "*n 1"], radius: Float[Tensor, "*n 1"]
) -> tuple[Float[Tensor, "*n 1"], Float[Tensor, "*n 1"], Float[Tensor, "*n 1"]]:
    """Mean and variances of a uniform conical frustum, along and across its axis.

    Args:
        t0, t1: ray distances of the frustum's ends.
        radius: cone radius at distance 1.
    Returns: mean distance along the axis, variance along the axis, variance along one direction across it.
    Source: mip-NeRF, equation 7, in the form that stays accurate when the interval is short against its distance.
    """
    center, half = (t0 + t1) / 2, (t1 - t0) / 2
    center2, half2 = center * center, half * half
    denominator = (3 * center2 + half2).clamp_min(_TINY)
    t_mean = center + (2 * center * half2) / denominator
    t_var = half2 / 3 - (4 / 15) * (half2 * half2 * (12 * center2 - half2)) / (denominator * denominator)
    r_var = radius * radius * (center2 / 4 + (5 / 12) * half2 - (4 / 15) * (half2 * half2) / denominator)
    return t_mean, t_var.clamp_min(0.0), r_var.clamp_min(0.0)


def cylinder_moments(
    t0: Float[Tensor, "*n 1"], t1: Float[Tensor, "*n 1"], radius: Float[Tensor, "*n 1"]
) -> tuple[Float[Tensor, "*n 1"], Float[Tensor, "*n 1"], Float[Tensor, "*n 1"]]:
    """Mean and variances of a uniform cylinder, along and across its axis.

    Args and returns as `frustum_moments`, with `radius` the same at every distance.
    Source: mip-NeRF, supplement (orthographic cameras).
    """
    t_mean = (t0 + t1) / 2
    half = (t1 - t0) / 2
    return t_mean, half * half / 3, (radius * radius / 4).expand_as(t_mean)


def lift(
    origins: Float[Tensor, "*n 3"],
    directions: Float[Tensor, "*n 3"],
    t_mean: Float[Tensor, "*n 1"],
    t_var: Float[Tensor, "*n 1"],
    r_var: Float[Tensor, "*n 1"],
) -> tuple[Float[Tensor, "*n 3"], Float[Tensor, "*n 3"]]:
    """Bring moments along a ray into the scene.

    Args:
        origins, directions: of the rays; t is measured in units of |direction|.
        t_mean, t_var, r_var: moments along and across the axis.
    Returns: mean [*n, 3] and diagonal of the covariance [*n, 3].
    Source: mip-NeRF, equations 8 and 16.
    """
    d2 = directions * directions
    across = 1.0 - d2 / d2.sum(-1, keepdim=True).clamp_min(_TINY)
    mean = torch.addcmul(origins, directions, t_mean)
    return mean, t_var * d2 + r_var * across
