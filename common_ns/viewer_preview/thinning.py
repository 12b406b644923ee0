"""Fewer Gaussians or points in place of many, without holes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

SIZES_PER_OCTAVE = 2
"""Groups of points of like size, whose radii differ by a factor of two: a point cloud of viser has one size."""


def contributions(scales: Float[NDArray, "n 3"], opacities: Float[NDArray, "n"]) -> Float[NDArray, "n"]:
    """How much Gaussians weigh in a picture from nearby: opacity times area, which is that of the largest of the three
    ellipses through the center, without the factor π.

    Args:
        scales: standard deviations along the axes.
        opacities: in [0, 1].
    """
    ordered = np.sort(scales, axis=1)
    return opacities * ordered[:, 1] * ordered[:, 2]


def largest(weights: Float[NDArray, "n"], count: int) -> Int[NDArray, "m"]:
    """Places of the largest weights, so many of them or all, the largest first."""
    if count >= len(weights):
        return np.argsort(-weights, kind="stable")
    kept = np.argpartition(-weights, count)[:count]
    return kept[np.argsort(-weights[kept], kind="stable")]


def growth(weights: Float[NDArray, "n"], kept: Int[NDArray, "m"]) -> float:
    """Factor of the sizes of those that are kept, by which they contribute as much as all have: areas grow by its
    square."""
    total = float(weights[kept].sum())
    return float(np.sqrt(weights.sum() / total)) if total > 0.0 else 1.0


def size_groups(radii: Float[NDArray, "n"]) -> dict[float, Int[NDArray, "m"]]:
    """Points by size: for each group its radius, which is no less than those of its points and at most √2 times as
    large, and the places of its points."""
    steps = np.ceil(SIZES_PER_OCTAVE * np.log2(radii) - 1e-9).astype(int)
    return {2.0 ** (step / SIZES_PER_OCTAVE): np.nonzero(steps == step)[0] for step in np.unique(steps)}
