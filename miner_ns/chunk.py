"""Blocks in training, and how a checkpoint keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from miner_ns.kernels import BlockState


@dataclass
class Chunk:
    """Blocks in training."""

    index: Int[Tensor, " n"]
    """Their numbers."""
    state: BlockState
    """Their parameters and optimizer state."""
    targets: Float[Tensor, "n C p"]
    """The samples they learn."""
    valid: Float[Tensor, "n p"] | None
    """Weight of each sample, 0 beyond the signal; None: all count."""
    epoch: int = 0
    """Epochs they have been trained for."""

    def saved(self) -> dict[str, Any]:
        """What a checkpoint keeps, in main memory. Finished blocks keep no optimizer state; samples are read again."""
        live = torch.nonzero(~self.state.finished)[:, 0]
        return {
            "index": self.index,
            "epoch": self.epoch,
            "steps": self.state.steps,
            "theta": self.state.theta.cpu(),
            "losses": self.state.losses.cpu(),
            "live": live.cpu(),
            "first_moment": self.state.first_moment[live].cpu(),
            "second_moment": self.state.second_moment[live].cpu(),
        }


def part_of_saved(saved: dict[str, Any], blocks: slice) -> dict[str, Any]:
    """Some of a saved chunk's blocks, from `blocks.start` to `blocks.stop`."""
    live = saved["live"]
    among = (live >= blocks.start) & (live < blocks.stop)
    of_blocks = {name: saved[name][blocks] for name in ("index", "theta", "losses")}
    of_live = {name: saved[name][among] for name in ("first_moment", "second_moment")}
    return {**saved, **of_blocks, **of_live, "live": live[among] - blocks.start}


def split_saved(saved: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """A saved chunk as one of its first `count` blocks and one of the others, if there are others.

    A run may go on with less memory on its device than it began with.
    """
    parts = [part_of_saved(saved, blocks) for blocks in (slice(0, count), slice(count, len(saved["index"])))]
    return [part for part in parts if len(part["index"]) > 0]


def restored(saved: dict[str, Any], device: torch.device) -> BlockState:
    """The state of the blocks of a saved chunk, on a device."""
    blocks = BlockState.create(saved["theta"].to(device))
    live = saved["live"].to(device)
    blocks.finished[:] = True
    blocks.finished[live] = False
    blocks.losses = saved["losses"].to(device)
    blocks.first_moment[live] = saved["first_moment"].to(device)
    blocks.second_moment[live] = saved["second_moment"].to(device)
    blocks.steps = saved["steps"]
    return blocks
