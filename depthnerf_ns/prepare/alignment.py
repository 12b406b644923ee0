"""Scale and shift of a monocular prediction, from points whose depth is known. Pure numpy.

A monocular network gives depth, or inverse depth, up to an affine map of its own for each image. The map is fitted in
the space of the prediction: reference ≈ scale · prediction + shift, with the reference inverted beforehand where the
network predicts inverse depth. References hold gross errors (wrong matches, points that something hides), so that the
start is the best of many pairs of points by the median of the residuals (RANSAC scored as least median of squares,
Rousseeuw 1984), and the end is iteratively re-weighted least squares with Huber's weights on the inliers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution per median of its absolute values."""
CUT, HUBER = 2.5, 1.345
"""Inliers lie within CUT standard deviations; Huber's weights fall from HUBER of them on."""
SCORED = 2000
"""Points, evenly over all, that pairs are scored on."""
ITERATIONS = 20
LEAST_SPREAD = 1e-6
"""Relative spread below which a prediction counts as constant."""


class AlignmentError(ValueError):
    """Why a prediction cannot be aligned, in words that follow the name of the frame."""


class Alignment(NamedTuple):
    """reference ≈ scale · prediction + shift."""

    scale: float
    """Units of the reference per unit of the prediction; above 0."""
    shift: float
    """In units of the reference."""
    inliers: Bool[ndarray, " n"]
    """Points within CUT standard deviations."""


def align_scale_shift(
    prediction: Float[ndarray, " n"],
    reference: Float[ndarray, " n"],
    weights: Float[ndarray, " n"] | None = None,
    *,
    fit_shift: bool = True,
    min_points: int = 10,
    min_inliers: float = 0.3,
    tolerance: float = 0.0,
    trials: int = 500,
    seed: int = 0,
) -> Alignment:
    """Fit scale and shift robustly: up to almost half of the points may be grossly wrong.

    Args:
        prediction: at the points, in the network's unit.
        reference: at the points, in the same space as the prediction (both depth, or both inverse depth).
        weights: inverse variances of the points up to a common factor; None: all alike.
        fit_shift: off for predictions that are right up to a scale.
        min_points: fewer points with finite values are an error.
        min_inliers: a smaller share of inliers is an error.
        tolerance: least standard deviation to expect, as a share of the median of the reference. The errors of networks
            are smooth: without it the fit may settle on a part of the image where they happen to be small.
        trials: pairs of points that are tried.
        seed: decides the pairs.
    Raises: AlignmentError if the points are too few or do not agree, the prediction is constant, or the scale is not
        above 0.
    """
    p, r = np.asarray(prediction, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    w = np.ones_like(p) if weights is None else np.asarray(weights, dtype=np.float64)
    usable = np.isfinite(p) & np.isfinite(r) & np.isfinite(w) & (w > 0)
    count = int(usable.sum())
    if count < min_points:
        raise AlignmentError(f"{count} points with known depth and a prediction, {min_points} are needed")
    p, r, w = p[usable], r[usable], w[usable] / np.median(w[usable])
    # In units of its own spread, so that no tolerance depends on the network's unit.
    center, spread = (float(np.median(p)), _spread(p)) if fit_shift else (0.0, float(np.median(np.abs(p))))
    if not spread > LEAST_SPREAD * max(float(np.abs(p).max()), 1e-300):
        raise AlignmentError(f"the prediction is constant ({center:.4g}) at the points with known depth")
    x, root = (p - center) / spread, np.sqrt(w)

    slope, offset = _best_pair(x, r, root, fit_shift, trials, seed)
    least = max(tolerance, LEAST_SPREAD) * float(np.median(np.abs(r)))
    inliers = np.ones(len(x), dtype=bool)
    sigma = least
    for _ in range(ITERATIONS):
        residual = np.abs(root * (slope * x + offset - r))
        sigma = max(TO_SIGMA * float(np.median(residual[inliers])), least)
        inliers = residual <= CUT * sigma
        huber = np.minimum(HUBER * sigma / np.maximum(residual, 1e-300), 1.0)
        new = _least_squares(x[inliers], r[inliers], (w * huber)[inliers], fit_shift)
        if new is None:
            raise AlignmentError("the prediction is constant at the points that agree with each other")
        done = abs(new[0] - slope) + abs(new[1] - offset) < 1e-10 * (abs(slope) + abs(offset))
        slope, offset = new
        if done:
            break
    share = float(inliers.mean())
    if share < min_inliers or int(inliers.sum()) < min(min_points, 3):
        raise AlignmentError(f"{share:.0%} of the points agree with each other, {min_inliers:.0%} are needed")
    if not slope > 0:
        raise AlignmentError("the prediction falls where the reference grows (is --mono-kind right?)")
    mask = np.zeros(len(usable), dtype=bool)
    mask[usable] = inliers
    scale = slope / spread
    return Alignment(scale, offset - scale * center, mask)


def _spread(values: Float[ndarray, " n"]) -> float:
    """Distance of the 5th from the 95th percentile."""
    low, high = np.percentile(values, [5.0, 95.0])
    return float(high - low)


def _best_pair(
    x: Float[ndarray, " n"],
    reference: Float[ndarray, " n"],
    root: Float[ndarray, " n"],
    fit_shift: bool,
    trials: int,
    seed: int,
) -> tuple[float, float]:
    """Slope and offset through the pair of points (through one point, without a shift) with the least median of
    weighted residuals."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, len(x), (2, trials))
    some = np.unique(np.linspace(0, len(x) - 1, min(len(x), SCORED)).astype(int))
    if fit_shift:
        # The line through close points says little about the slope.
        apart = np.abs(x[first] - x[second]) > 0.05
        first, second = (first[apart], second[apart]) if apart.any() else ([int(x.argmin())], [int(x.argmax())])
        slopes = (reference[first] - reference[second]) / (x[first] - x[second])
        offsets = reference[first] - slopes * x[first]
    else:
        first = first[np.abs(x[first]) > LEAST_SPREAD]
        slopes = reference[first] / x[first]
        offsets = np.zeros_like(slopes)
    residuals = np.abs(root[some] * (slopes[:, None] * x[some] + offsets[:, None] - reference[some]))
    best = int(np.median(residuals, axis=1).argmin())
    return float(slopes[best]), float(offsets[best])


def _least_squares(
    x: Float[ndarray, " n"], reference: Float[ndarray, " n"], weights: Float[ndarray, " n"], fit_shift: bool
) -> tuple[float, float] | None:
    """Slope and offset of the weighted least squares; None if the points do not determine them."""
    if not fit_shift:
        return float((weights * x * reference).sum() / (weights * x * x).sum()), 0.0
    mean_x, mean_r = np.average(x, weights=weights), np.average(reference, weights=weights)
    variance = np.average((x - mean_x) ** 2, weights=weights)
    if not variance > LEAST_SPREAD**2:
        return None
    slope = float(np.average((x - mean_x) * (reference - mean_r), weights=weights) / variance)
    return slope, float(mean_r - slope * mean_x)


def explained_fraction(values: Float[ndarray, " n"], residuals: Float[ndarray, " n"]) -> float:
    """How much of the spread of the values the prediction explains: 1 − (median |residual| / that of a constant)².

    The constant is the best one there is: the middle of the shortest interval that holds half of the values.

    Args:
        values: the reference.
        residuals: of all points, outliers among them.
    Returns: 1 for a perfect prediction, 0 or less for one that is no better than a constant.
    """
    ordered, half = np.sort(values), len(values) // 2
    spread = 0.5 * float((ordered[half:] - ordered[: len(ordered) - half]).min())
    return 1.0 - (float(np.median(np.abs(residuals))) / max(spread, 1e-300)) ** 2
