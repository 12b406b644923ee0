"""Samples of rays: within the sphere, where the surface is, and the same however rays are divided."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle

from common_ns.rays.stepfun import sample_points
from hashnffb_sdf_ns.sampling import (
    RaySections,
    SurfaceSampler,
    even_bounds,
    random_in_ball,
    seen_everywhere,
    sphere_interval,
)

CENTER = torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64)


def some_rays(count: int = 64, distance: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator).double(), dim=-1) * distance
    targets = 0.5 * torch.randn(count, 3, generator=generator).double()
    return origins, (targets - origins) * 0.7  # of no particular length


def sections_of(sampler: SurfaceSampler, origins, directions, near, far, sdf=None, jitter=None) -> RaySections:
    area = torch.ones_like(near)
    return sampler(RayBundle(origins, directions, area, nears=near, fars=far), sdf or ball, jitter)


def ball(points: torch.Tensor) -> torch.Tensor:
    return points.norm(dim=-1) - 0.4


def test_rays_enter_and_leave_on_the_sphere():
    origins, directions = some_rays()
    near, far = sphere_interval(origins, directions, CENTER, 1.1)
    hit = (far > near)[:, 0]
    assert 0.5 < hit.double().mean() < 1.0
    for t in (near, far):
        points = origins + directions * t
        assert torch.allclose((points - CENTER).norm(dim=-1)[hit], torch.tensor(1.1, dtype=torch.float64))
    missed = (origins + directions * near)[~hit]
    assert ((missed - CENTER).norm(dim=-1) > 1.1).all() and torch.equal(near[~hit], far[~hit])


def test_rays_from_within_begin_at_their_origin_and_those_that_look_away_are_empty():
    origins = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 5.0]])
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    near, far = sphere_interval(origins, directions, torch.zeros(3), 1.0)
    assert near.tolist() == [[0.0], [0.0]] and far[0, 0] == pytest.approx(0.5) and far[1, 0] == 0.0


def test_a_far_camera_keeps_its_digits():
    """b² − 4ac of a camera at 10,000 radii has none left in float32."""
    near, far = sphere_interval(torch.tensor([[1e4, 0.0, 0.0]]), torch.tensor([[-1.0, 0.0, 0.0]]), torch.zeros(3), 1.0)
    assert float(far - near) == pytest.approx(2.0, rel=1e-3)


def test_even_bounds_increase_and_cover_the_ray():
    near, far = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]])
    for jitter in (None, torch.tensor([[0.0], [0.0]]), torch.tensor([[0.999], [0.999]])):
        t = even_bounds(near, far, 8, jitter)
        assert t.shape == (2, 9) and torch.equal(t[:, :1], near) and torch.equal(t[:, -1:], far)
        assert (t[0, 1:] > t[0, :-1]).all() and (t[1] == 2.0).all()
    assert torch.allclose(even_bounds(near, far, 8)[0], torch.linspace(1, 3, 9))


def test_rays_without_weight_are_sampled_by_length():
    def draw(t: torch.Tensor, count: int) -> torch.Tensor:
        return sample_points(t, seen_everywhere(t, torch.zeros(1, 2)), count)

    found = draw(torch.tensor([[0.0, 0.2, 1.0]]), 1000)
    assert float((found > 0.2).float().mean()) == pytest.approx(0.8, abs=0.01)
    assert found.min() < 0.05 and found.max() > 0.9
    assert draw(torch.full((1, 3), 2.0), 4).tolist() == [[2.0] * 4]  # a ray of no length


def test_rounds_gather_at_the_surface():
    origins, directions = some_rays()
    directions = -origins / 3.0
    near, far = sphere_interval(origins, directions, torch.zeros(3).double(), 1.0)
    even = sections_of(SurfaceSampler(16, (), 1.0), origins, directions, near, far)
    found = sections_of(SurfaceSampler(16, (8, 8), 1.0), origins, directions, near, far)
    assert found.t.shape == (64, 33) and (found.t[:, 1:] >= found.t[:, :-1]).all()
    assert torch.allclose(found.sdf, (3.0 - found.t).abs() - 0.4)  # distances belong to their bounds

    def gap(sections) -> torch.Tensor:
        index = torch.searchsorted(sections.t, torch.full((64, 1), 2.6).double())
        return sections.t.gather(1, index) - sections.t.gather(1, index - 1)

    assert float(gap(found).max()) < 0.1 * float(gap(even).min())


def test_samples_belong_to_rays():
    origins, directions = some_rays()
    near, far = sphere_interval(origins, directions, torch.zeros(3).double(), 1.0)
    jitter = torch.rand(64, 3, generator=torch.Generator().manual_seed(5)).double()
    sampler = SurfaceSampler(8, (4, 4), 1.0)
    whole = sections_of(sampler, origins, directions, near, far, jitter=jitter)
    part = slice(20, 41)
    rays = (value[part] for value in (origins, directions, near, far))
    some = sections_of(sampler, *rays, jitter=jitter[part])
    assert torch.isfinite(whole.t).all() and torch.allclose(some.t, whole.t[part], rtol=0, atol=1e-12)
    assert not torch.equal(sections_of(sampler, origins, directions, near, far).t, whole.t)


def test_the_unit_of_length_does_not_matter():
    origins, directions = some_rays()
    near, far = sphere_interval(origins, directions, torch.zeros(3).double(), 1.0)
    small = sections_of(SurfaceSampler(8, (4, 4), 1.0), origins, directions, near, far)
    rays = 50 * origins, directions, 50 * near, 50 * far
    large = sections_of(SurfaceSampler(8, (4, 4), 50.0), *rays, sdf=lambda x: 50 * ball(x / 50))
    assert torch.allclose(large.t, 50 * small.t, rtol=1e-9)


def test_random_points_fill_the_ball_evenly():
    noise = torch.rand(40000, 3, generator=torch.Generator().manual_seed(2)).double()
    offset = random_in_ball(noise, CENTER, 2.0) - CENTER
    radius = offset.norm(dim=-1)
    assert radius.max() <= 2.0
    assert float((radius < 1.0).double().mean()) == pytest.approx(1 / 8, abs=0.01)
    assert offset.mean(0).abs().max() < 0.03 and torch.allclose(
        offset.square().mean(0), torch.tensor(0.8).double(), atol=0.03
    )
