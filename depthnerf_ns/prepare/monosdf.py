"""MonoSDF's folders: NAME_rgb.png, NAME_depth and NAME_normal (.npy or .npz, by Omnidata), and cameras.npz.

`world_mat_i` is K [R | t] in OpenCV axes, for the pixels of the original image, where the first pixel's center is
(0, 0); `scale_mat_i` maps the unit sphere, which holds the object, to its world. The pictures are the middle square of
the original, made smaller. Poses are written in the sphere's world; depth is right up to a scale and a shift; normals
are (n + 1) / 2 in the camera's OpenCV axes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

from common_ns.cameras.projection import decompose_projection
from common_ns.data.damaged import damage_explained
from common_ns.data.files import require_file
from common_ns.data.images import photo_header
from common_ns.errors import InputError

CAMERA_FILES = ("cameras.npz", "cameras_sphere.npz")
ORIGINALS = ((1600, 1200), (1200, 680), (960, 540))
"""Sizes of the original images in MonoSDF's data: DTU, Replica, Tanks and Temples."""
OFF_CENTER = 0.06
"""How far, as a share of the size, a principal point may be from the center."""


def camera_file(folder: Path) -> Path | None:
    """The camera file of a folder in this layout; None if it is another."""
    file = next((folder / name for name in CAMERA_FILES if (folder / name).is_file()), None)
    return file if file is not None and any(f.name.endswith("_rgb.png") for f in folder.iterdir()) else None


def read_monosdf(folder: Path, original_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Content of a transforms.json, with absolute paths.

    The frames' fields `prediction_path` and `normal_cue_path` name what networks predicted, where it is there.

    Args:
        folder: of the scene.
        original_size: (width, height) of the images that the cameras belong to; None: judged by the principal points.
    Raises: InputError if cameras are missing or do not fit.
    """
    file = camera_file(folder)
    if file is None:
        raise InputError(f"has no {' or '.join(CAMERA_FILES)} and NAME_rgb.png", "Correct the path", folder)
    images = sorted(folder.glob("*_rgb.png"))
    frames, size = [], (0, 0)
    with damage_explained(file, "camera file"), np.load(require_file(file, "camera file")) as matrices:
        count = sum(name.startswith("world_mat_") and "inv" not in name for name in matrices.files)
        numbers = [int(m[0]) if (m := re.search(r"\d+(?=_rgb$)", image.stem)) else -1 for image in images]
        if not all(0 <= number < count for number in numbers):  # other names: in their order
            numbers = list(range(len(images)))
        for image, number in zip(images, numbers):
            try:
                world = matrices[f"world_mat_{number}"]
                scale = matrices[f"scale_mat_{number}"] if f"scale_mat_{number}" in matrices.files else np.eye(4)
            except KeyError:
                raise InputError(f"holds no world_mat_{number}", f"Add the camera of {image.name}", file) from None
            intrinsics, c2w = decompose_projection((world @ scale)[:3])
            size = photo_header(image).size
            original_size = original_size or _original(intrinsics, size, file)
            frames.append({"file_path": str(image.absolute()), **_cropped(intrinsics, original_size, size)})
            frames[-1]["transform_matrix"] = [*c2w.tolist(), [0.0, 0.0, 0.0, 1.0]]
            for key, what in (("prediction_path", "depth"), ("normal_cue_path", "normal")):
                stem = image.stem.removesuffix("_rgb")
                cue = next((p for s in (".npy", ".npz") if (p := folder / f"{stem}_{what}{s}").is_file()), None)
                if cue is not None:
                    frames[-1][key] = str(cue.absolute())
    return {"camera_model": "OPENCV", "w": size[0], "h": size[1], "frames": frames}


def _original(k: Float[ndarray, "3 3"], size: tuple[int, int], file: Path) -> tuple[int, int]:
    """The size of the images that K belongs to: of those that are known, the one whose center it has."""
    for width, height in (size, *ORIGINALS):
        if abs(k[0, 2] / width - 0.5) < OFF_CENTER and abs(k[1, 2] / height - 0.5) < OFF_CENTER:
            return width, height
    problem = f"the principal point ({k[0, 2]:.0f}, {k[1, 2]:.0f}) is not the center of a known image size"
    raise InputError(problem, "Give the size that the cameras belong to as --original-size WIDTH HEIGHT", file)


def _cropped(k: Float[ndarray, "3 3"], original: tuple[int, int], size: tuple[int, int]) -> dict[str, float]:
    """Intrinsics after the middle of an image, of the proportions of the new size, is cropped and made smaller; from
    the upper left corner instead of the first pixel's center."""
    factor = max(size[0] / original[0], size[1] / original[1])
    offset = [(old - new / factor) / 2.0 for old, new in zip(original, size)]
    return {
        "fl_x": float(k[0, 0] * factor),
        "fl_y": float(k[1, 1] * factor),
        "cx": float((k[0, 2] + 0.5 - offset[0]) * factor),
        "cy": float((k[1, 2] + 0.5 - offset[1]) * factor),
    }


def write_normals(cue: Path, target: Path) -> None:
    """Write a cue as an 8-bit picture of unit normals in the same axes.

    Raises: InputError if it is no array of three channels.
    """
    from common_ns.data.depth.contract import decode_map

    values = decode_map(cue, "file of normals", vectors=True).astype(np.float64)
    if values.ndim == 3 and values.shape[0] == 3 and values.shape[2] != 3:
        values = np.moveaxis(values, 0, -1)
    if values.ndim != 3 or values.shape[2] != 3:
        raise InputError(f"the normals have shape {values.shape}", "Store (3, height, width)", cue)
    normals = 2.0 * values - 1.0
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)
    Image.fromarray(np.rint((normals + 1.0) * 127.5).astype(np.uint8)).save(target)
