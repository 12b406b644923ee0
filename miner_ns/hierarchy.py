"""The trained signal: block networks of all levels as one function of position and level of detail.

Two ways to combine levels (`pyramid`):

- "gaussian": the networks of a level describe the signal at that level itself. A place belongs to the finest network
  there is for it. The function is continuous inside of blocks, and a block without a network costs nothing.
- "laplacian": the networks of a level describe what the levels above it lack, added to those interpolated between
  their samples.

Networks stay in main memory, millions of blocks as they may be. Those that are being evaluated are brought to the
device, some at a time.

Coordinates are those of the signal's samples: sample i of an axis covers [i, i + 1).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from miner_ns.memory import BLOCKS_LOOKED_UP, evaluation_bytes, evaluation_limit
from miner_ns.networks import BlockNetwork, EncodingKind, encode_positions
from miner_ns.pyramid import BlockGrid, paste_blocks

PyramidKind = Literal["gaussian", "laplacian"]

POINTS_PER_CHUNK = 2**18
"""Points that go through the networks at once when a level is evaluated."""


@dataclass
class Level:
    """The networks of one level, in main memory."""

    grid: BlockGrid
    """How the level is cut into blocks."""
    network: BlockNetwork
    """The shape of its networks."""
    index: Int[Tensor, " n"]
    """Numbers of the blocks that have a network, ascending."""
    theta: Float[Tensor, "n P"]
    """Their parameters."""
    amplitudes: Float[Tensor, " n"]
    """Factors of their outputs (output "sine"); 1 where they have none."""

    def __post_init__(self) -> None:
        self.index, self.theta, self.amplitudes = self.index.cpu(), self.theta.cpu(), self.amplitudes.cpu()
        self.slot = torch.full((self.grid.num_blocks,), -1, dtype=torch.int64)
        self.slot[self.index] = torch.arange(len(self.index))

    def to(self, device: torch.device | str) -> Level:
        """Look for blocks on a device (`slot`: their rows of theta, −1 where there is none); networks stay."""
        self.slot = self.slot.to(device)
        return self

    def evaluate(
        self, rows: Int[Tensor, " n"], inputs: Float[Tensor, "F p"] | Float[Tensor, "n F p"]
    ) -> Float[Tensor, "n C p"]:
        """Some of the networks, on the device where their inputs are.

        Args:
            rows: of theta.
            inputs: encoded local positions, the same for all networks or their own.
        """
        rows, device = rows.cpu(), inputs.device
        return self.network.evaluate(self.theta[rows].to(device), inputs, self.amplitudes[rows].to(device))


class Hierarchy:
    """All trained levels of a signal.

    Args:
        signal_shape: samples of the signal along each axis.
        channels: values per sample.
        num_levels: levels; level 0 is the signal's own resolution.
        block_size: samples of a block along each axis.
        num_frequencies: octaves of the positional encoding.
        encoding: directions of the encoding.
        pyramid: how levels combine.
        budget: bytes of the device's memory for blocks in training, of which evaluation takes a part; None: unlimited.
    """

    def __init__(
        self,
        signal_shape: tuple[int, ...],
        channels: int,
        num_levels: int,
        block_size: int,
        num_frequencies: int,
        encoding: EncodingKind = "axes",
        pyramid: PyramidKind = "gaussian",
        budget: int | None = None,
    ) -> None:
        self.grids = [BlockGrid(signal_shape, level, block_size) for level in range(num_levels)]
        self.channels = channels
        self.num_frequencies = num_frequencies
        self.encoding: EncodingKind = encoding
        self.pyramid: PyramidKind = pyramid
        self.budget = budget
        self.levels: dict[int, Level] = {}
        self.device = torch.device("cpu")
        self._grids_of_values: dict[int, Tensor] = {}

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.grids[0].ndim

    @property
    def finest(self) -> int:
        """The finest level that has been trained."""
        return min(self.levels)

    @property
    def num_parameters(self) -> int:
        """Numbers that describe the signal: parameters of all networks, and the amplitudes of those that have one."""
        total = 0
        for level in self.levels.values():
            total += level.theta.numel() + (len(level.amplitudes) if level.network.output == "sine" else 0)
        return total

    def set_level(self, level: int, trained: Level) -> None:
        """Put a level's networks in place of earlier ones."""
        self.levels[level] = trained.to(self.device)
        # What is kept of coarser levels stays right, except that those beyond the coarsest are made from it.
        coarsest = len(self.grids) - 1
        kept = {j: values for j, values in self._grids_of_values.items() if level < j and level < coarsest}
        self._grids_of_values = kept

    def to(self, device: torch.device | str) -> Hierarchy:
        """Evaluate networks on a device."""
        self.device = torch.device(device)
        self.levels = {j: level.to(device) for j, level in self.levels.items()}
        return self

    def encode(self, local: Float[Tensor, "*n d"]) -> Float[Tensor, "*n F"]:
        """Encoding of local coordinates in [−1, 1]."""
        return encode_positions(local, self.num_frequencies, self.encoding)

    @functools.cached_property
    def local_centers(self) -> Float[Tensor, "p d"]:
        """Centers of a block's samples in its own coordinates."""
        return torch.from_numpy(self.grids[0].local_centers())

    @functools.cached_property
    def inputs(self) -> Float[Tensor, "F p"]:
        """Encoded centers of a block's samples, the same for all blocks of all levels."""
        return self.encode(self.local_centers).T.float().contiguous()

    def owners(self, level: int, index: Int[Tensor, " n"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """The network that a level's blocks belong to: of the blocks themselves or of the nearest ancestor with one.

        Args:
            level: level of the blocks.
            index: their numbers.
        Returns: level of each network (−1: there is none) and its row in that level's theta.
        """
        found = torch.full_like(index, -1)
        row = torch.zeros_like(index)
        position = list(torch.unravel_index(index, self.grids[level].blocks))
        for j in range(level, len(self.grids)):
            trained = self.levels.get(j)
            if trained is not None:
                blocks = self.grids[j].blocks
                number = torch.zeros_like(index)
                for axis in range(self.ndim):
                    number = number * blocks[axis] + (position[axis] >> (j - level))
                slot = trained.slot[number]
                new = (found < 0) & (slot >= 0)
                found = torch.where(new, j, found)
                row = torch.where(new, slot, row)
        return found, row

    def evaluate_blocks(self, level: int, index: Int[Tensor, " n"]) -> Float[Tensor, "n C p"]:
        """The reconstruction at a level's sample centers, block by block.

        Args:
            level: level of the blocks; what has been trained at it and above it counts.
            index: their numbers.
        Returns: samples in main memory; a few blocks at a time are on the device.
        """
        if self.pyramid == "laplacian":
            return self._laplacian_blocks(level, index)
        owner, row = (found.cpu() for found in self.owners(level, index.to(self.device)))
        index = index.cpu()
        result = torch.zeros(len(index), self.channels, self.grids[level].points_per_block)
        position = torch.stack(torch.unravel_index(index, self.grids[level].blocks), dim=-1)
        for j in range(level, len(self.grids)):
            mine = torch.nonzero(owner == j)[:, 0]
            if len(mine) == 0:
                continue
            # Blocks in the same corner of their ancestor are evaluated at the same points of its network.
            corner = position[mine] & ((1 << (j - level)) - 1)
            code = torch.zeros_like(mine)
            for axis in range(self.ndim):
                code = (code << (j - level)) + corner[:, axis]
            order = torch.argsort(code, stable=True)
            starts = torch.nonzero(torch.diff(code[order], prepend=code.new_tensor([-1])))[:, 0].tolist()
            for start, end in zip(starts, [*starts[1:], len(order)]):
                group = mine[order[start:end]]
                inputs = self.inputs.to(self.device)
                if j > level:
                    cell = corner[order[start]].double()
                    local = (self.local_centers + 1.0 + 2.0 * cell) / 2.0 ** (j - level) - 1.0
                    inputs = self.encode(local).T.float().to(self.device)
                trained = self.levels[j]
                for some in _chunks(group, self._at_once(trained.network, inputs.shape[1])):
                    result[some] = trained.evaluate(row[some], inputs).cpu()
        return result

    def _at_once(self, network: BlockNetwork, points: int, own_points: bool = False) -> int:
        """How many networks are evaluated at once, each at as many points, which are the same for all or its own."""
        count = POINTS_PER_CHUNK // points
        if self.budget is not None:
            limit = evaluation_limit(network, self.grids[0].points_per_block, self.budget)
            count = min(count, limit // evaluation_bytes(network, 1, points, own_points))
        return max(1, count)

    def query(self, points: Float[Tensor, "n d"], level: float | Float[Tensor, " n"] = 0.0) -> Float[Tensor, "n C"]:
        """The signal anywhere, at any level of detail.

        Where blocks meet, both are blended over the width of a sample, from one's last sample to the other's first:
        there is no seam, and samples are what they are.

        Args:
            points: positions in the signal's samples; outside of the signal its border continues.
            level: level of detail, for all points or each; between two levels, both are blended. Beyond the coarsest
                level, means over its samples follow.
        """
        highest = math.ceil(math.log2(max(self.grids[0].signal_shape)))
        levels = torch.as_tensor(level, dtype=torch.float32, device=points.device)
        levels = levels.clamp(self.finest, max(highest, len(self.grids) - 1)).expand(len(points))
        fine = levels.floor().long()
        result = torch.zeros(len(points), self.channels, device=self.device)
        for j in torch.unique(fine).tolist():
            mine = torch.nonzero(fine == j)[:, 0]
            result[mine] = self._query_level(points[mine], j)
            between = mine[levels[mine] > j]
            if len(between) > 0:
                blend = (levels[between] - j)[:, None]
                result[between] = torch.lerp(result[between], self._query_level(points[between], j + 1), blend)
        return result

    def owner_at(
        self, points: Float[Tensor, "n d"], level: Int[Tensor, " n"]
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, "n d"]]:
        """Level of the network that points belong to, and the points in its block's coordinates (−1 to 1).

        Args:
            points: positions in the signal's samples.
            level: finest level that counts, for each point.
        """
        owner = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
        local = torch.zeros(len(points), self.ndim, dtype=torch.float64, device=points.device)
        for j in torch.unique(level).tolist():
            mine = torch.nonzero(level == j)[:, 0]
            number, _ = self._locate(points[mine], j)
            owner[mine] = self.owners(j, number)[0]
        for j in torch.unique(owner[owner >= 0]).tolist():
            mine = torch.nonzero(owner == j)[:, 0]
            local[mine] = self._locate(points[mine], j)[1]
        return owner, local

    def _query_level(self, points: Float[Tensor, "n d"], level: int) -> Float[Tensor, "n C"]:
        if level >= len(self.grids):
            return self._interpolate(points, level)
        laplacian = self.pyramid == "laplacian"
        if laplacian and level + 1 < len(self.grids):
            result = self._interpolate(points, level + 1)
        else:
            result = torch.zeros(len(points), self.channels, device=self.device)
        which, position, weight = self._blocks_near(points, level)
        number = _ravel(position, self.grids[level].blocks)
        if laplacian:
            slot = torch.full_like(number, -1) if level not in self.levels else self.levels[level].slot[number]
            owner, row = torch.where(slot >= 0, level, -1), slot
        else:
            owner, row = self.owners(level, number)
        for j in torch.unique(owner[owner >= 0]).tolist():
            mine = torch.nonzero(owner == j)[:, 0]
            place = self._places(points[which[mine]], j) / self.grids[j].block_size
            local = 2.0 * (place - (position[mine] >> (j - level))) - 1.0
            values = self._evaluate_at(self.levels[j], row[mine], local)
            result.index_add_(0, which[mine], values * weight[mine, None])
        return result

    def _blocks_near(
        self, points: Float[Tensor, "n d"], level: int
    ) -> tuple[Int[Tensor, " m"], Int[Tensor, "m d"], Float[Tensor, " m"]]:
        """The block that holds each point, and those whose samples begin less than a sample away.

        Returns: number of the point, position of the block in the grid of blocks, and weight; a point's weights sum
            to 1.
        """
        grid = self.grids[level]
        places = self._places(points, level)
        which = torch.arange(len(points), device=points.device)
        position = which.new_zeros(len(points), 0)
        weight = places.new_ones(len(points))
        for axis, blocks in enumerate(grid.blocks):
            place = places[:, axis]
            block = (place / grid.block_size).floor().clamp(0, blocks - 1)
            inner = place - block * grid.block_size
            below = inner < 0.5 * grid.block_size
            other = torch.where(below, block - 1, block + 1)
            share = 0.5 - torch.where(below, inner, grid.block_size - inner)
            share = torch.where((other >= 0) & (other < blocks), share.clamp_min(0.0), 0.0)
            near = torch.nonzero(share[which] > 0.0)[:, 0]
            twice, all_of = which[near], which
            which = torch.cat([which, twice])
            column = torch.cat([block[all_of], other[twice]]).long()
            position = torch.cat([torch.cat([position, position[near]]), column[:, None]], dim=-1)
            weight = torch.cat([weight * (1.0 - share[all_of]), weight[near] * share[twice]])
        return which, position, weight.float()

    def _places(self, points: Float[Tensor, "n d"], level: int) -> Float[Tensor, "n d"]:
        """Points in a level's samples, and inside of the signal."""
        limits = points.new_tensor(self.grids[level].signal_shape, dtype=torch.float64)
        return torch.minimum(points.double().clamp_min(0.0), limits) / 2.0**level

    def _locate(self, points: Float[Tensor, "n d"], level: int) -> tuple[Int[Tensor, " n"], Float[Tensor, "n d"]]:
        """Number of the block that holds each point, and the point in that block's coordinates."""
        grid = self.grids[level]
        extent = float(grid.block_extent)
        number = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        local = []
        for axis, (size, blocks) in enumerate(zip(grid.signal_shape, grid.blocks)):
            place = points[:, axis].double().clamp(0.0, float(size))
            block = (place / extent).floor().clamp(0, blocks - 1)
            local.append(2.0 * (place / extent - block) - 1.0)
            number = number * blocks + block.long()
        return number, torch.stack(local, dim=-1)

    def _evaluate_at(self, level: Level, row: Int[Tensor, " n"], local: Float[Tensor, "n d"]) -> Float[Tensor, "n C"]:
        """Networks at points of their own: sorted by network, so that each is read once."""
        rows, slot, counts = torch.unique(row, return_inverse=True, return_counts=True)
        # Networks with about as many points each go together, so that little of the padding is computed in vain.
        by_count = torch.argsort(counts, stable=True)
        place = torch.empty_like(by_count)
        place[by_count] = torch.arange(len(by_count), device=row.device)
        order = torch.argsort(place[slot], stable=True)
        ends = counts[by_count].cumsum(0)
        rank = torch.arange(len(order), device=row.device) - (ends - counts[by_count])[place[slot[order]]]
        encoded = self.encode(local).float()[order]
        values = torch.empty(len(row), self.channels, device=row.device)
        widths, stops = counts[by_count].tolist(), [0, *ends.tolist()]
        first = 0
        while first < len(rows):
            last, limit = first + 1, max(2 * widths[first], 8)
            most = self._at_once(level.network, limit, own_points=True)
            while last < len(rows) and widths[last] <= limit and last - first < most:
                last += 1
            some = slice(stops[first], stops[last])
            network = place[slot[order[some]]] - first
            inputs = encoded.new_zeros(last - first, widths[last - 1], encoded.shape[-1])
            inputs[network, rank[some]] = encoded[some]
            chosen = rows[by_count[first:last]]
            found = level.evaluate(chosen, inputs.transpose(1, 2))
            values[order[some]] = found.transpose(1, 2)[network, rank[some]]
            first = last
        return values

    def _laplacian_blocks(self, level: int, index: Int[Tensor, " n"]) -> Float[Tensor, "n C p"]:
        """Blocks of the level above, interpolated, and what the level's own networks add."""
        index, grid = index.cpu(), self.grids[level]
        result = torch.zeros(len(index), self.channels, grid.points_per_block)
        if level + 1 < len(self.grids):
            position = torch.stack(torch.unravel_index(index, grid.blocks), dim=-1)
            half = (self.local_centers + 1.0) / 2.0
            for some in _chunks(torch.arange(len(index)), max(1, POINTS_PER_CHUNK // len(half))):
                points = (position[some][:, None] + half) * grid.block_extent
                above = self._interpolate(points.reshape(-1, self.ndim), level + 1)
                result[some] = above.reshape(len(some), len(half), -1).transpose(1, 2)
        if (trained := self.levels.get(level)) is not None:
            slot = trained.slot[index.to(self.device)].cpu()
            inputs = self.inputs.to(self.device)
            for mine in _chunks(torch.nonzero(slot >= 0)[:, 0], self._at_once(trained.network, inputs.shape[1])):
                result[mine] += trained.evaluate(slot[mine], inputs).cpu()
        return result

    def _interpolate(self, points: Float[Tensor, "n d"], level: int) -> Float[Tensor, "n C"]:
        """Linear interpolation between a level's reconstructed samples, which lie at the centers of what they cover.

        It takes place in main memory: all samples of a level may be more than the device holds.
        """
        values = self._values(level).movedim(-1, 0)[None]
        covered = points.new_tensor(values.shape[2:], dtype=torch.float64) * 2.0**level
        # grid_sample counts axes backwards.
        place = (2.0 * points.double() / covered - 1.0).flip(-1).float()
        place = place.reshape(1, *[1] * (self.ndim - 1), -1, self.ndim)
        sampled = torch.nn.functional.grid_sample(values, place.cpu(), padding_mode="border", align_corners=False)
        return sampled.reshape(self.channels, -1).T.to(points.device)

    def _values(self, level: int) -> Float[Tensor, "*s C"]:
        """All samples of a level, kept until its networks change; beyond the coarsest level, means over its samples."""
        if level not in self._grids_of_values:
            if level < len(self.grids):
                values = self._reconstruct(level)
            else:
                values = self._values(level - 1)
                for axis, size in enumerate(self.grids[0].signal_shape):
                    values = _pair_means(values, axis, size, level - 1)
            self._grids_of_values[level] = values
        return self._grids_of_values[level]

    def reconstruct(self, level: int = 0) -> Float[Tensor, "*s C"]:
        """All samples of a level, on the device."""
        return self._reconstruct(level).to(self.device)

    def _reconstruct(self, level: int) -> Float[Tensor, "*s C"]:
        """All samples of a level, in main memory."""
        grid = self.grids[level]
        result = np.empty((*grid.shape, self.channels), dtype=np.float32)
        everything = torch.arange(grid.num_blocks)
        for some in _chunks(everything, max(1, min(8 * POINTS_PER_CHUNK // grid.points_per_block, BLOCKS_LOOKED_UP))):
            paste_blocks(result, grid, some.numpy(), self.evaluate_blocks(level, some).numpy())
        return torch.from_numpy(result)

    def state(self) -> dict[int, dict[str, Any]]:
        """What training has made, for a checkpoint: only blocks that have a network take space."""
        return {
            j: {"index": level.index, "theta": level.theta, "amplitudes": level.amplitudes}
            for j, level in self.levels.items()
        }

    def restore(self, state: dict[int, dict[str, Any]], network_of: Callable[[int], BlockNetwork]) -> None:
        """Continue from a checkpoint.

        Args:
            state: from `state`.
            network_of: the shape of a level's networks.
        Raises: ValueError if it is of another image or of networks of other sizes.
        """
        self.levels = {}
        for j, parts in state.items():
            # Version 0.1 called them scales.
            amplitudes = parts["amplitudes"] if "amplitudes" in parts else parts["scales"]
            if j >= len(self.grids):
                raise ValueError(f"level {j} is there, and levels are {len(self.grids)} here")
            blocks, sizes = self.grids[j].num_blocks, (parts["theta"].shape[1], network_of(j).num_parameters)
            if sizes[0] != sizes[1] or (len(parts["index"]) and int(parts["index"].max()) >= blocks):
                there = f"networks of {sizes[0]} numbers, up to block {int(parts['index'].max())}"
                raise ValueError(f"level {j} has {there}, and here {sizes[1]} numbers and {blocks} blocks")
            self.set_level(j, Level(self.grids[j], network_of(j), parts["index"], parts["theta"], amplitudes))


def _chunks(values: Tensor, size: int) -> Iterator[Tensor]:
    """A tensor in pieces of at most `size` along its first dimension; none if it is empty."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _ravel(position: Int[Tensor, "n d"], blocks: tuple[int, ...]) -> Int[Tensor, " n"]:
    """Numbers of blocks from their positions in the grid of blocks."""
    number = torch.zeros_like(position[:, 0])
    for axis, count in enumerate(blocks):
        number = number * count + position[:, axis]
    return number


def _pair_means(values: Float[Tensor, "*s C"], axis: int, size: int, level: int) -> Float[Tensor, "*s C"]:
    """Means over neighbors along an axis, each weighted by how many of the axis's `size` samples it covers."""
    count = values.shape[axis]
    ends = (torch.arange(1, count + 1, device=values.device) * 2**level).clamp_max(size)
    weight = torch.diff(ends, prepend=ends.new_zeros(1)).to(values)
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    sums, weights = values * weight.reshape(shape), weight.reshape(shape)
    if count % 2:
        last = list(values.shape)
        last[axis] = 1
        sums = torch.cat([sums, sums.new_zeros(last)], dim=axis)
        weights = torch.cat([weights, weights.new_zeros([1] * values.ndim)], dim=axis)
    sums, weights = (x.unflatten(axis, (-1, 2)).sum(axis + 1) for x in (sums, weights))
    return sums / weights
