"""How a signal is fitted: the options of all MINER methods, as the command line has them under --pipeline.model.fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common_ns.nerfstudio_seam.renames import SuiteConfig
from miner_ns.hierarchy import PyramidKind
from miner_ns.kernels import Implementation
from miner_ns.networks import Architecture, EncodingKind


@dataclass(frozen=True)
class FitOptions(SuiteConfig):
    """How a signal is fitted."""

    num_levels: int = 4
    """Levels of the pyramid, the signal's own resolution included."""
    block_size: int = 32
    """Samples of a block along each axis, at every level."""
    pyramid: PyramidKind = "gaussian"
    """gaussian: networks describe the signal; laplacian: what the level above lacks."""
    architecture: Architecture = "mlp"
    """Perceptron, or multiplicative filter network with Gabor filters."""
    hidden_dim: int = 20
    """Units of a hidden layer."""
    num_layers: int = 3
    """Layers of a network."""
    num_frequencies: int = 5
    """Octaves of the positional encoding; 0: positions only."""
    encoding: EncodingKind = "axes"
    """Directions of the positional encoding: the axes, or for volumes 21 of an icosahedron."""
    epochs: tuple[int, ...] = (50, 50, 50, 200)
    """Epochs of each level from coarse to fine, the last number those of the finest; if there are more levels than
    numbers, the first serves the coarsest ones."""
    learning_rate: float = 3e-2
    """Learning rate at the start of a level; it falls to 1/30 along half a cosine."""
    threshold: float = 1e-4
    """Mean squared error above which a block gets a network, and below which it stops training. 0: none stops before
    its last epoch."""
    loss: Literal["mse", "bce"] = "mse"
    """Squared error, or cross entropy (occupancy)."""
    weight_by_loss: bool = True
    """Divide each block's gradient by its loss."""
    batch_points: int = 128
    """Samples of a block in an optimization step."""
    beta2: float = 0.95
    """RAdam's decay of the mean squared gradient."""
    check_every: int = 25
    """Epochs between looks at the threshold."""
    warm_start: bool = False
    """Start a block from its parent's network, in the block's own coordinates (gaussian pyramid, mlp)."""
    blocks_per_chunk: int = 4096
    """Most blocks that are on the device at once; in multiples of 16."""
    max_device_memory: float | None = None
    """Most memory of the device in GiB for blocks in training or evaluation, which lowers how many are there at once.
    It does not change what they learn. A CUDA context takes some hundred MiB on top."""
    implementation: Implementation = "auto"
    """Which implementation trains: torch, numba (CPU), triton (CUDA), or the fastest there is."""
    seed: int = 0
    """Decides first parameters and the order of samples."""

    def epochs_of(self, level: int) -> int:
        """Epochs of a level (0: the finest)."""
        return self.epochs[max(len(self.epochs) - 1 - level, 0)]
