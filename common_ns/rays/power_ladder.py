"""Tukey's power ladder, one curve of distances for all kinds of scene, and its inverse.

    P(x, p) = (|p − 1| / p) ((x / |p − 1| + 1)^p − 1)

grows as x near 0, with slope 1, and as a power p far away. Its members are the identity (p = 1), log(1 + x) (p = 0),
2 x / (2 + x) (p = −1), 1 − exp(−x) (p = −∞) and exp(x) − 1 (p = ∞). For p < 0 all distances up to infinity fit below
(p − 1) / p.

Written with log1p and expm1, so that float32 keeps small distances, where the power itself rounds to 1.

Source: Zip-NeRF, arXiv 2304.06706, section "Z-Aliasing and Proposal Supervision" and supplement.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def power_ladder_limit(p: float) -> float:
    """What P(x, p) tends to as x grows: infinity for p ≥ 0."""
    if p >= 0:
        return math.inf
    return 1.0 if math.isinf(p) else (p - 1.0) / p


def power_ladder(x: Float[Tensor, "*n"], p: float, premult: float = 1.0) -> Float[Tensor, "*n"]:
    """P(premult · x, p), odd in x.

    Args:
        x: distances; infinity is allowed.
        p: rung of the ladder, ±infinity included.
        premult: factor on x: what counts as near, over the unit of x.
    """
    if p == 1:
        return x * premult
    magnitude = _magnitude(x * premult)
    if p == 0:
        y = torch.log1p(magnitude)
    elif p == -math.inf:
        y = -torch.expm1(-magnitude)
    elif p == math.inf:
        y = torch.expm1(magnitude)
    else:
        reach = abs(p - 1.0)
        y = (reach / p) * torch.expm1(p * torch.log1p(magnitude / reach))
    return _with_sign_of(x, y)


def inverse_power_ladder(y: Float[Tensor, "*n"], p: float, premult: float = 1.0) -> Float[Tensor, "*n"]:
    """The x of P(premult · x, p) = y.

    For p < 0 what reaches the limit (see `power_ladder_limit`) is moved to just below it, so that the result is finite:
    the largest distance that the number format of y tells from infinity. With p = −1.5, that is 1.6e5 / premult in
    float32: larger ones come out as about this, and callers bound the result by their far distance.

    Args:
        y: values of `power_ladder`.
        p, premult: as there.
    """
    if p == 1:
        return y / premult
    magnitude = _magnitude(y)
    almost_gone = -1.0 + torch.finfo(y.dtype).eps / 2
    if p == 0:
        x = torch.expm1(magnitude)
    elif p == -math.inf:
        x = -torch.log1p((-magnitude).clamp_min(almost_gone))
    elif p == math.inf:
        x = torch.log1p(magnitude)
    else:
        reach = abs(p - 1.0)
        x = reach * torch.expm1(torch.log1p(((p / reach) * magnitude).clamp_min(almost_gone)) / p)
    return _with_sign_of(y, x / premult)


def _magnitude(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """|x| with the derivative 1 at 0, where that of torch.abs is 0."""
    return torch.where(x < 0, -x, x)


def _with_sign_of(x: Float[Tensor, "*n"], magnitude: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    return torch.where(x < 0, -magnitude, magnitude)
