"""NeuS's formulas: against numerical integration, exact limits, and finite differences."""

from __future__ import annotations

import pytest
import torch

from common_ns.rays.transmittance import render_weights
from hashnffb_sdf_ns.neus import (
    annealed_slope,
    eikonal_error,
    guarded_slope,
    median_depth,
    midpoint_optical_depth,
    section_optical_depth,
)


def test_optical_depth_is_the_integral_of_the_papers_density():
    """ρ(t) = max(−dΦ/dt / Φ, 0) (equation 10), integrated numerically along a curved distance function."""
    t = torch.linspace(0.0, 2.0, 200001, dtype=torch.float64)
    sdf = 0.6 - t + 0.2 * t.square()  # descends throughout
    s = 12.0
    phi = torch.sigmoid(s * sdf)
    density = (-torch.gradient(phi, spacing=(t,))[0] / phi).clamp_min(0.0)
    for first, last in ((0, 200000), (40000, 90000), (150000, 180000)):
        expected = torch.trapezoid(density[first : last + 1], t[first : last + 1])
        found = section_optical_depth(sdf[first], sdf[last], s)
        assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_opacity_equals_the_ratio_of_logistic_functions_and_is_0_on_the_way_out():
    d0, d1 = torch.tensor([0.3, 0.1, -0.2]), torch.tensor([0.1, -0.1, 0.4])
    ratio = (torch.sigmoid(9 * d0) - torch.sigmoid(9 * d1)) / torch.sigmoid(9 * d0)
    found = 1.0 - torch.exp(-section_optical_depth(d0, d1, 9.0))
    assert torch.allclose(found, ratio.clamp_min(0.0), atol=1e-6) and float(found[2]) == 0.0


def test_deep_inside_it_stays_exact_with_a_gradient():
    """There Φ underflows; its logarithm is s d, so that the optical depth is s times the descent."""
    d0 = torch.tensor([-3.0], requires_grad=True)
    depth = section_optical_depth(d0, torch.tensor([-3.1]), 200.0)
    assert float(depth) == pytest.approx(20.0, rel=1e-4)
    depth.backward()
    assert float(d0.grad) == pytest.approx(200.0, rel=1e-4)


def test_a_straight_ray_through_a_plane_ends_at_the_plane():
    """Weights are the logistic density's increments, so their median is the plane, wherever the bounds are."""
    t = torch.linspace(0.0, 2.0, 41, dtype=torch.float64)[None]
    sdf = 1.234 - t
    middle, length = 0.5 * (sdf[:, 1:] + sdf[:, :-1]), t[:, 1:] - t[:, :-1]
    weights = render_weights(midpoint_optical_depth(middle, torch.full_like(middle, -1.0), length, 50.0))
    phi = torch.sigmoid(50.0 * sdf)
    assert torch.allclose(weights, (phi[:, :-1] - phi[:, 1:]) / phi[:, :1], atol=1e-12)
    depth = median_depth(t[:, :-1], t[:, 1:], weights)
    assert float(depth) == pytest.approx(1.234, abs=2e-3)


def test_annealing_goes_from_the_gentle_slope_to_the_limit():
    slope = torch.linspace(-1, 1, 21)
    assert torch.allclose(annealed_slope(slope, 0.0), 0.5 * slope - 0.5)
    assert torch.equal(annealed_slope(slope, 1.0), slope.clamp_max(0.0))
    middle = annealed_slope(slope, 0.25)
    assert torch.allclose(middle, 0.75 * annealed_slope(slope, 0.0) + 0.25 * annealed_slope(slope, 1.0))


def test_a_grazed_surface_keeps_the_steeper_descent():
    """In the interval in which the ray turns away, the descent before counts."""
    t = torch.tensor([[0.0, 1.0, 2.0, 4.0]])
    slope, length = guarded_slope(t, torch.tensor([[1.0, 0.2, 0.1, 0.9]]))
    assert torch.allclose(slope, torch.tensor([[-0.8, -0.8, -0.1]])) and torch.equal(length, t[:, 1:] - t[:, :-1])


def test_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(1)
    sdf = torch.randn(2, 5, generator=generator).double().mul(0.1).requires_grad_()
    slope = (-torch.rand(2, 5, generator=generator).double()).requires_grad_()
    length = torch.rand(2, 5, generator=generator).double() * 0.1 + 0.02
    s = torch.tensor(15.0, dtype=torch.float64, requires_grad=True)

    def weights(sdf, slope, s):
        return render_weights(midpoint_optical_depth(sdf, slope, length, s))

    assert torch.autograd.gradcheck(weights, (sdf, slope, s))


def test_median_depth_of_an_empty_ray_is_its_end():
    starts, ends = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 5.0]])
    assert float(median_depth(starts, ends, torch.tensor([[0.0, 0.2]]))) == 5.0
    assert float(median_depth(starts, ends, torch.tensor([[0.25, 0.5]]))) == pytest.approx(3.5)


def test_eikonal_error_has_a_finite_gradient_at_0():
    gradient = torch.zeros(1, 3, requires_grad=True)
    eikonal_error(gradient).sum().backward()
    assert torch.isfinite(gradient.grad).all()
    assert float(eikonal_error(torch.tensor([0.0, 3.0, 4.0]))) == pytest.approx(16.0)
