"""Parameter layout, encoding and evaluation of block networks."""

import dataclasses
import itertools
import math

import pytest
import torch

from common_ns.rays.icosahedron import basis_directions
from miner_ns.networks import BlockNetwork, encode_positions, encoding_dim


def slow_mlp(network: BlockNetwork, row: torch.Tensor, point: torch.Tensor, amplitude: float) -> torch.Tensor:
    """One block at one point, reading its parameters one after the other."""
    numbers = iter(row.tolist())

    def take(*shape: int) -> torch.Tensor:
        return torch.tensor([next(numbers) for _ in range(math.prod(shape))], dtype=torch.float64).reshape(shape)

    widths = [network.num_inputs] + [network.hidden_dim] * (network.num_layers - 1) + [network.num_outputs]
    layers = [(take(fan_out, fan_in), take(fan_out)) for fan_in, fan_out in itertools.pairwise(widths)]
    a = take(network.num_layers - 1)
    x = point.double()
    for (weight, bias), width in zip(layers[:-1], a):
        x = torch.exp(-((weight @ x + bias) ** 2) / (2 * width**2))
    z = layers[-1][0] @ x + layers[-1][1]
    if network.output == "sigmoid":
        return 1 / (1 + torch.exp(-z))
    return amplitude * torch.sin(take(1) * z) if network.output == "sine" else z


@pytest.mark.parametrize("output", ["sigmoid", "sine", "linear"])
def test_mlp_matches_a_loop(output):
    network = BlockNetwork(num_inputs=6, num_outputs=2, hidden_dim=5, num_layers=4, output=output)
    generator = torch.Generator().manual_seed(0)
    theta = network.init(3, generator)
    theta += 0.05 * torch.randn(theta.shape, generator=generator)
    inputs, amplitudes = torch.rand(6, 7, generator=generator), torch.tensor([0.5, 1.0, 2.0])
    found = network.evaluate(theta, inputs, amplitudes)
    assert found.shape == (3, 2, 7)
    for block in range(3):
        for point in range(7):
            expected = slow_mlp(network, theta[block], inputs[:, point], float(amplitudes[block]))
            assert torch.allclose(found[block, :, point].double(), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "gabor"])
def test_every_block_may_have_its_own_points(kind):
    network = BlockNetwork(num_inputs=4, num_outputs=3, hidden_dim=6, architecture=kind)
    theta = network.init(5, torch.Generator().manual_seed(0))
    shared = torch.rand(4, 11)
    own = shared.expand(5, 4, 11).contiguous()
    assert torch.allclose(network.evaluate(theta, shared), network.evaluate(theta, own), atol=1e-6)
    own[2] += 0.3
    moved = (network.evaluate(theta, shared) - network.evaluate(theta, own)).abs().amax((1, 2))
    assert moved[2] > 1e-3 and moved[[0, 1, 3, 4]].max() < 1e-6


def test_gabor_network_matches_its_formula():
    network = BlockNetwork(2, 1, hidden_dim=3, num_layers=3, architecture="gabor", output="linear")
    theta = network.init(1, torch.Generator().manual_seed(1)).double()
    part = {name: value[0] for name, value in network.unpack(theta).items()}
    x = torch.tensor([0.3, -0.7], dtype=torch.float64)

    def gabor(i: int) -> torch.Tensor:
        distance2 = ((x - part[f"center{i}"]) ** 2).sum(-1)
        wave = torch.sin(part[f"frequency{i}"] @ x + part[f"phase{i}"])
        return wave * torch.exp(-0.5 * part[f"sharpness{i}"] ** 2 * distance2)

    hidden = (part["weight1"] @ gabor(0) + part["bias1"]) * gabor(1)
    expected = part["weight2"] @ hidden + part["bias2"]
    assert torch.allclose(network.evaluate(theta, x[:, None])[0, :, 0], expected)


def test_layout_covers_theta_once():
    for kind in ("mlp", "gabor"):
        network = BlockNetwork(num_inputs=22, num_outputs=3, architecture=kind, output="sine")
        theta = torch.arange(network.num_parameters, dtype=torch.float32)[None]
        parts = network.unpack(theta)
        assert torch.equal(torch.cat([part.flatten(1) for part in parts.values()], 1), theta)
    assert BlockNetwork(num_inputs=16, num_outputs=3).num_parameters == 16 * 20 + 20 + 20 * 20 + 20 + 60 + 3 + 2


def test_initialization_is_that_of_linear_layers():
    network = BlockNetwork(num_inputs=100, num_outputs=1, hidden_dim=25, output="sine")
    parts = network.unpack(network.init(200, torch.Generator().manual_seed(0)))
    for name, bound in {"weight0": 0.1, "bias0": 0.1, "weight1": 0.2, "bias1": 0.2, "weight2": 0.2}.items():
        assert 0.99 * bound < parts[name].abs().max() <= bound
        assert abs(float(parts[name].std()) - bound / math.sqrt(3)) < 0.03 * bound
    assert (parts["widths"] == 0.1).all() and (parts["gain"] == 0.1).all()


def test_gabor_sharpness_follows_the_gamma_distribution():
    network = BlockNetwork(num_inputs=2, num_outputs=1, num_layers=3, architecture="gabor")
    squared = network.unpack(network.init(5000, torch.Generator().manual_seed(0)))["sharpness0"].square()
    assert abs(float(squared.mean()) - 3.0) < 0.05 and abs(float(squared.var()) - 3.0) < 0.1


def test_encoding_holds_position_sines_and_cosines():
    x = torch.tensor([[0.25, -1.0]])
    encoded = encode_positions(x, 3)[0]
    assert len(encoded) == encoding_dim(2, 3) == 14
    assert torch.equal(encoded[:2], x[0])
    assert torch.allclose(encoded[2:8], torch.sin(torch.tensor([0.25, -1, 0.5, -2, 1, -4])))
    assert torch.allclose(encoded[8:], torch.cos(torch.tensor([0.25, -1, 0.5, -2, 1, -4])))
    assert torch.equal(encode_positions(x, 0), x)


def test_icosahedron_directions_are_even():
    directions = basis_directions("icosahedron-21")
    assert directions.shape == (3, 21)
    gram = (directions.T @ directions).abs() - torch.eye(21)
    assert torch.allclose(directions.norm(dim=0), torch.ones(21))
    # Neighbors are 31.7 degrees apart, as vertices and midpoints of an icosahedron's edges are.
    assert torch.allclose(gram.max(dim=1).values[:6], torch.full((6,), math.cos(math.radians(31.7175))), atol=1e-4)
    assert gram.max() < 0.852
    isotropy = directions @ directions.T / 21
    assert torch.allclose(isotropy, torch.eye(3) / 3, atol=1e-6)
    assert encode_positions(torch.zeros(5, 3), 2, "icosahedron").shape == (5, encoding_dim(3, 2, "icosahedron"))


@pytest.mark.parametrize("kind", ["mlp", "gabor"])
def test_gradients_match_finite_differences(kind):
    network = BlockNetwork(2, 2, hidden_dim=3, architecture=kind, output="sine", filter_scale=2.0)
    network = dataclasses.replace(network, activation_init=0.5)
    theta = network.init(2, torch.Generator().manual_seed(0)).double().requires_grad_()
    inputs = torch.rand(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    amplitudes = torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda theta: network.evaluate(theta, inputs, amplitudes), theta)


def test_a_width_of_zero_stays_finite():
    network = BlockNetwork(num_inputs=2, num_outputs=1, hidden_dim=3)
    theta = network.init(1, torch.Generator().manual_seed(0))
    network.unpack(theta)["widths"].zero_()
    theta.requires_grad_()
    network.evaluate(theta, torch.rand(2, 5)).sum().backward()
    assert theta.grad is not None and torch.isfinite(theta.grad).all()


def test_networks_without_hidden_layers_are_refused():
    with pytest.raises(ValueError, match="at least 2 layers"):
        BlockNetwork(num_inputs=2, num_outputs=1, num_layers=1)
