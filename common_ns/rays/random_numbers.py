"""The random numbers of a training step, drawn for all rays of all devices at once and handed out by name.

A ray's numbers come with it, so that a step gives the same result however its rays are divided into chunks and over
devices. A model declares once which it needs: a named tuple whose fields are tensors, and how many columns each has.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Numbers = TypeVar("Numbers", bound=tuple)

KEY = "random_numbers"
"""Where they are in a ray bundle's metadata: one tensor, as nerfstudio divides tensors there with the rays."""


class RayRandomness(Generic[Numbers]):
    """Which uniform random numbers in [0, 1) each ray of a training step has.

    Args:
        numbers: named tuple of tensors, each [n, its width].
        one_draw_each: draw each field's numbers for all rays before the next field's, as nerfstudio's samplers do.
        widths: columns of each field, by name, in any order; the tensor has them in the order of the fields.
    """

    def __init__(self, numbers: type[Numbers], one_draw_each: bool = False, **widths: int) -> None:
        self.numbers, self.one_draw_each = numbers, one_draw_each
        self.widths = [widths[name] for name in numbers._fields]  # type: ignore[attr-defined]

    @property
    def width(self) -> int:
        """Numbers of a ray."""
        return sum(self.widths)

    def draw(self, count: int, device: torch.device | None = None) -> Float[Tensor, "count width"]:
        """Numbers for so many rays."""
        widths = self.widths if self.one_draw_each else [self.width]
        return torch.cat([torch.rand(count, width, device=device) for width in widths], dim=-1)

    def named(self, drawn: Float[Tensor, "n width"]) -> Numbers:
        """Columns of a tensor by their names."""
        return self.numbers(*drawn.split(self.widths, dim=-1))

    def of(self, metadata: MutableMapping[str, Any], count: int, device: torch.device) -> Numbers:
        """The numbers that came with rays; fresh ones if none did.

        Args:
            metadata: of the ray bundle.
            count, device: of its rays.
        """
        drawn = metadata.get(KEY)
        return self.named(self.draw(count, device) if drawn is None else drawn)


def standard_normal(uniform: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Normally distributed numbers (mean 0, variance 1) from uniform ones in [0, 1), by the inverse of the
    distribution; within ±5.5, as float32 has no uniform numbers nearer to 0 and 1."""
    return torch.special.ndtri(uniform.clamp(2.0**-25, 1.0 - 2.0**-24))
