"""The images tell right depth from wrong, and supervision by wrong depth is switched off."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from common_ns.data.depth.photo_check import LOG_SCALES, PhotoSupport, photo_support, votes
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from depthnerf_ns.checks.guard import DepthGuard
from depthnerf_ns.dataparser import RgbdDataParserConfig


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photo")
    options = {"layouts": ("nerfstudio",), "num_train": 16, "num_val": 1, "num_test": 1}
    write_sample_scene(SampleSceneConfig(folder / "scene", resolution=96, supersample=1, **options))
    return folder / "scene" / "nerfstudio"


def outputs_of(scene, **options):
    return RgbdDataParserConfig(data=scene, **options).setup().get_dataparser_outputs("train")


def test_right_depth_is_supported(scene):
    support = photo_support(outputs_of(scene))
    assert support.matched > 60 and support.share > 0.9 and not support.contradicts
    assert "agree with" in support.words


@pytest.mark.parametrize("factor", [0.75, 0.85, 1.15, 1.3])
def test_depth_of_another_scale_is_not(scene, factor):
    support = photo_support(outputs_of(scene, depth_unit=factor * 1e-3))
    assert support.matched > 60 and support.share < 0.3 and support.contradicts
    assert "speak against" in support.words


def test_small_errors_are_forgiven(scene):
    assert photo_support(outputs_of(scene, depth_unit=1.03e-3)).share > 0.9


def test_ray_distance_is_read_as_such(scene, tmp_path):
    """The same surfaces as ray distance are supported if declared so."""
    outputs = outputs_of(scene)
    files = []
    for index, file in enumerate(outputs.metadata["depth_filenames"]):
        rays = outputs.cameras.generate_rays(camera_indices=index, keep_shape=True)
        cos = -(rays.directions @ outputs.cameras.camera_to_worlds[index, :3, :3])[..., 2].numpy()
        files.append(tmp_path / f"{index}.npy")
        np.save(files[-1], np.asarray(Image.open(file)) * 1e-3 / cos)
    outputs.metadata["depth_filenames"] = files
    contract = type(outputs.metadata["depth_contract"])
    outputs.metadata["depth_contract"] = contract(unit=1.0, kind="ray")
    assert photo_support(outputs).share > 0.9


def test_a_vote_needs_a_clear_match():
    flat = np.full(41, 0.95)  # the same everywhere: cameras that hardly move, or a plain wall
    peak = np.where(np.abs(LOG_SCALES) < 0.05, 0.97, 0.2)
    elsewhere = np.where(np.abs(LOG_SCALES - 0.3) < 0.05, 0.97, 0.2)
    weak = 0.8 * peak
    has_match, at_depth = votes(np.stack([flat, peak, elsewhere, weak]))
    assert has_match.tolist() == [False, True, True, False] and at_depth.tolist() == [False, True, False, False]


def test_few_matches_decide_nothing():
    assert not PhotoSupport(20, 0).contradicts and PhotoSupport(200, 10).contradicts
    assert "do not tell" in PhotoSupport(20, 0).words and not PhotoSupport(0, 0).contradicts


def test_a_single_view_has_nothing_to_be_compared_with(scene):
    assert photo_support(outputs_of(scene, num_views=1)) == PhotoSupport(0, 0)


def test_the_guard_decides_once_and_remembers(scene):
    guard = DepthGuard()
    assert not guard.decided and guard.multiplier == 1.0
    assert guard.decide(outputs_of(scene)) is None and guard.decided and guard.multiplier == 1.0
    message = guard.decide(outputs_of(scene, depth_unit=1.3e-3))
    assert message is not None and "switched off" in message and guard.multiplier == 0.0
    later = DepthGuard()
    later.load_state_dict(guard.state_dict())
    assert later.decided and later.multiplier == 0.0 and torch.equal(later.factor, guard.factor)
