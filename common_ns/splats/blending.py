"""From ellipses to pictures: what all implementations blend, and the constants of it.

Source: 3D Gaussian Splatting (arXiv 2308.04079), section 4, equations 2 and 3: C = Σ Tᵢ αᵢ cᵢ from front to back, with
αᵢ the opacity times the ellipse's profile at the pixel's center and Tᵢ = Π (1 − αⱼ) over what is before it. What is
fainter than 1/255 is left out, α is at most 0.999, and a pixel is done before T would fall to 10⁻⁴.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

MOST_ALPHA = 0.999
LEAST_TRANSMITTANCE = 1e-4
"""A Gaussian that would make a pixel's transmittance fall to this or below is left out there, and all behind it."""
LEAST_WEIGHT = 1e-10
"""What the sum of weights is at least, as a divisor."""


class Pictures(NamedTuple):
    """What a camera sees. The last three only if geometry was asked for."""

    color: Float[Tensor, "h w 3"]
    """Over the background."""
    accumulation: Float[Tensor, "h w 1"]
    """The sum of weights: how much of the background is hidden."""
    depth: Float[Tensor, "h w 1"] | None
    """Mean depth of the means along the optical axis by their weights, in scene units; 0 where there is nothing."""
    median_depth: Float[Tensor, "h w 1"] | None
    """Depth of the mean at which transmittance falls to ½ or below; 0 where it stays above. Has no derivatives."""
    normals: Float[Tensor, "h w 3"] | None
    """Sum of the normals by their weights, in the world: shorter than 1 where they differ or there is little."""
