"""Procedural textures of the sample scene: linear albedo as a function of a point in the frame of its object.

Points are [3, n] in scene units, colors [3, n] linear, both in single precision. Detail goes down to about a pixel at
200² and below.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from common_ns.sample_scene.vectors import planar

Texture = Callable[[Float[ndarray, "3 n"]], Float[ndarray, "3 n"]]

_TAU = 2 * np.pi


class ValueNoise:
    """Smooth random function with values in [0, 1], period 32 and features of size 1; random table from the seed."""

    _SIZE = 32

    def __init__(self, rng: np.random.Generator) -> None:
        self._table = rng.random(self._SIZE**3).astype(np.float32)

    def __call__(self, p: Float[ndarray, "3 n"]) -> Float[ndarray, "n"]:
        """Value at points p: smoothed trilinear interpolation between the table's entries."""
        cell = np.floor(p)
        f = p - cell
        f = f * f * (3 - 2 * f)
        i = cell.astype(np.int64) & (self._SIZE - 1)
        j = (i + 1) & (self._SIZE - 1)
        size = self._SIZE
        x0, x1, y0, y1 = i[0] * size * size, j[0] * size * size, i[1] * size, j[1] * size
        value = self._table

        def row(base: ndarray) -> ndarray:
            low = value[base + i[2]]
            return low + f[2] * (value[base + j[2]] - low)

        near, far = row(x0 + y0), row(x1 + y0)
        near = near + f[1] * (row(x0 + y1) - near)
        far = far + f[1] * (row(x1 + y1) - far)
        return near + f[0] * (far - near)


def color(*rgb: float) -> Float[ndarray, "3 1"]:
    """Linear albedo from display values in 0..255; the scene takes display value = √linear, close to sRGB."""
    return (np.asarray(rgb, dtype=np.float32)[:, None] / np.float32(255)) ** 2


def mix(a: ndarray, b: ndarray, weight: ndarray) -> Float[ndarray, "3 n"]:
    """a where weight is 0, b where it is 1."""
    return a + (b - a) * weight


def fraction(x: Float[ndarray, "*n"]) -> Float[ndarray, "*n"]:
    """x modulo 1; several times as fast as the operator."""
    return x - np.floor(x)


def checker(u: Float[ndarray, "n"], v: Float[ndarray, "n"]) -> Bool[ndarray, "n"]:
    """Alternating unit squares."""
    return ((np.floor(u) + np.floor(v)).astype(np.int64) & 1).astype(bool)


def inlaid_floor(noise: ValueNoise, top: float, radius: float) -> Texture:
    """Terrazzo tiles, every other one with an inlaid diamond; a border ring with short ticks; triangles on the side."""
    cream, slate, vein = color(238, 228, 206), color(92, 110, 130), color(150, 122, 96)
    inlay, rim, tick = color(224, 146, 62), color(52, 58, 72), color(232, 194, 112)
    side_light = color(204, 196, 180)

    def texture(p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        rho, angle = planar(p[0], p[1]), np.arctan2(p[1], p[0]) / _TAU
        u, v = p[0] / 0.125, p[1] / 0.125
        across, along = np.abs(fraction(u) - 0.5), np.abs(fraction(v) - 0.5)
        dark = checker(u, v)
        floor = np.where(dark, slate, cream)
        diamond = across + along
        floor = np.where(dark & (np.abs(diamond - 0.3) < 0.06), inlay, floor)
        floor = np.where(np.maximum(across, along) > 0.475, rim, floor)
        chips = noise(np.stack([p[0] * 60.0, p[1] * 60.0, np.full_like(u, 7.5)]))
        cloud = noise(np.stack([p[0] * 4.0, p[1] * 4.0, np.full_like(u, 0.5)]))
        veins = np.clip(1.0 - np.abs(cloud - 0.5) * 26.0, 0.0, 1.0)
        floor = mix(floor, vein, 0.5 * veins) * (0.72 + 0.42 * chips)
        border = np.where((rho < radius - 0.03) & (rho > radius - 0.09) & (fraction(angle * 120) < 0.3), tick, rim)
        on_top = p[2] > top - 1e-4
        low = (top - p[2]) / 0.08
        zigzag = np.abs(fraction(angle * 72) - 0.5) * 1.2 + 0.2
        side = np.where((low > zigzag) & (low < 0.86), side_light, rim)
        return np.where(on_top & (rho < radius - 0.12), floor, np.where(on_top, border, side))

    return texture


def planks(noise: ValueNoise, half: tuple[float, float, float]) -> Texture:
    """A wooden crate: boards with grain and nails' dark seams between them, and a frame along the edges."""
    light, dark, seam, frame = color(222, 164, 96), color(150, 88, 44), color(58, 32, 18), color(128, 70, 36)

    def texture(p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        # Distances from the faces across x, y and z: the nearest one is the face that the point is on.
        a, b, c = np.asarray(half, dtype=p.dtype)[:, None] - np.abs(p)
        top = (c < a) & (c < b)
        front = ~top & (b < a)
        face = front + 2 * top
        # Boards stand upright on the four sides and run along x on top.
        across = np.where(front, p[0], p[1])
        along = np.where(top, p[0], p[2])
        board = across / 0.085
        index = np.floor(board)
        seed = index * 13.7 + face * 31.1
        grain = noise(np.stack([board * 9.0 + seed, along * 5.0, seed]))
        grain = 0.6 * grain + 0.4 * noise(np.stack([board * 24.0 + seed, along * 9.0, seed + 3.0]))
        wood = mix(light, dark, grain) * (0.78 + 0.5 * noise(np.stack([seed, seed * 0.3, seed * 0.7])))
        wood = np.where(np.abs(board - index - 0.5) > 0.44, seam, wood)
        # Distance from the nearest edge of the face, for the frame: the middle one of the three (0 is the face's own).
        margin = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
        edge = mix(frame, dark, noise(p * 28.0)) * 1.15
        return np.where(margin < 0.035, edge, np.where(margin < 0.041, seam, wood))

    return texture


def ring_checker(major: float) -> Texture:
    """Checks in the two angles of a torus, every other row banded."""
    teal, cream, coral = color(20, 128, 132), color(244, 236, 214), color(238, 106, 76)

    def texture(p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        around = np.arctan2(p[1], p[0]) / _TAU
        tube = np.arctan2(p[2], planar(p[0], p[1]) - major) / _TAU
        checks = np.where(checker(around * 36, tube * 14), teal, cream)
        stripe = np.abs(fraction(tube * 2 + 0.5) - 0.5) < 0.045
        return np.where(stripe, coral, checks)

    return texture


def helix_stripes() -> Texture:
    """Stripes that wind around a column, with thin lines between them and flutes of fine ticks."""
    red, white, blue, cap = color(206, 46, 52), color(246, 242, 232), color(36, 62, 132), color(214, 206, 190)

    def texture(p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        angle = np.arctan2(p[1], p[0]) / _TAU
        phase = fraction(2 * angle + p[2] / 0.16)
        stripes = np.where(phase < 0.42, red, white)
        line = (np.abs(phase - 0.71) < 0.06) & (fraction(angle * 48 + p[2] * 20) < 0.62)
        stripes = np.where(line, blue, stripes)
        rho = planar(p[0], p[1])
        rings = np.where(fraction(rho / 0.025) < 0.5, cap, color(120, 96, 84))
        return np.where(rho < 0.1395, rings, stripes)

    return texture


def dots(length: float) -> Texture:
    """Staggered polka dots on a rod of that length."""
    ground, dot_color = color(92, 62, 150), color(250, 214, 74)

    def texture(p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        row = (p[2] + 0.5 * length) / 0.042
        turn = np.arctan2(-p[0], -p[1]) / _TAU * 10 + 0.5 * (np.floor(row).astype(np.int64) & 1)
        return np.where((fraction(row) - 0.5) ** 2 + (fraction(turn) - 0.5) ** 2 < 0.11, dot_color, ground)

    return texture


def veined_ball(noise: ValueNoise) -> Texture:
    """Swirling bands that noise has bent."""
    amber, brown, pale = color(246, 158, 42), color(120, 44, 24), color(252, 226, 160)

    def texture(p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        bend = noise(p * 22.0 + 11.0)
        band = 0.5 + 0.5 * np.sin(p[2] * 90.0 + bend * 8.0)
        return mix(mix(amber, brown, band), pale, np.clip(noise(p * 60.0) * 2.4 - 1.4, 0.0, 1.0))

    return texture


def plain(*rgb: float) -> Texture:
    """One color."""
    albedo = color(*rgb)

    def texture(p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        return np.broadcast_to(albedo, p.shape).copy()

    return texture


def meadow(noise: ValueNoise) -> Texture:
    """Ground of the unbounded scene: paving near the middle that gives way to grass, contrast fading with distance.

    The detail grows with the distance from the origin, so that a pixel near the horizon does not hold many periods.
    """
    grass, dry, paving, joint = color(96, 128, 58), color(176, 160, 92), color(186, 178, 166), color(118, 110, 102)

    def texture(p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        rho, angle = planar(p[0], p[1]), np.arctan2(p[1], p[0]) / _TAU
        fade = np.exp(-rho / 14.0)
        log_rho = np.log(np.maximum(rho, 0.05)) / np.log(2.0)
        tuft = noise(np.stack([log_rho * 34.0, np.cos(angle * _TAU) * 30.0, np.sin(angle * _TAU) * 30.0]))
        patch = noise(p * np.array([[0.55], [0.55], [0.0]]) + 3.0)
        lawn = mix(grass, dry, np.clip(1.8 * patch - 0.4, 0.0, 1.0)) * (1.0 + (tuft - 0.5) * 1.2 * fade)
        ring = np.floor(rho / 0.22)
        slot = angle * np.maximum(np.round(ring * 5.0), 5.0) + 0.5 * ring
        stone = paving * (0.8 + 0.4 * noise(np.stack([ring * 3.3, np.floor(slot) * 5.7, 0 * ring])))
        gap = (fraction(rho / 0.22) < 0.08) | (fraction(slot) < 0.06)
        return np.where(rho < 2.64, np.where(gap, joint, stone * (0.85 + 0.3 * tuft)), lawn)

    return texture


def horizon(noise: ValueNoise) -> Texture:
    """Far dome: sky with clouds above two ranges of hills. Emitted color, not albedo: it is not lit."""
    zenith, haze, cloud = color(82, 142, 214), color(214, 228, 240), color(255, 255, 255)
    far_hill, near_hill, snow = color(124, 144, 172), color(78, 104, 96), color(240, 244, 250)

    def texture(p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        d = p / np.sqrt(p[0] ** 2 + p[1] ** 2 + p[2] ** 2)
        height = np.clip(d[2], 0.0, 1.0)
        sky = mix(haze, zenith, np.clip(height * 1.6, 0.0, 1.0) ** 0.6)
        # Clouds lie on a plane above: detail shrinks towards the horizon, so they fade out there.
        lift = 1.0 / (height + 0.25)
        field = 0.62 * noise(np.stack([d[0] * lift * 4, d[1] * lift * 4, height]) + 5.0)
        field = field + 0.38 * noise(np.stack([d[0] * lift * 11, d[1] * lift * 11, height]) + 17.0)
        sky = mix(sky, cloud, np.clip((field - 0.52) * 6.0, 0.0, 1.0) * np.clip(height * 5.0, 0.0, 1.0) * 0.9)
        rough = noise(np.stack([d[0] * 26, d[1] * 26, 0 * height]))
        ridge = 0.05 + 0.17 * noise(np.stack([d[0] * 5, d[1] * 5, 0 * height]) + 9.0) + 0.02 * rough
        capped = d[2] > ridge * 0.82 + 0.012 * rough
        hill = np.where(capped & (ridge > 0.13), snow, far_hill) * (0.9 + 0.2 * noise(d * 60.0))
        front = -0.005 + 0.09 * noise(np.stack([d[0] * 7, d[1] * 7, 0 * height]) + 21.0) + 0.015 * rough
        trees = near_hill * (0.7 + 0.6 * noise(d * 90.0))
        return np.where(d[2] < front, trees, np.where(d[2] < ridge, hill, sky))

    return texture


def standing_stone(noise: ValueNoise, *rgb: float) -> Texture:
    """Weathered bands of one color, for the middle distance."""
    base, other = color(*rgb), color(238, 232, 220)

    def texture(p: Float[ndarray, "3 n"]) -> Float[ndarray, "3 n"]:
        band = fraction(p[2] / 0.45) < 0.5
        return np.where(band, base, other) * (0.75 + 0.5 * noise(p * 6.0))

    return texture
