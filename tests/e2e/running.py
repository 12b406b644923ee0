"""Running methods in the tests' own process as the commands do: each start of a command costs many seconds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.scripts.train import train_loop


def run_config(method: str, data: Path, output: Path, steps: int, rays: int = 256, **model: Any) -> Any:
    """The config of a short run of `method`, with some of its model's options replaced."""
    config = copy.deepcopy(all_methods[method])
    config.data = data
    config.pipeline.datamanager.data = data
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


def assert_video(file: Path) -> None:
    """The file is a video whose frames differ from a plain colour."""
    import imageio_ffmpeg

    frames = imageio_ffmpeg.read_frames(str(file))
    width, height = next(frames)["size"]
    first = np.frombuffer(next(frames), dtype=np.uint8).reshape(height, width, 3)
    assert first.std() > 5
