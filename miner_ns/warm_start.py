"""Starting a block from its parent's network instead of at random."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from miner_ns.hierarchy import Hierarchy
from miner_ns.networks import BlockNetwork


def from_parents(
    hierarchy: Hierarchy, level: int, network: BlockNetwork, index: Int[Tensor, " n"], theta: Float[Tensor, "n P"]
) -> Float[Tensor, "n P"]:
    """First parameters from the parents' networks: the same function, in the child's coordinates.

    The parent's encoding is, but for its lowest octave, a linear function of the child's; the best linear fit at
    the samples is folded into the first layer.

    Args:
        hierarchy: with the level above.
        level: level of the blocks.
        network: shape of their networks (mlp).
        index: their numbers.
        theta: parameters of those without a parent's network; overwritten.
    """
    above = hierarchy.levels.get(level + 1)
    if above is None or network != above.network:
        return theta
    grid = hierarchy.grids[level]
    parent = torch.from_numpy(grid.parent(index.numpy()))
    slot = above.slot.cpu()[parent]
    corner = torch.from_numpy(grid.coordinates(index.numpy()) % 2)
    child = torch.cat([hierarchy.inputs, torch.ones_like(hierarchy.inputs[:1])]).double()
    for cell in torch.unique(corner, dim=0):
        mine = torch.nonzero((corner == cell).all(dim=1) & (slot >= 0))[:, 0]
        inherited = above.theta[slot[mine]]
        parts = network.unpack(inherited)
        local = (hierarchy.local_centers + 1.0 + 2.0 * cell) / 2.0 - 1.0
        seen = hierarchy.encode(local).T.double()
        fit = torch.linalg.lstsq(child.T, seen.T).solution.T.float()  # [F, F + 1]
        weight = parts["weight0"].clone()
        parts["bias0"] += (weight @ fit[:, -1:])[..., 0]
        parts["weight0"].copy_(weight @ fit[:, :-1])
        theta[mine] = inherited
    return theta
