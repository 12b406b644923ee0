"""Samples around the measured depth, in exchange for some of those that the proposals drew."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.special import ndtr

from depthnerf_ns.depth_losses import has_depth


def guide_samples(
    t: Float[Tensor, "*r n+1"],
    depth: Float[Tensor, "*r"],
    epsilon: float | Float[Tensor, "*r"] = 0.03,
    fraction: float = 0.25,
    jitter: Float[Tensor, "*r #m"] | None = None,
    valid: Bool[Tensor, "*r"] | None = None,
) -> Float[Tensor, "*r n+1"]:
    """Exchange a fraction of a ray's endpoints for ones around its depth.

    The new ones are quantiles of N(D, (3ε)²), cut off at three standard deviations and at the ray's ends; those that
    make room for them are left out evenly along the old ones. First and last endpoint stay. Rays without depth, and
    rays whose depth lies outside their endpoints, stay as they are.

    Args:
        t: interval endpoints in ray distance, scene units, increasing.
        depth: measured ray distance, scene units.
        epsilon: standard deviation of the ray's end in scene units, also per ray.
        fraction: share of the intervals' endpoints to exchange, 0 to 1.
        jitter: place within its stratum of each new endpoint, or of all of a ray, in [0, 1); None: 0.5, the same in
            every evaluation.
        valid: which rays have depth; None: where it is finite and above 0.
    Returns: as many endpoints, increasing.
    Source: AlexSheldrick/mipnerf_pl, depth-mipnerf (depth sampling).
    """
    intervals = t.shape[-1] - 1
    count = min(round(fraction * intervals), intervals - 1)
    if count <= 0:
        return t
    valid = has_depth(depth) if valid is None else valid
    valid = valid & (depth > t[..., 0]) & (depth < t[..., -1])
    depth = torch.where(valid, depth, 0.5 * (t[..., 0] + t[..., -1]))[..., None]
    epsilon = torch.as_tensor(epsilon, dtype=t.dtype, device=t.device)
    width = 3.0 * torch.where(valid, epsilon, 1.0)[..., None]

    low = ((t[..., :1] - depth) / width).clamp_min(-3.0)
    high = ((t[..., -1:] - depth) / width).clamp_max(3.0)
    stratum = torch.arange(count, dtype=t.dtype, device=t.device) + (0.5 if jitter is None else jitter)
    quantile = torch.lerp(ndtr(low), ndtr(high), stratum / count)
    around = depth + width * torch.special.ndtri(quantile).clamp(low, high)

    remaining = intervals - 1 - count
    place = torch.arange(remaining, device=t.device)
    kept = t[..., 1 + (2 * place + 1) * (intervals - 1) // (2 * max(remaining, 1))]
    inner = torch.cat([kept, around], dim=-1).sort(dim=-1).values
    guided = torch.cat([t[..., :1], inner, t[..., -1:]], dim=-1)
    return torch.where(valid[..., None], guided, t)
