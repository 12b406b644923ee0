"""mip-NeRF from training to mesh through nerfstudio's own commands, on the sample scene.

The commands are called in this process, since each start costs many seconds; a few true command lines are run as well.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from nerfstudio.scripts import exporter, render
from nerfstudio.scripts.eval import ComputePSNR
from PIL import Image

from common_ns.errors import InputError
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from common_ns.scripts.mesh import MeshCommand
from common_ns.scripts.orbit_path import OrbitPath
from mipnerf_ns.scripts.multiscale_blender import MultiscaleBlender
from tests.e2e.running import assert_resumes_exactly, run_config, train

COMMANDS = Path(sys.executable).parent


def small_config(data: Path, output: Path, steps: int, **model):
    """`mip-nerf-small`, smaller still: seconds per hundred steps."""
    tiny = {"num_coarse_samples": 24, "num_importance_samples": 24, "hidden_dim": 48, "num_layers": 3}
    return run_config("mip-nerf-small", data, output, steps, **{**tiny, "num_frequencies": 8, **model})


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    options = SampleSceneConfig(
        output_dir=folder, layouts=("blender",), num_train=24, num_val=2, num_test=3, resolution=40, overwrite=True
    )
    write_sample_scene(options)
    return folder / "blender"


@pytest.fixture(scope="module")
def run(scene, tmp_path_factory) -> Path:
    return train(small_config(scene, tmp_path_factory.mktemp("runs"), 400))


def test_training_learns_the_scene_and_eval_reports_it(run, tmp_path):
    ComputePSNR(run, tmp_path / "eval.json", tmp_path / "pictures").main()
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert results["psnr"] > 17 and results["ssim"] > 0.4
    assert results["psnr_std"] >= 0 and "num_rays_per_sec" in results
    pictures = sorted(file.name for file in (tmp_path / "pictures").iterdir())
    assert pictures[:2] == ["eval_accumulation_0000.png", "eval_accumulation_0001.png"] and len(pictures) == 12


def test_render_dataset(run, tmp_path):
    render.DatasetRender(
        run, output_path=tmp_path, rendered_output_names=["rgb", "depth", "accumulation", "normals"], image_format="png"
    ).main()
    for name in ("rgb", "depth", "accumulation", "normals"):
        images = [np.asarray(Image.open(file)) for file in (tmp_path / "test" / name).rglob("*.png")]
        assert len(images) == 3 and all(image.std() > 5 for image in images), name


def test_render_rgba_has_the_background_taken_out(run, tmp_path):
    path = tmp_path / "orbit.json"
    OrbitPath(load_config=run, output_path=path, frames=1, seconds=1.0).main()
    render.RenderCameraPath(
        run,
        output_path=tmp_path / "rgba",
        camera_path_filename=path,
        output_format="images",
        image_format="png",
        rendered_output_names=["rgba"],
    ).main()
    image = np.asarray(Image.open(next((tmp_path / "rgba").rglob("*.png"))))
    assert image.shape[-1] == 4
    assert image[0, 0, 3] < 60 and image[..., 3].max() > 200  # empty corner, opaque object


def test_export_pointcloud(run, tmp_path):
    exporter.ExportPointCloud(run, tmp_path, num_points=2000, num_rays_per_batch=2048).main()
    cloud = trimesh.load(tmp_path / "point_cloud.ply")
    assert len(cloud.vertices) >= 1500
    assert np.abs(np.median(np.abs(cloud.vertices), axis=0)).max() < 1.5  # on the objects, not on the far plane


def test_mesh_is_watertight_and_colored(run, tmp_path):
    MeshCommand(load_config=run, output_path=tmp_path / "mesh.ply", resolution=48, level=2.0).main()
    mesh = trimesh.load(tmp_path / "mesh.ply")
    assert mesh.is_watertight and len(mesh.faces) > 500
    assert mesh.visual.vertex_colors[:, :3].std() > 5


def test_viewer_output_names(run):
    """What the viewer's list of outputs offers, and what its depth map needs."""
    from nerfstudio.utils.eval_utils import eval_setup

    _, pipeline, _, _ = eval_setup(run, test_mode="inference")
    camera = pipeline.datamanager.train_dataset.cameras[:1]
    outputs = pipeline.model.get_outputs_for_camera(camera)
    for name in ("rgb", "depth", "accumulation", "normals", "rgb_coarse", "depth_coarse", "accumulation_coarse"):
        assert outputs[name].shape[:2] == (40, 40), name
    assert outputs["normals"].min() >= 0 and outputs["normals"].max() <= 1


def test_point_cloud_export_of_an_empty_model_ends_with_an_error(run, tmp_path, monkeypatch):
    from mipnerf_ns.field import MipNerfField

    empty = lambda self, hidden: torch.full_like(hidden[..., :1], -30.0)  # noqa: E731
    monkeypatch.setattr(MipNerfField, "raw_density", empty)
    with pytest.raises(InputError, match="no ray of 50 batches is opaque"):
        exporter.ExportPointCloud(
            run, tmp_path, num_points=100, num_rays_per_batch=16, normal_method="open3d", remove_outliers=False
        ).main()


def test_resumed_run_continues_exactly(scene, tmp_path, monkeypatch):
    assert_resumes_exactly(partial(small_config, scene), 20, tmp_path, monkeypatch)


def test_checkpoint_needs_no_remedy_to_load(run):
    file = next((run.parent / "nerfstudio_models").glob("*.ckpt"))
    code = f"import torch; print(sorted(torch.load({str(file)!r}, weights_only=True)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['optimizers', 'pipeline', 'scalers', 'schedulers', 'step']"


def test_full_disk_ends_training_with_one_line(scene, tmp_path, monkeypatch):
    config = small_config(scene, tmp_path, 3)
    monkeypatch.setattr(torch, "save", lambda *args, **kwargs: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(InputError, match="No space left"):
        train(config)
    assert not list(config.get_checkpoint_dir().iterdir())


def test_multiscale_training_and_evaluation_per_scale(scene, tmp_path):
    MultiscaleBlender(scene, tmp_path / "multi").main()
    config = small_config(tmp_path / "multi", tmp_path / "runs", 30)
    from nerfstudio.configs.dataparser_configs import all_dataparsers

    config.pipeline.datamanager.dataparser = copy.deepcopy(all_dataparsers["multiscale-blender-data"])
    config.pipeline.datamanager.dataparser.data = tmp_path / "multi"
    ComputePSNR(train(config), tmp_path / "eval.json").main()
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    scales = [results[f"psnr_{scale}x"] for scale in (1, 2, 4, 8)]
    assert results["psnr"] == pytest.approx(np.mean(scales), abs=1e-4)
    assert {"ssim_1x", "ssim_2x"} <= set(results)


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    full = [str(COMMANDS / arguments[0]), *arguments[1:]]
    return subprocess.run(full, capture_output=True, text=True, cwd=folder, env=environment, check=False, timeout=300)


@pytest.mark.slow
def test_command_line_trains(scene, tmp_path):
    result = command(
        *("ns-train", "mip-nerf-small", "--data", str(scene), "--max-num-iterations", "2", "--vis", "tensorboard"),
        *("--pipeline.model.hidden-dim", "16", "--output-dir", str(tmp_path / "out")),
        folder=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert list((tmp_path / "out").rglob("step-000000001.ckpt"))


@pytest.mark.slow
def test_command_line_error_is_one_line(tmp_path):
    result = command("ns-train", "mip-nerf-small", "--data", "nowhere", "--vis", "tensorboard", folder=tmp_path)
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1 and "nowhere: the data path does not exist" in errors[0]
    assert "Traceback" not in result.stderr + result.stdout
