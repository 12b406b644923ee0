"""What rays have met: points, and pictures, which are put on triangles."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from common_ns.viewer_preview.proxies import PictureProxy
from common_ns.viewer_preview.relief import triangles

SAME = 0.15
"""Relative difference of depths up to which a point is as deep as what a picture shows there."""


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
        x, y, ahead = self._projected(points)
        height, width = self.depth.shape
        inside = (ahead > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        place = np.where(inside, np.floor(y) * width + np.floor(x), 0).astype(int)
        there = self.depth.reshape(-1)[place]
        if margin:
            eroded = np.asarray(binary_erosion(self.shows, iterations=margin), dtype=bool)
            inside = inside & eroded.reshape(-1)[place]
        return inside & (ahead < (1.0 + SAME) * there)

    def frames(self, points: Float[NDArray, "n 3"], margin: float) -> Bool[NDArray, "n"]:
        """Which points are within the picture's frame, whether they are seen there or hidden.

        Args:
            points: in scene units.
            margin: pixels around the frame that count as well.
        """
        x, y, ahead = self._projected(points)
        height, width = self.depth.shape
        return (ahead > 0) & (x > -margin) & (x < width + margin) & (y > -margin) & (y < height + margin)

    def _projected(self, points: Float[NDArray, "n 3"]) -> tuple[Float[NDArray, "n"], ...]:
        """Where points are in the picture, in pixels from its left and its upper edge, and how far along the axis."""
        local = (points - self.pose[:, 3]) @ self.pose[:, :3]
        height, width = self.depth.shape
        ahead = np.negative(local[:, 2])
        distance = np.maximum(ahead, 1e-9)
        x = self.focal[0] * local[:, 0] / distance + 0.5 * width
        return x, -self.focal[1] * local[:, 1] / distance + 0.5 * height, ahead

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

    def mesh(self, most: int) -> PictureProxy | None:
        """The picture on triangles with at most about so many corners; None: it shows nothing."""
        rows, columns, faces = triangles(self.depth, self.shows, most)
        if not len(faces):
            return None
        height, width = self.depth.shape
        number = np.cumsum(self.shows).reshape(height, width) - 1
        # Between corners there may be pixels that show nothing: they get the color of those beside them.
        nearest = np.asarray(distance_transform_edt(~self.shows, return_distances=False, return_indices=True))
        picture = self.seen.colors[number[nearest[0], nearest[1]]]
        places = np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=-1)
        return PictureProxy(self.seen.points[number[rows, columns]], faces, places, picture)
