"""Sines and cosines of positions along directions: random Fourier features, and what positional encoding shares."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common_ns.errors import InputError
from common_ns.nerfstudio_seam.renames import SuiteConfig
from hashnffb_sdf_ns.encodings.base import Encoding, active_levels
from hashnffb_sdf_ns.encodings.fourier_bands import fourier_bands, quarter_turns


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Check an option of an encoding.

    Raises: InputError if it is not between `low` and `high`.
    """
    if not low <= value <= high:
        raise InputError(f"encoding option {name} is {value}", f"Give a number from {low} to {high}")


@dataclass(frozen=True)
class FourierOptions(SuiteConfig):
    """Random Fourier features."""

    num_frequencies: int = 64
    """Random directions and frequencies, each with a sine and a cosine."""
    sigma: float = 1.0
    """Standard deviation of the frequencies along each axis, in cycles per unit of length: what the smallest detail
    that can be learnt goes with."""
    seed: int = 0
    """What the frequencies are drawn from."""

    def __post_init__(self) -> None:
        require_range("fourier.num_frequencies", self.num_frequencies, 1, 4096)
        require_range("fourier.sigma", self.sigma, 1e-3, 1e3)


class FrequencyEncoding(Encoding):
    """Sines, then cosines, of b · x for fixed vectors b, which come in levels from low to high frequency.

    Args:
        frequencies: vectors b, in radians per unit of length.
        levels: the level of each, from 0.
    """

    frequencies: Tensor
    levels: Tensor

    def __init__(self, frequencies: Float[Tensor, "k 3"], levels: Int[Tensor, "k"]) -> None:
        super().__init__()
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("levels", levels, persistent=False)
        self.output_dim = 2 * len(frequencies)
        self.num_levels = int(levels.max()) + 1
        self.active_levels = float(self.num_levels)

    def set_progress(self, share: float) -> None:
        self.active_levels = active_levels(share, self.num_levels)

    def finish(self, x: Float[Tensor, "n 3"], z: Tensor | None) -> Float[Tensor, "n f"]:
        del z
        frequencies = torch.cat([self.frequencies, self.frequencies]).T
        x = x.to(frequencies.dtype)
        features = fourier_bands(x[None], frequencies[None], quarter_turns(frequencies))[0]
        if self.active_levels >= self.num_levels:
            return features
        # The window of Nerfies (arXiv 2011.12948), equation 8: its derivative by the schedule is continuous.
        share = (self.active_levels - self.levels).clamp(0, 1).to(frequencies.dtype)
        return features * (0.5 - 0.5 * torch.cos(math.pi * share)).repeat(2)


class RandomFourierFeatures(FrequencyEncoding):
    """Sines and cosines of 2π b · x with random b of a normal distribution, ordered by length.

    Source: Tancik et al., Fourier features let networks learn high frequency functions (arXiv 2006.10739), section 6.
    """

    def __init__(self, options: FourierOptions = FourierOptions()) -> None:
        generator = torch.Generator().manual_seed(options.seed)
        frequencies = options.sigma * torch.randn(options.num_frequencies, 3, generator=generator)
        frequencies = frequencies[frequencies.norm(dim=1).argsort()]
        super().__init__(2.0 * math.pi * frequencies, torch.arange(len(frequencies)))
