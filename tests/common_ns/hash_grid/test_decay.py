"""Decay by levels against a loop, and its gradient against autograd's."""

import pytest
import torch

from common_ns.hash_grid.decay import level_mean_squares, normalized_weight_decay
from common_ns.hash_grid.levels import make_shape

SHAPE = make_shape(
    num_levels=4, features=3, log2_table_size=9, base_resolution=4, max_resolution=32, smooth=False
)  # levels of 125, 512, 512 and 512 rows


def table(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(SHAPE.rows, SHAPE.features, generator=generator, dtype=dtype)
    for index, level in enumerate(SHAPE.levels):
        rows[level.offset : level.offset + level.size] *= 10.0**-index
    return rows.requires_grad_()


def test_each_level_has_the_mean_of_its_own_rows():
    rows = table()
    looped = []
    for level in SHAPE.levels:
        squares = [value**2 for row in rows[level.offset : level.offset + level.size].tolist() for value in row]
        looped.append(sum(squares) / len(squares))
    assert len({level.size for level in SHAPE.levels}) > 1
    torch.testing.assert_close(level_mean_squares(rows, SHAPE), torch.tensor(looped, dtype=torch.float64))
    assert normalized_weight_decay(rows, SHAPE).item() == pytest.approx(sum(looped))


def test_gradient():
    small = make_shape(num_levels=3, features=2, log2_table_size=4, base_resolution=2, max_resolution=4, smooth=False)
    rows = table()[: small.rows, :2].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: level_mean_squares(rows, small)[1:] * 2.0, (rows,))


def test_float32_sums_of_many_rows_are_accurate():
    large = make_shape(2, 4, 20, 16, 2048, smooth=False)
    rows = 1e-4 * torch.rand(large.rows, 4, generator=torch.Generator().manual_seed(1))
    expected = level_mean_squares(rows.double(), large)
    torch.testing.assert_close(level_mean_squares(rows, large).double(), expected, rtol=3e-6, atol=0)
