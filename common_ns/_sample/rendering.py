"""Box-filtered pictures of the scene: which pixels need how many sub-samples, and where these lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from common_ns._sample.cameras import Camera
from common_ns._sample.capsules import Capsules
from common_ns._sample.shading import Shader
from common_ns._sample.tracing import Tracer, sorted_hits
from common_ns._sample.vectors import dot, put, take

AA_FIRST = 16
"""Sub-samples per pixel of the first pass."""
AA_RANGE = 0.08
"""A pixel whose first sub-samples span less than this in every channel (0..1) gets no more of them."""

# Rays per array: the working set stays in the cache.
_CHUNK = 32768
# Pixels per side of the tiles that rays are grouped by, so that a chunk meets few solids.
_TILE = 24


@dataclass(frozen=True)
class View:
    """What a camera sees. Arrays are [height, width, ...]."""

    rgb: Float[ndarray, "h w 3"]
    """Color in 0..1, display (sRGB) values, straight (not multiplied by alpha); 0 where alpha is 0."""
    alpha: Float[ndarray, "h w"]
    """Part of the pixel that anything covers. 1 everywhere in the unbounded scene."""
    depth: Float[ndarray, "h w"]
    """z-depth of the ray through the pixel's center in scene units; 0 where it hits nothing."""
    normals: Float[ndarray, "h w 3"]
    """Outward world-space unit normal where the ray through the pixel's center hits; 0 where it hits nothing."""
    mask: Bool[ndarray, "h w"]
    """Pixels of which the objects (not the unbounded scene's surroundings) cover at least half."""


def render(tracer: Tracer, shader: Shader, objects: int, camera: Camera, supersample: int) -> View:
    """Picture of one camera; `Scene` says what is exact about it.

    Args:
        tracer: all parts, the objects first.
        shader: their looks.
        objects: number of objects among the parts.
        camera: where from, and how many pixels.
        supersample: root of the number of sub-samples where the pixel is not constant: 1, 2, 4, 8 or 16.
    """
    y, x = np.divmod(np.arange(camera.width * camera.height), camera.width)
    order = np.lexsort((x, y, x // _TILE, y // _TILE))
    x, y = x[order], y[order]
    touched, slender = _touched(tracer, camera, camera.directions(x + 0.5, y + 0.5))
    busy = np.nonzero(touched.any(axis=0))[0]

    def sampled(
        pixels: Int[ndarray, "m"], u: Float[ndarray, "s"], v: Float[ndarray, "s"]
    ) -> Iterator[tuple[Int[ndarray, "k"], _Samples]]:
        step = max(_CHUNK // u.size, 1)
        for at in range(0, pixels.size, step):
            some = pixels[at : at + step]
            yield some, _Samples(tracer, camera, x[some], y[some], u, v, touched[:, some])

    depth, normal = np.zeros(x.size), np.zeros((3, x.size))
    for pixels, centers in sampled(busy, np.array([0.5]), np.array([0.5])):
        depth[pixels], normal[:, pixels] = centers.depth(), centers.normals()

    u, v = lattice(supersample**2)
    stride = max(supersample**2 // AA_FIRST, 1)
    first = slice(stride // 2, None, stride)
    rest = np.delete(np.arange(u.size), first)
    total, span = np.zeros((5, x.size)), np.zeros(x.size)
    for pixels, samples in sampled(busy, u[first], v[first]):
        values = samples.colors(shader, objects)
        total[:, pixels] = values.mean(axis=1)
        span[pixels] = (values.max(axis=1) - values.min(axis=1)).max(axis=0)
    if rest.size:
        for pixels, samples in sampled(busy[(span[busy] > AA_RANGE) | slender[busy]], u[rest], v[rest]):
            values = samples.colors(shader, objects).sum(axis=1)
            total[:, pixels] = (total[:, pixels] * (u.size - rest.size) + values) / u.size

    def image(values: Float[ndarray, "*c n"]) -> Float[ndarray, "h w *c"]:
        """Pixels in tile order to rows and columns."""
        raster = np.empty_like(values)
        raster[..., order] = values
        return np.moveaxis(raster.reshape(*values.shape[:-1], camera.height, camera.width), (-2, -1), (0, 1))

    alpha = total[3]
    rgb = np.where(alpha > 0, total[:3] / np.where(alpha > 0, alpha, 1.0), 0.0)
    return View(image(rgb), image(alpha), image(depth), image(normal), image(total[4]) >= 0.5)


def _touched(
    tracer: Tracer, camera: Camera, d: Float[ndarray, "3 n"]
) -> tuple[Bool[ndarray, "parts n"], Bool[ndarray, "n"]]:
    """Which parts each pixel's area may see (never too few), and the pixels where that is much thinner than a pixel.

    What a ray anywhere in the pixel hits is at most half a pixel's diagonal from the ray through the center, so that
    this ray hits the part when the part is grown by as much.
    """
    touched, slender = np.ones((len(tracer.parts), d.shape[1]), dtype=bool), np.zeros(d.shape[1], dtype=bool)
    for k, (center, radius) in enumerate(tracer.bounds):
        if not np.isfinite(radius):
            continue
        oc = center - camera.origin
        b = dot(oc, d)
        # The tangent of half the diagonal's angle is largest on the optical axis.
        pixel = (float(np.linalg.norm(oc)) + radius) / camera.focal
        margin = 0.72 * pixel
        pixels = np.nonzero((oc @ oc - b * b < (radius + margin) ** 2) & (b > -radius))[0]
        solid = tracer.parts[k].solid
        o = np.broadcast_to(camera.origin[:, None], (3, pixels.size))
        t, piece = solid.grown(margin).intersect(o, d[:, pixels])
        touched[k] = False
        touched[k, pixels] = np.isfinite(t)
        if isinstance(solid, Capsules) and piece is not None:
            # The first pass leaves gaps of about a quarter of a pixel, which such rods could slip through.
            slender[pixels] |= np.isfinite(t) & (2 * solid.radius.min() < 0.35 * pixel)
    return touched, slender


class _Samples:
    """Rays through the positions u, v of some pixels, [3, positions · pixels], and what they hit."""

    def __init__(
        self,
        tracer: Tracer,
        camera: Camera,
        x: Int[ndarray, "n"],
        y: Int[ndarray, "n"],
        u: Float[ndarray, "s"],
        v: Float[ndarray, "s"],
        touched: Bool[ndarray, "parts n"],
    ) -> None:
        self._tracer, self._camera, self._pixels, self._each = tracer, camera, x.size, u.size
        self._d = camera.directions((x + u[:, None]).ravel(), (y + v[:, None]).ravel())
        self._o = np.broadcast_to(camera.origin[:, None], self._d.shape)
        self._t, self._index, self._piece = tracer.nearest(self._o, self._d, self._candidates(touched))

    def _candidates(self, touched: Bool[ndarray, "parts n"]) -> Iterator[tuple[int, Int[ndarray, "m"] | None]]:
        for k, row in enumerate(touched):
            pixels = np.nonzero(row)[0]
            if pixels.size == row.size:
                yield k, None
            elif pixels.size:
                yield k, (pixels + row.size * np.arange(self._each)[:, None]).ravel()

    def depth(self) -> Float[ndarray, "n"]:
        """z-depth, 0 where nothing is hit."""
        return np.where(self._index >= 0, self._t, 0.0) * dot(self._camera.forward, self._d)

    def normals(self) -> Float[ndarray, "3 n"]:
        """World-space normals, 0 where nothing is hit."""
        out, hit = np.zeros(self._d.shape), sorted_hits(self._index)
        p = take(self._o, hit) + self._t[hit] * take(self._d, hit)
        put(out, hit, self._tracer.normals(p, self._index[hit], self._piece[hit]))
        return out

    def colors(self, shader: Shader, objects: int) -> Float[ndarray, "5 positions pixels"]:
        """Display color times coverage, coverage, and coverage by objects."""
        out, hit = np.zeros((5, self._t.size), dtype=np.float32), sorted_hits(self._index)
        index = self._index[hit]
        linear = shader.radiance(take(self._o, hit), take(self._d, hit), self._t[hit], index, self._piece[hit])
        put(out[:3], hit, np.sqrt(np.clip(linear, 0.0, 1.0)))
        out[3, hit] = 1.0
        out[4, hit] = index < objects
        return out.reshape(5, self._each, self._pixels)


@cache
def lattice(count: int) -> tuple[Float[ndarray, "n"], Float[ndarray, "n"]]:
    """`count` positions in the unit square: a rank-1 lattice, symmetric about the middle.

    Positions are (i + ½, (g i + c) mod n + ½) / n: each of n thin rows and columns holds exactly one. Every
    (count / 16)-th position is a lattice, too. Of the generators g, the one is taken for which the closest neighbors
    in the worse of the two lattices (on the torus, in units of their spacing) are farthest apart.
    """

    def spread(n: int, g: int) -> float:
        k = np.arange(1, n)
        gap = np.minimum(k, n - k) ** 2 + np.minimum(g * k % n, -g * k % n) ** 2
        return float(gap.min()) / n if n > 1 else 1.0

    generators = [g for g in range(1, count + 1) if np.gcd(g, count) == 1 and (g % 2 or count % 2)]
    g = max(generators, key=lambda g: min(spread(count, g), spread(min(count, AA_FIRST), g)))
    # 2 c = g − 1 (mod n) makes the lattice symmetric.
    c = next(c for c in range(count) if (2 * c - g + 1) % count == 0)
    i = np.arange(count)
    return (i + 0.5) / count, ((g * i + c) % count + 0.5) / count
