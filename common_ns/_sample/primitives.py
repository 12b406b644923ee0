"""Solids with closed-form ray intersection, exact signed distance and a watertight mesh.

Vectors are [3, n], see `vectors`. Distances are in scene units, directions are unit vectors, and rays start outside of
every solid, so that the first crossing is an entry.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from common_ns._sample.vectors import dot, norm, planar, product

# Crossings nearer than this are the surface that a secondary ray starts from (scene units).
T_MIN = 1e-5


class Primitive(Protocol):
    """What the scene asks of a solid. `which` numbers the pieces of solids that have several."""

    convex: ClassVar[bool]
    """Whether the solid cannot cast a shadow on itself."""

    @property
    def bound(self) -> tuple[Float[ndarray, "3"], float]:
        """Center and radius of a sphere that holds the solid."""
        ...

    def intersect(
        self, o: Float[ndarray, "3 n"], d: Float[ndarray, "3 n"]
    ) -> tuple[Float[ndarray, "n"], Int[ndarray, "n"] | None]:
        """Ray distance of the first entry beyond `T_MIN` (inf where there is none), and the piece that was hit."""
        ...

    def normal(self, p: Float[ndarray, "3 n"], which: Int[ndarray, "n"] | None) -> Float[ndarray, "3 n"]:
        """Outward unit normal at surface points."""
        ...

    def distance(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "n"]:
        """Signed distance, negative inside."""
        ...

    def local(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        """Points in the frame that textures are laid out in."""
        ...

    def grown(self, margin: float) -> Primitive:
        """A solid that holds every point within `margin` of this one."""
        ...

    def mesh(self) -> tuple[Float[ndarray, "v 3"], Int[ndarray, "f 3"]]:
        """Vertices on the surface and outward-facing triangles, watertight."""
        ...


@dataclass(frozen=True)
class Sphere:
    """Ball."""

    center: tuple[float, float, float]
    radius: float
    convex: ClassVar[bool] = True

    def grown(self, margin: float) -> Sphere:
        return replace(self, radius=self.radius + margin)

    @property
    def bound(self) -> tuple[Float[ndarray, "3"], float]:
        return np.asarray(self.center), self.radius

    def local(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        return p - np.asarray(self.center)[:, None]

    def intersect(self, o: Float[ndarray, "3 n"], d: Float[ndarray, "3 n"]) -> tuple[Float[ndarray, "n"], None]:
        oc = self.local(o)
        b = dot(oc, d)
        # Distance of the line from the center, from the perpendicular vector: no cancellation for far origins.
        foot = oc - b * d
        h = self.radius**2 - dot(foot, foot)
        t = -b - np.sqrt(np.maximum(h, 0.0))
        return np.where((h > 0) & (t > T_MIN), t, np.inf), None

    def normal(self, p: Float[ndarray, "3 n"], which: Int[ndarray, "n"] | None) -> Float[ndarray, "3 n"]:
        v = self.local(p)
        return v / norm(v)

    def distance(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "n"]:
        return norm(self.local(p)) - self.radius

    def mesh(self) -> tuple[Float[ndarray, "v 3"], Int[ndarray, "f 3"]]:
        import trimesh

        ball = trimesh.creation.icosphere(subdivisions=5)
        return np.asarray(ball.vertices) * self.radius + np.asarray(self.center), np.asarray(ball.faces)


@dataclass(frozen=True)
class Posed:
    """A solid that is described in its own frame: `center` and `rotation` (local to world; None is no rotation)."""

    center: tuple[float, float, float]
    rotation: Float[ndarray, "3 3"] | None = field(default=None, kw_only=True)

    def local(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        return self._turned_in(p - np.asarray(self.center)[:, None])

    def _turned_in(self, v: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        """World directions in the solid's frame."""
        return v if self.rotation is None else product(self.rotation.T, v)

    def _turned_out(self, v: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        """The solid's directions in the world."""
        return v if self.rotation is None else product(self.rotation, v)

    def _to_world(self, vertices: Float[ndarray, "v 3"]) -> Float[ndarray, "v 3"]:
        return self._turned_out(vertices.T).T + np.asarray(self.center)


def nearest_face(q: Float[ndarray, "3 n"], half: tuple[float, float, float]) -> Bool[ndarray, "3 n"]:
    """For points in a box's frame, which axis the nearest face is across: True in one of the three rows."""
    x, y, z = np.abs(q) - np.asarray(half)[:, None]
    across_x = (x >= y) & (x >= z)
    across_y = ~across_x & (y >= z)
    return np.stack([across_x, across_y, ~(across_x | across_y)])


@dataclass(frozen=True)
class Box(Posed):
    """Rectangular block of half sizes `half`."""

    half: tuple[float, float, float]
    convex: ClassVar[bool] = True

    def grown(self, margin: float) -> Box:
        x, y, z = self.half
        return replace(self, half=(x + margin, y + margin, z + margin))

    @property
    def bound(self) -> tuple[Float[ndarray, "3"], float]:
        return np.asarray(self.center), float(np.linalg.norm(self.half))

    def intersect(self, o: Float[ndarray, "3 n"], d: Float[ndarray, "3 n"]) -> tuple[Float[ndarray, "n"], None]:
        o, d = self.local(o), self._turned_in(d)
        half = np.asarray(self.half)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            mid, width = -o / d, np.abs(half / d)
        # 0/0 only for a ray that lies in a face's plane and is parallel to it: such a ray touches, it does not enter.
        t_in = (mid - width).max(axis=0)
        t_out = (mid + width).min(axis=0)
        return np.where((t_in < t_out) & (t_in > T_MIN), t_in, np.inf), None

    def normal(self, p: Float[ndarray, "3 n"], which: Int[ndarray, "n"] | None) -> Float[ndarray, "3 n"]:
        q = self.local(p)
        return self._turned_out(np.sign(q) * nearest_face(q, self.half))

    def distance(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "n"]:
        q = np.abs(self.local(p)) - np.asarray(self.half)[:, None]
        return norm(np.maximum(q, 0.0)) + np.minimum(q.max(axis=0), 0.0)

    def mesh(self) -> tuple[Float[ndarray, "v 3"], Int[ndarray, "f 3"]]:
        import trimesh

        box = trimesh.creation.box(extents=2 * np.asarray(self.half))
        return self._to_world(np.asarray(box.vertices)), np.asarray(box.faces)


@dataclass(frozen=True)
class Cylinder(Posed):
    """Solid cylinder about its local z axis, with flat ends at ±`half_height`."""

    radius: float
    half_height: float
    convex: ClassVar[bool] = True

    def grown(self, margin: float) -> Cylinder:
        return replace(self, radius=self.radius + margin, half_height=self.half_height + margin)

    @property
    def bound(self) -> tuple[Float[ndarray, "3"], float]:
        return np.asarray(self.center), float(np.hypot(self.radius, self.half_height))

    def intersect(self, o: Float[ndarray, "3 n"], d: Float[ndarray, "3 n"]) -> tuple[Float[ndarray, "n"], None]:
        o, d = self.local(o), self._turned_in(d)
        # Both the slab between the ends and the infinite tube are convex: intersect their ray intervals.
        with np.errstate(divide="ignore", invalid="ignore"):
            mid, width = -o[2] / d[2], np.abs(self.half_height / d[2])
            a = d[0] ** 2 + d[1] ** 2
            b = o[0] * d[0] + o[1] * d[1]
            # Squared distance of line and axis through the cross product, free of cancellation.
            h = self.radius**2 * a - (o[0] * d[1] - o[1] * d[0]) ** 2
            root = np.sqrt(np.maximum(h, 0.0))
            t_in = np.maximum(mid - width, (-b - root) / a)
            t_out = np.minimum(mid + width, (-b + root) / a)
        # A ray along the axis has a = 0 and no tube interval: it is inside or outside for good.
        along = a < 1e-18
        if along.any():
            within = o[0] ** 2 + o[1] ** 2 < self.radius**2
            t_in = np.where(along, mid - width, t_in)
            t_out = np.where(along, np.where(within, mid + width, -np.inf), t_out)
            h = np.where(along, 1.0, h)
        return np.where((h > 0) & (t_in < t_out) & (t_in > T_MIN), t_in, np.inf), None

    def normal(self, p: Float[ndarray, "3 n"], which: Int[ndarray, "n"] | None) -> Float[ndarray, "3 n"]:
        q = self.local(p)
        rho = planar(q[0], q[1])
        end = np.abs(q[2]) - self.half_height > rho - self.radius
        safe = np.maximum(rho, 1e-12)
        n = np.stack(
            [np.where(end, 0.0, q[0] / safe), np.where(end, 0.0, q[1] / safe), np.where(end, np.sign(q[2]), 0)]
        )
        return self._turned_out(n)

    def distance(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "n"]:
        q = self.local(p)
        side, end = planar(q[0], q[1]) - self.radius, np.abs(q[2]) - self.half_height
        return np.minimum(np.maximum(side, end), 0.0) + planar(np.maximum(side, 0.0), np.maximum(end, 0.0))

    def mesh(self) -> tuple[Float[ndarray, "v 3"], Int[ndarray, "f 3"]]:
        import trimesh

        tube = trimesh.creation.cylinder(radius=self.radius, height=2 * self.half_height, sections=256)
        return self._to_world(np.asarray(tube.vertices)), np.asarray(tube.faces)


@dataclass(frozen=True)
class Ground:
    """The plane z = `height`, solid below. It has no bounds, hence no mesh."""

    height: float
    convex: ClassVar[bool] = True

    def grown(self, margin: float) -> Ground:
        return replace(self, height=self.height + margin)

    @property
    def bound(self) -> tuple[Float[ndarray, "3"], float]:
        return np.zeros(3), np.inf

    def local(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        return p

    def intersect(self, o: Float[ndarray, "3 n"], d: Float[ndarray, "3 n"]) -> tuple[Float[ndarray, "n"], None]:
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (self.height - o[2]) / d[2]
        return np.where((d[2] < 0) & (t > T_MIN), t, np.inf), None

    def normal(self, p: Float[ndarray, "3 n"], which: Int[ndarray, "n"] | None) -> Float[ndarray, "3 n"]:
        return np.broadcast_to(np.array([0.0, 0.0, 1.0])[:, None], p.shape).copy()

    def distance(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "n"]:
        return p[2] - self.height

    def mesh(self) -> tuple[Float[ndarray, "v 3"], Int[ndarray, "f 3"]]:
        raise NotImplementedError("the ground has no end")


@dataclass(frozen=True)
class Dome:
    """The inside of a sphere about the origin, which encloses everything else."""

    radius: float
    convex: ClassVar[bool] = True

    def grown(self, margin: float) -> Dome:
        return replace(self, radius=self.radius - margin)

    @property
    def bound(self) -> tuple[Float[ndarray, "3"], float]:
        return np.zeros(3), np.inf

    def local(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        return p

    def intersect(self, o: Float[ndarray, "3 n"], d: Float[ndarray, "3 n"]) -> tuple[Float[ndarray, "n"], None]:
        b = dot(o, d)
        return -b + np.sqrt(np.maximum(b * b - dot(o, o) + self.radius**2, 0.0)), None

    def normal(self, p: Float[ndarray, "3 n"], which: Int[ndarray, "n"] | None) -> Float[ndarray, "3 n"]:
        return -p / norm(p)

    def distance(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "n"]:
        return self.radius - norm(p)

    def mesh(self) -> tuple[Float[ndarray, "v 3"], Int[ndarray, "f 3"]]:
        raise NotImplementedError("the dome is background, not an object")
