"""Positional encoding: sines and cosines of positions, octave by octave, also integrated over a Gaussian.

Features of octave l are sin(2^l x) and cos(2^l x): NeRF's (section 5.1, equation 4) without the factor π there, as in
mip-NeRF and IDR. In place of nerfstudio's `NeRFEncoding`, which multiplies means by 2π but variances not.

The expectation of sin(2^l x) under a Gaussian is the sine of the mean, damped by the variance: frequencies that turn
several times within a pixel's cone vanish instead of aliasing (mip-NeRF, section 3.1).

Octaves are computed from each other: sin 2x and cos 2x from sin x and cos x, and a damping factor as the fourth power
of the one an octave lower. The functions themselves are evaluated at every third octave only, which bounds the
growth of rounding errors. That is an order of magnitude faster on a CPU than evaluating each.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

_FRESH_EVERY = 3
# Features damped below this are nothing. Left in, they and their powers become denormal numbers, on which CPUs spend
# ten times as long.
_VANISHED = 1e-9
_VANISHED_LOG = math.log(_VANISHED) - 1.0


def integrated_pos_enc(
    mean: Float[Tensor, "*n d"],
    var: Float[Tensor, "*n d"],
    min_deg: int,
    max_deg: int,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "*n 2*d*(max_deg-min_deg)"]:
    """Expected sine and cosine of 2^l x for x ~ N(mean, diag(var)), l = min_deg … max_deg − 1.

    Args:
        mean: means of the Gaussians, in scene units.
        var: diagonals of their covariances.
        min_deg, max_deg: range of octaves, the upper end excluded.
        dtype: number format of the result; None: that of `mean`.
    Returns: all sines, octave by octave, then all cosines. The layout in memory is feature-major, which matrix products
        take as it is.
    Source: mip-NeRF, equation 14.
    """
    channels = mean.shape[-1]
    flat_var = var.expand_as(mean).reshape(-1, channels)
    encoded = _Encoding.apply(mean.reshape(-1, channels), flat_var, min_deg, max_deg, dtype, _FRESH_EVERY)
    return encoded.reshape(*mean.shape[:-1], encoded.shape[-1])  # type: ignore[attr-defined]


def pos_enc(
    x: Float[Tensor, "*n d"],
    min_deg: int,
    max_deg: int,
    identity: bool = True,
    dtype: torch.dtype | None = None,
    exact: bool = False,
) -> Float[Tensor, "*n e"]:
    """Sines and cosines of 2^l x, l = min_deg … max_deg − 1, without integration.

    Args:
        x: positions or unit directions.
        min_deg, max_deg: range of octaves, the upper end excluded.
        identity: put x itself in front.
        dtype: number format of the result; None: that of x.
        exact: evaluate every octave, instead of computing two of three from the one below (up to 2e-6 off).
    Returns: x if asked for, all sines, octave by octave, then all cosines: e = d + 2 d (max_deg − min_deg).
    Source: NeRF, equation 4, with mip-NeRF's frequencies.
    """
    every = 1 if exact else _FRESH_EVERY
    encoded = _Encoding.apply(x.reshape(-1, x.shape[-1]), None, min_deg, max_deg, dtype, every)
    encoded = encoded.reshape(*x.shape[:-1], encoded.shape[-1])  # type: ignore[attr-defined]
    return torch.cat([x.to(encoded.dtype), encoded], dim=-1) if identity else encoded


def octave_matrix(d: int, min_deg: int, max_deg: int) -> Float[Tensor, "d*(max_deg-min_deg) d"]:
    """The matrix B with which sin(B x) and cos(B x) are the features of `pos_enc`, in its order.

    Positional encoding is thereby a special case of Fourier features (arXiv 2006.10739, section 6).
    """
    return (2.0 ** torch.arange(min_deg, max_deg)[:, None, None] * torch.eye(d)).flatten(0, 1)


class _Encoding(torch.autograd.Function):
    """The encoding with a backward pass that needs nothing but the result: a sine's derivative is its cosine.

    The backward pass consists of differentiable operations, so that second derivatives work.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx, mean: Tensor, var: Tensor | None, min_deg: int, max_deg: int, dtype: torch.dtype | None, fresh_every: int
    ) -> Tensor:
        result = mean.new_empty((2, max_deg - min_deg, mean.shape[1], mean.shape[0]), dtype=dtype or mean.dtype)
        _fill(result, mean.t(), None if var is None else var.t(), min_deg, fresh_every)
        encoded = result.flatten(0, 2).t()
        ctx.save_for_backward(encoded)
        ctx.min_deg, ctx.shape, ctx.has_var = min_deg, result.shape, var is not None
        ctx.input_dtype = mean.dtype
        return encoded

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (encoded,) = ctx.saved_tensors
        octaves = torch.arange(ctx.min_deg, ctx.min_deg + ctx.shape[1], device=grad.device)
        scales = torch.exp2(octaves.to(ctx.input_dtype))[:, None, None]
        grad_sin, grad_cos = grad.t().unflatten(0, ctx.shape[:3]).to(ctx.input_dtype)
        sin, cos = encoded.t().unflatten(0, ctx.shape[:3]).to(ctx.input_dtype)
        grad_mean = (scales * (grad_sin * cos - grad_cos * sin)).sum(0).t()
        grad_var = None
        if ctx.has_var and ctx.needs_input_grad[1]:
            grad_var = (-0.5 * scales**2 * (grad_sin * sin + grad_cos * cos)).sum(0).t()
        return grad_mean, grad_var, None, None, None, None


def _fill(result: Tensor, mean: Tensor, var: Tensor | None, min_deg: int, fresh_every: int) -> None:
    """Write sines and cosines [2, octaves, d, n] of means and variances [d, n].

    The functions are evaluated at every `fresh_every`th octave.
    """
    mean = mean.contiguous()
    one = mean.new_ones(())
    var = None if var is None else var.contiguous()
    sin, cos, damping = mean, mean, None
    for octave in range(result.shape[1]):
        if octave % fresh_every == 0:
            phase = mean * 2.0 ** (min_deg + octave)
            sin, cos = torch.sin(phase), torch.cos(phase)
            if var is not None:
                exponent = var * (-0.5 * 4.0 ** (min_deg + octave))
                damping = exponent.clamp_min_(_VANISHED_LOG).exp_()
        else:
            sin, cos = (sin * cos).mul_(2.0), torch.addcmul(one, sin, sin, value=-2.0)
            if damping is not None:
                squared = damping * damping
                damping = squared.mul_(squared)
        if damping is None:
            result[0, octave], result[1, octave] = sin, cos
        else:
            damping = torch.nn.functional.threshold_(damping, _VANISHED, 0.0)
            torch.mul(damping, sin, out=result[0, octave])
            torch.mul(damping, cos, out=result[1, octave])
