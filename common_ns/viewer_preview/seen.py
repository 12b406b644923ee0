"""What rays have met: points, and pictures whose pixels are the corners of a mesh."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from common_ns.viewer_preview.proxies import MeshProxy

SAME = 0.15
"""Relative difference of depths up to which a point is as deep as what a picture shows there."""
TEAR = 1.2
"""Ratio of the depths of a triangle's corners above which it is no part of a surface,"""
NEAR = 0.1
"""if their inverse depths differ by more than this as well, over the depth that a quarter of the picture is within: far
away, depth is uncertain, and the camera would have to move a long way until one saw a gap."""


@dataclass(frozen=True)
class Seen:
    """Points that rays have met."""

    points: Float[NDArray, "n 3"]
    """In scene units."""
    colors: Float[NDArray, "n 3"]
    """In [0, 1]."""
    footprints: Float[NDArray, "n"]
    """Sides of the rays' pixels there, in scene units."""
    distances: Float[NDArray, "n"]
    """From the camera, in scene units."""

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, kept: Any) -> Seen:
        return Seen(**{each.name: getattr(self, each.name)[kept] for each in fields(self)})

    def joined(self, other: Seen) -> Seen:
        """Those of both."""
        return Seen(
            **{
                each.name: np.concatenate([getattr(self, each.name), getattr(other, each.name)])
                for each in fields(self)
            }
        )


@dataclass(frozen=True)
class SeenPicture:
    """A picture, with the points that its rays have met."""

    seen: Seen
    """Of all pixels that show something, in order."""
    shows: Bool[NDArray, "h w"]
    """Which do."""
    depth: Float[NDArray, "h w"]
    """Distance along the axis of the camera, in scene units; infinite where nothing is shown."""
    pose: Float[NDArray, "3 4"]
    """Camera to world, OpenGL axes."""
    focal: tuple[float, float]
    """In pixels, along x and y; the axis meets the middle."""

    def knows(self, points: Float[NDArray, "n 3"], margin: int = 0) -> Bool[NDArray, "n"]:
        """Which points are where the picture shows what there is: within it, and no deeper than what is seen there.
        What hangs before that is no part of this view, and would hide it.

        Args:
            points: in scene units.
            margin: pixels from places that show nothing within which nothing is known.
        """
        local = (points - self.pose[:, 3]) @ self.pose[:, :3]
        height, width = self.depth.shape
        ahead = np.maximum(np.negative(local[:, 2]), 1e-9)
        x = np.floor(self.focal[0] * local[:, 0] / ahead + 0.5 * width)
        y = np.floor(-self.focal[1] * local[:, 1] / ahead + 0.5 * height)
        inside = (local[:, 2] < 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        place = np.where(inside, y * width + x, 0).astype(int)
        there = self.depth.reshape(-1)[place]
        if margin:
            eroded = np.asarray(binary_erosion(self.shows, iterations=margin), dtype=bool)
            inside = inside & eroded.reshape(-1)[place]
        return inside & (ahead < (1.0 + SAME) * there)

    def blurred(self, side: int) -> Float[NDArray, "side side 3"] | None:
        """The picture in so few pixels along each side, means of squares of it; None: not all of it shows something."""
        height, width = self.shows.shape
        if not self.shows.all() or min(height, width) < side:
            return None
        colors = self.seen.colors.reshape(height, width, 3)
        rows, columns = (np.arange(side) * length // side for length in (height, width))
        sums = np.add.reduceat(np.add.reduceat(colors, rows, axis=0), columns, axis=1)
        counts = np.diff(rows, append=height)[:, None] * np.diff(columns, append=width)
        return sums / counts[..., None]

    def mesh(self, count: int) -> MeshProxy | None:
        """A mesh through about so many of its pixels, of a regular grid of them; None: it shows nothing."""
        height, width = self.depth.shape
        step = max(1.0, (height * width / count) ** 0.5)
        rows, columns = (
            np.linspace(0, side - 1, max(round(side / step), 2)).round().astype(int) for side in (height, width)
        )
        number = np.full(self.depth.shape, -1)
        number[self.shows] = np.arange(len(self.seen.points))
        grid = number[np.ix_(rows, columns)]
        corners = np.stack([grid[:-1, :-1], grid[1:, :-1], grid[:-1, 1:], grid[1:, 1:]], axis=-1).reshape(-1, 4)
        faces = np.concatenate([corners[:, [0, 1, 2]], corners[:, [3, 2, 1]]])
        faces = faces[(faces >= 0).all(axis=1)]
        depth = self.depth[self.shows]
        nearest, farthest = depth[faces].min(axis=1, initial=np.inf), depth[faces].max(axis=1, initial=0.0)
        gap = NEAR / np.quantile(depth, 0.25) if len(depth) else 0.0
        faces = faces[(farthest <= TEAR * nearest) | (1.0 / nearest - 1.0 / farthest <= gap)]
        if not len(faces):
            return None
        used, faces = np.unique(faces, return_inverse=True)
        return MeshProxy(self.seen.points[used], faces.reshape(-1, 3), self.seen.colors[used])
