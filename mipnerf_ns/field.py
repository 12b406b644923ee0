"""The mip-NeRF field: one network that maps the Gaussian of a cone's interval to density and color."""

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

from common_ns.rays.cones import MAX_RADIUS, cylinder_moments, frustum_moments, lift, pixel_radius
from common_ns.rays.positional_encoding import integrated_pos_enc, pos_enc
from mipnerf_ns.networks import ColorHead, Precision, Trunk, head, init_weights, resolve_dtype


class MipNerfField(Field):
    """Density and color of Gaussians.

    Args:
        num_frequencies: octaves of the integrated encoding, from 2^0.
        num_direction_frequencies: octaves of the view direction's encoding.
        num_layers, hidden_dim: size of the network up to the density.
        skip_layer: the encoding is joined again after every so many layers.
        num_color_layers, color_hidden_dim: size of the color head.
        density_bias: added before the softplus of the density.
        rgb_padding: colors reach this far beyond [0, 1], so that the sigmoid need not saturate.
        density_noise: standard deviation of noise on the raw density while training.
        ray_shape: cast cones, or cylinders for orthographic cameras.
        disable_integration: encode the Gaussians' means, as if they had no extent.
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
        disable_integration: bool = False,
    ) -> None:
        super().__init__()
        self.disable_integration = disable_integration
        self.num_frequencies = num_frequencies
        self.num_direction_frequencies = num_direction_frequencies
        self.density_bias, self.density_noise = density_bias, density_noise
        self.ray_shape = ray_shape
        self.position_scale = position_scale
        self.precision: Precision = precision

        self.trunk = Trunk(6 * num_frequencies, num_layers, hidden_dim, skip_layer)
        self.density_head = nn.Linear(hidden_dim, 1)
        condition = 3 + 6 * num_direction_frequencies
        self.color_head = ColorHead(hidden_dim, hidden_dim, condition, num_color_layers, color_hidden_dim, rgb_padding)
        init_weights(self, nn.init.xavier_uniform_)

    def gaussians(self, ray_samples: RaySamples) -> tuple[Float[Tensor, "*n 3"], Float[Tensor, "*n 3"]]:
        """Mean and diagonal covariance of each sample's interval, in scene units."""
        frustums = ray_samples.frustums
        moments = frustum_moments if self.ray_shape == "cone" else cylinder_moments
        radius = pixel_radius(frustums.pixel_area, MAX_RADIUS)
        return lift(frustums.origins, frustums.directions, *moments(frustums.starts, frustums.ends, radius))

    def features(
        self, mean: Float[Tensor, "*n 3"], var: Float[Tensor, "*n 3"], dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*n hidden"]:
        """Hidden features of Gaussians."""
        dtype = dtype or resolve_dtype(self.precision, mean.device)
        scale = self.position_scale
        if self.disable_integration:
            var = torch.zeros_like(var)
        return self.trunk(integrated_pos_enc(mean * scale, var * scale**2, 0, self.num_frequencies, dtype))

    def raw_density(self, hidden: Float[Tensor, "*n hidden"]) -> Float[Tensor, "*n 1"]:
        """Density before its softplus."""
        return head(self.density_head, hidden)

    def density_of_gaussians(
        self, mean: Float[Tensor, "*n 3"], var: Float[Tensor, "*n 3"], dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*n 1"]:
        """Density of Gaussians, per scene unit."""
        return F.softplus(self.raw_density(self.features(mean, var, dtype)) + self.density_bias)

    def features_of_isotropic(
        self, center: Float[Tensor, "*n 3"], variance: float, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*n hidden"]:
        """Hidden features of isotropic Gaussians.

        Args:
            center: means in scene units.
            variance: along every direction, in scene units squared.
        """
        return self.features(center, torch.full_like(center, variance), dtype)

    def density_of_isotropic(
        self, center: Float[Tensor, "*n 3"], variance: float, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*n 1"]:
        """Density of isotropic Gaussians, per scene unit; arguments as `features_of_isotropic`."""
        return self.density_of_gaussians(center, torch.full_like(center, variance), dtype)

    def get_density(
        self, ray_samples: RaySamples, noise: Float[Tensor, "*n 1"] | None = None
    ) -> tuple[Float[Tensor, "*n 1"], Float[Tensor, "*n hidden"]]:
        """Density per scene unit, and hidden features.

        Args:
            ray_samples: intervals.
            noise: standard normal numbers, for the noise while training; None: they are drawn here.
        """
        hidden = self.features(*self.gaussians(ray_samples))
        raw = self.raw_density(hidden)
        if self.training and self.density_noise > 0:
            raw = raw + self.density_noise * (torch.randn_like(raw) if noise is None else noise)
        return F.softplus(raw + self.density_bias), hidden

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Tensor | None = None
    ) -> dict[FieldHeadNames, Tensor]:
        assert density_embedding is not None
        # All samples of a ray share its direction: encode it once and broadcast.
        return {FieldHeadNames.RGB: self.color(density_embedding, ray_samples.frustums.directions[..., :1, :])}

    def color(self, hidden: Float[Tensor, "*n hidden"], directions: Float[Tensor, "*m 3"]) -> Float[Tensor, "*n 3"]:
        """Color in [−padding, 1 + padding].

        Args:
            hidden: features of the Gaussians.
            directions: view directions (any length), broadcast over the samples.
        """
        encoded = pos_enc(F.normalize(directions, dim=-1), 0, self.num_direction_frequencies)
        return self.color_head(hidden, encoded)

    def density_fn(self, positions: Float[Tensor, "*n 3"], times: Tensor | None = None) -> Float[Tensor, "*n 1"]:
        """Density at points, as nerfstudio's tools ask for it (a Gaussian without extent)."""
        del times
        return self.density_of_isotropic(positions, 0.0)

    def normals(self, mean: Float[Tensor, "*n 3"], var: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Unit normals: the negative density gradient with respect to the mean, in full precision.

        Where the density does not change, the normal is zero.
        """
        with torch.enable_grad():
            mean = mean.detach().requires_grad_(True)
            raw = self.raw_density(self.features(mean, var.detach(), mean.dtype))
            (gradient,) = torch.autograd.grad(raw.sum(), mean)
        return -F.normalize(gradient, dim=-1, eps=1e-12)


def position_scale_for(extent: float) -> float:
    """Factor that brings a ball of radius `extent` (scene units) inside the encoding's period, at most 1."""
    return min(1.0, math.pi / max(extent, 1e-6))
