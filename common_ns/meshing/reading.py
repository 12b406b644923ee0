"""Reads meshes and point clouds of the formats that trimesh knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from common_ns.data.checks import require_path
from common_ns.data.files import require_file
from common_ns.errors import InputError


def load_geometry(
    path: Path | str, what: str = "mesh", remedy: str = "Write it again; it may be cut off"
) -> tuple[Any, Float[NDArray, "v 3"], Int[NDArray, "f 3"]]:
    """What trimesh makes of a file, its vertices and its triangles (none of a point cloud). The parts of a scene are
    put together as they are placed; polygons are cut into triangles.

    Args:
        path: the file.
        what: it holds, for the error.
        remedy: what to do if it cannot be read.
    Raises: InputError if it cannot be read, or a triangle has a vertex that is not there.
    """
    path = require_file(require_path(path, what), what)
    import trimesh

    try:
        loaded = trimesh.load(path, process=False)
        if isinstance(loaded, trimesh.Scene):
            loaded = loaded.to_mesh() if hasattr(loaded, "to_mesh") else loaded.dump(concatenate=True)
        vertices = _of_three(getattr(loaded, "vertices", ()), "vertices").astype(np.float64, copy=False)
        faces = _of_three(getattr(loaded, "faces", ()), "faces").astype(np.int64, copy=False)
    except Exception as error:  # its readers of many formats raise whatever comes up
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"the {what} cannot be read ({reason})", remedy, path) from error
    if len(faces) and not (faces.min() >= 0 and faces.max() < len(vertices)):
        problem = f"a triangle has vertex {faces.max()} of {len(vertices)}"
        raise InputError(problem, remedy, path)
    return loaded, vertices, faces


def _of_three(values: Any, what: str) -> Float[NDArray, "n 3"]:
    """Rows of three numbers, or none at all.

    Raises: ValueError if they are others, as in a drawing in the plane.
    """
    rows = np.asarray(values)
    if rows.size == 0:
        return np.empty((0, 3))
    if rows.ndim != 2 or rows.shape[1] != 3:
        raise ValueError(f"{what} of shape {rows.shape}")
    return rows


def require_finite(vertices: Float[NDArray, "v 3"], path: Path | str) -> None:
    """Raises: InputError that names the first vertex that is NaN or infinite."""
    finite = np.isfinite(vertices).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise InputError(f"vertex {first} is at {vertices[first].tolist()}", "Correct or remove it", path)
