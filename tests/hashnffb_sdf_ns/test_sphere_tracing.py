"""Sphere tracing: the first surface of each ray, whatever the distance field, and never a position that is none."""

from __future__ import annotations

import pytest
import torch

from hashnffb_sdf_ns.sampling import sphere_interval
from hashnffb_sdf_ns.sphere_tracing import TracingOptions, nearest_on_rays, sphere_trace

FINE = TracingOptions(tolerance=1e-9, num_secant_steps=20)


def some_rays(count: int = 400, distance: float = 2.7, spread: float = 0.45):
    """Rays of no particular length, and where they are in the unit sphere."""
    generator = torch.Generator().manual_seed(0)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator).double(), dim=-1) * distance
    targets = spread * torch.randn(count, 3, generator=generator).double()
    directions = (targets - origins) * (0.3 + torch.rand(count, 1, generator=generator).double())
    return origins, directions, *sphere_interval(origins, directions, torch.zeros(3).double(), 1.0)


def ball(points):
    return points.norm(dim=-1) - 0.6


def torus(points):
    return torch.stack([points[:, :2].norm(dim=-1) - 0.5, points[:, 2]], dim=-1).norm(dim=-1) - 0.2


def waves(points):
    """No distance: its gradient is up to 2 long, and it has hollows."""
    return 0.9 * ball(points) + 0.08 * torch.sin(9.0 * points).sum(-1)


def steep(points):
    return 1.4 * torus(points)


def flat(points):
    return 0.2 * torus(points)


def march(sdf, origins, directions, near, far, count: int = 4000):
    """Slow reference: the first change from outside to inside among many samples, linearly interpolated."""
    hits, places = [], []
    for o, d, a, b in zip(origins, directions, near[:, 0], far[:, 0]):
        t = torch.linspace(float(a), float(b), count, dtype=o.dtype)
        values = sdf(o + d * t[:, None])
        found = ((values[:-1] > 0) & (values[1:] <= 0)).nonzero()[:, 0].tolist() if b > a else []
        hits.append(bool(found))
        i = found[0] if found else 0
        places.append(t[i] + (t[i + 1] - t[i]) * values[i] / (values[i] - values[i + 1]) if found else b)
    return torch.tensor(hits), torch.stack(places)


@pytest.mark.parametrize("sdf", [ball, torus, waves, steep, flat])
def test_hits_are_those_of_dense_sampling(sdf):
    rays = some_rays(150)
    expected, place = march(sdf, *rays)
    found = sphere_trace(sdf, *rays, FINE)
    # Rays that only just touch may be seen by one and not by the other.
    assert (found.hit == expected).double().mean() > 0.98 and 0.2 < expected.double().mean() < 0.95
    both = found.hit & expected
    gap = (found.t - place)[both].abs() * rays[1].norm(dim=-1)[both]
    assert float(gap.quantile(0.98)) < 1e-4
    points = rays[0] + rays[1] * found.t[:, None]
    assert float(sdf(points)[found.hit].abs().max()) < 1e-6
    assert torch.equal(found.t[~found.hit], rays[3][~found.hit, 0])  # the others end where the sphere does


def test_a_ray_finds_the_first_of_several_surfaces():
    origins = torch.tensor([[0.0, 0.0, 2.0]]).double()
    directions = torch.tensor([[0.0, 0.0, -1.0]]).double()

    def shells(points):
        r = points.norm(dim=-1)
        return torch.minimum((r - 0.8).abs() - 0.02, r - 0.3)

    near, far = sphere_interval(origins, directions, torch.zeros(3).double(), 1.0)
    assert sphere_trace(shells, origins, directions, near, far, FINE).t.item() == pytest.approx(2.0 - 0.82, abs=1e-6)


def test_a_ray_that_begins_inside_leaves_the_surface_before_it_meets_one():
    origins = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).double()
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]).double()

    def two_balls(points):
        other = points - torch.tensor([0.0, 0.0, 0.8]).double()
        return torch.minimum(points.norm(dim=-1) - 0.3, other.norm(dim=-1) - 0.1)

    near, far = sphere_interval(origins, directions, torch.zeros(3).double(), 1.0)
    found = sphere_trace(two_balls, origins, directions, near, far, FINE)
    assert found.hit.tolist() == [True, False] and found.t[0].item() == pytest.approx(0.7, abs=1e-6)


def test_distances_are_in_the_unit_of_the_directions():
    origins, directions, near, far = some_rays()
    short = sphere_trace(torus, origins, directions, near, far)
    long = sphere_trace(torus, origins, 5.0 * directions, near / 5.0, far / 5.0)
    assert torch.equal(short.hit, long.hit) and torch.allclose(short.t, 5.0 * long.t, atol=1e-3)


def test_settled_rays_cost_no_samples():
    """Of a true distance, two-sided steps leave few rays open: fewer points are looked at than by sampling alone."""
    looked = []

    def counted(points):
        looked.append(len(points))
        return ball(points)

    origins, directions, near, far = some_rays(400)
    sphere_trace(counted, origins, directions, near, far)
    assert sum(looked) < 0.35 * 100 * 400
    looked.clear()
    empty = sphere_trace(counted, origins, directions, near, near)
    assert sum(looked) == 0 and not empty.hit.any() and torch.equal(empty.t, near[:, 0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_positions_are_finite_whatever_the_distances(value):
    """Grids are indexed by positions: one that is no number would read anywhere."""
    looked = []

    def broken(points):
        looked.append(points)
        values = torus(points)
        return torch.where(points[:, 0] > 0.1, torch.full_like(values, value), values)

    origins, directions, near, far = some_rays()
    hits = sphere_trace(broken, origins, directions, near, far)
    t = nearest_on_rays(broken, origins, directions, near, far)
    assert torch.isfinite(torch.cat(looked)).all() and torch.isfinite(hits.t).all() and torch.isfinite(t).all()
    inside = torch.cat(looked).norm(dim=-1) < 1.0 + 1e-6
    assert inside.double().mean() > 0.9  # rays that miss the sphere are looked at where they pass it


@pytest.mark.parametrize("sdf", [ball, torus, waves])
@pytest.mark.parametrize("jitter", [None, 0.0, 0.99])
def test_the_least_distance_is_that_of_dense_sampling(sdf, jitter):
    origins, directions, near, far = some_rays(200, spread=0.7)
    keep = (far > near)[:, 0]
    origins, directions, near, far = (part[keep] for part in (origins, directions, near, far))
    share = torch.linspace(0, 1, 4001).double()
    t = near + (far - near) * share
    least = sdf((origins[:, None] + directions[:, None] * t[..., None]).reshape(-1, 3)).reshape(t.shape).amin(-1)
    shift = None if jitter is None else torch.full_like(near, jitter)
    found = nearest_on_rays(sdf, origins, directions, near, far, 100, shift)
    gap = sdf(origins + directions * found[:, None]) - least
    # Samples alone would be up to 1e-2 off where the distance along the ray has a kink.
    assert float(gap.min()) > -1e-4 and float(gap.quantile(0.95)) < 1e-3 and float(gap.max()) < 1e-2
    assert ((found >= near[:, 0] - 1e-9) & (found <= far[:, 0] + 1e-9)).all()


def test_options_that_cannot_be_are_named():
    assert TracingOptions().problem() is None
    assert "num-mask-samples is 2" in str(TracingOptions(num_mask_samples=2).problem())
    assert "tolerance is 0" in str(TracingOptions(tolerance=0.0).problem())
