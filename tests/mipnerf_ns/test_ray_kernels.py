"""Compiled loops give what torch gives, and leave to torch what they cannot do."""

import math

import pytest
import torch

from common_ns.rays import stepfun
from common_ns.rays.contraction import contract_isotropic
from common_ns.rays.stepfun import sample_intervals
from mipnerf_ns import blurred_steps
from mipnerf_ns.blurred_steps import blurred_weights
from mipnerf_ns.multisampling import grid_multisamples, multisamples

pytest.importorskip("numba")


def rays_and_intervals(count=37, intervals=11):
    generator = torch.Generator().manual_seed(3)
    bounds = torch.rand(count, intervals + 1, generator=generator).cumsum(-1) ** 2
    bounds[0, :3] = 0.0  # empty intervals at the camera
    bounds[1] *= 1e4  # far away
    origins = torch.randn(count, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    directions[2] = torch.tensor([0.0, 0.0, -1.0])
    directions[3] *= 1.5
    radius = 0.05 * torch.rand(count, 1, generator=generator)
    uniforms = torch.rand(count, intervals, 2, generator=generator)
    return (bounds[:, :-1], bounds[:, 1:], origins, directions, radius), uniforms


@pytest.mark.parametrize("contracted", [False, True])
@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("num_points", [1, 3, 6])
def test_points_in_the_grid_are_those_of_torch(num_points, drawn, contracted):
    arguments, uniforms = rays_and_intervals()
    uniforms = uniforms if drawn else None
    found = grid_multisamples(*arguments, num_points, uniforms, contracted)
    assert found is not None
    points, std = multisamples(*(each.double() for each in arguments), num_points, uniforms)
    std, side = std[..., None], 2.0
    if contracted:
        points, std = contract_isotropic(points, std)
        side = 4.0
    scale = points.abs().amax(dim=(1, 2, 3))[:, None, None, None] / side + 1.0  # of each ray
    assert ((found.points - (points / side + 0.5)).abs() / scale).max() < 3e-6
    torch.testing.assert_close(found.std.double(), std.squeeze(-1) / side, rtol=2e-5, atol=1e-12)


def test_they_are_left_to_torch_where_a_gradient_is_needed_or_numbers_are_others():
    arguments, uniforms = rays_and_intervals()
    assert grid_multisamples(*(each.double() for each in arguments), 3, uniforms, True) is None
    refined = [*arguments[:3], arguments[3].clone().requires_grad_(True), arguments[4]]
    assert grid_multisamples(*refined, 3, uniforms, True) is None
    with torch.no_grad():
        assert grid_multisamples(*refined, 3, uniforms, True) is not None


@pytest.mark.parametrize("radius", [0.003, 0.03, 5.0])
def test_blurred_weights_are_those_of_torch(radius, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    t = torch.rand(4, 9, 17, generator=generator).sort(dim=-1).values
    t[0, :, 3] = t[0, :, 4] = t[0, :, 5]  # empty intervals
    w = torch.rand(4, 9, 16, generator=generator) ** 4
    query = torch.rand(4, 9, 26, generator=generator).sort(dim=-1).values
    query[1, :, 0], query[1, :, -1] = -1.0, 2.0
    found = blurred_weights(t, w, query, radius)
    monkeypatch.setattr(blurred_steps, "ray_kernels", lambda *_: None)
    expected = blurred_weights(t, w, query, radius)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert found.dtype == expected.dtype and not found.requires_grad
    assert math.isclose(float(found[1].sum(-1).mean()), float(w[1].sum(-1).mean()), rel_tol=1e-5) or radius > 1


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("start", [0.0, 0.3])
def test_drawn_intervals_are_those_of_torch(start, shifted, monkeypatch):
    generator = torch.Generator().manual_seed(2)
    t = start + (1 - start) * torch.rand(50, 3, 25, generator=generator).sort(dim=-1).values
    t[..., 0], t[..., -1] = start, 1.0
    w = torch.rand(50, 3, 24, generator=generator) ** 6
    w[0] = 0.0  # nothing is known: even
    w[1, :, 5:] = 0.0
    w[2, :, :-1] = 0.0
    t[3, :, 4] = t[3, :, 5]
    w[3, :, 4] = 0.0
    shift = torch.rand(50, 3, 1, generator=generator) if shifted else None
    found = sample_intervals(t, w, 17, shift, start)
    monkeypatch.setattr(stepfun, "ray_kernels", lambda *_: None)
    torch.testing.assert_close(found, sample_intervals(t, w, 17, shift, start), rtol=0, atol=2e-6)
