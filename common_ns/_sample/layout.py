"""What stands in the sample scene: solids with their materials, placed by the seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from common_ns._sample import textures
from common_ns._sample.capsules import Capsules
from common_ns._sample.primitives import Box, Cylinder, Dome, Ground, Primitive, Sphere
from common_ns._sample.torus import Torus
from common_ns._sample.vectors import rotation_to

FLOOR = -0.6
"""Height of the base's top, which the objects stand on, in scene units."""
UNDERSIDE = -0.68
"""Height of the base's underside, which is the ground of the unbounded scene."""
DOME_RADIUS = 20.0
"""Radius of the unbounded scene's dome in scene units."""
# Objects are sunk into the base by this much, so that their union is one solid.
_SINK = 0.005


@dataclass(frozen=True)
class Part:
    """A solid and how it looks."""

    name: str
    solid: Primitive
    texture: textures.Texture
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
    base = Cylinder((0.0, 0.0, (FLOOR + UNDERSIDE) / 2), radius=radius, half_height=(FLOOR - UNDERSIDE) / 2)

    half = (0.25, 0.21, 0.25)
    yaw = np.radians(28 + rng.uniform(-15, 15))
    crate = Box((-0.47, -0.30, FLOOR + half[2] - _SINK), half=half, rotation=rotation_to((0, 0, 1), spin=yaw))

    # A leaning ring: its lowest point is the lowest point of the circle, less the tube.
    major, minor = 0.235, 0.088
    heading = np.radians(250 + rng.uniform(-12, 12))
    lean = np.radians(32)
    axis = (np.cos(heading) * np.cos(lean), np.sin(heading) * np.cos(lean), np.sin(lean))
    ring_height = FLOOR + major * np.cos(lean) + minor - _SINK
    ring = Torus((-0.33, 0.42, ring_height), major=major, minor=minor, rotation=rotation_to(axis))

    column_height = 0.58
    column_at = (0.40, 0.40)
    column = Cylinder((*column_at, FLOOR + column_height / 2 - _SINK), radius=0.14, half_height=column_height / 2)
    cage_at = np.array([*column_at, 0.40])
    pole_foot = (*column_at, FLOOR + column_height - 2 * _SINK)
    pole = Capsules(np.array([pole_foot]), cage_at[None], np.array([0.016]))

    rod_start, rod_end = (-0.20, -0.74, FLOOR + 0.065), (0.06, -0.79, FLOOR + 0.065)
    rod = Capsules(np.array([rod_start]), np.array([rod_end]), np.array([0.07]))

    return [
        Part("base", base, textures.inlaid_floor(noise, base.half_height, radius), gloss=0.10, shininess=40),
        Part("crate", crate, textures.planks(noise, half), gloss=0.05, shininess=14, darkeners=((0.0, 0.68),)),
        Part(
            "mirror ball",
            Sphere((0.40, -0.37, FLOOR + 0.33 - _SINK), 0.33),
            textures.plain(150, 22, 34),
            gloss=1.0,
            shininess=260,
            mirror=0.13,
            darkeners=((0.0, 1.0),),
        ),
        Part("ring", ring, textures.ring_checker(major), gloss=0.22, shininess=50, darkeners=((0.0, 0.8),)),
        Part(
            "column", column, textures.helix_stripes(), gloss=0.18, shininess=36, darkeners=((-0.15, 0.48), (0.1, 0.48))
        ),
        Part("pole", pole, textures.plain(226, 178, 84), gloss=0.5, shininess=30),
        Part(
            "core",
            Sphere((*column_at, 0.40), 0.11),
            textures.veined_ball(noise),
            gloss=0.2,
            shininess=40,
            darkeners=((0.0, 1.0),),
        ),
        Part("rod", rod, textures.dots(rod_start, rod_end), gloss=0.2, shininess=40),
        *(
            Part(f"cage {k}", rods, textures.plain(226, 178, 84), gloss=0.5, shininess=30)
            for k, rods in enumerate(_icosahedron_cage(cage_at, 0.26))
        ),
        *(
            Part(f"railing {k}", bays, textures.plain(72, 84, 104), gloss=0.5, shininess=30)
            for k, bays in enumerate(_railing(radius - 0.06))
        ),
    ]


def _icosahedron_cage(
    center: Float[ndarray, "3"], radius: float, thickness: float = 0.011, sections: int = 5
) -> list[Capsules]:
    """The 30 edges of an icosahedron of circumradius `radius` as thin rods, one corner down.

    They come in sections with bounds of their own, so that few rods are tried against a ray.
    """
    golden = (1 + 5**0.5) / 2
    corners = np.array([[0, s, t * golden] for s in (-1, 1) for t in (-1, 1)], dtype=np.float64)
    corners = np.concatenate([corners, corners[:, [1, 2, 0]], corners[:, [2, 0, 1]]])
    corners = corners / np.linalg.norm(corners[0]) * radius
    corners = corners @ rotation_to(tuple(corners[0]))
    gaps = np.linalg.norm(corners[:, None] - corners[None], axis=-1)
    first, second = np.nonzero(np.triu(np.isclose(gaps, gaps[gaps > 1e-9].min())))
    # Neighbors get into the same section: by level, then around.
    middle = (corners[first] + corners[second]) / 2
    order = np.lexsort((np.arctan2(middle[:, 1], middle[:, 0]), middle[:, 2].round(6)))
    return [
        Capsules(corners[first[edges]] + center, corners[second[edges]] + center, np.full(len(edges), thickness))
        for edges in np.array_split(order, sections)
    ]


def _railing(radius: float, height: float = 0.26, posts: int = 15, sections: int = 7) -> list[Capsules]:
    """Part of a fence along the rim; its posts get thinner from one end to the other, a test of resolution.

    It comes in sections with bounds of their own, so that few rods are tried against a ray.
    """
    angle = np.radians(np.linspace(105, 255, posts))
    foot = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(posts, FLOOR - _SINK)], axis=1)
    top = foot + np.array([0.0, 0.0, height])
    middle = foot + np.array([0.0, 0.0, 0.55 * height])
    post = np.linspace(0.016, 0.004, posts)
    out = []
    for rails in np.array_split(np.arange(posts - 1), sections):
        # Every post but the last belongs to the rail that starts at it.
        stand = np.append(rails, posts - 1) if rails[-1] == posts - 2 else rails
        start = np.concatenate([foot[stand], top[rails], middle[rails]])
        end = np.concatenate([top[stand], top[rails + 1], middle[rails + 1]])
        thickness = np.concatenate([post[stand], np.full(len(rails), 0.012), np.full(len(rails), 0.005)])
        out.append(Capsules(start, end, thickness))
    return out


def background_parts(rng: np.random.Generator) -> list[Part]:
    """The unbounded surroundings: ground, a far dome, and stones in the middle distance (5.5 to 13 from the origin)."""
    noise = textures.ValueNoise(rng)
    palette = [(196, 92, 70), (88, 120, 168), (214, 170, 84), (120, 150, 110), (150, 108, 150)]
    parts = [
        Part("ground", Ground(UNDERSIDE), textures.meadow(noise), gloss=0.0),
        Part("dome", Dome(DOME_RADIUS), textures.horizon(noise), emissive=True),
    ]
    count = 11
    turn = rng.random()
    for k in range(count):
        angle = 2 * np.pi * (turn + k * 0.6180339887)
        away = 5.5 + 7.5 * k / (count - 1)
        size = (0.5 + 0.5 * rng.random()) * (0.6 + away / 12)
        x, y = away * np.cos(angle), away * np.sin(angle)
        solid: Primitive
        if k % 4 == 0:
            solid = Cylinder((x, y, UNDERSIDE + 1.2 * size), radius=0.35 * size, half_height=1.2 * size)
        elif k % 4 == 1:
            spin = rotation_to((0, 0, 1), spin=rng.uniform(0, np.pi))
            solid = Box((x, y, UNDERSIDE + 0.9 * size), half=(0.5 * size, 0.3 * size, 0.9 * size), rotation=spin)
        elif k % 4 == 2:
            solid = Sphere((x, y, UNDERSIDE + 0.6 * size), 0.65 * size)
        else:
            facing = rotation_to((np.cos(angle), np.sin(angle), 0.0))
            solid = Torus((x, y, UNDERSIDE + 0.85 * size), major=0.65 * size, minor=0.22 * size, rotation=facing)
        texture = textures.standing_stone(noise, *palette[k % len(palette)])
        parts.append(Part(f"stone {k}", solid, texture, gloss=0.0))
    return parts
