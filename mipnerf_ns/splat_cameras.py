"""nerfstudio's cameras as what draws Gaussians wants them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from common_ns.splat_baking.photographs import viewmat_of


def viewmats_of(cameras: Cameras) -> Float[Tensor, "c 4 4"]:
    """`viewmat_of` each camera."""
    return torch.stack([viewmat_of(pose) for pose in cameras.camera_to_worlds])


def intrinsics_of(cameras: Cameras) -> Float[Tensor, "c 4"]:
    """fx, fy, cx, cy in pixels."""
    parts = [getattr(cameras, name).reshape(-1, 1).float() for name in ("fx", "fy", "cx", "cy")]
    return torch.cat(parts, dim=1)


def sizes_of(cameras: Cameras) -> Float[Tensor, "c 2"]:
    """Width and height in pixels."""
    return torch.cat([cameras.width.reshape(-1, 1), cameras.height.reshape(-1, 1)], dim=1).float()
