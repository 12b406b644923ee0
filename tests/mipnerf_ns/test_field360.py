"""The fields of mip-NeRF 360: size, normals, encodings, appearance codes and number formats."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.rays import Frustums, RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from torch import Tensor

from common_ns.rays.cones import MAX_RADIUS, cylinder_moments, frustum_moments, pixel_radius
from common_ns.rays.contraction import contract
from common_ns.rays.positional_encoding import integrated_pos_enc, pos_enc
from mipnerf_ns.field360 import ContractedDensityField, MipNerf360Field
from mipnerf_ns.networks import SplitLinear
from tests.common_ns.rays.full_covariance import contract_gaussian


def samples(rays: int = 3, count: int = 5, area: float = 1e-5, length: float = 1.0, indices: bool = True) -> RaySamples:
    """Samples from inside the unit ball to far outside of it, as nerfstudio broadcasts them over a ray."""
    generator = torch.Generator().manual_seed(0)
    edges = torch.logspace(-1, 1.5, count + 1)
    shape = (rays, count, 3)
    directions = torch.nn.functional.normalize(torch.randn(rays, 1, 3, generator=generator), dim=-1)
    return RaySamples(
        frustums=Frustums(
            origins=0.3 * torch.randn(rays, 1, 3, generator=generator).expand(shape),
            directions=length * directions.expand(shape),
            starts=edges[:-1].reshape(1, count, 1).expand(rays, count, 1),
            ends=edges[1:].reshape(1, count, 1).expand(rays, count, 1),
            pixel_area=torch.full((rays, count, 1), area),
        ),
        camera_indices=torch.arange(rays).reshape(rays, 1, 1).expand(rays, count, 1) if indices else None,
    )


def small_field(**options) -> MipNerf360Field:
    torch.manual_seed(0)
    small = {"num_layers": 2, "hidden_dim": 24, "bottleneck_dim": 16, "color_hidden_dim": 12, "precision": "float32"}
    return MipNerf360Field(**{**small, "num_frequencies": 5, **options})


def gaussians(count: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means inside and outside the unit ball, directions, variances along and across; float64."""
    generator = torch.Generator().manual_seed(1)
    unit, direction = torch.nn.functional.normalize(
        torch.randn(2, count, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    mean = unit * torch.linspace(0.2, 6.0, count, dtype=torch.float64)[:, None]
    t_var, r_var = 0.02 * torch.rand(2, count, 1, generator=generator, dtype=torch.float64) + 1e-3
    return mean, direction, t_var, r_var


def test_networks_have_the_papers_size():
    # 21 directions × 12 octaves × sine and cosine
    encoded = 504
    proposal = ContractedDensityField()
    expected = encoded * 256 + 3 * 256 * 256 + 4 * 256 + (256 + 1)
    assert sum(p.numel() for p in proposal.parameters()) == expected

    field = MipNerf360Field(num_layers=8, hidden_dim=1024)
    # 504 → 8 × 1024 with the encoding joined at the sixth layer, density, bottleneck, 256 + 27 → 128 → 3.
    trunk = encoded * 1024 + 7 * 1024 * 1024 + encoded * 1024 + 8 * 1024
    heads = (1024 + 1) + (1024 * 256 + 256) + ((256 + 27) * 128 + 128) + (128 * 3 + 3)
    assert sum(p.numel() for p in field.parameters()) == trunk + heads


def test_encoding_is_joined_after_every_so_many_layers():
    for num_layers, skip_layer, joined in ((8, 4, [5]), (4, 4, []), (6, 2, [3, 5]), (10, 4, [5, 9])):
        layers = small_field(num_layers=num_layers, skip_layer=skip_layer).trunk.layers
        assert [index for index, layer in enumerate(layers) if isinstance(layer, SplitLinear)] == joined


def test_appearance_codes_add_their_inputs_and_themselves():
    plain, coded = small_field(), small_field(num_images=7, appearance_dim=4)
    added = sum(p.numel() for p in coded.parameters()) - sum(p.numel() for p in plain.parameters())
    assert added == 7 * 4 + 4 * 12


@pytest.mark.parametrize(
    ("options", "encoded"),
    [
        ({"basis": "icosahedron-6"}, 2 * 6 * 5),
        ({"basis": "axes"}, 2 * 3 * 5),
        ({"encoding": "plain"}, 3 + 2 * 3 * 5),
    ],
)
def test_encodings_have_their_channels(options, encoded):
    assert small_field(**options).trunk.layers[0].in_features == encoded
    assert small_field(**options)(samples())[FieldHeadNames.DENSITY].shape == (3, 5, 1)


def test_weights_start_as_in_the_paper():
    """He initialization, uniform, also of the layers that are split over two inputs; biases 0."""
    torch.manual_seed(0)
    field = MipNerf360Field(num_layers=6, hidden_dim=64)
    for name, parameter in field.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif parameter.numel() > 1000:
            bound = (6 / parameter.shape[1]) ** 0.5
            assert 0.97 * bound < parameter.abs().max() <= bound, name


@pytest.mark.parametrize("contracted", [True, False])
def test_integrated_encoding_is_that_of_the_contracted_gaussian(contracted):
    field = small_field(contracted=contracted).double()
    mean, direction, t_var, r_var = gaussians()
    outer = direction[:, :, None] * direction[:, None, :]
    cov = t_var[..., None] * outer + r_var[..., None] * (torch.eye(3, dtype=torch.float64) - outer)
    moved, moved_cov = contract_gaussian(mean, cov) if contracted else (mean, cov)
    variance = torch.einsum("ik,nij,jk->nk", field.basis, moved_cov, field.basis)
    expected = integrated_pos_enc(moved @ field.basis, variance, 0, 5)
    assert torch.allclose(field.encode(mean, direction, t_var, r_var, torch.float64), expected, atol=1e-6)


def test_plain_encoding_is_that_of_the_contracted_mean():
    field = small_field(encoding="plain").double()
    mean, direction, t_var, r_var = gaussians()
    expected = pos_enc(contract(mean), 0, 5)
    assert torch.equal(field.encode(mean, direction, t_var, r_var, torch.float64), expected)


@pytest.mark.parametrize(("encoding", "depends"), [("integrated", True), ("plain", False)])
def test_only_the_integrated_encoding_sees_the_extent(encoding, depends):
    field = small_field(encoding=encoding)
    thin, wide = field.get_density(samples(area=1e-8))[0], field.get_density(samples(area=1e-2))[0]
    assert torch.equal(thin, wide) is not depends


@pytest.mark.parametrize("ray_shape", ["cone", "cylinder"])
def test_gaussians_are_those_of_the_ray_shape(ray_shape):
    bundle = samples(length=2.0)
    mean, direction, t_var, r_var = small_field(ray_shape=ray_shape).frustum_gaussians(bundle)
    frustums = bundle.frustums
    moments = frustum_moments if ray_shape == "cone" else cylinder_moments
    t_mean, *variances = moments(frustums.starts, frustums.ends, pixel_radius(frustums.pixel_area))
    assert torch.allclose(mean, frustums.origins + t_mean * frustums.directions)
    assert torch.allclose(t_var, variances[0]) and torch.allclose(r_var.expand(3, 5, 1), variances[1])
    assert torch.equal(direction, frustums.directions[:, :1])


def test_placeholder_areas_cast_the_widest_cone():
    field = small_field()
    widest = float((MAX_RADIUS / pixel_radius(torch.ones(1))) ** 2)
    assert torch.allclose(field.get_density(samples(area=1.0))[0], field.get_density(samples(area=widest))[0])


def test_positions_are_scaled_before_they_are_contracted():
    """A scene of twice the size, with twice the radius left as it is, has the same densities."""
    mean, direction, t_var, r_var = gaussians()
    field, scaled = small_field().double(), small_field(position_scale=0.5).double()
    expected = field.features(mean, direction, t_var, r_var, torch.float64)
    found = scaled.features(2 * mean, direction, 4 * t_var, 4 * r_var, torch.float64)
    assert torch.allclose(found, expected)
    assert torch.allclose(scaled.density_of_isotropic(2 * mean, 0.04), field.density_of_isotropic(mean, 0.01))


@pytest.mark.parametrize("options", [{}, {"contracted": False}, {"encoding": "plain"}, {"position_scale": 0.4}])
def test_normals_are_the_negative_density_gradient_in_the_scene(options):
    """At a fixed covariance in the scene, also outside of the unit ball, where the contracted one changes."""
    field = small_field(**options).double()
    mean, direction, t_var, r_var = gaussians()

    def raw(x: Tensor) -> Tensor:
        return field.raw_density(field.features(x, direction, t_var, r_var, torch.float64))[..., 0].detach()

    step = 1e-6
    offsets = step * torch.eye(3, dtype=torch.float64)
    gradient = torch.stack([(raw(mean + e) - raw(mean - e)) / (2 * step) for e in offsets], dim=-1)
    normals = field.normals(mean, direction, t_var, r_var)
    assert torch.allclose(normals, -torch.nn.functional.normalize(gradient, dim=-1), atol=1e-5)
    assert not normals.requires_grad and all(p.grad is None for p in field.parameters())
    with torch.no_grad():
        assert torch.equal(field.normals(mean, direction, t_var, r_var), normals)


def test_normals_are_zero_where_the_density_is_constant():
    field = small_field()
    torch.nn.init.zeros_(field.density_head.weight)
    mean, direction, t_var, r_var = (value.float() for value in gaussians())
    assert torch.equal(field.normals(mean, direction, t_var, r_var), torch.zeros(8, 3))


def test_density_at_points_is_that_of_gaussians_without_extent():
    field = small_field()
    points = 3 * torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(field.density_fn(points), field.density_of_isotropic(points, 0.0))
    assert torch.equal(field.density_fn(points, torch.zeros(40, 1)), field.density_of_isotropic(points, 0.0))
    zero = torch.zeros(40, 1)
    hidden = field.features(points, torch.randn(40, 3), zero, zero)
    expected = torch.nn.functional.softplus(field.raw_density(hidden) - 1.0)
    assert torch.allclose(field.density_fn(points), expected, atol=1e-6)
    assert not torch.allclose(field.density_of_isotropic(points, 0.1), expected, atol=1e-3)


def test_no_points_have_no_density():
    assert small_field().density_fn(torch.zeros(0, 3)).shape == (0, 1)
    assert small_field(encoding="plain").density_fn(torch.zeros(0, 3)).shape == (0, 1)


def test_outputs_are_in_range_and_depend_on_the_direction_only_in_color():
    field = small_field(rgb_padding=0.1)
    torch.nn.init.normal_(field.color_head.output.weight, std=30.0)
    bundle = samples()
    outputs = field(bundle)
    density, rgb = outputs[FieldHeadNames.DENSITY], outputs[FieldHeadNames.RGB]
    assert density.shape == (3, 5, 1) and (density > 0).all()
    assert rgb.shape == (3, 5, 3) and rgb.min() >= -0.1 and rgb.max() <= 1.1 and rgb.min() < -0.09 < 1.09 < rgb.max()

    hidden, directions = field.get_density(bundle)[1], bundle.frustums.directions
    assert torch.allclose(field.color(hidden, directions[:, :1]), rgb, atol=1e-6)
    assert not torch.allclose(field.color(hidden, -directions[:, :1]), rgb, atol=1e-2)
    # The length of the direction does not matter: the exporters probe with one that is not normalized.
    assert torch.allclose(field.color(hidden, 3 * directions[:, :1]), rgb, atol=1e-5)


def test_the_proposal_network_has_density_only():
    outputs = ContractedDensityField(num_layers=1, hidden_dim=8, num_frequencies=3)(samples())
    assert set(outputs) == {FieldHeadNames.DENSITY}


def test_density_bias_is_added_before_the_softplus():
    plain, biased = small_field(density_bias=0.0), small_field(density_bias=2.0)
    raw = plain.get_density(samples())[0].expm1().log()
    assert torch.allclose(biased.get_density(samples())[0], torch.nn.functional.softplus(raw + 2.0), atol=1e-4)


def coded_field() -> MipNerf360Field:
    field = small_field(num_images=3, appearance_dim=2)
    assert field.appearance is not None
    torch.nn.init.normal_(field.appearance.weight)
    return field


def test_training_images_have_codes_of_their_own():
    field = coded_field().train()
    bundle = samples()
    rgb = field(bundle)[FieldHeadNames.RGB]
    bundle.camera_indices = torch.tensor([2, 1, 0]).reshape(3, 1, 1).expand(3, 5, 1)
    swapped = field(bundle)[FieldHeadNames.RGB]
    assert torch.equal(rgb[1], swapped[1])
    assert not torch.allclose(rgb[0], swapped[0], atol=1e-3) and not torch.allclose(rgb[2], swapped[2], atol=1e-3)
    assert field.appearance is not None
    (gradient,) = torch.autograd.grad(field(bundle)[FieldHeadNames.RGB][0].sum(), field.appearance.weight)
    assert gradient[2].abs().sum() > 0 and torch.equal(gradient[:2], torch.zeros(2, 2))


def test_outside_of_training_the_mean_code_or_a_given_one_is_rendered():
    field = coded_field().eval()
    bundle = samples()
    hidden, directions = field.get_density(bundle)[1], bundle.frustums.directions[:, :1]
    assert field.appearance is not None
    mean = field.appearance.weight.mean(0)
    rgb = field(bundle)[FieldHeadNames.RGB]
    bundle.camera_indices = torch.full((3, 5, 1), 0.0)  # the exporters' are no integers
    assert torch.equal(field(bundle)[FieldHeadNames.RGB], rgb)
    bundle.camera_indices = None
    assert torch.equal(field(bundle)[FieldHeadNames.RGB], rgb)
    field.appearance.rendered_code = mean
    assert torch.equal(field(bundle)[FieldHeadNames.RGB], rgb)
    field.appearance.rendered_code = mean + 1.0
    assert not torch.allclose(field(bundle)[FieldHeadNames.RGB], rgb, atol=1e-3)
    assert torch.equal(field.color(hidden, directions), field(bundle)[FieldHeadNames.RGB])
    field.train()
    bundle.camera_indices = torch.zeros(3, 5, 1, dtype=torch.long)
    trained = field(bundle)[FieldHeadNames.RGB]
    field.appearance.rendered_code = None
    assert torch.equal(field(bundle)[FieldHeadNames.RGB], trained)  # training does not see it


def test_density_does_not_depend_on_the_code():
    field = coded_field().eval()
    density = field(samples())[FieldHeadNames.DENSITY]
    field.appearance.rendered_code = torch.tensor([3.0, -2.0])
    assert torch.equal(field(samples())[FieldHeadNames.DENSITY], density)


@pytest.mark.parametrize("encoding", ["integrated", "plain"])
def test_bfloat16_hidden_layers_stay_close_to_float32(encoding):
    exact, rough = small_field(encoding=encoding), small_field(encoding=encoding, precision="bfloat16")
    a, b = exact(samples(20, 10, indices=False)), rough(samples(20, 10, indices=False))
    for name in (FieldHeadNames.DENSITY, FieldHeadNames.RGB):
        assert a[name].dtype == b[name].dtype == torch.float32
        assert 0 < (a[name] - b[name]).abs().max() < 0.05 * a[name].abs().max()
    assert all(p.dtype == torch.float32 for p in rough.parameters())
    # Normals are in full precision whatever the layers' number format.
    mean, direction, t_var, r_var = (value.float() for value in gaussians())
    arguments = mean, direction, t_var, r_var
    assert torch.equal(exact.normals(*arguments), rough.normals(*arguments))


def test_mixed_precision_leaves_the_encoding_in_float32():
    """Octave 11 multiplies a rounding error of the projected position by 2,048."""
    field = small_field(num_frequencies=12)
    arguments = tuple(value.float() for value in gaussians())
    exact = field.encode(*arguments, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(field.encode(*arguments, torch.float32), exact)


def test_gradients_reach_every_parameter():
    field = coded_field().train()
    outputs = field(samples())
    (outputs[FieldHeadNames.DENSITY].sum() + outputs[FieldHeadNames.RGB].square().sum()).backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
