"""Solids of the sample scene: a watertight mesh, at which rays are cast, and the signed distance that it stands for.

Vectors are [3, n], see `vectors`. Lengths are in scene units. Every solid is described in a frame of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from common_ns.sample_scene.vectors import norm, planar, product, rotation_to

if TYPE_CHECKING:
    import trimesh

Point = tuple[float, float, float]
Sdf = Callable[[Float[ndarray, "3 n"]], Float[ndarray, "n"]]


@dataclass(frozen=True)
class Solid:
    """A solid, and where it stands."""

    shape: str
    """Function of `trimesh.creation` that makes the mesh: vertices on the surface, triangles outward."""
    size: dict[str, Any]
    """What that function is given."""
    sdf: Sdf
    """Signed distance in the solid's frame, negative inside."""
    center: Point
    """Origin of the solid's frame in the world."""
    rotation: Float[ndarray, "3 3"]
    """From the solid's frame to the world."""

    def local(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        """World points in the solid's frame, of the same precision."""
        return product(self.rotation.T.astype(p.dtype), p - np.asarray(self.center, dtype=p.dtype)[:, None])

    def distance(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "n"]:
        """Signed distance of world points, negative inside."""
        return self.sdf(self.local(p))

    def mesh(self) -> trimesh.Trimesh:
        """The mesh in the world."""
        import trimesh

        mesh = getattr(trimesh.creation, self.shape)(**self.size)
        return trimesh.Trimesh(mesh.vertices @ self.rotation.T + np.asarray(self.center), mesh.faces, process=False)

    def corner_normals(self, mesh: trimesh.Trimesh) -> Float[ndarray, "f 3 3"]:
        """Unit normals at the corners of the mesh's triangles: those of the solid, whose edges stay sharp."""
        triangles = np.asarray(mesh.triangles)
        # The gradient of distance is taken a little off the corner, where it belongs to the triangle's side of an edge.
        near = (triangles + 1e-3 * (triangles.mean(axis=1, keepdims=True) - triangles)).reshape(-1, 3).T
        steps = 1e-7 * np.eye(3)[:, :, None]
        slope = np.stack([self.distance(near + step) - self.distance(near - step) for step in steps])
        return (slope / norm(slope)).T.reshape(-1, 3, 3)


def ball(center: Point, radius: float) -> Solid:
    """A ball."""
    return Solid("icosphere", {"subdivisions": 5, "radius": radius}, lambda q: norm(q) - radius, center, np.eye(3))


def dome(radius: float) -> Solid:
    """All that is outside of a sphere about the origin."""
    size = {"subdivisions": 6, "radius": radius}
    return Solid("icosphere", size, lambda q: radius - norm(q), (0.0, 0.0, 0.0), np.eye(3))


def box(center: Point, half: Point, rotation: Float[ndarray, "3 3"]) -> Solid:
    """Rectangular block of half sizes `half`."""

    def sdf(q: Float[ndarray, "3 n"]) -> Float[ndarray, "n"]:
        out = np.abs(q) - np.asarray(half)[:, None]
        return norm(np.maximum(out, 0.0)) + np.minimum(out.max(axis=0), 0.0)

    return Solid("box", {"extents": 2 * np.asarray(half)}, sdf, center, rotation)


def cylinder(center: Point, radius: float, half_height: float) -> Solid:
    """Upright cylinder."""
    # Rays find their way sooner among small triangles than among slivers that meet in the middle.
    rings = np.stack([np.linspace(0.0, radius, 9), np.full(9, half_height)], axis=1)

    def sdf(q: Float[ndarray, "3 n"]) -> Float[ndarray, "n"]:
        side, end = planar(q[0], q[1]) - radius, np.abs(q[2]) - half_height
        return np.minimum(np.maximum(side, end), 0.0) + planar(np.maximum(side, 0.0), np.maximum(end, 0.0))

    size = {"linestring": np.concatenate([rings * (1, -1), rings[::-1]]), "sections": 256}
    return Solid("revolve", size, sdf, center, np.eye(3))


def torus(center: Point, axis: Point, major: float, minor: float) -> Solid:
    """Ring: a tube of radius `minor` around a circle of radius `major` across `axis`."""
    size = {"major_radius": major, "minor_radius": minor, "major_sections": 192, "minor_sections": 80}
    return Solid("torus", size, lambda q: planar(planar(q[0], q[1]) - major, q[2]) - minor, center, rotation_to(axis))


def rod(start: Point, end: Point, radius: float) -> Solid:
    """Rod with round ends: the segment from start to end, swept by a ball. Its frame has z along it."""
    center, axis = (np.asarray(start) + np.asarray(end)) / 2, np.asarray(end) - np.asarray(start)
    half, sections = float(np.linalg.norm(axis)) / 2, 32 if radius < 0.03 else 96
    turn = np.linspace(0.0, np.pi / 2, sections // 4 + 1)
    cap = np.stack([radius * np.cos(turn), radius * np.sin(turn) + half], axis=1)
    tube = np.stack([np.full(3, radius), np.linspace(-half, half, 5)[1:-1]], axis=1)

    def sdf(q: Float[ndarray, "3 n"]) -> Float[ndarray, "n"]:
        return planar(planar(q[0], q[1]), np.maximum(np.abs(q[2]) - half, 0.0)) - radius

    size = {"linestring": np.concatenate([cap[::-1] * (1, -1), tube, cap]), "sections": sections}
    return Solid("revolve", size, sdf, tuple(center.tolist()), rotation_to(tuple(axis.tolist())))
