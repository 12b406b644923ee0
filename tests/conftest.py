"""Shared fixtures: a tiny Blender data set of random images, for tests that need files but no scene."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


def look_at_pose(angle: float, distance: float = 4.0) -> np.ndarray:
    """Camera-to-world matrix [4, 4] at `angle` (radians) around z, looking at the origin (OpenGL axes)."""
    position = distance * np.array([np.cos(angle), np.sin(angle), 0.3])
    back = position / np.linalg.norm(position)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :4] = np.stack([right, np.cross(back, right), back, position], axis=-1)
    return pose


def write_tiny_blender(folder: Path, size: int = 16, count: int = 4, channels: int = 4) -> Path:
    """Write `count` random images per split as a Blender data set."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        frames = []
        for index in range(count):
            image = rng.integers(0, 256, (size, size, channels), dtype=np.uint8)
            Image.fromarray(image).save(folder / split / f"r_{index}.png")
            pose = look_at_pose(2 * np.pi * index / count)
            frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": pose.tolist()})
        content = {"camera_angle_x": 0.7, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def tiny_blender(tmp_path: Path) -> Path:
    return write_tiny_blender(tmp_path / "tiny")


@pytest.fixture(autouse=True)
def _limit_threads():
    # The tests' tensors are small: more threads only wait for each other, ten times as long on a busy machine.
    torch.set_num_threads(1)
