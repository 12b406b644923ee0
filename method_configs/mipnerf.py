"""Methods without aliasing: `mip-nerf`, `mip-nerf-360`, `mip-nerf-360-minus`, `zip-nerf` and `mip-splat`; `-small` ones
for two CPU cores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.plugins.types import MethodSpecification

from common_ns.nerfstudio_seam.datamanager import FieldDataManagerConfig
from common_ns.nerfstudio_seam.image_datamanager import ImageDataManagerConfig
from common_ns.nerfstudio_seam.image_pipeline import ImagePipelineConfig
from common_ns.nerfstudio_seam.optimizers import FusedAdamConfig
from common_ns.nerfstudio_seam.param_groups import adam
from common_ns.nerfstudio_seam.pipeline import FieldPipelineConfig
from common_ns.nerfstudio_seam.trainer import SafeTrainerConfig
from mipnerf_ns.model import MipNerfModelConfig
from mipnerf_ns.model360 import MipNerf360ModelConfig
from mipnerf_ns.splat_model import MipSplatModelConfig
from mipnerf_ns.zip_model import ZipNerfModelConfig
from mipnerf_ns.zip_small import RAYS, small_model, small_optimizers

_paper = SafeTrainerConfig(
    method_name="mip-nerf",
    max_num_iterations=1000000,
    pipeline=FieldPipelineConfig(
        datamanager=FieldDataManagerConfig(
            dataparser=BlenderDataParserConfig(), train_num_rays_per_batch=4096, eval_num_rays_per_batch=1024
        ),
        model=MipNerfModelConfig(),
    ),
    optimizers={"fields": adam(5e-4, 5e-6, steps=1000000, warmup=2500, eps=1e-8)},
    vis="viewer",
)

mip_nerf = MethodSpecification(
    config=_paper,
    description="mip-NeRF (Barron et al. 2021) with the paper's settings, for objects and real captures.",
)

mip_nerf_small = MethodSpecification(
    config=replace(
        _paper,
        method_name="mip-nerf-small",
        max_num_iterations=1800,
        steps_per_save=600,
        steps_per_eval_batch=500,
        steps_per_eval_image=1000,
        pipeline=FieldPipelineConfig(
            datamanager=FieldDataManagerConfig(
                dataparser=BlenderDataParserConfig(), train_num_rays_per_batch=512, eval_num_rays_per_batch=512
            ),
            model=MipNerfModelConfig(
                num_coarse_samples=48,
                num_importance_samples=48,
                num_layers=4,
                hidden_dim=128,
                color_hidden_dim=64,
                eval_num_rays_per_chunk=1024,
            ),
        ),
        optimizers={"fields": adam(4e-3, 5e-4, steps=1800, warmup=100, ramp_from=0.1, eps=1e-8)},
    ),
    description="mip-NeRF sized for two CPU cores: a recognizable object in about six minutes.",
)

_paper_360 = replace(
    _paper,
    method_name="mip-nerf-360",
    max_num_iterations=250000,
    pipeline=FieldPipelineConfig(
        datamanager=FieldDataManagerConfig(
            dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=16384, eval_num_rays_per_batch=4096
        ),
        model=MipNerf360ModelConfig(
            dilation_drops_ends=True,
            capture_far_plane=1e6,
            opaque_last_interval="auto",
            appearance_eval="zero",
            appearance_std=None,
        ),
    ),
    optimizers={
        "fields": adam(2e-3, 2e-5, steps=250000, warmup=512, eps=1e-6, max_norm_per_network=1e-3),
        "camera_opt": adam(1e-3, 1e-5, steps=250000, warmup=2500),
    },
)

mip_nerf_360 = MethodSpecification(
    config=_paper_360,
    description="mip-NeRF 360 (Barron et al. 2022) with the paper's settings, for unbounded captures.",
)

mip_nerf_360_minus = MethodSpecification(
    config=replace(
        _paper_360,
        method_name="mip-nerf-360-minus",
        pipeline=replace(_paper_360.pipeline, model=replace(_paper_360.pipeline.model, encoding="plain")),
    ),
    description="mip-NeRF 360 without integrated encoding: plain positional encoding of contracted points.",
)

mip_nerf_360_small = MethodSpecification(
    config=replace(
        _paper_360,
        method_name="mip-nerf-360-small",
        max_num_iterations=2500,
        steps_per_save=1000,
        steps_per_eval_batch=500,
        steps_per_eval_image=1000,
        pipeline=FieldPipelineConfig(
            datamanager=FieldDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=1024, eval_num_rays_per_batch=1024
            ),
            model=MipNerf360ModelConfig(
                num_proposal_samples=(32, 24),
                num_nerf_samples=16,
                num_frequencies=10,
                proposal_num_layers=2,
                proposal_hidden_dim=64,
                num_layers=4,
                hidden_dim=192,
                bottleneck_dim=64,
                color_hidden_dim=64,
                eval_num_rays_per_chunk=1024,
            ),
        ),
        optimizers={
            "fields": adam(1e-2, 5e-4, steps=2500, warmup=100, ramp_from=0.1, eps=1e-8),
            "camera_opt": adam(1e-3, 1e-4, steps=2500, warmup=100),
        },
    ),
    description="mip-NeRF 360 sized for two CPU cores: a recognizable capture in about ten minutes.",
)

# The authors' settings for one GPU: an eighth of the batch and of the rate, eight times the steps. A tenth of a feature
# is stored in their tables, so that features move ten times as fast as their rate says.
_ZIP_STEPS, _ZIP_WARMUP = 200000, 20000
_paper_zip = replace(
    _paper_360,
    method_name="zip-nerf",
    max_num_iterations=_ZIP_STEPS,
    pipeline=FieldPipelineConfig(
        datamanager=FieldDataManagerConfig(
            dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=8192, eval_num_rays_per_batch=4096
        ),
        model=ZipNerfModelConfig(capture_far_plane=1e6, appearance_eval="zero", appearance_std=None),
    ),
    optimizers={
        "grids": adam(1.25e-2, 1.25e-3, _ZIP_STEPS, _ZIP_WARMUP, ramp_from=1e-8, kind=FusedAdamConfig),
        "fields": adam(1.25e-3, 1.25e-4, _ZIP_STEPS, _ZIP_WARMUP, ramp_from=1e-8, kind=FusedAdamConfig),
        "camera_opt": adam(1e-3, 1e-5, _ZIP_STEPS, warmup=2500),
    },
)

zip_nerf = MethodSpecification(
    config=_paper_zip,
    description="Zip-NeRF (Barron et al. 2023) with the paper's settings and no compiler: hash grids that see cones.",
)

_ZIP_SMALL_STEPS = 3000
zip_nerf_small = MethodSpecification(
    config=replace(
        _paper_zip,
        method_name="zip-nerf-small",
        max_num_iterations=_ZIP_SMALL_STEPS,
        steps_per_save=1000,
        steps_per_eval_batch=500,
        steps_per_eval_image=1000,
        pipeline=FieldPipelineConfig(
            datamanager=FieldDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(),
                train_num_rays_per_batch=RAYS,
                eval_num_rays_per_batch=RAYS,
                train_scales=(1, 1, 1, 1, 1, 1, 2, 4, 8),  # a third sees what is small or far, at no cost to full size
            ),
            model=small_model(),
        ),
        optimizers=small_optimizers(_ZIP_SMALL_STEPS),
    ),
    description="Zip-NeRF sized for two CPU cores: a sharp capture in about five minutes.",
)

_SPLAT_STEPS = 30000
PAPER_SPLAT = replace(
    _paper,
    method_name="mip-splat",
    max_num_iterations=_SPLAT_STEPS,
    pipeline=ImagePipelineConfig(
        datamanager=ImageDataManagerConfig(dataparser=NerfstudioDataParserConfig(load_3D_points=True)),
        model=MipSplatModelConfig(),
    ),
    optimizers={
        "means": adam(1.6e-4, 1.6e-6, _SPLAT_STEPS, warmup=0, kind=FusedAdamConfig),  # times the cameras' extent
        "scales": {"optimizer": FusedAdamConfig(lr=5e-3, eps=1e-15), "scheduler": None},
        "quats": {"optimizer": FusedAdamConfig(lr=1e-3, eps=1e-15), "scheduler": None},
        "features_dc": {"optimizer": FusedAdamConfig(lr=2.5e-3, eps=1e-15), "scheduler": None},
        "features_rest": {"optimizer": FusedAdamConfig(lr=2.5e-3 / 20, eps=1e-15), "scheduler": None},
        "opacities": {"optimizer": FusedAdamConfig(lr=5e-2, eps=1e-15), "scheduler": None},
        "exposure": adam(1e-3, 1e-4, _SPLAT_STEPS, warmup=1000),
        "camera_opt": adam(1e-3, 1e-5, _SPLAT_STEPS, warmup=1000),
    },
)

mip_splat = MethodSpecification(
    config=PAPER_SPLAT,
    description="Mip-Splatting (Yu et al. 2024) with the paper's settings, on any device: Gaussians from photographs.",
)

_SPLAT_SMALL_STEPS = 1000
SMALL_SPLAT: dict[str, Any] = {
    "num_start": 100000,
    "field_steps": 600,
    "max_gaussians": 100000,
    "sh_degree": 2,
    "sh_degree_interval": 200,
    "color_error": "squared",
    "ssim_weight": 0.0,
    "means_unit": "pixel",
    "grow_gradient": 2e-5,  # of squared errors, which have smaller gradients than absolute ones
    "grow_from": 100,
    "grow_until": 700,
    "grow_every": 50,
    "reset_every": 100000,
}
"""Settings of the model for two CPU cores."""


def small_splat_optimizers() -> dict[str, dict[str, Any]]:
    """What trains each group of a small model's parameters."""
    return {
        "means": adam(0.15, 0.015, _SPLAT_SMALL_STEPS, warmup=0, kind=FusedAdamConfig),  # times a pixel's side
        "scales": adam(2e-2, 2e-3, _SPLAT_SMALL_STEPS, warmup=0, kind=FusedAdamConfig),
        "quats": adam(4e-3, 4e-4, _SPLAT_SMALL_STEPS, warmup=0, kind=FusedAdamConfig),
        "features_dc": adam(2e-2, 2e-3, _SPLAT_SMALL_STEPS, warmup=0, kind=FusedAdamConfig),
        "features_rest": adam(2e-3, 2e-4, _SPLAT_SMALL_STEPS, warmup=0, kind=FusedAdamConfig),
        "opacities": adam(5e-2, 5e-3, _SPLAT_SMALL_STEPS, warmup=0, kind=FusedAdamConfig),
        "exposure": adam(2e-3, 2e-4, _SPLAT_SMALL_STEPS, warmup=0),
        "camera_opt": adam(1e-3, 1e-4, _SPLAT_SMALL_STEPS, warmup=100),
    }


mip_splat_small = MethodSpecification(
    config=replace(
        PAPER_SPLAT,
        method_name="mip-splat-small",
        max_num_iterations=_SPLAT_SMALL_STEPS,
        steps_per_save=1000,
        steps_per_eval_batch=500,
        steps_per_eval_image=1000,
        pipeline=ImagePipelineConfig(
            datamanager=ImageDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True), max_train_pixels=2**18
            ),
            model=MipSplatModelConfig(**SMALL_SPLAT),
        ),
        optimizers=small_splat_optimizers(),
    ),
    description="Mip-Splatting sized for two CPU cores: Gaussians from photographs in about five minutes.",
)
