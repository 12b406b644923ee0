"""The viewer's first view: of a sphere as photographs see it, or of what the photograph in the middle shows."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nerfstudio.data.scene_box import SceneBox

from common_ns.base_model import RadianceModel
from common_ns.cameras.first_view import AHEAD, MARGIN, ViewOfPhotograph, ViewOfSphere
from common_ns.cameras.geometry import look_at
from common_ns.data.scene_bounds import RayBounds

CENTER = np.array([0.3, -0.2, 0.5])
UP = np.array([0.0, 0.0, 1.0])


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.4])
def test_the_sphere_just_fits_into_the_picture(aspect):
    view = ViewOfSphere(tuple(CENTER), 0.7).view(1.1, aspect)
    pose = look_at(view.position[None], view.target, view.up)[0]
    points = np.random.default_rng(0).normal(size=(20000, 3))
    points = CENTER + 0.7 * points / np.linalg.norm(points, axis=1, keepdims=True)
    local = (points - pose[:, 3]) @ pose[:, :3]
    assert (local[:, 2] < 0).all()
    share = np.abs(local[:, :2] / -local[:, 2:]) / (math.tan(0.55) * np.array([aspect, 1.0]))
    assert 0.9 / MARGIN < share.max() <= 1.0


def test_the_sphere_is_seen_as_the_photograph_in_the_middle_has_it():
    around = np.array([[3.0, y, 1.0] for y in (-2.0, -1.0, 0.1, 1.0, 2.0)])
    poses = look_at(CENTER + around, CENTER, UP)
    found = ViewOfSphere(tuple(CENTER), 0.7, poses).view(1.0, 1.5)
    away = found.position - CENTER
    assert np.allclose(away / np.linalg.norm(away), around[2] / np.linalg.norm(around[2]))
    assert np.allclose(found.up, UP) and np.allclose(found.target, CENTER)


def test_photographs_all_around_do_not_make_it_a_view_from_above():
    azimuth, height = np.meshgrid(np.arange(8) * math.pi / 4, [0.1, 0.5, 0.9, 1.5])
    directions = np.stack([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)], -1)
    poses = look_at(CENTER + 4.0 * directions.reshape(-1, 3), CENTER, UP)
    away = ViewOfSphere(tuple(CENTER), 0.7, poses).view(1.0, 1.5).position - CENTER
    assert 0.4 < math.asin(away[2] / np.linalg.norm(away)) < 1.0


def test_cameras_at_the_center_do_not_matter():
    poses = np.concatenate([np.eye(3), CENTER[:, None]], axis=1)[None]
    found = ViewOfSphere(tuple(CENTER), 0.7, poses).view(1.0, 1.5)
    plain = ViewOfSphere(tuple(CENTER), 0.7).view(1.0, 1.5)
    assert np.allclose(found.position, plain.position) and np.isfinite(found.position).all()


@pytest.mark.parametrize("looking", ["inward", "outward"])
def test_surroundings_are_seen_as_a_photograph_in_the_middle_has_them(looking):
    """Wherever the camera turns around, it is ahead, and the picture is upright."""
    azimuth = np.linspace(0.0, 1.5 * math.pi, 9)
    rings = [np.stack([np.cos(azimuth), np.sin(azimuth), np.full(9, height)], -1) for height in (0.0, 0.6, 2.0)]
    places = CENTER + 2.0 * np.concatenate(rings)
    poses = look_at(places, CENTER, UP)
    if looking == "outward":
        poses[:, :, [0, 2]] *= -1.0
    found = ViewOfPhotograph(poses).view(1.0, 1.5)
    ahead = found.target - found.position
    distance = np.linalg.norm(ahead)
    # The camera begins before the photograph itself, which nerfstudio draws there.
    (which,) = np.nonzero(np.isclose(found.position - AHEAD * ahead / distance, places).all(axis=1))[0]
    assert np.allclose(ahead / distance, -poses[which, :, 2]) and 0.05 < distance < 4.0
    assert np.allclose(found.up, UP)
    if looking == "inward":
        assert np.allclose(found.target, CENTER) and 9 <= which < 18
    else:
        assert which == np.linalg.norm(places - places.mean(axis=0), axis=1).argmin()


def test_a_photograph_from_straight_above_keeps_its_own_up():
    """Beside photographs of the horizon, taken outward, one looks down from their middle."""
    azimuth = np.arange(4) * math.pi / 2
    ring = CENTER + np.stack([np.cos(azimuth), np.sin(azimuth), np.zeros(4)], axis=-1)
    poses = look_at(ring, CENTER, UP)
    poses[:, :, [0, 2]] *= -1.0
    down = np.concatenate([np.eye(3), CENTER[:, None]], axis=1)
    found = ViewOfPhotograph(np.concatenate([poses, down[None]])).view(1.0, 1.5)
    assert np.allclose(found.position, CENTER - AHEAD * UP) and np.allclose(found.up, [0.0, 1.0, 0.0])


def first_view_of(bounded: bool, **metadata: torch.Tensor) -> ViewOfSphere | ViewOfPhotograph:
    """Of a model whose scene box has sides of 3."""
    bounds = RayBounds(0.1, 5.0, bounded, 2.0, "chosen")
    box = SceneBox(aabb=torch.tensor([[-1.5] * 3, [1.5] * 3]))
    model = SimpleNamespace(metadata=metadata, ray_bounds=bounds, scene_box=box)
    return RadianceModel._choose_first_view(model)  # type: ignore[arg-type, return-value]


def test_objects_are_seen_from_outside_and_surroundings_from_a_photograph():
    around = np.array([[3.0, y, 1.0] for y in (-2.0, -1.0, 0.1, 1.0, 2.0)])
    poses = torch.from_numpy(look_at(around, np.zeros(3), UP)).float()
    surroundings = first_view_of(bounded=False, camera_to_worlds=poses)
    assert isinstance(surroundings, ViewOfPhotograph) and any(
        np.allclose(surroundings.position, p - AHEAD * p / np.linalg.norm(p)) for p in around
    )
    in_the_box = first_view_of(bounded=True, camera_to_worlds=poses)
    assert isinstance(in_the_box, ViewOfSphere) and in_the_box.radius == pytest.approx(1.5)
    assert np.allclose(in_the_box.back, around[2] / np.linalg.norm(around[2]), atol=1e-6)
    points = torch.linspace(-0.2, 0.2, 101)[:, None] + torch.tensor([0.5, 0.0, 0.0])
    among_points = first_view_of(bounded=True, camera_to_worlds=poses, points3D_xyz=points)
    assert isinstance(among_points, ViewOfSphere) and among_points.radius == pytest.approx(0.2 * 3**0.5, abs=0.01)
    assert np.allclose(among_points.center, (0.5, 0.0, 0.0), atol=1e-6)
    assert isinstance(first_view_of(bounded=False), ViewOfSphere), "no photographs are known"
