"""Dilation and resampling of rendering weights against slow loops."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.model_components.ray_samplers import PDFSampler, UniformSampler

from common_ns.rays.stepfun import (
    _range_max,
    anneal_weights,
    blur_weights,
    max_dilate,
    sample_intervals,
    sample_points,
    schlick_bias,
)


def blur_loop(weights: torch.Tensor) -> torch.Tensor:
    """Equation 18 of mip-NeRF, one interval at a time."""
    n = len(weights)
    out = []
    for k in range(n):
        left = max(weights[max(k - 1, 0)], weights[k])
        right = max(weights[k], weights[min(k + 1, n - 1)])
        out.append(0.5 * (left + right))
    return torch.stack(out)


def test_dilation_matches_a_loop_and_is_an_upper_envelope():
    weights = torch.rand(7, 33, generator=torch.Generator().manual_seed(0))
    blurred = blur_weights(weights)
    for row, reference in zip(blurred, weights):
        assert torch.equal(row, blur_loop(reference))
    assert (blurred >= weights).all()


def test_dilation_reaches_one_interval_to_both_sides():
    weights = torch.zeros(1, 9)
    weights[0, 4] = 1.0
    assert blur_weights(weights)[0].tolist() == [0, 0, 0, 0.5, 1.0, 0.5, 0, 0, 0]


def rays(count: int) -> RayBundle:
    return RayBundle(
        origins=torch.zeros(count, 3),
        directions=torch.tensor([[0.0, 0.0, 1.0]]).expand(count, 3),
        pixel_area=torch.full((count, 1), 1e-4),
        nears=torch.full((count, 1), 2.0),
        fars=torch.full((count, 1), 6.0),
    )


def inverse_cdf_loop(edges: list[float], weights: list[float], u: float) -> float:
    """Distance at which the step function's integral reaches the fraction u."""
    total, reached = sum(weights), 0.0
    for left, right, weight in zip(edges[:-1], edges[1:], weights):
        share = weight / total
        if u <= reached + share:
            return left + (right - left) * (u - reached) / share
        reached += share
    return edges[-1]


def test_resampled_endpoints_match_a_loop():
    bundle, padding = rays(4), 0.01
    coarse = UniformSampler(num_samples=16).eval()(bundle)
    weights = torch.rand(4, 16, 1, generator=torch.Generator().manual_seed(1)) ** 4
    fine = PDFSampler(num_samples=24, include_original=False, histogram_padding=padding).eval()(bundle, coarse, weights)
    edges = torch.linspace(2.0, 6.0, 17).tolist()
    found = torch.cat([fine.frustums.starts[..., 0], fine.frustums.ends[:, -1:, 0]], dim=-1)
    for row, w in zip(found, weights[..., 0]):
        padded = (w + padding).tolist()
        expected = [inverse_cdf_loop(edges, padded, (i + 0.5) / 25) for i in range(25)]
        assert torch.allclose(row, torch.tensor(expected), atol=1e-4)


def test_resampled_intervals_follow_the_weights():
    bundle = rays(200)
    coarse = UniformSampler(num_samples=8).eval()(bundle)
    weights = torch.tensor([0, 0, 0.1, 0.6, 0.3, 0, 0, 0.0]).reshape(1, 8, 1).expand(200, 8, 1)
    sampler = PDFSampler(num_samples=64, include_original=False, histogram_padding=0.0).train()
    torch.manual_seed(0)
    fine = sampler(bundle, coarse, weights)
    counts = torch.histc(fine.frustums.starts.flatten(), bins=8, min=2.0, max=6.0)
    assert torch.allclose(counts / counts.sum(), weights[0, :, 0], atol=0.02)


DOUBLE = torch.float64
JUST_BELOW_1 = 1.0 - 2.0**-24
"""The largest number that torch.rand returns."""


def step_function(n: int, seed: int, full: bool = True, empty: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random endpoints and weights, a third of them 0; `full`: from 0 to 1; `empty`: so many intervals of length 0."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.rand(n + 1, generator=generator, dtype=DOUBLE).sort().values
    if full:
        t[0], t[-1] = 0.0, 1.0
    for index in range(1, empty + 1):
        t[index] = t[index + 1]
    w = torch.rand(n, generator=generator, dtype=DOUBLE) ** 3
    w = w * (torch.rand(n, generator=generator, dtype=DOUBLE) > 0.33) * (t[1:] > t[:-1])
    return t, w / w.sum().clamp_min(1.0)


def envelope_at(place: float, t: list[float], w: list[float], dilation: float) -> float:
    """Largest density of the grown intervals that cover a place."""
    densities = [
        weight / (right - left)
        for left, right, weight in zip(t[:-1], t[1:], w)
        if right > left and left - dilation <= place < right + dilation
    ]
    return max(densities, default=0.0)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("dilation", [0.0, 0.004, 0.07, 3.0])
def test_dilated_step_function_is_the_envelope_of_the_grown_intervals(n, dilation):
    for seed, (full, empty) in enumerate([(True, 0), (False, 0), (True, min(1, n - 1)), (False, min(3, n - 1))]):
        t, w = step_function(n, seed, full, empty)
        places = sorted({0.0, 1.0} | {min(max(x + d, 0.0), 1.0) for x in t.tolist() for d in (-dilation, 0, dilation)})
        total = sum(
            (b - a) * envelope_at((a + b) / 2, t.tolist(), w.tolist(), dilation) for a, b in itertools.pairwise(places)
        )
        grown, dilated = max_dilate(t, w, dilation)
        assert grown.shape == (3 * n + 1,) and dilated.shape == (3 * n,)
        assert (grown.diff() >= 0).all() and grown[0] >= 0 and grown[-1] <= 1
        assert float(dilated.sum()) == pytest.approx(1.0 if total > 0 else 0.0)
        assert (dilated[grown.diff() == 0] == 0).all()
        for place in torch.linspace(0.003, 0.997, 150).tolist():
            index = int(torch.searchsorted(grown, torch.tensor(place, dtype=DOUBLE), right=True)) - 1
            found = float(dilated[index] / (grown[index + 1] - grown[index])) if 0 <= index < 3 * n else 0.0
            assert found * total == pytest.approx(envelope_at(place, t.tolist(), w.tolist(), dilation), rel=1e-9)


def test_dilation_of_rays_without_weight_and_of_empty_intervals():
    t = torch.tensor([[0.0, 0.2, 0.2, 1.0]])
    grown, dilated = max_dilate(t, torch.zeros(1, 3), 0.1)
    assert torch.equal(dilated, torch.zeros(1, 9))
    grown, dilated = max_dilate(t, torch.tensor([[0.0, 0.0, 0.5]]), 0.1)
    assert torch.isfinite(dilated).all() and dilated.sum() == pytest.approx(1.0)
    assert (grown[0, :-1][dilated[0] > 0] >= 0.1 - 1e-6).all()


@pytest.mark.parametrize("start", ["0", "0.3"])
@pytest.mark.parametrize("dilation", ["0.004", "0.07"])
def test_dilation_without_its_ends_is_the_authors(start, dilation):
    """Stored numbers of their `max_dilate_weights`, whose first and last interval they leave out."""
    stored = np.load(Path(__file__).parent / "data/authors_dilation.npz")
    t, w = torch.from_numpy(stored["t"]), torch.from_numpy(stored["w"])
    t = float(start) + (1.0 - float(start)) * t
    grown, dilated = max_dilate(t, w, float(dilation), float(start))
    assert torch.allclose(grown[:, 1:-1], torch.from_numpy(stored[f"{start}/{dilation}/t"]), atol=1e-6)
    assert torch.allclose(dilated[:, 1:-1], torch.from_numpy(stored[f"{start}/{dilation}/w"]), atol=2e-6)


def test_dilation_works_on_batches_as_on_single_rays():
    functions = [step_function(7, seed) for seed in range(6)]
    t = torch.stack([f[0] for f in functions]).reshape(2, 3, 8)
    w = torch.stack([f[1] for f in functions]).reshape(2, 3, 7)
    grown, dilated = max_dilate(t, w, 0.03)
    for index, (one_t, one_w) in enumerate(functions):
        expected = max_dilate(one_t, one_w, 0.03)
        assert torch.equal(grown.reshape(6, -1)[index], expected[0])
        assert torch.equal(dilated.reshape(6, -1)[index], expected[1])


def test_a_thin_peak_reaches_as_far_as_the_dilation():
    t = torch.tensor([0.0, 0.5, 0.501, 1.0])
    grown, dilated = max_dilate(t, torch.tensor([0.0, 1.0, 0.0]), 0.05)
    covered = grown[:-1][dilated > 0].min(), grown[1:][dilated > 0].max()
    assert covered == (pytest.approx(0.45), pytest.approx(0.551))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 9, 64])
def test_maxima_of_ranges_match_a_loop(n):
    generator = torch.Generator().manual_seed(n)
    values = torch.rand(5, n, generator=generator)
    first = torch.randint(0, n + 1, (5, 200), generator=generator)
    last = torch.randint(0, n + 1, (5, 200), generator=generator)
    found = _range_max(values, first, last)
    for row in range(5):
        for column in range(200):
            part = values[row, first[row, column] : last[row, column]]
            assert found[row, column] == (part.max() if len(part) else 0.0)


@pytest.mark.parametrize("slope", [1.0, 2.0, 10.0])
def test_schlick_bias_rises_from_0_to_1_with_its_slope(slope):
    assert schlick_bias(0.0, slope) == 0.0 and schlick_bias(1.0, slope) == pytest.approx(1.0)
    assert schlick_bias(1e-7, slope) / 1e-7 == pytest.approx(slope, rel=1e-5)
    # The curve is symmetric about the falling diagonal, so that it ends as flat as it began steep.
    assert (1.0 - schlick_bias(1.0 - 1e-7, slope)) / 1e-7 == pytest.approx(1.0 / slope, rel=1e-5)
    values = [schlick_bias(x / 50, slope) for x in range(51)]
    assert all(a < b for a, b in itertools.pairwise(values))
    assert slope > 1.0 or values == pytest.approx([x / 50 for x in range(51)])


def test_annealing_goes_from_equal_weights_to_the_weights_themselves():
    t, w = torch.tensor([0.0, 0.2, 0.2, 0.7, 1.0]), torch.tensor([0.5, 0.3, 0.0, 0.1])
    assert anneal_weights(w, t, 0.0).tolist() == [1.0, 0.0, 1.0, 1.0]  # also where the weight is 0
    assert torch.equal(anneal_weights(w, t, 1.0), torch.tensor([0.5, 0.0, 0.0, 0.1]))
    assert torch.allclose(anneal_weights(w, t, 0.5), torch.tensor([0.5**0.5, 0.0, 0.0, 0.1**0.5]))


def invert_cdf_loop(t: list[float], w: list[float], quantile: float) -> float:
    """Place that the fraction `quantile` of the weight lies before; by length, if there is no weight."""
    total, reached = sum(w), 0.0
    shares = [x / total for x in w] if total > 0 else [(b - a) / (t[-1] - t[0]) for a, b in itertools.pairwise(t)]
    for left, right, share in zip(t[:-1], t[1:], shares):
        if share > 0 and quantile < reached + share:
            return left + (right - left) * (quantile - reached) / share
        reached += share
    return max(right for right, share in zip(t[1:], shares) if share > 0)


def intervals_loop(t: list[float], w: list[float], count: int, shift: float) -> list[float]:
    """Endpoints of intervals about the quantiles (i + shift) / count."""
    centers = [invert_cdf_loop(t, w, (i + shift) / count) for i in range(count)]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(centers)]
    ends = [2 * centers[0] - middles[0], *middles, 2 * centers[-1] - middles[-1]]
    return [min(max(x, 0.0), 1.0) for x in ends]


@pytest.mark.parametrize("n", [1, 2, 5, 64])
@pytest.mark.parametrize("count", [2, 3, 32])
@pytest.mark.parametrize("shift", [None, 0.0, 0.3, 0.9999])
def test_drawn_intervals_match_a_loop(n, count, shift):
    jitter = None if shift is None else torch.tensor([shift], dtype=DOUBLE)
    for seed, (full, empty) in enumerate([(True, 0), (False, 0), (True, min(1, n - 1)), (False, min(3, n - 1))]):
        t, w = step_function(n, seed, full, empty)
        for weights in (w, 1e-3 * w, torch.zeros_like(w)):
            found = sample_intervals(t, weights, count, jitter)
            expected = intervals_loop(t.tolist(), weights.tolist(), count, 0.5 if shift is None else shift)
            assert found.tolist() == pytest.approx(expected, abs=1e-9)


def test_drawn_endpoints_increase_within_the_unit_interval_in_float32():
    t = torch.stack([step_function(50, seed, seed % 2 == 0, seed % 3)[0] for seed in range(300)]).float()
    w = torch.stack([step_function(50, seed, seed % 2 == 0, seed % 3)[1] for seed in range(300)]).float()
    for jitter in (None, torch.zeros(300, 1), torch.full((300, 1), JUST_BELOW_1), torch.rand(300, 1)):
        drawn = sample_intervals(t, w, 32, jitter)
        assert (drawn.diff() >= 0).all() and drawn.min() >= 0 and drawn.max() <= 1


def test_even_weights_give_even_intervals():
    t = torch.linspace(0, 1, 9)
    assert torch.allclose(sample_intervals(t, torch.full((8,), 0.125), 20), torch.linspace(0, 1, 21), atol=1e-6)
    assert torch.allclose(sample_intervals(t, torch.zeros(8), 20), torch.linspace(0, 1, 21), atol=1e-6)
    # Jitter shifts all of them alike.
    moved = sample_intervals(t, torch.ones(8), 20, torch.tensor([0.7]))
    assert torch.allclose(moved[1:-1], torch.linspace(0, 1, 21)[1:-1] + 0.2 / 20, atol=1e-6)


def centers_of(drawn: torch.Tensor) -> torch.Tensor:
    """Centers that drawn intervals lie about, from their inner endpoints and the first, if that was not clamped."""
    centers = [(drawn[..., 0] + drawn[..., 1]) / 2]
    for index in range(1, drawn.shape[-1] - 1):
        centers.append(2 * drawn[..., index] - centers[-1])
    return torch.stack(centers, dim=-1)


def test_all_centers_gather_in_the_only_interval_with_weight():
    t = torch.linspace(0, 1, 21, dtype=DOUBLE).repeat(3, 1)
    w = torch.zeros(3, 20, dtype=DOUBLE)
    w[:, 12] = 0.4
    centers = centers_of(sample_intervals(t, w, 16, torch.tensor([[0.0], [0.5], [JUST_BELOW_1]], dtype=DOUBLE)))
    assert centers.min() >= 0.6 - 1e-9 and centers.max() <= 0.65 + 1e-9


@pytest.mark.parametrize("shift", [0.0, 0.5, 0.9999, JUST_BELOW_1])
def test_rounding_puts_no_sample_behind_the_last_weight(shift):
    t = torch.linspace(0, 1, 193).expand(500, -1)
    w = torch.rand(500, 192, generator=torch.Generator().manual_seed(0))
    w[:, 100:] = 0.0
    drawn = sample_intervals(t, w, 32, torch.full((500, 1), shift))
    assert drawn.max() < 0.6


def test_centers_follow_the_weights_over_many_jitters():
    t = torch.tensor([0.0, 0.3, 0.4, 0.45, 0.8, 1.0], dtype=DOUBLE).expand(2000, -1)
    w = torch.tensor([0.0, 0.1, 0.5, 0.15, 0.0], dtype=DOUBLE).expand(2000, -1)
    jitter = torch.rand(2000, 1, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    centers = centers_of(sample_intervals(t, w, 8, jitter))
    counts = torch.stack([((a <= centers) & (centers < b)).sum() for a, b in zip(t[0, :-1], t[0, 1:])])
    assert torch.allclose(counts / counts.sum(), (w[0] / w[0].sum()).float(), atol=0.01)
    # Each quantile is uniform over its share: the mean of all centers is that of the step function.
    expected = (w[0] * (t[0, :-1] + t[0, 1:]) / 2).sum() / w[0].sum()
    assert float(centers.mean()) == pytest.approx(float(expected), abs=0.002)


@pytest.mark.parametrize("n", [1, 2, 5, 64])
@pytest.mark.parametrize("count", [1, 3, 32])
@pytest.mark.parametrize("shift", [None, 0.0, 0.3, 0.9999])
def test_drawn_points_match_a_loop(n, count, shift):
    jitter = None if shift is None else torch.tensor([shift], dtype=DOUBLE)
    for seed, (full, empty) in enumerate([(True, 0), (False, 0), (True, min(1, n - 1)), (False, min(3, n - 1))]):
        t, w = step_function(n, seed, full, empty)
        w[-1] += 0.1 * float(w.sum() == 0)
        quantiles = [(i + (0.5 if shift is None else shift)) / count for i in range(count)]
        expected = [invert_cdf_loop((5.0 * t).tolist(), w.tolist(), quantile) for quantile in quantiles]
        assert sample_points(5.0 * t, 3.0 * w, count, jitter).tolist() == pytest.approx(expected, abs=1e-9)


def test_drawn_points_follow_the_weights():
    t = torch.linspace(0, 1, 6)[None].repeat(20000, 1)
    weights = torch.tensor([[0.0, 3.0, 0.0, 1.0, 0.0]]).repeat(20000, 1)
    jitter = torch.rand(20000, 1, generator=torch.Generator().manual_seed(0))
    found = sample_points(t, weights, 3, jitter)
    assert (found[:, 1:] >= found[:, :-1]).all()
    share = torch.histc(found.flatten(), bins=5, min=0.0, max=1.0) / found.numel()
    assert torch.allclose(share, torch.tensor([0.0, 0.75, 0.0, 0.25, 0.0]), atol=5e-3)


def test_a_single_sample_covers_the_whole_ray():
    t, w = step_function(5, 0)
    assert sample_intervals(t, w, 1, torch.tensor([0.2], dtype=DOUBLE)).tolist() == [0.0, 1.0]
