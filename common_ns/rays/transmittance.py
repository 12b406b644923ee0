"""How much of a ray ends in each of its intervals."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def render_weights(optical_depth: Float[Tensor, "*r n"], opaque_end: bool = False) -> Float[Tensor, "*r n"]:
    """Weight of each interval in the rendered ray: its opacity times the transmittance of what is in front of it.

    In place of `RaySamples.get_weights` of nerfstudio, which turns NaN into 0: here it stays, so that it is noticed.

    Args:
        optical_depth: of each interval in order: its density times its length, or what NeuS derives from distances.
        opaque_end: the last interval stops the ray, whatever its optical depth.
    Returns: weights, each at least 0, that sum to at most 1.
    Source: NeRF, equation 3; NeuS, equation 11.
    """
    transmittance = torch.exp(-torch.nn.functional.pad(optical_depth.cumsum(-1)[..., :-1], (1, 0)))
    opacity = -torch.expm1(-optical_depth)
    if opaque_end:
        opacity = torch.cat([opacity[..., :-1], torch.ones_like(opacity[..., -1:])], dim=-1)
    return opacity * transmittance


def log_mean_distance(t: Float[Tensor, "*r n+1"], weights: Float[Tensor, "*r n"]) -> Float[Tensor, "*r 1"]:
    """Mean distance of the logarithm: where a ray ends, if a trace of its weight lies as good as at infinity.

    Args:
        t: interval endpoints in ray distance, above 0.
        weights: rendering weights of the intervals.
    Returns: the weighted mean of the logarithm of the intervals' middles, as a distance, within the ray.
    Source: the authors' code of mip-NeRF 360 renders its mean distance so.
    """
    middle = (0.5 * (t[..., 1:] + t[..., :-1])).clamp_min(torch.finfo(t.dtype).tiny)
    total = weights.sum(-1, keepdim=True).clamp_min(torch.finfo(t.dtype).eps)
    mean = ((weights * middle.log()).sum(-1, keepdim=True) / total).exp()
    return mean.maximum(t[..., :1]).minimum(t[..., -1:])
