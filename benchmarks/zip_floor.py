"""What a training step of Zip-NeRF cannot but take: a floor made of counts and of rates that the machine reaches.

    lookups    4 bytes · 8 corners · features · levels · points, once forward and twice backward, where rows are read
               and written, and 4 bytes for each number of the tables, whose gradient is written as a whole; at the rate
               of copies of a tensor as large as the largest table
    networks   2 · multiply-adds forward, as many again for the gradient of the weights, and for that of the input where
               it is needed, at the rate of a large matrix product in float32
    optimizer  7 numbers of 4 bytes for each parameter, at the same rate as lookups: Adam reads the parameter, its
               gradient and two moments, and writes all but the gradient

Both rates are measured in the run (`Rates`). Rows that neighbors share are counted each time that they are asked for.
Sampling, losses, decay and rendering count as nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mipnerf_ns.networks import SplitLinear
from mipnerf_ns.zip_model import ZipNerfModel


def products_per_ray(model: ZipNerfModel) -> Iterator[tuple[int, bool]]:
    """The matrix products that a ray takes part in: multiply-adds, and whether the gradient of the input is needed."""
    for field, samples in zip((*model.proposal, model.field), model.sampler.counts):
        for layer in (*field.trunk, field.density_head):  # type: ignore[union-attr]
            yield samples * layer.weight.numel(), True  # grids are trained  # type: ignore[operator]
    samples, head = model.sampler.counts[-1], model.field.color_head
    yield samples * head.bottleneck.weight.numel(), True
    for layer in (head.input, *([] if head.skip is None else [head.skip])):
        yield from _split(layer, samples, model.field.appearance is not None)
    for layer in (*head.layers, head.output):
        yield samples * layer.weight.numel(), True  # type: ignore[union-attr, operator]


def _split(layer: SplitLinear, samples: int, conditions_trained: bool) -> Iterator[tuple[int, bool]]:
    """Directions and appearance codes belong to rays, not to samples."""
    out, both = layer.weight.shape
    yield samples * out * layer.in_first, True
    yield out * (both - layer.in_first), conditions_trained


def forward_flops(model: ZipNerfModel) -> int:
    """Operations of all matrix products for each ray, forward."""
    return sum(2 * count for count, _ in products_per_ray(model))


def backward_flops(model: ZipNerfModel) -> int:
    """Operations of all matrix products for each ray, backward."""
    return sum(2 * count * (2 if input_gradient else 1) for count, input_gradient in products_per_ray(model))


def gathered_bytes(model: ZipNerfModel) -> int:
    """Bytes of the rows that the points of a ray are interpolated from, forward."""
    fields: Any = (*model.proposal, model.field)
    return sum(
        4 * 8 * field.grid.shape.output_dim * samples * field.num_multisamples
        for samples, field in zip(model.sampler.counts, fields)
    )


def parameters_of(model: ZipNerfModel) -> int:
    """Numbers that are trained."""
    return sum(parameter.numel() for parameter in model.parameters())


def floor_of_parts(model: ZipNerfModel, rays: int, rates: Rates) -> dict[str, float]:
    """Seconds of each part of a step that has a floor.

    Args:
        model: whose step it is.
        rays: in a step.
        rates: of the machine.
    """
    in_tables = sum(table.numel() for table in model.tables)
    return {
        "lookups, forward": rays * gathered_bytes(model) / rates.copied,
        "lookups, backward": (2 * rays * gathered_bytes(model) + 4 * in_tables) / rates.copied,
        "networks, forward": rays * forward_flops(model) / rates.multiplied,
        "networks, backward": rays * backward_flops(model) / rates.multiplied,
        "optimizer": 7 * 4 * parameters_of(model) / rates.copied,
    }


@dataclass
class Rates:
    """What the machine does in a second."""

    copied: float
    """Bytes read and written in copies of a tensor of the size of the largest table."""
    multiplied: float
    """Operations of a large matrix product."""

    @classmethod
    def measured(cls, model: ZipNerfModel, clock: Callable[[], float], side: int = 1024, rounds: int = 7) -> Rates:
        """Probes on the device of a model.

        Args:
            model: whose tables are copied.
            clock: time in seconds, of what the device has done.
            side: of the matrices.
            rounds: repetitions of which the shortest counts.
        """
        table: Tensor = max(model.tables, key=lambda each: each.numel()).detach()
        target, matrix = torch.empty_like(table), torch.rand(side, side, device=table.device)
        product = torch.empty_like(matrix)

        def best(run: Callable[[], Any]) -> float:
            run()
            times = []
            for _ in range(rounds):
                start = clock()
                run()
                times.append(clock() - start)
            return max(min(times), 1e-9)

        copied = best(lambda: target.copy_(table))
        multiplied = best(lambda: torch.mm(matrix, matrix, out=product))
        return cls(2 * table.numel() * table.element_size() / copied, 2 * side**3 / multiplied)
