"""Points of a frustum: their moments in closed form and by Monte Carlo, and the authors' points."""

import math

import pytest
import torch
from torch import Tensor

from common_ns.rays.cones import frustum_moments
from mipnerf_ns.multisampling import Multisamples, NumPoints, multisamples, perpendicular
from tests.zip_nerf_numbers import numbers_of

DOUBLE = torch.float64
DIRECTION = torch.tensor([[0.48, -0.6, 0.64]], dtype=DOUBLE)
"""Of length 1, so that variances along are those of t."""
ORIGIN = torch.tensor([[0.3, -2.0, 1.0]], dtype=DOUBLE)
T0 = torch.tensor([[0.0, 0.5, 2.0, 3.0, 100.0]], dtype=DOUBLE)
T1 = torch.tensor([[0.5, 2.0, 3.0, 100.0, 100.1]], dtype=DOUBLE)
RADIUS = torch.tensor([[0.2]], dtype=DOUBLE)


def moments_along_the_ray(found: Multisamples) -> tuple[Tensor, Tensor]:
    """Mean [s, 3] and covariance [s, 3, 3] of each interval's points, in the frame (along, across, across)."""
    frame = torch.stack([DIRECTION, *perpendicular(DIRECTION)], dim=-1)[0]
    local = (found.points[0] - ORIGIN) @ frame
    mean = local.mean(-2)
    centered = local - mean[:, None]
    return mean, centered.mT @ centered / local.shape[-2]


def drawn_frustum(t0: float, t1: float, radius: float, count: int) -> Tensor:
    """Points drawn uniformly from a frustum about the z axis, (along, across, across)."""
    u = torch.rand(3, count, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    t = (t0**3 + u[0] * (t1**3 - t0**3)).pow(1 / 3)
    across, angle = radius * t * u[1].sqrt(), 2 * math.pi * u[2]
    return torch.stack([t, across * angle.cos(), across * angle.sin()], dim=-1)


@pytest.mark.parametrize("num_points", [1, 3, 6])
@pytest.mark.parametrize("drawn", [False, True])
def test_the_mean_is_the_frustums(num_points: NumPoints, drawn: bool):
    uniforms = torch.rand(1, 5, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) if drawn else None
    found = multisamples(T0, T1, ORIGIN, DIRECTION, RADIUS, num_points, uniforms)
    mean, _ = moments_along_the_ray(found)
    t_mean, _, _ = frustum_moments(T0, T1, RADIUS)
    torch.testing.assert_close(mean[:, 0], t_mean[0])
    torch.testing.assert_close(mean[:, 1:], torch.zeros(5, 2, dtype=DOUBLE), atol=1e-12, rtol=0)


@pytest.mark.parametrize("num_points", [3, 6])
def test_variances_along_and_across_are_the_frustums(num_points: NumPoints):
    _, covariance = moments_along_the_ray(multisamples(T0, T1, ORIGIN, DIRECTION, RADIUS, num_points))
    _, t_var, r_var = frustum_moments(T0, T1, RADIUS)
    torch.testing.assert_close(covariance[:, 0, 0], t_var[0], rtol=1e-6, atol=0)
    torch.testing.assert_close((covariance[:, 1, 1] + covariance[:, 2, 2]) / 2, r_var[0])
    if num_points == 3:
        torch.testing.assert_close(covariance[:, 1, 1], r_var[0])


def test_six_points_are_even_across_short_intervals():
    center, length = 10.0, torch.tensor([[0.8, 0.4, 0.2]], dtype=DOUBLE)
    found = multisamples(center - length / 2, center + length / 2, ORIGIN, DIRECTION, RADIUS)
    _, covariance = moments_along_the_ray(found)
    unevenness = (covariance[:, 1, 1] - covariance[:, 2, 2]).abs() / (covariance[:, 1, 1] + covariance[:, 2, 2])
    assert (unevenness < length[0] / (2 * center)).all()
    coupling = covariance[:, 0, 1:].norm(dim=-1)
    ratio = coupling[:-1] / coupling[1:]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 4.0), rtol=0.01, atol=0)


@pytest.mark.parametrize("num_points", [3, 6])
def test_drawn_turns_and_mirrorings_make_the_covariance_that_of_the_frustum(num_points: NumPoints):
    t0, t1, radius = 1.0, 3.0, 0.4
    count = 24
    turns = torch.arange(count, dtype=DOUBLE) / count
    uniforms = torch.stack([turns.repeat(2), torch.tensor([0.0, 0.99], dtype=DOUBLE).repeat_interleave(count)], -1)[
        None
    ]
    start, end = (torch.full((1, 2 * count), t, dtype=DOUBLE) for t in (t0, t1))
    size = torch.tensor([[radius]], dtype=DOUBLE)
    found = multisamples(start, end, ORIGIN, DIRECTION, size, num_points, uniforms)
    pooled = Multisamples(found.points.reshape(1, 1, -1, 3), found.std)
    mean, covariance = moments_along_the_ray(pooled)
    drawn = drawn_frustum(t0, t1, radius, 400_000)
    torch.testing.assert_close(mean[0], drawn.mean(0), atol=3e-3, rtol=0)
    torch.testing.assert_close(covariance[0], drawn.T.cov(), atol=3e-3, rtol=0)


def test_mirroring_reverses_the_order_and_a_whole_turn_changes_nothing():
    uniforms = torch.tensor([[[0.0, 0.2], [0.0, 0.5], [1.0, 0.5]]], dtype=DOUBLE)
    t0, t1 = (torch.full((1, 3), t, dtype=DOUBLE) for t in (9.0, 9.001))
    mirrored, plain, turned = multisamples(t0, t1, ORIGIN, DIRECTION, RADIUS, 6, uniforms).points[0]
    torch.testing.assert_close(turned, plain)
    torch.testing.assert_close(mirrored.flip(0), plain, atol=2e-3, rtol=0)  # but for the places along the ray
    assert (mirrored - plain).norm(dim=-1).min() > 0.5


def test_one_point_has_the_whole_frustums_extent():
    found = multisamples(T0, T1, ORIGIN, 2.0 * DIRECTION, RADIUS, 1)
    _, t_var, r_var = frustum_moments(T0, T1, RADIUS)
    torch.testing.assert_close(found.std[..., 0].square(), (4.0 * t_var + 2.0 * r_var) / 3.0)


def test_the_authors_points_and_extents():
    known = {name: torch.tensor(values) for name, values in numbers_of("hexify").items()}
    ray = known["t"][:, :-1], known["t"][:, 1:], known["origins"], known["directions"], known["radius"]
    found = multisamples(*ray)
    torch.testing.assert_close(found.points, known["points"], atol=3e-6, rtol=1e-5)
    torch.testing.assert_close(found.std, 0.5 * known["perp_mag"], atol=1e-7, rtol=1e-5)
    uniforms = torch.stack([known["turn"], 0.75 - 0.5 * known["flip"]], dim=-1)
    drawn = multisamples(*ray, uniforms=uniforms)
    torch.testing.assert_close(drawn.points, known["random_points"], atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("direction", [[0.0, 0.0, 3.0], [1e-12, 0.0, -2.0], [1e-3, -1e-3, 1.0], [5.0, 0.0, 0.0]])
def test_perpendiculars_of_any_direction(direction: list[float]):
    d = torch.tensor([direction])
    first, second = perpendicular(d)
    frame = torch.stack([torch.nn.functional.normalize(d, dim=-1), first, second], dim=-1)[0]
    torch.testing.assert_close(frame.mT @ frame, torch.eye(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_points", [1, 3, 6])
def test_empty_and_far_intervals_are_finite_in_float32_as_are_gradients(num_points: NumPoints):
    t0 = torch.tensor([[0.0, 0.0, 1e6, 3e8]], requires_grad=True)
    t1 = torch.tensor([[0.0, 1e-9, 1e8, 1e9]], requires_grad=True)
    origins = torch.zeros(1, 3, requires_grad=True)
    found = multisamples(t0, t1, origins, DIRECTION.float(), RADIUS.float(), num_points)
    assert found.points.isfinite().all() and found.std.isfinite().all()
    wanted = torch.autograd.grad(found.points.sum() + found.std.sum(), (t0, t1, origins))
    assert all(gradient.isfinite().all() for gradient in wanted)


def test_other_numbers_of_points_are_refused():
    with pytest.raises(ValueError, match="num_points is 4"):
        multisamples(T0, T1, ORIGIN, DIRECTION, RADIUS, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("num_points", [1, 3, 6])
def test_gradients_are_those_of_finite_differences(num_points: NumPoints, drawn: bool):
    """By the ray, by which cameras are refined, and by the intervals."""
    t0, t1, origins, directions, radius = (each.clone() for each in (T0[:, 1:], T1[:, 1:], ORIGIN, DIRECTION, RADIUS))
    inputs = [each.requires_grad_() for each in (t0, t1, origins, 1.3 * directions, radius)]
    generator = torch.Generator().manual_seed(0)
    turns = torch.rand(*t0.shape, 2, generator=generator, dtype=DOUBLE) if drawn else None

    def both(*ray: Tensor) -> tuple[Tensor, Tensor]:
        found = multisamples(*ray, num_points, turns)
        return found.points, found.std

    assert torch.autograd.gradcheck(both, inputs)
