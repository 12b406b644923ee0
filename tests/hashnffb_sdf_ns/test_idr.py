"""IDR's intersection has the derivatives of where ray and surface really meet; its losses mean what they say."""

from __future__ import annotations

import pytest
import torch

from hashnffb_sdf_ns.encodings import EncodingConfig, make_encoding
from hashnffb_sdf_ns.encodings.positional import PosencOptions
from hashnffb_sdf_ns.idr import LEAST_SLOPE, differentiable_intersection, mask_alpha, mask_error
from hashnffb_sdf_ns.sampling import sphere_interval
from hashnffb_sdf_ns.sdf_field import NetworkOptions, SdfField
from hashnffb_sdf_ns.sphere_tracing import TracingOptions, sphere_trace

EXACT = TracingOptions(num_steps=4, num_bracket_samples=200, num_secant_steps=40, tolerance=1e-13)


@pytest.fixture(scope="module")
def field() -> SdfField:
    """A surface that is no sphere any more."""
    torch.manual_seed(0)
    encoding = make_encoding("posenc", EncodingConfig(posenc=PosencOptions(2)))
    found = SdfField(encoding, NetworkOptions(hidden_dim=16, feature_dim=2, color_hidden_dim=4)).double()
    with torch.no_grad():
        for parameter in found.network.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    return found


def rays():
    generator = torch.Generator().manual_seed(2)
    origins = torch.nn.functional.normalize(torch.randn(12, 3, generator=generator).double(), dim=-1) * 2.5
    targets = 0.15 * torch.randn(12, 3, generator=generator).double()
    return origins, (targets - origins) * 0.4


def meeting(sdf, origins, directions):
    """Where rays meet the surface, by search."""
    near, far = sphere_interval(origins, directions, torch.zeros(3).double(), 1.0)
    found = sphere_trace(sdf, origins, directions, near, far, EXACT)
    assert found.hit.all()
    return found.t


def intersections(field, origins, directions, t):
    points = origins + t[:, None] * directions
    gradient = field.geometry(points.detach()).gradient
    return differentiable_intersection(origins, directions, t, field.sdf(points), gradient)


def test_the_point_is_where_the_search_has_found_it(field):
    origins, directions = rays()
    t = meeting(field.sdf, origins, directions)
    assert torch.equal(intersections(field, origins, directions, t), origins + t[:, None] * directions)


def test_derivatives_by_parameters_are_those_of_the_search(field):
    origins, directions = rays()
    t = meeting(field.sdf, origins, directions)
    points = intersections(field, origins, directions, t)
    generator = torch.Generator().manual_seed(3)
    cotangent = torch.randn(points.shape, generator=generator).double()
    parameters = list(field.network.parameters())
    steps = [torch.randn(p.shape, generator=generator).double() for p in parameters]
    found = torch.autograd.grad(points, parameters, cotangent)
    ends = []
    for sign in (1e-6, -1e-6):
        with torch.no_grad():
            for parameter, step in zip(parameters, steps):
                parameter += sign * step
            place = meeting(field.sdf, origins, directions)
            for parameter, step in zip(parameters, steps):
                parameter -= sign * step
        ends.append(((origins + place[:, None] * directions) * cotangent).sum())
    expected = sum(float((grad * step).sum()) for grad, step in zip(found, steps))
    assert expected == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-4)


def test_derivatives_by_the_camera_are_those_of_the_search(field):
    """Positions and directions move together, as a camera moves them: each component is checked."""
    origins, directions = (part.requires_grad_() for part in rays())
    t = meeting(field.sdf, origins.detach(), directions.detach())
    points = intersections(field, origins, directions, t)
    cotangent = torch.randn(points.shape, generator=torch.Generator().manual_seed(4)).double()
    found = torch.autograd.grad(points, [origins, directions], cotangent)
    step = 1e-6
    for part in range(2):
        for axis in range(3):
            ends = []
            for sign in (step, -step):
                shifted = [origins.detach().clone(), directions.detach().clone()]
                shifted[part][:, axis] += sign
                place = meeting(field.sdf, *shifted)
                ends.append(((shifted[0] + place[:, None] * shifted[1]) * cotangent).sum(-1))
            expected = (ends[0] - ends[1]) / (2 * step)
            assert torch.allclose(found[part][:, axis], expected, rtol=1e-3, atol=1e-5)


def test_a_ray_along_the_surface_moves_its_point_by_a_bounded_way():
    sdf = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    origins = torch.tensor([[0.0, 0.0, -1.0]]).double().expand(3, 3)
    directions = torch.tensor([[0.0, 0.0, 4.0]]).double().expand(3, 3)
    gradient = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 1e-9], [0.6, 0.0, -0.8]]).double()
    points = differentiable_intersection(origins, directions, torch.ones(3).double(), sdf, gradient)
    (moved,) = torch.autograd.grad(points[:, 2].sum(), sdf)
    # The distance falls along the ray: where it rises by δ, the surface is further away by δ / |n · v|.
    assert moved.tolist() == pytest.approx([1 / LEAST_SLOPE, 1 / LEAST_SLOPE, 1 / 0.8])


def test_the_point_is_finite_where_the_distance_is_not():
    sdf = torch.tensor([float("nan"), float("inf")], requires_grad=True)
    origins, directions = torch.zeros(2, 3), torch.ones(2, 3)
    points = differentiable_intersection(origins, directions, torch.ones(2), sdf, -torch.ones(2, 3))
    assert torch.equal(points, torch.ones(2, 3))


def test_alpha_follows_the_absolute_step():
    milestones = (10, 20)
    assert [mask_alpha(step, 50.0, milestones) for step in (0, 9, 10, 19, 20, 99)] == [50, 50, 100, 100, 200, 200]
    assert mask_alpha(99, 50.0, milestones, factor=3.0) == 450.0 and mask_alpha(99, 50.0, ()) == 50.0


def test_sharp_mask_errors_are_distances_on_the_wrong_side():
    least = torch.tensor([0.3, 0.3, -0.3, -0.3]).double()
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0]).double()
    sharp = mask_error(least, mask, 1e6)
    assert torch.allclose(sharp, torch.tensor([0.3, 0.0, 0.0, 0.3]).double(), atol=1e-5)
    soft = mask_error(least, mask, 10.0)
    probability = torch.sigmoid(-10.0 * least)
    expected = -(mask * probability.log() + (1 - mask) * (1 - probability).log()) / 10.0
    assert torch.allclose(soft, expected)
