"""Near and far fit the kind of data."""

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.scene_box import SceneBox

from common_ns.data.scene_bounds import point_distance_range, ray_bounds


def outputs(distance: float, half: float = 1.0, **metadata) -> DataparserOutputs:
    poses = torch.eye(4)[None, :3].repeat(4, 1, 1)
    poses[:, :, 3] = distance * torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    cameras = Cameras(poses, fx=10.0, fy=10.0, cx=4.0, cy=4.0, width=8, height=8)
    box = SceneBox(aabb=half * torch.tensor([[-1.0] * 3, [1.0] * 3]))
    return DataparserOutputs(image_filenames=[], cameras=cameras, scene_box=box, metadata=metadata)


def test_blender_convention_scales_with_the_scene():
    bounds = ray_bounds(outputs(4.0, 1.5), BlenderDataParserConfig())
    assert (bounds.near, bounds.far, bounds.bounded) == (2.0, 6.0, True)
    assert bounds.extent == pytest.approx(2.0)
    half = ray_bounds(outputs(2.0, 1.5), BlenderDataParserConfig(scale_factor=0.5))
    assert (half.near, half.far) == (1.0, 3.0)


def test_what_the_data_states_comes_first():
    bounds = ray_bounds(outputs(4.0, near_far=(1.5, 7.0)), BlenderDataParserConfig())
    assert (bounds.near, bounds.far) == (1.5, 7.0)


def test_cameras_outside_the_box_see_the_ball_around_it():
    bounds = ray_bounds(outputs(5.0))
    assert bounds.bounded
    assert bounds.near == pytest.approx(5 - 3**0.5) and bounds.far == pytest.approx(5 + 3**0.5)


def test_cameras_inside_the_box_are_a_capture():
    bounds = ray_bounds(outputs(0.8))
    assert not bounds.bounded
    assert bounds.extent >= bounds.far


def test_sfm_points_set_the_range_and_outliers_do_not():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3000, 3))
    points = 3.0 * points / np.linalg.norm(points, axis=1, keepdims=True)
    points[:5] = 1000.0
    near, far = point_distance_range(np.zeros((2, 3)), points)
    assert near == pytest.approx(1.5, rel=1e-6) and far == pytest.approx(4.5, rel=1e-6)
    bounds = ray_bounds(outputs(0.5, points3D_xyz=torch.from_numpy(points)))
    assert bounds.reason == "SfM points" and not bounds.bounded and 0.5 < bounds.near < bounds.far < 10
