"""nerfstudio's remedies do what they say."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nerfstudio.scripts import exporter, render

from common_ns.errors import InputError
from common_ns.nerfstudio_seam import compat


def test_checkpoints_with_numpy_scalars_load(tmp_path):
    file = tmp_path / "host.ckpt"
    torch.save({"lr": np.float64(1e-3), "half": np.float16(2.0), "count": np.int64(3), "flag": np.bool_(True)}, file)
    before = set(torch.serialization.get_safe_globals())
    with compat.numpy_scalars_allowed():
        loaded = torch.load(file)
    assert set(torch.serialization.get_safe_globals()) == before
    assert loaded == {"lr": 1e-3, "half": 2.0, "count": 3, "flag": True}


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_checkpoints_of_either_numpy_load(tmp_path, module):
    """A checkpoint names the module of the numpy that wrote it; rewrite the name to play the other one."""
    file = tmp_path / "other.ckpt"
    torch.save({"lr": np.float64(1e-3)}, file, _use_new_zipfile_serialization=False)
    data = file.read_bytes()  # torch pickles with protocol 2, which names modules in plain text
    own = next(name for name in ("numpy.core.multiarray", "numpy._core.multiarray") if f"c{name}\n".encode() in data)
    file.write_bytes(data.replace(f"c{own}\n".encode(), f"c{module}\n".encode()))
    with compat.numpy_scalars_allowed():
        assert torch.load(file) == {"lr": 1e-3}


def test_what_is_saved_loads_without_help(tmp_path):
    state = {
        "schedulers": {"fields": {"_last_lr": [np.float64(1e-3)], "lrs": (np.float32(0.5), 1)}},
        "step": np.int64(3),
    }
    torch.save(compat.without_numpy_scalars(state), tmp_path / "ours.ckpt")
    assert torch.load(tmp_path / "ours.ckpt") == state


def test_ffmpeg_is_found_when_none_is_on_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compat.provide_ffmpeg()
    compat.provide_ffmpeg()
    result = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("ffmpeg version")
    assert os.environ["PATH"].count("fieldsuite") == 1


def test_an_ffmpeg_on_path_is_left_alone(tmp_path, monkeypatch):
    own = tmp_path / "ffmpeg"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    compat.provide_ffmpeg()
    assert os.environ["PATH"] == str(tmp_path)


def test_default_device_follows_the_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compat.default_device() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compat.default_device() == "cpu"


def test_importing_the_packages_is_light():
    heavy = ("open3d", "pymeshlab", "transformers", "trimesh", "skimage")
    code = f"import sys, common_ns, mipnerf_ns, method_configs; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.fixture
def scripts(monkeypatch):
    """ns-export and ns-render, whose functions answer "nerfstudio's own", on a machine without a GPU."""

    def own(*_, **__) -> str:
        return "nerfstudio's own"

    own.__module__ = "nerfstudio.somewhere"
    monkeypatch.setattr(exporter, "generate_mesh_with_multires_marching_cubes", own)
    monkeypatch.setattr(render, "get_interpolated_camera_path", own)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


class Pipeline:
    """One with a single camera."""

    def __init__(self) -> None:
        self.datamanager = SimpleNamespace(train_dataset=SimpleNamespace(cameras=[0]), eval_dataset=None)


def exported(pipeline: Pipeline) -> str:
    """As ns-export calls it."""
    return exporter.generate_mesh_with_multires_marching_cubes(
        geometry_callable_field=lambda x: pipeline, resolution=512
    )


def interpolated(cameras: list[int]) -> str:
    """As ns-render calls it."""
    return render.get_interpolated_camera_path(cameras=cameras, steps=10, order_poses=False)


def test_only_our_pipeline_is_refused(scripts, monkeypatch):
    ours, other = Pipeline(), Pipeline()
    for _ in range(2):
        compat.refuse_what_nerfstudio_cannot_do(ours)
        with pytest.raises(InputError, match="needs a CUDA GPU"):
            exported(ours)
        with pytest.raises(InputError, match="one camera"):
            interpolated(ours.datamanager.train_dataset.cameras)
        assert exported(other) == interpolated(other.datamanager.train_dataset.cameras) == "nerfstudio's own"
    two = Pipeline()
    two.datamanager.train_dataset.cameras = [0, 1]
    compat.refuse_what_nerfstudio_cannot_do(two)
    assert exported(ours) == interpolated(two.datamanager.train_dataset.cameras) == "nerfstudio's own"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert exported(two) == "nerfstudio's own"


def test_what_others_have_put_in_place_of_nerfstudios_function_stays(scripts, monkeypatch):
    monkeypatch.setattr(exporter, "generate_mesh_with_multires_marching_cubes", lambda **_: "on a CPU")
    ours = Pipeline()
    compat.refuse_what_nerfstudio_cannot_do(ours)
    assert exported(ours) == "on a CPU"
