"""Running methods in the tests' own process as the commands do: each start of a command costs many seconds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.scripts.train import train_loop

from common_ns.nerfstudio_seam.trainer import SafeTrainer
from common_ns.nerfstudio_seam.versions import steps_of_a_resume


def run_config(method: str, data: Path, output: Path, steps: int, rays: int | None = 256, **model: Any) -> Any:
    """The config of a short run of `method`, with some of its model's options replaced.

    Args:
        rays: of a batch; None: the method trains on whole images.
    """
    config = copy.deepcopy(all_methods[method])
    config.data = data
    config.pipeline.datamanager.data = data
    if rays is not None:
        config.pipeline.datamanager.train_num_rays_per_batch = rays
    for name, value in model.items():
        assert hasattr(config.pipeline.model, name), name
        setattr(config.pipeline.model, name, value)
    config.max_num_iterations = steps
    config.steps_per_save = steps
    config.output_dir = output
    config.experiment_name = "sample"
    config.timestamp = "run"
    config.vis = "tensorboard"
    config.viewer.quit_on_train_completion = True
    return config


def train(config: Any) -> Path:
    """Train as ns-train does; returns the path of the run's config."""
    config.save_config()
    train_loop(0, 1, config)
    return config.get_base_dir() / "config.yml"


def assert_resumes_exactly(
    make_config: Callable[[Path, int], Any], steps: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training in two halves gives the losses and the parameters of training at once, to the last bit.

    Args:
        make_config: gives the config of a run, from its output folder and its number of steps.
        steps: of the whole run; an even number.
        folder: for the runs.
        monkeypatch: of the test.
    """
    losses: list[dict[int, float]] = []
    original = SafeTrainer.train_iteration

    def recording(self: SafeTrainer, step: int) -> Any:
        result = original(self, step)
        losses[-1][step] = float(result[0])
        return result

    monkeypatch.setattr(SafeTrainer, "train_iteration", recording)
    rest = steps_of_a_resume(steps, steps // 2)
    configs = [make_config(folder / name, n) for name, n in (("whole", steps), ("a", steps // 2), ("b", rest))]
    configs[2].load_dir = configs[1].get_checkpoint_dir()
    for config in configs:
        losses.append({})
        train(config)
    whole, first, second = losses
    assert {**first, **second} == whole and len(whole) == steps
    file = f"step-{steps - 1:09d}.ckpt"
    states = [torch.load(config.get_checkpoint_dir() / file)["pipeline"] for config in (configs[0], configs[2])]
    assert all(same(states[0][name], states[1][name]) for name in states[0])


def same(first: Any, second: Any) -> bool:
    """Whether two parts of a checkpoint are equal to the last bit: tensors, numbers, or dictionaries of them."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def assert_video(file: Path) -> None:
    """The file is a video whose frames differ from a plain color."""
    import imageio_ffmpeg

    frames = imageio_ffmpeg.read_frames(str(file))
    width, height = next(frames)["size"]
    first = np.frombuffer(next(frames), dtype=np.uint8).reshape(height, width, 3)
    assert first.std() > 5
