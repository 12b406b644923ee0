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
        widths: columns of each field, by name, in any order; the tensor has them in the order of the fields.
    """

    def __init__(self, numbers: type[Numbers], **widths: int) -> None:
        self.numbers = numbers
        self.widths = [widths[name] for name in numbers._fields]  # type: ignore[attr-defined]

    @property
    def width(self) -> int:
        """Numbers of a ray."""
        return sum(self.widths)

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
        return self.named(torch.rand(count, self.width, device=device) if drawn is None else drawn)
