"""Depth in colors, so that what is near can be told apart whatever lies behind it.

A table-top scene with its surroundings reaches from 1 to a million scene units: spread evenly over the colors, the
table has a single one. Only pictures change here; depth itself stays in scene units.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.utils import colormaps
from torch import Tensor

DepthColors = Literal["linear", "log", "percentile"]
"""How distance becomes color; see `depth_levels`."""

PERCENTILES = (0.02, 0.98)
"""Shares of the opaque pixels that are nearer than the first color, and than the last."""

FARTHEST = 10.0
"""The last color stands for at most so many times the distance of the nearest quarter of the opaque pixels: a sky at
the far plane would else leave the scene before it one color, with logarithms too."""


def depth_levels(
    depth: Float[Tensor, "*n 1"],
    accumulation: Float[Tensor, "*n 1"] | None = None,
    colors: DepthColors = "log",
    planes: tuple[float, float] | None = None,
) -> Float[Tensor, "*n 1"]:
    """Depth as positions in a color map, 0 for near and 1 for far.

    Args:
        depth: distances in any unit.
        accumulation: opacity; pixels below ½ do not count for where colors begin and end. None: all count.
        colors: `percentile` begins and ends at `PERCENTILES` of the opaque pixels, and not beyond `FARTHEST`; `log` is
            even in the distance's logarithm between the same ends; `linear` goes from the first to the second of the
            planes, or without, from the nearest to the farthest pixel.
        planes: near and far plane, for `linear`.
    """
    finite = torch.isfinite(depth)
    if not bool(finite.any()):
        return torch.zeros_like(depth)
    if colors == "linear":
        near, far = planes if planes is not None else (float(depth[finite].min()), float(depth[finite].max()))
    else:
        opaque = finite if accumulation is None else finite & (accumulation > 0.5)
        near, far = _ends(depth[opaque if bool(opaque.any()) else finite])
    depth = torch.nan_to_num(depth, nan=near, posinf=far, neginf=near).clamp(near, far)
    if colors == "log":
        # Where nothing is in front of the camera, there is no logarithm to take.
        near, far, depth = max(near, 1e-9), max(far, 1e-9), depth.clamp_min(1e-9)
        return ((depth / near).log() / max(math.log(far / near), 1e-9)).clamp(0.0, 1.0)
    return ((depth - near) / max(far - near, 1e-10)).clamp(0.0, 1.0)


def depth_picture(
    depth: Float[Tensor, "*n 1"],
    accumulation: Float[Tensor, "*n 1"],
    colors: DepthColors = "log",
    planes: tuple[float, float] | None = None,
) -> Float[Tensor, "*n 3"]:
    """`depth_levels` in colors; what is transparent fades to white. Pictures may have no pixel. Arguments as there."""
    if depth.numel() == 0:  # nerfstudio looks for the least and the largest level
        return depth.new_zeros(*depth.shape[:-1], 3)
    levels = depth_levels(depth, accumulation, colors, planes)
    return colormaps.apply_depth_colormap(levels, accumulation=accumulation, near_plane=0.0, far_plane=1.0)


def _ends(depth: Float[Tensor, " n"]) -> tuple[float, float]:
    """Depth of the first and of the last color."""

    def at(share: float) -> float:
        # torch.quantile refuses pictures of more than 16 million pixels.
        return float(depth.kthvalue(1 + round(share * (depth.numel() - 1))).values)

    near, far = (at(share) for share in PERCENTILES)
    return near, max(near, min(far, FARTHEST * at(0.25)))
