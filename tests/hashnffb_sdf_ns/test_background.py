"""What is beyond the sphere: samples on their rays, out to infinity, and space without folds."""

from __future__ import annotations

import pytest
import torch

from common_ns.hash_grid import HashGridOptions
from hashnffb_sdf_ns.background import (
    BackgroundField,
    BackgroundOptions,
    background_sections,
    distance_at,
    inverse_bounds,
)
from hashnffb_sdf_ns.sampling import sphere_interval


def rays(count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    origins = torch.randn(count, 3, generator=generator).double()
    return origins, torch.randn(count, 3, generator=generator).double()


def test_distances_lead_to_the_sphere_of_the_inverse():
    origins, directions = rays()
    inverse = torch.tensor([[0.2, 0.1, 0.01]]).double().expand(50, 3)
    t = distance_at(inverse, origins, directions)
    points = origins[:, None] + directions[:, None] * t[..., None]
    assert torch.allclose(points.norm(dim=-1), 1.0 / inverse) and (t > 0).all()


def test_samples_go_outwards_from_the_sphere():
    origins, directions = rays()
    _, far = sphere_interval(origins, directions, torch.zeros(3).double(), 1.0)
    for jitter in (None, torch.rand(50, 1, generator=torch.Generator().manual_seed(1)).double()):
        t, length = background_sections(origins, directions, far, 12, jitter)
        assert t.shape == length.shape == (50, 12) and torch.isfinite(t).all()
        assert (length > 0).all() and (t[:, 1:] >= t[:, :-1]).all() and (t >= far - 1e-9).all()
        radius = (origins[:, None] + directions[:, None] * t[..., None]).norm(dim=-1)
        assert (radius > 1.0).all() and (radius[:, -1] > 5.0).all()


def test_inverse_bounds_end_at_infinity():
    bounds = inverse_bounds(torch.tensor([[0.5], [1.0]]), 4)
    assert torch.allclose(bounds[0], torch.tensor([0.5, 0.375, 0.25, 0.125, 0.0])) and bounds[1, 0] == 1.0


def test_the_field_depends_on_directions_and_learns():
    torch.manual_seed(0)
    grid = HashGridOptions(num_levels=2, log2_table_size=8, base_resolution=4, max_resolution=8)
    field = BackgroundField(BackgroundOptions(grid=grid, hidden_dim=8), 3)
    u = 3.0 * torch.randn(20, 3)
    density, color = field(u, torch.randn(20, 3))
    assert density.shape == (20,) and (density > 0).all() and color.shape == (20, 3)
    assert not torch.allclose(color, field(u, torch.randn(20, 3))[1])
    (density.sum() + color.sum()).backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in field.parameters())


def test_a_ray_through_the_center_keeps_its_direction():
    t, _ = background_sections(
        torch.tensor([[0.0, 0.0, -3.0]]), torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[2.0]]), 4
    )
    assert float(t[0, 0]) == pytest.approx(0.5 * (3.0 + 1.0 / 0.875))
