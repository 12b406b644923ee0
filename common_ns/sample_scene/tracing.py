"""First surfaces along rays among many solids. Vectors are [3, n], see `vectors`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from common_ns.sample_scene.layout import Part
from common_ns.sample_scene.vectors import dot, product, take

Candidates = Iterable[tuple[int, "Int[ndarray, 'm'] | None"]]
"""Parts, each with the rays that may meet it; None for all rays."""


class Tracer:
    """Finds the first of some parts along rays. The caller says which rays may meet which part, for speed."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self.bounds = [part.solid.bound for part in parts]

    def nearest(
        self, o: Float[ndarray, "3 n"], d: Float[ndarray, "3 n"], candidates: Candidates
    ) -> tuple[Float[ndarray, "n"], Int[ndarray, "n"], Int[ndarray, "n"]]:
        """Distance (inf: none), part (-1: none) and piece of the first entry along each ray."""
        count = d.shape[1]
        best, index, piece = np.full(count, np.inf), np.full(count, -1), np.zeros(count, dtype=np.int64)
        for k, rays in candidates:
            t, which = self.parts[k].solid.intersect(*((o, d) if rays is None else (take(o, rays), take(d, rays))))
            nearer = t < (best if rays is None else best[rays])
            chosen = np.nonzero(nearer)[0] if rays is None else rays[nearer]
            best[chosen], index[chosen] = t[nearer], k
            if which is not None:
                piece[chosen] = which[nearer]
        return best, index, piece

    def within_bounds(self, o: Float[ndarray, "3 n"], d: Float[ndarray, "3 n"]) -> Iterator[tuple[int, ndarray | None]]:
        """Candidates by the parts' bounding spheres, for rays of which nothing is known."""
        for k, (center, radius) in enumerate(self.bounds):
            if not np.isfinite(radius):
                yield k, None
                continue
            oc = center[:, None] - o
            b = dot(oc, d)
            rays = np.nonzero((dot(oc, oc) - b * b < radius**2) & (b > -radius))[0]
            if rays.size:
                yield k, rays

    def normals(
        self, p: Float[ndarray, "3 n"], index: Int[ndarray, "n"], piece: Int[ndarray, "n"]
    ) -> Float[ndarray, "3 n"]:
        """Outward normals at the surface points of the given parts, sorted by part."""
        normal = np.empty_like(p)
        for k, run in runs(index):
            normal[:, run] = self.parts[k].solid.normal(p[:, run], piece[run])
        return normal


def sorted_hits(index: Int[ndarray, "n"]) -> Int[ndarray, "m"]:
    """Rays that hit something (part ≥ 0), sorted by part: what follows can work on slices instead of on gathers."""
    # 16-bit keys are sorted by radix, in linear time.
    return np.argsort(index.astype(np.int16), kind="stable")[np.count_nonzero(index < 0) :]


def runs(index: Int[ndarray, "n"]) -> list[tuple[int, slice]]:
    """Parts in sorted `index`, each with the slice that it takes."""
    if index.size == 0:
        return []
    starts = np.concatenate([[0], np.nonzero(np.diff(index))[0] + 1, [index.size]]).tolist()
    return [(int(index[start]), slice(start, end)) for start, end in pairwise(starts)]


class SunShadows:
    """Which points a distant light reaches.

    Seen from the light, every part covers some region of the plane across its direction. A table over cells of that
    plane holds, as bits, the parts that cover any of the cell; only these are intersected, so shadows stay exact.

    Args:
        tracer: the parts, the first `count` of which are in the table; the others are tried by their bounds.
        count: at most 31.
        towards: unit vector to the light, [3, 1].
    """

    _EXTENT = 1.4
    _CELLS = 128

    def __init__(self, tracer: Tracer, count: int, towards: Float[ndarray, "3 1"]) -> None:
        towards = towards / np.linalg.norm(towards)
        self._tracer, self._count, self._towards = tracer, count, towards
        u = np.cross(towards[:, 0], [0.0, 0.0, 1.0])
        u /= np.linalg.norm(u)
        self._plane = np.stack([u, np.cross(towards[:, 0], u)])
        middle = (np.arange(self._CELLS) + 0.5) / self._CELLS * 2 * self._EXTENT - self._EXTENT
        a, b = (grid.ravel() for grid in np.meshgrid(middle, middle, indexing="ij"))
        o = self._plane.T @ np.stack([a, b]) + 10.0 * towards
        d = np.broadcast_to(-towards, o.shape)
        margin = np.sqrt(2.0) * self._EXTENT / self._CELLS
        self._table = np.zeros(o.shape[1], dtype=np.int32)
        for k in range(count):
            center, radius = tracer.bounds[k]
            near = (product(self._plane, o - center[:, None]) ** 2).sum(axis=0) < (radius + margin) ** 2
            cells = np.nonzero(near)[0]
            t, _ = tracer.parts[k].solid.grown(margin).intersect(o[:, cells], d[:, cells])
            self._table[cells[np.isfinite(t)]] |= np.int32(1 << k)

    def _candidates(
        self, p: Float[ndarray, "3 n"], index: Int[ndarray, "n"]
    ) -> Iterator[tuple[int, Int[ndarray, "m"] | None]]:
        cell = np.floor((product(self._plane, p) / self._EXTENT + 1.0) * (self._CELLS / 2)).astype(np.int64)
        on_table = ((cell >= 0) & (cell < self._CELLS)).all(axis=0)
        bits = np.where(on_table, self._table[np.where(on_table, cell[0] * self._CELLS + cell[1], 0)], 0)
        parts = self._tracer.parts
        for k in range(self._count):
            over = (bits & (1 << k)) != 0
            if parts[k].solid.convex:
                over &= index != k
            rays = np.nonzero(over)[0]
            if rays.size:
                yield k, rays
        for k in range(self._count, len(parts)):
            center, radius = self._tracer.bounds[k]
            if not np.isfinite(radius):
                continue
            away = product(self._plane, p - center[:, None])
            rays = np.nonzero((away**2).sum(axis=0) < radius**2)[0]
            if rays.size:
                yield k, rays

    def lit(self, p: Float[ndarray, "3 n"], n: Float[ndarray, "3 n"], index: Int[ndarray, "n"]) -> Bool[ndarray, "n"]:
        """Whether the light reaches surface points p (normals n, parts `index`) that face it."""
        start = p + 1e-4 * n
        towards = np.broadcast_to(self._towards, p.shape)
        _, blocker, _ = self._tracer.nearest(start, towards, self._candidates(start, index))
        return blocker < 0
