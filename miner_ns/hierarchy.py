"""The trained signal: block networks of all levels as one function of position and level of detail.

Two ways to combine levels (`pyramid`):

- "gaussian": the networks of a level describe the signal at that level itself. A place belongs to the finest network
  there is for it. The function is continuous inside of blocks, and a block without a network costs nothing.
- "laplacian": the networks of a level describe what the levels above it lack, added to those interpolated between
  their samples.

Coordinates are those of the signal's samples: sample i of an axis covers [i, i + 1).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from miner_ns.networks import BlockNetwork, EncodingKind, encode_positions
from miner_ns.pyramid import BlockGrid, paste_blocks

PyramidKind = Literal["gaussian", "laplacian"]

POINTS_PER_CHUNK = 2**18
"""Points that go through the networks at once when a level is evaluated."""


@dataclass
class Level:
    """The networks of one level."""

    grid: BlockGrid
    """How the level is cut into blocks."""
    network: BlockNetwork
    """The shape of its networks."""
    index: Int[Tensor, " n"]
    """Numbers of the blocks that have a network, ascending."""
    theta: Float[Tensor, "n P"]
    """Their parameters."""
    scales: Float[Tensor, " n"]
    """Factors of their outputs (output "sine"); 1 where they have none."""

    def __post_init__(self) -> None:
        self.slot = torch.full((self.grid.num_blocks,), -1, dtype=torch.int64, device=self.index.device)
        self.slot[self.index] = torch.arange(len(self.index), device=self.index.device)

    def to(self, device: torch.device | str) -> Level:
        """The level on a device."""
        return Level(self.grid, self.network, self.index.to(device), self.theta.to(device), self.scales.to(device))


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
    ) -> None:
        self.grids = [BlockGrid(signal_shape, level, block_size) for level in range(num_levels)]
        self.channels = channels
        self.num_frequencies = num_frequencies
        self.encoding: EncodingKind = encoding
        self.pyramid: PyramidKind = pyramid
        self.levels: dict[int, Level] = {}
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
        """Numbers that describe the signal: parameters of all networks, and the scales of those that have one."""
        total = 0
        for level in self.levels.values():
            total += level.theta.numel() + (len(level.scales) if level.network.output == "sine" else 0)
        return total

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(iter(self.levels.values())).theta.device if self.levels else torch.device("cpu")

    def set_level(self, level: int, trained: Level) -> None:
        """Put a level's networks in place of earlier ones."""
        self.levels[level] = trained
        self._grids_of_values = {j: values for j, values in self._grids_of_values.items() if j > level}

    def to(self, device: torch.device | str) -> Hierarchy:
        """Move all networks to a device."""
        self.levels = {j: level.to(device) for j, level in self.levels.items()}
        self._grids_of_values = {}
        return self

    def encode(self, local: Float[Tensor, "*n d"]) -> Float[Tensor, "*n F"]:
        """Encoding of local coordinates in [−1, 1]."""
        return encode_positions(local, self.num_frequencies, self.encoding)

    @functools.cached_property
    def local_centers(self) -> Float[Tensor, "p d"]:
        """Centres of a block's samples in its own coordinates."""
        return torch.from_numpy(self.grids[0].local_centers())

    @functools.cached_property
    def inputs(self) -> Float[Tensor, "F p"]:
        """Encoded centres of a block's samples, the same for all blocks of all levels."""
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
        """The reconstruction at a level's sample centres, block by block.

        Args:
            level: level of the blocks; what has been trained at it and above it counts.
            index: their numbers.
        """
        if self.pyramid == "laplacian":
            return self._laplacian_blocks(level, index)
        index = index.to(self.device)
        result = torch.zeros(len(index), self.channels, self.grids[level].points_per_block, device=self.device)
        owner, row = self.owners(level, index)
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
                    cell = corner[order[start]].cpu().double()
                    local = (self.local_centers + 1.0 + 2.0 * cell) / 2.0 ** (j - level) - 1.0
                    inputs = self.encode(local).T.float().to(self.device)
                trained = self.levels[j]
                for some in _chunks(group, max(1, POINTS_PER_CHUNK // inputs.shape[1])):
                    rows = row[some]
                    result[some] = trained.network.evaluate(trained.theta[rows], inputs, trained.scales[rows])
        return result

    def query(self, points: Float[Tensor, "n d"], level: float | Float[Tensor, " n"] = 0.0) -> Float[Tensor, "n C"]:
        """The signal anywhere, at any level of detail.

        Args:
            points: positions in the signal's samples; outside of the signal its border continues.
            level: level of detail, for all points or each; between two levels, both are blended.
        """
        lowest, highest = self.finest, len(self.grids) - 1
        levels = torch.as_tensor(level, dtype=torch.float32, device=points.device).clamp(lowest, highest)
        levels = levels.expand(len(points))
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
        if self.pyramid == "laplacian":
            return self._laplacian_query(points, level)
        index, _ = self._locate(points, level)
        owner, row = self.owners(level, index)
        result = torch.zeros(len(points), self.channels, device=self.device)
        for j in range(level, len(self.grids)):
            mine = torch.nonzero(owner == j)[:, 0]
            if len(mine) > 0:
                _, local = self._locate(points[mine], j)
                result[mine] = self._evaluate_at(self.levels[j], row[mine], local)
        return result

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
            while last < len(rows) and widths[last] <= limit and (last - first) * limit < POINTS_PER_CHUNK:
                last += 1
            some = slice(stops[first], stops[last])
            network = place[slot[order[some]]] - first
            inputs = encoded.new_zeros(last - first, widths[last - 1], encoded.shape[-1])
            inputs[network, rank[some]] = encoded[some]
            chosen = rows[by_count[first:last]]
            found = level.network.evaluate(level.theta[chosen], inputs.transpose(1, 2), level.scales[chosen])
            values[order[some]] = found.transpose(1, 2)[network, rank[some]]
            first = last
        return values

    def _laplacian_blocks(self, level: int, index: Int[Tensor, " n"]) -> Float[Tensor, "n C p"]:
        """Blocks of the level above, interpolated, and what the level's own networks add."""
        index = index.to(self.device)
        grid = self.grids[level]
        result = torch.zeros(len(index), self.channels, grid.points_per_block, device=self.device)
        trained = self.levels.get(level)
        position = torch.stack(torch.unravel_index(index, grid.blocks), dim=-1)
        half = (self.local_centers.to(self.device) + 1.0) / 2.0
        for some in _chunks(torch.arange(len(index), device=self.device), max(1, POINTS_PER_CHUNK // len(half))):
            if level + 1 < len(self.grids):
                points = (position[some][:, None] + half) * grid.block_extent
                above = self._interpolate(points.reshape(-1, self.ndim), level + 1)
                result[some] = above.reshape(len(some), len(half), -1).transpose(1, 2)
            if trained is not None:
                slot = trained.slot[index[some]]
                mine = some[slot >= 0]
                rows = slot[slot >= 0]
                inputs = self.inputs.to(self.device)
                result[mine] += trained.network.evaluate(trained.theta[rows], inputs, trained.scales[rows])
        return result

    def _laplacian_query(self, points: Float[Tensor, "n d"], level: int) -> Float[Tensor, "n C"]:
        result = torch.zeros(len(points), self.channels, device=self.device)
        if level + 1 < len(self.grids):
            result += self._interpolate(points, level + 1)
        trained = self.levels.get(level)
        if trained is not None:
            number, local = self._locate(points, level)
            slot = trained.slot[number]
            mine = torch.nonzero(slot >= 0)[:, 0]
            if len(mine) > 0:
                result[mine] += self._evaluate_at(trained, slot[mine], local[mine])
        return result

    def _interpolate(self, points: Float[Tensor, "n d"], level: int) -> Float[Tensor, "n C"]:
        """Linear interpolation between a level's reconstructed samples, which lie at the centres of what they cover."""
        if level not in self._grids_of_values:
            self._grids_of_values[level] = self.reconstruct(level)
        values = self._grids_of_values[level].movedim(-1, 0)[None]
        covered = points.new_tensor(self.grids[level].shape, dtype=torch.float64) * 2.0**level
        # grid_sample counts axes backwards.
        place = (2.0 * points.double() / covered - 1.0).flip(-1).float()
        place = place.reshape(1, *[1] * (self.ndim - 1), -1, self.ndim)
        sampled = torch.nn.functional.grid_sample(values, place, padding_mode="border", align_corners=False)
        return sampled.reshape(self.channels, -1).T

    def reconstruct(self, level: int = 0) -> Float[Tensor, "*s C"]:
        """All samples of a level."""
        grid = self.grids[level]
        result = np.empty((*grid.shape, self.channels), dtype=np.float32)
        everything = torch.arange(grid.num_blocks)
        for some in _chunks(everything, max(1, 8 * POINTS_PER_CHUNK // grid.points_per_block)):
            paste_blocks(result, grid, some.numpy(), self.evaluate_blocks(level, some).cpu().numpy())
        return torch.from_numpy(result).to(self.device)

    def state(self) -> dict[int, dict[str, Any]]:
        """What training has made, for a checkpoint: only blocks that have a network take space."""
        return {
            j: {"index": level.index.cpu(), "theta": level.theta.cpu(), "scales": level.scales.cpu()}
            for j, level in self.levels.items()
        }

    def restore(self, state: dict[int, dict[str, Any]], network_of: Callable[[int], BlockNetwork]) -> None:
        """Continue from a checkpoint.

        Args:
            state: from `state`.
            network_of: the shape of a level's networks.
        """
        self.levels = {}
        for j, parts in state.items():
            self.set_level(j, Level(self.grids[j], network_of(j), parts["index"], parts["theta"], parts["scales"]))


def _chunks(values: Tensor, size: int) -> Iterator[Tensor]:
    """A tensor in pieces of at most `size` along its first dimension; none if it is empty."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
