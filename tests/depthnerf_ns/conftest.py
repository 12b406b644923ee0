"""The sample scene with depth and normals, small, written once, and a copy of it for tests that change files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene

RESOLUTION = 48


@pytest.fixture(scope="session")
def depth_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the nerfstudio layout: 14 training, 1 validation and 3 test views, z-depth in steps of 1e-3. Tests do
    not write to it."""
    folder = tmp_path_factory.mktemp("depth") / "scene"
    config = SampleSceneConfig(
        output_dir=folder,
        layouts=("nerfstudio",),
        num_train=14,
        num_val=1,
        num_test=3,
        resolution=RESOLUTION,
        supersample=1,
        normals=True,
    )
    write_sample_scene(config)
    return folder / "nerfstudio"


@pytest.fixture
def scene_copy(depth_scene: Path, tmp_path: Path) -> Path:
    """A copy of `depth_scene` to change."""
    return Path(shutil.copytree(depth_scene, tmp_path / "copy"))
