"""Projection matrices: what is put together is what is taken apart, and what is no camera is refused."""

from __future__ import annotations

import numpy as np
import pytest

from common_ns.cameras.projection import decompose_projection, projection_matrices
from common_ns.errors import InputError
from hashnffb_sdf_ns.idr_data.cameras import Similarity, decompose, read_camera_file, similarity_of
from tests.hashnffb_sdf_ns import idr_scene

SHIFT = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])


def projection() -> np.ndarray:
    return SHIFT @ idr_scene.INTRINSICS @ idr_scene.poses()[3]


@pytest.mark.parametrize("factor", [1.0, -1.0, 7.3, -0.02])
def test_a_projection_gives_its_camera_whatever_its_factor(factor):
    intrinsics, c2w = decompose(factor * projection(), idr_scene.SIZE, "world_mat_3")
    np.testing.assert_allclose(intrinsics, SHIFT @ idr_scene.INTRINSICS, atol=1e-9)
    pose = idr_scene.poses()[3]
    np.testing.assert_allclose(c2w[:, 3], -pose[:, :3].T @ pose[:, 3], atol=1e-9)
    np.testing.assert_allclose(c2w[:, 0], pose[0, :3], atol=1e-12)  # right
    np.testing.assert_allclose(c2w[:, 1], -pose[1, :3], atol=1e-12)  # up
    np.testing.assert_allclose(c2w[:, 2], -pose[2, :3], atol=1e-12)  # back


def test_singular_projections_are_refused():
    flat = projection()
    flat[1] = 2.0 * flat[0]
    with pytest.raises(InputError, match=r"world_mat_3 is singular"):
        decompose(flat, idr_scene.SIZE, "world_mat_3")
    with pytest.raises(InputError, match=r"singular"):
        decompose(np.zeros((3, 4)), idr_scene.SIZE, "world_mat_3")


def test_cameras_of_larger_images_are_refused_with_their_size():
    doubled = np.diag([2.0, 2.0, 1.0]) @ projection()
    with pytest.raises(InputError, match=r"cameras for about 90×78"):
        decompose(doubled, idr_scene.SIZE, "world_mat_3")


def test_skew_that_matters_is_refused_and_rounding_is_not():
    skewed = SHIFT @ (idr_scene.INTRINSICS + np.array([[0.0, 8.0, 0.0], [0, 0, 0], [0, 0, 0]])) @ idr_scene.poses()[0]
    with pytest.raises(InputError, match=r"skew that shifts pixels by 2.1"):
        decompose(skewed, idr_scene.SIZE, "world_mat_0")
    slightly = (
        SHIFT @ (idr_scene.INTRINSICS + np.array([[0.0, 1e-3, 0.0], [0, 0, 0], [0, 0, 0]])) @ idr_scene.poses()[0]
    )
    assert decompose(slightly, idr_scene.SIZE, "world_mat_0")[0][0, 1] == 0.0


def test_a_similarity_maps_points_and_poses_alike():
    rotation = decompose_projection(np.random.default_rng(1).normal(size=(3, 4)))[1][:, :3]
    placed = Similarity(np.array([3.0, -2.0, 9.0]), 4.0, rotation)
    points = np.random.default_rng(2).normal(size=(5, 3))
    world = points @ placed.matrix[:3, :3].T + placed.matrix[:3, 3]
    np.testing.assert_allclose(placed.normalized_points(world), points, atol=1e-12)
    turned = placed.to_normalized
    np.testing.assert_allclose((world @ turned[:, :3].T + turned[:, 3]) / placed.radius, points, atol=1e-12)
    # A point that a camera sees at a pixel is seen there in normalized coordinates too.
    intrinsics, c2w = decompose(projection(), idr_scene.SIZE, "x")
    moved = placed.normalized_poses(c2w[None])
    target = idr_scene.CENTER + np.array([3.0, 5.0, -7.0])
    a = projection_matrices(intrinsics[None], c2w[None])[0] @ [*target, 1.0]
    b = projection_matrices(intrinsics[None], moved)[0] @ [*placed.normalized_points(target[None])[0], 1.0]
    np.testing.assert_allclose(a[:2] / a[2], b[:2] / b[2])
    np.testing.assert_allclose(similarity_of(placed.matrix).rotation, rotation, atol=1e-12)


def test_scale_mat_must_be_one_similarity(tmp_path):
    folder = idr_scene.write(tmp_path / "a", masks=False)
    path = folder / "cameras_sphere.npz"
    placed = read_camera_file(path).similarity()
    assert placed is not None and placed.radius == pytest.approx(50.0)
    idr_scene.change_cameras(folder, lambda a: a.update(scale_mat_4=1.2 * a["scale_mat_4"]))
    with pytest.raises(InputError, match=r"scale_mat_4 differs"):
        read_camera_file(path).similarity()
    idr_scene.change_cameras(folder, lambda a: a.pop("scale_mat_4"))
    with pytest.raises(InputError, match=r"scale_mat_4 is missing"):
        read_camera_file(path).similarity()
    with pytest.raises(InputError, match=r"not a uniform scale"):
        similarity_of(np.diag([1.0, 2.0, 1.0, 1.0]))


def test_extrinsics_alone_take_their_intrinsics_from_camera_mat(tmp_path):
    """K in pixels, and K to [−1, 1] between the first and the last pixel's center, give the same cameras."""
    folder = idr_scene.write(tmp_path / "a", masks=False)
    path = folder / "cameras_sphere.npz"
    expected = read_camera_file(path).projections([0, 3], [idr_scene.SIZE] * 2)
    np.testing.assert_allclose(expected[1], projection())
    width, height = idr_scene.SIZE
    to_unit = np.array([[2 / (width - 1), 0, -1], [0, 2 / (height - 1), -1], [0, 0, 1]])
    for intrinsics in (idr_scene.INTRINSICS, to_unit @ idr_scene.INTRINSICS):
        camera = np.eye(4)
        camera[:3, :3] = intrinsics

        def bare(arrays, camera=camera):
            for index, pose in enumerate(idr_scene.poses()):
                arrays[f"world_mat_{index}"] = np.vstack([pose, [0, 0, 0, 1]])
                arrays[f"camera_mat_{index}"] = camera

        idr_scene.change_cameras(folder, bare)
        found = read_camera_file(path).projections([0, 3], [idr_scene.SIZE] * 2)
        np.testing.assert_allclose(found, expected, atol=1e-9)
    idr_scene.change_cameras(folder, lambda a: [a.pop(name) for name in list(a) if name.startswith("camera_mat")])
    with pytest.raises(InputError, match=r"focal length of less than 10 pixels"):
        read_camera_file(path).projections([0], [idr_scene.SIZE])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an archive", "cannot be read as an .npz file"),
        ({"scale_mat_0": np.eye(4)}, "no world_mat_0; the file holds scale_mat_0"),
        ({"world_mat_0": np.full((4, 4), np.nan)}, "world_mat_0 holds nan"),
        ({"world_mat_0": np.zeros((2, 4))}, "world_mat_0 is an array of float64 of shape"),
    ],
)
def test_bad_files_are_explained(tmp_path, content, message):
    path = tmp_path / "cameras.npz"
    path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
    with pytest.raises(InputError, match=message):
        read_camera_file(path)
    with pytest.raises(InputError, match=r"does not exist"):
        read_camera_file(tmp_path / "missing.npz")
