"""A picture with depth as triangles: few where depth is even, one pixel wide where it is not, none where it jumps."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

TEAR = 1.2
"""Ratio of the depths of a triangle's corners above which it is no part of a surface,"""
NEAR = 0.1
"""if their inverse depths differ by more than this as well, over the depth that a quarter of the picture is within: far
away, depth is uncertain, and the camera would have to move a long way until one saw a gap."""
WIDEST = 8
"""Pixels along the sides of the largest squares."""
FINENESS = ((1, 0.005), (1, 0.01), (1, 0.02), (2, 0.02), (2, 0.04), (3, 0.04), (4, 0.04), (6, 0.04), (8, 0.04))
"""Of ever fewer triangles: pixels along the sides of the smallest squares, and by how much inverse depth within larger
ones may differ from what their corners say, in the unit of `NEAR`. Planes have even inverse depth."""


def triangles(
    depth: Float[NDArray, "h w"], shows: Bool[NDArray, "h w"], most: int
) -> tuple[Int[NDArray, "v"], Int[NDArray, "v"], Int[NDArray, "f 3"]]:
    """Triangles through pixels that show something.

    Args:
        depth: distance along the camera's axis.
        shows: which pixels show something.
        most: corners that there may be; if there is no way with so few, as few as there can be.

    Returns: rows and columns of the corners, and the corners of each triangle; none if nothing is shown.
    """
    none = np.zeros(0, dtype=int)
    rows, columns, faces = none, none, none.reshape(0, 3)
    if not shows.any():
        return rows, columns, faces
    inverse = np.where(shows, 1.0 / np.where(shows, depth, 1.0), np.nan)
    inverse = inverse * np.quantile(depth[shows], 0.25)
    for step, tolerance in FINENESS:
        grid = [
            np.linspace(0, side - 1, max(round((side - 1) / step) + 1, 2)).round().astype(int) for side in depth.shape
        ]
        squares = _squares(inverse[np.ix_(*grid)], tolerance)
        width = len(grid[1])
        used, faces = np.unique(squares, return_inverse=True)
        rows, columns, faces = grid[0][used // width], grid[1][used % width], faces.reshape(-1, 3)
        if len(rows) <= most:
            break
    return rows, columns, faces


def _squares(inverse: Float[NDArray, "h w"], tolerance: float) -> Int[NDArray, "f 3"]:
    """Triangles of squares of different sizes, by the numbers of their corners in the grid."""
    height, width = inverse.shape
    row, column = (each.reshape(-1) for each in np.mgrid[0 : height - 1 : WIDEST, 0 : width - 1 : WIDEST])
    found = []
    size = WIDEST
    while size > 1:
        inside = (row + size < height) & (column + size < width)
        even = np.zeros(len(row), dtype=bool)
        even[inside] = _unevenness(inverse, row[inside], column[inside], size) <= tolerance
        found.append(_two(row[even], column[even], size, width))
        size //= 2
        steps = np.array([[0, 0, size, size], [0, size, 0, size]])
        row, column = (each[~even][:, None] + step for each, step in zip((row, column), steps))
        row, column = row.reshape(-1), column.reshape(-1)
        inside = (row < height - 1) & (column < width - 1)
        row, column = row[inside], column[inside]
    smallest = _two(row, column, 1, width)
    corners = inverse.reshape(-1)[smallest]
    nearest, farthest = corners.max(axis=1, initial=-np.inf), corners.min(axis=1, initial=np.inf)
    with np.errstate(invalid="ignore"):  # what shows nothing is no number, and no comparison with it holds
        whole = (nearest <= TEAR * farthest) | (nearest - farthest <= NEAR)
    return np.concatenate([*found, smallest[whole]])


def _unevenness(
    inverse: Float[NDArray, "h w"], row: Int[NDArray, "n"], column: Int[NDArray, "n"], size: int
) -> Float[NDArray, "n"]:
    """By how much inverse depth within squares differs from what is between their corners; NaN: not all is shown."""
    upper, lower = ((inverse[row + down, column], inverse[row + down, column + size]) for down in (0, size))
    most = np.zeros(len(row))
    for down in range(size + 1):
        left, right = (above + (below - above) * down / size for above, below in zip(upper, lower))
        for along in range(size + 1):
            between = left + (right - left) * along / size
            most = np.maximum(most, np.abs(inverse[row + down, column + along] - between))
    return most


def _two(row: Int[NDArray, "n"], column: Int[NDArray, "n"], size: int, width: int) -> Int[NDArray, "m 3"]:
    """Both triangles of squares."""
    first = row * width + column
    corners = np.stack([first, first + size * width, first + size, first + size * width + size], axis=-1)
    return np.concatenate([corners[:, [0, 1, 2]], corners[:, [3, 2, 1]]])
