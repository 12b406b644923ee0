"""Supervision of proposals that does not jump when the edges of intervals cross each other.

mip-NeRF 360 bounds the weights of the last round's intervals by those of the proposal's intervals that overlap with
them: as an edge moves, the overlaps jump, and so does the loss. Blurred by a box, the last round's histogram becomes a
continuous density, whose integral over a proposal's interval changes smoothly (Zip-NeRF, arXiv 2304.06706, section
"Z-Aliasing and Proposal Supervision", paragraph "Blurring a Step Function").

The blurred density is piecewise linear, its integral piecewise quadratic. Neither is built: the integral of the blurred
density up to t is the mean of the histogram's own integral F over [t − r, t + r], a difference of two values of ∫F,
which a search among the histogram's edges and four look-ups give, without sorting edges or summing slopes. The
difference is taken in float64: it is divided by 2 r, and what it gives by the proposal's weights.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common_ns.rays.dispatch import ray_kernels

LOSS_EPS = float(torch.finfo(torch.float32).eps)
"""Added to the proposal's weights, by which the loss divides (the authors' setting)."""


def blurred_weights(
    t: Float[Tensor, "*r n+1"],
    w: Float[Tensor, "*r n"],
    t_query: Float[Tensor, "*r m+1"],
    radius: float,
) -> Float[Tensor, "*r m"]:
    """Weights that a blurred histogram has in other intervals.

    Args:
        t: edges of the histogram's intervals, increasing; empty intervals count with their weight.
        w: weights of the intervals.
        t_query: edges of the other intervals, increasing.
        radius: half of the width of the box, in the unit of t; 0: no blur.
    Returns: weights; what the blur moves beyond the outermost edges of `t_query` is not in them. Constants: no gradient
        passes.
    Raises: ValueError for a negative radius.
    """
    if not 0 <= radius < math.inf:
        raise ValueError(f"Blurred weights: radius is {radius}; it must be at least 0 and finite.")
    arguments = [each.detach() for each in (t, w, t_query)]
    kernels = ray_kernels(*arguments)
    if kernels is not None and radius > 0 and t.shape[:-1] == w.shape[:-1] == t_query.shape[:-1]:
        out = np.empty((*t_query.shape[:-1], t_query.shape[-1] - 1), np.float32)
        flat = (each.reshape(-1, each.shape[-1]).contiguous().numpy() for each in arguments)
        kernels.blur_weights_to(*flat, radius, out.reshape(-1, out.shape[-1]))
        return torch.from_numpy(out)
    with torch.no_grad():
        edges, weights, query = t.double(), w.double(), t_query.double()
        if radius == 0:
            cumulated, _ = _integrals(edges, weights, query)
        else:
            _, integral = _integrals(edges, weights, torch.cat([query - radius, query + radius], dim=-1))
            below, above = integral.chunk(2, dim=-1)
            cumulated = (above - below) / (2.0 * radius)
        return (cumulated[..., 1:] - cumulated[..., :-1]).clamp_min(0.0).to(w.dtype)


def blurred_interlevel_loss(
    t: Float[Tensor, "*r n+1"],
    w: Float[Tensor, "*r n"],
    t_proposal: Float[Tensor, "*r m+1"],
    w_proposal: Float[Tensor, "*r m"],
    radius: float,
    eps: float = LOSS_EPS,
) -> Float[Tensor, "*r"]:
    """How far a proposal's weights fall short of the blurred weights of the last round.

    Args:
        t, w: edges and weights of the last round, in normalized ray distance; both count as constants.
        t_proposal, w_proposal: edges and weights of the proposal; gradients go to the weights only.
        radius: half of the width of the blur, in the unit of t: 0.03 and 0.003 for the authors' two proposals.
        eps: see `LOSS_EPS`.
    Returns: max(0, blurred − proposed)² / proposed, its mean over the proposal's intervals.
    Source: Zip-NeRF, section "Z-Aliasing and Proposal Supervision".
    """
    shortfall = (blurred_weights(t, w, t_proposal, radius) - w_proposal).clamp_min(0.0)
    return (shortfall.square() / (w_proposal + eps)).mean(-1)


def _integrals(
    t: Float[Tensor, "*r n+1"], w: Float[Tensor, "*r n"], x: Float[Tensor, "*r q"]
) -> tuple[Float[Tensor, "*r q"], Float[Tensor, "*r q"]]:
    """F(x), the weight of a histogram up to x, and the integral of F up to x."""
    length = t.diff(dim=-1)
    padded = torch.nn.functional.pad(w, (0, 1))
    weight_before = torch.nn.functional.pad(w.cumsum(-1), (1, 0))
    integral_before = torch.nn.functional.pad((length * (weight_before[..., :-1] + 0.5 * w)).cumsum(-1), (1, 0))
    inverse = torch.nn.functional.pad(torch.where(length > 0, 1.0 / length, 0.0), (0, 1))
    x = torch.maximum(x, t[..., :1])
    batch = torch.broadcast_shapes(t.shape[:-1], x.shape[:-1])
    t, x = t.expand(*batch, -1).contiguous(), x.expand(*batch, -1).contiguous()
    index = (torch.searchsorted(t, x, right=True) - 1).clamp_min(0)  # −1 only if x is NaN

    def at(values: Tensor) -> Tensor:
        return values.expand(*batch, -1).gather(-1, index)

    offset = x - at(t)
    gain = at(padded) * (offset * at(inverse)).clamp_max(1.0)
    before = at(weight_before)
    return before + gain, at(integral_before) + offset * (before + 0.5 * gain)
