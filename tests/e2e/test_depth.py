"""Depth-supervised methods from training to mesh through nerfstudio's own commands, on the sample scene."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from nerfstudio.scripts import exporter, render
from nerfstudio.scripts.eval import ComputePSNR
from PIL import Image

from common_ns.errors import InputError
from common_ns.hash_grid import HashGridOptions
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from common_ns.scripts.mesh import MeshCommand
from depthnerf_ns.scripts.depth_rays import DepthRays
from tests.e2e.running import assert_resumes_exactly, assert_video, run_config, train

GRID = HashGridOptions(num_levels=6, log2_table_size=12, base_resolution=8, max_resolution=64)
HASH = {"num_proposal_samples": (16,), "num_nerf_samples": 12, "grid": GRID, "proposal_grid": GRID, "hidden_dim": 32}
HASH |= {"color_hidden_dim": 16}
MIP = {"num_proposal_samples": (12,), "num_nerf_samples": 10, "proposal_hidden_dim": 16, "num_layers": 2}
MIP |= {"hidden_dim": 32, "bottleneck_dim": 8, "color_hidden_dim": 8, "num_frequencies": 5}


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    options = {"layouts": ("nerfstudio",), "num_train": 20, "num_val": 2, "num_test": 3, "resolution": 40}
    write_sample_scene(SampleSceneConfig(folder, overwrite=True, **options))
    return folder / "nerfstudio"


@pytest.fixture(scope="module")
def run(scene, tmp_path_factory) -> Path:
    config = run_config("depth-hash-small", scene, tmp_path_factory.mktemp("runs"), 250, **HASH)
    for group in ("fields", "grids"):
        config.optimizers[group]["scheduler"].max_steps = 250
    return train(config)


def test_training_learns_color_and_depth(run, tmp_path):
    ComputePSNR(run, tmp_path / "eval.json", tmp_path / "pictures").main()
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert results["psnr"] > 20 and results["depth_abs_rel"] < 0.1 and results["depth_delta1"] > 0.8
    assert results["depth_rmse"] > 0
    pictures = {file.name.rsplit("_", 1)[0] for file in (tmp_path / "pictures").iterdir()}
    assert {"eval_img", "eval_depth", "eval_depth_measured", "eval_depth_error", "eval_opacity_at_depth"} <= pictures


def test_render_and_video(run, tmp_path):
    names = ["rgb", "depth", "accumulation", "normals", "depth_error", "opacity_at_depth"]
    render.DatasetRender(run, output_path=tmp_path, rendered_output_names=names, image_format="png").main()
    for name in names:
        images = [np.asarray(Image.open(file)) for file in (tmp_path / "test" / name).rglob("*.png")]
        assert len(images) == 3 and all(image.std() > 5 for image in images), name
    video = tmp_path / "interpolated.mp4"
    render.RenderInterpolated(run, output_path=video, interpolation_steps=2, frame_rate=4).main()
    assert_video(video)


def test_exports_and_mesh(run, tmp_path):
    exporter.ExportPointCloud(run, tmp_path, num_points=1500, num_rays_per_batch=2048).main()
    assert len(trimesh.load(tmp_path / "point_cloud.ply").vertices) >= 1000
    MeshCommand(load_config=run, output_path=tmp_path / "mesh.ply", resolution=40).main()
    mesh = trimesh.load(tmp_path / "mesh.ply")
    assert mesh.is_watertight and len(mesh.faces) > 200


def test_rays_are_drawn_against_their_bounds(run, tmp_path, capsys):
    file = DepthRays(load_config=run, pixel=(20, 20, 1, 1), output_path=tmp_path / "rays.png").main()
    assert np.asarray(Image.open(file).convert("RGB")).std() > 5
    out = capsys.readouterr().out
    assert "pixel 20 20: measured" in out
    with pytest.raises(InputError, match="outside of the image, which has 40×40"):
        DepthRays(load_config=run, pixel=(40, 0)).main()
    with pytest.raises(InputError, match="no image 9"):
        DepthRays(load_config=run, image=9).main()


def test_depth_of_a_wrong_scale_is_refused_before_training(scene, tmp_path):
    config = run_config("depth-hash-small", scene, tmp_path, 2, **HASH)
    config.pipeline.datamanager.dataparser.depth_unit = 1.3e-3
    with pytest.raises(InputError, match="too large"):
        train(config)


def test_wrong_depth_that_is_trained_with_all_the_same_is_switched_off(scene, tmp_path, capfd):
    config = run_config("depth-hash-small", scene, tmp_path, 2, **HASH)
    config.pipeline.datamanager.dataparser.depth_unit = 1.3e-3
    config.pipeline.datamanager.depth_check = "warn"
    checkpoint = next(train(config).parent.rglob("*.ckpt"))
    assert torch.load(checkpoint)["pipeline"]["_model.guard.factor"] == 0.0
    assert "speak against the depth" in " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize("method", ["depth-hash-small", "depth-mip-nerf-small"])
def test_resumed_run_continues_exactly(scene, tmp_path, monkeypatch, method):
    """With chunks, guided samples and few views."""

    def config(output: Path, steps: int):
        options = {
            **(HASH if "hash" in method else MIP),
            "max_points_per_chunk": 100 * 28,
            "depth_sample_fraction": 0.25,
        }
        made = run_config(method, scene, output, steps, **options)
        made.pipeline.datamanager.dataparser.num_views = 6
        made.pipeline.datamanager.depth_check = "off"
        made.optimizers["fields"]["scheduler"].max_steps = 20
        return made

    assert_resumes_exactly(config, 20, tmp_path, monkeypatch)
