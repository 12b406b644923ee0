"""Surface methods: NeuS (`hash-neus`, `nffb-neus`), IDR (`hash-idr`, `nffb-idr`); `-small` ones for two CPU cores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nerfstudio.plugins.types import MethodSpecification

from common_ns.hash_grid import HashGridOptions
from common_ns.nerfstudio_seam.optimizers import FusedAdamConfig
from common_ns.nerfstudio_seam.param_groups import adam
from common_ns.nerfstudio_seam.pipeline import FieldPipelineConfig
from common_ns.nerfstudio_seam.trainer import SafeTrainerConfig
from hashnffb_sdf_ns.base_model import SdfFieldConfig
from hashnffb_sdf_ns.camera_refinement import CameraRefinementConfig
from hashnffb_sdf_ns.datamanager import SdfDataManagerConfig
from hashnffb_sdf_ns.dataparser import IdrDataParserConfig
from hashnffb_sdf_ns.encodings import EncodingConfig
from hashnffb_sdf_ns.encodings.nffb import NFFBOptions
from hashnffb_sdf_ns.idr_model import IdrModelConfig
from hashnffb_sdf_ns.neus_model import NeusModelConfig
from hashnffb_sdf_ns.sphere_tracing import TracingOptions

_CAREFUL = CameraRefinementConfig(start_step=500, parallax_start_step=2000, coarse_to_fine_steps=6000)
"""Refinement of cameras, where it is turned on, in long runs: their fields take smaller steps."""

_LARGE_GRID = HashGridOptions(num_levels=16, log2_table_size=19, max_resolution=1024)

_CAMERA_LR = 8e-4
"""Learning rate of cameras that are refined, in radians."""


def _optimizers(steps: int, lr: float, grid_lr: float, warmup: int, final: float) -> dict[str, Any]:
    """Optimizers and schedules of all groups; which of them a run has depends on its encoding.

    Args:
        steps: length of the run.
        lr: learning rate of networks.
        grid_lr: learning rate of grids.
        warmup: steps of the ramp at the start.
        final: last learning rate relative to the first.
    """

    def group(rate: float) -> dict[str, Any]:
        return adam(rate, final * rate, steps, warmup, ramp_from=0.02, kind=FusedAdamConfig)

    cameras = adam(_CAMERA_LR, 0.04 * _CAMERA_LR, steps, 2 * warmup, kind=FusedAdamConfig)
    return {"grids": group(grid_lr), "fields": group(lr), "camera_opt": cameras}


_hash = SafeTrainerConfig(
    method_name="hash-neus",
    max_num_iterations=20000,
    pipeline=FieldPipelineConfig(
        datamanager=SdfDataManagerConfig(
            dataparser=IdrDataParserConfig(), train_num_rays_per_batch=2048, eval_num_rays_per_batch=1024
        ),
        model=NeusModelConfig(
            sdf_field=SdfFieldConfig(
                hidden_dim=128,
                feature_dim=31,
                color_hidden_dim=128,
                options=EncodingConfig(hash=_LARGE_GRID, nffb=NFFBOptions(grid=_LARGE_GRID, width=32)),
            ),
            num_samples=64,
            num_upsamples=(16, 16, 16, 16),
            cos_anneal_steps=5000,
            coarse_to_fine_steps=5000,
            camera_optimizer=_CAREFUL,
            max_points_per_chunk=2**21,
        ),
    ),
    optimizers=_optimizers(20000, lr=1e-3, grid_lr=1e-2, warmup=500, final=0.05),
    vis="viewer",
)

hash_neus = MethodSpecification(
    config=_hash,
    description="Surface on a hash grid, rendered by NeuS: a mesh from images, with or without masks.",
)

_hash_small = replace(
    _hash,
    method_name="hash-neus-small",
    max_num_iterations=12000,
    steps_per_save=2000,
    steps_per_eval_batch=1000,
    steps_per_eval_image=4000,
    pipeline=FieldPipelineConfig(
        datamanager=SdfDataManagerConfig(
            dataparser=IdrDataParserConfig(), train_num_rays_per_batch=512, eval_num_rays_per_batch=512
        ),
        model=NeusModelConfig(
            sdf_field=SdfFieldConfig(),
            num_samples=16,
            num_upsamples=(8, 8),
            cos_anneal_steps=2400,
            eval_num_rays_per_chunk=2048,
        ),
    ),
    optimizers=_optimizers(12000, lr=3e-3, grid_lr=1e-2, warmup=360, final=0.05),
)

hash_neus_small = MethodSpecification(
    config=_hash_small,
    description="hash-neus sized for two CPU cores: a mesh in about ten minutes.",
)


def _with_filter_banks(config: SafeTrainerConfig, name: str) -> SafeTrainerConfig:
    """The config with NFFB's encoding in place of the hash grid's."""
    model: Any = config.pipeline.model
    field = replace(model.sdf_field, encoding="nffb")
    return replace(config, method_name=name, pipeline=replace(config.pipeline, model=replace(model, sdf_field=field)))


nffb_neus = MethodSpecification(
    config=_with_filter_banks(_hash, "nffb-neus"),
    description="Surface on Fourier filter banks (NFFB), rendered by NeuS.",
)

nffb_neus_small = MethodSpecification(
    config=_with_filter_banks(_hash_small, "nffb-neus-small"),
    description="nffb-neus sized for two CPU cores: a mesh in about ten minutes.",
)


def _alpha_milestones(steps: int) -> tuple[int, ...]:
    """Where IDR sharpens its mask loss: at 1/8, 2/8, … 5/8 of the run."""
    return tuple(steps * k // 8 for k in range(1, 6))


_hash_idr = replace(
    _hash,
    method_name="hash-idr",
    max_num_iterations=30000,
    pipeline=FieldPipelineConfig(
        datamanager=SdfDataManagerConfig(
            dataparser=IdrDataParserConfig(),
            train_num_rays_per_batch=2048,
            eval_num_rays_per_batch=1024,
            mask_ray_fraction=None,
        ),
        model=IdrModelConfig(
            sdf_field=SdfFieldConfig(
                hidden_dim=512,
                num_layers=8,
                skip_layers=(4,),
                feature_dim=256,
                weight_norm=True,
                initial_radius=0.6,
                color_hidden_dim=512,
                num_color_layers=4,
            ),
            mask_alpha_milestones=_alpha_milestones(30000),
            camera_optimizer=_CAREFUL,
            max_points_per_chunk=2**21,
        ),
    ),
    optimizers=_optimizers(30000, lr=1e-4, grid_lr=1e-2, warmup=500, final=0.25),
)

hash_idr = MethodSpecification(
    config=_hash_idr,
    description="Surface on a hash grid, rendered by IDR's sphere tracing with IDR's networks: needs masks.",
)

_hash_idr_small = replace(
    _hash_small,
    method_name="hash-idr-small",
    pipeline=replace(
        _hash_small.pipeline,
        model=IdrModelConfig(
            mask_alpha_milestones=_alpha_milestones(_hash_small.max_num_iterations),
            tracing=TracingOptions(num_bracket_samples=32, num_mask_samples=32),
        ),
    ),
)

hash_idr_small = MethodSpecification(
    config=_hash_idr_small,
    description="hash-idr sized for two CPU cores: a mesh in minutes, where there are masks.",
)

_nffb_idr = _with_filter_banks(_hash_idr, "nffb-idr")
_nffb_idr_model: Any = _nffb_idr.pipeline.model  # a copy of its own
_nffb_idr_model.mask_loss_mult = 200.0  # as the original has it

nffb_idr = MethodSpecification(
    config=_nffb_idr,
    description="Surface on Fourier filter banks (NFFB), rendered by IDR's sphere tracing: needs masks.",
)
