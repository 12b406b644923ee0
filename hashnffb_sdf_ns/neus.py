"""NeuS: how much of a ray ends in an interval, given a signed distance along it.

The density of where a ray ends is derived from the logistic function Φ_s(d) = 1 / (1 + exp(−s d)) of the distance d, so
that it peaks where d is 0, whichever way the ray came, and what lies behind a surface is hidden by it.

Everything is in logarithms: an interval's optical depth is log Φ_s(d₀) − log Φ_s(d₁), exact also far inside, where Φ
underflows. Published code adds 1e-5 to both instead, which makes everything inside opaque at once, without a gradient.

`common_ns.rays.transmittance` makes weights of optical depths.

Source: Wang et al., NeuS (arXiv 2106.10689), sections 3.1 and 3.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def section_optical_depth(
    start_sdf: Float[Tensor, "*n"], end_sdf: Float[Tensor, "*n"], inv_s: float | Float[Tensor, ""]
) -> Float[Tensor, "*n"]:
    """Optical depth τ of intervals from the distances at their ends: their opacity is 1 − exp(−τ).

    Args:
        start_sdf, end_sdf: signed distances at the start and at the end.
        inv_s: sharpness s, per unit of the distances.
    Returns: τ ≥ 0, and 0 where the ray is on its way out.
    Source: equation 13, whose Φ ratio is exp(−τ).
    """
    return F.relu(F.logsigmoid(inv_s * start_sdf) - F.logsigmoid(inv_s * end_sdf))


def annealed_slope(slope: Float[Tensor, "*n"], share: float) -> Float[Tensor, "*n"]:
    """The slope of the distance along a ray, limited to at most 0; at the start of training more gently.

    With the limit alone, rays that leave the initial sphere's far side at a wrong place get no gradient. At share 0
    it is (slope − 1) / 2 instead, negative wherever the ray does not leave the surface straight.

    Args:
        slope: derivative of the distance by the way along the ray, from −1 to 1.
        share: of the way to the limit, from 0 to 1.
    Source: published code of NeuS ("cos_anneal_ratio"); the paper's supplement, section E.
    """
    limited = -F.relu(-slope)
    return limited if share >= 1.0 else share * limited - (1.0 - share) * F.relu(0.5 - 0.5 * slope)


def midpoint_optical_depth(
    sdf: Float[Tensor, "*n"],
    slope: Float[Tensor, "*n"],
    length: Float[Tensor, "*n"],
    inv_s: float | Float[Tensor, ""],
) -> Float[Tensor, "*n"]:
    """Optical depth of intervals from distance and slope at their middles, continued linearly to their ends.

    Args:
        sdf: distances at the middles.
        slope: derivatives of the distance by the way along the ray, from `annealed_slope`.
        length: lengths of the intervals.
        inv_s: sharpness s, per unit of the distances.
    Source: published code of NeuS.
    """
    half = 0.5 * slope * length
    return section_optical_depth(sdf - half, sdf + half, inv_s)


def guarded_slope(
    t: Float[Tensor, "n s+1"], sdf: Float[Tensor, "n s+1"]
) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s"]]:
    """Slopes of the distance in intervals from the distances at their bounds, and lengths of the intervals.

    Where a ray just misses a surface, the slope changes sign within an interval. The steeper descent of an interval and
    the one before it is then what the surface asks for.

    Args:
        t: bounds along the rays, increasing.
        sdf: distances there.
    Returns: slopes, at most 0, and lengths.
    Source: published code of NeuS ("up_sample").
    """
    length = t[:, 1:] - t[:, :-1]
    slope = (sdf[:, 1:] - sdf[:, :-1]) / length.clamp_min(1e-8)
    before = F.pad(slope[:, :-1], (1, 0))
    return torch.minimum(slope, before).clamp(-1e3, 0.0), length


def eikonal_error(gradient: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
    """How far a gradient is from length 1: (|g| − 1)².

    Source: Gropp et al. 2020 (arXiv 2002.10099), equation 2.
    """
    # Under the root a little is added: at the center of the initial sphere the gradient may vanish.
    return ((gradient.square().sum(-1) + 1e-12).sqrt() - 1.0).square()


def median_depth(
    starts: Float[Tensor, "n s"], ends: Float[Tensor, "n s"], weights: Float[Tensor, "n s"]
) -> Float[Tensor, "n 1"]:
    """Ray distance at which half of a ray has ended, interpolated within its interval.

    Args:
        starts, ends: bounds of the intervals.
        weights: share of the ray that ends in each.
    Returns: the distance; the end of the last interval for rays of which less than half ends anywhere.
    """
    reached = weights.cumsum(-1)
    half = torch.full_like(reached[:, :1], 0.5)
    index = torch.searchsorted(reached.contiguous(), half).clamp_max(weights.shape[-1] - 1)
    weight = weights.gather(-1, index)
    before = reached.gather(-1, index) - weight
    share = ((half - before) / weight.clamp_min(1e-9)).clamp(0.0, 1.0)
    return torch.lerp(starts.gather(-1, index), ends.gather(-1, index), share)
