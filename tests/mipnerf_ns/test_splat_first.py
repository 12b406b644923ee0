"""What a training of Gaussians begins with: which kind is chosen, and the field that is fitted for it."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.scene_box import SceneBox

from common_ns.data.scene_bounds import RayBounds
from common_ns.errors import InputError
from common_ns.hash_grid import HashGridOptions
from common_ns.nerfstudio_seam.photograph_rays import PhotographRays
from common_ns.option_ranges import check_ranges
from common_ns.splat_baking.gaussians import Gaussians
from common_ns.splats.harmonics import colors
from mipnerf_ns.splat_config import RANGES
from mipnerf_ns.splat_field import baked, fitted_field
from mipnerf_ns.splat_first import FirstGaussians, over, parameters_of
from mipnerf_ns.splat_model import MipSplatModelConfig
from mipnerf_ns.zip_small import small_model
from tests.conftest import look_at_pose

BOX = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
SMALL = HashGridOptions(num_levels=4, log2_table_size=10, max_resolution=64)
TINY = replace(
    small_model(),
    grid=SMALL,
    proposal_grids=(replace(SMALL, features_per_level=1),) * 2,
    num_proposal_samples=(12, 10),
    num_nerf_samples=8,
)


def first(points: Any = None, is_object: bool = False, **options: Any) -> FirstGaussians:
    return FirstGaussians(MipSplatModelConfig(**options), points, BOX, is_object, 1.0, seed=7)


def datamanager(masked: bool = False, device: str = "cpu") -> Any:
    """What has read four photographs of 24 × 20 pixels of a lens with distortion: above red, below blue."""
    poses = torch.stack([torch.from_numpy(look_at_pose(np.pi * index / 2, 3.0))[:3].float() for index in range(4)])
    cameras = Cameras(
        poses, 20.0, 20.0, 10.0, 12.0, 20, 24, torch.full((4, 6), 0.1), camera_type=CameraType.PERSPECTIVE
    )
    image = torch.zeros(24, 20, 3, dtype=torch.uint8)
    image[:12, :, 0], image[12:, :, 2] = 200, 100
    data: dict[str, Any] = {"image": image}
    if masked:
        data["mask"] = torch.zeros(24, 20, 1, dtype=torch.bool)
        data["mask"][:12] = True
    metadata = {
        "ray_bounds": RayBounds(0.5, 6.0, True, 1.0, "test"),
        "images_have_alpha": False,
        "camera_to_worlds": poses,
    }
    dataset = SimpleNamespace(cameras=cameras, metadata=metadata)
    config = SimpleNamespace(data=Path("data"))
    return SimpleNamespace(cached_train=[data] * 4, train_dataset=dataset, device=device, config=config)


POINTS = (torch.rand(9, 3), torch.full((9, 3), 200.0))


@pytest.mark.parametrize(
    ("options", "points", "kind"),
    [
        ({}, POINTS, "points"),
        ({}, None, "field"),
        ({"start_from": "field"}, POINTS, "field"),
        ({"init_from": Path("config.yml")}, POINTS, "run"),
        ({"start_from": "photographs"}, POINTS, "photographs"),
        ({"start_from": "random"}, None, "random"),
    ],
)
def test_known_points_come_first_and_a_field_else(options, points, kind):
    found = first(points, **options)
    assert found.kind == kind and found.needs_photographs == (kind in ("field", "run", "photographs"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_from": "points"}, "start-from is points, and the data has none"),
        ({"init_from": Path("config.yml"), "start_from": "random"}, "init-from names a run .* start-from is random"),
        ({"num_start": 1}, "num-start is 1: there is nothing to begin with"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        first(**options)


def test_no_more_begin_than_there_may_be():
    cameras = datamanager().train_dataset.cameras
    for most, number in ((None, 60), (80, 60), (30, 30)):
        found = first(start_from="random", num_start=60, max_gaussians=most).at_once(cameras)
        assert len(found["means"]) == number


@pytest.mark.parametrize("name", RANGES)
def test_numbers_that_mean_nothing_are_refused(name):
    check_ranges(MipSplatModelConfig(), RANGES)
    for value in (-1, math.nan):
        with pytest.raises(InputError, match=f"{name.replace('_', '-')} is {value:g}. Give .* to --pipeline.model"):
            check_ranges(MipSplatModelConfig(**{name: value}), RANGES)


def test_every_number_has_a_range():
    unused = {"eval_num_rays_per_chunk", "collider_params", "loss_coefficients"}
    options = {
        each.name for each in dataclasses.fields(MipSplatModelConfig) if re.search(r"\b(int|float)\b", str(each.type))
    }
    assert options - unused == set(RANGES)


def test_baked_gaussians_stay_what_they_are():
    generator = torch.Generator().manual_seed(0)
    gaussians = Gaussians(
        torch.randn(20, 3, generator=generator),
        torch.nn.functional.normalize(torch.randn(20, 4, generator=generator), dim=-1),
        torch.rand(20, 3, generator=generator) + 0.1,
        0.1 + 0.8 * torch.rand(20, generator=generator),
        0.2 * torch.randn(20, 4, 3, generator=generator),
    )
    params = parameters_of(gaussians, 2)
    torch.testing.assert_close(params["scales"].exp(), gaussians.scales)
    torch.testing.assert_close(params["opacities"].sigmoid()[:, 0], gaussians.opacities)
    coefficients = torch.cat([params["features_dc"][:, None], params["features_rest"]], dim=1)
    directions = torch.nn.functional.normalize(torch.randn(20, 3, generator=generator), dim=-1)
    expected = colors(directions, gaussians.coefficients, 1)
    torch.testing.assert_close(colors(directions, coefficients, 2), expected)
    assert parameters_of(gaussians, 0)["features_rest"].shape == (20, 0, 3)


def test_rays_are_those_of_pinhole_cameras_with_the_photographs_colors():
    manager = datamanager(masked=True)
    rays = PhotographRays(manager, 500)
    torch.manual_seed(0)
    bundle, batch = rays.next_train(0)
    rows, columns = batch["indices"][:, 1], batch["indices"][:, 2]
    assert int(rows.max()) == 11 and int(columns.max()) == 19  # within the mask
    assert torch.equal(batch["image"], torch.tensor([200 / 255, 0.0, 0.0]).expand(500, 3))
    pose = manager.train_dataset.cameras.camera_to_worlds[batch["indices"][:, 0]]
    local = torch.stack([(columns + 0.5 - 10) / 20, (12 - rows - 0.5) / 20, -torch.ones(500)], dim=-1)
    expected = torch.nn.functional.normalize((pose[:, :, :3] @ local[..., None])[..., 0], dim=-1)
    torch.testing.assert_close(bundle.directions, expected)
    manager.cached_train[0]["mask"][:] = False
    with pytest.raises(InputError, match="masks leave no pixel"):
        PhotographRays(manager, 500)


def test_a_field_learns_and_follows_from_its_seed_alone():
    manager, found = datamanager(), []
    for seed, steps in ((1, 2), (1, 2), (2, 2), (1, 20)):
        torch.manual_seed(100 * len(found))
        state = torch.get_rng_state()
        fit = fitted_field(manager, BOX, steps, seed, TINY)
        gaussians = baked(fit, 300, 1, seed)[0]
        assert torch.equal(torch.get_rng_state(), state) and not fit.model.training and fit.seconds > 0
        found.append(gaussians)
    assert torch.equal(found[0].means, found[1].means) and torch.equal(found[0].coefficients, found[1].coefficients)
    assert not torch.equal(found[0].means, found[2].means)
    bundle, batch = fit.datamanager.next_train(0)
    error = (fit.model(bundle)["rgb"] - batch["image"]).square().mean()
    assert float(error) < 0.5 * float(batch["image"].var(dim=0).mean())


def test_a_photograph_is_put_over_the_background():
    image = torch.tensor([[[0.2, 0.4, 0.6, 0.25]]])
    assert torch.allclose(over(image, torch.tensor([1.0, 0.0, 0.5])), torch.tensor([[[0.8, 0.1, 0.525]]]))
    assert torch.equal(over(image[..., :3], torch.ones(3)), image[..., :3])
