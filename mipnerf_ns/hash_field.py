"""Density and color on multi-resolution hash grids, in contracted or in bounded space.

Small networks on grid features train in minutes what networks on positional encodings take hours for. A sample's extent
counts too: features of grid levels that are finer than the sample fade out, as in Zip-NeRF.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.field_components.activations import trunc_exp
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.base_field import Field
from torch import Tensor, nn
from torch.nn import Parameter

from common_ns.hash_grid import HashGrid, HashGridOptions
from common_ns.hash_grid.decay import level_mean_squares
from common_ns.hash_grid.weighting import scale_features
from common_ns.rays.cones import MAX_RADIUS, frustum_moments, pixel_radius
from common_ns.rays.contraction import contract_isotropic
from mipnerf_ns.colored_field import ColoredField
from mipnerf_ns.multisampling import Multisamples, NumPoints, grid_multisamples, multisamples
from mipnerf_ns.networks import head, init_weights
from mipnerf_ns.normalized_space import NormalizedSpace

CONTRACTED_RADIUS = 2.0
"""Radius of contracted space."""

TURNS = "multisample_turns"
"""Name in the samples' metadata of random numbers [n, s, 2] in [0, 1) that turn and mirror each sample's points about
its ray."""


POINTS = "multisamples"
"""Name in the samples' metadata of the number of points that stand for each, in place of the field's own."""


class HashDensityField(Field):
    """Density on a hash grid: the proposal network, and the lower part of the field with color.

    Args:
        grid: options of the grid.
        hidden_dim, num_layers: size of the network on its features.
        contracted: squeeze what lies beyond distance 1 (after scaling) into the ball of radius 2. Otherwise the grid
            covers the cube about the origin of side 2 (after scaling).
        center: point in scene units that becomes the origin.
        position_scale: factor on positions in scene units.
        density_bias: added to the raw density before its exponential.
        fade_levels: fade out the features of levels that are finer than a sample.
        tell_fading: give the network a feature per level that says how far it is faded ("scale featurization").
        num_multisamples: points that a sample of a ray is looked up at; features are averaged over them. 1: its mean.
        space: normalized device coordinates that take the place of contraction, center and scale; the grid covers their
            cube, and densities have their scale.
    """

    center: Tensor
    num_multisamples: NumPoints

    def __init__(
        self,
        grid: HashGridOptions,
        hidden_dim: int = 64,
        num_layers: int = 1,
        contracted: bool = True,
        center: tuple[float, float, float] = (0.0, 0.0, 0.0),
        position_scale: float = 1.0,
        density_bias: float = -1.0,
        fade_levels: bool = True,
        tell_fading: bool = False,
        num_multisamples: NumPoints = 1,
        space: NormalizedSpace | None = None,
    ) -> None:
        super().__init__()
        if space is not None:
            contracted, position_scale, center = False, 1.0, (0.0, 0.0, 0.0)
        self.contracted, self.position_scale = contracted, position_scale
        self.density_bias, self.fade_levels, self.tell_fading = density_bias, fade_levels, fade_levels and tell_fading
        self.num_multisamples: NumPoints = num_multisamples
        self.space = space
        self.register_buffer("center", torch.tensor(center), persistent=False)
        self.grid = HashGrid(grid)
        told = len(self.grid.shape.levels) if self.tell_fading else 0
        widths = [self.grid.output_dim + told] + num_layers * [hidden_dim]
        self.trunk = nn.ModuleList(nn.Linear(*sides) for sides in pairwise(widths))
        self.density_head = nn.Linear(hidden_dim, 1)
        init_weights(self.trunk, nn.init.kaiming_uniform_)
        init_weights(self.density_head, nn.init.xavier_uniform_)

    def balls_of(self, ray_samples: RaySamples) -> tuple[Float[Tensor, "n s 3"], Float[Tensor, "n s 1"]]:
        """Center of each sample's frustum, and its variance averaged over directions, in scene units."""
        frustums = ray_samples.frustums
        radius = pixel_radius(frustums.pixel_area[..., :1, :], MAX_RADIUS)
        t_mean, t_var, r_var = frustum_moments(frustums.starts, frustums.ends, radius)
        direction = frustums.directions[..., :1, :]
        return torch.addcmul(frustums.origins[..., :1, :], direction, t_mean), (t_var + 2.0 * r_var) / 3.0

    def multisamples_of(self, ray_samples: RaySamples) -> Multisamples:
        """Points within each sample's frustum, as many as `POINTS` says and turned by `TURNS`, if they are there, and
        their extent, in the grid's coordinates; see `in_grid`."""
        frustums, scale = ray_samples.frustums, self.position_scale
        starts, ends = frustums.starts[..., 0] * scale, frustums.ends[..., 0] * scale
        origins = (frustums.origins[..., 0, :] - self.center) * scale
        directions = frustums.directions[..., 0, :]
        radius = pixel_radius(frustums.pixel_area[..., 0, :], MAX_RADIUS)
        said: dict[str, Any] = ray_samples.metadata or {}
        num_points = said.get(POINTS, self.num_multisamples)
        arguments = (starts, ends, origins, directions, radius, num_points, said.get(TURNS))
        fused = starts.ndim == 2 and self.space is None
        found = grid_multisamples(*arguments, self.contracted) if fused else None
        return self._placed(*multisamples(*arguments)) if found is None else found

    def in_grid(self, points: Float[Tensor, "*n k 3"], std: Float[Tensor, "*n k"]) -> Multisamples:
        """Isotropic Gaussians, given in scene units, in the grid's coordinates from 0 to 1."""
        return self._placed((points - self.center) * self.position_scale, std * self.position_scale)

    def _placed(self, points: Float[Tensor, "*n k 3"], std: Float[Tensor, "*n k"]) -> Multisamples:
        """Gaussians in scaled units, contracted or mapped if need be, in the grid's coordinates; extents constant."""
        extent, radius = std.detach()[..., None], 1.0
        if self.space is not None:
            points, extent = self.space.isotropic(points, extent)
        elif self.contracted:
            points, extent = contract_isotropic(points, extent)
            radius = CONTRACTED_RADIUS
        return Multisamples(points / (2.0 * radius) + 0.5, extent.squeeze(-1).detach() / (2.0 * radius))

    def encode(self, points: Float[Tensor, "*n k 3"], std: Float[Tensor, "*n k"]) -> Float[Tensor, "*n e"]:
        """Grid features of isotropic Gaussians in the grid's coordinates; their mean over k of them."""
        extents = std if self.fade_levels else None
        if not self.tell_fading:
            return self.grid.gaussian_features(points, extents)
        features, weights = self.grid.gaussian_features_and_weights(points, extents)
        mean_squares = level_mean_squares(self.grid.table.detach(), self.grid.shape)
        told = scale_features(weights, mean_squares, self.grid.INIT_SCALE)
        return torch.cat([features, told.to(features.dtype)], dim=-1)

    def features(self, center: Float[Tensor, "*n 3"], variance: Float[Tensor, "*n 1"]) -> Float[Tensor, "*n hidden"]:
        """Hidden features of isotropic Gaussians, given in scene units."""
        return self.hidden_of(self.encode(*self.in_grid(center[..., None, :], variance.sqrt())))

    def hidden_of(self, encoding: Float[Tensor, "*n e"]) -> Float[Tensor, "*n hidden"]:
        """Hidden features of grid features."""
        hidden = encoding.reshape(-1, encoding.shape[-1])  # as `Trunk`'s: a product of two dimensions is no view
        for layer in self.trunk:
            hidden = F.relu(layer(hidden), inplace=True)
        return hidden.reshape(*encoding.shape[:-1], hidden.shape[-1])

    def density_of(
        self, hidden: Float[Tensor, "*n hidden"], more_bias: float | Float[Tensor, "*m 1"] = 0.0
    ) -> Float[Tensor, "*n 1"]:
        """Density per scene unit of hidden features.

        Args:
            hidden: the features.
            more_bias: added to the field's own, broadcast over the samples.
        """
        density = trunc_exp(head(self.density_head, hidden) + (self.density_bias + more_bias))
        return density if self.space is None else density * self.space.density_scale

    def features_of_isotropic(
        self, center: Float[Tensor, "*n 3"], variance: float, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*n hidden"]:
        """Hidden features of isotropic Gaussians of one variance (scene units squared). All are computed in float32."""
        del dtype
        return self.features(center, center.new_full((*center.shape[:-1], 1), variance))

    def density_of_isotropic(
        self, center: Float[Tensor, "*n 3"], variance: float, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*n 1"]:
        """Density of isotropic Gaussians, per scene unit; arguments as `features_of_isotropic`."""
        return self.density_of(self.features_of_isotropic(center, variance, dtype))

    def density_fn(self, positions: Float[Tensor, "*n 3"], times: Tensor | None = None) -> Float[Tensor, "*n 1"]:
        """Density at points, as nerfstudio's tools ask for it."""
        del times
        return self.density_of_isotropic(positions, 0.0)

    def get_density(self, ray_samples: RaySamples) -> tuple[Float[Tensor, "*n 1"], Float[Tensor, "*n hidden"]]:
        hidden = self.hidden_of(self.encode(*self.multisamples_of(ray_samples)))
        # Grids read a position that is NaN at 0; so that a ray without a place is noticed, its density becomes NaN. One
        # number for each ray, in the bias, takes no time.
        frustums = ray_samples.frustums
        ray = (frustums.origins[..., :1, :] + frustums.directions[..., :1, :]).detach()
        return self.density_of(hidden, 0.0 * ray.sum(-1, keepdim=True)), hidden

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Tensor | None = None
    ) -> dict[FieldHeadNames, Tensor]:
        return {}

    def normals_of(
        self, ray_samples: RaySamples, where: Bool[Tensor, "n s"], differentiable: bool = False
    ) -> Float[Tensor, "k 3"]:
        """Unit normals of those samples that a mask selects: the negative gradient of the density's logarithm.

        Args:
            ray_samples: samples along rays.
            where: those wanted.
            differentiable: keep the graph, for losses on normals.
        """
        center, variance = self.balls_of(ray_samples)
        with torch.enable_grad():
            center = center[where].detach().requires_grad_(True)
            raw = head(self.density_head, self.features(center, variance[where].detach()))
            (gradient,) = torch.autograd.grad(raw.sum(), center, create_graph=differentiable)
        return -F.normalize(gradient, dim=-1, eps=1e-12)


class HashField(ColoredField, HashDensityField):
    """Density and color on a hash grid. Arguments as its bases'."""


def tables_apart(groups: dict[str, list[Parameter]], grids: list[HashGrid]) -> dict[str, list[Parameter]]:
    """Parameter groups with the tables of grids taken out of `fields` into a group `grids`: their rows are seldom met
    and take large steps, with which networks die early.

    Args:
        groups: as a model's `get_param_groups` gives them.
        grids: in the order that the new group is to have.
    """
    tables = [grid.table for grid in grids]
    own = {id(table) for table in tables}
    return {"grids": tables, **groups, "fields": [p for p in groups["fields"] if id(p) not in own]}
