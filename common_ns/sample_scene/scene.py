"""The sample scene: geometry queries, a mesh, and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from common_ns.sample_scene import rendering
from common_ns.sample_scene.cameras import Camera
from common_ns.sample_scene.layout import Part, background_parts, object_parts
from common_ns.sample_scene.lights import LightName
from common_ns.sample_scene.primitives import Solid
from common_ns.sample_scene.shading import Shader
from common_ns.sample_scene.tracing import Tracer
from common_ns.sample_scene.vectors import norm

if TYPE_CHECKING:
    import trimesh


@dataclass(frozen=True)
class Hits:
    """First surfaces along rays."""

    distance: Float[ndarray, "n"]
    """Distance along the ray in scene units; inf where nothing is hit."""
    part: Int[ndarray, "n"]
    """Index into `Scene.parts`; -1 where nothing is hit."""
    normal: Float[ndarray, "n 3"]
    """Outward unit normal in world space; 0 where nothing is hit."""


class Scene:
    """A small still life of textured solids on a round base, about the origin, z up.

    The objects lie within 1.25 of the origin (scene units): a glossy ball that mirrors its surroundings, a wooden
    crate, a checkered ring, a striped column that carries a cage of thin rods, a dotted rod, and a railing whose posts
    get thinner and thinner. Rays are cast at the solids' meshes, in single precision: what they hit is at most 2e-4 off
    the solid's surface (4e-4 for a stone and 2e-3 for the dome of the unbounded scene), and its normal is the solid's.

    Rendering is box-filtered: a pixel's color is the mean of sub-samples that are spread evenly over its area,
    averaged as display values times coverage. Pixels around the objects get 16 sub-samples. Those whose samples span
    more than 0.08 in some channel get `supersample`² in all, and so do, where pixels are much wider than the thinnest
    rod, those in which more sub-samples would meet another object. The sub-samples form a lattice that has no rows
    along the pixel's sides and is symmetric about the center, so gradients are averaged exactly and the error at an
    edge falls almost like the inverse of their number: root-mean-square 0.004 of the range with 8² at 100 × 100 pixels,
    0.0016 with 16². Depth and normals are not filtered: they belong to the ray through the pixel's center.

    Args:
        seed: fills the textures and turns some of the objects.
        unbounded: puts the objects on a wide ground with stones in the middle distance, under a dome 20 units away.
        lights: which lights there are; geometry and textures stay the same.
    """

    def __init__(self, seed: int = 0, unbounded: bool = False, lights: LightName = "day") -> None:
        self.seed, self.unbounded = seed, unbounded
        self.objects: list[Part] = object_parts(np.random.default_rng([seed, 1]))
        background = background_parts(np.random.default_rng([seed, 2])) if unbounded else []
        self.parts: list[Part] = self.objects + background
        self._tracer = Tracer(self.parts)
        self._shader = Shader(self._tracer, lights)

    def intersect(self, origins: Float[ndarray, "n 3"], directions: Float[ndarray, "n 3"]) -> Hits:
        """First surface that each ray enters.

        Args:
            origins: starting points in scene units, outside of the solids.
            directions: of any length but 0; distances are measured along their unit vectors.
        Returns: hit distances, parts and normals.
        """
        o, d = (np.ascontiguousarray(np.asarray(v, dtype=np.float64).T) for v in (origins, directions))
        found = self._tracer.first(o, d / norm(d))
        distance, part, normal = np.full(len(o.T), np.inf), np.full(len(o.T), -1), np.zeros(o.T.shape)
        distance[found.ray], part[found.ray], normal[found.ray] = found.distance, found.part, found.normal.T
        return Hits(distance, part, normal)

    def signed_distance(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, "n"]:
        """Signed distance of the objects' union in scene units, negative inside; without the surroundings.

        Exact outside and on the surface. Inside it is the depth in the part that holds the point deepest, so where
        parts overlap its magnitude is a lower bound.
        """
        p = np.ascontiguousarray(np.asarray(points, dtype=np.float64).T)
        nearest = np.full(len(points), np.inf)
        for solid in self._solids():
            nearest = np.minimum(nearest, solid.distance(p))
        return nearest

    def _solids(self) -> Iterator[Solid]:
        return (solid for part in self.objects for solid in part.solids)

    def mesh(self) -> trimesh.Trimesh:
        """The objects as triangles: one watertight body per part (and per rod), vertices exactly on its surface.

        Bodies overlap slightly where they touch, as the objects stand in the base by 0.005; `surface_points` gives
        points of the union alone.
        """
        import trimesh

        return trimesh.util.concatenate([solid.mesh() for solid in self._solids()])  # type: ignore[return-value]

    def surface_points(self, count: int, seed: int = 0) -> Float[ndarray, "count 3"]:
        """Points spread evenly by area over the surface of the objects' union, for Chamfer distances.

        They are points of the mesh's triangles, at most 3e-4 below the surface; those that lie in another part are
        dropped.
        """
        import trimesh

        mesh = self.mesh()
        found: list[Float[ndarray, "m 3"]] = []
        total = 0
        for draw in range(1000):
            points = trimesh.sample.sample_surface(mesh, 2 * count, seed=np.random.default_rng([seed, draw]))[0]
            found.append(np.asarray(points)[self.signed_distance(points) > -5e-4])
            total += len(found[-1])
            if total >= count:
                break
        return np.concatenate(found)[:count]

    def render(self, camera: Camera, supersample: int = 8) -> rendering.View:
        """Picture, coverage, depth, normals and mask of one camera.

        Args:
            camera: where from, and how many pixels.
            supersample: root of the number of sub-samples where the pixel is not constant: 1, 2, 4, 8 or 16.
        """
        return rendering.render(self._tracer, self._shader, len(self.objects), camera, supersample)
