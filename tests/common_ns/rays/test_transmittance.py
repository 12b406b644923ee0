"""Rendering weights against a slow loop."""

import math

import pytest
import torch

from common_ns.rays.transmittance import render_weights

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
