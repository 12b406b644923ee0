"""Errors of cameras: none under a similarity, and what was added where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from hashnffb_sdf_ns.camera_errors import Alignment, align_poses, pose_errors, rotation_angle, umeyama


def rotation(axis, degrees: float) -> np.ndarray:
    axis = np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    k = np.cross(np.eye(3), axis).T
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def ring(count: int = 12) -> np.ndarray:
    """Cameras at distance 3, looking at (1, 2, 3)."""
    poses = []
    for angle in 2 * np.pi * np.arange(count) / count:
        back = np.array([np.cos(angle), np.sin(angle), 0.5 * np.sin(3 * angle)])
        back /= np.linalg.norm(back)
        right = np.cross([0.0, 0.0, 1.0], back)
        right /= np.linalg.norm(right)
        poses.append(np.column_stack([right, np.cross(back, right), back, 3.0 * back + [1.0, 2.0, 3.0]]))
    return np.array(poses)


SIMILARITY = Alignment(2.7, rotation([1, 2, -1], 130.0), np.array([4.0, -9.0, 1.0]))


def test_umeyama_finds_the_similarity():
    points = np.random.default_rng(0).normal(size=(20, 3))
    found = umeyama(points, SIMILARITY.points(points))
    np.testing.assert_allclose(found.rotation, SIMILARITY.rotation, atol=1e-12)
    np.testing.assert_allclose([found.scale, *found.translation], [2.7, 4.0, -9.0, 1.0])


def test_umeyama_is_the_least_squares_solution():
    """Small changes of the solution never bring noisy points nearer."""
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2, 15, 3))
    best = umeyama(source, target)

    def cost(alignment: Alignment) -> float:
        return float(((alignment.points(source) - target) ** 2).sum())

    for _ in range(30):
        turned = rotation(rng.normal(size=3), rng.normal(scale=0.5)) @ best.rotation
        scale, shift = best.scale * np.exp(rng.normal(scale=0.01)), rng.normal(scale=0.01, size=3)
        assert cost(Alignment(scale, turned, best.translation + shift)) > cost(best)


def test_umeyama_gives_no_reflection():
    points = np.random.default_rng(0).normal(size=(20, 3))
    assert np.linalg.det(umeyama(points, points * [1.0, 1.0, -1.0]).rotation) == pytest.approx(1.0)


def test_a_similarity_is_no_error():
    errors = pose_errors(SIMILARITY.poses(ring()), ring())
    assert errors.rotation.max() < 1e-6 and errors.translation.max() < 1e-12
    assert errors.alignment.scale == pytest.approx(1 / 2.7)
    plain = pose_errors(SIMILARITY.poses(ring()), ring(), align=False)
    assert plain.rotation.min() > 50.0


def test_what_was_added_is_found():
    """Every camera turned by 2° about its own center, and moved by 2 % of its distance, in directions that cancel."""
    poses = ring()
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(len(poses), 3))
    noise -= noise.mean(axis=0)
    for pose, shift in zip(poses, noise):
        pose[:, :3] = rotation(rng.normal(size=3), 2.0) @ pose[:, :3]
        pose[:, 3] += 0.06 * shift / np.linalg.norm(noise, axis=1).mean()
    errors = pose_errors(poses, ring())
    assert errors.distance == pytest.approx(3.0)
    np.testing.assert_allclose(errors.rotation, 2.0, atol=0.8)  # the alignment takes a part of it
    metrics = errors.metrics()
    assert 0.012 < metrics["camera_translation_error_relative"] < 0.021
    assert metrics["camera_translation_error"] == pytest.approx(3 * metrics["camera_translation_error_relative"])
    unaligned = pose_errors(poses, ring(), align=False)
    np.testing.assert_allclose(unaligned.rotation, 2.0, atol=1e-9)
    assert unaligned.relative_translation.mean() == pytest.approx(0.02)
    assert errors.translation.mean() < unaligned.translation.mean()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_cameras_on_a_line_are_aligned_by_their_rotations(count):
    poses = np.repeat(ring()[2:3], count, axis=0)
    poses[:, :, 3] += np.arange(count)[:, None] * [1.0, 0.5, 0.0]
    errors = pose_errors(SIMILARITY.poses(poses), poses)
    assert errors.rotation.max() < 1e-5 and errors.translation.max() < 1e-9
    assert align_poses(poses, poses).scale == pytest.approx(1.0)


@pytest.mark.parametrize("degrees", [0.0, 1e-7, 1e-3, 2.0, 90.0, 179.0, 180.0])
def test_angles_are_exact_from_tiny_to_half_a_turn(degrees):
    base = ring()[4, :, :3]
    found = rotation_angle((rotation([1, -2, 3], degrees) @ base)[None], base[None])
    assert found[0] == pytest.approx(degrees, abs=1e-9 if degrees < 1 else 1e-5)
