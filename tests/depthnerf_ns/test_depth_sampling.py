"""Endpoints around the measured depth."""

import math
import statistics

import pytest
import torch

from depthnerf_ns.depth_sampling import guide_samples

DOUBLE = torch.float64


def endpoints(rays: int = 6, n: int = 32, seed: int = 0) -> torch.Tensor:
    """Random endpoints between 0.5 and 4."""
    t = torch.rand(rays, n + 1, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).sort(-1).values
    t[:, 0], t[:, -1] = 0.0, 1.0
    return 0.5 + 3.5 * t


def test_a_quarter_of_the_endpoints_are_the_quantiles_of_a_gaussian_around_the_depth():
    t, epsilon = endpoints(1), 0.02
    found = guide_samples(t, torch.tensor([2.0], dtype=DOUBLE), epsilon)[0].tolist()
    normal = statistics.NormalDist(2.0, 3 * epsilon)
    low, high = normal.cdf(2.0 - 9 * epsilon), normal.cdf(2.0 + 9 * epsilon)
    new = [normal.inv_cdf(low + (high - low) * (i + 0.5) / 8) for i in range(8)]
    old = t[0].tolist()
    assert found == sorted(found)
    for place in new:
        assert min(abs(place - x) for x in found) < 1e-9
    assert sum(min(abs(x - place) for place in new) > 1e-9 for x in found) == 33 - 8
    assert all(x in old for x in found if min(abs(x - place) for place in new) > 1e-9)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 2, 3, 32])
def test_number_and_ends_of_the_samples_stay_and_they_increase(n: int, fraction: float):
    t = endpoints(n=n)
    guided = guide_samples(t, torch.linspace(0.51, 3.99, 6, dtype=DOUBLE), 0.1, fraction)
    assert guided.shape == t.shape
    assert (guided[:, 1:] >= guided[:, :-1]).all()
    assert torch.equal(guided[:, [0, -1]], t[:, [0, -1]])


def test_rays_without_depth_within_their_ends_are_unchanged():
    t = endpoints(7)
    depth = torch.tensor([0.0, math.nan, math.inf, -1.0, 0.4, 4.5, 2.0], dtype=DOUBLE)
    guided = guide_samples(t, depth, torch.tensor([math.nan] * 6 + [0.03], dtype=DOUBLE))
    assert torch.equal(guided[:6], t[:6])
    assert not torch.equal(guided[6], t[6])
    masked = guide_samples(t, depth, 0.03, valid=torch.zeros(7, dtype=torch.bool))
    assert torch.equal(masked, t)


def test_endpoints_left_out_are_spread_evenly():
    t = torch.linspace(0.0, 1.0, 65, dtype=DOUBLE)[None]
    guided = guide_samples(t, torch.tensor([0.5], dtype=DOUBLE), 1e-6)[0]
    away = guided[(guided - 0.5).abs() > 1e-4]
    assert (away[1:] - away[:-1]).max() < 0.05  # one left out between two kept, or the gap at the depth itself


def test_jitter_stays_within_the_strata_and_none_is_repeatable():
    t, depth = endpoints(4), torch.full((4,), 2.0, dtype=DOUBLE)
    assert torch.equal(guide_samples(t, depth, 0.05), guide_samples(t, depth, 0.05))
    # With every endpoint exchanged, only the new ones remain between the ends.
    low = guide_samples(t, depth, 0.05, 1.0, torch.zeros(4, 1, dtype=DOUBLE))[:, 1:-1]
    high = guide_samples(t, depth, 0.05, 1.0, torch.full((4, 1), 1 - 1e-9, dtype=DOUBLE))[:, 1:-1]
    each = torch.rand(4, 31, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    drawn = guide_samples(t, depth, 0.05, 1.0, each)[:, 1:-1]
    assert ((low <= drawn) & (drawn <= high)).all()
    assert torch.allclose(high[:, :-1], low[:, 1:], atol=1e-6)


@pytest.mark.parametrize("depth", [0.5001, 3.9999])
def test_beside_an_end_the_gaussian_is_cut_off_there(depth: float):
    t = endpoints(1).float()
    guided = guide_samples(t, torch.tensor([depth]), 0.1)
    assert torch.isfinite(guided).all()
    assert (guided >= t[:, :1]).all() and (guided <= t[:, -1:]).all()
    assert ((guided[:, 1:] - guided[:, :-1]) > 0).sum() >= 30
