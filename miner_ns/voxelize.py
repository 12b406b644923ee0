"""Which voxels of a regular grid lie inside of a triangle mesh.

Along an axis, what lies on a column of voxels between entering the surface and leaving it again is inside. Crossings
are found by filling triangles in integer arithmetic (`columns`), so that a closed mesh gives no streaks, whatever is
aligned with whatever, and time goes with the surface in voxels plus one sum along the columns.

Where a mesh has holes, a column through one does not come out again. It abstains, columns along the other axes and
beside it decide, and what is left open follows its neighbors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int64
from numpy.typing import NDArray
from rich.progress import track

from common_ns.data.memory import require_memory
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.renames import SuiteConfig
from miner_ns.columns import (
    MAX_RESOLUTION,
    ONE,
    Crossings,
    add_fractions,
    add_points,
    fill_undecided,
    find_changes,
    find_crossings,
)
from miner_ns.mending import Mending, mend
from miner_ns.signal import Signal

SLAB_VOXELS = 2**23
"""About how many voxels are in work at once."""
SLAB_ROWS = 8
"""Fewest layers of voxels in work at once: undecided voxels look for neighbors there."""
CHUNK_ROWS = 128
"""Rows of columns whose crossings are found at once."""
JITTERED_WEIGHT = 0.25
"""Weight of columns beside a voxel's center: they decide only where those through the center do not."""
TIE = 1e-4
"""Shares of votes that are so close to one half are a tie."""
CENTER_WEIGHT = 2e-3
"""Weight of the column through the center that decides on a tie of an even number of sub-columns, as a share of theirs.
Where the surface lies along the columns there are many ties, and taking them all as outside would move it inwards."""

# (row, place, along) axes of the columns, and whether that order of axes mirrors space.
_AXES = (((0, 1, 2), False), ((1, 2, 0), False), ((0, 2, 1), True))


@dataclass
class VoxelizeOptions(SuiteConfig):
    """How a mesh becomes occupancy."""

    resolution: int = 256
    """Voxels along each side of the cube around the mesh."""
    margin: float = 0.05
    """Free space on each side of the mesh's longest extent, as a share of that extent."""
    subvoxel: int = 1
    """With 1, a voxel is inside if its center is. With m, m² columns per voxel and axis measure the share of it that is
    inside, and more than half must be."""
    votes: int = 1
    """How many columns decide on a voxel: 1 for a closed mesh; for one with holes 3 (along x, y and z), or 9, 15, …, of
    which all but three pass beside the voxel's center."""
    fill: Literal["auto", "winding", "parity"] = "auto"
    """What counts as inside. winding: where the surface winds around; parts may overlap, triangles must face one way.
    parity: what an odd number of crossings parts from the outside. auto: winding, after triangles and parts that face
    the wrong way were turned around; parity if that is impossible."""
    fractions: bool = False
    """Keep the share of each voxel that is inside, in 8 bits, instead of one bit."""

    def check(self) -> None:
        """Raises InputError about options that cannot work."""
        if not 2 <= self.resolution <= MAX_RESOLUTION:
            raise InputError(f"--resolution is {self.resolution}", f"Choose a number from 2 to {MAX_RESOLUTION}")
        if not 0.0 <= self.margin <= 10.0:
            raise InputError(f"--margin is {self.margin}", "Choose a share from 0 to 10")
        if not 1 <= self.subvoxel <= 16:
            raise InputError(f"--subvoxel is {self.subvoxel}", "Choose a number from 1 to 16")
        if not (self.votes == 1 or (3 <= self.votes <= 99 and self.votes % 3 == 0)):
            raise InputError(f"--votes is {self.votes}", "Choose 1, or a multiple of 3 up to 99")


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume are."""

    shape: tuple[int, int, int]
    """Voxels along x, y and z."""
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Corner of the first voxel in the coordinates of the mesh; the voxel's center is half a voxel further."""
    voxel_size: float = 1.0
    """Side of a voxel in the unit of the mesh."""


@dataclass(frozen=True)
class Voxels:
    """Occupancy on a grid."""

    signal: Signal
    """Occupancy, or the share inside, with axes x, y and z."""
    grid: Grid
    """Where it is."""
    undecided: int = 0
    """Voxels that no majority of columns decided on; they follow their neighbors."""
    mending: Mending | None = None
    """What was found and mended of the mesh; None for a volume that was read."""


def bounding_grid(vertices: Float[NDArray, "v 3"], options: VoxelizeOptions, source: Path | str | None = None) -> Grid:
    """The cube of voxels around all vertices.

    Args:
        vertices: finite, in any unit.
        options: voxels along each side, and free space.
        source: the file, for messages.
    Raises: InputError if the vertices have no extent.
    """
    n = options.resolution
    low, high = vertices.min(axis=0).astype(np.float64), vertices.max(axis=0).astype(np.float64)
    with np.errstate(over="ignore"):
        side = float((high - low).max()) * (1.0 + 2.0 * options.margin)
    if not 1e-300 < side < math.inf:
        raise InputError(f"the mesh has an extent of {side}", "Give a mesh of more than one point", source)
    x, y, z = (0.5 * (low + high) - 0.5 * side).tolist()
    return Grid((n, n, n), (x, y, z), side / n)


def voxelize(
    vertices: Float[NDArray, "v 3"],
    faces: Int[NDArray, "f 3"],
    options: VoxelizeOptions,
    progress: bool = False,
    source: Path | str | None = None,
) -> Voxels:
    """The voxels of a cube around a mesh that are inside of it. Faces that are there twice count once.

    Args:
        vertices: finite, in any unit.
        faces: vertex numbers of triangles.
        options: the grid and what counts as inside.
        progress: show a progress bar.
        source: the file, for messages.
    Raises: InputError if an option cannot work, no voxel is inside, or the result would not fit into memory.
    """
    options.check()
    n = options.resolution
    slab = min(n, max(SLAB_ROWS, SLAB_VOXELS // (n * n)))
    result_bytes = n**3 if options.fractions else n * n * -(-n // 8)
    # A slab needs sums, votes, their weights and temporaries in float32. Columns along the first axis are remembered:
    # 17 bytes for each of some four changes between inside and outside.
    through = options.subvoxel**2 * (options.votes // 3) * n * n * 4 * 17
    # Triangles in fixed point are sorted along each axis: nine numbers of 8 bytes and their extent. Mending takes 450.
    triangles = len(faces) * max(88 * (min(options.votes, 3) + 1), 450)
    require_memory(triangles, f"a mesh of {len(faces):,} triangles", "Decimate it", source)
    needed = result_bytes + 24 * slab * n * n + through + triangles
    require_memory(needed, f"an occupancy of {n}³ voxels", "Lower --resolution", source)

    grid = bounding_grid(vertices, options, source)
    fixed = np.rint((vertices - grid.origin) / grid.voxel_size * ONE).astype(np.int64) - ONE // 2
    mending = mend(fixed, faces, orient=options.fill == "auto")
    winding = options.fill == "winding" or (options.fill == "auto" and mending.twisted_edges == 0)
    axes = [_Axis(fixed[mending.faces], n, i, winding, options) for i in range(min(options.votes, 3))]

    undecided = 0
    result = np.empty((n, n, result_bytes // (n * n)), dtype=np.uint8)
    starts = range(0, n, slab)
    for start in track(starts, "Voxelizing", transient=True, disable=not progress):
        rows = range(start, min(start + slab, n))
        inside, open_voxels = _decide([axis.votes(rows) for axis in axes], options.fractions)
        undecided += open_voxels
        is_bool = inside.dtype == bool
        result[start : rows.stop] = np.packbits(inside, axis=-1) if is_bool else np.rint(inside * 255.0)
    if not result.any():
        what = f"it has {mending.open_edges:,} open edges" if mending.open_edges else "it is closed, but too thin"
        remedy = "Close it, or set --votes 9" if mending.open_edges else "Raise --resolution, or thicken it"
        raise InputError(f"no voxel of {n}³ is inside of the mesh: {what}", remedy, source)
    signal = Signal(result, ndim=3) if options.fractions else Signal.from_bits(result, grid.shape)
    return Voxels(signal, grid, undecided, mending)


class _Votes(NamedTuple):
    """What the columns along one axis say about a slab."""

    inside: Int64[NDArray, "s n n"] | Float32[NDArray, "s n n"]
    """Sum of the weights of the columns that find a voxel inside (or of the shares that they find)."""
    weight: Float32[NDArray, "#s #n #n"]
    """Sum of the weights of the columns that have a vote."""


def _decide(votes: list[_Votes], fractions: bool) -> tuple[Bool[NDArray, "s n n"] | Float32[NDArray, "s n n"], int]:
    """The majority (or the share inside) of each voxel of a slab, and how many voxels had none."""
    inside = votes[0].inside if len(votes) == 1 else sum(vote.inside for vote in votes[1:]) + votes[0].inside
    if all(vote.weight.min() == vote.weight.max() for vote in votes):  # all columns came out again
        weight = np.float32(sum(float(vote.weight.flat[0]) for vote in votes))
        return (inside / weight if fractions else inside > (0.5 + TIE) * weight), 0
    weight = np.broadcast_to(sum(vote.weight for vote in votes), inside.shape)
    share = np.divide(inside, weight, out=np.zeros(inside.shape, dtype=np.float32), where=weight > 0)
    result = share > 0.5 + TIE
    undecided = (weight == 0) | (np.abs(share - 0.5) < TIE)
    fill_undecided(result, undecided)
    return (np.where(undecided, result, share) if fractions else result), int(undecided.sum())


class _Axis:
    """All columns along one axis: one or more per voxel.

    Args:
        triangles: corners (x, y, z) in fixed point.
        resolution: voxels along each side.
        number: which of `_AXES`.
        winding: whether the orientation of triangles counts, see `find_changes`.
        options: sub-columns and votes.
    """

    def __init__(
        self,
        triangles: Int64[NDArray, "t 3 3"],
        resolution: int,
        number: int,
        winding: bool,
        options: VoxelizeOptions,
    ) -> None:
        order, mirrored = _AXES[number]
        self.order, self.winding, self.resolution = order, winding, resolution
        # Mirrored triangles face the other way; so do they with two corners exchanged.
        self.triangles = triangles[:, ::-1][:, :, order] if mirrored else triangles[:, :, order]
        self.passes = list(_passes(options, -(-options.votes // 3), number))
        self.by_share = options.subvoxel > 1 or options.fractions
        self.dtype = np.int8 if len(self.passes) == 1 and not self.by_share else np.float32
        self.low, self.high = self.triangles[:, :, 0].min(axis=1), self.triangles[:, :, 0].max(axis=1)
        # Columns along the first axis go through all slabs: they are followed once.
        self.through = self._through() if order[2] == 0 else None

    def votes(self, rows: range) -> _Votes:
        """What these columns say about the layers `rows` of the first axis."""
        n = self.resolution
        if self.through is not None:
            sums = np.zeros((n * n, len(rows) + 2), dtype=self.dtype)
            changes, weight = self.through
            for (_, _, pass_weight), (column, height, sign) in zip(self.passes, changes):
                self._add(Crossings(column, height - rows.start, sign), sums, pass_weight)
            return _Votes(np.moveaxis(self._sum(sums, n), 2, 0), weight[None])
        sums = np.zeros((len(rows) * n, n + 2), dtype=self.dtype)
        weight = np.zeros((len(rows), n), dtype=np.float32)
        for one_pass in self.passes:
            changes, closed = self._follow(rows, one_pass)
            self._add(changes, sums, one_pass[2])
            weight += one_pass[2] * closed
        inside = self._sum(sums, n)
        if self.order[2] == 1:
            return _Votes(inside.transpose(0, 2, 1), weight[:, None, :])
        return _Votes(inside, weight[:, :, None])

    def _through(self) -> tuple[list[Crossings], Float32[NDArray, "n n"]]:
        """The changes along all columns for each pass, and the columns' weights."""
        n = self.resolution
        weight = np.zeros((n, n), dtype=np.float32)
        all_changes = []
        for one_pass in self.passes:
            parts = []
            for start in range(0, n, CHUNK_ROWS):
                rows = range(start, min(start + CHUNK_ROWS, n))
                (column, height, sign), closed = self._follow(rows, one_pass)
                parts.append((column + start * n, height.astype(np.float32), sign))
                weight[start : rows.stop] += one_pass[2] * closed
            all_changes.append(Crossings(*(np.concatenate(part) for part in zip(*parts))))
        return all_changes, weight

    def _follow(self, rows: range, one_pass: tuple[int, int, float]) -> tuple[Crossings, Bool[NDArray, "r n"]]:
        """Changes along the columns of some rows for one pass, and which columns have a vote."""
        near = (self.high >= (rows.start - 1) * ONE) & (self.low <= rows.stop * ONE)
        shifted = self.triangles[near] - np.array([*one_pass[:2], 0])
        crossings = find_crossings(shifted, rows, self.resolution)
        changes, closed = find_changes(crossings, len(rows) * self.resolution, self.winding)
        return changes, closed.reshape(len(rows), self.resolution)

    def _add(self, changes: Crossings, sums: NDArray, weight: float) -> None:
        (add_fractions if self.by_share else add_points)(changes, sums, weight)

    @staticmethod
    def _sum(sums: NDArray, n: int) -> NDArray:
        """Changes summed up along the columns [rows, n, voxels along a column]."""
        np.cumsum(sums, axis=1, out=sums, dtype=sums.dtype)
        return sums[:, :-2].reshape(-1, n, sums.shape[1] - 2)


def _passes(options: VoxelizeOptions, rounds: int, seed: int) -> Iterator[tuple[int, int, float]]:
    """For each column of a voxel, where it passes beside the voxel's center (in fixed point) and its weight.

    The first round is a regular grid of subvoxel² columns; further rounds shift it at random, always in the same way.
    """
    m = options.subvoxel
    rng = np.random.default_rng(seed)
    for number in range(rounds):
        shift = rng.uniform(-0.5, 0.5, 2) if number else np.zeros(2)
        for index in np.ndindex(m, m):
            row, place = np.rint(ONE * ((np.array(index) + 0.5 + shift) / m - 0.5)).astype(int).tolist()
            yield row, place, JITTERED_WEIGHT if number else 1.0
    if m % 2 == 0 and not options.fractions:
        yield 0, 0, CENTER_WEIGHT * m**2
