"""Fourier features of a grid's levels, all bands at once, with first and second derivatives written out.

Of features z of a band, e = sin(M z + φ): half of the rows of M are repeated with a phase φ of a quarter turn more, so
that sines and cosines are one array. With y = M z + φ, autograd would compute the sine of y and the cosine again for
every derivative; here both are kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from hashnffb_sdf_ns.encodings.sine_layer import sine


def fourier_bands(
    z: Float[Tensor, "b n k"], frequencies: Float[Tensor, "b k w"], shift: Float[Tensor, "w"]
) -> Float[Tensor, "b n w"]:
    """sin(z · frequencies + shift), twice differentiable with respect to z.

    Args:
        z: features of each band.
        frequencies: in radians per unit of z; not differentiated.
        shift: added to the phases, in radians; not differentiated.
    """
    return _FourierBands.apply(z, frequencies, shift)  # pyright: ignore


def quarter_turns(frequencies: Float[Tensor, "*b k w"]) -> Float[Tensor, "w"]:
    """Shifts for as many sines as cosines: 0 for the first half, π/2 for the second."""
    shift = frequencies.new_zeros(frequencies.shape[-1])
    shift[len(shift) // 2 :] = 0.5 * math.pi
    return shift


class _FourierBands(torch.autograd.Function):
    """sin y."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, frequencies: Tensor, shift: Tensor) -> Tensor:
        phase = torch.baddbmm(shift.expand(len(z), 1, -1), z, frequencies)
        features, cosine = sine(phase)
        ctx.save_for_backward(z, frequencies, features, cosine)
        return features

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        z, frequencies, features, cosine = ctx.saved_tensors
        return _FourierGradient.apply(g, z, frequencies, features.detach(), cosine), None, None  # pyright: ignore


class _FourierGradient(torch.autograd.Function):
    """(g cos y) Mᵀ."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, z: Tensor, frequencies: Tensor, features: Tensor, cosine: Tensor) -> Tensor:
        ctx.save_for_backward(g, frequencies, features, cosine)
        return torch.bmm(g * cosine, frequencies.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Any) -> Any:
        g, frequencies, features, cosine = ctx.saved_tensors
        tangent = torch.bmm(u, frequencies)
        g_cotangent = cosine * tangent
        z_cotangent = torch.bmm(tangent.mul_(features).mul_(g).neg_(), frequencies.mT)
        return g_cotangent, z_cotangent, None, None, None
