"""The levels of a multi-resolution hash grid: their resolution, and which rows of the table are theirs.

Source: Müller et al., Instant neural graphics primitives (arXiv 2201.05989), section 3, and its published code, whose
positions within a level are x · scale + ½: that half shifts the levels against each other, so that their cells' borders
do not fall on one another.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

PRIMES = (1, 2654435761, 805459861)
"""Factors of a vertex's coordinates in its hash (equation 4)."""


class Level(NamedTuple):
    """One grid of the pyramid, over the unit cube."""

    scale: float
    """Cells per unit of length; exact in float32."""
    vertices: int
    """Along an axis: every position has eight of its own around it, those on the far faces too."""
    offset: int
    """Its first row in the table."""
    size: int
    """Its rows in the table."""
    hashed: bool
    """Vertices share rows, whose places are hashes; else each vertex has its own, x running fastest, then y."""


class GridShape(NamedTuple):
    """Everything that is fixed about a grid; what the implementations compute from."""

    levels: tuple[Level, ...]
    features: int
    """Numbers in a row of the table, the features of a level."""
    smooth: bool
    """Interpolate with the weights f² (3 − 2f) instead of f, whose derivative is continuous."""

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.levels[-1].offset + self.levels[-1].size

    @property
    def output_dim(self) -> int:
        """Features of all levels."""
        return len(self.levels) * self.features


def make_shape(
    num_levels: int, features: int, log2_table_size: int, base_resolution: int, max_resolution: int, smooth: bool
) -> GridShape:
    """Lay out a grid whose resolution grows from level to level by the same factor (equations 2 and 3).

    Args:
        num_levels: number of levels.
        features: features of a level.
        log2_table_size: a level with more than 2^this vertices hashes them into 2^this rows.
        base_resolution: vertices along an axis of the coarsest level, counted as the paper does.
        max_resolution: the same of the finest level; not used if there is one level.
        smooth: see `GridShape`.
    """
    growth = (max_resolution / base_resolution) ** (1 / max(num_levels - 1, 1))
    levels, offset = [], 0
    for index in range(num_levels):
        scale = base_resolution * growth**index - 1
        # Rounding errors of the power must not decide what lies on either side of a whole number.
        scale = float(np.float32(round(scale) if abs(scale - round(scale)) < 1e-6 else scale))
        vertices = math.floor(scale + 0.5) + 2
        hashed = (math.ceil(scale) + 1) ** 3 > 2**log2_table_size  # as instant-ngp decides, which has no far faces
        size = 2**log2_table_size if hashed else vertices**3
        levels.append(Level(scale, vertices, offset, size, hashed))
        offset += size
    return GridShape(tuple(levels), features, smooth)


def level_weight(active_levels: float, level: int) -> float:
    """Factor of a level's features: levels appear one after the other, each growing from 0 to 1."""
    return min(max(active_levels - level, 0.0), 1.0)


def count_active(shape: GridShape, active_levels: float) -> int:
    """Levels whose weight is not 0."""
    return min(max(math.ceil(active_levels), 0), len(shape.levels))
