"""Style-modulated Fourier filter banks: Fourier features of each band are normalized, and weighted by position.

What a band adds to the sine layers is A_b(x) · LayerNorm(W_b e_b + c_b): a matrix of its own mixes its Fourier features
e_b, the norm keeps bands comparable whatever their tables have grown to, and attention, a softmax over bands of a
linear map of the position, says where in the scene which band counts. A sums to the number of bands, and starts at 1.
The attention stands outside of the norm, which would cancel it.

Source: the design follows HashModNFFBanks-IDR's idea of style attention; there the softmax runs over a single element
and is 1, so this is what it evidently means.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hashnffb_sdf_ns.encodings.nffb import NFFB, NFFBOptions


class StyleModNFFB(NFFB):
    """A Fourier filter bank whose bands are normalized, and weighted by attention.

    Args:
        options: as for the filter bank.
        generator: source of the parameters' initial values; None: torch's own.
    """

    EPSILON = 1e-5
    """Added to the variance in the norm."""

    def __init__(self, options: NFFBOptions, generator: torch.Generator | None = None) -> None:
        super().__init__(options, generator)
        width = options.width
        bound = math.sqrt(3.0 / width)
        self.style_weight = nn.Parameter(
            torch.empty(self.bands, width, width).uniform_(-bound, bound, generator=generator)
        )
        self.style_bias = nn.Parameter(torch.zeros(self.bands, width))
        self.attention_weight = nn.Parameter(torch.zeros(self.bands, 3))
        self.attention_bias = nn.Parameter(torch.zeros(self.bands))

    def attention(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n b"]:
        """Weights A of all bands."""
        return self.bands * torch.softmax(nn.functional.linear(x, self.attention_weight, self.attention_bias), -1)

    def modulate(self, x: Float[Tensor, "n 3"], embedding: Float[Tensor, "b n w"]) -> Float[Tensor, "b n w"]:
        on = len(embedding)
        # The norm's mean is that of the matrix's rows: taken from these, it need not be taken from every point.
        weight = self.style_weight[:on] - self.style_weight[:on].mean(1, keepdim=True)
        bias = self.style_bias[:on] - self.style_bias[:on].mean(1, keepdim=True)
        mixed = torch.baddbmm(bias[:, None], embedding, weight.mT)
        scale = torch.rsqrt(mixed.square().mean(-1) + self.EPSILON) * self.attention(x).T[:on]
        return mixed * scale[..., None]
