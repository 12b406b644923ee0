"""Triangle meshes with normals and colors, and the files they are written to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from common_ns.data.files import written_whole
from common_ns.errors import InputError

if TYPE_CHECKING:
    import trimesh

MESH_SUFFIXES = (".ply", ".obj", ".glb")
"""File formats that `Mesh.save` writes."""


@dataclass(frozen=True)
class Mesh:
    """Triangles with outward orientation, and what is known at their corners."""

    vertices: Float[NDArray, "v 3"]
    """Positions, float64."""
    faces: Int[NDArray, "f 3"]
    """Vertex numbers, counter-clockwise as seen from outside."""
    normals: Float[NDArray, "v 3"] | None = None
    """Outward unit normals."""
    colors: Float[NDArray, "v 3"] | None = None
    """Colors in [0, 1], in the space of the training images (sRGB)."""

    def __post_init__(self) -> None:
        for array in (self.normals, self.colors):
            assert array is None or array.shape == self.vertices.shape

    def to_trimesh(self) -> trimesh.Trimesh:
        """The same mesh for trimesh: vertices and faces in the same order, colors rounded to 8 bits."""
        import trimesh

        colors = None
        if self.colors is not None:
            rgb = np.rint(255.0 * np.clip(self.colors, 0.0, 1.0)).astype(np.uint8)
            colors = np.concatenate([rgb, np.full_like(rgb[:, :1], 255)], axis=1)
        return trimesh.Trimesh(
            self.vertices, self.faces, vertex_normals=self.normals, vertex_colors=colors, process=False
        )

    def transformed(self, matrix: Float[NDArray, "3 4"]) -> Mesh:
        """The mesh under the affine map x ↦ A x + b, given as [A | b]; a map that mirrors keeps outward outward."""
        linear = matrix[:3, :3]
        faces = self.faces[:, ::-1] if np.linalg.det(linear) < 0 else self.faces
        # Normals are covectors: they go with the inverse transpose.
        normals = None if self.normals is None else unit(self.normals @ np.linalg.inv(linear)).astype(np.float32)
        return replace(self, vertices=self.vertices @ linear.T + matrix[:3, 3], faces=faces, normals=normals)

    def save(self, path: Path | str) -> Path:
        """Write the mesh with its colors and normals, whole or not at all.

        Args:
            path: file to write; its suffix (.ply, .obj or .glb) decides the format, its folder is made if need be.
        Raises: InputError if the suffix is another or the file cannot be written.
        """
        path = check_mesh_path(path)
        kind, with_normals = path.suffix.lower()[1:], self.normals is not None
        options: dict[str, Any] = {"include_normals": with_normals}
        if kind == "ply":
            options = {"vertex_normal": with_normals}
        elif kind == "obj":
            # Text: as many decimals as 32-bit floats hold for a mesh of this size.
            extent = float(np.ptp(self.vertices, axis=0).max()) if len(self.vertices) else 1.0
            options["digits"] = max(6, 7 - math.floor(math.log10(max(extent, 1e-12))))
        content = self.to_trimesh().export(file_type=kind, **options)
        data = content.encode() if isinstance(content, str) else content
        assert isinstance(data, bytes)
        with written_whole(path) as partial:
            partial.write_bytes(data)
        return path


def check_mesh_path(path: Path | str) -> Path:
    """Return `path` as a Path if its suffix names a format that can be written.

    Raises: InputError if not.
    """
    path = Path(path)
    if path.suffix.lower() not in MESH_SUFFIXES:
        problem = f"the suffix {path.suffix!r} is not a mesh format" if path.suffix else "the file name has no suffix"
        raise InputError(problem, f"Use one of {', '.join(MESH_SUFFIXES)}", path)
    return path


def unit(vectors: Float[NDArray, "n 3"]) -> Float[NDArray, "n 3"]:
    """Vectors scaled to length 1; zero vectors stay zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)
