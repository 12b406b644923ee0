"""The contract for files of surface normals: their axes, how they are stored, and how they get to the scene's axes.

Integers (8- or 16-bit) mean (n + 1) / 2 over their range; floats are the components themselves, of unit length. Black,
zero vectors and NaN mean that there is no normal. Arrays have shape (height, width, 3) or (3, height, width).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy import ndarray
from torch import Tensor

from common_ns.data.depth.contract import decode_map, nearest
from common_ns.errors import InputError

NormalSpace = Literal["world", "opengl", "opencv"]
LENGTH_TOLERANCE = 0.1
"""How far the length of stored floats may be from 1, except at one pixel in ten. (The mean length of (n + 1) / 2, which
some files hold, is about 1 as well.)"""

Rows = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]
IDENTITY: Rows = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True)
class NormalContract:
    """What the numbers in a data set's files of normals mean."""

    space: NormalSpace = "world"
    """world: axes of the poses in the data set; opengl: the camera's x right, y up, z back; opencv: the camera's x
    right, y down, z forward."""
    world_to_scene: Rows = IDENTITY
    """Rotation by which the dataparser turned the world."""
    resize: bool = False
    """Accept files of another size than their images: the nearest value counts."""


def load_normals(file: Path, contract: NormalContract, size: tuple[int, int]) -> Shaped[ndarray, "h w 3"]:
    """The normals of an image as stored, uint8 or float32. In floats, 0 stands where there is no normal.

    Args:
        file: the normals.
        contract: whether another size is accepted.
        size: (width, height) of the image in pixels.
    Raises: InputError if the file is missing, damaged, of another size or shape, or no normals are in it.
    """
    values = decode_map(file, "file of normals", vectors=True)
    if values.ndim == 3 and values.shape[0] == 3 and values.shape[2] != 3:
        values = np.moveaxis(values, 0, -1)
    if values.ndim != 3 or values.shape[2] not in (3, 4) or values.dtype.kind not in "uf":
        problem = f"the file of normals has shape {values.shape} of {values.dtype}"
        raise InputError(problem, "Store (height, width, 3): 8-bit (n + 1) / 2, or floats of unit length", file)
    values = values[..., :3]
    if values.shape[1::-1] != size:
        problem = f"the normals have {values.shape[1]}×{values.shape[0]} pixels, their image {size[0]}×{size[1]}"
        if not contract.resize:
            raise InputError(problem, "Give normals the size of their images, or --depth-resize True", file)
        values = nearest(values, size)
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u":
        floats = values.astype(np.float32) / np.iinfo(values.dtype).max * 2.0 - 1.0
        return np.where(values.any(axis=-1, keepdims=True), floats, np.float32(0.0))
    values = np.where(np.isfinite(values).all(axis=-1, keepdims=True), values, 0.0).astype(np.float32)
    lengths = np.linalg.norm(values, axis=-1)
    if not (lengths > 0).any():
        raise InputError("the file holds no normals", "Remove this frame, or write its normals again", file)
    lengths = lengths[lengths > 0]
    if float(np.quantile(np.abs(lengths - 1.0), 0.9)) > LENGTH_TOLERANCE:
        low, high = np.quantile(lengths, [0.1, 0.9])
        problem = f"the normals have lengths from {low:.3g} to {high:.3g}"
        raise InputError(problem, "Store floats of unit length, with components from -1 to 1, not (n + 1) / 2", file)
    return values


def scene_normals(
    stored: Shaped[Tensor, "*n 3"], contract: NormalContract, camera_axes: Float[Tensor, "*#n 3 3"]
) -> Float[Tensor, "*n 3"]:
    """Unit normals in the scene's axes, 0 where there is none.

    Args:
        stored: normals as `load_normals` gives them.
        contract: the axes that they are in.
        camera_axes: camera-to-scene rotations of the pixels' cameras (OpenGL axes).
    """
    if stored.dtype == torch.uint8:
        present = (stored != 0).any(dim=-1, keepdim=True)
        normals = torch.where(present, stored.float() / 127.5 - 1.0, torch.zeros(()).to(stored.device))
    else:
        normals = stored.float()
    if contract.space == "world":
        rotation = torch.tensor(contract.world_to_scene).to(normals)
    else:
        rotation = camera_axes
        if contract.space == "opencv":
            normals = normals * torch.tensor([1.0, -1.0, -1.0]).to(normals)
    return torch.nn.functional.normalize((rotation @ normals[..., None])[..., 0], dim=-1, eps=1e-3)
