"""Fitting a signal from coarse to fine: which blocks get a network, and training them until each is good enough.

At each level the reconstruction so far is compared with the signal. Blocks whose mean squared error is above a limit
get a network and are trained, chunk by chunk, so that only the blocks of one chunk and their optimizer state are on the
device (`miner_ns.memory` says how much that is); a block that falls below the threshold stops. Training advances in
portions of a few epochs (`advance`), between which it can be looked at, saved and continued exactly.

Several devices share the blocks of a level, and advance together: one that has nothing left to train in a level waits
for the others. What a block learns depends on its number and on the options alone, not on which chunk or device it is
in; so a fit can go on with another number of devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from common_ns.data.memory import require_memory
from common_ns.errors import InputError
from common_ns.nerfstudio_seam import distributed
from miner_ns.chunk import Chunk, part_of_saved, restored, split_saved
from miner_ns.hierarchy import Hierarchy, Level
from miner_ns.kernels import (
    BlockState,
    TrainOptions,
    cosine_rates,
    epoch_permutations,
    resolve,
    steps_per_epoch,
    train_epochs,
)
from miner_ns.memory import BLOCKS_LOOKED_UP, GIB, DeviceNeed, MainMemory
from miner_ns.networks import BlockNetwork, encoding_dim
from miner_ns.option_checks import check_options
from miner_ns.options import FitOptions
from miner_ns.pyramid import BlockGrid, Pyramid, chunked, coarse_bytes
from miner_ns.signal import Signal, SignalLoader, to_stored
from miner_ns.warm_start import from_parents

INIT_GROUP = 16
"""Blocks that draw their first parameters from one random state. They always go to the same device."""
SAMPLES_AT_ONCE = 2**22
"""About how many samples are read from the pyramid at once when a whole level is compared."""


@dataclass
class Progress:
    """What a portion of training did, on all devices."""

    level: int
    """Level that was trained."""
    epoch: int
    """Epochs that this device's chunk has been trained for; 0 where it has none."""
    training: int
    """Blocks of the chunks that are still in training."""
    active: int
    """Blocks of the level that have or get a network."""
    loss: float
    """Mean squared error over the chunks' blocks."""


class Fitting:
    """Trains a hierarchy of block networks on a signal.

    Args:
        signal: what to fit. A loader is asked for the samples when training begins or goes on, not before.
        options: how.
        device: where networks are trained.
    Raises: InputError about options that cannot work.
    """

    def __init__(self, signal: Signal | SignalLoader, options: FitOptions, device: torch.device | str = "cpu") -> None:
        self.options, self.device = options, torch.device(device)
        self.signal = signal
        check_options(options, len(signal.spatial_shape), INIT_GROUP)
        self.budget = None if options.max_device_memory is None else round(options.max_device_memory * GIB)
        self.hierarchy = Hierarchy(
            signal.spatial_shape,
            signal.channels,
            options.num_levels,
            options.block_size,
            options.num_frequencies,
            options.encoding,
            options.pyramid,
            self.budget,
        ).to(device)
        self.train_options = TrainOptions(
            loss=options.loss,
            weight_by_loss=options.weight_by_loss,
            threshold=options.threshold,
            check_every=options.check_every,
            batch_points=options.batch_points,
            beta2=options.beta2,
        )
        self.level = options.num_levels - 1
        self.pending: Int[Tensor, " n"] | None = None
        self.pending_groups = torch.zeros(0, dtype=torch.long)
        self.trained: list[tuple[Tensor, Tensor]] = []
        self.amplitude = 1.0
        self.chunk: Chunk | None = None
        self._interrupted: list[dict[str, Any]] = []
        self._gathered: list[dict[str, Any]] | None = None
        self._value_format: tuple[str, float, float] | None = None

    @cached_property
    def pyramid(self) -> Pyramid:
        """The signal at all levels.

        Raises: InputError if it cannot be read, or needs more memory than there is, which is found before it is read.
        """
        self._require_main_memory(self.main_memory())
        signal = self.signal.load() if isinstance(self.signal, SignalLoader) else self.signal
        return Pyramid(signal, self.options.num_levels, self.options.block_size)

    @property
    def value_dtype(self) -> np.dtype:
        """Type that the signal stores its values in."""
        return self._stored()[0]

    def to_stored(self, values: Float[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Values in [0, 1] as the signal stores them."""
        dtype, value_range = self._stored()
        return to_stored(values, dtype, value_range)

    def _stored(self) -> tuple[np.dtype, tuple[float, float]]:
        """How the signal stores values: from a checkpoint, or from the signal, which is read for it."""
        if self._value_format is None:
            signal = self.signal.load() if isinstance(self.signal, SignalLoader) else self.signal
            self._value_format = (signal.dtype.str, *signal.value_range)
        name, low, high = self._value_format
        return np.dtype(name), (low, high)

    @property
    def finished(self) -> bool:
        """Whether all levels are trained."""
        return self.level < 0

    def network_of(self, level: int) -> BlockNetwork:
        """The shape of a level's networks."""
        options = self.options
        coarsest = level == options.num_levels - 1
        inputs = encoding_dim(self.hierarchy.ndim, options.num_frequencies, options.encoding)
        output = "sigmoid" if options.pyramid == "gaussian" or coarsest else "sine"
        return BlockNetwork(
            inputs, self.hierarchy.channels, options.hidden_dim, options.num_layers, options.architecture, output
        )

    @cached_property
    def device_need(self) -> DeviceNeed:
        """What blocks in training need on the device.

        Raises: InputError if the implementation that was asked for cannot train here.
        """
        options, network = self.options, self.network_of(0)  # with a gain where others have none
        try:
            chosen = resolve(options.implementation, self.device, network).name
        except ValueError as error:
            problem = str(error).partition(" Use 'auto'")[0]
            raise InputError(problem, "Choose --pipeline.model.fit.implementation auto or torch") from error
        grids = self.hierarchy.grids
        return DeviceNeed(
            network,
            grids[0].points_per_block,
            options.batch_points,
            options.check_every,
            masked=any(grid.is_masked for grid in grids),
            implementation=chosen,
            num_blocks=sum(grid.num_blocks for grid in grids),
        )

    @cached_property
    def blocks_at_once(self) -> int:
        """Blocks of a chunk: whole groups, so that first parameters do not depend on the size of chunks.

        Raises: InputError if the device's budget is too small for one group.
        """
        most = self.options.blocks_per_chunk // INIT_GROUP * INIT_GROUP
        return most if self.budget is None else self.device_need.blocks_within(self.budget, INIT_GROUP, most)

    def main_memory(self, in_training: int = 0) -> MainMemory:
        """What the fit needs of main memory, beside what is there already.

        Args:
            in_training: blocks that are trained there at once.
        """
        signal, grids, levels = self.signal, self.hierarchy.grids, self.options.num_levels
        coarser = coarse_bytes(signal.spatial_shape, signal.channels, signal.dtype, levels)
        if self.options.pyramid == "laplacian":
            coarser += coarse_bytes(signal.spatial_shape, signal.channels, np.dtype(np.float32), levels)
        sizes = [4 * self.network_of(j).num_parameters * grid.num_blocks for j, grid in enumerate(grids)]
        return MainMemory(
            signal=signal.pending_bytes if isinstance(signal, SignalLoader) else 0,
            coarser=coarser,
            coarsest=0 if levels - 1 in self.hierarchy.levels else sizes[-1],
            networks=sum(sizes) + max(sizes),
            chunk=self.device_need.peak(in_training, 0) if in_training > 0 else 0,
        )

    def _require_main_memory(self, needed: MainMemory) -> None:
        signal = self.signal
        size = "×".join(str(n) for n in signal.spatial_shape)
        remedy = needed.remedy(signal.remedy if isinstance(signal, SignalLoader) else "Fit a smaller signal")
        require_memory(needed.certain, f"fitting {size} samples ({needed.describe()})", remedy, signal.source)

    def prepare(self) -> MainMemory:
        """Refuse a fit that cannot be trained here, before its samples are read.

        Returns: what it needs of main memory.
        Raises: InputError if the implementation or the device's budget cannot work, or the memory does not suffice.
        """
        blocks = min(self.blocks_at_once, self.hierarchy.grids[-1].num_blocks)
        _ = self.device_need
        needed = self.main_memory(blocks if self.device.type == "cpu" else 0)
        self._require_main_memory(needed)
        return needed

    def advance(self, epochs: int | None = None) -> Progress | None:
        """Train the current chunk for some epochs, beginning a chunk or a level first where it is due.

        Args:
            epochs: at most so many; None: until the next look at the threshold. The same on all devices.
        Returns: what was done; None if nothing is left to train.
        """
        if not self.finished and "pyramid" not in vars(self):
            self.prepare()
        self._gathered = None
        while not self.finished:
            if self.pending is None:
                self._begin_level()
            if distributed.gather_numbers([self._has_work], self.device).any():
                break
            self._end_level()
        if self.finished:
            return None
        if self.chunk is None and self._interrupted:
            self._continue_chunk()
        elif self.chunk is None and self._has_work:
            self._begin_chunk()
        level, chunk, loss, in_chunk, training = self.level, self.chunk, 0.0, 0, 0
        if chunk is not None:
            self._train(chunk, epochs or self.options.check_every)
            loss, in_chunk = float(chunk.state.losses.mean()), len(chunk.index)
            training = int((~chunk.state.finished).sum())
        assert self.pending is not None
        waiting = [self.pending, *(saved["index"] for saved in self._interrupted)]
        active = in_chunk + sum(len(index) for index in [*waiting, *(index for index, _ in self.trained)])
        if chunk is not None and (training == 0 or chunk.epoch >= self.options.epochs_of(level)):
            self.trained.append((chunk.index.cpu(), chunk.state.theta.cpu()))
            self.chunk = None
        numbers = [loss, in_chunk, training, active, self._has_work]
        losses, counts, *sums = distributed.gather_numbers(numbers, self.device).T.tolist()
        loss = sum(loss * (count / sum(counts)) for loss, count in zip(losses, counts))
        training, active, at_work = (int(sum(values)) for values in sums)
        if at_work == 0:
            self._end_level()
        return Progress(level, 0 if chunk is None else chunk.epoch, training, active, loss)

    @property
    def _has_work(self) -> bool:
        """Whether this device has something left to train in the level, which has begun."""
        return self.chunk is not None or bool(self._interrupted) or (self.pending is not None and len(self.pending) > 0)

    def _train(self, chunk: Chunk, epochs: int) -> None:
        """Train a chunk for so many epochs, or for those that are left."""
        total = self.options.epochs_of(self.level)
        count = min(epochs, total - chunk.epoch)
        points = chunk.targets.shape[-1]
        per_epoch = steps_per_epoch(points, self.options.batch_points)
        first = chunk.epoch * per_epoch
        train_epochs(
            self.network_of(self.level),
            chunk.state,
            self.hierarchy.inputs.to(self.device),
            chunk.targets,
            cosine_rates(self.options.learning_rate, total * per_epoch, first, first + count * per_epoch),
            epoch_permutations(points, chunk.epoch, count, self.options.seed),
            torch.full((len(chunk.index),), self.amplitude, device=self.device),
            chunk.valid,
            self.train_options,
            self.options.implementation,
        )
        chunk.epoch += count

    def show(self) -> Hierarchy:
        """The hierarchy with the level in training as far as it is."""
        parts = list(self.trained)
        parts += [(saved["index"], saved["theta"]) for saved in self._interrupted]
        if self.chunk is not None:
            parts.append((self.chunk.index.cpu(), self.chunk.state.theta.detach().cpu()))
        if parts and not self.finished:
            self.hierarchy.set_level(self.level, self._assembled(parts))
        return self.hierarchy

    def _begin_level(self) -> None:
        """Find the blocks that need a network, and this device's share of them."""
        grid = self.hierarchy.grids[self.level]
        largest = 1.0
        if self.level == self.options.num_levels - 1:
            active = np.arange(grid.num_blocks)
        else:
            active, largest = self._above_threshold(grid)
        self.amplitude = largest if self.network_of(self.level).output == "sine" else 1.0
        groups = -(-len(active) // INIT_GROUP)
        share = distributed.share(groups, distributed.rank(), distributed.world_size())
        blocks = slice(share.start * INIT_GROUP, share.stop * INIT_GROUP)
        self.pending = torch.from_numpy(active[blocks])
        self.pending_groups = torch.arange(len(active))[blocks] // INIT_GROUP

    def _above_threshold(self, grid: BlockGrid) -> tuple[Int[np.ndarray, " n"], float]:
        """Blocks whose reconstruction so far is not good enough, and the largest error in them."""
        found, largest = [], 0.0
        for index in _whole_level(grid):
            so_far = self.hierarchy.evaluate_blocks(self.level, torch.from_numpy(index)).numpy()
            error = self.pyramid.blocks(self.level, index) - so_far
            valid = grid.valid(index)
            weight = np.ones((1, 1, 1), dtype=np.float32) if valid is None else valid[:, None].astype(np.float32)
            squares = (error**2 * weight).mean(axis=(1, 2)) / weight.mean(axis=(1, 2))
            above = squares > self.options.threshold
            found.append(index[above])
            largest = max(largest, float(np.abs(error * weight)[above].max(initial=0.0)))
        return np.concatenate(found), largest

    def _begin_chunk(self) -> None:
        """Bring the next blocks to the device."""
        assert self.pending is not None
        count = self.blocks_at_once
        index, self.pending = self.pending[:count], self.pending[count:]
        groups, self.pending_groups = self.pending_groups[:count], self.pending_groups[count:]
        network = self.network_of(self.level)
        first = [network.init(INIT_GROUP, self._generator(group)) for group in groups.unique_consecutive().tolist()]
        theta = torch.cat(first)[: len(index)]  # only the level's last group can be smaller
        if self.options.warm_start and self.level < self.options.num_levels - 1:
            theta = from_parents(self.hierarchy, self.level, network, index, theta)
        self.chunk = self._chunk(index, BlockState.create(theta.to(self.device)))

    def _chunk(self, index: Int[Tensor, " n"], state: BlockState, epoch: int = 0) -> Chunk:
        """A chunk with its targets read from the pyramid."""
        blocks = index.numpy()
        targets = self.pyramid.blocks(self.level, blocks)
        if self.network_of(self.level).output == "sine":
            self.hierarchy.levels.pop(self.level, None)  # where `show` may have put it
            targets -= self.hierarchy.evaluate_blocks(self.level, index).numpy()
        valid = self.hierarchy.grids[self.level].valid(blocks)
        return Chunk(
            index,
            state,
            torch.from_numpy(targets).to(self.device),
            None if valid is None else torch.from_numpy(valid).float().to(self.device),
            epoch,
        )

    def _generator(self, group: int) -> torch.Generator:
        """Random state of a group of blocks' first parameters."""
        mixed = (self.options.seed * 1_000_003 + self.level) * 2**32 + group
        return torch.Generator().manual_seed(mixed % 2**63)

    def _end_level(self) -> None:
        """Collect what all devices have trained."""
        gathered = distributed.gather(self.trained)
        parts = [part for device in gathered for part in device]
        if parts:
            self.hierarchy.set_level(self.level, self._assembled(parts))
        else:
            self.hierarchy.levels.pop(self.level, None)
        self.trained, self.pending, self.chunk = [], None, None
        self.level -= 1

    def _assembled(self, parts: list[tuple[Tensor, Tensor]]) -> Level:
        """A level from pieces of it."""
        parts = sorted(parts, key=lambda part: int(part[0][0]))  # blocks of a part are consecutive active ones
        index = torch.cat([index for index, _ in parts])
        theta = torch.cat([theta for _, theta in parts])
        amplitudes = torch.full((len(index),), self.amplitude)
        return Level(self.hierarchy.grids[self.level], self.network_of(self.level), index, theta, amplitudes)

    def _part(self) -> dict[str, Any]:
        """What this device alone has of the level in training."""
        chunks = [self.chunk.saved()] if self.chunk is not None else []
        return {
            "trained": self.trained,
            "pending": self.pending,
            "pending_groups": self.pending_groups,
            "chunks": chunks + self._interrupted,
        }

    def gather_state(self) -> None:
        """Bring to rank 0 what the others have of the level in training; all devices call this before `state`."""
        if self._gathered is None:
            self._gathered = distributed.gather_on_first(self._part())

    def state(self) -> dict[str, Any]:
        """All that training has made so far, for a checkpoint. Finished blocks of the chunk keep no optimizer state."""
        state: dict[str, Any] = {
            "levels": {j: parts for j, parts in self.hierarchy.state().items() if j > self.level},
            "level": self.level,
            "amplitude": self.amplitude,
        }
        if self._value_format is not None or "pyramid" in vars(self):
            self._stored()
            state["value_format"] = self._value_format
        parts = self._gathered or [self._part()]
        state |= {name: [piece for part in parts for piece in part[name]] for name in ("trained", "chunks")}
        state["pending"] = None
        if self.pending is not None:
            state |= {name: torch.cat([part[name] for part in parts]) for name in ("pending", "pending_groups")}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, with this device's share of what is left of the level."""
        rank, devices = distributed.rank(), distributed.world_size()
        self.level = state["level"]
        # Version 0.1 called it scale.
        self.amplitude = state["amplitude"] if "amplitude" in state else state["scale"]
        self.hierarchy.restore(state["levels"], self.network_of)
        self.trained = [tuple(part) for part in state["trained"]] if rank == 0 else []
        self.pending, self.chunk, self._gathered = state["pending"], None, None
        if self.pending is not None:
            groups = state.get("pending_groups")
            if groups is None:  # a checkpoint of version 0.1, of one device
                groups = state["first_group"] + torch.arange(len(self.pending)) // INIT_GROUP
            distinct, number = groups.unique_consecutive(return_inverse=True)
            share = distributed.share(len(distinct), rank, devices)
            mine = (number >= share.start) & (number < share.stop)
            self.pending, self.pending_groups = self.pending[mine], groups[mine]
        saved = state.get("chunks", [state["chunk"]] if "chunk" in state else [])
        shares = [distributed.share(len(chunk["index"]), rank, devices) for chunk in saved]
        parts = [part_of_saved(chunk, blocks) for chunk, blocks in zip(saved, shares)]
        self._interrupted = [part for part in parts if len(part["index"]) > 0]
        self._value_format = state.get("value_format")

    def _continue_chunk(self) -> None:
        """Bring back blocks that were in training, as many as go on the device, with their targets read again."""
        saved, *others = split_saved(self._interrupted[0], self.blocks_at_once)
        self._interrupted[:1] = others
        self.chunk = self._chunk(saved["index"], restored(saved, self.device), saved["epoch"])


def _whole_level(grid: BlockGrid) -> Iterator[Int[np.ndarray, " n"]]:
    """The numbers of all blocks, some at a time."""
    size = max(1, min(SAMPLES_AT_ONCE // grid.points_per_block, BLOCKS_LOOKED_UP))
    yield from chunked(np.arange(grid.num_blocks), size)


def mean_squared_error(hierarchy: Hierarchy, pyramid: Pyramid, level: int = 0) -> float:
    """Mean squared error of a level's reconstruction over all its samples, in bounded memory."""
    grid = hierarchy.grids[level]
    total = 0.0
    for index in _whole_level(grid):
        error = hierarchy.evaluate_blocks(level, torch.from_numpy(index)).numpy() - pyramid.blocks(level, index)
        valid = grid.valid(index)
        if valid is not None:
            error = error * valid[:, None]
        total += float(np.square(error, dtype=np.float64).sum())
    return total / (math.prod(grid.shape) * hierarchy.channels)


def intersection_over_union(fit: Fitting) -> float:
    """Of the voxels inside by the signal and inside by the fit."""
    grid = fit.hierarchy.grids[0]
    both = either = 0
    for index in _whole_level(grid):
        truth = fit.pyramid.blocks(0, index)[:, 0] > 0.5
        found = fit.hierarchy.evaluate_blocks(0, torch.from_numpy(index))[:, 0].numpy() > 0.5
        valid = grid.valid(index)
        if valid is not None:
            truth, found = truth & valid, found & valid
        both += int((truth & found).sum())
        either += int((truth | found).sum())
    return both / either if either > 0 else 1.0
