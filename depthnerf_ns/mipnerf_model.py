"""Depth-supervised mip-NeRF: Gaussians of cones through networks on integrated encodings."""

from __future__ import annotations

from dataclasses import dataclass, field

from depthnerf_ns.base_model import DepthModel, DepthModelConfig
from mipnerf_ns.model360 import MipNerf360Model, MipNerf360ModelConfig


@dataclass
class DepthMipNerfModelConfig(DepthModelConfig, MipNerf360ModelConfig):
    """Depth-supervised mip-NeRF with a proposal network and appearance codes, as in the thesis."""

    _target: type = field(default_factory=lambda: DepthMipNerfModel)
    """target class to instantiate"""
    hidden_dim: int = 256
    """Width of these layers."""
    num_proposal_samples: tuple[int, ...] = (64,)
    """Intervals per ray of each proposal round; all rounds use one network."""
    num_nerf_samples: int = 64
    """Intervals per ray of the last round, which renders color."""
    appearance_dim: int = 4
    """Length of the appearance code that each training image gets, for captures with changing exposure (4 is usual);
    0: none. Evaluation follows appearance_eval."""


class DepthMipNerfModel(DepthModel, MipNerf360Model):
    """Gaussians of cones through networks on integrated encodings, with depth.

    Args:
        config: the model's config.
    """

    config: DepthMipNerfModelConfig
