"""The networks of a signed distance field: one of distance, whose gradient comes with it, and one of color.

The loss of a surface is one on normals too, so that training differentiates a gradient. autograd can, and records every
step of the gradient for it. The network here is so simple that its gradient, and the derivatives of both, are a few
matrix products each: `SdfNetwork.with_gradient` computes these, in half of the time.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.parametrizations import weight_norm

from common_ns.rays.positional_encoding import pos_enc

SOFTPLUS_BETA = 100.0
"""Sharpness of the softplus: a ReLU whose second derivative is nowhere infinite (IDR, section 4)."""

SPHERE_POINTS = 4096
"""Points that the last layer is fitted to, for the sphere that training starts from."""


class SdfNetwork(nn.Module):
    """Positions with their encoding → distance, and features for the color. It starts as a sphere.

    Layers follow geometric initialization, with the encoding's columns 0, so that the network depends on the position
    only; the last layer's row for the distance is then fitted to the sphere by least squares. Narrow networks start
    a few times nearer to it than by geometric initialization alone.

    Args:
        encoding_dim: channels of the encoding.
        hidden_dim: width of the hidden layers.
        num_layers: hidden layers.
        feature_dim: features beside the distance.
        radius: of the sphere.
        inside_out: start with a sphere seen from inside (rooms): distance is positive within it.
        skip_layers: hidden layers, from 1, that get the input once more.
        use_weight_norm: train directions and lengths of the weights apart.
    Source: Gropp et al. 2020 (arXiv 2002.10099), section 5; IDR (arXiv 2003.09852), section 4.
    """

    def __init__(
        self,
        encoding_dim: int,
        hidden_dim: int = 64,
        num_layers: int = 2,
        feature_dim: int = 15,
        radius: float = 0.5,
        inside_out: bool = False,
        skip_layers: tuple[int, ...] = (),
        use_weight_norm: bool = False,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"SdfNetwork: num_layers is {num_layers}; it must be at least 1.")
        in_dim = 3 + encoding_dim
        self.in_dim, self.skip_layers = in_dim, tuple(skip_layers)
        widths = [in_dim] + num_layers * [hidden_dim] + [1 + feature_dim]
        self.layers = nn.ModuleList(
            nn.Linear(width + (in_dim if index in self.skip_layers else 0), next_width)
            for index, (width, next_width) in enumerate(pairwise(widths))
        )
        self._init_geometric(radius, inside_out)
        if use_weight_norm:
            for layer in self.layers:
                weight_norm(layer)

    @torch.no_grad()
    def _init_geometric(self, radius: float, inside_out: bool) -> None:
        *hidden, last = (layer for layer in self.layers if isinstance(layer, nn.Linear))
        for index, layer in enumerate(hidden):
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / layer.out_features))
            nn.init.zeros_(layer.bias)
            if index == 0:
                layer.weight[:, 3:] = 0.0
            elif index in self.skip_layers:
                layer.weight[:, -self.in_dim + 3 :] = 0.0
        nn.init.normal_(last.weight, 0.0, math.sqrt(1.0 / last.in_features))
        nn.init.zeros_(last.bias)
        x = F.normalize(torch.randn(SPHERE_POINTS, 3), dim=-1) * 1.2 * torch.rand(SPHERE_POINTS, 1)
        inputs = torch.cat([x, x.new_zeros(SPHERE_POINTS, self.in_dim - 3)], dim=-1)
        features = self._hidden(inputs).double()
        columns = torch.cat([features, torch.ones_like(features[:, :1])], dim=-1)
        target = x.double().norm(dim=-1) - radius
        # A little damping keeps the row short where columns are alike: it stays smooth when training moves them.
        damping = 1e-4 * SPHERE_POINTS * torch.eye(columns.shape[1], dtype=columns.dtype)
        damping *= columns.square().mean(0)
        row = torch.linalg.solve(columns.T @ columns + damping, columns.T @ target)
        if inside_out:
            row = -row
        last.weight[0] = row[:-1].to(last.weight)
        last.bias[0] = row[-1].to(last.bias)

    def _hidden(self, inputs: Float[Tensor, "n in_dim"]) -> Float[Tensor, "n hidden"]:
        hidden = inputs
        for index, layer in enumerate(self.layers[:-1]):
            if index in self.skip_layers:
                hidden = torch.cat([hidden, inputs], dim=-1) / math.sqrt(2.0)
            hidden = F.softplus(layer(hidden), SOFTPLUS_BETA)
        return hidden

    def forward(self, inputs: Float[Tensor, "n in_dim"]) -> Float[Tensor, "n 1+F"]:
        """Distance and features of positions with their encoding."""
        return self.layers[-1](self._hidden(inputs))

    def distance(self, inputs: Float[Tensor, "n in_dim"]) -> Float[Tensor, " n"]:
        """Distance only."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        return F.linear(self._hidden(inputs), last.weight[:1], last.bias[:1])[:, 0]

    def with_gradient(
        self, inputs: Float[Tensor, "n in_dim"]
    ) -> tuple[Float[Tensor, "n 1+F"], Float[Tensor, "n in_dim"]]:
        """What `forward` gives, and the distance's derivatives by the inputs; both once differentiable."""
        weights, biases = [], []
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            weights.append(layer.weight)
            biases.append(layer.bias)
        if self.skip_layers:
            return self._with_gradient_by_autograd(inputs)
        # In full precision: under autocast the products alone would be rounded.
        with torch.autocast(inputs.device.type, enabled=False):
            inputs = inputs.to(weights[0].dtype)
            return _WithGradient.apply(inputs, len(weights), *weights, *biases)  # type: ignore[return-value]

    def _with_gradient_by_autograd(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            if not inputs.requires_grad:
                inputs = inputs.detach().requires_grad_(True)
            outputs = self(inputs)
            (gradient,) = torch.autograd.grad(outputs[:, 0].sum(), inputs, create_graph=keep)
        return (outputs, gradient) if keep else (outputs.detach(), gradient)


class _WithGradient(torch.autograd.Function):
    """Outputs y of a softplus network, and the derivative g of y₀ by its input.

    With h₀ the input: aₗ = Wₗ hₗ₋₁ + bₗ, hₗ = softplus(aₗ), y = W h + b. With σₗ = softplus′(aₗ), from the last layer
    back: v = W₀ (its first row), uₗ = vₗ σₗ, vₗ₋₁ = Wₗᵀ uₗ, and g = v₀. The backward pass runs through the second chain
    from its end (that is, from the first layer), and then through the first chain from its end.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, count: int, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        weights, biases = parameters[:count], parameters[count:]
        hidden, slopes = [inputs], []
        for weight, bias in zip(weights[:-1], biases[:-1]):
            a = torch.addmm(bias, hidden[-1], weight.t())
            hidden.append(F.softplus(a, SOFTPLUS_BETA))
            slopes.append(a.mul_(SOFTPLUS_BETA).sigmoid_())
        outputs = torch.addmm(biases[-1], hidden[-1], weights[-1].t())
        v, products = weights[-1][:1], []  # from the last layer to the first
        for weight, slope in zip(reversed(weights[:-1]), reversed(slopes)):
            products.append(v * slope)
            v = products[-1] @ weight
        gradient = v
        ctx.count = count
        ctx.save_for_backward(*weights, *hidden, *slopes, *products)
        return outputs, gradient

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        count, saved = ctx.count, list(ctx.saved_tensors)
        layers = count - 1
        weights, saved = saved[:count], saved[count:]
        hidden, saved = saved[: layers + 1], saved[layers + 1 :]
        slopes, saved = saved[:layers], saved[layers:]
        products = saved[::-1]
        outputs_bar, gradient_bar = cotangents
        weights_bar, biases_bar, a_bars = [], [], []
        v_bar = gradient_bar
        for weight, slope, u in zip(weights[:-1], slopes, products):
            weights_bar.append(u.t() @ v_bar)
            u_bar = v_bar @ weight.t()
            v_bar = u_bar * slope
            # v ū is the slope's cotangent, β σ (1 − σ) the slope's derivative, and u is v σ.
            a_bars.append((u_bar * u).mul_(1.0 - slope).mul_(SOFTPLUS_BETA))
        last = outputs_bar.t() @ hidden[-1]
        last[0] += v_bar.sum(0)
        weights_bar.append(last)
        biases_bar.append(outputs_bar.sum(0))
        h_bar = outputs_bar @ weights[-1]
        for index in reversed(range(layers)):
            a_bar = a_bars[index].addcmul_(h_bar, slopes[index])
            weights_bar[index].addmm_(a_bar.t(), hidden[index])
            biases_bar.append(a_bar.sum(0))
            if index > 0 or ctx.needs_input_grad[0]:
                h_bar = a_bar @ weights[index]
        inputs_bar = h_bar if ctx.needs_input_grad[0] else None
        return inputs_bar, None, *weights_bar, *biases_bar[1:][::-1], biases_bar[0]


class ColorNetwork(nn.Module):
    """Color of surface points from position, view direction, normal and the distance network's features.

    Args:
        feature_dim: features of the distance network.
        hidden_dim: width of the hidden layers.
        num_layers: hidden layers.
        num_direction_frequencies: octaves of the view direction's encoding.
        appearance_dim: length of the appearance code of a point's image; 0: none.
    Source: IDR (arXiv 2003.09852), section 3.3, there named the renderer M.
    """

    def __init__(
        self,
        feature_dim: int,
        hidden_dim: int = 64,
        num_layers: int = 2,
        num_direction_frequencies: int = 4,
        appearance_dim: int = 0,
    ) -> None:
        super().__init__()
        self.num_direction_frequencies = num_direction_frequencies
        in_dim = 3 + 3 + 6 * num_direction_frequencies + 3 + feature_dim + appearance_dim
        widths = [in_dim] + num_layers * [hidden_dim] + [3]
        self.layers = nn.ModuleList(nn.Linear(*sides) for sides in pairwise(widths))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def encode_directions(self, directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n d"]:
        """Unit directions, and sines and cosines of their octaves."""
        return pos_enc(directions, 0, self.num_direction_frequencies, exact=True)

    def forward(
        self,
        points: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n d"],
        normals: Float[Tensor, "n 3"],
        features: Float[Tensor, "n F"],
        codes: Float[Tensor, "n c"] | None = None,
    ) -> Float[Tensor, "n 3"]:
        """Colors in (0, 1).

        Args:
            points: positions in units of the scene's sphere.
            directions: from `encode_directions`.
            normals: unit normals.
            features: of the distance network.
            codes: appearance codes.
        """
        parts = [points, directions, normals, features] + ([] if codes is None else [codes])
        hidden = torch.cat(parts, dim=-1)
        for layer in self.layers[:-1]:
            hidden = F.relu(layer(hidden), inplace=True)
        return torch.sigmoid(self.layers[-1](hidden))


class InverseVariance(nn.Module):
    """The learned sharpness s of NeuS's logistic density: the inverse of its standard deviation, up to a factor.

    s = floor + exp(10 v), and at most the cap: it can neither vanish, where the surface would dissolve, nor grow so
    large that gradients reach no sample any more.

    Args:
        initial: s at the start.
        floor, cap: bounds of s. All are per unit of length of the scene's sphere.
    """

    RATE = 10.0

    def __init__(self, initial: float = 20.0, floor: float = 5.0, cap: float = 5000.0) -> None:
        super().__init__()
        if not 0.0 <= floor < initial <= cap:
            raise ValueError(f"InverseVariance: floor {floor:g} < initial {initial:g} ≤ cap {cap:g} does not hold.")
        self.floor, self.cap = floor, cap
        self.variance = nn.Parameter(torch.tensor(math.log(initial - floor) / self.RATE))

    def forward(self) -> Float[Tensor, ""]:
        """s per unit of length of the scene's sphere."""
        return (self.floor + torch.exp(self.RATE * self.variance)).clamp_max(self.cap)
