"""Depth-supervised methods: `depth-mip-nerf`, `depth-hash`, `depth-splat`, each with `-small` for two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from nerfstudio.plugins.types import MethodSpecification

from common_ns.hash_grid import HashGridOptions
from common_ns.nerfstudio_seam.image_pipeline import ImagePipelineConfig
from common_ns.nerfstudio_seam.param_groups import adam
from common_ns.nerfstudio_seam.pipeline import FieldPipelineConfig
from common_ns.nerfstudio_seam.trainer import SafeTrainerConfig
from depthnerf_ns.datamanager import DepthDataManagerConfig
from depthnerf_ns.dataparser import RgbdDataParserConfig
from depthnerf_ns.hash_model import DepthHashModelConfig
from depthnerf_ns.image_datamanager import DepthImageDataManagerConfig
from depthnerf_ns.mipnerf_model import DepthMipNerfModelConfig
from depthnerf_ns.splat_model import DepthSplatModelConfig
from method_configs.mipnerf import PAPER_SPLAT, SMALL_SPLAT, small_splat_optimizers

_mip = SafeTrainerConfig(
    method_name="depth-mip-nerf",
    max_num_iterations=250000,
    pipeline=FieldPipelineConfig(
        datamanager=DepthDataManagerConfig(
            dataparser=RgbdDataParserConfig(), train_num_rays_per_batch=4096, eval_num_rays_per_batch=1024
        ),
        model=DepthMipNerfModelConfig(),
    ),
    optimizers={
        "fields": adam(1e-3, 1e-5, steps=250000, warmup=2500, eps=1e-6, max_norm=1e-2),
        "camera_opt": adam(1e-3, 1e-5, steps=250000, warmup=2500),
    },
    vis="viewer",
)

depth_mip_nerf = MethodSpecification(
    config=_mip,
    description="mip-NeRF with a proposal network and appearance codes, supervised by depth; needs depth maps.",
)

depth_mip_nerf_small = MethodSpecification(
    config=replace(
        _mip,
        method_name="depth-mip-nerf-small",
        max_num_iterations=2000,
        steps_per_save=1000,
        steps_per_eval_batch=500,
        steps_per_eval_image=1000,
        pipeline=FieldPipelineConfig(
            datamanager=DepthDataManagerConfig(
                dataparser=RgbdDataParserConfig(), train_num_rays_per_batch=512, eval_num_rays_per_batch=512
            ),
            model=DepthMipNerfModelConfig(
                num_proposal_samples=(48,),
                num_nerf_samples=32,
                num_frequencies=10,
                proposal_num_layers=2,
                proposal_hidden_dim=64,
                num_layers=4,
                hidden_dim=128,
                bottleneck_dim=64,
                color_hidden_dim=64,
                eval_num_rays_per_chunk=1024,
            ),
        ),
        optimizers={
            "fields": adam(5e-3, 5e-4, steps=2000, warmup=100, ramp_from=0.1, eps=1e-8),
            "camera_opt": adam(1e-3, 1e-4, steps=2000, warmup=100),
        },
    ),
    description="depth-mip-nerf sized for two CPU cores: a room from a few views in about ten minutes.",
)

_hash = replace(
    _mip,
    method_name="depth-hash",
    max_num_iterations=15000,
    pipeline=FieldPipelineConfig(
        datamanager=DepthDataManagerConfig(
            dataparser=RgbdDataParserConfig(), train_num_rays_per_batch=8192, eval_num_rays_per_batch=4096
        ),
        model=DepthHashModelConfig(eval_num_rays_per_chunk=8192, max_points_per_chunk=2**21),
    ),
    optimizers={
        "grids": adam(2e-2, 2e-4, steps=15000, warmup=200, ramp_from=0.1),
        "fields": adam(5e-3, 5e-5, steps=15000, warmup=200, ramp_from=0.1),
        "camera_opt": adam(1e-3, 1e-4, steps=15000, warmup=200),
    },
)

depth_hash = MethodSpecification(
    config=_hash,
    description="Hash-grid radiance field supervised by depth: minutes on a GPU; needs depth maps.",
)

depth_hash_small = MethodSpecification(
    config=replace(
        _hash,
        method_name="depth-hash-small",
        max_num_iterations=1000,
        steps_per_save=500,
        steps_per_eval_batch=500,
        steps_per_eval_image=1000,
        pipeline=FieldPipelineConfig(
            datamanager=DepthDataManagerConfig(
                dataparser=RgbdDataParserConfig(), train_num_rays_per_batch=512, eval_num_rays_per_batch=512
            ),
            model=DepthHashModelConfig(
                num_proposal_samples=(32,),
                num_nerf_samples=32,
                grid=HashGridOptions(num_levels=8, log2_table_size=16, max_resolution=512),
                proposal_grid=HashGridOptions(num_levels=4, log2_table_size=15, max_resolution=128),
                eval_num_rays_per_chunk=4096,
            ),
        ),
        optimizers={
            "grids": adam(2e-2, 1e-3, steps=1000, warmup=50, ramp_from=0.1),
            "fields": adam(5e-3, 2.5e-4, steps=1000, warmup=50, ramp_from=0.1),
            "camera_opt": adam(1e-3, 1e-4, steps=1000, warmup=50),
        },
    ),
    description="depth-hash sized for two CPU cores: a room from a few views in minutes.",
)

_splat = replace(
    PAPER_SPLAT,
    method_name="depth-splat",
    pipeline=ImagePipelineConfig(
        datamanager=DepthImageDataManagerConfig(dataparser=RgbdDataParserConfig()),
        model=DepthSplatModelConfig(),
    ),
)

depth_splat = MethodSpecification(
    config=_splat,
    description="Gaussian splats that begin at measured depth and are supervised by it; needs depth maps.",
)

depth_splat_small = MethodSpecification(
    config=replace(
        _splat,
        method_name="depth-splat-small",
        max_num_iterations=1000,
        steps_per_save=1000,
        steps_per_eval_batch=500,
        steps_per_eval_image=1000,
        pipeline=ImagePipelineConfig(
            datamanager=DepthImageDataManagerConfig(dataparser=RgbdDataParserConfig(), max_train_pixels=2**18),
            model=DepthSplatModelConfig(**SMALL_SPLAT, depth_loss_mult=1e-3),
        ),
        optimizers=small_splat_optimizers(),
    ),
    description="depth-splat sized for two CPU cores: a room from a few views in minutes.",
)
