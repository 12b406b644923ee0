"""A ball seen by a ring of cameras, in the IDR layout: small, exact, and in a world that is nothing like the unit
sphere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CENTER = np.array([100.0, -30.0, 600.0])
RADIUS = 40.0
SIZE = (48, 36)
"""(width, height)"""
INTRINSICS = np.array([[70.0, 0.0, 22.0], [0.0, 68.0, 19.0], [0.0, 0.0, 1.0]])
"""K to pixel indices: the first pixel's center is at 0."""
COUNT = 10


def poses(count: int = COUNT) -> np.ndarray:
    """World to camera [count, 3, 4] in OpenCV axes, on a tilted ring about the ball."""
    result = []
    for angle in 2 * np.pi * np.arange(count) / count:
        offset = np.array([np.cos(angle), np.sin(angle), 0.4 * np.sin(2 * angle)])
        forward = -offset / np.linalg.norm(offset)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward])
        result.append(np.column_stack([rotation, -rotation @ (CENTER + 180.0 * offset)]))
    return np.array(result)


def rays(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origin [3] and unit directions [h, w, 3] of a camera's pixels, in the world."""
    columns, rows = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    local = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(INTRINSICS).T
    directions = local @ pose[:, :3]
    return -pose[:, :3].T @ pose[:, 3], directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def mask_of(pose: np.ndarray) -> np.ndarray:
    """Which pixels [h, w] see the ball."""
    origin, directions = rays(pose)
    along = directions @ (CENTER - origin)
    return np.sum((CENTER - origin) ** 2) - along**2 < RADIUS**2


def write(folder: Path, *, scale: bool = True, masks: bool = True, names: str = "{:06d}", image: str = "image") -> Path:
    """Write the data set; scale_mat makes the ball one of radius 0.8 in the unit sphere."""
    rng = np.random.default_rng(0)
    (folder / image).mkdir(parents=True)
    arrays = {}
    for index, pose in enumerate(poses()):
        pixels = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / image / f"{names.format(index)}.png")
        if masks:
            (folder / "mask").mkdir(exist_ok=True)
            Image.fromarray(mask_of(pose)).save(folder / "mask" / f"{index:03d}.png")
        arrays[f"world_mat_{index}"] = np.vstack([INTRINSICS @ pose, [0.0, 0.0, 0.0, 1.0]])
        if scale:
            arrays[f"scale_mat_{index}"] = np.vstack(
                [np.column_stack([50.0 * np.eye(3), CENTER]), [0.0, 0.0, 0.0, 1.0]]
            )
    np.savez(folder / "cameras_sphere.npz", **arrays)
    return folder


def change_cameras(folder: Path, change, name: str = "cameras_sphere.npz") -> None:
    """Let `change` edit the arrays of the file of cameras."""
    with np.load(folder / "cameras_sphere.npz") as content:
        arrays = dict(content)
    change(arrays)
    np.savez(folder / name, **arrays)


def change_masks(folder: Path, change, only: int | None = None) -> None:
    """Let `change` map each mask, or one of them, from bool [h, w] to another."""
    for index, file in enumerate(sorted((folder / "mask").iterdir())):
        if only in (None, index):
            Image.fromarray(change(np.asarray(Image.open(file)) > 0)).save(file)
