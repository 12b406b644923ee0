"""What a browser can draw in place of a model, in scene units and with colors as they are to be seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray


@dataclass(frozen=True)
class PointProxy:
    """Opaque discs that face the camera."""

    points: Float[NDArray, "n 3"]
    """Centers."""
    colors: Float[NDArray, "n 3"]
    """In [0, 1]."""
    radii: Float[NDArray, "n"]
    """Positive."""


@dataclass(frozen=True)
class SplatProxy:
    """Gaussians, blended in order of their distance."""

    means: Float[NDArray, "n 3"]
    """Centers."""
    covariances: Float[NDArray, "n 3 3"]
    """Positive definite."""
    colors: Float[NDArray, "n 3"]
    """In [0, 1]."""
    opacities: Float[NDArray, "n"]
    """In [0, 1]."""


@dataclass(frozen=True)
class MeshProxy:
    """Triangles without light and shade but what is in their colors, seen from both sides."""

    vertices: Float[NDArray, "v 3"]
    """Places."""
    faces: Int[NDArray, "f 3"]
    """Vertices of each triangle."""
    colors: Float[NDArray, "v 3"]
    """In [0, 1]."""


@dataclass(frozen=True)
class PictureProxy:
    """Triangles with a picture on them, without light and shade but what is in that, seen from both sides."""

    vertices: Float[NDArray, "v 3"]
    """Places."""
    faces: Int[NDArray, "f 3"]
    """Vertices of each triangle."""
    places: Float[NDArray, "v 2"]
    """Where in the picture vertices are: from its left and from its upper edge, over its width and height."""
    picture: Float[NDArray, "h w 3"]
    """In [0, 1]."""


@dataclass(frozen=True)
class Tile:
    """A rectangle with a picture on it."""

    picture: UInt8[NDArray, "h w 3"]
    """8-bit, the first row above."""
    center: Float[NDArray, "3"]
    """Of the rectangle."""
    right: Float[NDArray, "3"]
    """From its left to its right edge."""
    up: Float[NDArray, "3"]
    """From its lower to its upper edge, at a right angle to that."""


@dataclass(frozen=True)
class TileProxy:
    """Pictures side by side."""

    tiles: tuple[Tile, ...]
    """In any order."""


Proxy = PointProxy | SplatProxy | MeshProxy | PictureProxy | TileProxy


def balls(
    points: Float[NDArray, "n 3"], deviations: Float[NDArray, "n"], colors: Float[NDArray, "n 3"], opacity: float
) -> SplatProxy:
    """Gaussians that are the same in all directions.

    Args:
        points: their centers.
        deviations: standard deviations.
        colors: in [0, 1].
        opacity: of each.
    """
    covariances = np.square(deviations)[:, None, None] * np.eye(3)
    return SplatProxy(points, covariances, colors, np.full(len(points), opacity))
