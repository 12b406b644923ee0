"""Random numbers for nerfstudio's samplers, which draw their own."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode


class GivenNoise(TorchFunctionMode):
    """A context in which `torch.rand` gives numbers that were drawn before: those that belong to the rays, on whichever
    device and in whichever chunk they are.

    Args:
        noise: the numbers, in the shape that is asked for; None: they are drawn as ever.
    """

    def __init__(self, noise: Float[Tensor, "n k"] | None) -> None:
        super().__init__()
        self.noise = noise

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.rand and self.noise is not None:
            assert tuple(args[0]) == self.noise.shape, f"{tuple(args[0])} numbers asked for, {self.noise.shape} given"
            return self.noise
        return func(*args, **(kwargs or {}))
