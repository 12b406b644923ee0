"""How much memory a fit needs: on the device for the blocks in work, in main memory for the signal and all networks.

On the device are the blocks of a chunk while they are trained, and some networks while they are evaluated. Everything
else stays in main memory: the signal, its coarser levels, and the networks of all levels.

The figures are sums over the tensors that `miner_ns.kernels` and `miner_ns.networks` hold at the same time. What comes
on top is not a matter of blocks: a CUDA context takes some hundred MiB by itself, and what is freed does not go back to
the system at once (glibc holds back up to as much again while the torch implementation trains on a CPU).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

import torch

from common_ns.errors import InputError
from miner_ns.kernels.reference import MAX_POINTS_IN_FLIGHT
from miner_ns.networks import BlockNetwork

GIB = 2**30
FLOAT = 4
"""Bytes of a float32."""
BLOCKS_LOOKED_UP = 2**16
"""Most blocks whose networks are looked up at once when a whole level is evaluated."""
TEMPORARIES = 1.15
"""Measured peaks of a training step are up to this much above the sum of its tensors."""
EVALUATION_SHARE = 0.25
"""Largest part of a device's budget that evaluation takes beside a chunk in training."""


@dataclass(frozen=True)
class DeviceNeed:
    """What blocks in work need on a device, in bytes."""

    network: BlockNetwork
    """The networks with the most parameters."""
    points: int
    """Samples of a block."""
    batch_points: int
    """Samples of a block in an optimization step."""
    epochs: int
    """Epochs that are trained in one call."""
    masked: bool
    """Whether some blocks reach beyond the signal."""
    implementation: Literal["torch", "numba", "triton"]
    """Who trains."""
    num_blocks: int
    """Blocks of all levels, whether they have a network or not."""

    @property
    def batch(self) -> int:
        """Samples of a block that are in a step."""
        return min(self.batch_points, self.points)

    @property
    def block(self) -> int:
        """Of a block as long as it is in training: parameters, two moments, targets, and which of them count."""
        samples = self.points * (self.network.num_outputs + self.masked)
        return FLOAT * (3 * self.network.num_parameters + samples + 3)

    @property
    def shared(self) -> int:
        """Of all blocks together: where a block's network is, encoded positions, and the order of samples."""
        network, points = self.network, self.points
        lookup = 8 * self.num_blocks + 64 * min(self.num_blocks, BLOCKS_LOOKED_UP)
        total = lookup + FLOAT * network.num_inputs * points + 12 * self.epochs * points
        if self.implementation == "torch":
            return total + FLOAT * network.num_inputs * self.batch
        padded = network.num_inputs + 3
        if self.implementation == "triton":
            return total + FLOAT * 2 * padded * points
        from miner_ns.kernels.numba_cpu import MAX_GATHERED_BYTES  # imports numba, which is optional

        threads = torch.get_num_threads()
        work = 6 * network.num_parameters + (2 * network.num_layers + 3) * (network.hidden_dim + 4) * (self.batch + 64)
        return total + 2 * min(MAX_GATHERED_BYTES, FLOAT * padded * points * self.epochs) + FLOAT * threads * work

    def scratch(self, blocks: int) -> int:
        """While that many blocks are trained: a copy of those that are not finished yet, and what a step needs."""
        copies = blocks * self.block
        if self.implementation != "torch":
            return copies
        # Blocks that go together drop out together: what is copied then takes the place of the activations.
        together = min(blocks, max(MAX_POINTS_IN_FLIGHT // self.batch, 1))
        return copies + together * max(self._step(), self.block)

    def _step(self) -> int:
        """Of a block in a step of the torch implementation: activations kept for the gradient, and the gradient."""
        network = self.network
        hidden = network.hidden_dim * (network.num_layers - 1)
        # Between z and the activation autograd keeps three numbers, of a layer of filters eight. Towards the end of
        # the step, the gradient and what the optimizer makes of it are what remains.
        kept = 3 * hidden + 2 * network.hidden_dim if network.architecture == "mlp" else 8 * hidden
        output = self.batch * (6 * network.num_outputs + 2)
        numbers = max(self.batch * kept + output + network.num_parameters, 4 * network.num_parameters + output)
        return math.ceil(TEMPORARIES * FLOAT * numbers)

    def peak(self, blocks: int, evaluation: int) -> int:
        """With that many blocks in training, of which some bytes of networks are evaluated between two portions."""
        return self.shared + blocks * self.block + max(self.scratch(blocks), evaluation)

    def minimum(self, group: int) -> int:
        """The smallest budget that a group of blocks can be trained and evaluated with."""
        smallest = evaluation_bytes(self.network, 1, self.points)
        resident = self.shared + group * self.block
        return max(self.peak(group, smallest), math.ceil(resident / (1.0 - EVALUATION_SHARE)))

    def blocks_within(self, budget: int, group: int, most: int) -> int:
        """How many blocks can be on the device at once.

        Args:
            budget: bytes.
            group: blocks come in multiples of this.
            most: at most so many blocks.
        Raises: InputError if not even one group can.
        """
        if (needed := self.minimum(group)) > budget:
            problem = f"--pipeline.model.fit.max-device-memory is {budget / GIB:.3g} GiB, and {group} blocks need "
            figure = f"{math.ceil(1000 * needed / GIB) / 1000:.3f}"
            remedy = f"Raise it to {figure} or more, or lower --pipeline.model.fit.block-size"
            raise InputError(f"{problem}{figure} GiB", remedy)
        evaluation = evaluation_limit(self.network, self.points, budget)
        counts = range(group, most + 1, group)
        return counts[bisect_right(counts, budget, key=lambda count: self.peak(count, evaluation)) - 1]


def evaluation_bytes(network: BlockNetwork, networks: int, points: int, own_points: bool = False) -> int:
    """What it takes to evaluate networks: copies of their parameters, activations, and the result.

    Args:
        network: their shape.
        networks: how many.
        points: samples of each.
        own_points: whether each has encoded points of its own; else they are the same for all.
    """
    width = 3 * network.hidden_dim if network.architecture == "mlp" else 4 * network.hidden_dim + network.num_inputs
    width += 3 * network.num_outputs + (3 * network.num_inputs if own_points else 0)
    return FLOAT * networks * (2 * network.num_parameters + points * width)


def evaluation_limit(network: BlockNetwork, points: int, budget: int) -> int:
    """Bytes that evaluation may take of a device's budget: at least what a block with so many samples needs."""
    return max(int(EVALUATION_SHARE * budget), evaluation_bytes(network, 1, points))


@dataclass(frozen=True)
class MainMemory:
    """What a fit needs of main memory, in bytes."""

    signal: int
    """The samples, as far as they are still to be read and not left on disk."""
    coarser: int
    """The coarser levels of the pyramid, and of the reconstruction where it is interpolated (laplacian)."""
    coarsest: int
    """Networks of the coarsest level, in which all blocks have one, as far as they are still to be made."""
    networks: int
    """Networks of all levels if all blocks have one, and once more those of the level that is being put together."""
    chunk: int
    """The first chunk in training; 0 if that is on another device."""

    @property
    def certain(self) -> int:
        """What is needed in any case."""
        return self.signal + self.coarser + self.coarsest + self.chunk

    @property
    def worst(self) -> int:
        """What is needed if all blocks of all levels get a network."""
        return self.signal + self.coarser + self.networks + self.chunk

    def describe(self) -> str:
        """The parts of what is certain, those that matter."""
        parts = {"samples": self.signal, "coarser levels": self.coarser, "networks": self.coarsest}
        parts["a chunk in training"] = self.chunk
        shown = [f"{name} {size / GIB:.1f} GiB" for name, size in parts.items() if size >= 0.05 * self.certain]
        return ", ".join(shown)

    def remedy(self, for_signal: str) -> str:
        """What to do about the part that needs most.

        Args:
            for_signal: what to do about the signal.
        """
        if self.chunk >= max(self.signal, self.coarser, self.coarsest):
            option = "Lower --pipeline.model.fit.blocks-per-chunk or --pipeline.model.fit.block-size"
            return f"{option}, or set --pipeline.model.fit.max-device-memory"
        if self.coarsest >= max(self.signal, self.coarser):
            return "Raise --pipeline.model.fit.num-levels or --pipeline.model.fit.block-size"
        return for_signal
