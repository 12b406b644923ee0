"""Points on triangle meshes, and distances to them: what mesh metrics are made of. Numpy and scipy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from common_ns.errors import InputError
from common_ns.meshing.reading import load_geometry, require_finite

QUERY_CHUNK = 100_000
"""Points that are looked up at once."""
CANDIDATES = 6
"""Samples whose triangles may be the nearest."""

Progress = Callable[[str, float], None]
"""Told a stage and the share of it that was done since the last call."""


@dataclass(frozen=True)
class Geometry:
    """A mesh or a point cloud."""

    vertices: Float[NDArray, "v 3"]
    faces: Int[NDArray, "f 3"]
    """No rows for a point cloud."""
    normals: Float[NDArray, "v 3"] | None = None
    """Unit normals of a point cloud, where they are known."""


def read_geometry(path: Path | str) -> Geometry:
    """A mesh or point cloud from a file (.ply, .obj, .off, .stl, .glb, .xyz).

    Raises: InputError if it cannot be read, is empty, or a vertex is not finite.
    """
    loaded, vertices, faces = load_geometry(path, "mesh or point cloud")
    if len(vertices) == 0:
        raise InputError("the file holds no points", "Give a mesh or a point cloud", path)
    require_finite(vertices, path)
    normals = None
    if len(faces) == 0:
        normals = _stored_normals(loaded, len(vertices))
    return Geometry(vertices, faces, normals)


def _stored_normals(cloud: object, count: int) -> Float[NDArray, "v 3"] | None:
    """Normals that a .ply file of points holds; trimesh keeps them with what it read."""
    raw = getattr(cloud, "metadata", {}).get("_ply_raw", {}).get("vertex", {}).get("data")
    # A dictionary if the file is text, a structured array if it is binary.
    names = raw.keys() if isinstance(raw, dict) else getattr(getattr(raw, "dtype", None), "names", None) or ()
    if raw is None or not {"nx", "ny", "nz"} <= set(names):
        return None
    normals = np.stack([np.asarray(raw[name], dtype=np.float64).reshape(-1) for name in ("nx", "ny", "nz")], axis=-1)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return normals / np.maximum(length, 1e-12) if normals.shape == (count, 3) and length.min() > 0 else None


def corners_of(geometry: Geometry) -> Float[NDArray, "f 3 3"]:
    """The corners of each triangle."""
    return geometry.vertices[geometry.faces]


def face_normals(corners: Float[NDArray, "f 3 3"]) -> tuple[Float[NDArray, "f 3"], Float[NDArray, " f"]]:
    """Unit normals (0 for triangles without area) and areas."""
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(cross, axis=1)
    return cross / np.where(length > 0, length, 1.0)[:, None], 0.5 * length


def sample_surface(
    corners: Float[NDArray, "f 3 3"], count: int, seed: int = 0
) -> tuple[Float[NDArray, "n 3"], Int[NDArray, " n"]]:
    """Points spread evenly by area over triangles, the same for the same seed.

    Triangles are drawn at even steps of the summed area with one random offset each, so that each gets the number of
    points that its area is worth, to one.

    Returns: points, and the triangle that each lies on.
    Raises: InputError if the triangles have no area.
    """
    _, areas = face_normals(corners)
    total = np.cumsum(areas)
    if total[-1] <= 0:
        raise InputError("the mesh has no area", "Give a surface")
    rng = np.random.default_rng(seed)
    place = (np.arange(count) + rng.random(count)) / count * total[-1]
    triangle = np.minimum(np.searchsorted(total, place, side="right"), len(areas) - 1)
    u, v = rng.random((2, count))
    over = u + v > 1.0
    u[over], v[over] = 1.0 - u[over], 1.0 - v[over]
    a, b, c = np.moveaxis(corners[triangle], 1, 0)
    return a + u[:, None] * (b - a) + v[:, None] * (c - a), triangle


def point_triangle_distance(points: Float[NDArray, "n 3"], corners: Float[NDArray, "n 3 3"]) -> Float[NDArray, " n"]:
    """Distance of each point to its triangle: to the plane where the foot is inside, else to the nearest edge."""
    nearest = np.full(len(points), np.inf)
    inside = np.ones(len(points), dtype=bool)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(cross, axis=1)
    normal = cross / np.where(length > 0, length, 1.0)[:, None]
    for k in range(3):
        start, edge = corners[:, k], corners[:, (k + 1) % 3] - corners[:, k]
        offset = points - start
        squared = np.einsum("ni,ni->n", edge, edge)
        t = np.clip(np.einsum("ni,ni->n", offset, edge) / np.where(squared > 0, squared, 1.0), 0.0, 1.0)
        nearest = np.minimum(nearest, np.linalg.norm(offset - t[:, None] * edge, axis=1))
        inside &= np.einsum("ni,ni->n", np.cross(normal, edge), offset) >= 0.0
    plane = np.abs(np.einsum("ni,ni->n", points - corners[:, 0], normal))
    return np.where(inside & (length > 0), plane, nearest)


class SampledSurface:
    """Samples of a mesh, or a point cloud, that distances are measured to.

    The nearest sample of a mesh is up to half of their spacing too far away. So the distance is taken to the triangles
    of the nearest few samples, with those in the middle of triangles that drew none: what is left is an error where the
    nearest triangle is none of these, of a part of the spacing at a few points.

    Args:
        geometry: the mesh or point cloud.
        count: samples of a mesh; clouds are taken as they are.
        seed: of the samples.
    """

    def __init__(self, geometry: Geometry, count: int, seed: int = 0) -> None:
        from scipy.spatial import KDTree

        self.corners: Float[NDArray, "f 3 3"] | None = None
        self.normals = geometry.normals
        self.points = targets = geometry.vertices
        """Samples by which the surface is represented evenly."""
        if len(geometry.faces):
            self.corners = corners_of(geometry)
            self.points, self.triangle = sample_surface(self.corners, count, seed)
            without = np.setdiff1d(np.arange(len(self.corners)), self.triangle)
            targets = np.concatenate([self.points, self.corners[without].mean(axis=1)])
            self.triangle = np.concatenate([self.triangle, without])
            self.normals = face_normals(self.corners)[0][self.triangle]
        self.tree = KDTree(targets)

    def query(
        self, points: Float[NDArray, "n 3"], progress: Progress | None = None, stage: str = ""
    ) -> tuple[Float[NDArray, " n"], Int[NDArray, " n"]]:
        """Distance from points to the surface, and the row of `normals` that is the nearest; in memory for
        `QUERY_CHUNK` points."""
        distances, nearest = np.empty(len(points)), np.empty(len(points), dtype=np.int64)
        for start in range(0, len(points), QUERY_CHUNK):
            some = points[start : start + QUERY_CHUNK]
            part = slice(start, start + len(some))
            k = min(CANDIDATES, self.tree.n) if self.corners is not None else 1
            distance, index = self.tree.query(some, k=k, workers=-1)
            distance, index = distance.reshape(len(some), -1), index.reshape(len(some), -1)
            distances[part], nearest[part] = distance[:, 0], index[:, 0]
            if self.corners is not None:
                for column in index.T:
                    exact = point_triangle_distance(some, self.corners[self.triangle[column]])
                    distances[part] = np.minimum(distances[part], exact)
            if progress is not None:
                progress(stage, len(some) / len(points))
        return distances, nearest
