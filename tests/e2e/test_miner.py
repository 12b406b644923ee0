"""MINER from training to file and mesh through nerfstudio's own commands."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.scripts import exporter, render
from nerfstudio.scripts.eval import ComputePSNR
from PIL import Image

from common_ns.errors import InputError
from common_ns.scripts.mesh import MeshCommand
from miner_ns.fitting import FitOptions
from miner_ns.scripts.decode import DecodeCommand
from tests.e2e.running import run_config, train

TINY = {"num_levels": 3, "block_size": 8, "hidden_dim": 10, "num_frequencies": 4, "batch_points": 16}
TINY |= {"epochs": (25, 25, 50), "implementation": "torch", "threshold": 3e-4}


def image_config(data: Path, output: Path, **model):
    return run_config("miner-image", data, output, 10**6, fit=FitOptions(**{**TINY, **model}))


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    y, x = np.mgrid[:45, :60] / 20.0
    values = [0.5 + 0.4 * np.sin(3 * x + k) * np.cos(2 * y - k) for k in range(3)]
    file = tmp_path_factory.mktemp("image") / "waves.png"
    Image.fromarray((np.stack(values, axis=-1) * 255).astype(np.uint8)).save(file)
    return file


@pytest.fixture(scope="module")
def run(picture, tmp_path_factory) -> Path:
    return train(image_config(picture, tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def ball_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ball")
    trimesh.creation.icosphere(subdivisions=3, radius=0.7).export(folder / "ball.obj")
    options = FitOptions(
        num_levels=2, block_size=8, epochs=(50, 75), implementation="torch", num_frequencies=3, hidden_dim=16,
        num_layers=2, loss="bce", threshold=1e-3,
    )  # fmt: skip
    config = run_config("miner-occupancy", folder / "ball.obj", folder, 10**6, fit=options)
    config.pipeline.datamanager.dataparser = copy.deepcopy(all_dataparsers["miner-occupancy-data"])
    config.pipeline.datamanager.dataparser.data = folder / "ball.obj"
    config.pipeline.datamanager.dataparser.resolution = 32
    return train(config)


def test_eval_compares_the_whole_image(run, picture, tmp_path):
    ComputePSNR(run, tmp_path / "eval.json", tmp_path / "pictures").main()
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert results["psnr"] > 28 and results["num_params"] > 0
    assert results["bits_per_pixel"] == pytest.approx(32 * results["num_params"] / (45 * 60))
    names = sorted(file.name for file in (tmp_path / "pictures").iterdir())
    assert names[:2] == ["eval_blocks_0.png", "eval_blocks_1.png"] and names[-1] == "eval_img_0000.png"
    seen = np.asarray(Image.open(tmp_path / "pictures" / "eval_img_0000.png"), dtype=float)
    assert np.abs(seen - np.asarray(Image.open(picture), dtype=float)).mean() < 8


def test_decode_gives_the_image_back(run, picture, tmp_path):
    file = DecodeCommand(load_config=run, output_path=tmp_path / "out.png").main()
    decoded, original = np.asarray(Image.open(file), float), np.asarray(Image.open(picture), float)
    assert decoded.shape == original.shape and np.abs(decoded - original).mean() < 8
    small = DecodeCommand(load_config=run, output_path=tmp_path / "small.tif", level=1).main()
    assert Image.open(small).size == (30, 23)
    with pytest.raises(InputError, match="no level 7"):
        DecodeCommand(load_config=run, output_path=tmp_path / "x.png", level=7).main()


def test_render_shows_the_image(run, tmp_path):
    render.DatasetRender(
        run, output_path=tmp_path, rendered_output_names=["rgb", "depth", "level"], image_format="png"
    ).main()
    image = np.asarray(Image.open(tmp_path / "test" / "rgb.png"))
    assert image.shape[:2] == (45, 60) and image.std() > 20


def test_resumed_run_ends_with_the_same_networks(picture, run, tmp_path):
    whole = torch.load(next((run.parent / "nerfstudio_models").glob("*.ckpt")))["pipeline"]["_model._extra_state"]
    first = image_config(picture, tmp_path / "first")
    first.max_num_iterations = 2  # in the middle of the finest level, before its blocks are finished
    train(first)
    second = image_config(picture, tmp_path / "second")
    second.load_dir = first.get_checkpoint_dir()
    train(second)
    file = max(second.get_checkpoint_dir().glob("*.ckpt"))
    resumed = torch.load(file)["pipeline"]["_model._extra_state"]
    assert whole["levels"].keys() == resumed["levels"].keys()
    for level, parts in whole["levels"].items():
        assert all(torch.equal(parts[name], resumed["levels"][level][name]) for name in parts)


def test_occupancy_gives_a_watertight_mesh_and_point_clouds(ball_run, tmp_path):
    ComputePSNR(ball_run, tmp_path / "eval.json").main()
    assert json.loads((tmp_path / "eval.json").read_text())["results"]["iou"] > 0.95
    MeshCommand(load_config=ball_run, output_path=tmp_path / "mesh.ply", resolution=40).main()
    mesh = trimesh.load(tmp_path / "mesh.ply")
    assert mesh.is_watertight and mesh.volume > 0
    exporter.ExportPointCloud(ball_run, tmp_path, num_points=1500, num_rays_per_batch=2048).main()
    assert len(trimesh.load(tmp_path / "point_cloud.ply").vertices) >= 1000
