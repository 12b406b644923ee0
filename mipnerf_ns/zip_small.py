"""Zip-NeRF sized for two CPU cores: the settings of `zip-nerf-small`, and of the field that Gaussians begin from."""

from __future__ import annotations

from typing import Any

from common_ns.hash_grid import HashGridOptions
from common_ns.nerfstudio_seam.optimizers import FusedAdamConfig
from common_ns.nerfstudio_seam.param_groups import adam
from mipnerf_ns.zip_model import ZipNerfModelConfig

RAYS = 1024
"""Of a batch."""
WARMUP = 100
"""Steps in which learning rates rise."""


def small_model() -> ZipNerfModelConfig:
    """The model's settings."""
    return ZipNerfModelConfig(
        num_proposal_samples=(32, 24),
        num_nerf_samples=16,
        grid=HashGridOptions(num_levels=12, log2_table_size=17, max_resolution=2048),
        proposal_grids=(
            HashGridOptions(num_levels=5, features_per_level=1, log2_table_size=15, max_resolution=128),
            HashGridOptions(num_levels=6, features_per_level=1, log2_table_size=16, max_resolution=512),
        ),
        proposal_hidden_dim=16,
        bottleneck_dim=16,
        num_color_layers=2,
        color_hidden_dim=64,
        num_direction_frequencies=3,
        color_skip=False,
        num_multisamples=1,  # within minutes, three times as many steps are worth more than three points
        capture_near_plane=0.2,
        table_decay_mult=5e-4,  # on objects, too, as measured
        eval_num_rays_per_chunk=4096,
    )


def small_optimizers(steps: int) -> dict[str, dict[str, Any]]:
    """What trains each group of parameters in a run of so many steps."""
    warmup = min(WARMUP, steps // 4)
    return {
        "grids": adam(4e-2, 2e-3, steps, warmup, ramp_from=0.1, kind=FusedAdamConfig),
        "fields": adam(1e-2, 5e-4, steps, warmup, ramp_from=0.1, kind=FusedAdamConfig),
        "camera_opt": adam(1e-3, 1e-4, steps, warmup),
    }
