"""What one training step needs of the other devices: shares of the work, and sums over all of them.

A device is a process of `torch.distributed`, as `ns-train --machine.num-devices N` starts them. Without one, this
device is all there are, and every function here returns what it was given.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from nerfstudio.utils.comms import get_rank as rank
from nerfstudio.utils.comms import get_world_size as world_size
from torch import Tensor, nn

T = TypeVar("T")

__all__ = [
    "broadcast_module",
    "gather",
    "gather_numbers",
    "gather_on_first",
    "leave",
    "rank",
    "share",
    "sum_gradients",
    "world_size",
]


def share(total: int, part: int, parts: int) -> slice:
    """Part number `part` of `total` things, cut into contiguous `parts` whose sizes differ by one at most."""
    return slice(total * part // parts, total * (part + 1) // parts)


def gather(value: T) -> list[T]:
    """The value of every device in the order of their ranks; anything that can be pickled. Not for every step: it
    takes two rounds of messages, and waits for the device."""
    values: list = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def gather_on_first(value: T) -> list[T]:
    """The value of every device as `gather`, on rank 0; nothing on the others."""
    values: list = [value] * (world_size() if rank() == 0 else 0)
    if world_size() > 1:
        dist.gather_object(value, values or None)
    return values


def gather_numbers(values: Sequence[Tensor | float], device: torch.device) -> Float[Tensor, "devices n"]:
    """The same few numbers of every device, in the order of their ranks.

    Args:
        values: numbers, or tensors that hold one number each.
        device: where this process computes.
    """
    local = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=device).reshape(()) for value in values])
    everywhere = [local.clone() for _ in range(world_size())]
    if world_size() > 1:
        dist.all_gather(everywhere, local)
    return torch.stack(everywhere)


def broadcast_module(module: nn.Module) -> None:
    """Give the parameters and buffers of all devices the values they have on rank 0."""
    if world_size() == 1:
        return
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.numel() > 0:
            dist.broadcast(tensor.data, src=0)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all devices, in one message per number format.

    A device without a gradient (its rays did not reach that parameter) adds zero; where no device has one, none
    appears, so that optimizers pass the parameter by as they do on a single device.
    """
    if world_size() == 1:
        return
    by_format: dict[torch.dtype, list[nn.Parameter]] = defaultdict(list)
    for parameter in parameters:
        if parameter.requires_grad:
            by_format[parameter.dtype].append(parameter)
    for dtype, group in by_format.items():
        present = torch.tensor([p.grad is not None for p in group], dtype=dtype, device=group[0].device)
        gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in group]
        message = torch.cat([present, *gradients])
        dist.all_reduce(message)
        present, *sums = message.split([len(group), *(p.numel() for p in group)])
        for parameter, found, total in zip(group, present.tolist(), sums):
            if found:
                parameter.grad = total.view_as(parameter)


def leave() -> None:
    """Wait until all devices have come here. Afterwards each is on its own, and none waits for another any more."""
    if world_size() > 1:
        gather(None)
        dist.destroy_process_group()
