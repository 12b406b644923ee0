"""Tiny runs of the surface methods on the sample scene: seconds per hundred steps of one core."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from common_ns.hash_grid import HashGridOptions
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from hashnffb_sdf_ns.encodings import EncodingConfig
from hashnffb_sdf_ns.encodings.fourier import FourierOptions
from hashnffb_sdf_ns.encodings.nffb import NFFBOptions
from tests.e2e.running import run_config

GRID = HashGridOptions(num_levels=4, log2_table_size=12, base_resolution=8, max_resolution=64)
ENCODINGS = EncodingConfig(
    hash=GRID, nffb=NFFBOptions(grid=GRID, width=8, num_features=8), fourier=FourierOptions(num_frequencies=12)
)


def write_scene(folder: Path, **options: Any) -> Path:
    """The sample scene in few and small pictures; returns its folder."""
    few = {"num_train": 16, "num_val": 2, "num_test": 2, "resolution": 48}
    return write_sample_scene(SampleSceneConfig(folder, overwrite=True, **{**few, **options}))


def make_tiny(config: Any, steps: int) -> Any:
    """The config with networks of 32 and schedules that fit into so few steps."""
    model = config.pipeline.model
    model.sdf_field = replace(model.sdf_field, options=ENCODINGS, hidden_dim=32, color_hidden_dim=32)
    if hasattr(model, "num_upsamples"):
        model.num_upsamples, model.cos_anneal_steps = (8,), steps // 3
    config.pipeline.datamanager.train_num_rays_per_batch = 128
    for group in config.optimizers.values():
        group["scheduler"] = replace(group["scheduler"], max_steps=steps, warmup_steps=min(20, steps // 3))
    return config


def surface_config(data: Path, output: Path, steps: int, method: str = "hash-neus-small", **model: Any) -> Any:
    """The config of a tiny run of a surface method."""
    config = make_tiny(run_config(method, data, output, steps), steps)
    for name, value in model.items():
        assert hasattr(config.pipeline.model, name), name
        setattr(config.pipeline.model, name, value)
    return config
