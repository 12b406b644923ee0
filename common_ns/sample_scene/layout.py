"""What stands in the sample scene: solids with their materials, placed by the seed."""

from __future__ import annotations

from dataclasses import dataclass
from math import dist

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from common_ns.sample_scene import textures
from common_ns.sample_scene.primitives import Solid, ball, box, cylinder, dome, rod, torus
from common_ns.sample_scene.vectors import rotation_to

FLOOR = -0.6
"""Height of the base's top, which the objects stand on, in scene units."""
UNDERSIDE = -0.68
"""Height of the base's underside, which is the ground of the unbounded scene."""
DOME_RADIUS = 20.0
"""Radius of the unbounded scene's dome in scene units."""
THINNEST = 0.004
"""Radius of the objects' thinnest rod in scene units."""
# Objects are sunk into the base by this much, so that their union is one solid.
_SINK = 0.005


@dataclass(frozen=True)
class Part:
    """One or more solids, and how they look."""

    name: str
    solids: tuple[Solid, ...]
    texture: textures.Texture
    """Works in the frame of the first solid."""
    gloss: float = 0.06
    """Strength of the key light's highlight."""
    shininess: float = 24.0
    """Exponent of the highlight."""
    mirror: float = 0.0
    """Share of the mirror reflection at normal incidence; it rises to 1 at grazing incidence. 0: none at all."""
    emissive: bool = False
    """The texture is the emitted color: no light, no shadow."""
    darkeners: tuple[tuple[float, float], ...] = ()
    """Balls that stand for the part where it keeps sky light from its neighbors: height above the middle of the part's
    bounding sphere in scene units, and radius as a share of that sphere's."""


def object_parts(rng: np.random.Generator) -> list[Part]:
    """The objects, within 1.25 of the origin. The seed turns the crate and the ring, and fills the textures."""
    noise = textures.ValueNoise(rng)
    radius = 1.0
    base = cylinder((0.0, 0.0, (FLOOR + UNDERSIDE) / 2), radius, half_height=(FLOOR - UNDERSIDE) / 2)

    half = (0.25, 0.21, 0.25)
    yaw = np.radians(28 + rng.uniform(-15, 15))
    crate = box((-0.47, -0.30, FLOOR + half[2] - _SINK), half, rotation_to((0, 0, 1), spin=yaw))

    # A leaning ring: its lowest point is the lowest point of the circle, less the tube.
    major, minor = 0.235, 0.088
    heading = np.radians(250 + rng.uniform(-12, 12))
    lean = np.radians(32)
    axis = (np.cos(heading) * np.cos(lean), np.sin(heading) * np.cos(lean), np.sin(lean))
    ring = torus((-0.33, 0.42, FLOOR + major * np.cos(lean) + minor - _SINK), axis, major, minor)

    column_height = 0.58
    column_at = (0.40, 0.40)
    column = cylinder((*column_at, FLOOR + column_height / 2 - _SINK), 0.14, half_height=column_height / 2)
    cage_at = (*column_at, 0.40)
    pole = rod((*column_at, FLOOR + column_height - 2 * _SINK), cage_at, 0.016)

    rod_start, rod_end = (-0.20, -0.74, FLOOR + 0.065), (0.06, -0.79, FLOOR + 0.065)
    brass, iron = textures.plain(226, 178, 84), textures.plain(72, 84, 104)
    mirror_ball, core = ball((0.40, -0.37, FLOOR + 0.33 - _SINK), 0.33), ball(cage_at, 0.11)
    floor, whole = textures.inlaid_floor(noise, (FLOOR - UNDERSIDE) / 2, radius), ((0.0, 1.0),)
    return [
        Part("base", (base,), floor, gloss=0.10, shininess=40),
        Part("crate", (crate,), textures.planks(noise, half), gloss=0.05, shininess=14, darkeners=((0.0, 0.68),)),
        Part("mirror ball", (mirror_ball,), textures.plain(150, 22, 34), 1.0, 260, mirror=0.13, darkeners=whole),
        Part("ring", (ring,), textures.ring_checker(major), gloss=0.22, shininess=50, darkeners=((0.0, 0.8),)),
        Part("column", (column,), textures.helix_stripes(), 0.18, 36, darkeners=((-0.15, 0.48), (0.1, 0.48))),
        Part("pole", (pole,), brass, gloss=0.5, shininess=30),
        Part("core", (core,), textures.veined_ball(noise), gloss=0.2, shininess=40, darkeners=whole),
        Part("rod", (rod(rod_start, rod_end, 0.07),), textures.dots(dist(rod_start, rod_end)), gloss=0.2, shininess=40),
        Part("cage", _icosahedron_cage(cage_at, 0.26), brass, gloss=0.5, shininess=30),
        Part("railing", _railing(radius - 0.06), iron, gloss=0.5, shininess=30),
    ]


def _rods(start: Float[ndarray, "k 3"], end: Float[ndarray, "k 3"], radius: Float[ndarray, "k"]) -> tuple[Solid, ...]:
    return tuple(rod(*ends) for ends in zip(start.tolist(), end.tolist(), radius.tolist()))


def _icosahedron_cage(center: tuple[float, float, float], radius: float, thickness: float = 0.011) -> tuple[Solid, ...]:
    """The 30 edges of an icosahedron of circumradius `radius` as thin rods, one corner down."""
    golden = (1 + 5**0.5) / 2
    corners = np.array([[0, s, t * golden] for s in (-1, 1) for t in (-1, 1)], dtype=np.float64)
    corners = np.concatenate([corners, corners[:, [1, 2, 0]], corners[:, [2, 0, 1]]])
    corners = corners / np.linalg.norm(corners[0]) * radius
    corners = corners @ rotation_to(tuple(corners[0])) + center
    gaps = np.linalg.norm(corners[:, None] - corners[None], axis=-1)
    first, second = np.nonzero(np.triu(np.isclose(gaps, gaps[gaps > 1e-9].min())))
    return _rods(corners[first], corners[second], np.full(first.size, thickness))


def _railing(radius: float, height: float = 0.26, posts: int = 15) -> tuple[Solid, ...]:
    """Part of a fence along the rim; its posts get thinner from one end to the other, a test of resolution."""
    angle = np.radians(np.linspace(105, 255, posts))
    foot = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(posts, FLOOR - _SINK)], axis=1)
    top, middle = foot + np.array([0.0, 0.0, height]), foot + np.array([0.0, 0.0, 0.55 * height])
    return (
        *_rods(foot, top, np.linspace(0.016, THINNEST, posts)),
        *_rods(top[:-1], top[1:], np.full(posts - 1, 0.012)),
        *_rods(middle[:-1], middle[1:], np.full(posts - 1, 0.005)),
    )


def background_parts(rng: np.random.Generator) -> list[Part]:
    """The unbounded surroundings: ground, a far dome, and stones in the middle distance (5.5 to 13 from the origin)."""
    noise = textures.ValueNoise(rng)
    palette = [(196, 92, 70), (88, 120, 168), (214, 170, 84), (120, 150, 110), (150, 108, 150)]
    # The ground goes on outside of the dome, and its sides are hidden there.
    ground = box((0.0, 0.0, UNDERSIDE - 1.0), (DOME_RADIUS, DOME_RADIUS, 1.0), np.eye(3))
    parts = [
        Part("ground", (ground,), textures.meadow(noise), gloss=0.0),
        Part("dome", (dome(DOME_RADIUS),), textures.horizon(noise), emissive=True),
    ]
    count = 11
    turn = rng.random()
    for k in range(count):
        angle = 2 * np.pi * (turn + k * 0.6180339887)
        away = 5.5 + 7.5 * k / (count - 1)
        size = (0.5 + 0.5 * rng.random()) * (0.6 + away / 12)
        x, y = away * np.cos(angle), away * np.sin(angle)
        if k % 4 == 0:
            solid = cylinder((x, y, UNDERSIDE + 1.2 * size), 0.35 * size, half_height=1.2 * size)
        elif k % 4 == 1:
            spin = rotation_to((0, 0, 1), spin=rng.uniform(0, np.pi))
            solid = box((x, y, UNDERSIDE + 0.9 * size), (0.5 * size, 0.3 * size, 0.9 * size), spin)
        elif k % 4 == 2:
            solid = ball((x, y, UNDERSIDE + 0.6 * size), 0.65 * size)
        else:
            facing = (np.cos(angle), np.sin(angle), 0.0)
            solid = torus((x, y, UNDERSIDE + 0.85 * size), facing, major=0.65 * size, minor=0.22 * size)
        texture = textures.standing_stone(noise, *palette[k % len(palette)])
        parts.append(Part(f"stone {k}", (solid,), texture, gloss=0.0))
    return parts
