"""Makes the triangles of a mesh face one way where that is possible, and removes faces that are there twice.

Files in the wild have every triangle twice, once for each side; single triangles turned around by a tool; parts that
face inwards. Which voxels are inside would be wrong without a word. Here:

- Of faces that are there more than once, the same way round, one stays.
- Of faces that are there as often the one way round as the other, one stays where it closes the surface (a two-sided
  body). Else they cancel: walls inside of a body, leaves without thickness.
- Triangles that meet at an edge are made to face one way, as most of the area of their part does.
- Closed parts face outwards, with the parts inside of them turned along: a hollow stays one.

A mesh to which none of this applies is left as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int64
from numpy.typing import NDArray

INSIDE_POINTS = 16
"""Points of a part that are looked for inside of another."""
POINT = np.array([0.27182, 0.31416, 0.41402])
"""Where in a triangle."""
MOST_COMPARISONS = 2 * 10**9
"""Of a point with a triangle, to find which part is inside of which: some twenty seconds."""


class Mending(NamedTuple):
    """What was found, and what was done about it."""

    faces: Int[NDArray, "f 3"]
    """The triangles, with those that were wrong removed or turned around."""
    dropped: int
    """Triangles that were removed."""
    turned: int
    """Triangles that were turned around."""
    open_edges: int
    """Edges of an odd number of triangles that are left: borders of holes. Without any, the mesh has an inside."""
    twisted_edges: int
    """Other edges that are left at which triangles face opposite ways, as on a Möbius strip."""
    is_settled: bool = True
    """Whether it was found which of the parts that face inwards are hollows. If not, all parts are left as they were:
    there are too many."""


class Closedness(NamedTuple):
    """What the edges of a mesh tell about its inside."""

    open_edges: int
    """Edges of an odd number of triangles: borders of holes. Without any, the mesh has an inside."""
    twisted_edges: int
    """Other edges at which triangles face opposite ways."""


def check_closedness(vertices: Float[NDArray, "v 3"], faces: Int[NDArray, "f 3"]) -> Closedness:
    """Count the edges at which a mesh is open or badly oriented. Vertices at the same place count as one."""
    return _Edges(_with_area(_merged(vertices, faces)), len(vertices)).closedness


def mend(vertices: Float[NDArray, "v 3"] | Int64[NDArray, "v 3"], faces: Int[NDArray, "f 3"], orient: bool) -> Mending:
    """Remove faces that are there more than once, and make the rest face one way; see the module.

    Args:
        vertices: finite. Those at the same place count as one.
        faces: vertex numbers of triangles.
        orient: whether triangles may be turned around.
    """
    merged = _merged(vertices, faces)
    has_area = (merged != np.roll(merged, 1, axis=1)).all(axis=1)
    kept = np.flatnonzero(has_area)
    count = len(vertices)
    kept = kept[_without_duplicates(merged[kept], count)]
    dropped = int(has_area.sum()) - len(kept)
    edges = _Edges(merged[kept], count)
    turned, is_settled = np.zeros(len(kept), dtype=bool), True
    if orient and len(kept):
        turned, is_settled = _turned(vertices, faces[kept], edges)
        edges.forward ^= np.repeat(turned, 3)
    if dropped or turned.any():
        faces = faces[kept]  # a copy
        faces[turned] = faces[turned, ::-1]
    return Mending(faces, dropped, int(turned.sum()), *edges.closedness, is_settled)


class _Edges:
    """The edges of triangles, each as often as it has triangles.

    Args:
        faces: vertex numbers, different ones in each triangle.
        count: number of vertices.
    """

    def __init__(self, faces: Int64[NDArray, "f 3"], count: int) -> None:
        start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
        key = np.minimum(start, end) * count + np.maximum(start, end)
        self.order = np.argsort(key, kind="stable")
        """Sides of triangles, sorted by edges."""
        is_new = np.diff(key[self.order], prepend=-1) != 0
        self.number = np.empty(len(key), dtype=np.int64)
        """Which edge each side of each triangle is [3 f]."""
        self.number[self.order] = np.cumsum(is_new) - 1
        self.forward = start < end
        """Which way it is passed."""
        self.uses = np.bincount(self.number)
        """Triangles at each edge."""

    @property
    def closedness(self) -> Closedness:
        is_open = self.uses % 2 == 1
        balance = np.bincount(self.number, weights=np.where(self.forward, 1.0, -1.0))
        return Closedness(int(is_open.sum()), int((~is_open & (balance != 0)).sum()))

    def neighbors(self) -> tuple[Int64[NDArray, " n"], Int64[NDArray, " n"], Bool[NDArray, " n"]]:
        """Pairs of triangles at edges that have just two, and whether they face opposite ways."""
        first, second = self.order[self.uses[self.number[self.order]] == 2].reshape(-1, 2).T
        return first // 3, second // 3, self.forward[first] == self.forward[second]


def _merged(vertices: NDArray, faces: Int[NDArray, "f 3"]) -> Int64[NDArray, "f 3"]:
    """The faces with one number for all vertices at the same place."""
    order = np.lexsort(vertices.T)
    ordered = vertices[order]
    number = np.empty(len(vertices), dtype=np.int64)
    number[order] = np.cumsum(np.append(False, (ordered[1:] != ordered[:-1]).any(axis=1))[: len(vertices)])
    return number[faces]


def _with_area(merged: Int64[NDArray, "f 3"]) -> Int64[NDArray, "g 3"]:
    """Without triangles that are a line or a point."""
    return merged[(merged != np.roll(merged, 1, axis=1)).all(axis=1)]


def _without_duplicates(faces: Int64[NDArray, "f 3"], count: int) -> Int64[NDArray, " k"]:
    """Which faces stay of those that are there more than once, in order."""
    corners = np.sort(faces, axis=1)
    order = np.lexsort(corners.T)
    ordered = corners[order]
    is_new = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))[: len(faces)]
    if is_new.all():
        return np.arange(len(faces))
    group = np.empty(len(faces), dtype=np.int64)
    group[order] = np.cumsum(is_new) - 1
    # Even permutations of the sorted corners face one way.
    least = faces.argmin(axis=1)[:, None]
    face_up = np.take_along_axis(faces, (least + 1) % 3, 1) < np.take_along_axis(faces, (least + 2) % 3, 1)
    sign = np.where(face_up[:, 0], 1, -1)
    net = np.bincount(group, weights=sign).astype(np.int64)
    # Of each group the first face of the way that prevails.
    stands = np.flatnonzero((sign == np.sign(net)[group]) | (net[group] == 0))
    stays = stands[np.unique(group[stands], return_index=True)[1]]
    cancels = net[group[stays]] == 0
    if cancels.any():
        stays = stays[~cancels | _closes(faces[stays], cancels, count)]
    return np.sort(stays)


def _closes(faces: Int64[NDArray, "f 3"], cancels: Bool[NDArray, " f"], count: int) -> Bool[NDArray, " f"]:
    """For faces that cancel: whether with them the part that they belong to has no more open edges than without."""
    edges = _Edges(faces, count)
    face = np.repeat(np.arange(len(faces)), 3)
    part = _connected(face, len(faces) + edges.number, len(faces) + len(edges.uses))
    part_of_edge = part[len(faces) :]
    without = np.bincount(edges.number[~cancels[face]], minlength=len(edges.uses))
    parts = int(part.max()) + 1
    open_with = np.bincount(part_of_edge[edges.uses % 2 == 1], minlength=parts)
    open_without = np.bincount(part_of_edge[without % 2 == 1], minlength=parts)
    return (open_with <= open_without)[part[: len(faces)]]


def _connected(start: Int64[NDArray, " n"], end: Int64[NDArray, " n"], nodes: int) -> Int[NDArray, " nodes"]:
    """Which connected part of a graph each node is in."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(start), dtype=bool), (start, end)), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1]


def _turned(vertices: NDArray, faces: Int[NDArray, "f 3"], edges: _Edges) -> tuple[Bool[NDArray, " f"], bool]:
    """Which triangles have to be turned around, and whether hollows were told apart, as in `Mending`."""
    first, second, is_twisted = edges.neighbors()
    n = len(faces)
    turned = np.zeros(n, dtype=bool)
    part = _connected(first, second, n)
    corners = vertices[faces].astype(np.float64)
    corners -= corners.reshape(-1, 3).mean(axis=0)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    if is_twisted.any():
        # Each triangle is two nodes, as it is and turned around: a part that can face one way falls into two halves
        # that mirror each other.
        start = np.concatenate([first, first + n])
        end = np.concatenate([second + n * is_twisted, second + n * ~is_twisted])
        as_it_is, turned_around = _connected(start, end, 2 * n).reshape(2, n)
        turned = as_it_is > turned_around
        area = np.linalg.norm(normal, axis=1)
        against = np.bincount(part, weights=np.where(turned, area, -area))
        turned ^= (against > 0)[part]
        turned &= as_it_is != turned_around  # one-sided parts stay as they are
    # Six times the volume of each part.
    volume = np.einsum("fi,fi->f", corners[:, 0], normal) * np.where(turned, -1.0, 1.0)
    volume = np.bincount(part, weights=volume)
    open_sides = edges.uses[edges.number].reshape(-1, 3) % 2 == 1
    is_closed = np.bincount(part, weights=open_sides.any(axis=1)) == 0
    # Open parts, and those without volume, have no outwards.
    wrong = is_closed & (volume < -1e-9 * np.abs(volume).max(initial=0.0))
    right = is_closed & (volume > 0)
    if not (wrong.any() and right.any()):
        return turned, True
    inside_out = _inside_out(corners, part, wrong, is_closed)
    return (turned, False) if inside_out is None else (turned ^ inside_out[part], True)


def _inside_out(
    corners: Float[NDArray, "f 3 3"],
    part: Int64[NDArray, " f"],
    inwards: Bool[NDArray, " p"],
    closed: Bool[NDArray, " p"],
) -> Bool[NDArray, " p"] | None:
    """Which closed parts are turned around so that those that are in no other face outwards, and the others turn along
    with the one that they are in. None: there are too many to see.

    Args:
        corners: of the triangles.
        part: of each triangle.
        inwards: which parts face inwards.
        closed: which parts are closed.
    """
    parts = len(inwards)
    order = np.argsort(part, kind="stable")
    starts = np.searchsorted(part[order], np.arange(parts + 1))
    low = np.minimum.reduceat(corners.min(axis=1)[order], starts[:-1])
    high = np.maximum.reduceat(corners.max(axis=1)[order], starts[:-1])
    outermost = np.arange(parts)
    comparisons = 0
    # From the largest: what is inside of it has no further container to look for.
    for container in np.argsort(-np.prod(high - low, axis=1)):
        if not closed[container] or outermost[container] != container:
            continue
        free = (outermost == np.arange(parts)) & closed
        within = np.flatnonzero(free & (low >= low[container]).all(axis=1) & (high <= high[container]).all(axis=1))
        within = within[within != container]
        triangles = corners[order[starts[container] : starts[container + 1]]]
        for other in within:
            some = np.unique(np.linspace(starts[other], starts[other + 1] - 1, INSIDE_POINTS).astype(int))
            comparisons += len(some) * len(triangles)
            if comparisons > MOST_COMPARISONS:
                return None
            # Points in general position: middles would lie above edges of parts that are alike.
            if _is_inside(np.einsum("nck,c->nk", corners[order[some]], POINT), triangles):
                outermost[other] = container
    return inwards[outermost]


def _is_inside(points: Float[NDArray, "n 3"], triangles: Float[NDArray, "t 3 3"]) -> bool:
    """Whether a closed surface holds all points: rays from them upwards pass through it an odd number of times."""
    low, high = triangles[..., :2].min(axis=1), triangles[..., :2].max(axis=1)
    for point in points:
        near = ((low <= point[:2]) & (point[:2] < high)).all(axis=1)
        a, b, c = np.moveaxis(triangles[near] - point, 1, 0)
        # Twice the areas of the triangles between the ray and each side, as seen along the ray.
        areas = np.stack([u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0] for u, v in ((b, c), (c, a), (a, b))])
        # Within a triangle, a line to the right leaves through one side; two triangles at a side agree about it.
        is_hit = np.zeros(len(a), dtype=bool)
        for area, (u, v) in zip(areas, ((b, c), (c, a), (a, b))):
            passes = (u[:, 1] > 0) != (v[:, 1] > 0)
            is_hit ^= passes & np.where(v[:, 1] > u[:, 1], area > 0, area < 0)
        height = np.einsum("st,st->t", areas, np.stack([a[:, 2], b[:, 2], c[:, 2]])) * np.sign(areas.sum(axis=0))
        if (is_hit & (height > 0)).sum() % 2 == 0:
            return False
    return True
