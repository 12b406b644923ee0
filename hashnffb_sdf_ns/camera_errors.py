"""How far refined cameras are from reference cameras, after the similarity that the images leave open. Pure numpy.

Images do not tell where the world's origin is, how it is turned and how large it is: refined cameras may drift together
by a similarity without being any worse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from common_ns.cameras.geometry import nearest_point_to_axes, positions

DEGENERATE = 1e-6
"""Ratio of the second to the first singular value of positions, below which they lie on a line."""


@dataclass(frozen=True)
class Alignment:
    """x ↦ scale · rotation x + translation."""

    scale: float
    rotation: Float[NDArray, "3 3"]
    translation: Float[NDArray, "3"]

    def points(self, points: Float[NDArray, "n 3"]) -> Float[NDArray, "n 3"]:
        """Mapped points."""
        return self.scale * points @ self.rotation.T + self.translation

    def poses(self, poses: Float[NDArray, "n 3 4"]) -> Float[NDArray, "n 3 4"]:
        """Mapped camera-to-world matrices; they stay rigid."""
        return np.concatenate([self.rotation @ poses[:, :, :3], self.points(poses[:, :, 3])[:, :, None]], axis=2)


def umeyama(source: Float[NDArray, "n 3"], target: Float[NDArray, "n 3"], with_scale: bool = True) -> Alignment:
    """The similarity with the least sum of squared distances between mapped source points and target points.

    Args:
        source: points to map; at least three, not on a line, or the rotation is not determined.
        target: where they belong.
        with_scale: False keeps scale 1.
    Source: Umeyama, "Least-squares estimation of transformation parameters between two point patterns" (1991).
    """
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    a, b = source - mean_source, target - mean_target
    u, values, vt = np.linalg.svd(b.T @ a)
    signs = np.ones(3)
    signs[2] = np.sign(np.linalg.det(u @ vt))  # a rotation, not a reflection
    rotation = (u * signs) @ vt
    spread = float((a * a).sum())
    scale = float(values @ signs) / spread if with_scale and spread > 0 else 1.0
    return Alignment(scale, rotation, mean_target - scale * rotation @ mean_source)


def align_poses(poses: Float[NDArray, "n 3 4"], reference: Float[NDArray, "n 3 4"]) -> Alignment:
    """The similarity between two sets of cameras: by their positions (Umeyama), or, where these are on a line or fewer
    than three, by the mean of the rotations between them, with the scale of the positions if there are two."""
    source, target = positions(poses), positions(reference)
    values = np.linalg.svd(target - target.mean(axis=0), compute_uv=False)
    if len(poses) >= 3 and values[1] > DEGENERATE * values[0]:
        return umeyama(source, target)
    u, _, vt = np.linalg.svd(np.einsum("nij,nkj->ik", reference[:, :, :3], poses[:, :, :3]))
    rotation = (u * np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])) @ vt
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    spread = float((a * a).sum())
    scale = float(np.sqrt((b * b).sum() / spread)) if spread > 0 and values[0] > 0 else 1.0
    return Alignment(scale, rotation, target.mean(axis=0) - scale * rotation @ source.mean(axis=0))


@dataclass(frozen=True)
class PoseErrors:
    """What is left after the alignment."""

    rotation: Float[NDArray, " n"]
    """Angle between the axes of each camera and its reference, in degrees."""
    translation: Float[NDArray, " n"]
    """Distance between the positions, in the reference's unit."""
    distance: float
    """Mean distance of the reference cameras from what they look at, in the same unit."""
    alignment: Alignment
    """From the refined cameras to the reference."""

    @property
    def relative_translation(self) -> Float[NDArray, " n"]:
        """Translation as a share of the mean distance to the object."""
        return self.translation / self.distance

    def metrics(self) -> dict[str, float]:
        """Means under the names that evaluations report."""
        return {
            "camera_rotation_error_deg": float(self.rotation.mean()),
            "camera_translation_error": float(self.translation.mean()),
            "camera_translation_error_relative": float(self.relative_translation.mean()),
        }


def pose_errors(poses: Float[NDArray, "n 3 4"], reference: Float[NDArray, "n 3 4"], align: bool = True) -> PoseErrors:
    """Rotation and translation errors of cameras.

    Args:
        poses: refined camera-to-world matrices.
        reference: of the same cameras, in the same axes convention.
        align: map the refined cameras to the reference by a similarity first.
    """
    poses, reference = (np.asarray(p, dtype=np.float64)[:, :3] for p in (poses, reference))
    alignment = align_poses(poses, reference) if align else Alignment(1.0, np.eye(3), np.zeros(3))
    mapped = alignment.poses(poses)
    point, spread = nearest_point_to_axes(reference)
    if spread < 1e-4:  # parallel axes do not meet; the cameras' own spread is the length to compare with
        point = positions(reference).mean(axis=0)
    distance = float(np.linalg.norm(positions(reference) - point, axis=1).mean())
    return PoseErrors(
        rotation_angle(mapped[:, :, :3], reference[:, :, :3]),
        np.linalg.norm(positions(mapped) - positions(reference), axis=1),
        distance if distance > 0 else 1.0,
        alignment,
    )


def rotation_angle(a: Float[NDArray, "n 3 3"], b: Float[NDArray, "n 3 3"]) -> Float[NDArray, " n"]:
    """Angle of the rotations aᵀ b in degrees, accurate for small angles too, where arccos of the trace is not."""
    # ‖a − b‖ (Frobenius) is 2 √2 sin(angle / 2).
    half_sine = np.linalg.norm(a - b, axis=(1, 2)) / (2.0 * np.sqrt(2.0))
    return np.degrees(2.0 * np.arcsin(np.clip(half_sine, 0.0, 1.0)))
