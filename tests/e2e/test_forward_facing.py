"""Forward-facing captures in normalized device coordinates, from training to mesh through nerfstudio's own commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.utils.eval_utils import eval_setup

from common_ns.errors import InputError
from common_ns.hash_grid import HashGridOptions
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from common_ns.scripts.mesh import MeshCommand
from tests.e2e.running import assert_resumes_exactly, run_config, train
from tests.forward_scene import write_forward_scene

ROUNDS = {"num_proposal_samples": (16, 12), "num_nerf_samples": 12, "forward_facing": True}
METHODS: dict[str, dict[str, Any]] = {
    "zip-nerf-small": {
        "grid": HashGridOptions(num_levels=6, log2_table_size=12, max_resolution=128),
        "proposal_grids": 2
        * (HashGridOptions(num_levels=4, features_per_level=1, log2_table_size=11, max_resolution=64),),
    },
    "mip-nerf-360-small": {"hidden_dim": 48, "num_layers": 3, "proposal_hidden_dim": 24, "num_frequencies": 7},
}
STEPS = 120


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_forward_scene(tmp_path_factory.mktemp("forward"))


def short_run(method: str, data: Path, output: Path, steps: int, **model: Any) -> Any:
    config = run_config(method, data, output, steps, **{**METHODS[method], **ROUNDS, "near_plane": 0.6, **model})
    # The scene as it is, whose objects are in the scene box.
    parser = config.pipeline.datamanager.dataparser
    parser.auto_scale_poses, parser.center_method, parser.orientation_method = False, "none", "none"
    for group in config.optimizers.values():
        group["scheduler"].max_steps = STEPS
    return config


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_evaluated_as_it_was_trained_and_meshed(method, scene, tmp_path, capsys):
    run = train(short_run(method, scene, tmp_path, STEPS))
    printed = " ".join(capsys.readouterr().out.split())
    assert "cameras face one way to 0°, near plane 0.6 scene units" in printed
    assert "normalized device coordinates, background" in printed
    ComputePSNR(run, tmp_path / "eval.json").main()
    assert json.loads((tmp_path / "eval.json").read_text())["results"]["psnr"] > 14
    trained = torch.load(next(run.parent.glob("nerfstudio_models/*.ckpt")))["pipeline"]
    model = eval_setup(run, test_mode="inference")[1].model
    space = model.space
    assert torch.equal(space.factors, trained["_model.space.factors"]) and float(space.factors[2]) == pytest.approx(0.6)
    assert torch.equal(space.pose, trained["_model.field.space.pose"])
    # After so few steps there may be no surface at the usual level.
    with torch.no_grad():
        density = model.iso_field().value(2.0 * torch.rand(5000, 3) - 1.0)
    level = float(density.quantile(0.7))
    MeshCommand(load_config=run, output_path=tmp_path / "mesh.ply", resolution=24, level=level).main()
    assert len(trimesh.load(tmp_path / "mesh.ply").faces) > 50


@pytest.mark.parametrize("method", METHODS)
def test_resumed_run_continues_exactly(method, scene, tmp_path, monkeypatch):
    def config(output: Path, steps: int) -> Any:
        return short_run(method, scene, output, steps, max_points_per_chunk=4000)

    assert_resumes_exactly(config, 10, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("parser", "message"), [(None, "do not face one way"), (BlenderDataParserConfig(), "this is an object")]
)
def test_cameras_all_around_are_refused_in_one_line(parser, message, tmp_path):
    options = {"num_train": 8, "num_val": 1, "num_test": 1, "resolution": 8, "supersample": 1}
    name = "nerfstudio" if parser is None else "blender"
    write_sample_scene(SampleSceneConfig(tmp_path / "scene", layouts=(name,), unbounded=parser is None, **options))
    config = short_run("zip-nerf-small", tmp_path / "scene" / name, tmp_path, 2, near_plane=None)
    if parser is not None:
        config.pipeline.datamanager.dataparser = parser
    with pytest.raises(InputError, match=message) as caught:
        train(config)
    assert "\n" not in str(caught.value) and "Leave out --pipeline.model.forward-facing" in str(caught.value)
