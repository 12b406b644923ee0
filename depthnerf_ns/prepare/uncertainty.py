"""Standard deviations of depth: of a sensor, of triangulated points and of aligned predictions. Pure numpy.

All are of z-depth in the unit of the poses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthnerf_ns.prepare.alignment import TO_SIGMA

EXPONENTS = np.arange(0.0, 2.01, 0.25)
"""Powers of depth that residuals may grow with: 0 for a constant, 1 for a share of depth, 2 for inverse depth."""
RANGE = (2.0, 98.0)
"""Percentiles of the reference depth that bound its valid range."""


def polynomial_sigma(coefficients: Sequence[float], depth: Float[ndarray, "*n"]) -> Float[ndarray, "*n"]:
    """A sensor's σ = c₀ + c₁ D + c₂ D² …, as data sheets give it: structured light and stereo grow with the square."""
    return np.polynomial.polynomial.polyval(depth, np.asarray(coefficients, dtype=np.float64))


def triangulation_sigma(
    point: Float[ndarray, " 3"],
    centers: Float[ndarray, "m 3"],
    focals: Float[ndarray, " m"],
    error: float,
) -> Float[ndarray, " m"]:
    """σ of a point's distance from each of the cameras that see it, given what the others see.

    Moving the point along the ray of camera i by δ moves its image in camera k by f_k sin θ_ik δ / D_k pixels, θ being
    the angle between their rays (the triangulation angle). With an error of e pixels in each image,

        1 / σ_i² = Σ_k (f_k sin θ_ik / (D_k e))²,

    which for cameras at like distance is the formula of stereo, σ ≈ D² e / (f b), with b² the sum of the squares of the
    baselines seen from the point at a right angle to the ray.

    Args:
        point: in world axes.
        centers: of the cameras.
        focals: in pixels.
        error: of a key point's place in pixels.
    Returns: along the rays; inf for a point whose cameras lie on one ray.
    """
    ray = point - centers
    distance = np.linalg.norm(ray, axis=1)
    ray = ray / distance[:, None]
    sine2 = np.maximum(1.0 - (ray @ ray.T) ** 2, 0.0)
    np.fill_diagonal(sine2, 0.0)  # rounding would leave 1e-16
    information = sine2 @ (focals / (distance * error)) ** 2
    with np.errstate(divide="ignore"):
        return 1.0 / np.sqrt(information)


@dataclass(frozen=True)
class ResidualSigma:
    """σ(D) = coefficient · D^exponent of an aligned prediction, larger outside of the depths that it was aligned on."""

    coefficient: float
    """σ at depth 1 in the unit of the poses."""
    exponent: float
    """How it grows with depth, from 0 to 2."""
    low: float
    """Least and…"""
    high: float
    """…largest depth of the reference."""

    def __call__(self, depth: Float[ndarray, "*n"]) -> Float[ndarray, "*n"]:
        """σ at a depth; outside of [low, high] by the square of the ratio larger, as nothing there was compared."""
        inside = np.clip(depth, self.low, self.high)
        ratio = np.maximum(depth / inside, inside / np.maximum(depth, 1e-300))
        return self.coefficient * np.maximum(depth, 0.0) ** self.exponent * ratio**2


def fit_residual_sigma(
    aligned: Float[ndarray, " n"], reference: Float[ndarray, " n"], inliers: ndarray, least_relative: float = 1e-3
) -> ResidualSigma:
    """σ of an aligned prediction from what is left between it and the reference.

    The exponent is the one under which the inliers' residuals are most likely (Laplace's distribution). The coefficient
    comes from the median over all points: a prediction that is off at many of them gets a large σ.

    Args:
        aligned: depth by the prediction at the points, above 0.
        reference: known depth there.
        inliers: points that scale and shift were fitted to.
        least_relative: least σ as a share of depth.
    """
    residual = np.abs(aligned - reference)
    center = float(np.median(aligned))
    scaled = aligned / center
    best, best_likelihood = 0.0, -np.inf
    for exponent in EXPONENTS:
        spread = float((residual / scaled**exponent)[inliers].mean())
        likelihood = -np.log(max(spread, 1e-12 * center)) - exponent * float(np.log(scaled[inliers]).mean())
        if likelihood > best_likelihood + 1e-12:
            best, best_likelihood = float(exponent), likelihood
    spread = TO_SIGMA * float(np.median(residual / scaled**best))
    spread = max(spread, least_relative * center)
    low, high = np.percentile(reference[inliers], RANGE)
    return ResidualSigma(spread / center**best, best, float(low), float(high))
