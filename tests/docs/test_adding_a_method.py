"""The page docs/adding-a-method.md holds a whole method: its code is taken from there, registered, trained and used."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry import discover_methods
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.utils.eval_utils import eval_setup

import method_configs
from common_ns.data.scene_bounds import RayBounds
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.trainer import SafeTrainer
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from common_ns.scripts.mesh import MeshCommand
from tests import test_methods
from tests.e2e.running import run_config, train

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^\*\*`(\S+)`\*\*\n\n```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
NAME = "voxel-grid"
STEPS = 60


def entry_point() -> EntryPoint:
    """As the page's block of pyproject.toml states it."""
    (value,) = re.findall(rf'^{NAME} = "(\S+)"$', PAGE, re.MULTILINE)
    return EntryPoint(NAME, value, "nerfstudio.method_configs")


def environment() -> str:
    """As the page has it set."""
    (value,) = re.findall(r'^export NERFSTUDIO_METHOD_CONFIGS="(.+)"$', PAGE, re.MULTILINE)
    return value


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Iterator[Path]:
    """The page's files in a folder that Python imports from, and the method among those of nerfstudio."""
    folder = tmp_path_factory.mktemp("package")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr(method_configs, "__path__", [*method_configs.__path__, str(folder / "method_configs")])
        patch.setenv("NERFSTUDIO_METHOD_CONFIGS", environment())
        patch.setitem(all_methods, NAME, discover_methods()[0][NAME])
        yield folder
    for name in set(sys.modules) - before:
        if name.startswith("voxelgrid_ns") or name == "method_configs.voxelgrid":
            del sys.modules[name]


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    few = {"num_train": 12, "num_val": 1, "num_test": 2, "resolution": 32}
    write_sample_scene(SampleSceneConfig(folder, layouts=("blender",), overwrite=True, **few))
    return folder / "blender"


@pytest.fixture(scope="module")
def trained(package, scene, tmp_path_factory) -> tuple[Path, list[float]]:
    """A short run, and its losses."""
    config = run_config(NAME, scene, tmp_path_factory.mktemp("runs"), STEPS, resolution=32, num_samples=48)
    config.optimizers["fields"]["scheduler"].max_steps = STEPS
    losses: list[float] = []
    original = SafeTrainer.train_iteration

    def recording(self: SafeTrainer, step: int) -> Any:
        result = original(self, step)
        losses.append(float(result[0]))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SafeTrainer, "train_iteration", recording)
        return train(config), losses


def test_loss_falls(trained):
    losses = trained[1]
    assert len(losses) == STEPS and np.mean(losses[-5:]) < 0.4 * np.mean(losses[:5])


def test_ns_eval_reports_it(trained, tmp_path):
    ComputePSNR(trained[0], tmp_path / "eval.json", tmp_path / "pictures").main()
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert results["psnr"] > 14 and 0 < results["ssim"] < 1
    assert {file.name.rsplit("_", 1)[0] for file in (tmp_path / "pictures").iterdir()} == {
        "eval_img",
        "eval_accumulation",
        "eval_depth",
    }


def test_ns_mesh_finds_its_surface(trained, tmp_path):
    MeshCommand(trained[0], tmp_path / "mesh.ply", resolution=32, level=2.0).main()
    mesh = trimesh.load(tmp_path / "mesh.ply")
    assert mesh.is_watertight and len(mesh.faces) > 200 and mesh.visual.vertex_colors[:, :3].std() > 5


def test_outputs_are_those_that_the_page_names(trained):
    _, pipeline, _, _ = eval_setup(trained[0], test_mode="inference")
    outputs = pipeline.model.get_outputs_for_camera(pipeline.datamanager.train_dataset.cameras[:1])
    assert {name: value.shape[-1] for name, value in outputs.items()} == {
        "rgb": 3,
        "accumulation": 1,
        "depth": 1,
        "normals": 3,
    }
    assert all(bool(value.isfinite().all()) for value in outputs.values())
    assert outputs["normals"].min() >= 0 and outputs["normals"].max() <= 1 and outputs["normals"].std() > 0.1


def test_captures_are_refused_in_one_line(package):
    bounds = RayBounds(0.1, 6.0, bounded=False, extent=6.0, reason="SfM points")
    box = SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))
    with pytest.raises(InputError, match=r"for objects seen from outside, .* \(SfM points\)"):
        all_methods[NAME].pipeline.model.setup(scene_box=box, num_train_data=3, metadata={"ray_bounds": bounds})


def test_checks_of_registered_methods_hold_for_it(package, monkeypatch):
    monkeypatch.setattr(test_methods, "PACKAGES", (*test_methods.PACKAGES, "voxelgrid_ns"))
    entry = entry_point()
    test_methods.test_method_is_named_as_registered_and_its_viewer_stays_on_this_machine(entry)
    test_methods.test_every_option_of_ours_is_explained(entry)


def test_the_pages_own_tests_pass(package, monkeypatch):
    monkeypatch.syspath_prepend(str(package / "tests" / "voxelgrid_ns"))
    name = "test_field"
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    tests = [value for key, value in vars(module).items() if key.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()
    monkeypatch.delitem(sys.modules, name)


def test_every_file_that_the_page_names_is_there():
    named = set(re.findall(r"`((?:\w+/)+\w+\.(?:py|md))`", PAGE))
    assert {"common_ns/base_model.py", "tests/e2e/running.py"} <= named
    missing = {name for name in named if not (ROOT / name).is_file()}
    assert missing - set(FILES) == {"benchmarks/voxelgrid.py", "docs/voxelgrid.md"}  # the page asks for them
