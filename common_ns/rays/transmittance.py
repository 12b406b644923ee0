"""How much of a ray ends in each of its intervals."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def render_weights(optical_depth: Float[Tensor, "*r n"]) -> Float[Tensor, "*r n"]:
    """Weight of each interval in the rendered ray: its opacity times the transmittance of what is in front of it.

    In place of `RaySamples.get_weights` of nerfstudio, which turns NaN into 0: here it stays, so that it is noticed.

    Args:
        optical_depth: of each interval in order: its density times its length, or what NeuS derives from distances.
    Returns: weights, each at least 0, that sum to at most 1.
    Source: NeRF, equation 3; NeuS, equation 11.
    """
    transmittance = torch.exp(-torch.nn.functional.pad(optical_depth.cumsum(-1)[..., :-1], (1, 0)))
    return -torch.expm1(-optical_depth) * transmittance
