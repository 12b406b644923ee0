"""Depth of whole photographs is where their pixels look, also when a lens was straightened."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.cameras import CameraType

from common_ns.errors import InputError
from depthnerf_ns.dataparser import RgbdDataParserConfig
from depthnerf_ns.image_datamanager import DepthImageDataManagerConfig
from tests.depthnerf_ns.test_dataset import PLAIN, edit

LENS = {"k1": 0.08, "k2": -0.03, "p1": 0.004, "p2": -0.002}


def manager(data: Path, mode: str = "test", **options):
    config = DepthImageDataManagerConfig(data=data, dataparser=RgbdDataParserConfig(**PLAIN), **options)
    return config.setup(device="cpu", test_mode=mode)


def test_a_batch_has_the_ray_distance_of_each_pixel(depth_scene):
    datamanager = manager(depth_scene)
    camera, batch = datamanager.next_train(0)
    index = camera.metadata["cam_idx"]
    expected = datamanager.train_dataset.get_metadata({"image_idx": index})
    assert batch["image"].shape == (48, 48, 3) and torch.equal(batch["depth_image"], expected["depth_image"])
    assert 0.1 < float((batch["depth_image"] > 0).float().mean()) < 0.9


@pytest.mark.parametrize("model", ["OPENCV", "OPENCV_FISHEYE"])
def test_maps_of_a_lens_with_distortion_are_looked_up_anew(scene_copy, model):
    """Against a search for the photograph's pixel whose ray is the nearest."""
    lens = LENS if model == "OPENCV" else {"k1": 0.02, "k2": -0.01, "k3": 0.0, "k4": 0.0}
    edit(scene_copy, lambda content: content.update(lens, camera_model=model))
    datamanager = manager(scene_copy)
    taken_by = manager(scene_copy).train_dataset
    _ = datamanager.cached_train
    pinhole = copy.deepcopy(datamanager.train_dataset.cameras)
    pinhole.camera_type = torch.full_like(pinhole.camera_type.contiguous(), CameraType.PERSPECTIVE.value)
    for index in (0, 5):
        data = datamanager.cached_train[index]
        height, width = data["image"].shape[:2]
        assert data["depth_image"].shape == (height, width, 1) and data["normal_image"].shape == (height, width, 3)
        seen = taken_by.cameras.generate_rays(camera_indices=index).directions.reshape(-1, 3)
        wanted = pinhole.generate_rays(camera_indices=index, disable_distortion=True)
        nearest = torch.cdist(wanted.directions.reshape(-1, 3), seen).argmin(dim=1)
        maps = taken_by.get_metadata({"image_idx": index})
        for name in ("depth_image", "normal_image"):
            found, expected = data[name].flatten(0, 1), maps[name].flatten(0, 1)[nearest]
            assert float(((found - expected).abs().amax(dim=-1) < 1e-5).float().mean()) > 0.95, name
    straight = manager(scene_copy).train_dataset.get_metadata({"image_idx": 0})["depth_image"]
    assert data["depth_image"].shape != straight.shape or not torch.equal(data["depth_image"], straight)


def test_wrong_depth_is_refused_before_training(scene_copy):
    edit(scene_copy, lambda content: content.update(depth_unit_scale_factor=2e-3))
    with pytest.raises(InputError, match="depth"):
        manager(scene_copy, mode="val")
    manager(scene_copy, mode="val", depth_check="off")


def test_mean_color_is_of_what_counts(depth_scene):
    """Pixels by their opacity, and none outside of the masks of valid ones."""
    datamanager = manager(depth_scene)
    images = list(datamanager.train_photographs())
    torch.testing.assert_close(datamanager.mean_color(), torch.stack(images).mean(dim=(0, 1, 2)))
    data = datamanager.cached_train[0]
    mask = torch.zeros(48, 48, 1, dtype=torch.bool)
    mask[:10] = True
    alpha = torch.zeros(48, 48, 1, dtype=torch.uint8)
    alpha[:10, :10], alpha[20:] = 255, 255
    color = data["image"][:10, :10].float().mean(dim=(0, 1)) / 255
    datamanager.cached_train[:] = [{**data, "image": torch.cat([data["image"], alpha], dim=-1), "mask": mask}]
    torch.testing.assert_close(datamanager.mean_color(), color)
