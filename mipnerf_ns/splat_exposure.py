"""Changes of colors from photograph to photograph: an affine map of each, which is kept near none."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def no_change(number: int) -> Float[Tensor, "number 3 4"]:
    """Maps [A | b] that leave colors as they are."""
    return torch.eye(3, 4).repeat(number, 1, 1)


def exposed(
    picture: Float[Tensor, "h w 3"],
    accumulation: Float[Tensor, "h w 1"],
    background: Float[Tensor, "3"],
    change: Float[Tensor, "3 4"],
) -> Float[Tensor, "h w 3"]:
    """A picture after its scene's colors c became A c + b; the background stays.

    Args:
        picture: over the background.
        accumulation: how opaque the scene is, 0 to 1.
        background: its color.
        change: [A | b].
    """
    behind = (1.0 - accumulation) * background
    return (picture - behind) @ change[:, :3].T + accumulation * change[:, 3] + behind


def distance_from_none(change: Float[Tensor, "3 4"]) -> Float[Tensor, ""]:
    """Sum of the squared differences from the map that leaves colors as they are."""
    return (change - torch.eye(3, 4, device=change.device)).square().sum()
