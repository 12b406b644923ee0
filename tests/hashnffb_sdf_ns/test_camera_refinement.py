"""Refined cameras: true rotations, numbers that weigh alike, and test views that follow a drift of all cameras."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from scipy.spatial.transform import Rotation

from common_ns.cameras.geometry import look_at
from hashnffb_sdf_ns.camera_errors import Alignment, pose_errors
from hashnffb_sdf_ns.camera_refinement import (
    CameraRefinement,
    CameraRefinementConfig,
    aligned_camera,
    alignment_to_refined,
    ball_points,
    camera_metrics,
    picture_axes,
    rotation_matrix,
)


def poses(count: int = 6, distance: float = 2.7) -> torch.Tensor:
    """Cameras around the origin, which they look at."""
    angles = np.linspace(0, 2.5, count)
    places = distance * np.stack([np.cos(angles), np.sin(angles), np.full(count, 0.3)], axis=-1)
    return torch.from_numpy(look_at(places, np.zeros(3), np.array([0.0, 0.0, 1.0])))


def refinement(count: int = 6, mode: Literal["off", "SO3xR3"] = "SO3xR3") -> CameraRefinement:
    config = CameraRefinementConfig(mode=mode)
    return config.setup(num_cameras=count, device="cpu", camera_to_worlds=poses(count).float(), radius=1.0)


def picture(pose: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Tangents of the angles at which a camera sees points."""
    seen = (points - pose[:, 3]) @ pose[:, :3]
    return seen[:, :2] / -seen[:, 2:]


def test_rotations_are_those_of_quaternions():
    turn = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    found = rotation_matrix(turn)
    expected = Rotation.from_quat(torch.cat([0.5 * turn, torch.ones(20, 1)], dim=-1).numpy()).as_matrix()
    assert np.allclose(found.numpy(), expected)
    small = 1e-4 * turn
    by_exponential = Rotation.from_rotvec(small.numpy()).as_matrix()
    assert np.allclose(rotation_matrix(small).numpy(), by_exponential, atol=1e-11)
    zero = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotation_matrix, zero)


def test_refinement_begins_with_the_cameras_of_the_data():
    model = refinement()
    expected = poses()
    assert torch.allclose(model.refined_poses(expected), expected, atol=1e-7)
    off = refinement(mode="off")
    assert not list(off.parameters()) and off.refined_poses(expected) is expected


def test_rays_are_those_of_the_refined_camera():
    """What rays see in training, and the poses that errors are taken of, are the same cameras."""
    model, original = refinement(), poses().float()
    with torch.no_grad():
        model.pose_adjustment.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    cameras = [Cameras(p, 50.0, 50.0, 8.0, 6.0, 16, 12) for p in (original, model.refined_poses(original).detach())]
    indices = torch.arange(6)[:, None]
    coords = torch.full((6, 2), 3.5)
    given, expected = (camera.generate_rays(camera_indices=indices, coords=coords) for camera in cameras)
    given.camera_indices = indices
    found = model.refine(given)
    assert torch.allclose(found.origins, expected.origins, atol=1e-6)
    assert torch.allclose(found.directions, expected.directions, atol=1e-6)
    assert not torch.allclose(given.directions, expected.directions, atol=1e-3)  # and the given rays are unharmed


def test_cameras_stay_until_refinement_starts():
    """By the absolute step: a resumed run goes on as an uninterrupted one."""
    model, camera = refinement(), Cameras(poses().float(), 50.0, 50.0, 8.0, 6.0, 16, 12)
    rays = camera.generate_rays(camera_indices=torch.arange(6)[:, None], coords=torch.full((6, 2), 3.5))
    rays.camera_indices = torch.arange(6)[:, None]
    model.step = model.config.start_step - 1
    assert not model.refine(rays).directions.requires_grad
    model.step += 1
    assert model.refine(rays).directions.requires_grad and model.refine(rays).origins.requires_grad


def test_numbers_move_the_picture_independently_of_each_other_and_the_least_visible_come_first():
    """J of the picture by the numbers, from finite differences through the poses themselves."""
    original = poses().double()
    matrices = picture_axes(original, 1.0)
    points = 0.7 * ball_points(64)
    for pose, matrix in zip(original, matrices):
        jacobian = []
        for j in range(6):
            ends = []
            for sign in (1e-5, -1e-5):
                delta = sign * matrix[:, j]
                turned = rotation_matrix(delta[None, 3:])[0] @ pose[:, :3]
                moved = torch.cat([turned, pose[:, 3:] + delta[:3, None]], dim=-1)
                ends.append(picture(moved, points))
            jacobian.append((ends[0] - ends[1]).flatten() / 2e-5)
        stacked = torch.stack(jacobian, dim=-1)
        normal = stacked.T @ stacked / len(points)
        strength = normal.diagonal()
        assert torch.allclose(normal / torch.outer(strength, strength).sqrt(), torch.eye(6).double(), atol=1e-4)
        assert bool((strength.diff() >= 0).all())
        assert float(strength[-1]) > 100 * float(strength[0])
        # All are as long, with shifts relative to the distance.
        relative = torch.cat([matrix[:3] / pose[:, 3].norm(), matrix[3:]])
        assert torch.allclose(relative.T @ relative, torch.eye(6).double(), atol=1e-9)


def test_the_least_visible_moves_turn_about_the_middle_of_the_scene():
    """They shift the camera and turn it so that the origin stays where it is seen."""
    original = poses().double()
    for pose, matrix in zip(original, picture_axes(original, 1.0)):
        for column in matrix[:, :2].T:
            shift_seen = torch.linalg.cross(column[3:], -pose[:, 3]) + column[:3]
            across = shift_seen - (shift_seen @ pose[:, 2]) * pose[:, 2]
            assert float(across.norm()) < 0.1 * float(column[:3].norm())
            assert float(column[:3].norm()) > 0.5 * float(pose[:, 3].norm())


def test_parallax_waits_for_its_step():
    """By the absolute step, and without a gradient, so that the optimizer does not move what waits."""
    model, rays = refinement(), torch.arange(6)
    waits = model.config.parallax_start_step
    for step, moves in ((waits - 1, 4), (waits, 6)):
        model.step = step
        (gradient,) = torch.autograd.grad(model(rays).square().sum() + model(rays).sum(), model.pose_adjustment)
        assert bool((gradient[:, 6 - moves :] != 0).all()) and not gradient[:, : 6 - moves].any()


@pytest.mark.parametrize("distance", [0.0, 0.3, 30.0])
def test_cameras_within_the_sphere_and_far_from_it_get_finite_numbers(distance):
    original = poses(distance=1.0).double()
    original[:, :, 3] *= distance
    away = original.clone()
    away[:, :, 0] *= -1.0
    away[:, :, 2] *= -1.0  # they look away from the sphere
    for each in (original, away):
        found = picture_axes(each, 1.0)
        assert torch.isfinite(found).all() and float(found.abs().max()) < 1e4


def test_perturbed_cameras_find_back_along_their_pictures():
    """2° and 2 % of the distance, by Adam on the points' pictures."""
    generator = np.random.default_rng(0)
    true = poses()
    turn = generator.normal(size=(6, 3))
    turn *= np.radians(2.0) / np.linalg.norm(turn, axis=1, keepdims=True)
    shift = generator.normal(size=(6, 3))
    shift *= 0.02 * 2.7 / np.linalg.norm(shift, axis=1, keepdims=True)
    rotation = torch.from_numpy(Rotation.from_rotvec(turn).as_matrix())
    noisy = torch.cat([rotation @ true[:, :, :3], true[:, :, 3:] + torch.from_numpy(shift)[..., None]], dim=-1)
    config = CameraRefinementConfig(mode="SO3xR3")
    model = config.setup(num_cameras=6, device="cpu", camera_to_worlds=noisy.float(), radius=1.0)
    model.step = model.config.parallax_start_step
    points = 0.7 * ball_points(64)
    targets = [picture(pose, points) for pose in true]
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 5e-3 * 0.97**step
        optimizer.zero_grad()
        refined = model.refined_poses(noisy)
        loss = sum((picture(p, points) - t).square().mean() for p, t in zip(refined, targets))
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
    errors = pose_errors(model.refined_poses(noisy).detach().numpy(), true.numpy(), align=False)
    assert errors.rotation.max() < 0.1 and errors.relative_translation.max() < 0.002


def drifted() -> tuple:
    """A refinement that has turned and shifted all cameras alike, and the data set's metadata."""
    model, original = refinement(), poses()
    drift = Alignment(1.0, Rotation.from_rotvec([0.05, -0.02, 0.1]).as_matrix(), np.array([0.1, 0.05, -0.2]))
    moved = torch.from_numpy(drift.poses(original.numpy()))
    shift = moved[:, :, 3] - original[:, :, 3]
    vector = Rotation.from_matrix((moved[:, :, :3] @ original[:, :, :3].transpose(1, 2)).numpy()).as_rotvec()
    angle = np.linalg.norm(vector, axis=1, keepdims=True)
    turn = torch.from_numpy(vector / angle * 2.0 * np.tan(0.5 * angle))
    delta = torch.cat([shift, turn], dim=-1)
    with torch.no_grad():
        numbers = torch.linalg.solve(model.axes.double(), delta[..., None])[..., 0]
        model.pose_adjustment.copy_(numbers.float())
    return model, {"camera_to_worlds": original.float()}, drift


def test_a_drift_of_all_cameras_is_no_error_and_test_views_follow_it():
    model, metadata, drift = drifted()
    assert camera_metrics(model, metadata) == {}  # there is nothing to compare with
    reference = list(metadata["camera_to_worlds"])
    found = camera_metrics(model, {**metadata, "reference_camera_to_worlds": reference})
    assert found["camera_rotation_error_deg"] < 1e-3 and found["camera_translation_error"] < 1e-5
    alignment = alignment_to_refined(model, metadata)
    assert alignment is not None
    test_pose = poses(3)[1].float()
    camera = Cameras(test_pose[None], 50.0, 50.0, 8.0, 6.0, 16, 12)
    expected = torch.from_numpy(drift.poses(test_pose[None].double().numpy())).float()
    assert torch.allclose(aligned_camera(camera, None, alignment).camera_to_worlds, expected, atol=1e-5)
    other = torch.eye(4)[:3]
    by_reference = aligned_camera(camera, test_pose, alignment).camera_to_worlds
    assert torch.allclose(by_reference, expected, atol=1e-5)
    assert not torch.allclose(aligned_camera(camera, other, alignment).camera_to_worlds, expected, atol=0.1)
    assert torch.equal(camera.camera_to_worlds[0], test_pose)  # the data set's own camera stays


def test_without_refinement_and_reference_test_views_stay():
    metadata = {"camera_to_worlds": poses().float()}
    assert alignment_to_refined(refinement(mode="off"), metadata) is None
    noisy = {**metadata, "reference_camera_to_worlds": list(poses().float())}
    errors = camera_metrics(refinement(mode="off"), noisy)
    assert errors["camera_rotation_error_deg"] < 1e-4  # the data's own error is reported without refinement, too


def test_penalties_and_their_absence():
    losses: dict[str, torch.Tensor] = {}
    refinement().get_loss_dict(losses)
    assert losses == {}
    model, _, _ = drifted()
    model.config.trans_l2_penalty = 1.0
    model.get_loss_dict(losses)
    delta = model.deltas()
    assert losses["camera_opt_regularizer"].item() == pytest.approx(delta[:, :3].norm(dim=-1).mean().item())
    metrics: dict[str, torch.Tensor] = {}
    model.get_metrics_dict(metrics)
    drift_angle = np.degrees(np.linalg.norm([0.05, -0.02, 0.1]))
    assert metrics["camera_opt_rotation_mean"].item() == pytest.approx(drift_angle, rel=1e-3)


def test_a_checkpoint_holds_what_its_numbers_mean():
    model, metadata, _ = drifted()
    other = CameraRefinementConfig(mode="SO3xR3").setup(num_cameras=6, device="cpu")
    other.load_state_dict(model.state_dict())
    original = metadata["camera_to_worlds"]
    assert torch.equal(other.refined_poses(original), model.refined_poses(original))
