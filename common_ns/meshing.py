"""Iso-surfaces of fields as triangle meshes: SDF zero set, density level or occupancy 0.5.

The box is swept in slabs of grid planes. Each grid point is evaluated exactly once, in queries of at most `chunk_size`
points, and the last plane of a slab, with the numbers of the vertices on it, is carried into the next. So there is no
seam that would have to be welded, even where a field's last bit depends on the size of the query. Memory is a slab of
about `chunk_size` values (at least two planes of the grid) and the mesh itself, never the whole grid.

The triangles come from a marching-cubes table that `cube_table` derives from one rule per cube face. scikit-image's
Lewiner method is not used: it leaves holes where values equal the level exactly (saturated occupancies do), and its
vertices can be told apart by position only. Here a vertex is a grid edge; the mesh is a closed two-manifold for any
signs on the grid, random noise included.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from common_ns.checks import InputError

if TYPE_CHECKING:
    import trimesh

MESH_SUFFIXES = (".ply", ".obj", ".glb")
"""File formats that `Mesh.save` writes."""
EDGE_MARGIN = 1e-3
"""Nearest that a vertex comes to a grid point, in voxels: keeps vertices apart, also in files with 32-bit floats."""
SKIP_BLOCK = 8
"""Side in cells of the blocks that `lipschitz` may skip."""
# Values beyond ±1e20 are clipped, so that these two cannot be mistaken for a field's value.
_FAR = 1e30  # a grid point that was proven to be far from the surface
_OUTSIDE = 1e38  # a grid point beyond the box


@dataclass(frozen=True)
class IsoField:
    """A scalar field with a surface in it: all that is needed to mesh it, whatever the method behind it."""

    value: Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]
    """The field at points in model coordinates."""
    level: float
    """Value at the surface, in the unit of `value`."""
    inside_above: bool
    """Whether larger values are inside (density, occupancy) rather than smaller ones (SDF)."""
    aabb: Float[Tensor, "2 3"]
    """Lower and upper corner of the region that the field describes, in model coordinates."""
    color: Callable[[Float[Tensor, "n 3"], Float[Tensor, "n 3"]], Float[Tensor, "n 3"]] | None = None
    """Colour in [0, 1] at surface points with outward unit normals; in the space of the training images (sRGB)."""
    normal: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]] | None = None
    """Outward unit normals; None: the gradient of `value`, by autograd or, where it has none, by differences."""
    device: torch.device | str = "cpu"
    """Where `value`, `color` and `normal` expect their points."""


def default_density_level(aabb: Float[Tensor, "2 3"]) -> float:
    """Density at which a path of 1 % of the box diagonal absorbs half of the light: ln 2 / (0.01 · diagonal).

    Args:
        aabb: lower and upper corner of the scene box, in scene units.
    Returns: density per scene unit.
    """
    return math.log(2.0) / (0.01 * float(torch.linalg.norm((aabb[1] - aabb[0]).double())))


def iso_field_of(model: Any, level: float | None = None, voxel_size: float | None = None) -> IsoField:
    """The field of a model whose surface is to be meshed.

    Models of this suite have a method `iso_field`. Of other nerfstudio models the SDF (`field.forward_geonetwork`) or
    the density (`field.density_fn`) is taken, and the colour that the field shows when seen head-on.

    Args:
        model: a nerfstudio model.
        level: value at the surface; None: 0 for an SDF, `default_density_level` for a density.
        voxel_size: side of the voxels in scene units, for fields that can be filtered to it.
    Raises: InputError if the model has no such field.
    """
    if hasattr(model, "iso_field"):
        return model.iso_field(level=level, voxel_size=voxel_size)
    field = next((f for name in ("field", "field_fine") if (f := getattr(model, name, None)) is not None), None)
    is_sdf = hasattr(field, "forward_geonetwork")
    if field is None or not (is_sdf or hasattr(field, "density_fn")):
        problem = f"the model {type(model).__name__} has no density, SDF or occupancy field that can be meshed"
        raise InputError(problem, "Choose a method with a radiance or distance field")
    aabb = model.scene_box.aabb.detach().float().cpu()

    def value(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        return field.forward_geonetwork(points)[:, 0] if is_sdf else field.density_fn(points)[..., 0]

    def color(points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        from nerfstudio.cameras.rays import Frustums, RaySamples
        from nerfstudio.field_components.field_heads import FieldHeadNames

        zero = torch.zeros_like(points[:, :1])
        frustums = Frustums(origins=points, directions=-normals, starts=zero, ends=zero, pixel_area=zero + 1e-6)
        return field(RaySamples(frustums=frustums, camera_indices=zero.long()))[FieldHeadNames.RGB]

    if level is None:
        level = 0.0 if is_sdf else default_density_level(aabb)
    return IsoField(value, level, inside_above=not is_sdf, aabb=aabb, color=color, device=model.device)


@dataclass(frozen=True)
class Mesh:
    """Triangles with outward orientation, and what is known at their corners."""

    vertices: Float[NDArray, "v 3"]
    """Positions, float64."""
    faces: Int[NDArray, "f 3"]
    """Vertex numbers, counter-clockwise as seen from outside."""
    normals: Float[NDArray, "v 3"] | None = None
    """Outward unit normals."""
    colors: Float[NDArray, "v 3"] | None = None
    """Colours in [0, 1], in the space of the training images (sRGB)."""

    def __post_init__(self) -> None:
        for array in (self.normals, self.colors):
            assert array is None or array.shape == self.vertices.shape

    def to_trimesh(self) -> trimesh.Trimesh:
        """The same mesh for trimesh: vertices and faces in the same order, colours rounded to 8 bits."""
        import trimesh

        colors = None
        if self.colors is not None:
            rgb = np.rint(255.0 * np.clip(self.colors, 0.0, 1.0)).astype(np.uint8)
            colors = np.concatenate([rgb, np.full_like(rgb[:, :1], 255)], axis=1)
        return trimesh.Trimesh(
            self.vertices, self.faces, vertex_normals=self.normals, vertex_colors=colors, process=False
        )

    def transformed(self, matrix: Float[NDArray, "3 4"]) -> Mesh:
        """The mesh under the affine map x ↦ A x + b, given as [A | b]; a map that mirrors keeps outward outward."""
        linear = matrix[:3, :3]
        faces = self.faces[:, ::-1] if np.linalg.det(linear) < 0 else self.faces
        # Normals are covectors: they go with the inverse transpose.
        normals = None if self.normals is None else _unit(self.normals @ np.linalg.inv(linear)).astype(np.float32)
        return replace(self, vertices=self.vertices @ linear.T + matrix[:3, 3], faces=faces, normals=normals)

    def save(self, path: Path | str) -> Path:
        """Write the mesh with its colours and normals, whole or not at all.

        Args:
            path: file to write; its suffix (.ply, .obj or .glb) decides the format, its folder is made if need be.
        Raises: InputError if the suffix is another or the file cannot be written.
        """
        path = check_mesh_path(path)
        kind, with_normals = path.suffix.lower()[1:], self.normals is not None
        options: dict[str, Any] = {"include_normals": with_normals}
        if kind == "ply":
            options = {"vertex_normal": with_normals}
        elif kind == "obj":
            # Text: as many decimals as 32-bit floats hold for a mesh of this size.
            extent = float(np.ptp(self.vertices, axis=0).max()) if len(self.vertices) else 1.0
            options["digits"] = max(6, 7 - math.floor(math.log10(max(extent, 1e-12))))
        content = self.to_trimesh().export(file_type=kind, **options)
        data = content.encode() if isinstance(content, str) else content
        assert isinstance(data, bytes)
        # Renaming within one folder is atomic: nobody meets half a mesh under the final name.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError as error:
            raise InputError(f"cannot be written ({error})", "Choose another file or folder", path) from error
        finally:
            temporary.unlink(missing_ok=True)
        return path


def check_mesh_path(path: Path | str) -> Path:
    """Return `path` as a Path if its suffix names a format that can be written.

    Raises: InputError if not.
    """
    path = Path(path)
    if path.suffix.lower() not in MESH_SUFFIXES:
        problem = f"the suffix {path.suffix!r} is not a mesh format" if path.suffix else "the file name has no suffix"
        raise InputError(problem, f"Use one of {', '.join(MESH_SUFFIXES)}", path)
    return path


# The corners of a cube are numbered 4x + 2y + z; an edge is its lower corner and the axis along which it runs.
CORNERS = [(c >> 2 & 1, c >> 1 & 1, c & 1) for c in range(8)]
EDGES = [(corner, axis) for axis in range(3) for corner in range(8) if CORNERS[corner][axis] == 0]


@cache
def cube_table() -> tuple[Int[NDArray, "256 t 3"], Int[NDArray, 256]]:
    """Triangles of a cube for every choice of inside corners.

    On each face of the cube, every run of neighbouring inside corners is cut off by one segment. Two diagonal inside
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


class _Grid:
    """Grid points on a box, and the field at them.

    Args:
        field: what to evaluate.
        box: lower and upper corner of the box [2, 3] in float64.
        resolution: number of cells along the longest side; the others get as many as keep cells cubic to within the
            rounding to a whole number (never longer than along the longest side).
        chunk_size: points per query.
        margin: how far the outermost grid points stay within the box, in cells.
        lipschitz: bound on how fast the field changes per scene unit; None: unknown.
    """

    def __init__(
        self,
        field: IsoField,
        box: Float[NDArray, "2 3"],
        resolution: int,
        chunk_size: int,
        margin: float = 0.0,
        lipschitz: float | None = None,
    ) -> None:
        size = box[1] - box[0]
        self.cells = np.maximum(np.ceil(size / size.max() * resolution - 1e-6).astype(int), 1)
        self.spacing = size / (self.cells + 2.0 * margin)
        self.origin = box[0] + margin * self.spacing
        self.field, self.chunk_size, self.lipschitz = field, chunk_size, lipschitz
        self.lowest, self.highest = math.inf, -math.inf
        self.slab_cells = SKIP_BLOCK
        if lipschitz is None:
            self.slab_cells = max(1, chunk_size // int(np.prod(self.cells[1:] + 1)))
        # One table of coordinates per axis, so that a grid point has the same coordinates whoever asks.
        self.axes = [
            torch.from_numpy(self.origin[k] + np.arange(self.cells[k] + 1) * self.spacing[k]).float().to(field.device)
            for k in range(3)
        ]

    def inside_by(self, points: Float[Tensor, "n 3"]) -> Float[NDArray, " n"]:
        """How far the field at some points is beyond the level: positive inside, negative outside, never NaN."""
        with torch.no_grad():
            raw = self.field.value(points)
        value = raw.detach().float().reshape(-1).cpu().numpy()
        if len(value) != len(points):
            raise ValueError(f"the field gave {tuple(raw.shape)} values for {len(points)} points")
        low, high = float(value.min()), float(value.max())
        if math.isnan(low):
            where = points[int(np.isnan(value).argmax())].tolist()
            problem = f"the field is not a number at ({', '.join(f'{x:.4g}' for x in where)})"
            raise InputError(problem, "Use a checkpoint from before the training diverged")
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        beyond = value - np.float32(self.field.level)
        return np.clip(beyond if self.field.inside_above else -beyond, -1e20, 1e20)

    def at(self, points: Float[NDArray, "n 3"]) -> Float[NDArray, " n"]:
        """`inside_by` for at most `chunk_size` positions in float64."""
        return self.inside_by(torch.from_numpy(points).float().to(self.field.device))

    def slabs(self) -> Iterator[tuple[int, Float[NDArray, "m y z"]]]:
        """The values of `inside_by` on slabs of planes x = const; a slab begins with the last plane of the one before.

        Yields: number of the slab's first plane, and its values.
        """
        _, ny, nz = (int(n) + 1 for n in self.cells)
        carried = None
        for first in range(0, int(self.cells[0]), self.slab_cells):
            last = min(first + self.slab_cells, int(self.cells[0]))
            slab = np.full((last - first + 1, ny, nz), np.nan, dtype=np.float32)
            if carried is not None:
                slab[0] = carried
            sign = None if self.lipschitz is None else self._skip_far_blocks(slab, first, last, self.lipschitz)
            flat = slab.reshape(-1)
            wanted = np.flatnonzero(np.isnan(flat))
            for start in range(0, len(wanted), self.chunk_size):
                chunk = wanted[start : start + self.chunk_size]
                index = torch.from_numpy(chunk).to(self.field.device)
                rows = torch.div(index, nz, rounding_mode="floor")
                planes = torch.div(rows, ny, rounding_mode="floor")
                along = (first + planes, rows - ny * planes, index - nz * rows)
                points = torch.stack([axis[number] for axis, number in zip(self.axes, along)], dim=-1)
                flat[chunk] = self.inside_by(points)
            if sign is not None:
                # Should the bound be wrong, the side that the slab before has meshed stays as it is.
                slab[0] = np.where((slab[0] > 0) == (sign > 0), slab[0], np.where(sign > 0, 1e-20, -1e-20))
            carried = slab[-1].copy()
            yield first, slab

    def _skip_far_blocks(
        self, slab: Float[NDArray, "m y z"], first: int, last: int, lipschitz: float
    ) -> Float[NDArray, "y z"] | None:
        """Fill in, as ±_FAR, the grid points around which the value at a block's centre excludes the surface.

        What remains to be evaluated is NaN. It includes points of the carried plane that were skipped in the slab
        before but touch the surface's neighbourhood here.

        Returns: the carried plane as it was, if there is one.
        """
        blocks = [np.arange(0, int(n), SKIP_BLOCK) for n in self.cells[1:]]
        lower = np.stack([np.full((len(blocks[0]), len(blocks[1])), first), *np.meshgrid(*blocks, indexing="ij")], -1)
        upper = np.minimum(lower + SKIP_BLOCK, [last, *self.cells[1:]])
        centers = (self.origin + 0.5 * (lower + upper) * self.spacing).reshape(-1, 3)
        reach = lipschitz * 0.5 * np.linalg.norm((upper - lower) * self.spacing, axis=-1)
        middle = np.concatenate(
            [self.at(centers[i : i + self.chunk_size]) for i in range(0, len(centers), self.chunk_size)]
        ).reshape(reach.shape)

        def per_cell(values: NDArray) -> NDArray:
            repeated = values.repeat(SKIP_BLOCK, axis=0).repeat(SKIP_BLOCK, axis=1)
            return repeated[: self.cells[1], : self.cells[2]]

        # A point belongs to the cells before and after it; one of them being near is enough to need its value.
        near = np.pad(per_cell(np.abs(middle) <= reach), 1)
        needed = near[1:, 1:] | near[:-1, 1:] | near[1:, :-1] | near[:-1, :-1]
        side = np.where(np.pad(per_cell(middle > 0), ((0, 1), (0, 1)), mode="edge"), _FAR, -_FAR)
        sign = None
        if not np.isnan(slab[0, 0, 0]):
            sign = slab[0].copy()
            slab[0][needed & (np.abs(sign) == np.float32(_FAR))] = np.nan
        slab[:] = np.where(np.isnan(slab) & ~needed, side, slab)
        return sign


class _Surface:
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
        with_colors: give vertices the field's colours, if it has any.
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
    grid = _Grid(field, box, resolution, chunk_size, EDGE_MARGIN if close else 0.0, lipschitz)
    pad = int(close)
    with _progress_bar(progress) as advance:
        surface = _Surface()
        slabs = range(0, int(grid.cells[0]), grid.slab_cells)
        for first, slab in grid.slabs():
            if close:  # a layer of outside around the grid
                before, after = int(first == 0), int(first == slabs[-1])
                slab = np.pad(slab, ((before, after), (1, 1), (1, 1)), constant_values=-_OUTSIDE)
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
                colors = in_chunks("Colours", lambda at: _colors(color, vertices[at], head_on[at], field.device))
    return Mesh(vertices, faces, normals if with_normals else None, colors)


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
    grid: _Grid, base: Int[NDArray, "v 3"], axis: Int[NDArray, " v"], ends: Float[NDArray, "v 2"], refine: int
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
    grid: _Grid, places: Float[NDArray, "v 3"], axis: Int[NDArray, " v"], ends: Float[NDArray, "v 2"]
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
    result = _unit(normals.detach().double().cpu().numpy())
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


def _differences(grid: _Grid, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Gradient of the field's value by central differences over one voxel."""
    columns = []
    with torch.no_grad():
        for axis in range(3):
            half = torch.zeros(3, device=points.device)
            half[axis] = 0.5 * float(grid.spacing[axis])
            difference = grid.field.value(points + half) - grid.field.value(points - half)
            columns.append(difference.float().reshape(-1) / float(grid.spacing[axis]))
    return torch.stack(columns, dim=-1)


def _colors(
    color: Callable[[Tensor, Tensor], Tensor],
    places: Float[NDArray, "v 3"],
    normals: Float[NDArray, "v 3"],
    device: torch.device | str,
) -> Float[NDArray, "v 3"]:
    """The field's colours at vertices, in [0, 1]."""
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
    return _unit(total)


def _unit(vectors: Float[NDArray, "n 3"]) -> Float[NDArray, "n 3"]:
    """Vectors scaled to length 1; zero vectors stay zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)


def _empty(grid: _Grid) -> InputError:
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
