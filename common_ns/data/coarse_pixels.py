"""Training pixels of several sizes: a part of the drawn pixels grows to squares of the image.

A field that is trained on the pixels of its photographs alone has never seen what a camera sees from farther away.
Multi-scale training (mip-NeRF, arXiv 2103.13415, section 4.1; Zip-NeRF, arXiv 2304.06706, section 5) shows it every
photograph in several sizes. Here no smaller copies are made: a square of pixels anywhere in the image is averaged when
it is drawn, and its ray goes through its middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common_ns.data.pixels import PixelStore
from common_ns.errors import InputError


def check_scales(scales: Sequence[int]) -> None:
    """Raises: InputError unless there are scales, all at least 1."""
    if not scales or min(scales) < 1:
        problem = (
            f"train-scales are sides of squares of pixels, and {' '.join(map(str, scales)) or 'nothing'} was given"
        )
        raise InputError(problem, "Choose whole numbers from 1, such as --pipeline.datamanager.train-scales 1 2 4 8")


class Squares(NamedTuple):
    """A square of pixels for each ray."""

    corner: Int[Tensor, "n 2"]
    """Row and column of its first pixel."""
    side: Int[Tensor, " n"]
    """In pixels."""
    larger: list[tuple[Int[Tensor, " k"], Int[Tensor, "k pixels"]]]
    """Of each side above 1: which rays have it, and where all pixels of their squares are in the store."""

    @property
    def middle(self) -> Float[Tensor, "n 2"]:
        """Row and column of the middle, where those of a pixel's middle are whole numbers and a half."""
        return self.corner + 0.5 * self.side[:, None]

    @property
    def middle_pixel(self) -> Int[Tensor, "n 2"]:
        """Row and column of the pixel in the middle; of four, of the last."""
        return self.corner + self.side[:, None] // 2


def squares_around(store: PixelStore, indices: Int[Tensor, "n 3"], sides: Int[Tensor, " n"]) -> Squares:
    """Squares that hold drawn pixels, within their images. Where a square would hold a pixel that is masked out, or the
    image is smaller, the drawn pixel stays alone.

    Args:
        store: of the pixels.
        indices: (image, row, column) of the drawn pixels.
        sides: of the squares asked for.
    """
    image, place = indices[:, 0], indices[:, 1:]
    size = store.sizes[image]
    sides = torch.where(sides <= size.amin(dim=-1), sides, 1)
    corner = (place - (sides[:, None] - 1) // 2).clamp_min(0).minimum(size - sides[:, None])
    larger = []
    for side in sides.unique().tolist():
        if side == 1:
            continue
        rays = (sides == side).nonzero()[:, 0]
        step = torch.arange(side, device=indices.device)
        rows = corner[rays, 0, None, None] + step[:, None]
        columns = corner[rays, 1, None, None] + step
        pixels = store.position(image[rays, None, None], rows, columns).flatten(1)
        whole = store.can_be_drawn(pixels).all(dim=-1)
        alone = rays[~whole]
        sides[alone], corner[alone] = 1, place[alone]
        larger.append((rays[whole], pixels[whole]))
    return Squares(corner, sides, larger)


def averaged(pixels: Float[Tensor, "k pixels c"]) -> Float[Tensor, "k c"]:
    """Mean of the colors of each square; of colors with alpha, weighted by it: what is invisible has no color."""
    if pixels.shape[-1] != 4:
        return pixels.mean(dim=1)
    color, alpha = pixels[..., :3], pixels[..., 3:]
    opacity = alpha.mean(dim=1)
    return torch.cat([(color * alpha).mean(dim=1) / opacity.clamp_min(1e-9), opacity], dim=-1)
