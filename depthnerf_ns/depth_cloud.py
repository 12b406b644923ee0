"""What the depth maps of a capture say of any view: their points, drawn into a free camera.

The viewer's camera has no depth map of its own. The points of all training views, drawn into it, say how far its rays
should go, so that errors of depth can be looked at from everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from depthnerf_ns.dataparser import depth_points

MAX_POINTS = 500_000
"""Points of all views together: they are drawn in some 50 ms, and cover a preview."""
POINTS_PER_CELL = 8
"""Points that a cell of the coarse depth buffer has on average, so that few cells of a surface have none."""
SAME_SURFACE = 0.05
"""Points up to this much farther than the nearest of their cell, relatively, belong to the same surface."""


@dataclass
class DepthCloud:
    """Points where training views see a surface; files are read when they are first asked for.

    Args:
        outputs: of the training split, with the depth contract.
    """

    outputs: DataparserOutputs

    @cached_property
    def points(self) -> Float[Tensor, "n 3"]:
        """Points in scene units."""
        count = len(self.outputs.image_filenames)
        return depth_points(self.outputs, count, MAX_POINTS // max(count, 1))[0]

    def seen_by(self, camera: Cameras) -> Float[Tensor, "h w 1"] | None:
        """Ray distance of the points in each pixel of a perspective camera, 0 where there is none; None for others.

        Args:
            camera: one camera, of shape [1] or [].
        """
        camera = camera.reshape((1,)).to("cpu")
        if int(camera.camera_type[0]) != CameraType.PERSPECTIVE.value:
            return None
        pose = camera.camera_to_worlds[0]
        local = (self.points - pose[:3, 3]) @ pose[:3, :3]
        intrinsics = [float(getattr(camera, name)[0]) for name in ("fx", "fy", "cx", "cy")]
        return draw(local, intrinsics, int(camera.height[0]), int(camera.width[0]))


def draw(
    local: Float[Tensor, "n 3"], intrinsics: list[float], height: int, width: int
) -> Float[Tensor, "height width 1"]:
    """Distance of the nearest surface that points show in each pixel, 0 where there is none.

    A coarse depth buffer, in whose cells several points fall, tells which points are hidden. A pixel gets the mean of
    those that are not, and where it has none, that of its cell.

    Args:
        local: points in the camera's axes (x right, y up, z back).
        intrinsics: fx, fy, cx, cy in pixels.
        height, width: of the picture.
    """
    fx, fy, cx, cy = intrinsics
    depth = -local[:, 2]
    ahead = depth > 1e-6
    local, depth = local[ahead], depth[ahead]
    column, row = (fx * local[:, 0] / depth + cx).floor(), (cy - fy * local[:, 1] / depth).floor()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    column, row = column[inside].long(), row[inside].long()
    distance = local[inside].norm(dim=-1)
    if len(distance) == 0:
        return local.new_zeros(height, width, 1)
    size = max(1, round((height * width * POINTS_PER_CELL / len(distance)) ** 0.5))
    rows, columns = -(-height // size), -(-width // size)
    cell = (row // size) * columns + column // size
    nearest = distance.new_full((rows * columns,), torch.inf).scatter_reduce(0, cell, distance, "amin")
    # A surface hides what shows between its points.
    seen = distance <= nearest[cell] * (1.0 + SAME_SURFACE)
    coarse = _means(distance[seen], cell[seen], rows * columns).reshape(rows, columns)
    fine = _means(distance[seen], (row * width + column)[seen], height * width).reshape(height, width)
    filled = coarse.repeat_interleave(size, 0)[:height].repeat_interleave(size, 1)[:, :width]
    return torch.where(fine > 0, fine, filled)[..., None]


def _means(values: Float[Tensor, " n"], places: Tensor, count: int) -> Float[Tensor, " count"]:
    """Mean of the values at each place; 0 where there is none."""
    sums = values.new_zeros(count).index_add(0, places, values)
    return sums / values.new_zeros(count).index_add(0, places, torch.ones_like(values)).clamp_min(1.0)
