"""Rendering weights against a slow loop."""

import math

import pytest
import torch

from common_ns.rays.transmittance import log_mean_distance, render_weights

DOUBLE = torch.float64


def test_rendering_weights_match_a_loop():
    generator = torch.Generator().manual_seed(0)
    density, lengths = 5 * torch.rand(2, 6, 20, generator=generator, dtype=DOUBLE)
    density[0] = 0.0
    density[1, 3] = 1e8
    weights = render_weights(density * lengths)
    for row in range(6):
        reached = 1.0
        for column in range(20):
            opacity = 1.0 - math.exp(-float(density[row, column] * lengths[row, column]))
            assert float(weights[row, column]) == pytest.approx(reached * opacity, abs=1e-12)
            reached *= 1.0 - opacity
    assert (weights >= 0).all() and (weights.sum(-1) <= 1 + 1e-12).all()
    assert weights[0].sum() == 0 and weights[1, 4:].sum() == 0


def test_rendering_weights_of_thin_fog_keep_their_precision():
    density, lengths = torch.full((1, 4), 1e-6), torch.full((1, 4), 1e-3)
    assert torch.allclose(render_weights(density * lengths), torch.full((1, 4), 1e-9), rtol=1e-5, atol=0.0)


def test_rendering_weights_keep_what_is_not_a_number():
    """nerfstudio makes 0 of it, which hides that training has gone wrong."""
    density = torch.tensor([[1.0, math.nan, 1.0]])
    weights = render_weights(density)
    assert torch.isfinite(weights[0, 0]) and torch.isnan(weights[0, 1:]).all()


def test_an_opaque_end_takes_what_is_left_of_each_ray():
    depth = torch.rand(5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights, opened = render_weights(depth, opaque_end=True), render_weights(depth)
    assert torch.equal(weights[:, :-1], opened[:, :-1])
    assert torch.allclose(weights.sum(-1), torch.ones(5), atol=1e-6)
    (gradient,) = torch.autograd.grad(weights[:, -1].sum(), depth)
    assert (gradient[:, -1] == 0).all() and (gradient[:, :-1] < 0).all()


def test_the_mean_of_the_logarithm_matches_a_loop_and_stays_on_the_ray():
    t = torch.tensor([[1.0, 2.0, 4.0, 1e6], [2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 4.0, 5.0]])
    weights = torch.tensor([[0.5, 0.499, 0.001], [0.1, 0.2, 0.3], [0.0, 0.0, 0.0]])
    found = log_mean_distance(t, weights)[:, 0].tolist()
    for row, (ends, parts) in enumerate(zip(t.tolist()[:2], weights.tolist()[:2])):
        logs = [w * math.log(0.5 * (a + b)) for w, a, b in zip(parts, ends[:-1], ends[1:])]
        assert found[row] == pytest.approx(math.exp(sum(logs) / sum(parts)), rel=1e-5)
    assert found[2] == 2.0  # a ray without weight
