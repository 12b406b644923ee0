"""Splats with depth, through nerfstudio's commands: they begin at measured depth, and keep to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.scripts.eval import ComputePSNR

from common_ns.errors import InputError
from common_ns.nerfstudio_seam.runs import load_run
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from depthnerf_ns.splat_depth import ray_per_depth
from tests.e2e.running import assert_resumes_exactly, run_config, train
from tests.e2e.test_mip_splat import FIELD

TINY = {"num_start": 1500, "max_gaussians": 2500, "grow_from": 2, "grow_every": 5, "sh_degree_interval": 8}


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    options = {"layouts": ("nerfstudio",), "num_train": 12, "num_val": 2, "num_test": 2, "resolution": 40}
    write_sample_scene(SampleSceneConfig(folder, unbounded=True, normals=True, overwrite=True, **options))
    return folder / "nerfstudio"


def tiny(scene: Path, output: Path, steps: int, **model: Any) -> Any:
    config = run_config("depth-splat-small", scene, output, steps, rays=None, **{**TINY, **model})
    config.pipeline.model.field = replace(config.pipeline.model.field, **FIELD)
    config.pipeline.datamanager.dataparser.num_views = 4
    for group in config.optimizers.values():
        if group["scheduler"] is not None:
            group["scheduler"].max_steps = steps
    return config


def figures(config: Path, folder: Path) -> dict[str, float]:
    ComputePSNR(config, folder / "eval.json", folder / "pictures").main()
    return json.loads((folder / "eval.json").read_text())["results"]


@pytest.mark.slow
def test_depth_makes_four_views_show_the_others(scene, tmp_path):
    """Without it, the same Gaussians at random places know less of both."""
    found = {}
    for name, options in {
        "with": {"normal_loss_mult": 1e-3},
        "without": {"depth_loss": "none", "start_from": "random"},
    }.items():
        found[name] = figures(train(tiny(scene, tmp_path / name, 100, **options)), tmp_path / name)
    assert found["with"]["depth_abs_rel"] < 0.5 * found["without"]["depth_abs_rel"]
    assert found["with"]["psnr"] > found["without"]["psnr"] + 1
    pictures = {file.name.rsplit("_", 1)[0] for file in (tmp_path / "with/pictures").iterdir()}
    assert {"eval_img", "eval_depth", "eval_depth_measured"} <= pictures


@pytest.mark.slow
def test_resumed_run_continues_exactly(scene, tmp_path, monkeypatch):
    def config(output: Path, steps: int):
        made = tiny(scene, output, 16, reset_every=12, normal_loss_mult=1e-3, depth_loss="log-l1")
        made.max_num_iterations = made.steps_per_save = steps
        return made

    assert_resumes_exactly(config, 16, tmp_path, monkeypatch)


def test_what_no_photograph_shows_has_their_mean_color(scene, tmp_path):
    run = load_run(train(tiny(scene, tmp_path, 2)), test_mode="test")
    manager, model = run.datamanager, run.model
    mean = torch.stack([image.reshape(-1, 3).mean(dim=0) for image in manager.train_photographs()]).mean(dim=0)
    torch.testing.assert_close(model.background_color, mean, atol=2e-3, rtol=0)
    behind = manager.train_cameras[:1]
    behind.camera_to_worlds = behind.camera_to_worlds.clone()
    behind.camera_to_worlds[0, :, 3] += 1e6 * behind.camera_to_worlds[0, :, 2]
    behind.camera_to_worlds[0, :, :3] *= torch.tensor([-1.0, 1.0, -1.0])  # away from everything
    torch.testing.assert_close(model.get_outputs_for_camera(behind)["rgb"].mean(dim=(0, 1)), mean, atol=5e-3, rtol=0)


@pytest.mark.slow
def test_wrong_depth_is_neither_learned_nor_begun_with(scene, tmp_path, capfd):
    config = tiny(scene, tmp_path, 2, field_steps=20)
    config.pipeline.datamanager.dataparser.num_views = None
    config.pipeline.datamanager.dataparser.depth_unit = 1.3e-3
    config.pipeline.datamanager.depth_check = "warn"
    checkpoint = next(train(config).parent.rglob("*.ckpt"))
    assert torch.load(checkpoint)["pipeline"]["_model.guard.factor"] == 0.0
    said = " ".join(capfd.readouterr().out.split())
    assert "speak against the depth" in said and "begin where a field sees surfaces" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth_epsilon": 0.0}, "depth-epsilon is 0. Give a number above 0"),
        ({"depth_loss_mult": -1.0}, "depth-loss-mult is -1. Give 0 or more"),
        ({"normal_loss_mult": -1.0}, "normal-loss-mult is -1. Give 0 or more"),
        ({"start_from": "points", "init_from": Path("run/config.yml")}, "init-from names a run to begin with"),
    ],
)
def test_options_that_mean_nothing_are_refused(scene, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train(tiny(scene, tmp_path, 1, **options))


def test_depth_of_a_picture_is_ray_distance(scene, tmp_path):
    """That of the Gaussians themselves, which begin at the measured one: here of one view."""
    config = tiny(scene, tmp_path, 1, num_start=20000, max_gaussians=20000)
    config.pipeline.datamanager.dataparser.num_views = 1
    pipeline = config.pipeline.setup(device="cpu", test_mode="test")
    pipeline.model.begin_with(pipeline.datamanager)
    pipeline.eval()
    camera, batch = pipeline.datamanager.next_train(0)
    with torch.no_grad():
        outputs = pipeline.model.get_outputs(camera)
    measured = batch["depth_image"]
    clear = (measured > 0) & (outputs["accumulation"] > 0.5)
    # At the rim, where a ray is longer than its depth along the axis; elsewhere it might be either.
    fx, fy, cx, cy = (float(getattr(camera, name)) for name in ("fx", "fy", "cx", "cy"))
    rim = ray_per_depth((fx, fy, cx, cy), *measured.shape[:2]) > 1.15
    ratio = (outputs["depth"] / measured)[clear & rim]
    assert len(ratio) > 100 and abs(float(ratio.median()) - 1.0) < 0.03
