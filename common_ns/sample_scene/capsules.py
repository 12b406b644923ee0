"""Thin rods, many at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from common_ns.sample_scene.primitives import T_MIN
from common_ns.sample_scene.vectors import dot, norm, product, rotation_to, take


@dataclass(frozen=True)
class Capsules:
    """Rods with round ends: the segments from `start[k]` to `end[k]`, swept by balls of `radius[k]`. One solid."""

    start: Float[ndarray, "k 3"]
    end: Float[ndarray, "k 3"]
    radius: Float[ndarray, "k"]
    convex: ClassVar[bool] = False

    def grown(self, margin: float) -> Capsules:
        return replace(self, radius=self.radius + margin)

    @property
    def bound(self) -> tuple[Float[ndarray, "3"], float]:
        ends = np.concatenate([self.start, self.end])
        center = (ends.min(axis=0) + ends.max(axis=0)) / 2
        reach = np.linalg.norm(ends - center, axis=1) + np.concatenate([self.radius, self.radius])
        return center, float(reach.max())

    @cached_property
    def _axis(self) -> Float[ndarray, "k 3"]:
        axis = self.end - self.start
        return axis / np.linalg.norm(axis, axis=1, keepdims=True)

    @cached_property
    def _length(self) -> Float[ndarray, "k"]:
        return np.linalg.norm(self.end - self.start, axis=1)

    def local(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        return p

    def _near_lines(
        self, o: Float[ndarray, "3 n"], d: Float[ndarray, "3 n"]
    ) -> tuple[Int[ndarray, "m"], Int[ndarray, "m"]]:
        """Pairs (ray, piece) for which the ray's line comes within the radius of the piece's line.

        In Plücker coordinates the distance of all pairs of lines is one matrix product: with moments o × d and
        start × axis, |d · (start × axis) + axis · (o × d)| is the distance times the sine of the angle between them.
        """
        moment = np.stack([o[1] * d[2] - o[2] * d[1], o[2] * d[0] - o[0] * d[2], o[0] * d[1] - o[1] * d[0]])
        side = product(np.cross(self.start, self._axis), d) + product(self._axis, moment)  # [k, n]
        cosine = product(self._axis, d)
        # side² ≤ r² sin² = r² (1 − cos²); the small constant keeps parallel lines, for which the test says nothing.
        r2 = self.radius[:, None] ** 2
        piece, ray = np.nonzero(side * side + r2 * (cosine * cosine) <= r2 + 1e-9)
        return ray, piece

    def intersect(
        self, o: Float[ndarray, "3 n"], d: Float[ndarray, "3 n"]
    ) -> tuple[Float[ndarray, "n"], Int[ndarray, "n"]]:
        t, which = np.full(o.shape[1], np.inf), np.zeros(o.shape[1], dtype=np.int64)
        ray, piece = self._near_lines(o, d)
        if ray.size == 0:
            return t, which
        hit = self._intersect_pairs(take(o, ray), take(d, ray), piece)
        # Farther hits are written first, so that the nearest one stays.
        order = np.argsort(-hit, kind="stable")
        order = order[np.isfinite(hit[order])]
        t[ray[order]] = hit[order]
        which[ray[order]] = piece[order]
        return t, which

    def _intersect_pairs(
        self, o: Float[ndarray, "3 m"], d: Float[ndarray, "3 m"], piece: Int[ndarray, "m"]
    ) -> Float[ndarray, "m"]:
        axis, radius, length = take(self._axis.T, piece), self.radius[piece], self._length[piece]
        oa = o - take(self.start.T, piece)
        along, rise = dot(axis, oa), dot(axis, d)
        # The tube: the components across the axis.
        oc, dc = oa - along * axis, d - rise * axis
        a = np.maximum(dot(dc, dc), 1e-18)
        b = dot(oc, dc)
        foot = oc - (b / a) * dc
        h = (radius**2 - dot(foot, foot)) / a
        tube = -b / a - np.sqrt(np.maximum(h, 0.0))
        reach = along + tube * rise
        # Beyond an end of the tube the round end is what the ray enters.
        ball = oa - np.where(reach > 0, length, 0.0) * axis
        bb = dot(ball, d)
        foot = ball - bb * d
        hb = radius**2 - dot(foot, foot)
        t = np.where((reach >= 0) & (reach <= length), tube, -bb - np.sqrt(np.maximum(hb, 0.0)))
        hit = np.where((reach >= 0) & (reach <= length), h > 0, hb > 0)
        return np.where(hit & (h > 0) & (t > T_MIN), t, np.inf)

    def normal(self, p: Float[ndarray, "3 n"], which: Int[ndarray, "n"] | None) -> Float[ndarray, "3 n"]:
        assert which is not None
        v = p - take(self.start.T, which)
        axis = take(self._axis.T, which)
        v = v - np.clip(dot(v, axis), 0.0, self._length[which]) * axis
        return v / np.maximum(norm(v), 1e-12)

    def distance(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "n"]:
        nearest = np.full(p.shape[1], np.inf)
        for start, axis, length, radius in zip(self.start, self._axis, self._length, self.radius):
            v = p - start[:, None]
            v = v - np.clip(dot(axis, v), 0.0, length) * axis[:, None]
            nearest = np.minimum(nearest, norm(v) - radius)
        return nearest

    def mesh(self) -> tuple[Float[ndarray, "v 3"], Int[ndarray, "f 3"]]:
        import trimesh

        vertices, faces, offset = [], [], 0
        for start, axis, length, radius in zip(self.start, self._axis, self._length, self.radius):
            count = (16, 32) if radius < 0.03 else (48, 96)
            rod = trimesh.creation.capsule(height=length, radius=radius, count=count)
            # Versions of trimesh differ in where along its axis they put a capsule's origin.
            centered = np.asarray(rod.vertices) - rod.bounds.mean(axis=0)
            vertices.append(centered @ rotation_to(tuple(axis)).T + start + 0.5 * length * axis)
            faces.append(np.asarray(rod.faces) + offset)
            offset += len(vertices[-1])
        return np.concatenate(vertices), np.concatenate(faces)
