"""Metrics against their definitions; LPIPS only with local weights."""

import math

import pytest
import torch
from torchvision.models import alexnet

from common_ns import metrics
from common_ns.errors import InputError


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(72, 80, 3, generator=generator)
    return (target + 0.1 * torch.randn(72, 80, 3, generator=generator)).clamp(0, 1), target


@pytest.fixture(autouse=True)
def fresh_network():
    metrics._lpips_network.cache_clear()
    yield
    metrics._lpips_network.cache_clear()


def test_psnr_is_its_definition(images):
    mse = ((images[0] - images[1]) ** 2).mean().item()
    assert metrics.psnr(*images) == pytest.approx(-10 * math.log10(mse), rel=1e-5)
    assert metrics.psnr(images[0], images[0]) == math.inf


def test_ssim_of_equal_images_is_one(images):
    assert metrics.ssim(images[1], images[1]) == pytest.approx(1.0, abs=1e-5)
    assert metrics.ssim(*images) < 0.999


def test_metrics_inside_of_a_mask_know_nothing_of_what_is_outside(images):
    """0.1 is added inside and 0.5 outside; the windows of SSIM that reach outside do not count."""
    target = 0.4 * images[1]
    valid = torch.zeros(72, 80, 1, dtype=torch.bool)
    valid[10:50, 20:70] = True
    prediction = torch.where(valid, target + 0.1, target + 0.5)
    found = metrics.image_metrics(prediction, target, valid=valid)
    assert found["psnr"] == pytest.approx(20.0, abs=1e-4) and found["valid_fraction"] == pytest.approx(
        40 * 50 / 72 / 80
    )
    assert metrics.image_metrics(prediction, target)["psnr"] < 10.0
    elsewhere = metrics.image_metrics(torch.where(valid, prediction, 0.0), torch.where(valid, target, 1.0), valid=valid)
    assert elsewhere == found
    whole = metrics.image_metrics(*images, valid=torch.ones_like(valid))
    assert whole == pytest.approx({**metrics.image_metrics(*images), "valid_fraction": 1.0})
    assert set(metrics.image_metrics(*images, valid=valid & ~valid)) == {"valid_fraction"}
    valid[:, 30:] = False  # no window fits
    assert set(metrics.image_metrics(prediction, target, valid=valid)) == {"valid_fraction", "psnr"}


def test_lpips_is_left_out_without_weights(images, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert "lpips" not in metrics.image_metrics(*images)
    assert set(metrics.image_metrics(*images)) == {"psnr", "ssim"}


def test_lpips_from_a_local_file_equals_torchmetrics(images, tmp_path, monkeypatch):
    torch.manual_seed(0)
    state = alexnet(weights=None).state_dict()
    file = tmp_path / metrics.ALEXNET_FILE
    torch.save(state, file)
    # torchmetrics downloads the backbone: hand it the same weights instead.
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *args, **kwargs: state)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: state)
    from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity

    prediction, target = (image.movedim(-1, 0)[None] for image in images)
    expected = learned_perceptual_image_patch_similarity(prediction, target, net_type="alex", normalize=True)
    assert metrics.lpips(*images, weights=file) == pytest.approx(expected.item(), rel=1e-5)
    assert metrics.image_metrics(*images, lpips_weights=file)["lpips"] > 0
    valid = torch.zeros(72, 80, 1, dtype=torch.bool)
    valid[:36] = True
    inside = torch.where(valid, images[0], images[1])
    half = metrics.image_metrics(images[0], images[1], file, valid)["lpips"]
    assert half / 2 == pytest.approx(metrics.lpips(inside, images[1], weights=file), rel=1e-4)
    assert metrics.lpips(images[0][:40], images[1][:40], weights=file) is None  # below the smallest sensible size


def test_wrong_weights_file(images, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"weights\.pth: cannot be read as torchvision's AlexNet"):
        metrics.lpips(*images, weights=file)


def test_depth_errors_follow_their_definitions():
    measured = torch.tensor([1.0, 2.0, 4.0, 0.0, float("nan"), float("inf"), -1.0])
    depth = torch.tensor([1.0, 3.0, 3.5, 7.0, 7.0, 7.0, 7.0])
    errors = metrics.depth_errors(depth, measured)
    assert errors["depth_rmse"] == pytest.approx(((0.0 + 1.0 + 0.25) / 3) ** 0.5)
    assert errors["depth_abs_rel"] == pytest.approx((0.0 + 0.5 + 0.125) / 3)
    assert errors["depth_delta1"] == pytest.approx(2 / 3)  # 3 / 2 is beyond 1.25, 4 / 3.5 is not
    assert metrics.depth_errors(depth[3:], measured[3:]) == {}
