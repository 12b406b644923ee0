"""Levels as exact means, blocks of any size of signal."""

from __future__ import annotations

import numpy as np
import pytest

from miner_ns.pyramid import BlockGrid, Pyramid, paste_blocks
from miner_ns.signal import Signal


def image(height: int, width: int, channels: int = 3, dtype=np.uint8) -> Signal:
    rng = np.random.default_rng(0)
    if dtype == np.uint8:
        return Signal(rng.integers(0, 256, (height, width, channels), dtype=np.uint8), 2)
    return Signal(rng.random((height, width, channels)).astype(np.float32), 2, value_range=(0.0, 1.0))


def level_by_loops(values: np.ndarray, level: int) -> np.ndarray:
    """Mean over what there is of every 2^level × 2^level samples."""
    step = 2**level
    rows = range(0, values.shape[0], step)
    columns = range(0, values.shape[1], step)
    return np.array([[values[r : r + step, c : c + step].mean(axis=(0, 1)) for c in columns] for r in rows])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (5, 64), (1, 9)])
def test_levels_are_means_over_what_there_is(height, width):
    signal = image(height, width)
    values = signal.read((0, 0), (height, width)).astype(np.float64)
    pyramid = Pyramid(signal, 4, 8, strip=500)  # several strips
    for level in range(4):
        expected = level_by_loops(values, level)
        assert pyramid.grids[level].shape == expected.shape[:2]
        assert np.abs(pyramid.read(level, (0, 0), expected.shape[:2]) - expected).max() < level * 1e-5 + 1e-7


def test_float_signals_keep_their_precision():
    signal = image(20, 20, dtype=np.float32)
    values = signal.read((0, 0), (20, 20)).astype(np.float64)
    assert np.abs(Pyramid(signal, 3, 8).read(2, (0, 0), (5, 5)) - level_by_loops(values, 2)).max() < 1e-6


def test_volume_levels():
    volume = np.random.default_rng(0).random((6, 5, 4)) > 0.5
    pyramid = Pyramid(Signal.from_occupancy(volume), 2, 2)
    expected = np.array(
        [[[volume[i : i + 2, j : j + 2, k : k + 2].mean() for k in (0, 2)] for j in (0, 2, 4)] for i in (0, 2, 4)]
    )
    assert np.abs(pyramid.read(1, (0, 0, 0), (3, 3, 2))[..., 0] - expected).max() < 1e-5


def test_blocks_cut_and_pasted_give_the_level_back():
    signal = image(37, 50)
    pyramid = Pyramid(signal, 2, 16)
    for level in range(2):
        grid = pyramid.grids[level]
        index = np.arange(grid.num_blocks)
        whole = np.zeros((*grid.shape, 3), dtype=np.float32)
        paste_blocks(whole, grid, index, pyramid.blocks(level, index))
        assert np.array_equal(whole, pyramid.read(level, (0, 0), grid.shape))
        window = np.zeros((9, 7, 3), dtype=np.float32)
        paste_blocks(window, grid, index, pyramid.blocks(level, index), origin=(10, 12))
        assert np.array_equal(window, whole[10:19, 12:19])


def test_valid_samples_are_those_of_the_signal():
    grid = BlockGrid((37, 50), 0, 16)
    valid = grid.valid(np.arange(grid.num_blocks))
    assert valid.sum() == 37 * 50
    assert valid[-1].reshape(16, 16).sum(axis=0).tolist() == [5, 5] + [0] * 14
    assert BlockGrid((32, 64), 0, 16).valid(np.arange(2)) is None


def test_parents_cover_their_children():
    grid = BlockGrid((100, 70, 40), 1, 8)
    index = np.arange(grid.num_blocks)
    coarser = BlockGrid((100, 70, 40), 2, 8)
    low = grid.coordinates(index) * grid.block_extent
    parent = coarser.coordinates(grid.parent(index)) * coarser.block_extent
    assert (parent <= low).all() and (low + grid.block_extent <= parent + coarser.block_extent).all()


def test_local_centers_run_between_the_faces():
    centers = BlockGrid((8, 8), 0, 4).local_centers()
    assert centers[0].tolist() == [-0.75, -0.75] and centers[-1].tolist() == [0.75, 0.75]
    assert centers[1].tolist() == [-0.75, -0.25]  # the last axis runs fastest, as samples do
