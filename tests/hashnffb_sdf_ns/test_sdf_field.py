"""The distance field: it starts as a sphere, and its gradients are the true ones, to second order."""

from __future__ import annotations

import pytest
import torch

from common_ns.hash_grid import HashGridOptions
from hashnffb_sdf_ns import sdf_networks
from hashnffb_sdf_ns.encodings import EncodingConfig, make_encoding
from hashnffb_sdf_ns.encodings.nffb import NFFBOptions
from hashnffb_sdf_ns.sdf_field import NetworkOptions, SdfField
from hashnffb_sdf_ns.sdf_networks import ColorNetwork, InverseVariance, SdfNetwork

GRID = HashGridOptions(num_levels=3, log2_table_size=9, base_resolution=4, max_resolution=12)
ENCODINGS = ("posenc", "fourier", "hash", "nffb", "stylemod-nffb")


def tiny(name: str = "hash", dtype: torch.dtype = torch.float64, trained: bool = True, **options) -> SdfField:
    torch.manual_seed(0)
    sizes = EncodingConfig(hash=GRID, nffb=NFFBOptions(grid=GRID, levels_per_band=1, width=8))
    networks = NetworkOptions(**{"hidden_dim": 16, "feature_dim": 4, "color_hidden_dim": 8, **options})
    field = SdfField(make_encoding(name, sizes), networks, (0.1, 0.2, -0.3), 2.0, num_images=3)  # type: ignore[arg-type]
    if trained:  # not the sphere that it starts from, which encodings do not enter
        with torch.no_grad():
            for table in field.encoding.tables():
                table.uniform_(-0.2, 0.2)
            for layer in field.network.layers:
                layer.weight += 0.1 * torch.randn_like(layer.weight)
    return field.to(dtype)


def some_points(count: int = 12, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return 3.0 * torch.rand(count, 3, generator=torch.Generator().manual_seed(1)).to(dtype) - 1.5


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("options", [{}, {"hidden_dim": 64, "num_layers": 4, "skip_layers": (2,), "weight_norm": True}])
def test_it_starts_as_a_sphere(name, options):
    field = tiny(name, trained=False, **{"hidden_dim": 64, "initial_radius": 0.6, **options})
    generator = torch.Generator().manual_seed(3)
    u = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator), dim=-1).double()
    u = u * torch.rand(4000, 1, generator=generator).double()
    x = field.center + 2.0 * u
    error = field.sdf(x) - 2.0 * (u.norm(dim=-1) - 0.6)
    assert float(error.abs().mean()) < 0.04 and float(error.abs().max()) < 0.3
    gradient = field.geometry(x).gradient
    outside = u.norm(dim=-1) > 0.3
    cosine = torch.nn.functional.cosine_similarity(gradient[outside], u[outside])
    assert float(cosine.mean()) > 0.97


def test_a_room_starts_with_distances_positive_inside():
    field = tiny(trained=False, inside_out=True, hidden_dim=64)
    assert float(field.sdf(field.center[None])) > 0.5
    assert float(field.sdf(field.center + torch.tensor([[1.9, 0.0, 0.0]]))) < -0.5


@pytest.mark.parametrize("name", ENCODINGS)
def test_gradient_is_that_of_autograd_and_of_finite_differences(name):
    field, x = tiny(name), some_points()
    found = field.geometry(x)
    points = x.clone().requires_grad_()
    sdf = field.sdf(points)
    (expected,) = torch.autograd.grad(sdf.sum(), points)
    assert torch.allclose(found.sdf, sdf) and torch.allclose(found.gradient, expected, atol=1e-9)
    for axis in range(3):
        step = 1e-6 * torch.eye(3, dtype=x.dtype)[axis]
        difference = (field.sdf(x + step) - field.sdf(x - step)) / 2e-6
        assert torch.allclose(found.gradient[:, axis], difference, atol=1e-4)


@pytest.mark.parametrize("name", ENCODINGS)
def test_losses_on_gradients_have_the_derivatives_of_plain_autograd(name):
    """By all parameters and by positions, which refined cameras move: a loss on distance, gradient and features."""
    field, x = tiny(name), some_points()

    def loss(sdf, gradient, features):
        return sdf.square().sum() + (gradient.norm(dim=-1) - 1.0).square().sum() + features.sin().sum()

    def derivatives(geometry_of):
        field.zero_grad()
        points = x.clone().requires_grad_()
        loss(*geometry_of(points)).backward()
        own = {name: p.grad.clone() for name, p in field.named_parameters() if p.grad is not None}
        return {**own, "x": points.grad}

    def plain(points):
        u = field.to_unit(points)
        outputs = field.network(torch.cat([u, field.encoding(u)], dim=-1))
        distance = field.radius * outputs[:, 0]
        (gradient,) = torch.autograd.grad(distance.sum(), points, create_graph=True)
        return distance, gradient, outputs[:, 1:]

    expected, found = derivatives(plain), derivatives(lambda points: field.geometry(points)[:3])
    assert expected.keys() == found.keys() and len(found) > 6
    for key, value in expected.items():
        # torch's softplus is a straight line from 20 / β on.
        assert float((found[key] - value).abs().max()) < 1e-7 * float(value.abs().max()), key


@pytest.mark.parametrize("name", ["hash", "nffb", "posenc"])
def test_without_a_graph_the_values_are_the_same(name):
    field, x = tiny(name), some_points()
    expected = field.geometry(x)
    with torch.no_grad():
        found = field.geometry(x)
    assert torch.allclose(found.gradient, expected.gradient) and torch.allclose(found.sdf, expected.sdf)
    assert not any(value.requires_grad for value in found[:3]) and found.laplacian is None


def test_the_network_passes_gradcheck():
    torch.manual_seed(0)
    network = SdfNetwork(2, hidden_dim=5, num_layers=3, feature_dim=2).double()
    inputs = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    parameters = list(network.parameters())

    def both(inputs, *parameters):
        return network.with_gradient(inputs)

    torch.manual_seed(1)
    with torch.no_grad():
        for layer in network.layers:
            layer.weight += 0.3 * torch.randn_like(layer.weight)
    original, sdf_networks.SOFTPLUS_BETA = sdf_networks.SOFTPLUS_BETA, 3.0  # smooth on the scale of the differences
    try:
        assert torch.autograd.gradcheck(both, (inputs, *parameters))
    finally:
        sdf_networks.SOFTPLUS_BETA = original


@pytest.mark.parametrize("options", [{"skip_layers": (2,)}, {"use_weight_norm": True}])
def test_skips_and_weight_norm_change_the_parameters_not_the_mathematics(options):
    torch.manual_seed(0)
    network = SdfNetwork(4, hidden_dim=12, num_layers=3, **options).double()
    inputs = torch.randn(9, 7, dtype=torch.float64, requires_grad=True)
    outputs, gradient = network.with_gradient(inputs)
    (expected,) = torch.autograd.grad(network(inputs)[:, 0].sum(), inputs)
    assert torch.allclose(outputs, network(inputs)) and torch.allclose(gradient, expected)
    assert torch.allclose(network.distance(inputs), outputs[:, 0])
    (gradient.square().sum() + outputs.sum()).backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in network.parameters())


def test_mixed_precision_leaves_the_gradient_in_full():
    network, inputs = SdfNetwork(4, hidden_dim=12), torch.randn(9, 7)
    expected = network.with_gradient(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs, gradient = network.with_gradient(inputs)
    (outputs.sum() + gradient.sum()).backward()
    assert torch.equal(outputs, expected[0]) and torch.equal(gradient, expected[1])
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_numerical_gradients_converge_to_the_analytic_ones():
    analytic = tiny("posenc")
    numerical = tiny("posenc", gradient="numerical")
    x = some_points()
    expected = analytic.geometry(x).gradient
    errors = []
    for step in (2e-3, 1e-3):
        numerical.numerical_step = step
        errors.append(float((numerical.geometry(x).gradient - expected).abs().mean()))
    assert errors[1] < 0.35 * errors[0] < 0.1  # the error of central differences is of second order


def test_the_laplacian_of_a_sphere_is_that_of_its_distance():
    """Δ|x| = 2 / |x|."""
    field = tiny("posenc", gradient="numerical", trained=False, hidden_dim=256, num_layers=3)
    field.numerical_step = 0.1
    u = torch.nn.functional.normalize(torch.randn(3000, 3), dim=-1).double() * 0.7
    laplacian = field.geometry(field.center + 2.0 * u).laplacian
    assert laplacian is not None and float(laplacian.mean()) == pytest.approx(2.0 / 1.4, rel=0.2)


def test_coarse_to_fine_reaches_the_encoding_and_the_step():
    field, x = tiny("hash", gradient="numerical"), some_points()
    steps, values = [], []
    for share in (0.0, 0.5, 1.0):
        field.set_progress(share)
        steps.append(field.numerical_step)
        values.append(field.sdf(x))
    assert steps == pytest.approx([0.06, (0.06 * 0.005) ** 0.5, 0.005])
    assert not torch.allclose(values[0], values[1]) and not torch.allclose(values[1], values[2])


def test_exporters_get_distances_in_scene_units():
    field, x = tiny(), some_points()
    outputs = field.forward_geonetwork(x)
    assert outputs.shape == (12, 5) and torch.allclose(outputs[:, 0], field.sdf(x))
    assert torch.allclose(outputs[:, 1:], field.geometry(x).features)
    # Beyond the sphere nothing has trained the field, and there is no surface.
    with torch.no_grad():
        field.network.layers[-1].bias[0] = -10.0
        beyond = 5.0 * x / x.norm(dim=-1, keepdim=True) + field.center
        assert bool((field.sdf(beyond) < 0).all() and (field.forward_geonetwork(beyond)[:, 0] > 0).all())


def test_appearance_codes_are_the_images_own_in_training_and_their_mean_elsewhere():
    field = tiny(appearance_dim=2)
    assert field.appearance is not None
    indices = torch.tensor([[2], [0]])
    assert torch.equal(field.train().codes_of(indices, 2), field.appearance.weight[[2, 0]])
    assert torch.equal(field.eval().codes_of(indices, 2), field.appearance.weight.mean(0).expand(2, -1))
    assert tiny().codes_of(indices, 2) is None


def test_colors_depend_on_all_that_they_are_given():
    torch.manual_seed(0)
    network = ColorNetwork(feature_dim=4, hidden_dim=8, num_direction_frequencies=2, appearance_dim=2)
    parts = [torch.randn(5, 3), network.encode_directions(torch.randn(5, 3)), torch.randn(5, 3), torch.randn(5, 4)]
    parts.append(torch.randn(5, 2))
    before = network(*parts)
    assert before.shape == (5, 3) and (before > 0).all() and (before < 1).all()
    for index, part in enumerate(parts):
        changed = [*parts[:index], part + 0.5, *parts[index + 1 :]]
        assert not torch.allclose(network(*changed), before), index


def test_the_sharpness_keeps_its_bounds_and_its_gradient():
    sharpness = InverseVariance(20.0, floor=5.0, cap=1000.0)
    assert float(sharpness()) == pytest.approx(20.0)
    with torch.no_grad():
        sharpness.variance.fill_(-3.0)
    low = sharpness()
    assert float(low) == pytest.approx(5.0)
    with torch.no_grad():
        sharpness.variance.fill_(0.3)
    sharpness().backward()
    assert float(sharpness.variance.grad) > 0
    with torch.no_grad():
        sharpness.variance.fill_(3.0)
    assert float(sharpness()) == 1000.0
    with pytest.raises(ValueError, match="floor"):
        InverseVariance(2.0, floor=5.0)


def test_a_sphere_without_radius_is_refused():
    with pytest.raises(ValueError, match="radius"):
        SdfField(make_encoding("posenc"), NetworkOptions(), radius=0.0)
