"""A capture is called badly scaled only if it is, and what is recommended mends it."""

import numpy as np
import pytest
import torch

from mipnerf_ns.scene_scale import SceneScale, diagnose_scene_scale


def poses(positions, target=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Camera-to-world matrices [n, 3, 4] at the positions, looking at the target (along −z)."""
    positions = np.asarray(positions, dtype=float)
    back = positions - np.asarray(target)
    back = back / np.maximum(np.linalg.norm(back, axis=-1, keepdims=True), 1e-9)
    result = np.zeros((len(positions), 3, 4))
    result[:, :, 2], result[:, :, 3] = back, positions
    return result


def ring(distance: float, count: int = 50, height: float = 0.0) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([distance * np.cos(angle), distance * np.sin(angle), np.full(count, height)], axis=-1)


def shell(distance: float, count: int = 1000) -> np.ndarray:
    points = np.random.default_rng(0).normal(size=(count, 3))
    return distance * points / np.linalg.norm(points, axis=1, keepdims=True)


def mended(scale: SceneScale, cameras, points=None) -> bool:
    """Whether the recommended radius, as the warning states it, is fine."""
    assert scale.recommended_radius is not None
    assert f"--pipeline.model.contraction-radius {scale.recommended_radius:g}" in str(scale.warning())
    return diagnose_scene_scale(poses(cameras), points, scale.recommended_radius).problem is None


def test_counts_what_is_inside_in_one_line():
    points = np.concatenate([shell(0.5, 3120), shell(2.0, 1294)])
    scale = diagnose_scene_scale(poses([*ring(0.9, 43), *ring(1.1, 2)]), points)
    expected = "Cameras inside the contraction's unit sphere (radius 1): 43 of 45; SfM points: 3,120 of 4,414."
    assert scale.lines() == [expected]
    assert scale.problem is None and scale.recommended_radius is None


def test_says_when_no_points_are_known():
    for nothing in (None, torch.zeros(0, 3)):
        scale = diagnose_scene_scale(poses(ring(0.9)), nothing, radius=2.5)
        assert scale.lines() == [
            "Cameras inside the contraction's unit sphere (radius 2.5): 50 of 50; SfM points: none loaded."
        ]


def test_what_auto_scaling_leaves_is_fine():
    # Into the cube [−1, 1]³: a square walk has cameras up to √2 from the origin.
    side = np.linspace(-1, 1, 20)
    square = np.array([(x, y, 0.0) for s in side for x, y in ((s, 1), (s, -1), (1, s), (-1, s))])
    assert diagnose_scene_scale(poses(square)).problem is None
    assert diagnose_scene_scale(poses(ring(1.0, height=0.7))).problem is None


def test_more_than_a_tenth_of_the_cameras_outside():
    inside, outside = ring(0.9, 90), ring(4.0, 11)
    assert diagnose_scene_scale(poses([*inside, *outside[:9]])).problem is None
    scale = diagnose_scene_scale(poses([*inside, *outside]))
    assert scale.problem == "cameras outside" and scale.recommended_radius == 4.2
    assert "11 of 101 cameras" in scale.lines()[1]
    assert mended(scale, [*inside, *outside])


@pytest.mark.parametrize("points", [None, shell(0.3)])
def test_ball_far_larger_than_the_capture(points):
    cameras = ring(0.2)
    scale = diagnose_scene_scale(poses(cameras), points)
    assert scale.problem == "ball too large"
    assert scale.recommended_radius == (0.21 if points is None else 0.32)  # half of the points count as well
    assert mended(scale, cameras, points)


def test_close_cameras_in_a_wide_scene_are_fine():
    assert diagnose_scene_scale(poses(ring(0.2)), shell(0.8)).problem is None
    assert diagnose_scene_scale(poses(ring(0.3))).problem is None


def test_nearly_all_points_outside():
    points = np.concatenate([shell(0.5, 9), shell(5.04, 91)])
    scale = diagnose_scene_scale(poses(ring(0.9)), points)
    assert scale.problem == "points outside" and scale.recommended_radius == 5.3
    assert "only 9 of 100 SfM points" in scale.lines()[1]
    assert "--auto-scale-poses" not in scale.lines()[1]  # the cameras are where it puts them
    assert mended(scale, ring(0.9), points)
    assert diagnose_scene_scale(poses(ring(0.9)), np.concatenate([shell(0.5, 10), shell(5.0, 90)])).problem is None


def test_a_handful_of_points_is_no_evidence():
    assert diagnose_scene_scale(poses(ring(0.9)), shell(5.0, 5)).problem is None


@pytest.mark.parametrize("stray", [1, 4])
def test_stray_cameras_do_not_set_the_radius(stray):
    # One camera that SfM put far away shrinks all others when the poses are scaled.
    cameras = np.concatenate([ring(0.02, 96), ring(1.0, stray)])
    scale = diagnose_scene_scale(poses(cameras))
    assert scale.problem == "ball too large" and scale.recommended_radius == 0.021
    assert "--auto-scale-poses" not in scale.lines()[1]  # it is on, and no help
    assert mended(scale, cameras)


def test_scaling_is_offered_only_where_it_helps():
    option = "--auto-scale-poses True --scale-factor 1 after nerfstudio-data or colmap"
    assert option in diagnose_scene_scale(poses(ring(5.0))).lines()[1]
    assert option not in diagnose_scene_scale(poses(ring(1.0)), radius=10.0).lines()[1]
    assert option not in diagnose_scene_scale(poses(ring(0.1)), radius=10.0).lines()[1]


def test_centring_is_offered_only_if_the_origin_is_off():
    option = "--center-method poses"
    away = ring(1.0) + np.array([10.0, 0.0, 0.0])
    scale = diagnose_scene_scale(poses(away, target=(10.0, 0.0, 0.0)))
    assert scale.off_center and option in scale.lines()[1] and mended(scale, away)
    # A turntable seen from above, and a forward-facing capture that is centered on what it looks at.
    assert option not in diagnose_scene_scale(poses(ring(3.0, height=4.0))).lines()[1]
    assert option not in diagnose_scene_scale(poses(0.1 * ring(1.0) + np.array([4.0, 0.0, 0.0]))).lines()[1]


def test_recommendation_mends_captures_of_any_size():
    rng = np.random.default_rng(0)
    for _ in range(300):
        cameras = rng.normal(size=(rng.integers(2, 80), 3)) * 10 ** rng.uniform(-3, 3) + rng.normal(size=3)
        points = None
        if rng.random() < 0.7:
            points = rng.normal(size=(rng.integers(10, 300), 3)) * 10 ** rng.uniform(-3, 3)
        scale = diagnose_scene_scale(poses(cameras), points, 10 ** rng.uniform(-1, 1))
        assert scale.problem is None or mended(scale, cameras, points)


def test_result_does_not_depend_on_the_container():
    cameras, points = poses(ring(4.0)), shell(3.0)
    expected = diagnose_scene_scale(cameras, points)
    full = np.concatenate([cameras, np.tile([[[0.0, 0.0, 0.0, 1.0]]], (len(cameras), 1, 1))], axis=1)
    assert diagnose_scene_scale(torch.from_numpy(full), torch.from_numpy(points)) == expected


@pytest.mark.parametrize(
    ("cameras", "points"),
    [([], None), ([[0.0, 0.0, 0.0]], None), ([[0.0, 0.0, 0.0]] * 5, None), ([[0.1, 0.0, 0.0]], None)],
)
def test_cameras_in_one_spot_say_nothing(cameras, points):
    given = poses(cameras) if cameras else np.zeros((0, 3, 4))
    scale = diagnose_scene_scale(given, points)
    assert scale.problem is None and len(scale.lines()) == 1
    assert np.isfinite([scale.camera_median, scale.camera_q95, scale.camera_q98, scale.centroid_offset]).all()


def test_one_camera_and_points():
    assert diagnose_scene_scale(poses([[20.0, 0, 0]])).recommended_radius == 21
    scale = diagnose_scene_scale(poses([[0.0, 0, 0]]), shell(20.0))
    assert scale.problem == "points outside" and scale.recommended_radius == 21


def test_what_is_not_finite_is_left_out():
    cameras, points = poses(ring(0.9)), shell(0.5)
    cameras[3, 0, 3], points[7, 1] = np.nan, np.inf
    scale = diagnose_scene_scale(cameras, points)
    assert (scale.num_cameras, scale.num_points, scale.problem) == (49, 999, None)
