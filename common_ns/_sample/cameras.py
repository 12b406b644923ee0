"""Pinhole cameras of the sample scene, and where they stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from common_ns._sample.vectors import product


@dataclass(frozen=True)
class Camera:
    """Pinhole camera in the Blender / OpenGL convention: looks along −z, +y is up in the picture, world z up."""

    camera_to_world: Float[ndarray, "4 4"]
    """Pose; the last column is the camera's position in scene units."""
    width: int
    """Pixels across."""
    height: int
    """Pixels down."""
    focal: float
    """Focal length in pixels, the same for both axes. The principal point is the middle of the picture."""

    @property
    def origin(self) -> Float[ndarray, "3"]:
        """Camera position in scene units."""
        return self.camera_to_world[:3, 3]

    @property
    def forward(self) -> Float[ndarray, "3"]:
        """Unit viewing direction: depth is measured along it."""
        return -self.camera_to_world[:3, 2]

    def directions(self, x: Float[ndarray, "n"], y: Float[ndarray, "n"]) -> Float[ndarray, "3 n"]:
        """Unit ray directions through image positions in pixels; the first pixel's center is (0.5, 0.5)."""
        d = np.stack([(x - self.width / 2) / self.focal, (self.height / 2 - y) / self.focal, -np.ones_like(x)])
        d /= np.sqrt((d * d).sum(axis=0))
        return product(self.camera_to_world[:3, :3], d)

    @property
    def opencv_pose(self) -> Float[ndarray, "4 4"]:
        """World to camera in OpenCV axes: +x right, +y down, looks along +z."""
        return np.linalg.inv(self.camera_to_world @ np.diag([1.0, -1.0, -1.0, 1.0]))

    def intrinsics(self, first_pixel: float = 0.5) -> Float[ndarray, "3 3"]:
        """K in pixels. `first_pixel` is the coordinate of the first pixel's center: 0.5, or 0 to index pixels by it."""
        shift = 0.5 - first_pixel
        return np.array(
            [[self.focal, 0, self.width / 2 - shift], [0, self.focal, self.height / 2 - shift], [0.0, 0.0, 1.0]]
        )


def look_at(
    position: Float[ndarray, "3"], target: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Float[ndarray, "4 4"]:
    """Camera-to-world matrix of a camera at `position` that looks at `target`, upright."""
    back = position - np.asarray(target)
    back = back / np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
    pose[:3, 3] = position
    return pose


def _on_sphere(azimuth: float, sine_elevation: float, distance: float) -> Float[ndarray, "3"]:
    cosine = np.sqrt(1.0 - sine_elevation**2)
    return distance * np.array([cosine * np.cos(azimuth), cosine * np.sin(azimuth), sine_elevation])


def scattered_positions(
    count: int, distance: float, elevation: tuple[float, float], rng: np.random.Generator
) -> list[Float[ndarray, "3"]]:
    """Low-discrepancy positions on a band of the sphere: any first k of them are spread well, for few-view subsets.

    Args:
        count: number of positions.
        distance: radius of the sphere in scene units.
        elevation: lowest and highest elevation in degrees.
        rng: draws the offset of the sequence.
    Returns: `count` positions in scene units.
    Source: the R₂ sequence of M. Roberts, whose steps are powers of 1 / the plastic number.
    """
    plastic = 1.324717957244746
    offset = rng.random(2)
    low, high = np.sin(np.radians(elevation))
    u = (offset[:, None] + np.outer([1 / plastic, 1 / plastic**2], np.arange(count))) % 1.0
    return [_on_sphere(2 * np.pi * a, low + (high - low) * h, distance) for a, h in u.T]


def orbit_positions(count: int, distance: float, elevation: tuple[float, float]) -> list[Float[ndarray, "3"]]:
    """One round at even steps of azimuth, the elevation (degrees) swinging twice between its two ends."""
    low, high = np.radians(elevation)
    azimuth = 2 * np.pi * (np.arange(count) + 0.5) / count
    tilt = (low + high) / 2 - (high - low) / 2 * np.cos(2 * azimuth)
    return [_on_sphere(a, float(np.sin(e)), distance) for a, e in zip(azimuth, tilt)]


SPLITS = ("train", "val", "test")


def split_cameras(counts: dict[str, int], resolution: int, seed: int, unbounded: bool) -> dict[str, list[Camera]]:
    """Cameras of the three splits, all looking at the origin.

    Inward-facing: distance and field of view of the Blender scenes (near 2, far 6 hold the objects), training and
    validation views from the upper hemisphere, test views on an orbit. Unbounded: nearer, a wider field of view, and
    below 50° of elevation, so that the horizon is in most pictures.

    Args:
        counts: number of views of each split.
        resolution: pixels per side.
        seed: places the training and validation views.
        unbounded: which of the two rigs.
    """
    distance, field_of_view = (3.2, 1.0) if unbounded else (4.03, 0.6911112070083618)
    around, orbit = ((8.0, 50.0), (14.0, 34.0)) if unbounded else ((4.0, 76.0), (16.0, 40.0))
    positions = {
        "train": scattered_positions(counts["train"], distance, around, np.random.default_rng([seed, 3])),
        "val": scattered_positions(counts["val"], distance, around, np.random.default_rng([seed, 4])),
        "test": orbit_positions(counts["test"], distance, orbit),
    }
    focal = 0.5 * resolution / float(np.tan(0.5 * field_of_view))
    return {
        split: [Camera(look_at(position), resolution, resolution, focal) for position in positions[split]]
        for split in SPLITS
    }
