"""Weight decay of a grid's features in which every level counts the same.

Fine levels have thousands of times as many rows as coarse ones. A sum of squares over all rows is a decay of the fine
levels only in the loss, and one over all rows' mean hardly touches the coarse levels; the mean over each level's own
rows, summed over the levels, weighs them alike (Zip-NeRF, arXiv 2304.06706, "normalized weight decay").
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from common_ns.hash_grid.levels import GridShape

_RUN = 4096


def level_mean_squares(table: Float[Tensor, "rows F"], shape: GridShape) -> Float[Tensor, "L"]:
    """Mean of the squares of each level's features, over all of its rows.

    Its gradient is 2 / (size · F) times the table, written level by level in one pass. There is no second derivative.

    Args:
        table: features of all levels' rows, as `HashGrid.table`.
        shape: which rows are whose.
    """
    return _LevelMeanSquares.apply(table, tuple(level.size for level in shape.levels))  # type: ignore[return-value]


def normalized_weight_decay(table: Float[Tensor, "rows F"], shape: GridShape) -> Float[Tensor, ""]:
    """Sum over levels of the mean squares of their features; see `level_mean_squares`.

    The authors' code multiplies it by half of the weight that they state: 0.1 there is 0.05 of this.
    """
    return level_mean_squares(table, shape).sum()


class _LevelMeanSquares(torch.autograd.Function):
    """Without autograd's copies: squares of the table forward, and slices of zeros backward."""

    @staticmethod
    def forward(ctx, table: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(table)
        ctx.sizes = sizes
        return torch.stack([_mean_square(rows.reshape(-1)) for rows in table.detach().split(sizes)])

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (table,) = ctx.saved_tensors
        result = torch.empty_like(table)
        for rows, out, factor in zip(table.split(ctx.sizes), result.split(ctx.sizes), gradients[0]):
            torch.mul(rows, factor * (2.0 / rows.numel()), out=out)
        return result, None


def _mean_square(values: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Without a tensor of squares, and in runs, as float32 loses digits of a sum over millions."""
    runs = values.unflatten(0, (-1, _RUN)) if values.numel() % _RUN == 0 else values[None]
    return torch.linalg.vector_norm(runs, dim=-1).square().sum() / values.numel()
