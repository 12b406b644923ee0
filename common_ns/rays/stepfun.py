"""Step functions along rays, and how the next round of samples is drawn from the weights of one before.

Vocabulary of the papers: `t` interval endpoints, increasing; `w` weights of the intervals; densities are w over length.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from common_ns.rays.dispatch import ray_kernels


def blur_weights(weights: Float[Tensor, "*r n"]) -> Float[Tensor, "*r n"]:
    """Dilate weights by a max over neighbors, then average: a wide, smooth upper envelope.

    Each interval gets the mean of the two maxima over (itself, left) and (itself, right). Samples drawn from it also
    fall beside a surface, which keeps the fine level from missing thin structure.

    Args:
        weights: rendering weights of the intervals.
    Returns: dilated weights, everywhere at least as large.
    Source: mip-NeRF, equation 18.
    """
    padded = torch.cat([weights[..., :1], weights, weights[..., -1:]], dim=-1)
    maxima = torch.maximum(padded[..., :-1], padded[..., 1:])
    return 0.5 * (maxima[..., :-1] + maxima[..., 1:])


def max_dilate(
    t: Float[Tensor, "*r n+1"], w: Float[Tensor, "*r n"], dilation: float, start: float = 0.0
) -> tuple[Float[Tensor, "*r m+1"], Float[Tensor, "*r m"]]:
    """Spread each interval's density over its neighborhood, so that the next round cannot miss thin structure.

    Each interval grows by `dilation` on both sides; where grown intervals overlap, the largest density counts.

    Args:
        t: interval endpoints in normalized ray distance [start, 1].
        w: rendering weights of the intervals.
        dilation: half-width of the neighborhood, in the unit of t.
        start: where the ray begins, in the unit of t.
    Returns: endpoints and weights of the dilated step function, m = 3 n intervals (some may be empty), the weights
        summing to 1 (all are 0 if `w` is).
    Source: mip-NeRF 360, supplement ("dilation").
    """
    density = w / (t[..., 1:] - t[..., :-1]).clamp_min(1e-12)
    grown, source = torch.cat([t, t[..., :-1] - dilation, t[..., 1:] + dilation], dim=-1).sort(dim=-1)
    # Intervals that cover a place are neighbors: from the first that ends after it to the last that starts by it. Both
    # are numbers of ends and of starts among the places up to it; equal places have an empty interval between them.
    count, source = w.shape[-1], source[..., :-1]
    first = (source > 2 * count).cumsum(-1)
    last = ((source > count) & (source <= 2 * count)).cumsum(-1)
    envelope = _range_max(density, first, last)
    grown = grown.clamp(start, 1.0)
    weights = envelope * (grown[..., 1:] - grown[..., :-1])
    return grown, weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)


def _range_max(
    values: Float[Tensor, "*r n"], first: Int[Tensor, "*r m"], last: Int[Tensor, "*r m"]
) -> Float[Tensor, "*r m"]:
    """Maximum of non-negative values[first:last] for each pair; 0 for empty ranges.

    By a table of maxima over runs of 1, 2, 4, … values: two overlapping runs cover any range.
    """
    table = [values]
    while 2 ** len(table) <= values.shape[-1]:
        run, previous = 2 ** (len(table) - 1), table[-1]
        shifted = torch.nn.functional.pad(previous[..., run:], (0, run))
        table.append(torch.maximum(previous, shifted))
    length = (last - first).clamp_min(1)
    level = torch.frexp(length.to(values.dtype)).exponent.long() - 1
    flat = torch.cat(table, dim=-1)
    offset = level * values.shape[-1]
    left = flat.gather(-1, offset + first.clamp_max(values.shape[-1] - 1))
    right = flat.gather(-1, offset + (last - torch.exp2(level.to(values.dtype)).long()).clamp_min(0))
    return torch.where(last > first, torch.maximum(left, right), 0.0)


def schlick_bias(x: float, slope: float) -> float:
    """Curve from (0, 0) to (1, 1) that rises `slope` times as steeply at 0.

    Source: Schlick's bias function (arXiv 2010.09714) as in mip-NeRF 360's annealing, supplement.
    """
    return slope * x / ((slope - 1.0) * x + 1.0)


def anneal_weights(w: Float[Tensor, "*r n"], t: Float[Tensor, "*r n+1"], anneal: float) -> Float[Tensor, "*r n"]:
    """Flatten weights towards equal ones: w^anneal. Early in training proposals know nothing yet and should not
    decide where samples go.

    Args:
        w: weights.
        t: endpoints of their intervals; empty intervals keep weight 0.
        anneal: exponent from 0 (all alike) to 1 (as they are).
    Source: mip-NeRF 360, supplement ("annealing").
    """
    powered = w if anneal == 1.0 else w**anneal
    return torch.where(t[..., 1:] > t[..., :-1], powered, 0.0)


def sample_points(
    t: Float[Tensor, "*r n+1"], w: Float[Tensor, "*r n"], num_samples: int, jitter: Float[Tensor, "*r 1"] | None = None
) -> Float[Tensor, "*r num_samples"]:
    """Points at equally spaced quantiles of a step function: its inverse cumulative distribution function.

    Args:
        t: interval endpoints.
        w: weights of the intervals, not all 0; they need not sum to 1.
        num_samples: number of points.
        jitter: shift of each ray's quantiles in [0, 1), in units of their spacing; None: 0.5, the centered ones.
    Returns: points, increasing, none of them in an interval without weight.
    Source: NeRF, section 5.2 (inverse transform sampling); one jitter per ray as in mip-NeRF 360, supplement.
    """
    cumulative = w.cumsum(-1)
    # Divided by the last one, so that rounding leaves no probability to empty intervals at the end.
    cdf = torch.nn.functional.pad(cumulative / cumulative[..., -1:], (1, 0))
    shift = 0.5 if jitter is None else jitter
    quantile = (torch.arange(num_samples, device=t.device, dtype=t.dtype) + shift) / num_samples
    quantile = quantile.clamp_max(1.0 - torch.finfo(t.dtype).eps).expand(*t.shape[:-1], num_samples).contiguous()
    index = (torch.searchsorted(cdf, quantile, right=True) - 1).clamp(0, w.shape[-1] - 1)
    low, high = cdf.gather(-1, index), cdf.gather(-1, index + 1)
    fraction = ((quantile - low) / (high - low).clamp_min(1e-12)).clamp(0.0, 1.0)
    return torch.lerp(t.gather(-1, index), t.gather(-1, index + 1), fraction)


def sample_intervals(
    t: Float[Tensor, "*r n+1"],
    w: Float[Tensor, "*r n"],
    num_samples: int,
    jitter: Float[Tensor, "*r 1"] | None = None,
    start: float = 0.0,
) -> Float[Tensor, "*r num_samples+1"]:
    """Draw intervals whose centers follow a step function.

    The centers sit at equally spaced quantiles, shifted along the ray as a whole; the intervals meet half-way between
    them. Rays without weight are sampled evenly.

    Args:
        t: interval endpoints in [start, 1].
        w: weights; they need not sum to 1.
        num_samples: number of intervals to draw.
        jitter: shift of each ray's quantiles in [0, 1), in units of their spacing; None: 0.5, the centered ones.
        start: where the ray begins, in the unit of t.
    Returns: endpoints of the drawn intervals, within [start, 1].
    Source: mip-NeRF 360, supplement ("sampling"); one jitter per ray.
    """
    kernels = ray_kernels(t, w) if num_samples > 1 and t.shape[:-1] == w.shape[:-1] else None
    if kernels is not None:
        shift = t.new_full((*t.shape[:-1], 1), 0.5) if jitter is None else jitter.detach().to(t)
        out = np.empty((*t.shape[:-1], num_samples + 1), np.float32)
        flat = (each.detach().reshape(-1, each.shape[-1]).contiguous().numpy() for each in (t, w, shift))
        kernels.draw_intervals(*flat, start, out.reshape(-1, num_samples + 1))
        return torch.from_numpy(out)
    length = t[..., 1:] - t[..., :-1]
    total = w.sum(-1, keepdim=True)
    pdf = torch.where(total > 1e-10, w / total.clamp_min(1e-10), length / length.sum(-1, keepdim=True))
    centers = sample_points(t, pdf, num_samples, jitter)
    if num_samples == 1:
        return torch.cat([t[..., :1], t[..., -1:]], dim=-1)
    middles = 0.5 * (centers[..., 1:] + centers[..., :-1])
    before = 2.0 * centers[..., :1] - middles[..., :1]
    after = 2.0 * centers[..., -1:] - middles[..., -1:]
    return torch.cat([before, middles, after], dim=-1).clamp(start, 1.0)
