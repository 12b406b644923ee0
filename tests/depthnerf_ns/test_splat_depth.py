"""Losses on drawn depth and normals, and the first Gaussians, against slow loops and the sample scene's surfaces."""

from __future__ import annotations

import math

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from depthnerf_ns.splat_depth import View, depth_loss, normal_loss, points_of, ray_per_depth

INTRINSICS = (30.0, 28.0, 11.0, 8.5)


def pictures(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Drawn depth, with a hole, and measured depth with holes of all kinds."""
    generator = torch.Generator().manual_seed(seed)
    drawn = 1.0 + torch.rand(17, 22, 1, generator=generator)
    measured = drawn + 0.1 * torch.randn(17, 22, 1, generator=generator)
    drawn[3, 4] = 0.0
    measured[0, :5], measured[1, 2], measured[2, 2] = 0.0, torch.nan, torch.inf
    return drawn, measured


@pytest.mark.parametrize("kind", ["huber", "l1", "log-l1"])
@pytest.mark.parametrize("spread", [False, True])
def test_loss_is_that_of_a_slow_loop(kind, spread):
    drawn, measured = pictures()
    epsilons = torch.full((17, 22, 1), 0.07) + (0.1 * torch.rand(17, 22, 1) if spread else 0.0)
    losses: list[float] = []
    for row in range(17):
        for column in range(22):
            d, m = float(drawn[row, column]), float(measured[row, column])
            if d == 0 or m == 0 or not math.isfinite(m):
                continue
            e = abs(d - m) / float(epsilons[row, column])
            losses.append({"l1": e, "log-l1": math.log(1 + e), "huber": 0.5 * e * e if e < 1 else e - 0.5}[kind])
    assert 300 < len(losses) < 17 * 22 - 5 and max(losses) > 1
    assert float(depth_loss(drawn, measured, epsilons if spread else 0.07, kind)) == pytest.approx(
        sum(losses) / len(losses), rel=1e-4
    )


@pytest.mark.parametrize("kind", ["huber", "l1", "log-l1", "none"])
def test_where_nothing_is_measured_nothing_moves(kind):
    drawn, measured = pictures()
    drawn.requires_grad_()
    loss = depth_loss(drawn, measured, 0.07, kind)
    loss.backward()
    assert drawn.grad is not None
    known = torch.isfinite(measured) & (measured > 0) & (drawn > 0)
    assert bool((drawn.grad[~known] == 0).all()) and bool(torch.isfinite(drawn.grad).all())
    assert bool((drawn.grad[known] != 0).all()) == (kind != "none")
    holes = torch.zeros_like(measured)
    empty = depth_loss(drawn, holes, 0.07, kind)
    assert float(empty) == 0.0 and empty.requires_grad


def test_normals_cost_one_minus_their_cosine():
    drawn, target = torch.zeros(2, 2, 3), torch.zeros(2, 2, 3)
    drawn[0, 0], target[0, 0] = torch.tensor([0.0, 0.0, 0.4]), torch.tensor([0.0, 0.0, 1.0])
    drawn[0, 1], target[0, 1] = torch.tensor([0.0, 0.7, 0.0]), torch.tensor([0.0, 0.6, 0.8])
    drawn[1, 0] = torch.tensor([0.0, 0.7, 0.0])  # no target
    target[1, 1] = torch.tensor([0.0, 0.0, 1.0])  # nothing drawn
    assert float(normal_loss(drawn, target)) == pytest.approx((0.0 + 0.4) / 2)
    assert float(normal_loss(drawn, torch.zeros_like(target))) == 0.0


def camera(pose: torch.Tensor) -> Cameras:
    return Cameras(pose[None], *INTRINSICS, 22, 17)


def poses(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    turns = torch.linalg.qr(torch.randn(number, 3, 3, generator=generator))[0]
    turns = turns * torch.linalg.det(turns)[:, None, None]
    return torch.cat([turns, torch.randn(number, 3, 1, generator=generator)], dim=2)


def test_rays_are_longer_than_depth_as_nerfstudio_has_them():
    pose = poses(1)[0]
    rays = camera(pose).generate_rays(camera_indices=0)
    forward = -(rays.directions * pose[:, 2]).sum(dim=-1, keepdim=True)
    torch.testing.assert_close(ray_per_depth(INTRINSICS, 17, 22), 1.0 / forward, rtol=1e-5, atol=0)


def view(pose: torch.Tensor, color: float) -> View:
    """Of a sphere of radius 3 about the origin, from within: its depth has holes."""
    rays = camera(pose).generate_rays(camera_indices=0)
    along = (rays.origins * rays.directions).sum(-1, keepdim=True)
    depth = -along + (along**2 + 9.0 - rays.origins.square().sum(-1, keepdim=True)).sqrt()
    depth[:4], depth[5, 5] = 0.0, torch.nan
    return View(torch.full((17, 22, 3), color), depth, None, pose, INTRINSICS)


def test_points_are_where_depth_says_with_their_colors_and_sizes():
    each = 0.3 * poses(3)
    each[:, :, :3] /= 0.3
    views = [view(pose, color) for pose, color in zip(each, (0.2, 0.5, 0.8))]
    pixels = 13 * 22 - 1
    found = points_of(views, 10**6, torch.Generator())
    assert len(found.places) == 3 * pixels
    torch.testing.assert_close(found.places.norm(dim=-1), torch.full((3 * pixels,), 3.0), rtol=1e-4, atol=0)
    for pose, color in zip(each, (0.2, 0.5, 0.8)):
        places = found.places[(found.colors[:, 0] - color).abs() < 1e-6]
        assert len(places) == pixels
        depth = -((places - pose[:, 3]) @ pose[:, 2])
        sides = found.footprints[(found.colors[:, 0] - color).abs() < 1e-6]
        torch.testing.assert_close(sides, depth / 30.0, rtol=1e-4, atol=0)


def test_fewer_points_are_drawn_from_all_photographs_alike():
    views = [view(pose, color) for pose, color in zip(torch.cat([torch.eye(3, 4)[None]] * 3), (0.2, 0.5, 0.8))]
    masked = views[2]._replace(valid=torch.zeros(17, 22, 1, dtype=torch.bool))
    found = points_of([*views[:2], masked], 300, torch.Generator().manual_seed(1))
    shares = [int(((found.colors[:, 0] - color).abs() < 1e-6).sum()) for color in (0.2, 0.5, 0.8)]
    assert sum(shares) == 300 and shares[2] == 0 and min(shares[:2]) > 115
    again = points_of([*views[:2], masked], 300, torch.Generator().manual_seed(1))
    assert torch.equal(found.places, again.places)
