"""What depth sensors and monocular predictors make of exact depth. z-depth in scene units, 0 where there is none."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt16
from numpy import ndarray

MILLI = 1e-3
"""Scene units per step of a 16-bit depth picture."""


def sensor_depth(
    depth: Float[ndarray, "h w"], noise: float, holes: float, rng: np.random.Generator
) -> Float[ndarray, "h w"]:
    """Depth with Gaussian noise and with blobs of missing values.

    Args:
        depth: exact z-depth.
        noise: standard deviation in scene units.
        holes: share of the valid pixels to lose, in [0, 1).
        rng: draws both; the same numbers whatever the values of `noise` and `holes`.
    """
    from scipy.ndimage import gaussian_filter

    jitter, field = rng.standard_normal(depth.shape), rng.standard_normal(depth.shape)
    valid = depth > 0
    out = np.where(valid, np.maximum(depth + noise * jitter, MILLI), 0.0)
    lose = round(holes * int(valid.sum()))
    if lose:
        # Smooth noise has its low values in blobs.
        field = gaussian_filter(field, max(min(depth.shape) / 40, 0.5))
        pixels = np.flatnonzero(valid)
        out.flat[pixels[np.argsort(field.flat[pixels], kind="stable")[:lose]]] = 0.0
    return out


def mono_scale_shift(rng: np.random.Generator) -> tuple[float, float]:
    """Scale and shift (scene units) of one picture's monocular depth, which methods have to find out."""
    return float(rng.uniform(0.3, 1.2)), float(rng.uniform(0.2, 2.0))


def mono_depth(depth: Float[ndarray, "h w"], scale: float, shift: float) -> Float[ndarray, "h w"]:
    """Depth as a predictor gives it: right up to a scale and a shift; 0 where there is nothing to see."""
    return np.where(depth > 0, scale * depth + shift, 0.0)


def to_millis(depth: Float[ndarray, "h w"]) -> UInt16[ndarray, "h w"]:
    """Steps of 1e-3 scene units, for 16-bit pictures; 0 stays 0 and means that there is no value."""
    steps = np.clip(np.rint(depth / MILLI), 1, 65535)
    return np.where(depth > 0, steps, 0).astype(np.uint16)
