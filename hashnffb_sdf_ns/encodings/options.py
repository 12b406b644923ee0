"""Which encoding, and its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch

from common_ns.errors import InputError
from common_ns.hash_grid import HashGridOptions
from common_ns.nerfstudio_seam.renames import SuiteConfig
from hashnffb_sdf_ns.encodings.base import Encoding
from hashnffb_sdf_ns.encodings.fourier import FourierOptions, RandomFourierFeatures
from hashnffb_sdf_ns.encodings.hash import SMALL_GRID, HashEncoding
from hashnffb_sdf_ns.encodings.nffb import NFFB, NFFBOptions
from hashnffb_sdf_ns.encodings.positional import PosencOptions, PositionalEncoding
from hashnffb_sdf_ns.encodings.style_nffb import StyleModNFFB

EncodingName = Literal["posenc", "fourier", "hash", "nffb", "stylemod-nffb"]


@dataclass
class EncodingConfig(SuiteConfig):
    """Options of every encoding; those of the one that is chosen count."""

    posenc: PosencOptions = field(default_factory=PosencOptions)
    """Axis-aligned octaves."""
    fourier: FourierOptions = field(default_factory=FourierOptions)
    """Random Fourier features."""
    hash: HashGridOptions = field(default_factory=lambda: SMALL_GRID)
    """Multi-resolution hash grid."""
    nffb: NFFBOptions = field(default_factory=NFFBOptions)
    """Fourier filter bank on a hash grid, with or without style modulation."""


def make_encoding(
    name: EncodingName, options: EncodingConfig | None = None, generator: torch.Generator | None = None
) -> Encoding:
    """Make an encoding.

    Args:
        name: which.
        options: sizes; None: the defaults.
        generator: source of the parameters' initial values; None: torch's own.
    Raises: InputError for a name that is none.
    """
    options = EncodingConfig() if options is None else options
    makers: dict[str, Callable[[], Encoding]] = {
        "posenc": lambda: PositionalEncoding(options.posenc),
        "fourier": lambda: RandomFourierFeatures(options.fourier),
        "hash": lambda: HashEncoding(options.hash, generator),
        "nffb": lambda: NFFB(options.nffb, generator),
        "stylemod-nffb": lambda: StyleModNFFB(options.nffb, generator),
    }
    if name not in makers:
        raise InputError(f"there is no encoding '{name}'", f"Choose one of {', '.join(makers)}")
    return makers[name]()
