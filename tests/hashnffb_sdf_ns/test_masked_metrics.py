"""Metrics of an image over its object's mask."""

from __future__ import annotations

import pytest
import torch

from hashnffb_sdf_ns.base_model import masked_metrics


def test_masked_metrics():
    target = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(0))
    inside = torch.zeros(4, 4, dtype=torch.bool)
    inside[:2] = True
    prediction = target.clone()
    prediction[2:] += 5.0
    prediction[0] = target[0] + torch.where(target[0] > 0.5, -0.1, 0.1)
    opacity = torch.zeros(4, 4, 1)
    opacity[:3] = 1.0
    metrics = masked_metrics(prediction, target, inside, opacity)
    assert metrics["mask_iou"] == pytest.approx(8 / 12) and metrics["masked_psnr"] == pytest.approx(23.01, abs=0.01)
    assert masked_metrics(prediction, target, ~(inside | True), 0 * opacity) == {"mask_iou": 1.0}
