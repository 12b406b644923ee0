"""Gaussian splatting by plain torch operations, which autograd differentiates; on any device, in any precision.

The definition of what the other implementations compute, and slow: every Gaussian of a tile is computed at each of its
pixels, and autograd keeps all of it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from common_ns.splats.blending import LEAST_TRANSMITTANCE, LEAST_WEIGHT, MOST_ALPHA, Pictures
from common_ns.splats.projection import BOX, COLOR, CONIC, DEPTH, LEAST_ALPHA, NORMAL, OPACITY, Projected, project

__all__ = ["blend", "project"]


def blend(
    projected: Projected, width: int, height: int, background: Float[Tensor, "3"] | None, geometry: bool
) -> Pictures:
    """Blend ellipses from front to back.

    Args:
        projected: what is seen; derivatives go to `means2d` and `splats`.
        width, height: of the picture, in pixels.
        background: color behind all; None is black.
        geometry: whether to blend depth and normals, too.
    """
    means2d, splats = projected.means2d, projected.splats
    order = splats[:, DEPTH.start].detach().float().argsort(stable=True)
    reach = projected.radii[:, None].to(means2d) / BOX
    first = (means2d.detach() / BOX - reach).floor()[order]
    last = (means2d.detach() / BOX + reach).ceil()[order]
    rows = []
    for top in range(0, height, BOX):
        row = []
        for left in range(0, width, BOX):
            tile = means2d.new_tensor([left // BOX, top // BOX])
            here = order[((first <= tile) & (last > tile)).all(-1)]
            down, across = min(BOX, height - top), min(BOX, width - left)
            y, x = torch.meshgrid(
                torch.arange(top, top + down, device=order.device),
                torch.arange(left, left + across, device=order.device),
                indexing="ij",
            )
            pixels = torch.stack([x, y], -1).flatten(0, 1).to(means2d) + 0.5
            row.append(_blend_tile(means2d[here], splats[here], pixels).unflatten(0, (down, across)))
        rows.append(torch.cat(row, 1))
    return _pictures(torch.cat(rows, 0), background, geometry)


def _blend_tile(
    means2d: Float[Tensor, "m 2"], splats: Float[Tensor, "m 11"], pixels: Float[Tensor, "p 2"]
) -> Float[Tensor, "p 9"]:
    """Blended color, depth and normal, the sum of weights, and median depth.

    Args:
        means2d, splats: the tile's, from front to back.
        pixels: centers.
    """
    dx, dy = (means2d[:, None] - pixels).unbind(-1)
    xx, xy, yy = splats[:, CONIC, None].unbind(1)
    exponent = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
    alpha = (splats[:, OPACITY] * torch.exp(-exponent)).clamp(max=MOST_ALPHA)
    alpha = torch.where((exponent >= 0) & (alpha >= LEAST_ALPHA), alpha, 0)
    after = (1 - alpha).cumprod(0)
    before = torch.cat([torch.ones_like(after[:1]), after[:-1]])
    going = after > LEAST_TRANSMITTANCE
    weights = torch.where(going, alpha * before, 0)
    values = torch.cat([splats[:, COLOR], splats[:, DEPTH], splats[:, NORMAL], torch.ones_like(splats[:, OPACITY])], 1)
    half = going & (before > 0.5) & (after <= 0.5)
    median = (half * splats[:, DEPTH].detach()).sum(0)
    return torch.cat([weights.T @ values, median[:, None]], 1)


def _pictures(sums: Float[Tensor, "h w 9"], background: Float[Tensor, "3"] | None, geometry: bool) -> Pictures:
    color, depth, normals, accumulation, median = sums.split([3, 1, 3, 1, 1], -1)
    if background is not None:
        color = color + (1 - accumulation) * background
    if not geometry:
        return Pictures(color, accumulation, None, None, None)
    return Pictures(color, accumulation, depth / accumulation.clamp(min=LEAST_WEIGHT), median, normals)
