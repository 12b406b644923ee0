"""Box-filtered pictures of the scene: which pixels need how many sub-samples, and where these lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from common_ns.sample_scene.cameras import Camera
from common_ns.sample_scene.layout import THINNEST
from common_ns.sample_scene.shading import Shader
from common_ns.sample_scene.tracing import Crossings, Tracer
from common_ns.sample_scene.vectors import dot, product, put

AA_FIRST = 16
"""Sub-samples per pixel of the first pass."""
AA_RANGE = 0.08
"""A pixel whose first sub-samples span less than this in every channel (0..1) gets no more of them."""

# Rays per array: the working set stays in the cache.
_CHUNK = 65536


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
    count = camera.width * camera.height

    def cast(
        pixels: Int[ndarray, "m"], u: Float[ndarray, "s"], v: Float[ndarray, "s"]
    ) -> Iterator[tuple[Int[ndarray, "k"], Crossings]]:
        """Rays through the positions u, v of pixels, some pixels at a time, all rays of a pixel in a row."""
        step = max(_CHUNK // u.size, 1)
        for at in range(0, pixels.size, step):
            some = pixels[at : at + step]
            y, x = np.divmod(some, camera.width)
            d = camera.directions((x[:, None] + u).ravel(), (y[:, None] + v).ravel())
            yield some, tracer.first(camera.origin[:, None], d)

    def colors(hits: Crossings, pixels: int, positions: int) -> Float[ndarray, "5 pixels positions"]:
        """Display color times coverage, coverage, and coverage by objects."""
        out = np.zeros((5, positions * pixels), dtype=np.float32)
        put(out[:3], hits.ray, np.sqrt(np.clip(shader.radiance(hits), 0.0, 1.0)))
        out[3, hits.ray] = 1.0
        out[4, hits.ray] = hits.part < objects
        return out.reshape(5, pixels, positions)

    busy = _window(tracer, camera)
    depth, normal = np.zeros(count), np.zeros((3, count))
    for some, hits in cast(busy, np.array([0.5]), np.array([0.5])):
        pixels = some[hits.ray]
        depth[pixels] = hits.distance * dot(camera.forward, hits.direction)
        put(normal, pixels, hits.normal)

    u, v = lattice(supersample**2)
    stride = max(supersample**2 // AA_FIRST, 1)
    first = slice(stride // 2, None, stride)
    rest = np.delete(np.arange(u.size), first)
    total, varies = np.zeros((5, count)), np.zeros(count, dtype=bool)
    for some, hits in cast(busy, u[first], v[first]):
        values = colors(hits, some.size, u[first].size)
        total[:, some] = values.mean(axis=2)
        varies[some] = np.ptp(values, axis=2).max(axis=0) > AA_RANGE
    if rest.size:
        # The first pass leaves gaps of 0.32 of a pixel, which such a rod could slip through.
        if 2 * THINNEST * camera.focal < 0.32 * (np.linalg.norm(camera.origin) + 1.25):
            for some, hits in cast(busy, u[rest], v[rest]):
                part = np.full(rest.size * some.size, -1)
                part[hits.ray] = hits.part
                varies[some] |= np.ptp(part.reshape(-1, rest.size), axis=1) > 0
        for some, hits in cast(np.flatnonzero(varies), u[rest], v[rest]):
            values = colors(hits, some.size, rest.size).sum(axis=2)
            total[:, some] = (total[:, some] * (u.size - rest.size) + values) / u.size

    def image(values: Float[ndarray, "*c n"]) -> Float[ndarray, "h w *c"]:
        return np.moveaxis(values.reshape(*values.shape[:-1], camera.height, camera.width), (-2, -1), (0, 1))

    alpha = total[3]
    rgb = np.where(alpha > 0, total[:3] / np.where(alpha > 0, alpha, 1.0), 0.0)
    return View(image(rgb), image(alpha), image(depth), image(normal), image(total[4]) >= 0.5)


def _window(tracer: Tracer, camera: Camera) -> Int[ndarray, "m"]:
    """Numbers of the pixels in the smallest rectangle that shows everything."""
    matrix = camera.intrinsics() @ camera.opencv_pose[:3]
    x, y, depth = product(matrix[:, :3], tracer.vertices) + matrix[:, 3:]
    raster = np.arange(camera.width * camera.height).reshape(camera.height, camera.width)
    if depth.min() > 0:
        left, right, top, bottom = (values(at / depth) for at in (x, y) for values in (np.min, np.max))
        raster = raster[max(int(top), 0) : max(int(bottom) + 1, 0), max(int(left), 0) : max(int(right) + 1, 0)]
    return raster.ravel()


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
