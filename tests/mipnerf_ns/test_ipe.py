"""The integrated encoding against Monte Carlo and its limiting cases."""

import math

import pytest
import torch

from mipnerf_ns.ipe import integrated_pos_enc, pos_enc


def test_integrated_encoding_matches_monte_carlo():
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    var = torch.tensor([0.02, 0.3, 1e-4], dtype=torch.float64)
    samples = mean + var.sqrt() * torch.randn(400_000, 3, generator=generator, dtype=torch.float64)
    expected = pos_enc(samples, 0, 5, identity=False).mean(0)
    assert torch.allclose(integrated_pos_enc(mean, var, 0, 5), expected, atol=4e-3)


def test_without_variance_it_is_the_plain_encoding():
    x = torch.linspace(-2, 2, 30).reshape(10, 3)
    assert torch.allclose(integrated_pos_enc(x, torch.zeros_like(x), 0, 8), pos_enc(x, 0, 8, identity=False))


def test_frequencies_finer_than_the_gaussian_vanish():
    encoding = integrated_pos_enc(torch.ones(1, 3), torch.full((1, 3), 0.01), 0, 16).reshape(2, 16, 3)
    # sigma is 0.1: octave 0 is hardly damped, octave 8 turns 4 times within one sigma.
    assert encoding[:, 0].abs().max() > 0.5
    assert encoding[:, 8:].abs().max() < 1e-6


def test_mean_and_variance_are_scaled_alike():
    """Halving all lengths shifts the encoding by one octave. The host's encoding fails this: its means carry a factor
    2π that its variances lack."""
    mean, var = torch.tensor([[0.7, 0.1, -0.4]]), torch.tensor([[0.05, 0.2, 0.01]])
    shifted = integrated_pos_enc(mean / 2, var / 4, 1, 6)
    assert torch.allclose(shifted, integrated_pos_enc(mean, var, 0, 5), atol=1e-6)


def test_octaves_are_powers_of_two():
    encoding = pos_enc(torch.tensor([[math.pi / 2]]), 0, 3, identity=True)
    expected = [math.pi / 2, 1.0, 0.0, 0.0, 0.0, -1.0, 1.0]  # x, then sines, then cosines of x, 2x, 4x
    assert encoding[0].tolist() == pytest.approx(expected, abs=1e-6)
