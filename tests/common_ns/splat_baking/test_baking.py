"""Sizes, orientations and colors of baked Gaussians; points where rays of a known field end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle

from common_ns.data.scene_bounds import RayBounds
from common_ns.errors import InputError
from common_ns.meshing.iso_field import IsoField
from common_ns.splat_baking.bake import OPACITY, SHELL, bake, camera_extent, is_surface
from common_ns.splat_baking.photographs import viewmat_of
from common_ns.splat_baking.shapes import (
    LEAST_PIXELS,
    MOST_PIXELS,
    SPACING,
    THINNESS,
    shapes,
    spacings,
    standard_deviations,
)
from common_ns.splat_baking.view_colors import Choice, fitted_coefficients, visible
from common_ns.splats.covariance import rotations
from common_ns.splats.harmonics import colors
from tests.conftest import look_at_pose

RADIUS = 0.5
"""Of the ball that the stand-in's rays meet."""


def test_spacing_is_the_mean_distance_to_the_nearest_three():
    points = np.random.default_rng(0).standard_normal((60, 3))
    for point, found in zip(points, spacings(points)):
        others = np.sort(np.linalg.norm(points - point, axis=1))[1:]
        assert found == pytest.approx(others[:3].mean())
    assert spacings(points[:2]) == pytest.approx(np.linalg.norm(points[0] - points[1]))
    assert np.isinf(spacings(points[:1])).all()


def test_sizes_follow_spacing_within_bounds_of_the_pixel():
    footprint = torch.full((4,), 0.01)
    found = standard_deviations(torch.tensor([1e-5, 0.02, 5.0, torch.inf]), footprint, pixels=5.0)
    expected = [LEAST_PIXELS * 0.01, SPACING * 0.02, MOST_PIXELS * 0.01, MOST_PIXELS * 0.01]
    torch.testing.assert_close(found, torch.tensor(expected))
    fewer = standard_deviations(torch.tensor([1e-5, 0.02, 5.0, torch.inf]), footprint, pixels=64.0)
    torch.testing.assert_close(fewer, torch.tensor([*expected[:2], 2.0 * expected[2], 2.0 * expected[3]]))


def test_discs_lie_in_the_surface_where_normals_are_sure():
    normals = torch.tensor([[0.6, 0.0, -0.8], [0.1, 0.2, 0.0]])
    scales, quats, flat = shapes(torch.tensor([0.2, 0.3]), normals)
    assert flat.tolist() == [True, False]
    torch.testing.assert_close(scales, torch.tensor([[0.2, 0.2, 0.2 * THINNESS], [0.3, 0.3, 0.3]]))
    torch.testing.assert_close(rotations(quats)[0, :, 2], normals[0])
    assert not shapes(torch.tensor([0.2]), None)[2].any()


def random_directions(*shape: int) -> torch.Tensor:
    found = torch.randn(*shape, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.nn.functional.normalize(found, dim=-1)


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_harmonics_of_known_colors_are_found_again(degree):
    directions = random_directions(20, 40)
    truth = 0.1 * random_directions(20, (degree + 1) ** 2)
    seen = colors(directions, truth[:, None].expand(-1, 40, -1, -1), degree)
    assert seen.min() > 0
    found = fitted_coefficients(directions, seen, torch.ones(20, 40), degree, ridge=1e-8)
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=0)


def test_one_view_gives_its_color_most_of_it_constant():
    directions, seen = random_directions(5, 1), torch.rand(5, 1, 3, dtype=torch.float64)
    found = fitted_coefficients(directions, seen, torch.ones(5, 1), 2)
    torch.testing.assert_close(colors(directions[:, 0], found, 2), seen[:, 0], atol=2e-3, rtol=0)
    opposite = colors(-directions[:, 0], found, 2)
    assert (opposite - seen[:, 0]).abs().max() < 0.3 * (seen[:, 0] - 0.5).abs().max()
    none = fitted_coefficients(directions, seen, torch.zeros(5, 1), 2)
    assert not none.any()  # gray


def test_views_of_weight_0_do_not_count():
    directions, seen = random_directions(5, 6), torch.rand(5, 6, 3, dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0, 0.0, 0.0]).expand(5, 6)
    whole = fitted_coefficients(directions, seen, weights, 1)
    torch.testing.assert_close(whole, fitted_coefficients(directions[:, :3], seen[:, :3], weights[:, :3], 1))


def test_a_camera_sees_the_front_and_not_what_is_behind_it():
    K = torch.tensor([[50.0, 0.0, 24.0], [0.0, 50.0, 24.0], [0.0, 0.0, 1.0]])
    x, y = torch.meshgrid(torch.linspace(-1, 1, 60), torch.linspace(-1, 1, 60), indexing="xy")
    front = torch.stack([x, y, torch.full_like(x, 2.0)], dim=-1).reshape(-1, 3)
    back = front * torch.tensor([1.5, 1.5, 1.5])
    behind_camera = front * torch.tensor([1.0, 1.0, -1.0])
    seen = visible(torch.cat([front, back, behind_camera]), torch.eye(4), K, (48, 48)).reshape(3, -1)
    within = (50.0 * front[:, :2] / 2.0).abs().amax(dim=1) < 24.0
    assert torch.equal(seen[0], within) and 0.1 < within.float().mean() < 0.99
    assert not seen[1].any() and not seen[2].any()


def test_cameras_of_a_point_are_drawn_evenly_from_those_that_see_it():
    count = 4000
    choice = Choice(count, 2, torch.Generator().manual_seed(0))
    for camera in range(5):
        seen = torch.ones(count, dtype=torch.bool)
        seen[0] = camera == 3
        seen[1] = False
        choice.offer(camera, seen)
    assert choice.chosen[0].tolist() == [3, -1] and choice.chosen[1].tolist() == [-1, -1]
    rest = choice.chosen[2:]
    assert (rest[:, 0] != rest[:, 1]).all()
    shares = torch.bincount(rest.flatten(), minlength=5) / len(rest)
    torch.testing.assert_close(shares, torch.full((5,), 0.4), atol=0.04, rtol=0)


class Ball:
    """A model whose rays end on a ball, colored by place and by direction."""

    device = torch.device("cpu")

    def __init__(self, surface: bool, bounded: bool = True) -> None:
        self.surface = surface
        self.config = SimpleNamespace(compute_normals=True)
        self.ray_bounds = RayBounds(0.1, 10.0, bounded, 1.0, "test")

    def iso_field(self, level: float | None = None, voxel_size: float | None = None) -> IsoField:
        return IsoField(
            value=lambda points: points.norm(dim=-1) - RADIUS,
            level=0.0,
            inside_above=not self.surface,
            aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]),
            color=lambda points, normals: self.color(points, -normals),
        )

    def color(self, points: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        return 0.5 + 0.4 * points + 0.1 * directions

    def __call__(self, rays: RayBundle) -> dict[str, torch.Tensor]:
        assert self.config.compute_normals == self.surface
        along = -(rays.origins * rays.directions).sum(-1)
        beside = along**2 - rays.origins.square().sum(-1) + RADIUS**2
        hit = beside > 0
        depth = along - beside.clamp_min(0.0).sqrt()
        points = rays.origins + depth[:, None] * rays.directions
        normals = torch.nn.functional.normalize(points, dim=-1)
        colors = torch.where(hit[:, None], self.color(points, rays.directions), 0.2)
        return {
            "rgb": colors,
            "depth": depth[:, None],
            "accumulation": hit[:, None].float(),
            "normals": torch.where(hit[:, None], 0.5 * normals + 0.5, 0.5),
        }


def pipeline(surface: bool, bounded: bool = True) -> Any:
    poses = torch.stack([torch.from_numpy(look_at_pose(angle, 2.0))[:3] for angle in np.arange(8) * np.pi / 4]).float()
    cameras = Cameras(poses, 60.0, 60.0, 24.0, 24.0, 48, 48)

    def next_train(step: int) -> tuple[RayBundle, dict[str, Any]]:
        count = sampler.num_rays_per_batch
        places = torch.rand(count, 2) * 48.0
        return cameras.generate_rays(torch.randint(8, (count, 1)), places), {}

    sampler = SimpleNamespace(num_rays_per_batch=1)
    dataset = SimpleNamespace(cameras=cameras)
    manager = SimpleNamespace(train_pixel_sampler=sampler, train_dataset=dataset, next_train=next_train)
    return SimpleNamespace(model=Ball(surface, bounded), datamanager=manager)


@pytest.mark.parametrize("surface", [False, True])
def test_gaussians_lie_where_rays_end_and_show_what_the_field_shows(surface):
    run = pipeline(surface)
    gaussians, samples = bake(run, 3000, 1, seed=1)
    assert len(gaussians) == 3000 and bool((gaussians.opacities == OPACITY).all()) and not samples.far.any()
    torch.testing.assert_close(gaussians.means.norm(dim=-1), torch.full((3000,), RADIUS), atol=1e-4, rtol=0)
    # The pixel's side at the place, to first order 1 / 60 of the distance.
    assert (samples.footprint / ((2.0 - RADIUS) / 60.0) - 1.0).abs().max() < 0.5
    for index in range(0, 8, 3):  # seen from any camera, and not only from its own
        position = run.datamanager.train_dataset.cameras.camera_to_worlds[index, :, 3]
        facing = (torch.nn.functional.normalize(gaussians.means, dim=-1) * position).sum(-1) > 1.3
        towards = torch.nn.functional.normalize(gaussians.means - position, dim=-1)[facing]
        found = colors(towards, gaussians.coefficients[facing], 1)
        truth = run.model.color(gaussians.means[facing], towards)
        assert facing.sum() > 100 and (found - truth).square().mean().sqrt() < 0.01
    axis = rotations(gaussians.quats)[..., 2]
    flat = gaussians.scales[:, 2] < 0.5 * gaussians.scales[:, 0]
    assert bool(flat.all()) if surface else not flat.any()
    if surface:
        torch.testing.assert_close((axis * gaussians.means).sum(-1), torch.full((3000,), RADIUS), atol=1e-3, rtol=0)
    assert run.model.config.compute_normals is True


def test_the_same_seed_gives_the_same_gaussians():
    first, second, other = (bake(pipeline(False), 500, 2, seed=seed)[0] for seed in (3, 3, 4))
    assert torch.equal(first.means, second.means) and torch.equal(first.coefficients, second.coefficients)
    assert not torch.equal(first.means, other.means)


def test_rays_to_infinity_end_on_a_shell_where_the_scene_is_open():
    run = pipeline(False, bounded=False)
    gaussians, samples = bake(run, 2000, 2)
    far = gaussians.means[samples.far]
    assert 0.2 < samples.far.float().mean() < 0.9
    size = max(camera_extent(run.datamanager.train_dataset.cameras.camera_to_worlds), 1.5)
    torch.testing.assert_close(far.norm(dim=-1) / (SHELL * size), torch.ones(len(far)), atol=0.1, rtol=0)
    shown = colors(torch.randn(len(far), 3), gaussians.coefficients[samples.far], 2)
    torch.testing.assert_close(shown, torch.full_like(shown, 0.2), atol=0.15, rtol=0)


def test_a_scene_without_anything_in_it_is_refused(monkeypatch):
    run = pipeline(False)
    original = Ball.__call__
    monkeypatch.setattr(Ball, "__call__", lambda self, rays: {k: 0.0 * v for k, v in original(self, rays).items()})
    with pytest.raises(InputError, match=r"none of .* rays .* meets anything. Train the run longer"):
        bake(run, 100, 0)


def test_a_model_without_colors_is_refused():
    class MinerLike:
        def iso_field(self, level: float | None = None, voxel_size: float | None = None) -> IsoField:
            return IsoField(lambda points: points[:, 0], 0.5, True, torch.zeros(2, 3))

    with pytest.raises(InputError, match=r"MinerLike.*Give a run of a radiance or surface method"):
        is_surface(MinerLike())


def test_matrices_look_along_z():
    pose = torch.from_numpy(look_at_pose(0.3, 2.0))[:3].float()
    local = viewmat_of(pose)[:3, 3]
    torch.testing.assert_close(local, torch.tensor([0.0, 0.0, float(pose[:, 3].norm())]), atol=1e-5, rtol=0)
