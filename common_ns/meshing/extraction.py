"""Iso-surfaces of fields as triangle meshes: SDF zero set, density level or occupancy 0.5.

The field is sampled slab by slab (`field_grid`) and the triangles are assembled as the slabs come (`marching_cubes`).
The last plane of a slab, with the numbers of the vertices on it, is carried into the next: there is no seam that would
have to be welded, even where a field's last bit depends on the size of the query. Memory is a slab of about
`chunk_size` values (at least two planes of the grid) and the mesh itself, never the whole grid. Afterwards each vertex
is moved along its grid edge to where the field crosses the level, and gets the field's normal and color there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from common_ns.errors import InputError
from common_ns.meshing.culling import keep_vertices
from common_ns.meshing.field_grid import OUTSIDE, FieldGrid
from common_ns.meshing.iso_field import IsoField
from common_ns.meshing.marching_cubes import Surface
from common_ns.meshing.mesh_io import Mesh, unit

EDGE_MARGIN = 1e-3
"""Nearest that a vertex comes to a grid point, in voxels: keeps vertices apart, also in files with 32-bit floats."""


def extract_mesh(
    field: IsoField,
    resolution: int = 256,
    chunk_size: int = 65536,
    aabb: Float[Tensor, "2 3"] | None = None,
    progress: bool = False,
    *,
    close: bool = True,
    with_normals: bool = True,
    with_colors: bool = True,
    refine: int = 4,
    keep_largest: int | None = None,
    min_component_faces: int = 0,
    lipschitz: float | None = None,
) -> Mesh:
    """Mesh the surface of a field within a box.

    Args:
        field: the field and its level.
        resolution: number of voxels along the longest side of the box. Voxels are cubic, but for the rounding that lets
            the grid end at the box.
        chunk_size: most points that the field is asked for at once.
        aabb: lower and upper corner of the crop box in model coordinates; None: the field's own box.
        progress: show a progress bar.
        close: cap the mesh at the box where the field is inside there, so that it is watertight; else it stays open.
        with_normals: give vertices the outward unit normals of the field; on caps, the box's.
        with_colors: give vertices the field's colors, if it has any.
        refine: steps by which each vertex is moved along its grid edge to where the field itself crosses the level,
            starting from linear interpolation; densities are far from linear between grid points.
        keep_largest: keep only so many connected components, those with the most triangles; None: all.
        min_component_faces: drop connected components with fewer triangles.
        lipschitz: if the field provably changes by at most so much per scene unit (1 for an exact SDF), blocks that the
            surface cannot reach are skipped; None: evaluate everything.
    Returns: a mesh in model coordinates.
    Raises: InputError if the box is inverted, the field reaches the level nowhere, or it is NaN somewhere.
    """
    for name, number in (
        ("resolution", resolution),
        ("chunk size", chunk_size),
        ("number of components", keep_largest),
    ):
        if number is not None and number < 1:
            raise InputError(f"the {name} is {number}", "Give a number of at least 1")
    if not math.isfinite(field.level):
        raise InputError(f"the level is {field.level}", "Give a finite number")
    box = check_box(field.aabb if aabb is None else aabb)
    grid = FieldGrid(field, box, resolution, chunk_size, EDGE_MARGIN if close else 0.0, lipschitz)
    pad = int(close)
    with _progress_bar(progress) as advance:
        surface = Surface()
        slabs = range(0, int(grid.cells[0]), grid.slab_cells)
        for first, slab in grid.slabs():
            if close:  # a layer of outside around the grid
                before, after = int(first == 0), int(first == slabs[-1])
                slab = np.pad(slab, ((before, after), (1, 1), (1, 1)), constant_values=-OUTSIDE)
                first += 1 - before
            surface.add(first, slab)
            advance("Field", len(slabs))
        faces, (base, axis, ends) = surface.collect()
        if not len(faces) or np.abs(ends).max(axis=1).min() > 1e35:
            raise _empty(grid)  # nothing at all, or nothing but the caps of the box
        keep = _component_mask(faces, len(base), keep_largest, min_component_faces)
        if not keep.any():
            problem = f"no connected component has {min_component_faces} triangles"
            raise InputError(problem, "Lower --min-component-faces")
        faces, kept = _compact(faces[keep], len(base))
        base, axis, ends = base[kept] - pad, axis[kept], ends[kept]

        def in_chunks(stage: str, function: Callable[[slice], NDArray]) -> NDArray:
            parts = []
            for start in range(0, len(base), chunk_size):
                parts.append(function(slice(start, start + chunk_size)))
                advance(stage, -(-len(base) // chunk_size))
            return np.concatenate(parts)

        vertices = in_chunks("Vertices", lambda at: _place(grid, base[at], axis[at], ends[at], refine))
        normals = colors = None
        color = field.color if with_colors else None
        if with_normals or color is not None:
            normals = in_chunks("Normals", lambda at: _normals(grid, vertices[at], axis[at], ends[at]))
            unknown = ~(np.abs(np.linalg.norm(normals, axis=1) - 1.0) < 1e-3)
            if unknown.any():  # saturated fields have no gradient: the triangles' own normals serve
                normals[unknown] = _geometric_normals(vertices, faces)[unknown]
            if color is not None:
                head_on = normals
                colors = in_chunks("Colors", lambda at: _colors(color, vertices[at], head_on[at], field.device))
        mesh = Mesh(vertices, faces, normals if with_normals else None, colors)
        shown = field.shown
        if shown is not None:
            mesh = keep_vertices(mesh, in_chunks("Seen", lambda at: _asked(shown, vertices[at], field.device)), 3)
            if not len(mesh.faces):
                raise _empty(grid)
    return mesh


def check_box(aabb: Float[Tensor, "2 3"]) -> Float[NDArray, "2 3"]:
    """The box as float64 array.

    Raises: InputError if it is not finite or its upper corner is not above the lower one along every axis.
    """
    box = torch.as_tensor(aabb).detach().double().cpu().numpy()
    low, high = (f"({', '.join(f'{x:g}' for x in corner)})" for corner in box)
    if not np.isfinite(box).all():
        raise InputError(f"the box from {low} to {high} is not finite", "Give finite corners")
    if not (box[1] > box[0]).all():
        remedy = "Give a minimum that is below the maximum along x, y and z"
        raise InputError(f"the box from {low} to {high} is empty or inverted", remedy)
    return box


def _place(
    grid: FieldGrid, base: Int[NDArray, "v 3"], axis: Int[NDArray, " v"], ends: Float[NDArray, "v 2"], refine: int
) -> Float[NDArray, "v 3"]:
    """Positions of vertices on their grid edges: where the field crosses the level, by bracketed secant steps.

    The Illinois variant is used: an end of the bracket that stays counts half from then on, so that both ends move.
    The bracket keeps a vertex on its edge, hence the mesh keeps its topology.
    """
    rows = np.arange(len(base))
    start, step = grid.origin + base * grid.spacing, grid.spacing[axis]

    def along(t: Float[NDArray, " n"], some: NDArray) -> Float[NDArray, "n 3"]:
        points = start[some]
        points[np.arange(len(some)), axis[some]] += t * step[some]
        return points

    left, right = np.zeros(len(base)), np.ones(len(base))
    f_left, f_right = ends.astype(np.float64).T.copy()
    t = f_left / (f_left - f_right)
    open_edges = rows[np.abs(ends).max(axis=1) < 1e25] if refine > 0 else rows[:0]
    was_left = np.zeros(len(base), dtype=np.int8)
    for _ in range(refine if len(open_edges) else 0):
        f = grid.at(along(t[open_edges], open_edges)).astype(np.float64)
        on_left = (f > 0) == (f_left[open_edges] > 0)
        for mask, edge, value, other, code in (
            (on_left, left, f_left, f_right, 1),
            (~on_left, right, f_right, f_left, -1),
        ):
            moved = open_edges[mask]
            other[moved] *= np.where(was_left[moved] == code, 0.5, 1.0)
            edge[moved], value[moved], was_left[moved] = t[moved], f[mask], code
        gap = f_right - f_left
        safe = np.where(gap == 0, 1.0, gap)
        t = np.where(gap == 0, 0.5 * (left + right), (left * f_right - right * f_left) / safe)
    return along(np.clip(t, EDGE_MARGIN, 1.0 - EDGE_MARGIN), rows)


def _normals(
    grid: FieldGrid, places: Float[NDArray, "v 3"], axis: Int[NDArray, " v"], ends: Float[NDArray, "v 2"]
) -> Float[NDArray, "v 3"]:
    """Outward unit normals at vertices; where the field has no gradient the row is zero or NaN."""
    field = grid.field
    points = torch.from_numpy(places).float().to(field.device)
    outward = -1.0 if field.inside_above else 1.0
    if field.normal is not None:
        with torch.no_grad():
            normals = field.normal(points)
    else:
        gradient = _autograd(field, points)
        if gradient is None:
            gradient = _differences(grid, points)
        normals = outward * gradient
    result = unit(normals.detach().double().cpu().numpy())
    # A vertex between the box's border and beyond lies on a cap.
    for column, sign in ((0, -1.0), (1, 1.0)):
        capped = np.flatnonzero(ends[:, column] < -1e35)
        result[capped] = 0.0
        result[capped, axis[capped]] = sign
    return result.astype(np.float32)


def _autograd(field: IsoField, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"] | None:
    """Gradient of the field's value, or None if it cannot be differentiated."""
    points = points.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        value = field.value(points)
        if not value.requires_grad:
            return None
        return torch.autograd.grad(value.sum(), points, allow_unused=True)[0]


def _differences(grid: FieldGrid, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Gradient of the field's value by central differences over one voxel."""
    columns = []
    with torch.no_grad():
        for axis in range(3):
            half = torch.zeros(3, device=points.device)
            half[axis] = 0.5 * float(grid.spacing[axis])
            difference = grid.field.value(points + half) - grid.field.value(points - half)
            columns.append(difference.float().reshape(-1) / float(grid.spacing[axis]))
    return torch.stack(columns, dim=-1)


def _asked(
    shown: Callable[[Float[Tensor, "n 3"]], Bool[Tensor, " n"]], points: Float[NDArray, "n 3"], device: Any
) -> Bool[NDArray, " n"]:
    """`IsoField.shown` of vertices."""
    return shown(torch.from_numpy(points).float().to(device)).cpu().numpy()


def _colors(
    color: Callable[[Tensor, Tensor], Tensor],
    places: Float[NDArray, "v 3"],
    normals: Float[NDArray, "v 3"],
    device: torch.device | str,
) -> Float[NDArray, "v 3"]:
    """The field's colors at vertices, in [0, 1]."""
    points, directions = (torch.from_numpy(array).float().to(device) for array in (places, normals))
    with torch.no_grad():
        return color(points, directions).detach().float().clamp(0.0, 1.0).cpu().numpy()


def _component_mask(
    faces: Int[NDArray, "f 3"], count: int, keep_largest: int | None, min_faces: int
) -> Bool[NDArray, " f"]:
    """Which triangles belong to connected components that are to be kept."""
    if keep_largest is None and min_faces <= 1:
        return np.ones(len(faces), dtype=bool)
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    links = (faces[:, [0, 1]].reshape(-1), faces[:, [1, 2]].reshape(-1))
    graph = coo_matrix((np.ones(len(links[0]), dtype=bool), links), shape=(count, count))
    label = connected_components(graph, directed=False)[1][faces[:, 0]]
    size = np.bincount(label)
    kept = size >= max(min_faces, 1)
    if keep_largest is not None:
        kept[np.argsort(-size, kind="stable")[keep_largest:]] = False
    return kept[label]


def _compact(faces: Int[NDArray, "f 3"], count: int) -> tuple[Int[NDArray, "f 3"], Int[NDArray, " v"]]:
    """Triangles renumbered over the vertices that they use, and the old numbers of those."""
    used = np.zeros(count, dtype=bool)
    used[faces] = True
    kept = np.flatnonzero(used)
    renumber = np.full(count, -1, dtype=np.int64)
    renumber[kept] = np.arange(len(kept))
    return renumber[faces], kept


def _geometric_normals(vertices: Float[NDArray, "v 3"], faces: Int[NDArray, "f 3"]) -> Float[NDArray, "v 3"]:
    """Area-weighted mean of the adjacent triangles' normals."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    total = np.stack(
        [np.bincount(faces.reshape(-1), np.repeat(cross[:, k], 3), minlength=len(vertices)) for k in range(3)], axis=-1
    )
    return unit(total)


def _empty(grid: FieldGrid) -> InputError:
    """What to say when the surface is nowhere in the box."""
    level, low, high = grid.field.level, grid.lowest, grid.highest
    seen = f"it goes from {low:.4g} to {high:.4g}"
    problem = f"no surface: the field never crosses the level {level:.4g} in the box, {seen}"
    if high - low <= 1e-6 * max(abs(high), abs(low)):
        return InputError(problem, "Train longer, or choose another box: the field is constant in this one")
    return InputError(problem, f"Choose --level between {low:.4g} and {high:.4g}, or a larger box")


@contextmanager
def _progress_bar(enabled: bool) -> Iterator[Callable[[str, int], None]]:
    """Gives a function that marks one step of a named stage with so many steps as done."""
    if not enabled:
        yield lambda stage, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TextColumn("blocks, to go"))
    with Progress(*columns, TimeRemainingColumn()) as bar:
        tasks: dict[str, Any] = {}

        def advance(stage: str, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.advance(tasks[stage])

        yield advance
