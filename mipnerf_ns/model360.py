"""mip-NeRF 360 as a nerfstudio model: two rounds of proposals, one of color, in contracted space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from common_ns.rays.icosahedron import BasisName
from mipnerf_ns.base_model import ProposalModel, ProposalModelConfig
from mipnerf_ns.field360 import ContractedDensityField, Encoding, MipNerf360Field
from mipnerf_ns.networks import Precision


@dataclass
class MipNerf360ModelConfig(ProposalModelConfig):
    """mip-NeRF 360 (arXiv 2111.12077) with the paper's settings."""

    _target: type = field(default_factory=lambda: MipNerf360Model)
    """target class to instantiate"""
    encoding: Encoding = "integrated"
    """integrated: expected positional encoding of each interval's Gaussian along the basis directions; plain: of its
    mean along x, y and z only (the "minus" variant)."""
    basis: BasisName = "icosahedron-21"
    """Directions of the integrated encoding: vertices and edge midpoints of an icosahedron, its vertices, or the
    axes."""
    num_frequencies: int = 12
    """Octaves of the positional encoding."""
    num_direction_frequencies: int = 4
    """Octaves of the view direction's encoding."""
    proposal_num_layers: int = 4
    """Layers of the proposal network."""
    proposal_hidden_dim: int = 256
    """Width of the proposal network."""
    num_layers: int = 8
    """Layers of the NeRF network up to the density."""
    hidden_dim: int = 1024
    """Width of these layers."""
    skip_layer: int = 4
    """The encoding is joined again after every so many layers."""
    bottleneck_dim: int = 256
    """Channels from these layers to the color head."""
    num_color_layers: int = 1
    """Hidden layers of the color head."""
    color_hidden_dim: int = 128
    """Width of the color head."""
    density_bias: float = -1.0
    """Added to the raw density before the softplus."""
    rgb_padding: float = 0.001
    """How far colors may reach beyond [0, 1]."""
    ray_shape: Literal["cone", "cylinder"] = "cone"
    """Shape cast by a pixel: cone, or cylinder for orthographic cameras."""
    precision: Precision = "auto"
    """Number format of the hidden layers. auto: bfloat16 where the hardware is faster with it, else float32."""


class MipNerf360Model(ProposalModel):
    """Gaussians of cones in contracted space, through a proposal network and the NeRF network.

    Args:
        config: the model's config.
    """

    config: MipNerf360ModelConfig
    field: MipNerf360Field
    proposal: ContractedDensityField

    def build_fields(self, contracted: bool, position_scale: float) -> tuple[ContractedDensityField, MipNerf360Field]:
        """Proposal and NeRF network; arguments as the base's."""
        config = self.config
        shared = {
            "skip_layer": config.skip_layer,
            "encoding": config.encoding,
            "basis": config.basis,
            "num_frequencies": config.num_frequencies,
            "contracted": contracted,
            "position_scale": position_scale,
            "density_bias": config.density_bias,
            "ray_shape": config.ray_shape,
            "precision": config.precision,
            "space": self.space,
        }
        proposal = ContractedDensityField(config.proposal_num_layers, config.proposal_hidden_dim, **shared)
        nerf = MipNerf360Field(
            bottleneck_dim=config.bottleneck_dim,
            num_color_layers=config.num_color_layers,
            color_hidden_dim=config.color_hidden_dim,
            num_direction_frequencies=config.num_direction_frequencies,
            rgb_padding=config.rgb_padding,
            num_images=self.num_train_data,
            appearance_dim=config.appearance_dim,
            appearance_std=config.appearance_std,
            num_layers=config.num_layers,
            hidden_dim=config.hidden_dim,
            **shared,
        )
        return proposal, nerf
