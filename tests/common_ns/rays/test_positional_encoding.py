"""The integrated encoding against Monte Carlo and its limiting cases."""

import math

import pytest
import torch

from common_ns.rays.icosahedron import basis_directions
from common_ns.rays.positional_encoding import integrated_pos_enc, octave_matrix, pos_enc


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
    """Halving all lengths shifts the encoding by one octave. nerfstudio's encoding fails this: its means carry a factor
    2π that its variances lack."""
    mean, var = torch.tensor([[0.7, 0.1, -0.4]]), torch.tensor([[0.05, 0.2, 0.01]])
    shifted = integrated_pos_enc(mean / 2, var / 4, 1, 6)
    assert torch.allclose(shifted, integrated_pos_enc(mean, var, 0, 5), atol=1e-6)


def test_octaves_are_powers_of_two():
    encoding = pos_enc(torch.tensor([[math.pi / 2]]), 0, 3, identity=True)
    expected = [math.pi / 2, 1.0, 0.0, 0.0, 0.0, -1.0, 1.0]  # x, then sines, then cosines of x, 2x, 4x
    assert encoding[0].tolist() == pytest.approx(expected, abs=1e-6)


def direct_encoding(mean: torch.Tensor, var: torch.Tensor, min_deg: int, max_deg: int) -> torch.Tensor:
    """Equation 14 of mip-NeRF, each octave on its own, in float64."""
    scales = 2.0 ** torch.arange(min_deg, max_deg, dtype=torch.float64)[:, None]
    phase = mean.double()[..., None, :] * scales
    damping = torch.exp(-0.5 * var.double()[..., None, :] * scales**2)
    return torch.cat([(damping * phase.sin()).flatten(-2), (damping * phase.cos()).flatten(-2)], dim=-1)


def test_off_axis_encoding_matches_monte_carlo():
    """Along the icosahedron's directions the encoding of a tilted Gaussian knows how it is tilted."""
    generator = torch.Generator().manual_seed(0)
    root = 0.3 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    mean = torch.tensor([0.4, -0.9, 0.2], dtype=torch.float64)
    samples = mean + torch.randn(100_000, 3, generator=generator, dtype=torch.float64) @ root.T
    basis = basis_directions("icosahedron-6").double()
    variance = ((root @ root.T @ basis) * basis).sum(0)
    expected = pos_enc(samples @ basis, 0, 4, identity=False).mean(0)
    assert torch.allclose(integrated_pos_enc(mean @ basis, variance, 0, 4), expected, atol=8e-3)


@pytest.mark.parametrize("scale", [0.0, 1e-10, 1e-8, 1e-7, 1e-6, 1e-4, 1e-2, 1.0, 1e4])
def test_octaves_computed_from_each_other_are_exact_to_two_millionths(scale):
    """Sines and damping alike, also of narrow Gaussians, whose damping is all but 1 in the first octaves."""
    generator = torch.Generator().manual_seed(0)
    mean = 4 * torch.rand(3000, 3, generator=generator) - 2
    var = scale * (0.5 + torch.rand(3000, 3, generator=generator))
    found = integrated_pos_enc(mean, var, 0, 16)
    assert (found - direct_encoding(mean, var, 0, 16)).abs().max() < 2e-6


def test_plain_octaves_are_exact_to_two_millionths():
    x = 4 * torch.rand(3000, 3, generator=torch.Generator().manual_seed(0)) - 2
    assert (pos_enc(x, 0, 16, identity=False) - direct_encoding(x, torch.zeros(3), 0, 16)).abs().max() < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_octaves_are_the_functions_of_each_phase(dtype):
    """Each alone, in a slow loop: to the last bit."""
    x = 4 * torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=dtype) - 2
    found = pos_enc(x, -1, 15, exact=True)
    loop = [x, *(torch.sin(2.0**octave * x) for octave in range(-1, 15))]
    loop += [torch.cos(2.0**octave * x) for octave in range(-1, 15)]
    assert torch.equal(found, torch.cat(loop, dim=-1))


def test_octaves_are_fourier_features_of_the_octave_matrix():
    x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    phases = x @ octave_matrix(3, -1, 6).double().T
    assert torch.allclose(pos_enc(x, -1, 6, identity=False), torch.cat([phases.sin(), phases.cos()], dim=-1), atol=1e-9)


def test_damped_features_hold_no_denormal_numbers():
    """CPUs multiply them slowly."""
    encoding = integrated_pos_enc(torch.ones(50, 2), torch.logspace(-8, 4, 50)[:, None].expand(50, 2), 0, 16)
    small = encoding.abs()[encoding != 0]
    assert small.min() > torch.finfo(torch.float32).tiny


@pytest.mark.parametrize(("min_deg", "max_deg"), [(0, 1), (3, 9), (-2, 4), (5, 5)])
def test_any_range_of_octaves(min_deg, max_deg):
    generator = torch.Generator().manual_seed(0)
    mean, var = torch.randn(2, 20, 3, generator=generator, dtype=torch.float64).unbind()
    var = 1e-3 * var.abs()
    assert torch.allclose(
        integrated_pos_enc(mean, var, min_deg, max_deg), direct_encoding(mean, var, min_deg, max_deg), atol=2e-9
    )


@pytest.mark.parametrize("shape", [(0, 3), (4, 0, 3), (3,), (2, 5, 3), (2, 3, 4, 3)])
def test_any_leading_shape(shape):
    mean, var = torch.rand(shape), 0.01 * torch.rand(shape)
    assert integrated_pos_enc(mean, var, 0, 4).shape == (*shape[:-1], 24)
    assert torch.allclose(integrated_pos_enc(mean, var, 0, 4), direct_encoding(mean, var, 0, 4).float(), atol=2e-6)
    plain = pos_enc(mean, 0, 4)
    assert plain.shape == (*shape[:-1], 27) and torch.equal(plain[..., :3], mean)
    assert torch.allclose(plain[..., 3:], direct_encoding(mean, torch.zeros(3), 0, 4).float(), atol=2e-6)


def test_variances_broadcast_over_means():
    mean, var = torch.rand(5, 3), torch.tensor([0.1])
    assert torch.equal(integrated_pos_enc(mean, var, 0, 4), integrated_pos_enc(mean, var.expand(5, 3), 0, 4))


def test_inputs_are_left_alone():
    mean, var = torch.rand(4, 3), torch.rand(4, 3)
    before = mean.clone(), var.clone()
    integrated_pos_enc(mean, var, 0, 8)
    # One channel: the transposed input, which the octaves start from, is then contiguous without a copy.
    column = torch.rand(4, 1)
    kept = column.clone()
    integrated_pos_enc(column, column, 0, 8)
    assert torch.equal(mean, before[0]) and torch.equal(var, before[1]) and torch.equal(column, kept)


def test_memory_is_feature_major_and_matrix_products_do_not_mind():
    mean, var = torch.rand(7, 5, 3), 0.01 * torch.rand(7, 5, 3)
    encoding = integrated_pos_enc(mean, var, 0, 4)
    assert encoding.reshape(35, 24).t().is_contiguous()
    layer = torch.nn.Linear(24, 6)
    assert torch.allclose(layer(encoding), layer(encoding.contiguous()), atol=1e-6)
    copied = encoding.clone(memory_format=torch.contiguous_format)
    assert torch.equal(copied.reshape(7, 5, 2, 4, 3)[..., 1, 2, 0], encoding[..., 12 + 2 * 3])


def test_bfloat16_output_is_the_rounded_encoding():
    mean, var = torch.rand(30, 3), 0.01 * torch.rand(30, 3)
    exact = integrated_pos_enc(mean, var, 0, 12)
    rounded = integrated_pos_enc(mean, var, 0, 12, torch.bfloat16)
    assert rounded.dtype == torch.bfloat16 and torch.equal(rounded, exact.bfloat16())
    plain = pos_enc(mean, 0, 12, dtype=torch.bfloat16)
    assert plain.dtype == torch.bfloat16 and torch.equal(plain, pos_enc(mean, 0, 12).bfloat16())


def test_gradients_of_a_bfloat16_output_are_in_the_inputs_format():
    mean, var = torch.rand(30, 3, requires_grad=True), (0.01 * torch.rand(30, 3)).requires_grad_()
    weight = torch.rand(30, 24)
    exact = torch.autograd.grad((integrated_pos_enc(mean, var, 0, 4) * weight).sum(), (mean, var))
    rough = torch.autograd.grad((integrated_pos_enc(mean, var, 0, 4, torch.bfloat16) * weight).sum(), (mean, var))
    for a, b in zip(exact, rough):
        assert b.dtype == torch.float32
        assert (a - b).abs().max() < 0.02 * a.abs().max()


@pytest.mark.parametrize("min_deg", [0, 2])
def test_first_and_second_derivatives(min_deg):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(4, 2, generator=generator, dtype=torch.float64).requires_grad_()
    var = (0.02 * torch.rand(4, 2, generator=generator, dtype=torch.float64)).requires_grad_()

    def integrated(m, v):
        return integrated_pos_enc(m, v, min_deg, min_deg + 5)

    def plain(x):
        return pos_enc(x, min_deg, min_deg + 5)

    def exact(x):
        return pos_enc(x, min_deg, min_deg + 5, exact=True)

    assert torch.autograd.gradcheck(integrated, (mean, var))
    assert torch.autograd.gradgradcheck(integrated, (mean, var))
    assert torch.autograd.gradcheck(plain, mean) and torch.autograd.gradgradcheck(plain, mean)
    assert torch.autograd.gradcheck(exact, mean) and torch.autograd.gradgradcheck(exact, mean)
    # Each input on its own.
    assert torch.autograd.gradcheck(integrated, (mean.detach(), var))
    assert torch.autograd.gradcheck(integrated, (mean, var.detach()))
