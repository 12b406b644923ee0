"""Zip-NeRF from training to mesh through nerfstudio's own commands, on the unbounded sample scene."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trimesh
from nerfstudio.scripts.eval import ComputePSNR

from common_ns.hash_grid import HashGridOptions
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from common_ns.scripts.mesh import MeshCommand
from tests.e2e.running import assert_resumes_exactly, run_config, train

GRID = HashGridOptions(num_levels=6, log2_table_size=12, max_resolution=256)
PROPOSALS = 2 * (HashGridOptions(num_levels=4, features_per_level=1, log2_table_size=11, max_resolution=64),)
TINY = {"grid": GRID, "proposal_grids": PROPOSALS, "num_proposal_samples": (16, 12), "num_nerf_samples": 12}


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    options = {"layouts": ("nerfstudio",), "num_train": 20, "num_val": 2, "num_test": 3, "resolution": 40}
    write_sample_scene(SampleSceneConfig(folder, unbounded=True, overwrite=True, **options))
    return folder / "nerfstudio"


@pytest.mark.slow
def test_a_run_is_evaluated_at_several_scales_and_meshed(scene, tmp_path):
    config = run_config("zip-nerf-small", scene, tmp_path, 200, **TINY)
    config.pipeline.eval_scales = (1, 4)
    for group in ("grids", "fields"):
        config.optimizers[group]["scheduler"].max_steps = 200
    run = train(config)
    ComputePSNR(run, tmp_path / "eval.json").main()
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert results["psnr_1x"] > 16 and results["psnr_4x"] > 16
    MeshCommand(load_config=run, output_path=tmp_path / "mesh.ply", resolution=40, level=2.0).main()
    mesh = trimesh.load(tmp_path / "mesh.ply")
    assert mesh.is_watertight and len(mesh.faces) > 200


@pytest.mark.slow
def test_resumed_run_continues_exactly(scene, tmp_path, monkeypatch):
    def config(output: Path, steps: int):
        # Turned points, chunks, appearance codes and camera refinement all take part.
        made = run_config(
            "zip-nerf-small",
            scene,
            output,
            steps,
            **TINY,
            num_multisamples=6,
            max_points_per_chunk=4000,
            appearance_dim=3,
        )
        made.pipeline.model.camera_optimizer.mode = "SO3xR3"
        return made

    assert_resumes_exactly(config, 20, tmp_path, monkeypatch)


def test_the_papers_method_trains(scene, tmp_path, monkeypatch):
    config = run_config("zip-nerf", scene, tmp_path, 2, **TINY)
    config.pipeline.datamanager.train_num_rays_per_batch = 64
    train(config)
