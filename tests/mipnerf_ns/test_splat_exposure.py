"""Affine changes of colors: what they leave alone, and that files of Gaussians have them as pictures do."""

from __future__ import annotations

import torch

from common_ns.splat_baking.gaussians import exposed_coefficients
from common_ns.splats import rasterize
from mipnerf_ns.splat_exposure import distance_from_none, exposed, no_change
from mipnerf_ns.splat_losses import picture_loss

CHANGE = torch.tensor([[0.8, 0.1, 0.0, 0.05], [0.0, 0.9, 0.05, 0.02], [0.1, 0.0, 0.7, 0.1]])


def drawn(coefficients: torch.Tensor, background: torch.Tensor):
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(30, 3, generator=generator) - 0.5 + torch.tensor([0.0, 0.0, 3.0])
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(30, 1)
    K = torch.tensor([[30.0, 0.0, 10.0], [0.0, 30.0, 10.0], [0.0, 0.0, 1.0]])
    return rasterize(
        means, quats, torch.full((30, 3), 0.1), torch.full((30,), 0.6), coefficients, torch.eye(4), K, 20, 20,
        background=background, implementation="torch",
    )  # fmt: skip


def test_no_change_changes_nothing():
    picture, accumulation = torch.rand(5, 4, 3), torch.rand(5, 4, 1)
    torch.testing.assert_close(exposed(picture, accumulation, torch.rand(3), no_change(2)[1]), picture)
    assert float(distance_from_none(no_change(1)[0])) == 0.0
    assert float(distance_from_none(CHANGE)) > 0.1


def test_changed_pictures_are_those_of_gaussians_with_changed_colors():
    coefficients = 0.2 * torch.randn(30, 4, 3, generator=torch.Generator().manual_seed(1))
    background = torch.tensor([1.0, 0.5, 0.2])
    picture = drawn(coefficients, background)
    expected = drawn(exposed_coefficients(coefficients, CHANGE), background).color
    found = exposed(picture.color, picture.accumulation, background, CHANGE)
    assert float((picture.color - expected).abs().max()) > 0.02
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    empty = picture.accumulation[..., 0] == 0
    assert torch.equal(found[empty], picture.color[empty])


def test_the_squared_error_stands_in_for_the_absolute_one():
    picture, photograph = torch.rand(2, 14, 13, 3, generator=torch.Generator().manual_seed(0))
    squares = float(picture_loss(picture, photograph, None, 0.0, squared=True))
    slow = sum((a - b) ** 2 for a, b in zip(picture.flatten().tolist(), photograph.flatten().tolist())) / (14 * 13 * 3)
    assert abs(squares - slow) < 1e-6
    both = picture_loss(picture, photograph, None, 0.3, squared=True)
    rest = picture_loss(picture, photograph, None, 1.0)
    assert abs(float(both) - 0.7 * slow - 0.3 * float(rest)) < 1e-6
