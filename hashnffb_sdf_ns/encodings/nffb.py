"""Neural Fourier filter banks: grids of coarse resolution meet low frequencies, those of fine resolution high ones.

The features of each band of a hash grid's levels pass through Fourier features of their own, whose frequencies grow
from band to band. A chain of sine layers runs beside them: each layer's output and its band's Fourier features are
added, go into the next layer, and through a matrix of the band's own into the result, the average over bands.

A band may span several levels, which makes the chain shorter. Tables start at almost 0, so that phases do; a cosine
stands beside each sine, so that Fourier features have the same magnitude from the start.

Source: Wu et al., Neural Fourier filter bank (arXiv 2212.01735), section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common_ns.errors import InputError
from common_ns.hash_grid import HashGridOptions
from common_ns.nerfstudio_seam.renames import SuiteConfig
from hashnffb_sdf_ns.encodings.fourier import require_range
from hashnffb_sdf_ns.encodings.fourier_bands import fourier_bands, quarter_turns
from hashnffb_sdf_ns.encodings.hash import SMALL_GRID, GridEncoding
from hashnffb_sdf_ns.encodings.sine_bands import sine_bands


@dataclass(frozen=True)
class NFFBOptions(SuiteConfig):
    """A Fourier filter bank on a hash grid."""

    grid: HashGridOptions = field(default_factory=lambda: SMALL_GRID)
    """The hash grid."""
    levels_per_band: int = 2
    """Levels of the grid that share Fourier features and a sine layer; the paper has 1, which takes longer."""
    width: int = 32
    """Width of the sine layers, and Fourier features of a band: half of them sines, half cosines."""
    num_features: int = 16
    """Features of a position that come out."""
    w0: float = 6.0
    """Factor of the sine layers' weights and biases. It makes them learn faster; above 8, noisier."""
    sigma: float = 0.2
    """Standard deviation of the coarsest band's frequencies, in cycles per unit of a grid feature. A step of the
    table's learning rate turns phases by 2π times this: with a rate of 1e-2, 0.1 to 0.3 learn well, and 2 to 4 move
    phases so far that nothing settles."""
    sigma_growth: float = 1.26
    """Factor of the frequencies from each level of the grid to the next."""
    seed: int = 0
    """What the frequencies are drawn from."""

    def __post_init__(self) -> None:
        require_range("nffb.levels_per_band", self.levels_per_band, 1, self.grid.num_levels)
        require_range("nffb.width", self.width, 2, 1024)
        require_range("nffb.num_features", self.num_features, 1, 1024)
        for name in ("w0", "sigma", "sigma_growth"):
            require_range(f"nffb.{name}", getattr(self, name), 1e-3, 1e3)
        if self.grid.num_levels % self.levels_per_band:
            raise InputError(
                f"a grid of {self.grid.num_levels} levels does not divide into bands of {self.levels_per_band}",
                "Let levels-per-band divide num-levels",
            )
        if self.width % 2:
            raise InputError(f"the width of the filter bank is {self.width}", "Give an even number")


class NFFB(GridEncoding):
    """A Fourier filter bank.

    Args:
        options: sizes and frequencies.
        generator: source of the parameters' initial values; None: torch's own.
    """

    frequencies: Tensor

    def __init__(self, options: NFFBOptions = NFFBOptions(), generator: torch.Generator | None = None) -> None:
        super().__init__(options.grid, generator)
        self.options = options
        self.output_dim, width = options.num_features, options.width
        self.bands = options.grid.num_levels // options.levels_per_band
        inputs = options.levels_per_band * options.grid.features_per_level

        seeded = torch.Generator().manual_seed(options.seed)
        half = torch.randn(self.bands, inputs, width // 2, generator=seeded)
        sigma = options.sigma * options.sigma_growth ** torch.arange(options.grid.num_levels)
        half *= 2.0 * math.pi * sigma.repeat_interleave(options.grid.features_per_level).view(self.bands, inputs, 1)
        self.register_buffer("frequencies", torch.cat([half, half], -1))
        """[bands, features, width]: radians per unit of a feature, for the sines and once more for the cosines."""

        def uniform(*shape: int, bound: float) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))

        # Weights without their factor w0. Positions to phases as prototypes had it: slow waves across the scene. Then
        # variances: hidden values' squares are 1 on average, ½ each of sine and Fourier feature; so are phases'.
        self.first_weight = uniform(width, 3, bound=1.0 / 3.0)
        self.first_bias = uniform(width, bound=1.0 / 3.0)
        self.weight = uniform(self.bands, width, width, bound=math.sqrt(3.0 / width) / options.w0)
        self.bias = uniform(self.bands, width, bound=math.sqrt(3.0 / width) / options.w0)
        self.out_weight = uniform(self.bands, width, self.output_dim, bound=math.sqrt(3.0 * self.bands / width))

    def band_weights(self) -> list[float]:
        """Factors of the active bands' contributions, from the coarsest."""
        active = self.grid.active_levels / self.options.levels_per_band
        # A band is on with the first of its levels; it grows while they do.
        return [min(1.0, active - band) for band in range(self.bands) if active > band]

    def finish(self, x: Float[Tensor, "n 3"], z: Float[Tensor, "n g"] | None) -> Float[Tensor, "n f"]:
        assert z is not None
        weights, w0 = self.band_weights(), self.options.w0
        on = len(weights)
        x, z = x.to(z.dtype), z.reshape(len(z), *self.frequencies.shape[:2]).transpose(0, 1)[:on]
        embedding = self.modulate(x, fourier_bands(z, self.frequencies[:on], quarter_turns(self.frequencies)))
        out_weight = self.out_weight[:on] / self.bands
        if weights[-1] < 1.0:
            fade = x.new_tensor(weights).view(-1, 1, 1)
            embedding, out_weight = embedding * fade, out_weight * fade
        first = nn.functional.linear(x, w0 * self.first_weight, w0 * self.first_bias)
        return sine_bands(first, embedding, w0 * self.weight[:on], w0 * self.bias[:on], out_weight)

    def modulate(self, x: Float[Tensor, "n 3"], embedding: Float[Tensor, "b n w"]) -> Float[Tensor, "b n w"]:
        """What is added to the sine layers, from the active bands' Fourier features: these themselves."""
        del x
        return embedding
