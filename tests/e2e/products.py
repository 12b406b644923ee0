"""What commands leave behind, looked at: it is there, and it is not blank."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from common_ns.splat_baking.ply import read_ply

LEAST_CONTRAST = 3.0
"""Standard deviation of a picture's values, of 255, below which it counts as blank."""


def assert_pictures(*files: Path) -> None:
    """The pictures are there and none is of one color."""
    assert files, "there is no picture"
    for file in files:
        assert np.asarray(Image.open(file), dtype=float).std() > LEAST_CONTRAST, f"{file} is blank"


def assert_mesh(file: Path, faces: int = 50) -> None:
    """The mesh has faces, and reaches in all directions."""
    mesh = trimesh.load(file, process=False, force="mesh")
    assert isinstance(mesh, trimesh.Trimesh) and len(mesh.faces) >= faces, f"{file} has {len(mesh.faces)} faces"
    assert mesh.extents.min() > 0


def assert_cloud(file: Path, points: int = 200) -> None:
    """The cloud has points that are not all in one place."""
    vertices = trimesh.load(file).vertices
    assert len(vertices) >= points, f"{file} has {len(vertices)} points"
    assert np.isfinite(vertices).all() and np.ptp(vertices, axis=0).min() > 0


def assert_gaussians(file: Path, count: int = 200) -> None:
    """The file has Gaussians that are not all in one place, or of one color."""
    gaussians = read_ply(file)
    assert len(gaussians) >= count, f"{file} has {len(gaussians)} Gaussians"
    assert bool(gaussians.means.isfinite().all()) and float(gaussians.means.std(dim=0).min()) > 0
    assert float(gaussians.coefficients[:, 0].std(dim=0).max()) > 0.01


def assert_figures(file: Path) -> None:
    """ns-eval's file has figures, all of them finite, and one of quality among them."""
    results = json.loads(file.read_text())["results"]
    assert {"psnr", "iou"} & set(results) and all(math.isfinite(value) for value in results.values()), results


def assert_poses(file: Path, count: int) -> None:
    """The file of exported cameras has so many frames."""
    assert len(json.loads(file.read_text())) == count


def assert_camera_path(file: Path) -> None:
    """The camera path has frames, and they differ."""
    frames = [frame["camera_to_world"] for frame in json.loads(file.read_text())["camera_path"]]
    assert len(frames) > 1 and frames[0] != frames[-1]
