"""Rays of training pixels, for what asks models along rays: what pictures of these cameras show there.

nerfstudio's point clouds are such rays. Gaussians are drawn as pictures, so that any other ray has no answer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from common_ns.errors import InputError
from mipnerf_ns.splat_cameras import intrinsics_of, sizes_of

TOLERANCE = 1e-4
"""Distance of a ray's origin from its camera, as a share of the cameras' extent, that rounding explains."""


def outputs_along(
    rays: RayBundle, cameras: Cameras, extent: float, draw: Callable[[Cameras], dict[str, Tensor]], along_axis: bool
) -> dict[str, Float[Tensor, "n d"]]:
    """What pictures show where rays pass through them.

    Args:
        rays: of pixels of the cameras that their camera_indices name.
        cameras: pinhole cameras.
        extent: of the cameras, in scene units.
        draw: outputs of one camera of shape [1]; those of shape [h w d] are read.
        along_axis: whether its depth is along the optical axis. What is returned is ray distance.

    Raises: InputError if a ray is of no pixel of its camera.
    """
    index, pixels, cosines = _pixels(rays, cameras.to(rays.origins.device), extent)
    found: dict[str, Tensor] = {}
    for each in index.unique().tolist():
        of_camera = (index == each).nonzero()[:, 0]
        column, row = pixels[of_camera].unbind(dim=-1)
        for name, picture in draw(cameras[each : each + 1]).items():
            if picture.dim() == 3:
                values = picture[row, column]
                if name not in found:
                    found[name] = values.new_empty(len(index), values.shape[-1])
                found[name][of_camera] = values
    if along_axis and "depth" in found:
        found["depth"] = found["depth"] / cosines[:, None]
    return found


def _pixels(
    rays: RayBundle, cameras: Cameras, extent: float
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n 2"], Float[Tensor, "n"]]:
    """Each ray's camera, its column and row there, and the cosine between it and the optical axis."""
    remedy = "Use ns-mesh for a mesh, or give ns-export --texture-method point_cloud"
    if rays.camera_indices is None:
        raise InputError("Gaussians are drawn as whole pictures, and these rays name no camera", remedy)
    index = rays.camera_indices.reshape(-1).long()
    poses = cameras.camera_to_worlds[index]
    moved = (rays.origins.reshape(-1, 3) - poses[:, :3, 3]).norm(dim=-1)
    # nerfstudio's cameras look along −z, with y up.
    x, y, z = torch.einsum("nij,ni->nj", poses[:, :3, :3], rays.directions.reshape(-1, 3)).unbind(dim=-1)
    fx, fy, cx, cy = intrinsics_of(cameras)[index].unbind(dim=-1)
    depth = (-z).clamp_min(1e-9)
    pixels = torch.stack([cx + fx * x / depth, cy - fy * y / depth], dim=-1).floor().long()
    inside = (z < 0) & ((pixels >= 0) & (pixels < sizes_of(cameras)[index])).all(dim=-1)
    if not bool((inside & (moved <= TOLERANCE * extent)).all()):
        raise InputError("Gaussians are drawn as whole pictures, and these rays are of no photograph's pixels", remedy)
    return index, pixels, depth / torch.stack([x, y, z]).norm(dim=0)
