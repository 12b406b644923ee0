"""Depth maps drawn into free views: they show there what casting rays at the scene shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from common_ns.sample_scene.generate import Scene
from depthnerf_ns.dataparser import RgbdDataParserConfig
from depthnerf_ns.depth_cloud import DepthCloud, draw


@pytest.fixture(scope="module")
def outputs(depth_scene):
    plain = {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False}
    return RgbdDataParserConfig(data=depth_scene, **plain).setup().get_dataparser_outputs("train")


def free_camera(outputs, kind: CameraType = CameraType.PERSPECTIVE) -> Cameras:
    """A view between two of the training views."""
    poses = outputs.cameras.camera_to_worlds
    place = 0.5 * (poses[2, :3, 3] + poses[3, :3, 3])
    back = torch.nn.functional.normalize(place, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), back), dim=0)
    pose = torch.stack([right, torch.linalg.cross(back, right), back, place], dim=-1)
    return Cameras(pose[None], fx=70.0, fy=70.0, cx=32.0, cy=24.0, width=64, height=48, camera_type=kind)


def test_a_free_view_shows_the_distance_of_the_surface(outputs):
    camera = free_camera(outputs)
    seen = DepthCloud(outputs).seen_by(camera)
    assert seen is not None and seen.shape == (48, 64, 1)
    rays = camera.generate_rays(camera_indices=0, keep_shape=True)
    origins, directions = (x.double().numpy().reshape(-1, 3) for x in (rays.origins, rays.directions))
    exact = Scene(0).intersect(origins, directions).distance.reshape(48, 64)
    seen, hit = seen[..., 0].numpy(), np.isfinite(exact)
    both = hit & (seen > 0)
    assert both.sum() > 0.85 * hit.sum()
    error = np.abs(seen[both] / exact[both] - 1.0)
    assert np.median(error) < 0.01 and (error < 0.05).mean() > 0.8


def test_what_is_behind_a_surface_does_not_show_between_its_points():
    axis = torch.linspace(-1.0, 1.0, 40)
    plane = torch.stack([*torch.meshgrid(axis, axis, indexing="xy"), torch.full((40, 40), -2.0)], dim=-1)
    behind = plane * torch.tensor([2.0, 2.0, 2.0])
    picture = draw(torch.cat([plane.reshape(-1, 3), behind.reshape(-1, 3)]), [60.0, 60.0, 40.0, 40.0], 80, 80)
    middle = picture[15:65, 15:65, 0]
    assert (middle > 1.9).all() and (middle < 2.9).all()


def test_no_points_no_depth():
    assert not draw(torch.zeros(0, 3), [50.0, 50.0, 8.0, 8.0], 16, 16).any()
    behind_the_camera = torch.tensor([[0.0, 0.0, 3.0]]).repeat(20, 1)
    assert not draw(behind_the_camera, [50.0, 50.0, 8.0, 8.0], 16, 16).any()


def test_other_camera_models_get_none(outputs):
    assert DepthCloud(outputs).seen_by(free_camera(outputs, CameraType.EQUIRECTANGULAR)) is None
