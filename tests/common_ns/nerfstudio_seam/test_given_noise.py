"""nerfstudio's samplers with random numbers that belong to rays."""

from __future__ import annotations

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.model_components.ray_samplers import PDFSampler, UniformSampler

from common_ns.nerfstudio_seam.given_noise import GivenNoise

SAMPLES = 6


def edges(rays: RayBundle, weights: torch.Tensor, noise: list[torch.Tensor | None]) -> torch.Tensor:
    """Where the fine samples of rays lie."""
    coarse_sampler, fine_sampler = UniformSampler(SAMPLES), PDFSampler(SAMPLES, include_original=False)
    with GivenNoise(noise[0]):
        coarse = coarse_sampler(rays)
    with GivenNoise(noise[1]):
        return fine_sampler(rays, coarse, weights).frustums.starts[..., 0]


def test_rays_are_sampled_alike_in_parts_and_as_by_nerfstudio_itself():
    torch.manual_seed(0)
    directions, ones = torch.nn.functional.normalize(torch.randn(10, 3), dim=-1), torch.ones(10, 1)
    rays = RayBundle(torch.zeros(10, 3), directions, pixel_area=ones, nears=ones, fars=5 * ones)
    weights = torch.rand(10, SAMPLES, 1)
    torch.manual_seed(1)
    expected = edges(rays, weights, [None, None])
    torch.manual_seed(1)
    noise = [torch.rand(10, SAMPLES + 1) for _ in range(2)]
    parts = [slice(0, 3), slice(3, 10)]
    found = [edges(rays[part], weights[part], [numbers[part] for numbers in noise]) for part in parts]
    assert torch.equal(torch.cat(found), expected)
