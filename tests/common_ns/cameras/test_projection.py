"""Projections: what is put together is what is taken apart, and points land where a camera sees them."""

from __future__ import annotations

import numpy as np
import pytest

from common_ns.cameras.projection import decompose_projection, project, projection_matrices

INTRINSICS = np.array([[500.0, 2.0, 320.0], [0.0, 510.0, 240.0], [0.0, 0.0, 1.0]])


def some_pose(seed: int = 0) -> np.ndarray:
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0]
    return np.column_stack([rotation * np.sign(np.linalg.det(rotation)), [1.0, -2.0, 3.0]])


@pytest.mark.parametrize("factor", [1.0, -0.3, 7.3])
def test_a_projection_gives_its_camera_whatever_its_factor(factor):
    pose = some_pose()
    intrinsics, c2w = decompose_projection(factor * projection_matrices(INTRINSICS[None], pose[None])[0])
    np.testing.assert_allclose(intrinsics, INTRINSICS, atol=1e-8)
    np.testing.assert_allclose(c2w, pose, atol=1e-9)


def test_any_matrix_is_the_projection_of_a_camera():
    rng = np.random.default_rng(0)
    for _ in range(50):
        matrix = rng.normal(size=(3, 4))
        intrinsics, c2w = decompose_projection(matrix)
        rotation = c2w[:, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1.0) and (np.diag(intrinsics) > 0).all()
        np.testing.assert_allclose(np.tril(intrinsics, -1), 0.0, atol=1e-9)
        again = projection_matrices(intrinsics[None], c2w[None])[0]
        sign = np.sign(np.linalg.det(matrix[:, :3]))
        np.testing.assert_allclose(again / np.linalg.norm(again), sign * matrix / np.linalg.norm(matrix), atol=1e-9)


def test_points_land_where_their_rays_leave_the_image():
    """x to the right of the optical axis is right in the image, y above it is above; behind the camera is nothing."""
    pose = some_pose(1)
    matrix = projection_matrices(INTRINSICS[None], pose[None])[0]
    right, up, back, position = pose.T
    points = position + np.array([-4.0 * back, -4.0 * back + right, -4.0 * back + up, 4.0 * back, -4.0 * back + 9 * up])
    pixels, seen = project(matrix, points, (640, 480))
    np.testing.assert_allclose(pixels[:3], [[320.0, 240.0], [445.0, 240.0], [319.5, 112.5]], atol=1e-9)
    assert seen.tolist() == [True, True, True, False, False]
