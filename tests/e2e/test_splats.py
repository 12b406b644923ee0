"""ns-splat on tiny runs: what it writes, in both systems of coordinates, and which runs have no splats."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common_ns.errors import InputError
from common_ns.hash_grid import HashGridOptions
from common_ns.nerfstudio_seam.runs import load_run
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from common_ns.scripts.mesh import model_to_world
from common_ns.scripts.splat import SplatCommand, entrypoint
from common_ns.splat_baking.ply import read_ply
from tests.e2e.running import run_config, train
from tests.e2e.surface_runs import surface_config, write_scene

GRID = HashGridOptions(num_levels=6, log2_table_size=12, max_resolution=256)
PROPOSALS = 2 * (HashGridOptions(num_levels=4, features_per_level=1, log2_table_size=11, max_resolution=64),)
TINY = {"grid": GRID, "proposal_grids": PROPOSALS, "num_proposal_samples": (16, 12), "num_nerf_samples": 12}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Of zip-nerf-small on the unbounded sample scene."""
    folder = tmp_path_factory.mktemp("scene")
    options = {"layouts": ("nerfstudio",), "num_train": 20, "num_val": 2, "num_test": 3, "resolution": 40}
    write_sample_scene(SampleSceneConfig(folder, unbounded=True, overwrite=True, **options))
    config = run_config("zip-nerf-small", folder / "nerfstudio", folder / "runs", 150, **TINY)
    for group in ("grids", "fields"):
        config.optimizers[group]["scheduler"].max_steps = 150
    return train(config)


@pytest.mark.slow
def test_refined_splats_show_held_out_views_better_than_baked_ones(run, tmp_path, monkeypatch, capsys):
    file = tmp_path / "out" / "scene.ply"
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    words = ["--load-config", str(run), "--output-path", str(file), "--num-gaussians", "3000", "--refine", "3"]
    monkeypatch.setattr(sys, "argv", ["ns-splat", *words])
    entrypoint()
    said = " ".join(capsys.readouterr().out.split())
    gaussians = read_ply(file)
    assert f"gaussians {len(gaussians):,} with colors of degree 2" in said and 2500 < len(gaussians) <= 3000
    assert f"file {file.stat().st_size / 1e6:.1f} MB" in said and str(file) in said
    figures = {
        name: float(said.split(f"Held-out PSNR, {name}: ")[1].split()[0]) for name in ("field", "baked", "refined")
    }
    assert figures["baked"] > 12 and figures["refined"] > figures["baked"] + 1


@pytest.mark.slow
def test_world_coordinates_are_those_of_the_data_set(run, tmp_path):
    files = [tmp_path / "model.ply", tmp_path / "world.ply"]
    for file, world in zip(files, (False, True)):
        command = SplatCommand(run, file, num_gaussians=500, world_coordinates=world, held_out=False)
        command.main()
        assert command.psnr == {}
    model, moved = (read_ply(file) for file in files)
    matrix = torch.from_numpy(model_to_world(load_run(run), run)).float()
    assert not torch.allclose(matrix[:, :3], torch.eye(3), atol=0.1)
    torch.testing.assert_close(moved.means, model.means @ matrix[:, :3].T + matrix[:, 3], atol=1e-3, rtol=1e-4)
    factor = float(np.cbrt(np.linalg.det(matrix[:, :3].numpy())))
    torch.testing.assert_close(moved.scales, factor * model.scales, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_splats_of_a_surface_are_discs(tmp_path):
    scene = write_scene(tmp_path / "scene", masks=True)
    config = train(surface_config(scene / "idr", tmp_path / "runs", 60))
    command = SplatCommand(config, tmp_path / "surface.ply", num_gaussians=2000, refine=1.0)
    command.main()
    gaussians = read_ply(tmp_path / "surface.ply")
    ratio = gaussians.scales.amin(dim=1) / gaussians.scales.amax(dim=1)
    assert float(ratio.median()) < 0.3
    assert command.psnr["refined"] > command.psnr["baked"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_path": Path("scene.splat")}, r"scene\.splat: the suffix '\.splat' is not \.ply"),
        ({"num_gaussians": 1}, "--num-gaussians is 1. Give 2 to"),
        ({"refine": -1.0}, "--refine is -1.0. Give a number of seconds"),
        ({"refine": float("nan")}, "--refine is nan"),
        ({"sh_degree": 4}, "--sh-degree is 4. Give 0, 1, 2 or 3"),
        ({}, r"config\.yml: no such file"),
    ],
)
def test_mistakes_end_in_one_line_before_the_run_is_loaded(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        SplatCommand(Path("run/config.yml"), **options).main()
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_miner_run_is_refused_in_one_line(tmp_path):
    from PIL import Image

    from miner_ns.fitting import FitOptions

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    fit = FitOptions(num_levels=1, block_size=8, epochs=(2,), implementation="torch", num_frequencies=2, hidden_dim=4)
    config = train(run_config("miner-image", tmp_path / "a.png", tmp_path / "runs", 10**6, fit=fit))
    with pytest.raises(InputError, match=r"config\.yml: the run is of MinerModel, which has no colors .* Give a run"):
        SplatCommand(config, tmp_path / "scene.ply").main()
    assert not (tmp_path / "scene.ply").exists()
