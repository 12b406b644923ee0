"""Parts of the training of Gaussians: where they begin, what is compared, how many there are."""

from __future__ import annotations

import math

import pytest
import torch
from gsplat.strategy import DefaultStrategy

from common_ns.metrics import ssim
from common_ns.splats.harmonics import colors as seen_colors
from mipnerf_ns.splat_growth import BoundedStrategy, faulty
from mipnerf_ns.splat_losses import picture_loss, ssim_map
from mipnerf_ns.splat_model import NAMES, sh_degree_at, viewmat_of
from mipnerf_ns.splat_start import camera_extent, gaussians_at, random_points_in_box, random_points_in_views, spacings


def gaussians(number: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points, shades = torch.randn(2, number, 3, generator=generator)
    return gaussians_at(points, shades.sigmoid(), sh_degree=1)


def optimizers_of(params: torch.nn.ParameterDict) -> dict[str, torch.optim.Optimizer]:
    return {name: torch.optim.Adam([value], lr=1e-3) for name, value in params.items()}


def test_a_degree_more_counts_after_each_interval():
    assert [sh_degree_at(step, 1000, 3) for step in (0, 999, 1000, 2500, 3000, 99999)] == [0, 0, 1, 2, 3, 3]
    assert sh_degree_at(0, 0, 2) == 2


def test_spacing_is_the_mean_distance_to_three_neighbors():
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    expected = [sorted(math.dist(p, q) for q in points.tolist())[1:4] for p in points.tolist()]
    assert torch.allclose(spacings(points), torch.tensor(expected).mean(dim=1), rtol=1e-5)


def test_points_in_the_same_place_have_a_size():
    assert bool((spacings(torch.zeros(5, 3)) > 0).all())


def test_first_gaussians_have_the_colors_of_their_points():
    params = gaussians(10)
    coefficients = torch.cat([params["features_dc"][:, None], params["features_rest"]], dim=1)
    expected = torch.randn(2, 10, 3, generator=torch.Generator().manual_seed(0))[1].sigmoid()
    assert torch.allclose(seen_colors(torch.randn(10, 3), coefficients, 1), expected, atol=1e-6)


def test_random_points_are_in_the_pictures_and_even_in_inverse_depth():
    generator = torch.Generator().manual_seed(0)
    pose = torch.eye(4)[None, :3] + torch.tensor([0.0, 0.0, 0.0, 2.0])
    intrinsics, sizes = torch.tensor([[50.0, 40.0, 30.0, 20.0]]), torch.tensor([[64.0, 48.0]])
    points = random_points_in_views(pose, intrinsics, sizes, 0.5, 10.0, 4000, generator)
    x, y, z = (points @ viewmat_of(pose[0])[:3, :3].T + viewmat_of(pose[0])[:3, 3]).unbind(-1)
    column, row = 50 * x / z + 30, 40 * y / z + 20
    assert bool(((column >= 0) & (column <= 64) & (row >= 0) & (row <= 48)).all())
    # Of the inverse of an even variable between 0.1 and 2, the median is the inverse of its mean.
    assert float(z.min()) >= 0.499 and float(z.max()) <= 10.01 and abs(float(z.median()) - 1 / 1.05) < 0.05


def test_random_points_fill_the_box():
    box = torch.tensor([[-1.0, 0.0, 2.0], [1.0, 3.0, 2.5]])
    points = random_points_in_box(box, 3000, torch.Generator().manual_seed(0))
    assert torch.allclose(points.mean(dim=0), box.mean(dim=0), atol=0.1)
    assert torch.allclose(torch.stack([points.amin(dim=0), points.amax(dim=0)]), box, atol=0.02)


def test_extent_of_cameras():
    poses = torch.zeros(2, 3, 4)
    poses[0, 0, 3] = 4.0
    assert camera_extent(poses) == pytest.approx(2.2) and camera_extent(poses[:1]) == 1.0


def test_similarity_is_that_of_the_metric_away_from_the_border():
    first, second = torch.rand(2, 40, 36, 3, generator=torch.Generator().manual_seed(0))
    expected = ssim(first, second)
    assert float(ssim_map(first, second)[5:-5, 5:-5].mean()) == pytest.approx(expected, abs=0.01)
    import torchmetrics.functional.image as metrics

    images = [image.movedim(-1, 0)[None] for image in (first, second)]
    whole = metrics.structural_similarity_index_measure(*images, data_range=1.0, return_full_image=True)[1]
    assert torch.allclose(ssim_map(first, second)[5:-5, 5:-5].movedim(-1, 0), whole[0][:, 5:-5, 5:-5], atol=1e-4)


def test_masked_pixels_have_no_influence():
    picture, photograph = torch.rand(2, 30, 30, 3, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(30, 30, 1, dtype=torch.bool)
    assert float(picture_loss(picture, photograph, valid, 0.2)) == pytest.approx(
        float(picture_loss(picture, photograph, None, 0.2)), rel=1e-5
    )
    valid[:, 20:] = False
    picture.requires_grad_(True)
    picture_loss(picture, photograph, valid, 0.2).backward()
    assert picture.grad is not None and bool((picture.grad[:, 20:] == 0).all())
    assert float(picture_loss(picture, photograph, torch.zeros_like(valid), 0.2)) == 0.0


def test_growth_is_bounded_and_takes_the_largest_gradients():
    params = torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in gaussians(50).items()})
    optimizers = optimizers_of(params)
    gradients = torch.linspace(0.0, 1.0, 50)
    state = {"grad2d": gradients.clone(), "count": torch.ones(50), "scene_scale": 1e6}  # all are small: doubled
    strategy = BoundedStrategy(most=60, grow_grad2d=0.5)
    largest = params["means"][40:].detach().clone()
    for value in params.values():
        value.grad = torch.zeros_like(value)
    for optimizer in optimizers.values():
        optimizer.step()
    assert strategy._grow_gs(params, optimizers, state, 1) == (10, 0)
    assert torch.equal(params["means"][50:], largest) and strategy.grow_grad2d == 0.5
    assert strategy._grow_gs(params, optimizers, state, 1) == (0, 0)


def test_the_first_step_resets_no_opacity():
    results = []
    for kind in (DefaultStrategy, BoundedStrategy):
        params = torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in gaussians(4).items()})
        means2d = torch.zeros(4, 2, requires_grad=True)
        means2d.grad = torch.ones(4, 2)
        info = {"width": 8, "height": 8, "n_cameras": 1, "means2d": means2d}
        info |= {"radii": torch.ones(4), "gaussian_ids": torch.arange(4)}
        strategy = kind()
        state = strategy.initialize_state()
        strategy.step_post_backward(params, optimizers_of(params), state, 0, info, packed=True)
        results.append(float(params["opacities"].sigmoid().min()))
        assert state["count"].tolist() == [1.0] * 4
    assert results == pytest.approx([0.01, 0.1], rel=1e-3)


def test_broken_gaussians_are_found():
    params = gaussians(6)
    params["scales"][:] = -5.0
    params["features_dc"][0, 1] = torch.nan
    params["means"][1] = torch.inf
    params["scales"][2, 0] = 3.0  # e³ = 20 scene units, with the camera within 10
    params["means"][3] = 1e6
    origins = torch.tensor([[0.0, 0.0, 5.0], [0.0, 0.0, -5.0]])
    broken, exploded = faulty(params, origins, farthest=1000.0)
    assert broken.tolist() == [True, True, False, False, False, False]
    assert exploded.tolist() == [False, False, True, True, False, False]
    assert tuple(params) == NAMES
