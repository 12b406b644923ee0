"""IDR: a surface point that follows the surface and the camera, and losses for rays with and without one.

A ray is not rendered through a volume: its color is that of the one point where it meets the surface. The search for
that point has no derivatives. The point gets them by one Newton step from where it is already.

Source: Yariv et al., Multiview neural surface reconstruction by disentangling geometry and appearance (IDR, arXiv
2003.09852), sections 3.1 and 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LEAST_SLOPE = 0.05
"""Bound on |n · v|: rays along a surface would move their point by any distance."""


def differentiable_intersection(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    t: Float[Tensor, " n"],
    sdf: Float[Tensor, " n"],
    gradient: Float[Tensor, "n 3"],
) -> Float[Tensor, "n 3"]:
    """Intersections x = c + t v − v (f − f₀) / (∇f₀ · v), with f₀ and ∇f₀ the constants that f and ∇f are now.

    The value is c + t v. The derivatives are those of the place where the ray c + s v meets the surface f = f₀, by the
    parameters of f as well as by c and v.

    Args:
        origins, directions: c and v, with derivatives where cameras are refined.
        t: ray distance of the intersection; a constant.
        sdf: f at c + t v, with derivatives by the surface's parameters and by c and v.
        gradient: ∇f there; a constant.
    Source: IDR, equation 3 and lemma 1.
    """
    t = t.detach()[:, None]
    # A ray that meets a surface from outside goes down the distance.
    slope = (gradient * directions).sum(-1, keepdim=True).detach()
    slope = torch.minimum(slope, -LEAST_SLOPE * directions.detach().norm(dim=-1, keepdim=True))
    # The difference is 0. It is no number where f is none, and then the point must be one all the same: grids are
    # indexed by it. The loss still is no number, by the color.
    difference = (sdf - sdf.detach()).nan_to_num(nan=0.0)[:, None]
    return origins + t * directions - directions.detach() * (difference / slope)


def mask_alpha(step: int, initial: float, milestones: Sequence[int], factor: float = 2.0) -> float:
    """Sharpness α of the mask loss, multiplied by a factor at each milestone.

    Args:
        step: absolute training step.
        initial: α at step 0.
        milestones: steps from which on there is one more factor.
        factor: of each.
    """
    return initial * factor ** sum(step >= milestone for milestone in milestones)


def mask_error(least_sdf: Float[Tensor, "*n"], mask: Float[Tensor, "*n"], alpha: float) -> Float[Tensor, "*n"]:
    """Cross entropy of masks and rays, (1 / α) · CE(mask, σ(−α · min f)).

    Args:
        least_sdf: least signed distance along each ray: below 0 where it meets the surface.
        mask: share of the pixel that the object covers.
        alpha: sharpness, per unit of distance.
    Source: IDR, equation 7.
    """
    return F.binary_cross_entropy_with_logits(-alpha * least_sdf, mask, reduction="none") / alpha
