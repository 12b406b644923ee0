"""Gaussians fitted to pictures of known Gaussians."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from common_ns.splat_baking.gaussians import Gaussians
from common_ns.splat_baking.photographs import Photograph, viewmat_of
from common_ns.splat_baking.refine import (
    TRANSPARENT,
    RefineOptions,
    draw,
    faults,
    picture_loss,
    refine,
    splat_psnr,
    without_faults,
)
from tests.conftest import look_at_pose

BLACK = torch.zeros(3)
COUNT = 300


def scene(seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.rand(COUNT, 3, generator=generator) * 1.6 - 0.8,
        quats=torch.nn.functional.normalize(torch.randn(COUNT, 4, generator=generator), dim=-1),
        scales=0.05 + 0.1 * torch.rand(COUNT, 3, generator=generator),
        opacities=0.3 + 0.6 * torch.rand(COUNT, generator=generator),
        coefficients=torch.randn(COUNT, 4, 3, generator=generator) * torch.tensor([1.0, 0.1, 0.1, 0.1])[None, :, None],
    )


def photographs(gaussians: Gaussians, count: int = 8) -> list[Photograph]:
    K = torch.tensor([[40.0, 0.0, 20.0], [0.0, 40.0, 20.0], [0.0, 0.0, 1.0]])
    found = []
    for index in range(count):
        pose = torch.from_numpy(look_at_pose(2 * np.pi * index / count, 3.0))[:3].float()
        blank = Photograph(
            index, torch.zeros(40, 40, 3, dtype=torch.uint8), torch.ones(40, 40, dtype=torch.bool), None,
            viewmat_of(pose), K,
        )  # fmt: skip
        image = (draw(gaussians, blank, BLACK).clamp(0, 1) * 255).round().to(torch.uint8)
        found.append(replace(blank, image=image))
    return found


def worse(gaussians: Gaussians) -> Gaussians:
    generator = torch.Generator().manual_seed(9)
    return Gaussians(
        gaussians.means + 0.03 * torch.randn(COUNT, 3, generator=generator),
        gaussians.quats,
        0.7 * gaussians.scales,
        torch.full((COUNT,), 0.6),
        gaussians.coefficients + 0.2 * torch.randn(COUNT, 4, 3, generator=generator),
    )


FOOTPRINT = torch.full((COUNT,), 3.0 / 40.0)


@pytest.mark.parametrize("ssim", [False, True])
def test_refining_shows_views_better_that_it_has_not_seen(ssim):
    truth = scene()
    pictures = photographs(truth, 16)
    start, train, held_out = worse(truth), pictures[::2], pictures[1::2]
    before = splat_psnr(start, held_out, BLACK)
    found = refine(start, FOOTPRINT, train, BLACK, RefineOptions(1.0, ssim=ssim))
    assert found.steps > 10
    assert splat_psnr(found.gaussians, held_out, BLACK) > before + 2.0
    assert splat_psnr(truth, held_out, BLACK) > 45.0


def test_exposures_are_told_from_the_scene():
    truth = scene()
    pictures = photographs(truth)
    gains = [0.75, 1.25] * 4
    changed = [
        replace(each, image=(each.colors * gain * 255).clamp(0, 255).to(torch.uint8))
        for each, gain in zip(pictures, gains)
    ]
    found = {
        exposure: refine(truth, FOOTPRINT, changed, BLACK, RefineOptions(1.0, exposure=exposure)).gaussians
        for exposure in (False, True)
    }
    errors = {name: splat_psnr(each, pictures, BLACK) for name, each in found.items()}
    assert errors[True] > errors[False] + 1.0


def test_pixels_that_do_not_count_change_nothing():
    truth = scene()
    (photograph,) = photographs(truth, 1)
    valid = torch.zeros(40, 40, dtype=torch.bool)
    valid[:, :20] = True
    other = photograph.image.clone()
    other[:, 20:] = 255
    picture = (0.9 * photograph.colors).requires_grad_()
    for ssim in (False, True):
        (gradient,) = torch.autograd.grad(picture_loss(picture, photograph.colors, valid, ssim), picture)
        assert not gradient[:, 20:].any() and gradient[:, :20].any()
    loss = [float(picture_loss(picture, image.float() / 255, valid, False)) for image in (photograph.image, other)]
    assert loss[0] == loss[1] == pytest.approx(float((0.1 * photograph.colors[:, :20]).square().mean()), rel=1e-5)
    masked = [replace(photograph, image=image, valid=valid) for image in (photograph.image, other)]
    assert splat_psnr(truth, masked[:1], BLACK) == splat_psnr(truth, masked[1:], BLACK) > 45.0


def test_what_no_picture_needs_is_removed_and_counted():
    gaussians = scene()
    positions = torch.tensor([[3.0, 0.0, 0.0], [-3.0, 0.0, 0.0]])
    gaussians.means[0, 1] = torch.nan
    gaussians.coefficients[1, 2, 0] = torch.inf
    gaussians.scales[2] = torch.tensor([0.1, 9.0, 0.1])
    gaussians.means[3] = torch.tensor([0.0, 200.0, 0.0])
    gaussians.opacities[4:7] = 0.5 * TRANSPARENT
    gaussians.scales[6] = 50.0  # exploded as well: counted once
    kept, removed = without_faults(gaussians, positions, 100.0)
    assert removed == {"not finite": 2, "exploded": 3, "transparent": 2}
    assert len(kept) == COUNT - 7 and torch.equal(kept.means, gaussians.means[7:])
    counted = torch.stack(list(faults(gaussians, positions, 100.0).values())).sum(dim=0)
    assert counted.max() == 1
