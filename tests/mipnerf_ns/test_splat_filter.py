"""Mip-Splatting's 3D smoothing filter against its formulas."""

from __future__ import annotations

import math

import pytest
import torch

from common_ns.splats.covariance import covariances
from common_ns.splats.sampling import MARGIN, sampling_intervals
from mipnerf_ns.splat_filter import smoothed


def cameras(number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    turns = torch.linalg.qr(torch.randn(number, 3, 3, generator=generator))[0]
    turns = turns * torch.linalg.det(turns)[:, None, None]
    viewmats = torch.eye(4).repeat(number, 1, 1)
    viewmats[:, :3, :3], viewmats[:, :3, 3] = turns, torch.randn(number, 3, generator=generator)
    intrinsics = torch.tensor([[50.0, 60.0, 30.0, 20.0], [90.0, 80.0, 35.0, 22.0]]).repeat(number, 1)[:number]
    return viewmats, intrinsics, torch.tensor([[64.0, 48.0]]).repeat(number, 1)


def test_intervals_are_those_of_a_slow_loop():
    viewmats, intrinsics, sizes = cameras(5, 0)
    means = torch.randn(200, 3, generator=torch.Generator().manual_seed(1)) * 3
    expected = []
    for mean in means.tolist():
        found = []
        for viewmat, (fx, fy, cx, cy), (width, height) in zip(viewmats.tolist(), intrinsics.tolist(), sizes.tolist()):
            x, y, z = (sum(row[i] * mean[i] for i in range(3)) + row[3] for row in viewmat[:3])
            if z <= 0.01:
                continue
            u, v = fx * x / z + cx, fy * y / z + cy
            if -MARGIN * width <= u <= (1 + MARGIN) * width and -MARGIN * height <= v <= (1 + MARGIN) * height:
                found.append(z / max(fx, fy))
        expected.append(min(found, default=None))
    largest = max(value for value in expected if value is not None)
    assert any(value is None for value in expected) and len({*expected}) > 30
    wanted = torch.tensor([largest if value is None else value for value in expected])
    assert torch.allclose(sampling_intervals(means, viewmats, intrinsics, sizes), wanted, rtol=1e-4)


def test_what_no_camera_sees_has_no_filter():
    viewmats, intrinsics, sizes = cameras(1, 0)
    behind = torch.linalg.inv(viewmats[0])[:3] @ torch.tensor([0.0, 0.0, -1.0, 1.0])
    assert sampling_intervals(behind[None], viewmats, intrinsics, sizes).tolist() == [0.0]


def test_filter_adds_a_ball_to_the_covariance_and_keeps_the_integral():
    generator = torch.Generator().manual_seed(2)
    scales, quats = torch.rand(20, 3, generator=generator).double() + 0.01, torch.randn(20, 4, generator=generator)
    opacities, intervals = torch.rand(20, generator=generator).double(), torch.rand(20, generator=generator).double()
    wider, fainter = smoothed(scales, opacities, intervals, 0.2)
    before, after = covariances(quats.double(), scales), covariances(quats.double(), wider)
    ball = 0.2 * intervals.square()[:, None, None] * torch.eye(3).double()
    assert torch.allclose(after, before + ball, atol=1e-12)
    # The integral of a Gaussian is its height times the root of the determinant (and (2π)^1.5).
    integral = [h * torch.linalg.det(c).sqrt() for h, c in ((opacities, before), (fainter, after))]
    assert torch.allclose(integral[0], integral[1])


def test_a_distant_thin_gaussian_becomes_as_wide_as_its_pixel():
    wider, fainter = smoothed(torch.tensor([[1e-6, 1e-6, 1e-6]]), torch.ones(1), torch.tensor([0.5]), 0.2)
    assert wider[0].tolist() == pytest.approx([0.5 * math.sqrt(0.2)] * 3, rel=1e-5) and float(fainter) < 1e-10
