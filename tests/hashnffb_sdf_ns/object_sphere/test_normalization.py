"""Where the object is: hulls hold it, spheres hold the hull, and a bad scale is seen."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import KDTree

from hashnffb_sdf_ns.idr_data.cameras import Similarity, decompose
from hashnffb_sdf_ns.object_sphere.normalization import (
    diagnose,
    enclosing_sphere,
    extent_of_cameras,
    extent_of_masks,
    extent_of_points,
    scene_extent,
)
from hashnffb_sdf_ns.object_sphere.visual_hull import View, _without_specks, carve, likely_region, pixels_of
from tests.hashnffb_sdf_ns import idr_scene

SHIFT = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
ANGLES = np.full(idr_scene.COUNT, np.arctan(18 / 70))


def views() -> list[View]:
    return [View(SHIFT @ idr_scene.INTRINSICS @ pose, idr_scene.mask_of(pose)) for pose in idr_scene.poses()]


def poses() -> np.ndarray:
    return np.stack([decompose(view.projection, idr_scene.SIZE, "x")[1] for view in views()])


def test_pixels_agree_with_rays():
    """A point on the ray of a pixel's center is found in that pixel; one behind the camera is not in view."""
    pose, view = idr_scene.poses()[1], views()[1]
    origin, directions = idr_scene.rays(pose)
    points = (origin + 150.0 * directions).reshape(-1, 3)
    row, column, seen = pixels_of(view, points)
    assert seen.all() and (row * idr_scene.SIZE[0] + column == np.arange(len(points))).all()
    assert not pixels_of(view, 2 * origin - points)[2].any()


def assert_holds_ball(hull) -> None:
    rng = np.random.default_rng(0)
    surface = rng.normal(size=(500, 3))
    surface = idr_scene.CENTER + 0.93 * idr_scene.RADIUS * surface / np.linalg.norm(surface, axis=1, keepdims=True)
    nearest, _ = KDTree(hull.points).query(surface)
    assert nearest.max() < hull.voxel_size
    assert np.linalg.norm(hull.points - idr_scene.CENTER, axis=1).max() < 1.35 * idr_scene.RADIUS


def region(some: list[View]):
    return likely_region(some, np.zeros(3))


def test_the_hull_holds_the_object_and_little_more():
    hull = carve(views(), *region(views()))
    assert_holds_ball(hull)
    assert hull.agreement.min() > 0.93 and hull.coverage.min() > 0.97


def test_specks_do_not_count_and_parts_do():
    """Two large pieces are kept, two voxels that touch at a corner are not."""
    points = np.stack(np.meshgrid(*[np.arange(12.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) + 0.5
    two = np.concatenate([points, points + 40.0])
    speck = np.array([[30.5, 0.5, 0.5], [31.5, 1.5, 1.5]])
    np.testing.assert_array_equal(_without_specks(np.concatenate([two, speck]), np.zeros(3), 1.0), two)


def test_few_cameras_do_not_stretch_the_hull():
    """Three of these four stand close together: without the fourth, the hull would reach out ten radii."""
    some = [
        View(SHIFT @ idr_scene.INTRINSICS @ pose, idr_scene.mask_of(pose)) for pose in idr_scene.poses(36)[[0, 1, 2, 9]]
    ]
    hull = carve(some, *region(some))
    assert 1.0 < np.linalg.norm(hull.points - idr_scene.CENTER, axis=1).max() / idr_scene.RADIUS < 2.0


@pytest.mark.parametrize(
    "spoil", [lambda m: np.zeros_like(m), lambda m: ~m, lambda m: np.roll(m, 20, axis=1), lambda m: np.ones_like(m)]
)
def test_one_bad_mask_does_not_matter(spoil):
    some = views()
    some[4] = View(some[4].projection, spoil(some[4].mask))
    hull = carve(some, *region(some))
    assert_holds_ball(hull)
    assert hull.agreement[4] < 0.8 or hull.coverage[4] < 0.5


def test_the_region_grows_to_where_the_object_is():
    """Half of the object is outside of the first cube."""
    assert_holds_ball(carve(views(), idr_scene.CENTER + np.array([30.0, 0.0, 0.0]), 35.0))


def test_masks_that_contradict_each_other_have_no_hull():
    """Small spots anywhere: the rays through them do not meet."""
    rng = np.random.default_rng(0)
    some = [View(view.projection, np.zeros_like(view.mask)) for view in views()]
    for view in some:
        row, column = rng.integers(0, 32), rng.integers(0, 44)
        view.mask[row : row + 4, column : column + 4] = True
    assert extent_of_masks(some, poses()) is None


def test_enclosing_sphere_is_nearly_the_smallest():
    rng = np.random.default_rng(0)
    for _ in range(5):
        points = rng.normal(size=(300, 3)) * [1.0, 0.2, 3.0] + [5.0, 1.0, -3.0]
        center, radius = enclosing_sphere(points)
        assert np.linalg.norm(points - center, axis=1).max() <= radius * (1 + 1e-12)
        # No sphere is smaller than half of the largest distance between two points.
        diameter = np.linalg.norm(points[:, None] - points[None], axis=-1).max()
        assert radius < 1.15 * 0.5 * diameter
    ends = np.array([[-2.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert enclosing_sphere(ends)[1] == pytest.approx(2.0, rel=0.01)


def test_stray_points_do_not_count():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(500, 3)), 1e3 * rng.normal(size=(20, 3)), np.full((3, 3), np.nan)])
    extent = extent_of_points(points)
    assert extent is not None and 2.0 < extent.sphere.radius < 5.0
    assert extent_of_points(points[:20]) is None


def test_cameras_that_look_at_a_point_tell_the_sphere():
    extent = extent_of_cameras(poses(), ANGLES)
    assert extent is not None
    np.testing.assert_allclose(extent.sphere.center, idr_scene.CENTER, atol=1e-6)
    assert 30.0 < extent.sphere.radius < 60.0  # of 180 × sin 14.4°, and farther where cameras are higher up
    outward = poses()
    outward[:, :, 0], outward[:, :, 2] = -outward[:, :, 0], -outward[:, :, 2]
    assert extent_of_cameras(outward, ANGLES) is None
    parallel = np.repeat(poses()[:1], 5, axis=0)
    parallel[:, 0, 3] += np.arange(5.0)
    assert extent_of_cameras(parallel, ANGLES[:5]) is None


def test_background_points_do_not_count_where_cameras_look_at_one_point():
    rng = np.random.default_rng(0)
    near = idr_scene.CENTER + 20.0 * rng.normal(size=(200, 3)).clip(-1.5, 1.5)
    far = idr_scene.CENTER + 2000.0 * rng.normal(size=(400, 3))
    extent = scene_extent(poses(), ANGLES, np.concatenate([near, far]))
    assert extent is not None and extent.source == "points" and extent.sphere.radius < 80.0


@pytest.mark.parametrize(
    ("center", "radius", "problem"),
    [
        (idr_scene.CENTER, 50.0, None),
        (idr_scene.CENTER, 30.0, "of the visual hull is outside the unit sphere"),
        (idr_scene.CENTER + 100.0, 50.0, "100% of the visual hull is outside"),
        (idr_scene.CENTER, 180.0, "most of the unit sphere is empty"),
        (idr_scene.CENTER, 120.0, None),
    ],
)
def test_a_bad_scale_is_named(center, radius, problem):
    extent = extent_of_masks(views(), poses())
    assert extent is not None
    diagnosis = diagnose(extent, poses(), Similarity(np.asarray(center, dtype=float), radius))
    found = diagnosis.problem()
    assert (found is None) if problem is None else (found is not None and problem in found)
    assert diagnosis.cameras == 10 and diagnosis.cameras_inside == 0
    distance = np.linalg.norm(extent.points - center, axis=1)
    assert diagnosis.inside == pytest.approx((distance <= radius).mean())
    # The remedy is one.
    assert diagnose(extent, poses(), extent.sphere).problem() is None


def test_cameras_that_need_not_be_inside_are_named():
    extent = extent_of_masks(views(), poses())
    assert extent is not None
    diagnosis = diagnose(extent, poses(), Similarity(idr_scene.CENTER, 220.0))
    assert diagnosis.cameras_inside == 10 and diagnosis.problem() is not None
    cameras = extent_of_cameras(poses(), ANGLES)
    assert cameras is not None
    aside = diagnose(cameras, poses(), Similarity(idr_scene.CENTER + np.array([40.0, 0.0, 0.0]), 50.0)).problem()
    assert aside is not None and "look at is 0.8 from the middle" in aside
