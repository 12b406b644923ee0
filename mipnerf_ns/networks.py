"""The networks of both mip-NeRF fields: a trunk that joins the encoding again half-way, and a color head.

Parameters stay in float32; the products of the hidden layers run in the number format of what comes in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Precision = Literal["auto", "float32", "bfloat16"]


def resolve_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Number format of the hidden layers on a device.

    "auto" is bfloat16 where the hardware multiplies it faster than float32 (CPUs with AVX512-BF16 or AMX, GPUs from
    Ampere on), else float32.
    """
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    elif device.type == "cpu":
        fast = any(
            getattr(torch.cpu, name, lambda: False)()
            for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        )
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32


class SplitLinear(nn.Module):
    """A linear layer on the concatenation of two inputs, computed without concatenating them.

    The second input may have fewer samples (broadcast), as view directions have: one per ray.

    Args:
        in_first, in_second: channels of the inputs.
        out: channels of the output.
    """

    def __init__(self, in_first: int, in_second: int, out: int) -> None:
        super().__init__()
        self.in_first = in_first
        self.weight = nn.Parameter(torch.empty(out, in_first + in_second))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, first: Float[Tensor, "*n a"], second: Float[Tensor, "*m b"]) -> Float[Tensor, "*n out"]:
        weight, bias = self.weight.to(first.dtype), self.bias.to(first.dtype)
        return F.linear(first, weight[:, : self.in_first]) + F.linear(second, weight[:, self.in_first :], bias)


class Trunk(nn.Module):
    """Hidden layers with ReLU; the input is joined again after every `skip_layer` layers.

    Args:
        in_dim: channels of the encoding.
        num_layers, hidden_dim: size.
        skip_layer: the encoding is joined again after every so many layers.
    """

    def __init__(self, in_dim: int, num_layers: int, hidden_dim: int, skip_layer: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SplitLinear(hidden_dim, in_dim, hidden_dim)
            if index > 1 and (index - 1) % skip_layer == 0
            else nn.Linear(in_dim if index == 0 else hidden_dim, hidden_dim)
            for index in range(num_layers)
        )

    def forward(self, encoding: Float[Tensor, "*n in_dim"]) -> Float[Tensor, "*n hidden"]:
        # Two dimensions, whatever the rays' shape: matrix products then take the encoding's memory layout as it is.
        hidden = flat = encoding.reshape(-1, encoding.shape[-1])
        for layer in self.layers:
            hidden = layer(hidden, flat) if isinstance(layer, SplitLinear) else linear(layer, hidden)
            hidden = F.relu(hidden, inplace=True)
        return hidden.reshape(*encoding.shape[:-1], hidden.shape[-1])


class ColorHead(nn.Module):
    """Color from features and per-ray conditions (encoded view direction, appearance code).

    Args:
        in_dim: channels of the trunk.
        bottleneck_dim: channels that pass from the trunk to the color layers.
        condition_dim: channels of the conditions.
        num_layers, hidden_dim: size of the color layers.
        rgb_padding: colors reach this far beyond [0, 1], so that the sigmoid need not saturate.
        skip: join the input of the color layers again before the output.
    """

    def __init__(
        self,
        in_dim: int,
        bottleneck_dim: int,
        condition_dim: int,
        num_layers: int,
        hidden_dim: int,
        rgb_padding: float,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.rgb_padding = rgb_padding
        self.bottleneck = nn.Linear(in_dim, bottleneck_dim)
        self.input = SplitLinear(bottleneck_dim, condition_dim, hidden_dim)
        self.layers = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in range(num_layers - 1))
        self.output = nn.Linear(hidden_dim, 3)
        self.skip = SplitLinear(bottleneck_dim, condition_dim, 3) if skip else None

    def forward(
        self, hidden: Float[Tensor, "*n in_dim"], condition: Float[Tensor, "*m condition_dim"]
    ) -> Float[Tensor, "*n 3"]:
        passed, condition = linear(self.bottleneck, hidden), condition.to(hidden.dtype)
        hidden = F.relu(self.input(passed, condition), inplace=True)
        # Two dimensions: a product of more is a view of one of two, and autograd copies what changes a view in place.
        flat = hidden.reshape(-1, hidden.shape[-1])
        for layer in self.layers:
            flat = F.relu(linear(layer, flat), inplace=True)
        raw = head(self.output, flat).reshape(*hidden.shape[:-1], 3)
        if self.skip is not None:
            raw = raw + self.skip(passed, condition)
        return torch.sigmoid(raw) * (1 + 2 * self.rgb_padding) - self.rgb_padding


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer in the number format of its input."""
    assert isinstance(layer, nn.Linear)
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def head(layer: nn.Linear, hidden: Tensor) -> Tensor:
    """An output layer in the number format of its parameters."""
    return layer(hidden.to(layer.weight.dtype))


def init_weights(module: nn.Module, init: Callable[[Tensor], object]) -> None:
    """Initialize the weights of all linear layers, with biases 0."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, SplitLinear)):
            init(layer.weight)
            nn.init.zeros_(layer.bias)
