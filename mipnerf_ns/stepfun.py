"""Step functions along rays: rendering weights of intervals, as the next round of samples is drawn from them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def blur_weights(weights: Float[Tensor, "*r n"]) -> Float[Tensor, "*r n"]:
    """Dilate weights by a max over neighbours, then average: a wide, smooth upper envelope.

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
