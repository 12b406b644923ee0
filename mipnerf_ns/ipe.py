"""Positional encoding, integrated over a Gaussian.

The expectation of sin(2^l x) under a Gaussian is the sine of the mean, damped by the variance: frequencies that turn
several times within a pixel's cone vanish instead of aliasing (mip-NeRF, section 3.1). The frequencies are the paper's,
2^l without a factor π: the host multiplies the mean by 2π but not the variance.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def integrated_pos_enc(
    mean: Float[Tensor, "*n d"], var: Float[Tensor, "*n d"], min_deg: int, max_deg: int
) -> Float[Tensor, "*n 2*d*(max_deg-min_deg)"]:
    """Expected sine and cosine of 2^l x for x ~ N(mean, diag(var)), l = min_deg … max_deg − 1.

    Args:
        mean: means of the Gaussians, in scene units.
        var: diagonals of their covariances.
        min_deg, max_deg: range of octaves, the upper end excluded.
    Returns: all sines, octave by octave, then all cosines.
    Source: mip-NeRF, equation 14.
    """
    scales = 2.0 ** torch.arange(min_deg, max_deg, device=mean.device, dtype=mean.dtype)
    phase = (mean[..., None, :] * scales[:, None]).flatten(-2)
    damping = torch.exp(-0.5 * (var[..., None, :] * scales[:, None] ** 2).flatten(-2))
    return torch.cat([damping * torch.sin(phase), damping * torch.cos(phase)], dim=-1)


def pos_enc(x: Float[Tensor, "*n d"], min_deg: int, max_deg: int, identity: bool = True) -> Float[Tensor, "*n e"]:
    """Sines and cosines of 2^l x, without integration; `identity` puts x itself in front.

    Source: NeRF, equation 4, with mip-NeRF's frequencies.
    """
    scales = 2.0 ** torch.arange(min_deg, max_deg, device=x.device, dtype=x.dtype)
    phase = (x[..., None, :] * scales[:, None]).flatten(-2)
    parts = [torch.sin(phase), torch.cos(phase)]
    return torch.cat([x, *parts] if identity else parts, dim=-1)
