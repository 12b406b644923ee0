"""mip-NeRF 360's test images, and appearance codes that are fitted to a half of one."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.field_components.field_heads import FieldHeadNames
from torch import Tensor

from common_ns.appearance import fit_code
from common_ns.metrics import image_metrics
from mipnerf_ns.model360 import MipNerf360Model
from tests.mipnerf_ns.tiny360 import NUM_IMAGES, build, training_rays


def camera(width: int = 24, height: int = 16) -> Cameras:
    pose = torch.eye(4)[None, :3]
    return Cameras(pose, 20.0, 20.0, width / 2, height / 2, width=width, height=height, metadata={})


def coded_model(**options) -> MipNerf360Model:
    """A model whose colors depend strongly on the appearance code."""
    model = build(**{"appearance_dim": 2, "appearance_eval": "fit-left-half", **options}).eval()
    assert model.field.appearance is not None
    with torch.no_grad():
        model.field.appearance.weight.normal_(std=0.1)
        model.field.color_head.input.weight[:, -2:].normal_()
        model.field.color_head.output.weight.mul_(2.0)
    return model


def rendered_with(model: MipNerf360Model, code: Tensor, **size: int) -> Tensor:
    model.field.appearance.rendered_code = code
    try:
        return model.get_outputs_for_camera(camera(**size))["rgb"]
    finally:
        model.field.appearance.rendered_code = None


def test_evaluation_images_are_target_and_render_side_by_side():
    model = build(camera_optimizer=CameraOptimizerConfig(mode="off")).eval()
    target = torch.rand(16, 24, 3)
    metrics, images = model.evaluate_image(camera(), {"image": target})
    rgb = model.get_outputs_for_camera(camera())["rgb"]
    assert torch.equal(images["img"], torch.cat([target, rgb], dim=1))
    assert metrics == image_metrics(rgb, target) and {"psnr", "ssim"} <= set(metrics)
    assert images["depth"].shape == (16, 3 * 24, 3) and images["accumulation"].shape == (16, 24, 3)
    assert images["distortion"].shape == (16, 24, 3) and images["normals"].shape == (16, 24, 3)
    assert not {"num_rays", "num_rays_per_sec", "fps"} & set(metrics)


@pytest.mark.parametrize("options", [{}, {"eval_num_rays_per_chunk": 50}, {"background_color": "white"}])
def test_code_fitted_to_the_left_half_explains_the_right_half(options):
    model = coded_model(**options)
    code = torch.tensor([0.7, -0.5])
    target = rendered_with(model, code)
    metrics, _ = model.evaluate_image(camera(), {"image": target})
    assert metrics["psnr"] > 35
    assert model.field.appearance.rendered_code is None
    plain = coded_model(**{**options, "appearance_eval": "mean"})
    assert plain.evaluate_image(camera(), {"image": target})[0]["psnr"] < 20


@pytest.mark.parametrize("width", [24, 16])
def test_metrics_come_from_the_right_half_alone(width):
    """The left half has a color cast that some code explains; the right half has nothing to do with it."""
    model = coded_model()
    target = rendered_with(model, torch.tensor([0.7, -0.5]), width=width)
    half = width // 2
    target[:, half:] = torch.rand(16, width - half, 3, generator=torch.Generator().manual_seed(0))
    metrics, images = model.evaluate_image(camera(width), {"image": target})
    rgb = images["img"][:, width:]
    assert image_metrics(rgb[:, :half], target[:, :half])["psnr"] > 35  # the fit saw the left half only
    # SSIM's window does not fit into a half of 8 pixels: the whole image's would count what was fitted.
    assert metrics == image_metrics(rgb[:, half:], target[:, half:])
    assert ("ssim" in metrics) is (half >= 11)


def test_code_is_reset_when_rendering_fails(monkeypatch):
    model = coded_model()

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "get_outputs_for_camera", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.evaluate_image(camera(), {"image": torch.rand(16, 24, 3)})
    assert model.field.appearance.rendered_code is None
    monkeypatch.setattr("mipnerf_ns.proposal_model.fit_code", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.evaluate_image(camera(), {"image": torch.rand(16, 24, 3)})
    assert model.field.appearance.rendered_code is None


def test_fitting_sees_an_even_selection_of_the_left_half(monkeypatch):
    seen: list[Tensor] = []

    def remember(render, target, start):
        seen.append(target)
        assert torch.allclose(render(start), expected, atol=1e-5)
        return fit_code(render, target, start, steps=1)

    monkeypatch.setattr("mipnerf_ns.proposal_model.fit_code", remember)
    monkeypatch.setattr("mipnerf_ns.proposal_model.FIT_PIXELS", 50)
    model = coded_model(eval_num_rays_per_chunk=13)
    target = torch.rand(16, 24, 4)
    chosen = torch.linspace(0, 16 * 12 - 1, 50).long()
    expected = model.get_outputs_for_camera(camera())["rgb"][:, :12].reshape(-1, 3)[chosen]
    model.evaluate_image(camera(), {"image": target})
    blended = target[..., :3] * target[..., 3:]  # over black, as a random background is outside of training
    assert torch.allclose(seen[0], blended[:, :12].reshape(-1, 3)[chosen])


def test_fitting_leaves_the_model_as_it_was():
    model = coded_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.evaluate_image(camera(), {"image": torch.rand(16, 24, 3)})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_codes_change_what_is_rendered_in_training():
    model = coded_model().train()
    bundle = training_rays()
    first = model(bundle)[FieldHeadNames.RGB.value]
    bundle.camera_indices = (bundle.camera_indices + 1) % NUM_IMAGES
    assert not torch.allclose(model(bundle)[FieldHeadNames.RGB.value], first, atol=1e-3)
