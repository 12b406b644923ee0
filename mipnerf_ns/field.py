"""The mip-NeRF field: one network that maps the Gaussian of a cone's interval to density and colour."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.base_field import Field
from torch import Tensor, nn

from mipnerf_ns.cones import cylinder_moments, frustum_moments, lift, pixel_radius
from mipnerf_ns.ipe import integrated_pos_enc, pos_enc

Precision = Literal["auto", "float32", "bfloat16"]

MAX_RADIUS = 0.1
"""Largest cone radius at distance 1; a pixel of a 90° view of 20 pixels has 0.06. Rays whose area is a placeholder
(the exporters' probe and texture baking use 1) are rendered with this cone instead of a fog-wide one."""


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


class MipNerfField(Field):
    """Density and colour of Gaussians.

    Args:
        num_frequencies: octaves of the integrated encoding, from 2^0.
        num_direction_frequencies: octaves of the view direction's encoding.
        num_layers, hidden_dim: size of the network up to the density.
        skip_layer: the encoding is joined again after every so many layers.
        num_color_layers, color_hidden_dim: size of the colour head.
        density_bias: added before the softplus of the density.
        rgb_padding: colours reach this far beyond [0, 1], so that the sigmoid need not saturate.
        density_noise: standard deviation of noise on the raw density while training.
        ray_shape: cast cones, or cylinders for orthographic cameras.
        position_scale: factor on positions before encoding. The encoding has period 2π, so that the scene must fit
            into a cube of that side.
        precision: number format of the hidden layers; the encoding and both heads are always float32.
    Source: mip-NeRF, section 4 and supplement.
    """

    def __init__(
        self,
        num_frequencies: int = 16,
        num_direction_frequencies: int = 4,
        num_layers: int = 8,
        hidden_dim: int = 256,
        skip_layer: int = 4,
        num_color_layers: int = 1,
        color_hidden_dim: int = 128,
        density_bias: float = -1.0,
        rgb_padding: float = 0.001,
        density_noise: float = 0.0,
        ray_shape: Literal["cone", "cylinder"] = "cone",
        position_scale: float = 1.0,
        precision: Precision = "auto",
    ) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.num_direction_frequencies = num_direction_frequencies
        self.skip_layer = skip_layer
        self.density_bias, self.rgb_padding, self.density_noise = density_bias, rgb_padding, density_noise
        self.ray_shape = ray_shape
        self.position_scale = position_scale
        self.precision: Precision = precision

        encoded = 6 * num_frequencies
        layers: list[nn.Module] = []
        for index in range(num_layers):
            if index == 0:
                layers.append(nn.Linear(encoded, hidden_dim))
            elif self._joins_encoding(index):
                layers.append(SplitLinear(hidden_dim, encoded, hidden_dim))
            else:
                layers.append(nn.Linear(hidden_dim, hidden_dim))
        self.layers = nn.ModuleList(layers)
        self.density_head = nn.Linear(hidden_dim, 1)
        self.bottleneck = nn.Linear(hidden_dim, hidden_dim)
        direction = 3 + 6 * num_direction_frequencies
        self.color_input = SplitLinear(hidden_dim, direction, color_hidden_dim)
        self.color_layers = nn.ModuleList(
            [nn.Linear(color_hidden_dim, color_hidden_dim) for _ in range(num_color_layers - 1)]
        )
        self.color_head = nn.Linear(color_hidden_dim, 3)
        for module in self.modules():
            if isinstance(module, (nn.Linear, SplitLinear)):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def _joins_encoding(self, index: int) -> bool:
        return index > 1 and (index - 1) % self.skip_layer == 0

    def gaussians(self, ray_samples: RaySamples) -> tuple[Float[Tensor, "*n 3"], Float[Tensor, "*n 3"]]:
        """Mean and diagonal covariance of each sample's interval, in scene units."""
        frustums = ray_samples.frustums
        moments = frustum_moments if self.ray_shape == "cone" else cylinder_moments
        radius = pixel_radius(frustums.pixel_area, MAX_RADIUS)
        return lift(frustums.origins, frustums.directions, *moments(frustums.starts, frustums.ends, radius))

    def trunk(
        self, mean: Float[Tensor, "*n 3"], var: Float[Tensor, "*n 3"], dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*n hidden"]:
        """Hidden features of Gaussians."""
        dtype = dtype or resolve_dtype(self.precision, mean.device)
        scale = self.position_scale
        encoding = integrated_pos_enc(mean * scale, var * scale**2, 0, self.num_frequencies).to(dtype)
        hidden = encoding
        for layer in self.layers:
            if isinstance(layer, SplitLinear):
                hidden = layer(hidden, encoding)
            else:
                hidden = _linear(layer, hidden)
            hidden = F.relu(hidden, inplace=True)
        return hidden

    def raw_density(self, hidden: Float[Tensor, "*n hidden"]) -> Float[Tensor, "*n 1"]:
        """Density before its softplus."""
        return _head(self.density_head, hidden)

    def density_of_gaussians(
        self, mean: Float[Tensor, "*n 3"], var: Float[Tensor, "*n 3"], dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*n 1"]:
        """Density of Gaussians, per scene unit."""
        return F.softplus(self.raw_density(self.trunk(mean, var, dtype)) + self.density_bias)

    def get_density(self, ray_samples: RaySamples) -> tuple[Float[Tensor, "*n 1"], Float[Tensor, "*n hidden"]]:
        hidden = self.trunk(*self.gaussians(ray_samples))
        raw = self.raw_density(hidden)
        if self.training and self.density_noise > 0:
            raw = raw + self.density_noise * torch.randn_like(raw)
        return F.softplus(raw + self.density_bias), hidden

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Tensor | None = None
    ) -> dict[FieldHeadNames, Tensor]:
        assert density_embedding is not None
        # All samples of a ray share its direction: encode it once and broadcast.
        return {FieldHeadNames.RGB: self.color(density_embedding, ray_samples.frustums.directions[..., :1, :])}

    def color(self, hidden: Float[Tensor, "*n hidden"], directions: Float[Tensor, "*m 3"]) -> Float[Tensor, "*n 3"]:
        """Colour in [−padding, 1 + padding].

        Args:
            hidden: features of the Gaussians.
            directions: view directions (any length), broadcast over the samples.
        """
        dtype = hidden.dtype
        encoded = pos_enc(F.normalize(directions, dim=-1), 0, self.num_direction_frequencies).to(dtype)
        hidden = F.relu(self.color_input(_linear(self.bottleneck, hidden), encoded))
        for layer in self.color_layers:
            hidden = F.relu(_linear(layer, hidden))
        return torch.sigmoid(_head(self.color_head, hidden)) * (1 + 2 * self.rgb_padding) - self.rgb_padding

    def density_fn(self, positions: Float[Tensor, "*n 3"], times: Tensor | None = None) -> Float[Tensor, "*n 1"]:
        """Density at points, as the host's tools ask for it (a Gaussian without extent)."""
        del times
        return self.density_of_gaussians(positions, torch.zeros_like(positions))

    def normals(self, mean: Float[Tensor, "*n 3"], var: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Unit normals: the negative density gradient with respect to the mean, in full precision.

        Where the density does not change, the normal is zero.
        """
        with torch.enable_grad():
            mean = mean.detach().requires_grad_(True)
            raw = self.raw_density(self.trunk(mean, var.detach(), mean.dtype))
            (gradient,) = torch.autograd.grad(raw.sum(), mean)
        return -F.normalize(gradient, dim=-1, eps=1e-12)


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer in the number format of its input."""
    assert isinstance(layer, nn.Linear)
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def _head(layer: nn.Linear, hidden: Tensor) -> Tensor:
    """An output layer in the number format of its parameters."""
    return layer(hidden.to(layer.weight.dtype))


def position_scale_for(extent: float) -> float:
    """Factor that brings a ball of radius `extent` (scene units) inside the encoding's period, at most 1."""
    return min(1.0, math.pi / max(extent, 1e-6))
