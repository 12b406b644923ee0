"""The torus, whose rays need the roots of a quartic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from common_ns._sample.primitives import T_MIN, Posed
from common_ns._sample.vectors import dot, norm, planar, take


@dataclass(frozen=True)
class Torus(Posed):
    """Ring about its local z axis: a tube of radius `minor` around a circle of radius `major`."""

    major: float
    minor: float
    convex: ClassVar[bool] = False

    def grown(self, margin: float) -> Torus:
        return replace(self, minor=self.minor + margin)

    @property
    def bound(self) -> tuple[Float[ndarray, "3"], float]:
        return np.asarray(self.center), self.major + self.minor

    def intersect(self, o: Float[ndarray, "3 n"], d: Float[ndarray, "3 n"]) -> tuple[Float[ndarray, "n"], None]:
        """Smallest entering root of the ray's quartic.

        Measured from the point nearest to the center the quartic has no cubic term: f(s) = s⁴ + p s² + q s + c, which
        is positive outside. Its critical points c₁ ≤ c₂ ≤ c₃ have a closed form, and f falls through 0 only in
        [−S, c₁] and [c₂, c₃], where ±S bounds the ring: two bracketed monotone searches find every entry.
        """
        o, d = self.local(o), self._turned_in(d)
        shift = -dot(o, d)
        o = o + shift * d
        oo = dot(o, o)
        span2 = self.bound[1] ** 2 - oo
        near = np.nonzero(span2 > 0)[0]
        t = np.full(shift.shape, np.inf)
        if near.size == 0:
            return t, None
        o, d, oo, start = take(o, near), take(d, near), oo[near], shift[near]
        span = np.sqrt(span2[near])
        four_r2 = 4 * self.major**2
        alpha = oo + self.major**2 - self.minor**2
        p = 2 * alpha - four_r2 * (d[0] ** 2 + d[1] ** 2)
        q = -2 * four_r2 * (o[0] * d[0] + o[1] * d[1])
        c = alpha**2 - four_r2 * (o[0] ** 2 + o[1] ** 2)
        first, middle, last = _depressed_cubic_roots(p / 2, q / 4)

        def search(lo: Float[ndarray, "m"], hi: Float[ndarray, "m"], keep: Bool[ndarray, "m"]) -> Float[ndarray, "m"]:
            """Entry in [lo, hi] for the rays of `keep`, inf elsewhere. f(hi) < 0 there."""
            s = np.full(lo.shape, np.inf)
            rays = np.nonzero(keep)[0]
            if rays.size:
                s[rays] = _falling_root(p[rays], q[rays], c[rays], lo[rays], hi[rays])
            return s

        def quartic(s: Float[ndarray, "m"]) -> Float[ndarray, "m"]:
            return ((s * s + p) * s + q) * s + c

        early = search(-span, first, (first > -span) & (quartic(first) < 0))
        early = np.where(early + start > T_MIN, early, np.inf)
        late = search(middle, last, np.isinf(early) & (last > middle) & (last + start > T_MIN) & (quartic(last) < 0))
        late = np.where(late + start > T_MIN, late, np.inf)
        t[near] = np.minimum(early, late) + start
        return t, None

    def normal(self, p: Float[ndarray, "3 n"], which: Int[ndarray, "n"] | None) -> Float[ndarray, "3 n"]:
        q = self.local(p)
        scale = 1.0 - self.major / np.maximum(planar(q[0], q[1]), 1e-12)
        n = np.stack([q[0] * scale, q[1] * scale, q[2]])
        return self._turned_out(n / np.maximum(norm(n), 1e-12))

    def distance(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "n"]:
        q = self.local(p)
        return planar(planar(q[0], q[1]) - self.major, q[2]) - self.minor

    def mesh(self) -> tuple[Float[ndarray, "v 3"], Int[ndarray, "f 3"]]:
        import trimesh

        ring = trimesh.creation.torus(self.major, self.minor, major_sections=192, minor_sections=80)
        return self._to_world(np.asarray(ring.vertices)), np.asarray(ring.faces)


def _depressed_cubic_roots(
    a: Float[ndarray, "m"], b: Float[ndarray, "m"]
) -> tuple[Float[ndarray, "m"], Float[ndarray, "m"], Float[ndarray, "m"]]:
    """Real roots of x³ + a x + b in increasing order; a single real root is returned three times."""
    delta = (b / 2) ** 2 + (a / 3) ** 3
    single = delta > 0
    # One root: Cardano, with the cube root that does not cancel; three roots: Viète's cosines.
    u = np.cbrt(-b / 2 - np.copysign(np.sqrt(np.where(single, delta, 0.0)), b))
    one = u - a / np.where(u == 0, 1.0, 3 * u)
    m = 2 * np.sqrt(np.maximum(-a / 3, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        angle = np.arccos(np.clip(np.nan_to_num(3 * b / (a * m)), -1.0, 1.0)) / 3
    low, middle, high = (m * np.cos(angle - k * 2 * np.pi / 3) for k in (2, 1, 0))
    low, middle = np.minimum(low, middle), np.maximum(low, middle)
    return np.where(single, one, low), np.where(single, one, middle), np.where(single, one, high)


def _falling_root(
    p: Float[ndarray, "m"],
    q: Float[ndarray, "m"],
    c: Float[ndarray, "m"],
    lo: Float[ndarray, "m"],
    hi: Float[ndarray, "m"],
) -> Float[ndarray, "m"]:
    """Root of s⁴ + p s² + q s + c in [lo, hi], where it falls from f(lo) ≥ 0 to f(hi) < 0: bracketed Newton steps."""
    root = np.empty_like(lo)
    at, s = np.arange(lo.size), 0.5 * (lo + hi)
    for step in range(64):
        f = ((s * s + p) * s + q) * s + c
        outside = f > 0
        lo, hi = np.where(outside, s, lo), np.where(outside, hi, s)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = s - f / ((4 * s * s + 2 * p) * s + q)
        last, s = s, np.where((newton > lo) & (newton < hi), newton, 0.5 * (lo + hi))
        if step >= 3:
            # Most rays are done after a few steps; go on with the others.
            root[at] = s
            on = np.nonzero(np.abs(s - last) > 1e-9)[0]
            if on.size == 0:
                break
            at, s, lo, hi, p, q, c = (values[on] for values in (at, s, lo, hi, p, q, c))
    return root
