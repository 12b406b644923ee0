"""Key points with known places in the world: the depth that they give to the views that see them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from numpy import ndarray

from depthnerf_ns.prepare.uncertainty import triangulation_sigma

MIN_VIEWS = 3
"""A point seen by two views only is often a wrong match: any two rays that nearly meet make one."""
MAX_ERROR = 2.0
"""Pixels of reprojection error from which a point is not used."""
MAX_RELATIVE_SIGMA = 0.1
"""σ per depth from which a point is too far for its baselines to be used."""


@dataclass(frozen=True)
class PointDepth:
    """Depth that is known at some pixels of a view."""

    rows: Int[ndarray, " n"]
    columns: Int[ndarray, " n"]
    depth: Float[ndarray, " n"]
    """z-depth in the unit of the poses."""
    sigma: Float[ndarray, " n"]
    """Its standard deviation."""
    origin: str = ""
    """Where it comes from, for reports."""

    def __len__(self) -> int:
        return len(self.depth)

    def painted(self, size: tuple[int, int], side: int = 1) -> tuple[Float[ndarray, "h w"], Float[ndarray, "h w"]]:
        """Maps of depth and σ, 0 elsewhere; where points overlap, the nearest counts.

        Args:
            size: (width, height) of the image in pixels.
            side: of the square around each point, in pixels.
        """
        depth, sigma = np.zeros(size[::-1], dtype=np.float32), np.zeros(size[::-1], dtype=np.float32)
        order = np.argsort(-self.depth, kind="stable")
        reach = np.arange(side) - side // 2
        for down in reach:
            for right in reach:
                rows, columns = self.rows[order] + down, self.columns[order] + right
                inside = (rows >= 0) & (rows < size[1]) & (columns >= 0) & (columns < size[0])
                rows, columns, which = rows[inside], columns[inside], order[inside]
                here = depth[rows, columns]
                nearer = (here == 0) | (self.depth[which] <= here)
                depth[rows[nearer], columns[nearer]] = self.depth[which[nearer]]
                sigma[rows[nearer], columns[nearer]] = self.sigma[which[nearer]]
        return depth, sigma


@dataclass(frozen=True)
class SparsePoints:
    """Points of structure from motion in the world of a capture."""

    xyz: Float[ndarray, "m 3"]
    """In world axes and the unit of the poses."""
    error: Float[ndarray, " m"]
    """Mean distance in pixels between a point's images and its key points."""
    places: list[Float[ndarray, "k 2"]]
    """For each view (x, y) of its key points in pixels from the upper left corner of the image."""
    points: list[Int[ndarray, " k"]]
    """For each view the points that its key points are images of."""
    origin: str
    """Where they come from, for reports."""

    @cached_property
    def sizes(self) -> Int[ndarray, " m"]:
        """Number of views that see each point."""
        return np.bincount(np.concatenate([np.zeros(0, int), *self.points]), minlength=len(self.xyz))

    def sigmas(self, cameras: Cameras) -> list[Float[ndarray, " k"]]:
        """For each view σ of the z-depth of its points, by `triangulation_sigma`.

        The error of a key point is its point's mean reprojection error, made larger for short tracks, whose points fit
        their few images better than they are right (3 coordinates are fitted to 2 m numbers), and not less than the
        median over all points, as a few pixels cannot tell 0.1 from 0.5. Poses count as exact: where they are not, and
        at the edges of objects, depth is off by more (at the poses of an RGB-D capture by about twice as much).
        """
        centers = cameras.camera_to_worlds[:, :3, 3].double().cpu().numpy()
        forward = -cameras.camera_to_worlds[:, :3, 2].double().cpu().numpy()
        focal = (cameras.fx * cameras.fy).sqrt().double().cpu().numpy().reshape(-1)
        length = np.maximum(self.sizes, 2)
        error = self.error * np.sqrt(2.0 * length / (2.0 * length - 3.0))
        error = np.maximum(error, np.median(error) if len(error) else 0.0)
        view = np.repeat(np.arange(len(self.points)), [len(some) for some in self.points])
        point = np.concatenate([np.zeros(0, int), *self.points])
        order = np.argsort(point, kind="stable")
        ends = np.searchsorted(point[order], np.arange(len(self.xyz) + 1))
        sigma = np.full(len(point), np.inf)
        for index in range(len(self.xyz)):
            track = order[ends[index] : ends[index + 1]]
            if len(track) >= 2:
                seen = view[track]
                ray = self.xyz[index] - centers[seen]
                cosine = np.sum(ray * forward[seen], axis=1) / np.linalg.norm(ray, axis=1)
                along = triangulation_sigma(self.xyz[index], centers[seen], focal[seen], float(error[index]))
                sigma[track] = along * cosine
        return np.split(sigma, np.cumsum([len(some) for some in self.points])[:-1])

    def depths(
        self,
        cameras: Cameras,
        min_views: int = MIN_VIEWS,
        max_error: float = MAX_ERROR,
        max_relative_sigma: float = MAX_RELATIVE_SIGMA,
    ) -> list[PointDepth]:
        """For each view the depth of the points that it sees and that are known well enough.

        Args:
            cameras: of the views, in world axes.
            min_views: points that fewer views see are left out.
            max_error: in pixels; points with a larger reprojection error are left out.
            max_relative_sigma: σ per depth; points of a view that are less certain are left out.
        """
        poses = cameras.camera_to_worlds.double().cpu().numpy()
        result = []
        for view, (places, points, sigma) in enumerate(zip(self.places, self.points, self.sigmas(cameras))):
            depth = -((self.xyz[points] - poses[view, :, 3]) @ poses[view, :, 2])
            column, row = np.floor(places).astype(int).reshape(-1, 2).T
            width, height = int(cameras.width[view]), int(cameras.height[view])
            keep = (depth > 0) & (self.sizes[points] >= min_views) & (self.error[points] <= max_error)
            keep &= (row >= 0) & (row < height) & (column >= 0) & (column < width)
            keep &= sigma <= max_relative_sigma * depth
            result.append(PointDepth(row[keep], column[keep], depth[keep], sigma[keep], self.origin))
        return result
