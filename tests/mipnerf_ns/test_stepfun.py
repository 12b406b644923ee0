"""Dilation and resampling of rendering weights against slow loops."""

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.model_components.ray_samplers import PDFSampler, UniformSampler

from mipnerf_ns.stepfun import blur_weights


def blur_loop(weights: torch.Tensor) -> torch.Tensor:
    """Equation 18 of mip-NeRF, one interval at a time."""
    n = len(weights)
    out = []
    for k in range(n):
        left = max(weights[max(k - 1, 0)], weights[k])
        right = max(weights[k], weights[min(k + 1, n - 1)])
        out.append(0.5 * (left + right))
    return torch.stack(out)


def test_dilation_matches_a_loop_and_is_an_upper_envelope():
    weights = torch.rand(7, 33, generator=torch.Generator().manual_seed(0))
    blurred = blur_weights(weights)
    for row, reference in zip(blurred, weights):
        assert torch.equal(row, blur_loop(reference))
    assert (blurred >= weights).all()


def test_dilation_reaches_one_interval_to_both_sides():
    weights = torch.zeros(1, 9)
    weights[0, 4] = 1.0
    assert blur_weights(weights)[0].tolist() == [0, 0, 0, 0.5, 1.0, 0.5, 0, 0, 0]


def rays(count: int) -> RayBundle:
    return RayBundle(
        origins=torch.zeros(count, 3),
        directions=torch.tensor([[0.0, 0.0, 1.0]]).expand(count, 3),
        pixel_area=torch.full((count, 1), 1e-4),
        nears=torch.full((count, 1), 2.0),
        fars=torch.full((count, 1), 6.0),
    )


def inverse_cdf_loop(edges: list[float], weights: list[float], u: float) -> float:
    """Distance at which the step function's integral reaches the fraction u."""
    total, reached = sum(weights), 0.0
    for left, right, weight in zip(edges[:-1], edges[1:], weights):
        share = weight / total
        if u <= reached + share:
            return left + (right - left) * (u - reached) / share
        reached += share
    return edges[-1]


def test_resampled_endpoints_match_a_loop():
    bundle, padding = rays(4), 0.01
    coarse = UniformSampler(num_samples=16).eval()(bundle)
    weights = torch.rand(4, 16, 1, generator=torch.Generator().manual_seed(1)) ** 4
    fine = PDFSampler(num_samples=24, include_original=False, histogram_padding=padding).eval()(bundle, coarse, weights)
    edges = torch.linspace(2.0, 6.0, 17).tolist()
    found = torch.cat([fine.frustums.starts[..., 0], fine.frustums.ends[:, -1:, 0]], dim=-1)
    for row, w in zip(found, weights[..., 0]):
        padded = (w + padding).tolist()
        expected = [inverse_cdf_loop(edges, padded, (i + 0.5) / 25) for i in range(25)]
        assert torch.allclose(row, torch.tensor(expected), atol=1e-4)


def test_resampled_intervals_follow_the_weights():
    bundle = rays(200)
    coarse = UniformSampler(num_samples=8).eval()(bundle)
    weights = torch.tensor([0, 0, 0.1, 0.6, 0.3, 0, 0, 0.0]).reshape(1, 8, 1).expand(200, 8, 1)
    sampler = PDFSampler(num_samples=64, include_original=False, histogram_padding=0.0).train()
    torch.manual_seed(0)
    fine = sampler(bundle, coarse, weights)
    counts = torch.histc(fine.frustums.starts.flatten(), bins=8, min=2.0, max=6.0)
    assert torch.allclose(counts / counts.sum(), weights[0, :, 0], atol=0.02)
