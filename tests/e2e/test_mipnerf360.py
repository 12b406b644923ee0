"""mip-NeRF 360 from training to mesh through nerfstudio's own commands, on the unbounded sample scene."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from nerfstudio.scripts import exporter, render
from nerfstudio.scripts.eval import ComputePSNR
from PIL import Image

from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from common_ns.scripts.mesh import MeshCommand
from tests.e2e.commands import coarse_poisson
from tests.e2e.running import assert_resumes_exactly, assert_video, run_config, train

TINY = {
    "num_proposal_samples": (16, 12),
    "num_nerf_samples": 12,
    "proposal_hidden_dim": 24,
    "num_layers": 3,
    "hidden_dim": 48,
    "bottleneck_dim": 16,
    "color_hidden_dim": 16,
    "num_frequencies": 6,
    "basis": "icosahedron-6",
}


def tiny_config(data: Path, output: Path, steps: int, **model):
    return run_config("mip-nerf-360-small", data, output, steps, **{**TINY, **model})


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    options = {"layouts": ("nerfstudio",), "num_train": 20, "num_val": 2, "num_test": 3, "resolution": 40}
    write_sample_scene(SampleSceneConfig(folder, unbounded=True, overwrite=True, **options))
    return folder / "nerfstudio"


@pytest.fixture(scope="module")
def run(scene, tmp_path_factory) -> Path:
    config = tiny_config(scene, tmp_path_factory.mktemp("runs"), 200)
    schedule = config.optimizers["fields"]["scheduler"]
    config.optimizers["fields"]["scheduler"] = replace(schedule, max_steps=200, warmup_steps=20)
    return train(config)


@pytest.mark.slow
def test_training_learns_the_scene_and_eval_reports_it(run, tmp_path):
    ComputePSNR(run, tmp_path / "eval.json", tmp_path / "pictures").main()
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert results["psnr"] > 17 and "ssim" in results
    pictures = {file.name.rsplit("_", 1)[0] for file in (tmp_path / "pictures").iterdir()}
    assert {"eval_img", "eval_depth", "eval_accumulation", "eval_distortion", "eval_normals"} == pictures


@pytest.mark.slow
def test_render_dataset_and_interpolated_video(run, tmp_path):
    names = ["rgb", "depth", "expected_depth", "accumulation", "normals", "distortion", "depth_proposal_1"]
    render.DatasetRender(run, output_path=tmp_path, rendered_output_names=names, image_format="png").main()
    for name in ("rgb", "depth", "expected_depth", "normals"):
        images = [np.asarray(Image.open(file)) for file in (tmp_path / "test" / name).rglob("*.png")]
        assert len(images) == 3 and all(image.std() > 5 for image in images), name
    video = tmp_path / "interpolated.mp4"
    render.RenderInterpolated(run, output_path=video, interpolation_steps=2, frame_rate=4).main()
    assert_video(video)


@pytest.mark.slow
def test_export_pointcloud_and_cameras(run, tmp_path):
    exporter.ExportPointCloud(run, tmp_path, num_points=1500, num_rays_per_batch=2048).main()
    assert len(trimesh.load(tmp_path / "point_cloud.ply").vertices) >= 1000
    exporter.ExportCameraPoses(run, tmp_path).main()
    assert len(json.loads((tmp_path / "transforms_train.json").read_text())) == 20


@pytest.mark.slow
def test_export_poisson_with_texture(run, tmp_path):
    with coarse_poisson():
        exporter.ExportPoissonMesh(
            run, tmp_path, num_points=3000, num_rays_per_batch=2048, target_num_faces=200, num_pixels_per_side=64
        ).main()
    assert np.asarray(Image.open(tmp_path / "material_0.png")).std() > 5


@pytest.mark.slow
def test_mesh_is_watertight(run, tmp_path):
    MeshCommand(load_config=run, output_path=tmp_path / "mesh.ply", resolution=40, level=2.0).main()
    mesh = trimesh.load(tmp_path / "mesh.ply")
    assert mesh.is_watertight and len(mesh.faces) > 200


@pytest.mark.slow
def test_resumed_run_continues_exactly(scene, tmp_path, monkeypatch):
    def config(output: Path, steps: int):
        # Chunks, appearance codes and camera refinement all take part.
        made = tiny_config(scene, output, steps, max_points_per_chunk=100 * 40, appearance_dim=3)
        made.pipeline.model.camera_optimizer.mode = "SO3xR3"
        return made

    assert_resumes_exactly(config, 20, tmp_path, monkeypatch)


@pytest.mark.slow
def test_minus_trains_and_evaluates_with_codes_fitted_to_half_images(scene, tmp_path):
    config = tiny_config(
        scene, tmp_path, 20, encoding="plain", appearance_dim=3, appearance_eval="fit-left-half", compute_normals=False
    )
    ComputePSNR(train(config), tmp_path / "eval.json").main()
    assert json.loads((tmp_path / "eval.json").read_text())["results"]["psnr"] > 8


def test_the_papers_method_trains_resumes_and_evaluates_with_the_authors_choices(scene, tmp_path, monkeypatch):
    def config(output: Path, steps: int):
        made = run_config("mip-nerf-360", scene, output, steps, **TINY, near_anneal_rate=0.5, appearance_dim=3)
        made.pipeline.datamanager.train_num_rays_per_batch = 256
        return made

    assert config(tmp_path, 1).optimizers["fields"]["optimizer"].max_norm_per_network == 1e-3
    assert_resumes_exactly(config, 10, tmp_path, monkeypatch)
    ComputePSNR(train(config(tmp_path / "whole", 10)), tmp_path / "eval.json").main()
    assert json.loads((tmp_path / "eval.json").read_text())["results"]["psnr"] > 5
