"""The values of a field on the grid points of a box, slab by slab.

The box is swept in slabs of grid planes. Each grid point is evaluated exactly once, in queries of at most `chunk_size`
points, and the last plane of a slab is carried into the next. Where it is known how fast the field changes, blocks that
its surface cannot reach are skipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from common_ns.checks import InputError
from common_ns.iso_field import IsoField

SKIP_BLOCK = 8
"""Side in cells of the blocks that `lipschitz` may skip."""
# Values beyond ±1e20 are clipped, so that these two cannot be mistaken for a field's value.
FAR = 1e30
"""Size of the value at a grid point that was proven to be far from the surface."""
OUTSIDE = 1e38
"""Size of the value at a grid point beyond the box."""


class FieldGrid:
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
        """How far the field at some points is beyond the level: positive inside, negative outside, never NaN.

        Raises: InputError if the field is not a number at one of them.
        """
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
        """Fill in, as ±FAR, the grid points around which the value at a block's center excludes the surface.

        What remains to be evaluated is NaN. It includes points of the carried plane that were skipped in the slab
        before but touch the surface's neighborhood here.

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
        side = np.where(np.pad(per_cell(middle > 0), ((0, 1), (0, 1)), mode="edge"), FAR, -FAR)
        sign = None
        if not np.isnan(slab[0, 0, 0]):
            sign = slab[0].copy()
            slab[0][needed & (np.abs(sign) == np.float32(FAR))] = np.nan
        slab[:] = np.where(np.isnan(slab) & ~needed, side, slab)
        return sign
