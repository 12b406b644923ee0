"""The sphere that becomes the unit sphere of a surface model: from masks, from SfM points, or from the cameras alone.

A signed distance is learned inside the unit sphere; what is beyond is background, or is not there. An object that
reaches out of it is cut off, one that fills a tenth of it gets a tenth of the resolution: neither gives an error.
Lengths are in the unit of the input. Pure numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from common_ns.cameras.geometry import fraction_in_front, nearest_point_to_axes, positions
from hashnffb_sdf_ns.idr_data.cameras import Similarity
from hashnffb_sdf_ns.object_sphere.visual_hull import Hull, View, carve, likely_region

MARGIN = 1.1
"""Radius of the sphere relative to what it holds."""
MIN_INSIDE = 0.95
"""Share of the visual hull, or of the SfM points, that has to be inside the unit sphere. Hulls are larger than their
objects, and have a tail where cameras stand on one side only."""
TOO_SMALL = 0.3
"""Radius of the object, in that of the sphere, below which the sphere is too large for it."""
NEARER = 0.8
"""Share of the way from what the cameras look at to the nearest of them, on which the object is."""
MIN_POINTS = 50
"""SfM points below which they say nothing about the size of the scene."""
LEAST_SPREAD = 1e-3
"""Mean squared sine of the angles between optical axes below which they have no common point."""

Source = Literal["masks", "points", "cameras"]
SOURCE_NAMES = {"masks": "visual hull", "points": "SfM points", "cameras": "point that the cameras look at"}


@dataclass(frozen=True)
class Extent:
    """What is known of where the object is."""

    source: Source
    points: Float[NDArray, "n 3"]
    """Centers of the hull's voxels, or SfM points without stray ones; for cameras, the point that they look at."""
    sphere: Similarity
    """A sphere that holds the object, as the map of the unit sphere to it."""
    hull: Hull | None = None
    """From masks."""


def enclosing_sphere(points: Float[NDArray, "n 3"], iterations: int = 200) -> tuple[Float[NDArray, "3"], float]:
    """About the smallest sphere that holds all points.

    Each step moves the center towards the farthest point by 1 / (i + 1) of the way.

    Returns: center and radius; the radius is at most a few per cent above the smallest.
    Source: Bădoiu and Clarkson, "Smaller core-sets for balls" (2003).
    """
    center = 0.5 * (points.min(axis=0) + points.max(axis=0))
    best, least = center, np.inf
    for index in range(iterations):
        distance = np.linalg.norm(points - center, axis=1)
        farthest = int(distance.argmax())
        if distance[farthest] < least:
            best, least = center, float(distance[farthest])
        center = center + (points[farthest] - center) / (index + 2)
    return best, least


def extent_of_masks(views: list[View], poses: Float[NDArray, "v 3 4"], margin: float = MARGIN) -> Extent | None:
    """The sphere about the visual hull; None if the masks contradict each other, so that there is none."""
    point, _ = nearest_point_to_axes(poses)
    hull = carve(views, *likely_region(views, point))
    if len(hull.points) == 0:
        return None
    center, radius = enclosing_sphere(hull.points)
    # The corners of a voxel are this far from its middle.
    sphere = Similarity(center, margin * (radius + 0.5 * np.sqrt(3.0) * hull.voxel_size))
    return Extent("masks", hull.points, sphere, hull)


def extent_of_points(points: Float[NDArray, "n 3"], margin: float = MARGIN) -> Extent | None:
    """The sphere about SfM points without the stray ones: those beyond three times the median distance from the median,
    and the farthest hundredth of the others; None for fewer than `MIN_POINTS`."""
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < MIN_POINTS:
        return None
    distance = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    near = points[distance <= 3.0 * np.median(distance)]
    distance = np.linalg.norm(near - np.median(near, axis=0), axis=1)
    near = near[distance <= np.quantile(distance, 0.99)]
    center, radius = enclosing_sphere(near)
    return Extent("points", near, Similarity(center, margin * radius)) if radius > 0 else None


def extent_of_cameras(poses: Float[NDArray, "v 3 4"], half_angles: Float[NDArray, " v"]) -> Extent | None:
    """The sphere that fills the pictures of cameras that look at one point; None if they do not.

    It is tangent to the narrowest frustum about the point, as that of the median camera has it, and smaller than the
    way to the nearest camera.

    Args:
        poses: camera-to-world matrices, OpenGL axes.
        half_angles: half of the smaller field of view of each camera, in radians.
    """
    point, spread = nearest_point_to_axes(poses)
    if spread < LEAST_SPREAD or fraction_in_front(poses, point) < 0.9:
        return None
    distance = np.linalg.norm(positions(poses) - point, axis=1)
    radius = min(float(np.median(distance * np.sin(half_angles))), NEARER * float(np.quantile(distance, 0.05)))
    return Extent("cameras", point[None], Similarity(point, radius)) if radius > 0 else None


@dataclass(frozen=True)
class Diagnosis:
    """How a scene is placed in the unit sphere."""

    source: Source
    inside: float
    """Share of the hull or of the points inside the unit sphere; for cameras, whether the point they look at is."""
    reach: float
    """Distance from the origin of the farthest part (but for the farthest hundredth)."""
    size: float
    """Radius of the sphere about the object, in that of the unit sphere."""
    cameras: int
    """Number of cameras."""
    cameras_inside: int
    """Cameras inside the unit sphere."""
    cameras_within: int
    """Cameras inside the sphere about the object."""

    def problem(self) -> str | None:
        """What is wrong with the scale, in words; None if it is fine."""
        name = SOURCE_NAMES[self.source]
        if self.source == "cameras":
            if self.reach > 0.5:
                return f"the {name} is {self.reach:.3g} from the middle of the unit sphere"
        elif self.inside < MIN_INSIDE:
            return f"{1 - self.inside:.0%} of the {name} is outside the unit sphere (it reaches to {self.reach:.3g})"
        if self.size < TOO_SMALL:
            return f"the {name} gives a radius of {self.size:.3g}, so that most of the unit sphere is empty"
        if 2 * self.cameras_inside > self.cameras > 2 * self.cameras_within:
            return f"{self.cameras_inside} of {self.cameras} cameras are inside the unit sphere, and need not be"
        return None

    def summary(self) -> str:
        """What was found, in a line for the user."""
        name = SOURCE_NAMES[self.source]
        if self.source == "cameras":
            found = f"the {name} is {self.reach:.2f} from the middle of the unit sphere"
        else:
            found = f"{self.inside:.1%} of the {name} inside the unit sphere, reaching to {self.reach:.2f}"
        return f"Scene: {found}; {self.cameras_inside} of {self.cameras} cameras inside."


def diagnose(extent: Extent, poses: Float[NDArray, "v 3 4"], placed: Similarity | None = None) -> Diagnosis:
    """Say how a scene lies in the unit sphere.

    Args:
        extent: where the object is.
        poses: camera-to-world matrices, in the same coordinates.
        placed: map from the unit sphere to these coordinates; None: they are those of the unit sphere.
    """
    placed = placed or Similarity(np.zeros(3), 1.0)
    distance = np.linalg.norm(placed.normalized_points(extent.points), axis=1)
    cameras = np.linalg.norm(placed.normalized_points(positions(poses)), axis=1)
    return Diagnosis(
        extent.source,
        inside=float((distance <= 1.0).mean()),
        reach=float(np.quantile(distance, 0.99)),
        size=extent.sphere.radius / placed.radius,
        cameras=len(cameras),
        cameras_inside=int((cameras < 1.0).sum()),
        cameras_within=int(
            (np.linalg.norm(positions(poses) - extent.sphere.center, axis=1) < extent.sphere.radius).sum()
        ),
    )


def scene_extent(
    poses: Float[NDArray, "v 3 4"],
    half_angles: Float[NDArray, " v"],
    points: Float[NDArray, "n 3"] | None = None,
    margin: float = MARGIN,
) -> Extent | None:
    """Where the object is where there are no masks: from SfM points where there are enough, else from the cameras.

    Of the points, those count that are nearer to the point that the cameras look at than the cameras are; the others
    are background. If the cameras do not look at one point, all count.

    Args:
        poses: camera-to-world matrices, OpenGL axes.
        half_angles: half of the smaller field of view of each camera, in radians.
        points: SfM points.
        margin: radius of the sphere relative to what it holds.
    Returns: None if neither tells.
    """
    looked_at = extent_of_cameras(poses, half_angles)
    if points is not None and looked_at is not None:
        center = looked_at.sphere.center
        reach = NEARER * np.quantile(np.linalg.norm(positions(poses) - center, axis=1), 0.05)
        points = points[np.linalg.norm(points - center, axis=1) < reach]
    found = None if points is None else extent_of_points(points, margin)
    return found or looked_at
