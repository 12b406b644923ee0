"""The hash grid in plain torch: on any device, in any precision, differentiable as often as one likes.

It is the definition of what the other implementations compute, and what is used where these cannot run.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from common_ns.hash_grid.levels import PRIMES, GridShape, count_active, level_weight


class _Constants(NamedTuple):
    """The active levels as tensors."""

    scale: Float[Tensor, "l 1"]
    last_cell: Float[Tensor, "l 1"]
    offset: Int[Tensor, "l 1"]
    steps: Int[Tensor, "l 3"]
    """What a step along each axis adds to the number of a dense level's vertex; of hashed ones, the primes."""
    dense: int
    """Dense levels; they come first."""


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # they are kept, and used again where gradients are computed
def _constants(shape: GridShape, count: int, device: torch.device, dtype: torch.dtype) -> _Constants:
    levels = shape.levels[:count]
    steps = [PRIMES if level.hashed else (1, level.vertices, level.vertices**2) for level in levels]
    return _Constants(
        scale=torch.tensor([[level.scale] for level in levels], dtype=dtype, device=device),
        last_cell=torch.tensor([[float(level.vertices - 2)] for level in levels], dtype=dtype, device=device),
        offset=torch.tensor([[level.offset] for level in levels], device=device),
        steps=torch.tensor(steps, device=device),
        dense=sum(not level.hashed for level in levels),
    )


class _Cells(NamedTuple):
    """Where points are in the cells of the active levels."""

    rows: Float[Tensor, "n l 8 F"]
    """Of the table, at the corners of the cell; x changes fastest."""
    weights: Float[Tensor, "n l 3 2"]
    """Of the lower and the upper corners along each axis; a corner's weight is the product of three."""
    slopes: Float[Tensor, "n l 3 2"]
    """Derivatives of the weights with respect to the position."""


def _outer(x: Tensor, y: Tensor, z: Tensor) -> Float[Tensor, "n l 8"]:
    """For each corner, the product of what belongs to it along the axes, [n, l, 2] each."""
    return ((z[..., :, None] * y[..., None, :])[..., None] * x[..., None, None, :]).flatten(-3)


def _locate(shape: GridShape, count: int, table: Float[Tensor, "T F"], x: Float[Tensor, "n 3"]) -> _Cells:
    constants = _constants(shape, count, x.device, x.dtype)
    inside = (x >= 0) & (x <= 1)
    limited = x.detach().nan_to_num(nan=0.0, posinf=1.0, neginf=0.0).clamp(0, 1)
    place = torch.where(inside, x, limited)[:, None] * constants.scale + 0.5
    cell = torch.minimum(place.detach().floor(), constants.last_cell)
    fraction = place - cell

    number = cell.long() * constants.steps
    number = torch.stack([number, number + constants.steps], -1)  # [n, l, 3, 2]: of lower and of upper corners
    x2, y2, z2 = number[:, : constants.dense].unbind(2)
    plain = ((z2[..., :, None] + y2[..., None, :])[..., None] + x2[..., None, None, :]).flatten(2)
    x2, y2, z2 = number[:, constants.dense :].unbind(2)
    hashed = ((z2[..., :, None] ^ y2[..., None, :])[..., None] ^ x2[..., None, None, :]).flatten(2)
    if constants.dense < count:
        hashed = hashed & (shape.levels[count - 1].size - 1)
    index = torch.cat([plain, hashed], 1) + constants.offset
    # Its gradient takes a tenth of the time of that of an embedding.
    rows = table.index_select(0, index.flatten()).unflatten(0, index.shape)

    slope = constants.scale * inside[:, None]
    if shape.smooth:
        slope = 6 * fraction * (1 - fraction) * slope
        fraction = fraction * fraction * (3 - 2 * fraction)
    return _Cells(rows, torch.stack([1 - fraction, fraction], -1), torch.stack([-slope, slope], -1))


def _sum_corners(weights: Float[Tensor, "n l k 8"], rows: Float[Tensor, "n l 8 F"]) -> Float[Tensor, "n l k F"]:
    """Weighted sums of rows; on GPUs not as matrix products, which may be set to be rounded to TF32 there."""
    if weights.device.type == "cpu":
        return torch.matmul(weights, rows)
    return (weights[..., None] * rows[:, :, None]).sum(3)


def _finish(shape: GridShape, active_levels: float, y: Float[Tensor, "n l k F"]) -> Float[Tensor, "n k L*F"]:
    """Weigh the levels, and append zeros for those that are not active."""
    count = y.shape[1]
    if active_levels < count:
        weights = [level_weight(active_levels, level) for level in range(count)]
        y = y * torch.tensor(weights, dtype=y.dtype, device=y.device)[:, None, None]
    y = y.transpose(1, 2).flatten(2)
    return functional.pad(y, (0, shape.output_dim - y.shape[2]))


def _nothing(shape: GridShape, table: Float[Tensor, "T F"], x: Float[Tensor, "n 3"]) -> Float[Tensor, "n L*F"]:
    """Features without active levels: zeros that have derivatives, all 0, as those of other implementations do."""
    zero = 0 * torch.where(x.isfinite(), x, 0).sum(1, keepdim=True) + 0 * table[:1].sum()
    return zero.expand(len(x), shape.output_dim).contiguous()


def interpolate(
    shape: GridShape, table: Float[Tensor, "T F"], x: Float[Tensor, "n 3"], active_levels: float
) -> Float[Tensor, "n L*F"]:
    """Features of positions.

    Args:
        shape: the grid.
        table: rows of all levels.
        x: positions in the unit cube; what is outside is moved to its surface, NaN to 0.
        active_levels: see `level_weight`.
    """
    count = count_active(shape, active_levels)
    if count == 0 or len(x) == 0:
        return _nothing(shape, table, x)
    cells = _locate(shape, count, table, x)
    weights = _outer(*cells.weights.unbind(2))[:, :, None]
    return _finish(shape, active_levels, _sum_corners(weights, cells.rows))[:, 0]


def interpolate_with_jacobian(
    shape: GridShape, table: Float[Tensor, "T F"], x: Float[Tensor, "n 3"], active_levels: float
) -> tuple[Float[Tensor, "n L*F"], Float[Tensor, "3 n L*F"]]:
    """Features of positions, and their derivatives with respect to each coordinate of the position.

    Args: as for `interpolate`.
    """
    count = count_active(shape, active_levels)
    if count == 0 or len(x) == 0:
        nothing = _nothing(shape, table, x)
        return nothing, torch.stack([nothing] * 3)
    cells = _locate(shape, count, table, x)
    wx, wy, wz = cells.weights.unbind(2)
    dx, dy, dz = cells.slopes.unbind(2)
    weights = torch.stack([_outer(*axes) for axes in ((wx, wy, wz), (dx, wy, wz), (wx, dy, wz), (wx, wy, dz))], 2)
    y, *jacobian = _finish(shape, active_levels, _sum_corners(weights, cells.rows)).unbind(1)
    return y, torch.stack(jacobian)
