"""Test views at a fraction of their size, for comparing how a field holds when its pictures are smaller."""

from __future__ import annotations

import copy
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from common_ns.data.coarse_pixels import averaged
from common_ns.errors import InputError


def smaller_view(camera: Cameras, batch: dict[str, Any], factor: int) -> tuple[Cameras, dict[str, Any]]:
    """A view whose pixels are squares of factor × factor pixels of the given one.

    What is left over at the right and at the bottom is cut off.

    Args:
        camera: one camera.
        batch: what is known of its image: "image" [h, w, 3 or 4] in [0, 1] is averaged, where there is alpha by what is
            visible; a pixel of "mask" [h, w, 1] is valid if all those that it covers are; of other tensors [h, w, …]
            the pixel in the middle counts.
        factor: at least 1.
    Returns: camera and batch.
    Raises: InputError if less than a pixel would be left.
    """
    height, width = int(camera.height), int(camera.width)
    if factor < 1 or min(height, width) < factor:
        problem = f"a test image of {width}×{height} pixels cannot be evaluated at 1/{factor} of its size"
        raise InputError(problem, "Choose smaller numbers, from 1, for --pipeline.eval-scales")
    if factor == 1:
        return camera, batch
    smaller = copy.deepcopy(camera)
    smaller.height, smaller.width = (torch.full_like(camera.height, size // factor) for size in (height, width))
    for name in ("fx", "fy", "cx", "cy"):
        setattr(smaller, name, getattr(camera, name) / factor)
    return smaller, {name: _smaller(name, value, height, width, factor) for name, value in batch.items()}


def _smaller(name: str, value: Any, height: int, width: int, factor: int) -> Any:
    if not isinstance(value, Tensor) or value.shape[:2] != (height, width):
        return value
    blocks = value[: height // factor * factor, : width // factor * factor]
    blocks = blocks.unflatten(0, (-1, factor)).unflatten(2, (-1, factor))  # [h, factor, w, factor, …]
    if name == "image":
        return averaged(blocks.transpose(1, 2).flatten(0, 1).flatten(1, 2)).unflatten(0, blocks.shape[:3:2])
    if name == "mask":
        return blocks.bool().all(dim=3).all(dim=1).to(value.dtype)
    return blocks[:, factor // 2, :, factor // 2]
