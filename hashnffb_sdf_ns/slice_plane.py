"""A plane through a distance field, colored by the distance with iso-lines: what training makes of the space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Axis = Literal["x", "y", "z"]

OUTSIDE_COLOR, INSIDE_COLOR = (0.93, 0.58, 0.22), (0.25, 0.45, 0.85)
EMPTY_COLOR = (0.5, 0.5, 0.5)
"""Of rays that miss the plane within the sphere."""
LINE_WIDTH = 0.06
"""Of iso-lines, relative to their spacing."""


def plane_points(
    origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], axis: Axis, height: float
) -> tuple[Float[Tensor, "n 3"], Bool[Tensor, " n"]]:
    """Where rays meet a plane of constant x, y or z, and whether they do, ahead of their origins.

    Args:
        origins, directions: rays.
        axis: which coordinate is constant.
        height: its value, in the rays' unit.
    """
    index = "xyz".index(axis)
    slope = directions[:, index]
    t = (height - origins[:, index]) / torch.where(slope.abs() < 1e-9, 1e-9, slope)
    return origins + directions * t[:, None], (t > 0) & (slope.abs() >= 1e-9)


def distance_colors(sdf: Float[Tensor, " n"], spacing: float) -> Float[Tensor, "n 3"]:
    """Colors of distances: blue inside, orange outside, paler near the surface; dark iso-lines, the surface's white.

    Args:
        sdf: signed distances.
        spacing: distance from one iso-line to the next, in their unit.
    """
    away = (sdf.abs() / (10.0 * spacing)).clamp(0.0, 1.0)[:, None].sqrt()
    inside = (sdf < 0)[:, None]
    full = torch.where(inside, sdf.new_tensor(INSIDE_COLOR), sdf.new_tensor(OUTSIDE_COLOR))
    color = 1.0 - 0.85 * away * (1.0 - full) - 0.15 * (1.0 - full)
    phase = sdf / spacing
    on_line = ((phase - phase.round()).abs() < LINE_WIDTH)[:, None]
    on_surface = (phase.abs() < 2.0 * LINE_WIDTH)[:, None]
    return torch.where(on_surface, 1.0, torch.where(on_line, 0.35 * color, color))


@torch.no_grad()
def slice_picture(
    sdf: Callable[[Float[Tensor, "m 3"]], Float[Tensor, " m"]],
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    axis: Axis,
    height: float,
    radius: float,
) -> Float[Tensor, "n 3"]:
    """What rays see of the plane within the scene's sphere.

    Args:
        sdf: signed distance at points in units of the rays.
        origins, directions: rays, relative to the sphere's center.
        axis: which coordinate is constant on the plane.
        height: its value, relative to the center.
        radius: of the sphere. Iso-lines are a tenth of it apart.
    """
    points, hit = plane_points(origins, directions, axis, height)
    hit = hit & (points.norm(dim=-1) < radius)
    picture = origins.new_tensor(EMPTY_COLOR).expand(len(origins), 3).clone()
    if bool(hit.any()):
        picture[hit] = distance_colors(sdf(points[hit]), 0.1 * radius)
    return picture
