"""Positional encoding: sines and cosines of each coordinate, octave by octave."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from common_ns.nerfstudio_seam.renames import SuiteConfig
from common_ns.rays.positional_encoding import octave_matrix
from hashnffb_sdf_ns.encodings.fourier import FrequencyEncoding, require_range


@dataclass(frozen=True)
class PosencOptions(SuiteConfig):
    """Axis-aligned octaves."""

    num_frequencies: int = 6
    """Octaves: sines and cosines of x, 2 x, 4 x, … radians per unit. IDR takes 6."""

    def __post_init__(self) -> None:
        require_range("posenc.num_frequencies", self.num_frequencies, 1, 20)


class PositionalEncoding(FrequencyEncoding):
    """sin(2^k x) and cos(2^k x) of each coordinate: `common_ns.rays.positional_encoding`, as Fourier features.

    Source: Yariv et al., Multiview neural surface reconstruction (IDR, arXiv 2003.09852), section 4; NeRF (arXiv
    2003.08934), section 5.1, without the factor π there.
    """

    def __init__(self, options: PosencOptions = PosencOptions()) -> None:
        super().__init__(
            octave_matrix(3, 0, options.num_frequencies), torch.arange(options.num_frequencies).repeat_interleave(3)
        )
