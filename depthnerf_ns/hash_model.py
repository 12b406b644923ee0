"""The depth-supervised model on hash grids."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from common_ns.hash_grid import HashGridOptions
from depthnerf_ns.base_model import DepthModel, DepthModelConfig
from mipnerf_ns.hash_field import HashDensityField, HashField, tables_apart

CUBE_MARGIN = 1.05
"""Side of the grid's cube relative to the points that depth shows."""


@dataclass
class DepthHashModelConfig(DepthModelConfig):
    """Depth-supervised field on multi-resolution hash grids."""

    _target: type = field(default_factory=lambda: DepthHashModel)
    """target class to instantiate"""
    grid: HashGridOptions = field(default_factory=HashGridOptions)
    """Hash grid of the field with color."""
    proposal_grid: HashGridOptions = field(
        default_factory=lambda: HashGridOptions(num_levels=5, log2_table_size=17, max_resolution=256)
    )
    """Hash grid of the proposal network."""
    hidden_dim: int = 64
    """Width of the network on the grid's features."""
    proposal_hidden_dim: int = 16
    """Width of the proposal network."""
    bottleneck_dim: int = 16
    """Channels from there to the color head."""
    num_color_layers: int = 2
    """Hidden layers of the color head."""
    color_hidden_dim: int = 64
    """Width of these layers."""
    num_direction_frequencies: int = 3
    """Octaves of the view direction's encoding."""
    density_bias: float = -1.0
    """Added to the raw density before the exponential."""
    fade_levels: bool = True
    """Fade out grid levels that are finer than a sample (Zip-NeRF's down-weighting)."""


class DepthHashModel(DepthModel):
    """Features of hash grids through small networks, with depth.

    Args:
        config: the model's config.
    """

    config: DepthHashModelConfig
    field: HashField
    proposal: HashDensityField

    def build_fields(self, contracted: bool, position_scale: float) -> tuple[HashDensityField, HashField]:
        """Proposal and color network; arguments as the base's."""
        config = self.config
        center = torch.zeros(3)
        if not contracted:
            center, side = self._occupied_cube()
            position_scale = 2.0 / side
        shared: dict[str, Any] = {
            "contracted": contracted,
            "center": tuple(center.tolist()),
            "position_scale": position_scale,
            "density_bias": config.density_bias + math.log(position_scale),
            "fade_levels": config.fade_levels,
        }
        proposal = HashDensityField(config.proposal_grid, config.proposal_hidden_dim, **shared)
        colored = HashField(
            grid=config.grid,
            hidden_dim=config.hidden_dim,
            bottleneck_dim=config.bottleneck_dim,
            num_color_layers=config.num_color_layers,
            color_hidden_dim=config.color_hidden_dim,
            num_direction_frequencies=config.num_direction_frequencies,
            num_images=self.num_train_data,
            appearance_dim=config.appearance_dim,
            appearance_std=config.appearance_std,
            **shared,
        )
        return proposal, colored

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        return tables_apart(super().get_param_groups(), [self.field.grid, self.proposal.grid])

    def _occupied_cube(self) -> tuple[Float[Tensor, " 3"], float]:
        """Center and side of a cube that holds what depth sees and the cameras, or all samples of all rays."""
        points = self.metadata.get("points3D_xyz")
        if points is None or not self._enclosed:
            return torch.zeros(3), 2.0 * self.ray_bounds.extent
        known = torch.cat([torch.as_tensor(points).float(), self.metadata["camera_to_worlds"][:, :3, 3].float().cpu()])
        low, high = known.amin(0), known.amax(0)
        return 0.5 * (low + high), CUBE_MARGIN * float((high - low).max())
