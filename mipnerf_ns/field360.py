"""The fields of mip-NeRF 360: density, and color, of Gaussians in contracted space.

The proposal network is the density alone; the NeRF network adds color. The "minus" variant encodes the contracted mean
without its covariance.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.base_field import Field
from torch import Tensor, nn

from common_ns.rays.cones import MAX_RADIUS, cylinder_moments, frustum_moments, pixel_radius
from common_ns.rays.contraction import contract, lift_frustum
from common_ns.rays.icosahedron import BasisName, basis_directions
from common_ns.rays.positional_encoding import integrated_pos_enc, pos_enc
from mipnerf_ns import ipe_triton
from mipnerf_ns.colored_field import ColoredField
from mipnerf_ns.networks import Precision, Trunk, head, init_weights, resolve_dtype
from mipnerf_ns.normalized_space import NormalizedSpace

Encoding = Literal["integrated", "plain"]


class ContractedDensityField(Field):
    """Density of Gaussians: mip-NeRF 360's proposal network, and the lower part of its NeRF network.

    Args:
        num_layers, hidden_dim: size of the network.
        skip_layer: the encoding is joined again after every so many layers.
        encoding: "integrated" over the Gaussian along the basis directions, or "plain": the mean along x, y, z.
        basis: directions of the integrated encoding.
        num_frequencies: octaves of the encoding, from 2^0.
        contracted: squeeze what lies beyond distance 1 (after scaling) into the ball of radius 2.
        position_scale: factor on positions before contraction.
        density_bias: added before the softplus of the density.
        ray_shape: cast cones, or cylinders for orthographic cameras.
        precision: number format of the hidden layers; lifting and heads are always float32.
        space: normalized device coordinates that take the place of contraction and scale; densities have their
            scale.
    Source: mip-NeRF 360, sections 2 and 3 and supplement.
    """

    basis: Tensor

    def __init__(
        self,
        num_layers: int = 4,
        hidden_dim: int = 256,
        skip_layer: int = 4,
        encoding: Encoding = "integrated",
        basis: BasisName = "icosahedron-21",
        num_frequencies: int = 12,
        contracted: bool = True,
        position_scale: float = 1.0,
        density_bias: float = -1.0,
        ray_shape: Literal["cone", "cylinder"] = "cone",
        precision: Precision = "auto",
        space: NormalizedSpace | None = None,
    ) -> None:
        super().__init__()
        self.encoding: Encoding = encoding
        self.num_frequencies = num_frequencies
        self.contracted, self.position_scale = contracted, position_scale
        self.density_bias = density_bias
        self.ray_shape = ray_shape
        self.precision: Precision = precision
        self.space = space
        self.register_buffer("basis", basis_directions(basis), persistent=False)
        encoded = 2 * num_frequencies * self.basis.shape[1] if encoding == "integrated" else 3 + 6 * num_frequencies
        self.trunk = Trunk(encoded, num_layers, hidden_dim, skip_layer)
        self.density_head = nn.Linear(hidden_dim, 1)
        init_weights(self, nn.init.kaiming_uniform_)

    def frustum_gaussians(self, ray_samples: RaySamples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gaussian of each sample's interval: mean, ray direction, variance along the ray and across it."""
        frustums = ray_samples.frustums
        moments = frustum_moments if self.ray_shape == "cone" else cylinder_moments
        radius = pixel_radius(frustums.pixel_area[..., :1, :], MAX_RADIUS)
        t_mean, t_var, r_var = moments(frustums.starts, frustums.ends, radius)
        # All samples of a ray share its origin and direction.
        direction = frustums.directions[..., :1, :]
        return torch.addcmul(frustums.origins[..., :1, :], direction, t_mean), direction, t_var, r_var

    def encode(
        self,
        mean: Float[Tensor, "*n 3"],
        direction: Float[Tensor, "*m 3"],
        t_var: Float[Tensor, "*n 1"],
        r_var: Float[Tensor, "*n 1"],
        dtype: torch.dtype,
    ) -> Float[Tensor, "*n e"]:
        """Encoding of Gaussians given in scene units."""
        scale = self.position_scale
        if self.space is not None:
            if self.encoding == "plain":
                return pos_enc(self.space(mean), 0, self.num_frequencies, dtype=dtype)
            lifted = self.space.lift(mean, direction, t_var, r_var, self.basis)
            return integrated_pos_enc(*lifted, 0, self.num_frequencies, dtype)
        if self.encoding == "integrated" and ipe_triton.usable(dtype, mean, direction, t_var, r_var):
            return ipe_triton.fused_encoding(
                mean, direction, t_var, r_var, self.basis, self.num_frequencies, self.contracted, dtype, scale
            )
        mean = mean * scale
        if self.encoding == "plain":
            return pos_enc(contract(mean) if self.contracted else mean, 0, self.num_frequencies, dtype=dtype)
        # Directions are not scaled, so that both variances are.
        lifted = lift_frustum(mean, direction, t_var * scale**2, r_var * scale**2, self.basis, self.contracted)
        return integrated_pos_enc(*lifted, 0, self.num_frequencies, dtype)

    def features(
        self, mean: Tensor, direction: Tensor, t_var: Tensor, r_var: Tensor, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*n hidden"]:
        """Hidden features of Gaussians."""
        return self.trunk(
            self.encode(mean, direction, t_var, r_var, dtype or resolve_dtype(self.precision, mean.device))
        )

    def raw_density(self, hidden: Float[Tensor, "*n hidden"]) -> Float[Tensor, "*n 1"]:
        """Density before its softplus."""
        return head(self.density_head, hidden)

    def density_of(self, hidden: Float[Tensor, "*n hidden"]) -> Float[Tensor, "*n 1"]:
        """Density per scene unit of hidden features."""
        density = F.softplus(self.raw_density(hidden) + self.density_bias)
        return density if self.space is None else density * self.space.density_scale

    def features_of_isotropic(
        self, center: Float[Tensor, "*n 3"], variance: float, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*n hidden"]:
        """Hidden features of isotropic Gaussians.

        Args:
            center: means in scene units.
            variance: along every direction, in scene units squared.
        """
        var = center.new_full((*center.shape[:-1], 1), variance)
        any_direction = center.new_tensor([0.0, 0.0, 1.0])
        return self.features(center, any_direction, var, var, dtype)

    def density_of_isotropic(
        self, center: Float[Tensor, "*n 3"], variance: float, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*n 1"]:
        """Density of isotropic Gaussians, per scene unit; arguments as `features_of_isotropic`."""
        return self.density_of(self.features_of_isotropic(center, variance, dtype))

    def density_fn(self, positions: Float[Tensor, "*n 3"], times: Tensor | None = None) -> Float[Tensor, "*n 1"]:
        """Density at points, as nerfstudio's tools ask for it (a Gaussian without extent)."""
        del times
        return self.density_of_isotropic(positions, 0.0)

    def get_density(self, ray_samples: RaySamples) -> tuple[Float[Tensor, "*n 1"], Float[Tensor, "*n hidden"]]:
        hidden = self.features(*self.frustum_gaussians(ray_samples))
        return self.density_of(hidden), hidden

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Tensor | None = None
    ) -> dict[FieldHeadNames, Tensor]:
        return {}

    def normals_of(
        self, ray_samples: RaySamples, where: Bool[Tensor, "n s"], differentiable: bool = False
    ) -> Float[Tensor, "k 3"]:
        """Normals of those samples that a mask selects; `differentiable` keeps the graph, for losses on normals."""
        mean, direction, t_var, r_var = self.frustum_gaussians(ray_samples)
        gaussians = mean[where], direction.expand_as(mean)[where], t_var[where], r_var[where]
        return self.normals(*gaussians, differentiable)

    def normals(
        self,
        mean: Float[Tensor, "n 3"],
        direction: Float[Tensor, "n 3"],
        t_var: Tensor,
        r_var: Tensor,
        differentiable: bool = False,
    ) -> Float[Tensor, "n 3"]:
        """Unit normals in the scene: the negative density gradient with respect to the mean, in full precision.

        Where the density does not change, the normal is zero. With `differentiable`, the graph to the parameters is
        kept.
        """
        with torch.enable_grad():
            mean = mean.detach().requires_grad_(True)
            raw = self.raw_density(self.features(mean, direction.detach(), t_var.detach(), r_var.detach(), mean.dtype))
            (gradient,) = torch.autograd.grad(raw.sum(), mean, create_graph=differentiable)
        return -F.normalize(gradient, dim=-1, eps=1e-12)


class MipNerf360Field(ColoredField, ContractedDensityField):
    """Density and color of Gaussians: mip-NeRF 360's NeRF network. Arguments as its bases'."""
