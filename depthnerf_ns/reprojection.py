"""One view's depth in another view: where its points land, and how well the two depths agree, for many scales at once.

Where a view's points are at ray distance s·t, the other view's depth is s·m as well: s is the factor that all depth may
have to be multiplied by to fit the poses. The residual of a pixel is the log of the ratio between the two distances
from the other camera, 0.01 for one per cent. Where something hides the point, it is large and positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from numpy import ndarray

from depthnerf_ns.depth_data import DepthContract, DepthKind, contract_of, load_depth

SUPPORTED = (CameraType.PERSPECTIVE.value, CameraType.FISHEYE.value)
"""Camera models whose projection is known here."""
LONGEST_SIDE = 640
"""Pixels of the longer side that are kept of a depth map."""


@dataclass(frozen=True)
class DepthView:
    """A view of the data set with its depth map."""

    file: Path
    """The depth map."""
    cameras: Cameras
    """The cameras of its split."""
    index: int
    """Its number among them."""
    contract: DepthContract
    """What the numbers in the file mean."""
    scale: float
    """Scene units per unit of the poses."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return int(self.cameras.width[self.index]), int(self.cameras.height[self.index])

    @cached_property
    def pose(self) -> Float[ndarray, "3 4"]:
        """Camera to world."""
        return self.cameras.camera_to_worlds[self.index].double().cpu().numpy()

    @cached_property
    def stride(self) -> int:
        """Every so many-th row and column of the depth map is kept."""
        return max(1, -(-max(self.size) // LONGEST_SIDE))

    @cached_property
    def stored(self) -> Shaped[ndarray, "h w"]:
        """Depth in stored units, 0 where there is none; every `stride`-th row and column from the first."""
        depth = load_depth(self.file, self.contract, self.size)
        return np.ascontiguousarray(depth[:: self.stride, :: self.stride])

    @cached_property
    def valid(self) -> float:
        """Share of pixels with depth."""
        return float((self.stored > 0).mean())

    @cached_property
    def largest_angle(self) -> float:
        """Angle in radians between the optical axis and the corner farthest from it, lens distortion taken out."""
        width, height = self.size
        corners = self.directions(np.array([0, height, 0, height]) - 0.5, np.array([0, 0, width, width]) - 0.5)
        return float(np.arccos(np.clip(-corners[:, 2], -1.0, 1.0)).max())

    def directions(self, rows: Float[ndarray, " n"], columns: Float[ndarray, " n"]) -> Float[ndarray, "n 3"]:
        """Unit directions, in the camera's axes, of the rays through the centers of pixels."""
        coords = torch.from_numpy(np.stack([rows, columns], axis=-1)).float() + 0.5
        rays = self.cameras.generate_rays(camera_indices=torch.full((len(rows), 1), self.index), coords=coords)
        return rays.directions.double().cpu().numpy() @ self.pose[:, :3]

    def grid(self, count: int) -> tuple[ndarray, ndarray]:
        """Rows and columns of about `count` pixels with depth on a regular grid, in the kept part of the map."""
        height, width = self.stored.shape
        step = max(1.0, np.sqrt(self.valid * height * width / count))
        rows = np.arange(0.5 * step, height, step).astype(int)
        columns = np.arange(0.5 * step, width, step).astype(int)
        rows, columns = (places.ravel() for places in np.meshgrid(rows, columns, indexing="ij"))
        keep = self.stored[rows, columns] > 0
        return rows[keep], columns[keep]

    def points(self, rows: ndarray, columns: ndarray, kind: DepthKind) -> Float[ndarray, "n 3"]:
        """Points in scene units from the camera center, in world axes, if the file holds depth of this kind."""
        direction = self.directions(rows * self.stride, columns * self.stride)
        distance = self.stored[rows, columns] * (self.contract.unit * self.scale)
        if kind == "z":
            distance = distance / np.maximum(-direction[:, 2], 1e-3)
        return (distance[:, None] * direction) @ self.pose[:, :3].T

    def project(self, local: Float[ndarray, "*n 3"]) -> tuple[ndarray, ndarray, Bool[ndarray, "*n"]]:
        """Where points in the camera's axes land in the kept part of the map: row, column, and whether they do."""
        row, column, inside = self.place(local)
        height, width = self.stored.shape
        # The kept pixel whose center is nearest.
        row, column = (
            np.clip(np.round(place / self.stride), 0, limit - 1).astype(int)
            for place, limit in ((row, height), (column, width))
        )
        return row, column, inside

    def place(self, local: Float[ndarray, "*n 3"]) -> tuple[ndarray, ndarray, Bool[ndarray, "*n"]]:
        """Where points in the camera's axes are seen: row and column in pixels of the view, the first pixel's center
        being 0, and whether they lie in the image."""
        x, y, z = local[..., 0], -local[..., 1], -local[..., 2]  # to OpenCV's axes
        radius = np.hypot(x, y)
        angle = np.arctan2(radius, z)
        fisheye = int(self.cameras.camera_type[self.index]) == CameraType.FISHEYE.value
        # Beyond the corners the polynomial of the distortion may turn back into the image.
        inside = angle <= min(self.largest_angle * 1.02, np.pi if fisheye else np.radians(89.0))
        if fisheye:
            factor = angle / np.maximum(radius, 1e-12)
        else:
            factor = 1.0 / np.where(inside, z, 1.0)
        x, y = x * factor, y * factor
        distortion = self.cameras.distortion_params
        if distortion is not None and bool((distortion[self.index] != 0).any()):
            k1, k2, k3, k4, p1, p2 = distortion[self.index].tolist()
            r = np.where(inside, x * x + y * y, 0.0)
            d = 1.0 + r * (k1 + r * (k2 + r * (k3 + r * k4)))
            x, y = (
                x * d + 2.0 * p1 * x * y + p2 * (r + 2.0 * x * x),
                y * d + 2.0 * p2 * x * y + p1 * (r + 2.0 * y * y),
            )
        fx, fy, cx, cy = (float(getattr(self.cameras, name)[self.index]) for name in ("fx", "fy", "cx", "cy"))
        column, row = fx * x + cx, fy * y + cy
        inside &= (column >= 0) & (column < self.size[0]) & (row >= 0) & (row < self.size[1])
        return np.where(inside, row, 0.5) - 0.5, np.where(inside, column, 0.5) - 0.5, inside


def depth_views(outputs: Sequence[DataparserOutputs]) -> list[DepthView]:
    """The views of all splits that have depth and a camera model that can be projected with, each pose once."""
    views: dict[Path, DepthView] = {}
    for split in outputs:
        contract = contract_of(split.metadata)
        for index, file in enumerate(split.metadata.get("depth_filenames") or []):
            if int(split.cameras.camera_type[index]) in SUPPORTED:
                view = DepthView(Path(file), split.cameras, index, contract, float(split.dataparser_scale))
                views.setdefault(Path(file), view)
    return sorted(views.values(), key=lambda view: str(view.file))


def log_residuals(
    view: DepthView,
    other: DepthView,
    kind: DepthKind,
    scales: Float[ndarray, " s"],
    points: Float[ndarray, "n 3"],
) -> Float[ndarray, "s n"]:
    """Log of the ratio between the distance of a view's points from another camera and that camera's depth there.

    Args:
        view: where the points come from.
        other: the view that they are compared with.
        kind: what depth files hold, by assumption.
        scales: factors on the depth of both.
        points: from `view.points` for the same kind.
    Returns: NaN where a point is outside of the other view, or has no depth there.
    """
    to_local = other.pose[:, :3]
    offset = (view.pose[:, 3] - other.pose[:, 3]) @ to_local
    local = offset + scales[:, None, None] * (points @ to_local)
    row, column, inside = other.project(local)
    measured = other.stored[row, column].astype(np.float64) * (other.contract.unit * other.scale)
    distance = -local[..., 2] if kind == "z" else np.linalg.norm(local, axis=-1)
    inside &= (measured > 0) & (distance > 0)
    ratio = np.where(inside, distance, 1.0) / np.where(inside, measured * scales[:, None], 1.0)
    return np.where(inside, np.log(ratio), np.nan)
