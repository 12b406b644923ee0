"""How a picture of Gaussians is compared with a photograph while it is trained.

Source: 3D Gaussian Splatting (arXiv 2308.04079), equation 7: (1 − λ) L₁ + λ (1 − SSIM).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
"""Side in pixels and standard deviation of SSIM's window."""
C1, C2 = 0.01**2, 0.03**2
"""Constants of SSIM for colors in [0, 1]."""


def _blurred(images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Means over the window about each pixel; beside the picture is nothing, as in the authors' code."""
    place = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    weights = torch.exp(-0.5 * (place / SIGMA).square())
    weights = weights / weights.sum()
    rows = F.conv2d(images, weights[None, None, None, :], padding=(0, WINDOW // 2))
    return F.conv2d(rows, weights[None, None, :, None], padding=(WINDOW // 2, 0))


def ssim_map(first: Float[Tensor, "h w c"], second: Float[Tensor, "h w c"]) -> Float[Tensor, "h w c"]:
    """Structural similarity about each pixel of each channel (Wang et al. 2004; 11×11 Gaussian window, σ 1.5).

    Args:
        first, second: in [0, 1].
    """
    a, b = first.movedim(-1, 0)[:, None], second.movedim(-1, 0)[:, None]
    mean_a, mean_b, square_a, square_b, product = _blurred(torch.cat([a, b, a * a, b * b, a * b])).chunk(5)
    variances = square_a - mean_a.square() + square_b - mean_b.square()
    covariance = product - mean_a * mean_b
    structure = (2.0 * covariance + C2) / (variances + C2)
    brightness = (2.0 * mean_a * mean_b + C1) / (mean_a.square() + mean_b.square() + C1)
    return (brightness * structure)[:, 0].movedim(0, -1)


def picture_loss(
    picture: Float[Tensor, "h w 3"],
    photograph: Float[Tensor, "h w 3"],
    valid: Bool[Tensor, "h w 1"] | None,
    ssim_weight: float,
    squared: bool = False,
) -> Float[Tensor, ""]:
    """(1 − λ) E + λ (1 − SSIM) over the pixels that count.

    Args:
        picture, photograph: in [0, 1].
        valid: which pixels count; None: all. Where none does, the loss is 0. Windows of SSIM see the photograph in the
            place of others.
        ssim_weight: λ.
        squared: E is the squared error, instead of the absolute one.
    """
    if valid is not None:
        picture = torch.where(valid, picture, photograph)
    difference = picture - photograph
    loss = (1.0 - ssim_weight) * (difference.square() if squared else difference.abs())
    if ssim_weight > 0.0:
        loss = loss + ssim_weight * (1.0 - ssim_map(picture, photograph))
    if valid is None:
        return loss.mean()
    return (loss * valid).sum() / (3.0 * valid.sum()).clamp_min(1.0)
