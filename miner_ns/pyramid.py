"""A signal at several resolutions, and the blocks that each of them is cut into.

At level j a sample is the mean over 2^j samples along each axis of the signal; level 0 is the signal itself. Blocks
have the same number of samples at every level, so that a block at level j + 1 covers 2^d at level j, its children.
Sizes need not be multiples of anything: the last sample of an axis is the mean over what there is, and what a block has
beyond the signal does not count ("valid").
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from miner_ns.signal import Signal


@dataclass(frozen=True)
class BlockGrid:
    """How a level is cut into blocks.

    Block k of an axis holds the level's samples k·b … (k + 1)·b − 1. Blocks are numbered row by row.
    """

    signal_shape: tuple[int, ...]
    """Samples of the signal along each axis (level 0)."""
    level: int
    """Level j."""
    block_size: int
    """Samples of a block along each axis, b."""

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.signal_shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples of the level along each axis."""
        return tuple(-(-n // 2**self.level) for n in self.signal_shape)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks along each axis."""
        return tuple(-(-n // self.block_size) for n in self.shape)

    @property
    def num_blocks(self) -> int:
        """Blocks of the level."""
        return math.prod(self.blocks)

    @property
    def points_per_block(self) -> int:
        """Samples of a block, b^d."""
        return self.block_size**self.ndim

    @property
    def block_extent(self) -> int:
        """Samples of the signal that a block covers along each axis."""
        return self.block_size * 2**self.level

    def coordinates(self, index: Int[NDArray, " n"]) -> Int[NDArray, "n d"]:
        """Position of blocks in the grid of blocks, from their numbers."""
        return np.stack(np.unravel_index(index, self.blocks), axis=-1)

    def parent(self, index: Int[NDArray, " n"]) -> Int[NDArray, " n"]:
        """Numbers of the blocks at level j + 1 that hold the given blocks."""
        coarser = BlockGrid(self.signal_shape, self.level + 1, self.block_size)
        return np.asarray(np.ravel_multi_index(tuple((self.coordinates(index) // 2).T), coarser.blocks))

    @property
    def is_masked(self) -> bool:
        """Whether some blocks reach beyond the signal."""
        return any(n % self.block_size for n in self.shape)

    def valid(self, index: Int[NDArray, " n"]) -> Bool[NDArray, "n p"] | None:
        """Which samples of the given blocks lie on the level's grid; None if all do."""
        if not self.is_masked:
            return None
        first = self.coordinates(index) * self.block_size
        inside = [first[:, axis, None] + np.arange(self.block_size) < self.shape[axis] for axis in range(self.ndim)]
        result = inside[0]
        for more in inside[1:]:
            result = result[..., None] & more.reshape(len(index), *([1] * (result.ndim - 1)), -1)
        return result.reshape(len(index), -1)

    def local_centers(self) -> Float[NDArray, "p d"]:
        """Centers of a block's samples in its own coordinates, from −1 to 1 between its faces."""
        axis = (2.0 * np.arange(self.block_size) + 1.0) / self.block_size - 1.0
        return np.stack(np.meshgrid(*[axis] * self.ndim, indexing="ij"), axis=-1).reshape(-1, self.ndim)


class Pyramid:
    """All levels of a signal, from fine to coarse.

    Level 0 is the signal as stored; coarser ones are kept in 16 bits (32-bit floats for a float signal) and together
    take less than a third of a 16-bit copy of it. They are made strip by strip, in memory proportional to a strip.

    Args:
        signal: the signal.
        num_levels: levels, the signal's own included.
        block_size: samples of a block along each axis.
        strip: samples that are averaged at once.
    """

    def __init__(self, signal: Signal, num_levels: int, block_size: int, strip: int = 2**24) -> None:
        self.signal = signal
        self.grids = [BlockGrid(signal.spatial_shape, level, block_size) for level in range(num_levels)]
        self._store = _coarse_type(signal.dtype)
        self._coarse: list[NDArray] = []
        for level in range(1, num_levels):
            self._coarse.append(self._halved(level, strip))

    @property
    def num_levels(self) -> int:
        """Number of levels."""
        return len(self.grids)

    @property
    def nbytes(self) -> int:
        """Bytes that the levels above the signal take."""
        return sum(array.nbytes for array in self._coarse)

    def read(self, level: int, lower: Sequence[int], upper: Sequence[int]) -> Float[NDArray, "... c"]:
        """A box of a level as float32 in [0, 1]; beyond the border its nearest sample repeats."""
        if level == 0:
            return self.signal.read(lower, upper)
        array = self._coarse[level - 1]
        indices = [
            np.clip(np.arange(low, high), 0, size - 1) for low, high, size in zip(lower, upper, array.shape[:-1])
        ]
        box = array[np.ix_(*indices)]
        return box if self._store.kind == "f" else np.divide(box, np.float32(65535.0), dtype=np.float32)

    def blocks(self, level: int, index: Int[NDArray, " n"]) -> Float[NDArray, "n c p"]:
        """The samples of blocks, channel by channel, as training wants them."""
        grid = self.grids[level]
        size = grid.block_size
        result = np.empty((len(index), self.signal.channels, grid.points_per_block), dtype=np.float32)
        for row, position in enumerate(grid.coordinates(index) * size):
            box = self.read(level, position, position + size)
            result[row] = box.reshape(-1, self.signal.channels).T
        return result

    def _halved(self, level: int, strip: int) -> NDArray:
        """Level `level` from the one below it: means over 2^d samples, each weighted by what it covers."""
        below, grid = self.grids[level - 1], self.grids[level]
        result = np.empty((*grid.shape, self.signal.channels), dtype=self._store)
        per_row = math.prod(below.shape[1:]) * self.signal.channels * 2
        rows = max(1, strip // per_row)
        weights = [_coverage(size, level - 1) for size in self.signal.spatial_shape]
        for start in range(0, grid.shape[0], rows):
            stop = min(start + rows, grid.shape[0])
            lower = (2 * start, *[0] * (grid.ndim - 1))
            upper = (2 * stop, *(2 * size for size in grid.shape[1:]))
            box = self.read(level - 1, lower, upper)
            # Samples beyond the border repeat the last one, and weigh nothing.
            for axis in range(grid.ndim):
                first = lower[axis]
                weight = np.zeros(upper[axis] - first, dtype=np.float32)
                inside = weights[axis][first : upper[axis]]
                weight[: len(inside)] = inside
                box = _pair_means(box, axis, weight)
            result[start:stop] = box if self._store.kind == "f" else np.rint(box * 65535.0)
        return result


def _coarse_type(dtype: np.dtype) -> np.dtype:
    """How levels above a signal of some type are stored."""
    return np.dtype(np.float32 if dtype.kind == "f" else np.uint16)


def coarse_bytes(shape: Sequence[int], channels: int, dtype: np.dtype, num_levels: int) -> int:
    """Bytes that the levels above a signal will take (`Pyramid.nbytes`), without making them.

    Args:
        shape: samples of the signal along each axis.
        channels: values per sample.
        dtype: type that the signal stores them in.
        num_levels: levels, the signal's own included.
    """
    samples = sum(math.prod(-(-n // 2**level) for n in shape) for level in range(1, num_levels))
    return samples * channels * _coarse_type(dtype).itemsize


def _coverage(size: int, level: int) -> Float[NDArray, " m"]:
    """How many samples of an axis of `size` samples each of a level's covers."""
    ends = np.minimum(np.arange(1, -(-size // 2**level) + 1) * 2**level, size)
    return np.diff(ends, prepend=0).astype(np.float32)


def _pair_means(box: Float[NDArray, "..."], axis: int, weight: Float[NDArray, " m"]) -> Float[NDArray, "..."]:
    """Weighted means of neighbors along an axis of even length."""
    shape = [1] * box.ndim
    shape[axis] = -1
    even = [slice(None)] * box.ndim
    odd = list(even)
    even[axis], odd[axis] = slice(0, None, 2), slice(1, None, 2)
    total = weight[0::2] + weight[1::2]
    first, second = (weight[0::2] / total).reshape(shape), (weight[1::2] / total).reshape(shape)
    return box[tuple(even)] * first + box[tuple(odd)] * second


def chunked(index: Int[NDArray, " n"], size: int) -> Iterator[Int[NDArray, " m"]]:
    """An array in pieces of at most `size`."""
    for start in range(0, len(index), size):
        yield index[start : start + size]


def paste_blocks(
    target: Float[NDArray, "... c"],
    grid: BlockGrid,
    index: Int[NDArray, " n"],
    values: Float[NDArray, "n c p"],
    origin: Sequence[int] | None = None,
) -> None:
    """Write blocks into an array of a level's samples; what lies outside of the array is left out.

    Args:
        target: samples of the level, beginning at `origin`.
        grid: the level's blocks.
        index: numbers of the blocks.
        values: their samples.
        origin: first sample of `target` along each axis; None: the level's own.
    """
    first = np.zeros(grid.ndim, dtype=int) if origin is None else np.asarray(origin)
    size = grid.block_size
    for position, block in zip(grid.coordinates(index) * size - first, values):
        low, high = np.maximum(position, 0), np.minimum(position + size, target.shape[:-1])
        if (high <= low).any():
            continue
        inner = tuple(slice(a, b) for a, b in zip(low - position, high - position))
        outer = tuple(slice(a, b) for a, b in itertools.zip_longest(low, high))
        target[outer] = block.T.reshape(*[size] * grid.ndim, -1)[inner]
