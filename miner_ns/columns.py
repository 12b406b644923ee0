"""Where the columns of a voxel grid cross a triangle mesh, and what that leaves inside: pure arrays, no mesh files.

The triangles are projected along the columns and filled like pixels, in integers: coordinates are multiples of
2⁻¹⁶ voxels (`ONE` of them is a voxel), columns stand at whole voxels. Whether a column passes through a triangle
follows from half-open intervals between its edges, and an edge that two triangles share gives both the same bound. So
each column crosses a closed mesh an even number of times, exactly, also where it meets edges, vertices and faces seen
edge-on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int8, Int64
from numpy.typing import NDArray

ONE = 1 << 16
"""Fixed-point units per voxel."""
MAX_RESOLUTION = 8192
"""Most voxels along a side: products of two coordinates then stay below 2⁶³."""


class Crossings(NamedTuple):
    """Points at which columns pass through the surface."""

    column: Int64[NDArray, " n"]
    """Number of the column: row · (columns in a row) + place in the row."""
    height: Float[NDArray, " n"]
    """Position along the column in voxels; the center of voxel k is at k."""
    sign: Int8[NDArray, " n"]
    """+1 where a column enters the inside going up, −1 where it leaves it."""


def find_crossings(triangles: Int64[NDArray, "t 3 3"], rows: range, row_length: int) -> Crossings:
    """All crossings of the columns of some rows with some triangles, in no particular order.

    Args:
        triangles: corners as (row, place in the row, height) in fixed point, counter-clockwise as seen from outside.
        rows: rows of columns; numbers of columns count from the first of them.
        row_length: columns in a row.
    """
    by_row = np.take_along_axis(triangles, np.argsort(triangles[:, :, :1], axis=1), axis=1)
    start = np.maximum(_ceil_div(by_row[:, 0, 0], ONE), rows.start)
    stop = np.minimum(_ceil_div(by_row[:, 2, 0], ONE), rows.stop)
    triangle, row = _ranges(start, stop)
    lowest, middle, highest = by_row[triangle, 0], by_row[triangle, 1], by_row[triangle, 2]
    # A row in [lowest, highest) passes two of the edges: the long one, and the short one above or below the middle.
    is_above = (row * ONE >= middle[:, 0])[:, None]
    bounds = (
        _first_column(lowest, highest, row * ONE),
        _first_column(np.where(is_above, middle, lowest), np.where(is_above, highest, middle), row * ONE),
    )
    span, place = _ranges(np.clip(np.minimum(*bounds), 0, row_length), np.clip(np.maximum(*bounds), 0, row_length))
    triangle, row = triangle[span], row[span]

    corner = triangles[:, 0]
    normal = np.cross(triangles[:, 1] - corner, triangles[:, 2] - corner)  # exact, in 64-bit integers
    with np.errstate(divide="ignore", invalid="ignore"):  # triangles seen edge-on have no crossings
        slope = -(normal[:, :2] / normal[:, 2:])
    step = np.stack([row, place], axis=-1) * ONE - corner[triangle, :2]
    height = corner[triangle, 2] + (slope[triangle] * step).sum(axis=-1)
    # Slopes of slivers are large beyond the precision of floats.
    lowest, highest = triangles[:, :, 2].min(axis=1), triangles[:, :, 2].max(axis=1)
    height = np.clip(height, lowest[triangle], highest[triangle]) / ONE
    sign = np.where(normal[:, 2] < 0, 1, -1).astype(np.int8)[triangle]
    return Crossings((row - rows.start) * row_length + place, height, sign)


def find_changes(crossings: Crossings, num_columns: int, winding: bool) -> tuple[Crossings, Bool[NDArray, " c"]]:
    """Reduce crossings to the changes between outside and inside.

    Args:
        crossings: of any order.
        num_columns: how many columns there are.
        winding: inside is where more crossings entered than left (or fewer, for a mesh turned inside out); else where
            their number so far is odd.
    Returns: the changes, and which columns end outside again. Those that do not have no changes: a hole in the mesh
        hides where they belong.
    """
    order = np.lexsort((crossings.height, crossings.column))
    column, height, sign = (values[order] for values in crossings)
    is_first = np.diff(column, prepend=-1) != 0
    first = np.flatnonzero(is_first)
    group = np.cumsum(is_first) - 1
    turns = sign.astype(np.int64) if winding else np.ones_like(column)
    total = np.cumsum(turns)
    after = total - (total - turns)[first][group]  # within the column
    before = after - turns
    is_inside, was_inside = (after != 0, before != 0) if winding else (after % 2 == 1, before % 2 == 1)

    ends_inside = is_inside[np.append(first[1:], len(column)) - 1] if len(column) else np.zeros(0, dtype=bool)
    is_closed = np.ones(num_columns, dtype=bool)
    is_closed[column[first[ends_inside]]] = False
    keep = (is_inside != was_inside) & ~ends_inside[group]
    change = is_inside.astype(np.int8) - was_inside.astype(np.int8)
    return Crossings(column[keep], height[keep], change[keep]), is_closed


def add_points(changes: Crossings, sums: Int8[NDArray, "c k"] | Float32[NDArray, "c k"], weight: float = 1) -> None:
    """Add changes to an array whose cumulative sum along the columns is `weight` where a voxel's center is inside.

    Args:
        changes: heights below the first voxel count for all voxels, those above the last for none.
        sums: one element per voxel of each column, and two more at its end.
        weight: of these columns.
    """
    voxel = np.clip(np.ceil(changes.height), 0, sums.shape[1] - 2).astype(np.int64)
    np.add.at(sums.reshape(-1), changes.column * sums.shape[1] + voxel, (changes.sign * weight).astype(sums.dtype))


def add_fractions(changes: Crossings, sums: Float32[NDArray, "c k"], weight: float = 1) -> None:
    """Add changes to an array whose cumulative sum along the columns is `weight` times the share inside of each voxel.

    Args:
        changes: heights below the first voxel count for all voxels, those above the last for none.
        sums: one element per voxel of each column, and two more at its end.
        weight: of these columns.
    """
    bottom = np.clip(changes.height + 0.5, 0.0, sums.shape[1] - 2)
    voxel = bottom.astype(np.int64)
    above = bottom - voxel
    index = changes.column * sums.shape[1] + voxel
    np.add.at(sums.reshape(-1), index, (changes.sign * weight * (1.0 - above)).astype(sums.dtype))
    np.add.at(sums.reshape(-1), index + 1, (changes.sign * weight * above).astype(sums.dtype))


def fill_undecided(inside: Bool[NDArray, "a b c"], undecided: Bool[NDArray, "a b c"]) -> None:
    """Give undecided voxels what most of their 26 neighbors have, from decided ones inwards; in place.

    What no majority is found for stays outside.
    """
    if not undecided.any():
        return
    # 1 inside, −1 outside, 0 undecided or beyond the border.
    score = np.pad(np.where(undecided, 0, np.where(inside, 1, -1)).astype(np.int8), 1)
    strides = np.array(score.strides)
    neighbors = (np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3) @ strides).tolist()
    flat = score.reshape(-1)
    waiting = np.flatnonzero(np.pad(undecided, 1))
    while len(waiting):
        total = np.zeros(len(waiting), dtype=np.int8)
        for neighbor in neighbors:
            total += flat[waiting + neighbor]
        flat[waiting] = np.sign(total)
        if not total.any():
            break
        waiting = waiting[total == 0]
    np.copyto(inside, score[1:-1, 1:-1, 1:-1] > 0)


def _first_column(
    start: Int64[NDArray, "n 3"], end: Int64[NDArray, "n 3"], row: Int64[NDArray, " n"]
) -> Int64[NDArray, " n"]:
    """The first column of a row at or right of an edge, exactly.

    Args:
        start: end of the edge with the lower row.
        end: end of the edge with the higher row.
        row: in fixed point, from the row of `start` up to, but without, that of `end`.
    """
    rise = end[:, 0] - start[:, 0]
    right = _ceil_div((row - start[:, 0]) * (end[:, 1] - start[:, 1]), np.maximum(rise, 1))
    return _ceil_div(start[:, 1] + right, ONE)


def _ceil_div(a: Int64[NDArray, " n"], b: Int64[NDArray, " n"] | int) -> Int64[NDArray, " n"]:
    return -(-a // b)


def _ranges(
    start: Int64[NDArray, " n"], stop: Int64[NDArray, " n"]
) -> tuple[Int64[NDArray, " m"], Int64[NDArray, " m"]]:
    """All numbers of all ranges [start, stop): which range each is from, and the numbers."""
    counts = np.maximum(stop - start, 0)
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) + np.repeat(start - (np.cumsum(counts) - counts), counts)
