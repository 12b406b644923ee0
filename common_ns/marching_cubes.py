"""Marching cubes over slabs of grid values: closed, consistently oriented triangles whose vertices are grid edges.

The triangles come from a table that `cube_table` derives from one rule per cube face. scikit-image's Lewiner method is
not used: it leaves holes where values equal the level exactly (saturated occupancies do), and its vertices can be told
apart by position only. Here a vertex is a grid edge; the mesh is a closed two-manifold for any signs on the grid,
random noise included.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

# The corners of a cube are numbered 4x + 2y + z; an edge is its lower corner and the axis along which it runs.
CORNERS = [(c >> 2 & 1, c >> 1 & 1, c & 1) for c in range(8)]
EDGES = [(corner, axis) for axis in range(3) for corner in range(8) if CORNERS[corner][axis] == 0]


@cache
def cube_table() -> tuple[Int[NDArray, "256 t 3"], Int[NDArray, 256]]:
    """Triangles of a cube for every choice of inside corners.

    On each face of the cube, every run of neighboring inside corners is cut off by one segment. Two diagonal inside
    corners so stay apart, whatever the cube: the two cubes at a face agree by construction, and the segments close into
    loops around each cube. A loop is filled with the triangles of least total diagonal that have no diagonal in a face
    of the cube (there always are such), because the cube on the other side might draw the same one. Hence every edge
    belongs to exactly two triangles, and the triangles around a vertex form one disc.

    Returns: numbers of the edges that the triangles' corners lie on, counter-clockwise from outside, and how many of
        the triangles count; indexed by Σ 2^corner over the inside corners.
    """
    edge_between = {}
    for edge, (corner, axis) in enumerate(EDGES):
        other = corner + (4, 2, 1)[axis]
        edge_between[corner, other] = edge_between[other, corner] = edge
    cycles = []  # the corners of each face, counter-clockwise as seen from outside
    for axis in range(3):
        u, v = (4, 2, 1)[(axis + 1) % 3], (4, 2, 1)[(axis + 2) % 3]
        lower = [0, u, u + v, v]
        cycles += [lower[::-1], [corner + (4, 2, 1)[axis] for corner in lower]]
    face_edges = [{edge_between[cycle[k - 1], cycle[k]] for k in range(4)} for cycle in cycles]
    middle = [np.array(CORNERS[corner]) + 0.5 * np.eye(3)[axis] for corner, axis in EDGES]

    def loops(inside: list[int]) -> list[list[int]]:
        after = {}
        for cycle in cycles:
            for k in range(4):
                if inside[cycle[k]] or not inside[cycle[(k + 1) % 4]]:
                    continue
                last = k + 1
                while inside[cycle[(last + 1) % 4]]:
                    last += 1
                enters = edge_between[cycle[k], cycle[(k + 1) % 4]]
                after[enters] = edge_between[cycle[last % 4], cycle[(last + 1) % 4]]
        found = []
        while after:
            edge, loop = next(iter(after)), []
            while edge in after:
                loop.append(edge)
                edge = after.pop(edge)
            found.append(loop)
        return found

    def fill(loop: list[int]) -> tuple[float, list[tuple[int, int, int]]]:
        def length(i: int, j: int) -> float:
            if j - i == 1:
                return 0.0
            if any(loop[i] in edges and loop[j] in edges for edges in face_edges):
                return math.inf
            return float(((middle[loop[i]] - middle[loop[j]]) ** 2).sum())

        def best(i: int, j: int) -> tuple[float, list[tuple[int, int, int]]]:
            if j - i < 2:
                return 0.0, []
            choices = []
            for k in range(i + 1, j):
                (left, first), (right, second) = best(i, k), best(k, j)
                cost = left + right + length(i, k) + length(k, j)
                choices.append((cost, [*first, (loop[i], loop[k], loop[j]), *second]))
            return min(choices, key=lambda choice: choice[0])

        return best(0, len(loop) - 1)

    table, counts = np.zeros((256, 5, 3), dtype=np.int8), np.zeros(256, dtype=np.int8)
    for code in range(256):
        for loop in loops([code >> corner & 1 for corner in range(8)]):
            cost, triangles = fill(loop)
            assert math.isfinite(cost)
            table[code, counts[code] : counts[code] + len(triangles)] = triangles
            counts[code] += len(triangles)
    return table, counts


class Surface:
    """Collects vertices and triangles slab by slab."""

    def __init__(self) -> None:
        self.count = 0
        self.carried: list[Int[NDArray, "a b"]] | None = None
        self.bases: list[Int[NDArray, "v 3"]] = []
        self.axes: list[Int[NDArray, " v"]] = []
        self.ends: list[Float[NDArray, "v 2"]] = []
        self.faces: list[Int[NDArray, "f 3"]] = [np.zeros((0, 3), dtype=np.int32)]

    def add(self, first: int, slab: Float[NDArray, "m y z"]) -> None:
        """March through the cells between the planes of a slab.

        Args:
            first: number of its first plane, which is the last plane of the slab before.
            slab: values, positive inside.
        """
        inside = slab > 0
        numbers = [self._number(first, slab, inside, axis) for axis in range(3)]
        self.carried = [numbers[1][-1], numbers[2][-1]]
        m, y, z = inside.shape
        code = np.zeros((m - 1, y - 1, z - 1), dtype=np.uint8)
        bits = inside.view(np.uint8)
        for corner, (i, j, k) in enumerate(CORNERS):
            code |= bits[i : m - 1 + i, j : y - 1 + j, k : z - 1 + k] << np.uint8(corner)
        cells = np.flatnonzero((code != 0) & (code != 255))
        if not len(cells):
            return
        table, counts = cube_table()
        code = code.reshape(-1)[cells]
        i, j, k = np.unravel_index(cells, (m - 1, y - 1, z - 1))
        of_edge = np.stack(
            [
                numbers[axis][i + CORNERS[corner][0], j + CORNERS[corner][1], k + CORNERS[corner][2]]
                for corner, axis in EDGES
            ],
            axis=-1,
        )
        real = np.arange(table.shape[1]) < counts[code][:, None]
        row = np.nonzero(real)[0]
        self.faces.append(of_edge[row[:, None], table[code][real]])

    def collect(self) -> tuple[Int[NDArray, "f 3"], tuple[NDArray, NDArray, NDArray]]:
        """All triangles, and of each vertex: the grid point its edge begins at, the axis, the values at its ends."""
        return np.concatenate(self.faces), (
            np.concatenate(self.bases),
            np.concatenate(self.axes),
            np.concatenate(self.ends),
        )

    def _number(
        self, first: int, slab: Float[NDArray, "m y z"], inside: Bool[NDArray, "m y z"], axis: int
    ) -> Int[NDArray, "a b c"]:
        """Number the grid edges along an axis that cross the surface; edges in the first plane have theirs already."""
        known = 0 if axis == 0 or self.carried is None else 1
        lower, upper = [slice(known, None), slice(None), slice(None)], [slice(known, None), slice(None), slice(None)]
        lower[axis], upper[axis] = slice(None, -1), slice(1, None)
        low, high = tuple(lower), tuple(upper)
        crossing = inside[low] != inside[high]
        found = np.flatnonzero(crossing)
        fresh = np.full(crossing.shape, -1, dtype=np.int32)
        fresh.reshape(-1)[found] = np.arange(self.count, self.count + len(found), dtype=np.int32)
        self.count += len(found)
        base = np.stack(np.unravel_index(found, crossing.shape), axis=-1).astype(np.int32)
        at = tuple(base.T)
        self.bases.append(base + np.array([first + known, 0, 0], dtype=np.int32))
        self.axes.append(np.full(len(found), axis, dtype=np.int8))
        self.ends.append(np.stack([slab[low][at], slab[high][at]], axis=-1))
        if known and self.carried is not None:
            return np.concatenate([self.carried[axis - 1][None], fresh])
        return fresh
