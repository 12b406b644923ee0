"""The field's layers, gradients and number formats."""

import math

import pytest
import torch
from nerfstudio.cameras.rays import Frustums, RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames

from mipnerf_ns.field import MipNerfField, position_scale_for
from mipnerf_ns.networks import SplitLinear, resolve_dtype


def samples(rays: int = 3, count: int = 5) -> RaySamples:
    generator = torch.Generator().manual_seed(0)
    edges = torch.linspace(2, 4, count + 1)
    shape = (rays, count, 3)
    directions = torch.nn.functional.normalize(torch.randn(rays, 1, 3, generator=generator), dim=-1).expand(shape)
    return RaySamples(
        frustums=Frustums(
            origins=torch.randn(rays, 1, 3, generator=generator).expand(shape),
            directions=directions,
            starts=edges[:-1].reshape(1, count, 1).expand(rays, count, 1),
            ends=edges[1:].reshape(1, count, 1).expand(rays, count, 1),
            pixel_area=torch.full((rays, count, 1), 1e-5),
        )
    )


def small_field(**options) -> MipNerfField:
    torch.manual_seed(0)
    return MipNerfField(hidden_dim=32, color_hidden_dim=16, **{"precision": "float32", **options})


def test_split_linear_equals_a_linear_layer_on_the_concatenation():
    layer = SplitLinear(4, 3, 6)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    first, second = torch.randn(2, 5, 4), torch.randn(2, 1, 3)
    joined = torch.cat([first, second.expand(2, 5, 3)], dim=-1)
    expected = torch.nn.functional.linear(joined, layer.weight, layer.bias)
    assert torch.allclose(layer(first, second), expected, atol=1e-5)


def test_network_has_the_papers_size():
    field = MipNerfField()
    # 96 → 8 × 256 with the encoding joined at the sixth layer, density, bottleneck, 256 + 27 → 128 → 3.
    trunk = 96 * 256 + 7 * 256 * 256 + 96 * 256 + 8 * 256
    heads = 257 + (256 * 256 + 256) + ((256 + 27) * 128 + 128) + (128 * 3 + 3)
    assert sum(p.numel() for p in field.parameters()) == trunk + heads


def test_outputs_are_in_range_and_depend_on_the_direction_only_in_color():
    field = small_field()
    rays = samples()
    outputs = field(rays)
    density, rgb = outputs[FieldHeadNames.DENSITY], outputs[FieldHeadNames.RGB]
    assert density.shape == (3, 5, 1) and (density > 0).all()
    assert rgb.shape == (3, 5, 3) and rgb.min() >= -0.001 and rgb.max() <= 1.001

    hidden = field.features(*field.gaussians(rays))
    assert torch.allclose(field.color(hidden, rays.frustums.directions), rgb, atol=1e-6)
    assert not torch.allclose(field.color(hidden, -rays.frustums.directions), rgb, atol=1e-6)
    # The length of the direction does not matter: the exporters probe with one that is not normalized.
    assert torch.allclose(field.color(hidden, 3 * rays.frustums.directions), rgb, atol=1e-6)


def test_normals_are_the_negative_density_gradient():
    field = small_field(num_frequencies=3).double()
    mean = torch.randn(6, 3, dtype=torch.float64)
    var = torch.full((6, 3), 1e-3, dtype=torch.float64)

    def raw(x):
        return field.raw_density(field.features(x, var, torch.float64))[..., 0].detach()

    step = 1e-5
    offsets = step * torch.eye(3, dtype=torch.float64)
    gradient = torch.stack([(raw(mean + e) - raw(mean - e)) / (2 * step) for e in offsets], dim=-1)
    assert torch.allclose(field.normals(mean, var), -torch.nn.functional.normalize(gradient, dim=-1), atol=1e-5)


def test_bfloat16_hidden_layers_stay_close_to_float32():
    field = small_field()
    points = torch.rand(200, 3) * 2 - 1
    var = torch.full_like(points, 1e-3)
    exact = field.density_of_gaussians(points, var, torch.float32)
    rough = field.density_of_gaussians(points, var, torch.bfloat16)
    assert exact.dtype == rough.dtype == torch.float32
    assert (exact - rough).abs().max() < 0.02 * exact.abs().max()


def test_precision_is_resolved_by_device():
    assert resolve_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert resolve_dtype("float32", torch.device("cpu")) == torch.float32
    assert resolve_dtype("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)


def test_positions_are_scaled_into_one_period_of_the_encoding():
    assert position_scale_for(1.0) == 1.0
    assert position_scale_for(10.0) * 10.0 == pytest.approx(math.pi)
    # Two points a period apart look the same at scale 1 and differ when scaled in.
    a = torch.tensor([[0.5, 0.0, 0.0]])
    b = a + torch.tensor([[2 * math.pi, 0.0, 0.0]])
    var = torch.full_like(a, 0.01)
    field = small_field()
    assert torch.allclose(field.density_of_gaussians(a, var), field.density_of_gaussians(b, var), atol=1e-4)
    field.position_scale = position_scale_for(10.0)
    assert not torch.allclose(field.density_of_gaussians(a, var), field.density_of_gaussians(b, var), atol=1e-4)


def test_density_noise_acts_in_training_only():
    field = small_field(density_noise=1.0)
    field.eval()
    first, _ = field.get_density(samples())
    second, _ = field.get_density(samples())
    assert torch.equal(first, second)
    field.train()
    third, _ = field.get_density(samples())
    assert not torch.equal(first, third)
    given, _ = field.get_density(samples(), torch.full_like(first, 0.7))
    raw = field.raw_density(field.features(*field.gaussians(samples())))
    assert torch.allclose(given, torch.nn.functional.softplus(raw + 0.7 + field.density_bias))
