"""Rays of training pixels get what pictures of their cameras show there; others are refused."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle

from common_ns.errors import InputError
from mipnerf_ns.splat_rays import outputs_along


@pytest.fixture
def cameras() -> Cameras:
    generator = torch.Generator().manual_seed(0)
    turns = torch.linalg.qr(torch.randn(3, 3, 3, generator=generator))[0]
    turns = turns * torch.det(turns)[:, None, None]  # no reflections
    poses = torch.cat([turns, torch.randn(3, 3, 1, generator=generator)], dim=-1)
    return Cameras(poses, 20.0, 30.0, 8.5, 5.0, width=16, height=12)


def draw(camera: Cameras) -> dict[str, torch.Tensor]:
    """Pictures that name their pixels: column, row, and the sum of the camera's pose."""
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    pose = camera.camera_to_worlds.sum().expand(12, 16)
    picture = torch.stack([columns, rows, pose], dim=-1)
    return {"rgb": picture, "depth": torch.full((12, 16, 1), 2.0), "background": torch.zeros(3)}


def rays_of(cameras: Cameras, number: int = 50) -> tuple[RayBundle, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    places = torch.stack([torch.randint(each, (number,), generator=generator) for each in (3, 12, 16)], dim=-1)
    return cameras.generate_rays(camera_indices=places[:, :1], coords=places[:, 1:] + 0.5), places


@pytest.mark.parametrize("along_axis", [True, False])
def test_each_ray_gets_its_pixel(cameras, along_axis):
    rays, places = rays_of(cameras)
    found = outputs_along(rays, cameras, 1.0, draw, along_axis)
    assert set(found) == {"rgb", "depth"}
    poses = cameras.camera_to_worlds.sum(dim=(1, 2))[places[:, 0]]
    assert torch.equal(found["rgb"], torch.stack([places[:, 2].float(), places[:, 1].float(), poses], dim=-1))
    across = torch.stack([(places[:, 2] + 0.5 - 8.5) / 20, (places[:, 1] + 0.5 - 5) / 30], dim=-1)
    expected = 2.0 * (1 + across.square().sum(dim=-1)).sqrt() if along_axis else torch.full((50,), 2.0)
    assert torch.allclose(found["depth"][:, 0], expected, rtol=1e-5)


def test_rays_of_no_pixel_are_refused(cameras):
    rays, _ = rays_of(cameras)
    rays.origins = rays.origins + 0.1
    with pytest.raises(InputError, match="no photograph's pixels"):
        outputs_along(rays, cameras, 1.0, draw, True)
    rays, _ = rays_of(cameras)
    rays.directions = -rays.directions
    with pytest.raises(InputError, match="no photograph's pixels"):
        outputs_along(rays, cameras, 1.0, draw, True)
    rays.camera_indices = None
    with pytest.raises(InputError, match="name no camera"):
        outputs_along(rays, cameras, 1.0, draw, True)
