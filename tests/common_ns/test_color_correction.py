"""Color correction: the authors' numbers, and what it may and may not explain away."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common_ns.color_correction import SATURATION, color_corrected
from common_ns.metrics import image_metrics, psnr
from mipnerf_ns.model360 import MipNerf360Model
from tests.mipnerf_ns.test_images360 import camera, coded_model, rendered_with
from tests.mipnerf_ns.tiny360 import build

# Made by internal/image.py of github.com/google-research/multinerf, commit 5b4d4f64608ec8077222c52fdf814d40acc10bc1,
# with jax 0.10 on a CPU in float32: color_correct(image, reference), and with num_iters=1.
AUTHORS = json.loads((Path(__file__).parent / "numbers" / "color_correct.json").read_text())


def picture(seed: int = 0, height: int = 40, width: int = 50) -> torch.Tensor:
    """Colors from 0.1 to 0.8."""
    return 0.1 + 0.7 * torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


def cast(image: torch.Tensor) -> torch.Tensor:
    """Another exposure and white balance, with a little of the other channels and a bend."""
    mixed = image @ torch.tensor([[0.8, 0.05, 0.0], [0.1, 0.9, 0.05], [0.0, 0.05, 1.1]])
    return 0.02 + 0.9 * mixed - 0.1 * mixed.square()


@pytest.mark.parametrize(("name", "iterations"), [("corrected", 5), ("corrected_once", 1)])
def test_it_is_the_authors(name, iterations):
    image, reference, expected = (torch.tensor(AUTHORS[key]) for key in ("image", "reference", name))
    found = color_corrected(image, reference, iterations=iterations)
    assert torch.allclose(found, expected, atol=2e-6)
    assert not torch.allclose(
        found, torch.tensor(AUTHORS["corrected_once" if iterations == 5 else "corrected"]), atol=0.01
    )
    assert float(((image > 1 - SATURATION) | (reference > 1 - SATURATION)).float().mean()) > 0.1


def test_one_fit_is_the_least_squares_solution():
    """No other polynomial is closer to the reference: a slow solver over a loop of terms finds the same."""
    image, reference = picture(0, 6, 7), picture(1, 6, 7)
    terms = []
    for pixel in image.reshape(-1, 3).double().numpy():
        products = [pixel[i] * pixel[j] for i, j in itertools.combinations_with_replacement(range(3), 2)]
        terms.append([*products, *pixel, 1.0])
    expected = np.array(terms) @ np.linalg.lstsq(terms, reference.reshape(-1, 3).double().numpy(), rcond=None)[0]
    found = color_corrected(image, reference, iterations=1)
    assert np.allclose(found.reshape(-1, 3).numpy(), expected, atol=1e-6)


def test_a_color_cast_is_explained_and_geometry_is_not():
    image = picture()
    assert torch.allclose(color_corrected(image, cast(image)), cast(image), atol=1e-6)
    moved = torch.roll(image, 3, dims=1)
    assert psnr(color_corrected(moved, image), image) < psnr(moved, image) + 6.0


def test_saturated_pixels_do_not_count_for_the_fit():
    """The reference is cut off where it is brightest; the fit through the rest goes on beyond."""
    image = picture()
    reference = 1.4 * image
    assert (reference > 1.0).any()
    fitted = color_corrected(image, reference.clamp(0, 1))
    assert torch.allclose(fitted, reference.clamp(0, 1), atol=1e-5)


def test_pixels_outside_of_a_mask_do_not_count_for_the_fit():
    image, valid = picture(), torch.zeros(40, 50, 1, dtype=torch.bool)
    valid[5:30, 10:40] = True
    reference = torch.where(valid, cast(image), picture(7))
    found = color_corrected(image, reference, valid)
    assert torch.allclose(found, cast(image), atol=1e-6)  # corrected everywhere
    assert not torch.allclose(color_corrected(image, reference)[valid[..., 0]], cast(image)[valid[..., 0]], atol=0.01)


def test_odd_images():
    gray = picture()[..., :1].expand(-1, -1, 3)
    assert torch.allclose(color_corrected(gray, 0.5 * gray), 0.5 * gray, atol=1e-6)  # no rank for ten terms
    for same in (torch.full((4, 5, 3), 0.3), picture(0, 1, 1), picture(0, 2, 2)):
        assert torch.allclose(color_corrected(same, 0.5 * same), 0.5 * same, atol=1e-6)
    white = torch.ones(4, 5, 3)  # nothing to learn from: colors stay
    assert torch.equal(color_corrected(0.5 * white, white), 0.5 * white)
    assert torch.equal(color_corrected(white, 0.5 * white), white)


def test_metrics_of_the_corrected_rendering_stand_beside_the_plain_ones():
    target = picture()
    prediction = cast(target)
    plain = image_metrics(prediction, target)
    both = image_metrics(prediction, target, corrected_too=True)
    expected = image_metrics(color_corrected(prediction, target), target)
    assert both == {**plain, **{f"{name}_cc": value for name, value in expected.items()}}
    assert both["psnr_cc"] > plain["psnr"] + 10.0 and "ssim_cc" in both
    valid = torch.zeros(40, 50, 1, dtype=torch.bool)
    valid[:, :25] = True
    inside = image_metrics(prediction, target, valid=valid, corrected_too=True)
    assert set(inside) == {"valid_fraction", "psnr", "ssim", "psnr_cc", "ssim_cc"}
    elsewhere = image_metrics(torch.where(valid, prediction, 0.9), target, valid=valid, corrected_too=True)
    assert elsewhere == pytest.approx(inside)
    assert set(image_metrics(prediction, target, valid=~(valid | True), corrected_too=True)) == {"valid_fraction"}


def recolored(model: MipNerf360Model) -> torch.Tensor:
    """What the model renders, as another camera would have shown it."""
    return cast(model.get_outputs_for_camera(camera())["rgb"])


def test_evaluation_reports_them_if_asked_to():
    for asked in (False, True):
        model = build(color_corrected_metrics=asked).eval()
        metrics, _ = model.evaluate_image(camera(), {"image": recolored(model)})
        assert ({"psnr_cc", "ssim_cc"} <= set(metrics)) is asked
    assert metrics["psnr_cc"] > metrics["psnr"] + 10.0


def test_with_a_code_fitted_to_the_left_half_the_right_half_alone_is_corrected():
    model = coded_model(color_corrected_metrics=True)
    target = rendered_with(model, torch.tensor([0.7, -0.5]))
    half = target.shape[1] // 2
    target[:, half:] = cast(target[:, half:])
    metrics, images = model.evaluate_image(camera(), {"image": target})
    right = images["img"][:, -half:]
    assert metrics == image_metrics(right, target[:, half:], corrected_too=True)
    assert metrics["psnr_cc"] > metrics["psnr"] + 5.0
