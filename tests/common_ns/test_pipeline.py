"""Averages over images, over scales, and over images that lack a metric."""

import math

import pytest

from common_ns.pipeline import average_metrics


def test_means_and_sample_deviation():
    averages = average_metrics([{"psnr": 20.0}, {"psnr": 24.0}], [None, None], get_std=True)
    assert averages == {"psnr": 22.0, "psnr_std": pytest.approx(math.sqrt(8.0))}


def test_scales_are_averaged_apart():
    images = [{"psnr": p, "fps": 1.0} for p in (20.0, 22.0, 30.0, 34.0)]
    averages = average_metrics(images, [1, 1, 8, 8])
    assert averages == {"psnr": 26.5, "fps": 1.0, "psnr_1x": 21.0, "psnr_8x": 32.0}


def test_one_scale_is_not_named():
    assert average_metrics([{"psnr": 20.0}], [1]) == {"psnr": 20.0}


def test_a_metric_that_some_images_lack():
    averages = average_metrics([{"psnr": 20.0, "lpips": 0.2}, {"psnr": 30.0}], [1, 8])
    assert averages["lpips"] == 0.2 and averages["lpips_1x"] == 0.2 and "lpips_8x" not in averages
