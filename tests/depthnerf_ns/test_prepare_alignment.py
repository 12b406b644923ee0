"""Scale and shift of predictions, and the standard deviations that follow: right in spite of gross errors, and an
honest refusal where the points do not determine them."""

from __future__ import annotations

import numpy as np
import pytest

from depthnerf_ns.prepare.alignment import AlignmentError, align_scale_shift, explained_fraction
from depthnerf_ns.prepare.uncertainty import (
    ResidualSigma,
    fit_residual_sigma,
    polynomial_sigma,
    triangulation_sigma,
)


def points(seed: int, count: int = 300, outliers: float = 0.4, noise: float = 0.01) -> tuple[np.ndarray, ...]:
    """Predictions, references and which of them are outliers, for scale 2.5 and shift −0.7."""
    rng = np.random.default_rng(seed)
    prediction = rng.uniform(1.0, 4.0, count)
    reference = 2.5 * prediction - 0.7 + noise * rng.standard_normal(count)
    wrong = rng.random(count) < outliers
    # One-sided and far off, as points behind what the network sees.
    reference[wrong] += rng.uniform(0.5, 8.0, wrong.sum())
    return prediction, reference, wrong


@pytest.mark.parametrize("seed", range(5))
def test_two_in_five_outliers_do_not_move_the_fit(seed):
    prediction, reference, wrong = points(seed)
    scale, shift, inliers = align_scale_shift(prediction, reference)
    assert scale == pytest.approx(2.5, abs=0.01) and shift == pytest.approx(-0.7, abs=0.02)
    assert not (inliers & wrong).any() and (inliers & ~wrong).sum() > 0.95 * (~wrong).sum()
    direct = np.polyfit(prediction, reference, 1)
    assert abs(direct[1] + 0.7) > 0.5, "least squares alone would be far off"


@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e6])
def test_the_networks_unit_does_not_matter(factor):
    prediction, reference, _ = points(0)
    fit = align_scale_shift(prediction, reference)
    other = align_scale_shift(factor * prediction + 3.0 * factor, reference)
    np.testing.assert_allclose(other.scale * factor, fit.scale, rtol=1e-6)
    np.testing.assert_allclose(other.shift + 3.0 * factor * other.scale, fit.shift, rtol=1e-5)
    assert np.array_equal(other.inliers, fit.inliers)


def test_exact_points_are_fitted_exactly():
    prediction = np.linspace(1.0, 2.0, 20)
    fit = align_scale_shift(prediction, 3.0 * prediction + 1.0)
    assert fit.scale == pytest.approx(3.0, rel=1e-9) and fit.shift == pytest.approx(1.0, rel=1e-9)
    assert fit.inliers.all()


def test_a_scale_alone_for_metric_predictions():
    rng = np.random.default_rng(1)
    prediction = rng.uniform(1.0, 4.0, 100)
    reference = 0.4 * prediction
    reference[:40] += 3.0
    fit = align_scale_shift(prediction, reference, fit_shift=False)
    assert fit.scale == pytest.approx(0.4, rel=1e-6) and fit.shift == 0.0
    assert fit.inliers[40:].all() and not fit.inliers[:40].any()


def test_weights_favor_the_certain_points():
    rng = np.random.default_rng(2)
    prediction = rng.uniform(0.0, 1.0, 400)
    sigma = np.where(np.arange(400) % 4 == 0, 0.001, 0.1)
    reference = prediction + 1.0 + sigma * rng.standard_normal(400)
    weighted = align_scale_shift(prediction, reference, 1.0 / sigma**2)
    plain = align_scale_shift(prediction, reference)
    assert abs(weighted.scale - 1.0) < 1e-3 < abs(plain.scale - 1.0)


def test_points_without_values_do_not_count():
    prediction, reference, _ = points(3)
    prediction[:20], reference[20:30] = np.nan, np.inf
    fit = align_scale_shift(prediction, reference)
    assert fit.scale == pytest.approx(2.5, abs=0.01)
    assert len(fit.inliers) == len(prediction) and not fit.inliers[:30].any()


def test_a_tolerance_keeps_the_fit_from_settling_on_a_part():
    """Two planes that a network got slightly apart: with a tolerance both count."""
    x = np.linspace(1.0, 2.0, 200)
    reference = x + np.where(np.arange(200) % 9 < 5, 0.0, 0.03) + 1e-4 * np.sin(1000.0 * x)
    assert align_scale_shift(x, reference).inliers.mean() < 0.7
    assert align_scale_shift(x, reference, tolerance=0.02).inliers.all()


RANDOM = np.random.default_rng(4)


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        (np.arange(5.0), np.arange(5.0), "5 points with known depth and a prediction, 10 are needed"),
        (np.full(30, 7.0), np.arange(30.0), r"the prediction is constant \(7\)"),
        (np.arange(30.0), 50.0 - np.arange(30.0), "falls where the reference grows"),
        (np.full(30, np.nan), np.arange(30.0), "0 points"),
        (np.zeros(0), np.zeros(0), "0 points"),
    ],
)
def test_what_cannot_be_aligned_is_refused(prediction, reference, message):
    with pytest.raises(AlignmentError, match=message):
        align_scale_shift(prediction, reference)


def test_points_that_do_not_agree_are_refused():
    with pytest.raises(AlignmentError, match=r"of the points agree with each other, 90% are needed"):
        prediction, reference, _ = points(5)
        align_scale_shift(prediction, reference, min_inliers=0.9)


def test_explained_share_tells_a_good_prediction_from_a_useless_one():
    values = np.linspace(1.0, 5.0, 101)
    assert explained_fraction(values, 0.01 * values) > 0.99
    assert explained_fraction(values, values - 3.0) == pytest.approx(0.0, abs=0.05)
    skew = np.exp(np.random.default_rng(9).standard_normal(2000))
    for constant in np.quantile(skew, [0.2, 0.35, 0.5]):
        assert explained_fraction(skew, skew - constant) < 0.01, "no constant explains anything"


# ---------------------------------------------------------------------------------------------------------------------
# Standard deviations


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_sigma_grows_with_depth_as_the_residuals_do(exponent):
    rng = np.random.default_rng(6)
    depth = rng.uniform(1.0, 8.0, 4000)
    aligned = depth + 0.02 * depth**exponent * rng.standard_normal(4000)
    model = fit_residual_sigma(aligned, depth, np.ones(4000, dtype=bool))
    assert model.exponent == pytest.approx(exponent, abs=0.3)
    at = np.array([1.5, 4.0, 7.0])
    np.testing.assert_allclose(model(at), 0.02 * at**exponent, rtol=0.25)


def test_sigma_grows_outside_of_the_depths_that_were_compared():
    model = ResidualSigma(0.01, 1.0, low=2.0, high=4.0)
    assert model(np.array([2.0, 3.0, 4.0])) == pytest.approx([0.02, 0.03, 0.04])
    assert model(np.array([8.0, 1.0])) == pytest.approx([0.08 * 4.0, 0.01 * 4.0])


def test_outliers_make_sigma_larger():
    rng = np.random.default_rng(7)
    depth = rng.uniform(1.0, 2.0, 500)
    aligned = depth + 0.01 * rng.standard_normal(500)
    off = aligned.copy()
    off[:200] += 0.5
    inliers = np.arange(500) >= 200
    good = fit_residual_sigma(aligned, depth, np.ones(500, bool))
    assert fit_residual_sigma(off, depth, inliers)(1.5) > 1.5 * good(1.5)


def test_polynomial_of_a_sensor():
    np.testing.assert_allclose(polynomial_sigma((0.001, 0.0, 0.002), np.array([0.5, 2.0])), [0.0015, 0.009])
    assert polynomial_sigma((0.01,), np.ones((2, 3))).shape == (2, 3)


def test_triangulation_sigma_is_that_of_stereo():
    """Two cameras side by side: D² e / (f b)."""
    centers = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
    sigma = triangulation_sigma(np.array([0.0, 0.0, 5.0]), centers, np.array([500.0, 500.0]), 0.7)
    np.testing.assert_allclose(sigma, 5.0**2 * 0.7 / (500.0 * 0.1), rtol=1e-3)


def test_triangulation_sigma_is_what_monte_carlo_gives():
    rng = np.random.default_rng(8)
    point, focal, error = np.array([0.2, -0.1, 4.0]), 400.0, 0.5
    centers = np.array([[0.0, 0.0, 0.0], [0.6, 0.1, 0.2], [-0.5, 0.4, -0.3]])
    expected = triangulation_sigma(point, centers, np.full(3, focal), error)
    rays = point - centers
    distance = np.linalg.norm(rays, axis=1)
    direction = rays / distance[:, None]
    # Given the others' images, the point along the ray of each camera: linearized least squares on noisy angles.
    for i in range(3):
        others = [k for k in range(3) if k != i]
        estimates = []
        for _ in range(4000):
            top = bottom = 0.0
            for k in others:
                across = direction[i] - (direction[i] @ direction[k]) * direction[k]
                slope = np.linalg.norm(across) * focal / distance[k]  # pixels per unit along the ray
                top, bottom = top + slope * error * rng.standard_normal(), bottom + slope**2
            estimates.append(top / bottom)
        assert np.std(estimates) == pytest.approx(expected[i], rel=0.06)


def test_a_point_on_the_line_of_its_cameras_has_no_depth():
    centers = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert np.isinf(triangulation_sigma(np.array([0.0, 0.0, 5.0]), centers, np.full(2, 500.0), 0.5)).all()
