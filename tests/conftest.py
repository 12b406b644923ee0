"""Shared fixtures: a tiny Blender data set of random images, for tests that need files but no scene."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

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


@pytest.fixture(scope="session", autouse=True)
def _one_index_of_icons() -> Iterator[None]:
    # For each button, viser reads the headers of its archive of thousands of icons anew: seconds of every viewer.
    icons = sys.modules.get("viser._icons")
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        opened = functools.cache(lambda path: contextlib.nullcontext(stack.enter_context(tarfile.open(path))))
        if hasattr(icons, "tarfile"):
            patch.setattr(icons, "tarfile", SimpleNamespace(open=opened))
        yield
