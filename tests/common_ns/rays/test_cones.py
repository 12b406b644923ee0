"""Cone and cylinder Gaussians against Monte Carlo, and their behavior at the limits."""

import math

import pytest
import torch

from common_ns.rays.cones import PIXEL_TO_RADIUS, cylinder_moments, frustum_moments, lift, pixel_radius


def sample_frustum(t0: float, t1: float, radius: float, count: int, generator: torch.Generator) -> torch.Tensor:
    """Uniform points in a cone's interval along z [count, 3]: the density of t goes as the cross-section, t²."""
    u = torch.rand(count, generator=generator, dtype=torch.float64)
    t = (t0**3 + u * (t1**3 - t0**3)) ** (1 / 3)
    rho = radius * t * torch.rand(count, generator=generator, dtype=torch.float64).sqrt()
    phi = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    return torch.stack([rho * phi.cos(), rho * phi.sin(), t], dim=-1)


@pytest.mark.parametrize(("t0", "t1", "radius"), [(2.0, 2.5, 0.05), (0.5, 3.0, 0.2), (0.0, 1.0, 0.3)])
def test_frustum_moments_match_monte_carlo(t0, t1, radius):
    points = sample_frustum(t0, t1, radius, 400_000, torch.Generator().manual_seed(1))
    t_mean, t_var, r_var = (
        value.item() for value in frustum_moments(*(torch.tensor([v], dtype=torch.float64) for v in (t0, t1, radius)))
    )
    assert t_mean == pytest.approx(points[:, 2].mean().item(), rel=3e-3)
    assert t_var == pytest.approx(points[:, 2].var().item(), rel=1e-2)
    assert r_var == pytest.approx(points[:, :2].var(dim=0).mean().item(), rel=1e-2)


def test_short_intervals_stay_accurate_in_float32():
    # The naive form of equation 7 cancels catastrophically here: t_var is 1e-9 beside t^2 = 16.
    t0, t1 = torch.tensor([4.0]), torch.tensor([4.0001])
    exact = frustum_moments(t0.double(), t1.double(), torch.tensor([1e-3], dtype=torch.float64))
    for value, reference in zip(frustum_moments(t0, t1, torch.tensor([1e-3])), exact):
        assert value.item() == pytest.approx(reference.item(), rel=1e-3)


def test_moments_of_an_empty_interval_at_the_camera_are_finite():
    zero = torch.zeros(1)
    for moments in (frustum_moments, cylinder_moments):
        assert all(torch.isfinite(value).all() for value in moments(zero, zero, torch.ones(1)))


def test_cylinder_moments_match_monte_carlo():
    generator = torch.Generator().manual_seed(2)
    count, radius = 400_000, 0.3
    t = 1.0 + 2.0 * torch.rand(count, generator=generator)
    rho = radius * torch.rand(count, generator=generator).sqrt()
    x = rho * torch.cos(2 * math.pi * torch.rand(count, generator=generator))
    t_mean, t_var, r_var = cylinder_moments(torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([radius]))
    assert t_mean.item() == pytest.approx(t.mean().item(), rel=3e-3)
    assert t_var.item() == pytest.approx(t.var().item(), rel=1e-2)
    assert r_var.item() == pytest.approx(x.var().item(), rel=1e-2)


def test_lift_gives_the_diagonal_of_the_full_covariance():
    generator = torch.Generator().manual_seed(3)
    direction = torch.nn.functional.normalize(torch.randn(5, 3, generator=generator, dtype=torch.float64), dim=-1)
    origin = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    t_mean, t_var, r_var = (torch.rand(5, 1, generator=generator, dtype=torch.float64) for _ in range(3))
    mean, diagonal = lift(origin, direction, t_mean, t_var, r_var)
    for i in range(5):
        outer = torch.outer(direction[i], direction[i])
        full = t_var[i] * outer + r_var[i] * (torch.eye(3, dtype=torch.float64) - outer)
        assert torch.allclose(diagonal[i], full.diagonal())
        assert torch.allclose(mean[i], origin[i] + t_mean[i] * direction[i])


def test_pixel_radius_has_the_variance_of_a_square_pixel():
    # A disc of radius r has variance r^2/4 along x; a square of side a has a^2/12 ... times 4/4 by the paper's choice.
    area = torch.tensor([[0.01]])
    assert pixel_radius(area).item() == pytest.approx(0.1 * 2 / math.sqrt(12))
    disc_variance = (0.1 * PIXEL_TO_RADIUS) ** 2 / 4
    assert disc_variance == pytest.approx(0.1**2 / 12)


def test_placeholder_pixel_areas_are_clamped():
    assert pixel_radius(torch.ones(1, 1), max_radius=0.1).item() == pytest.approx(0.1)
