"""How much each level of a grid has to say about a Gaussian: little, if its cells are smaller than the Gaussian.

A level whose cells have the width 1/n cannot tell what lies within a Gaussian of a larger standard deviation σ: its
features there average out over cells that a single look-up does not see. They are multiplied by
erf(1 / √(8 σ² n²)), the share of the Gaussian, in one direction, within a cell about its center (Zip-NeRF, arXiv
2304.06706, section "Spatial Anti-Aliasing", paragraph "Downweighting").

The authors' n is the number of cells along the box's side; here that is `Level.scale`, per unit of the cube. In their
code the error function is the approximation √(1 − exp(−4 x² / π)), off by at most 0.007.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from common_ns.hash_grid.levels import GridShape


def cells_per_unit(shape: GridShape, device: torch.device | None = None) -> Float[Tensor, "L"]:
    """Cells of each level along the side of the unit cube."""
    return torch.tensor([level.scale for level in shape.levels], device=device)


def level_weights(
    std: Float[Tensor, "*n 1"], cells: Float[Tensor, "L"], approximate: bool = False
) -> Float[Tensor, "*n L"]:
    """Weight of each level for isotropic Gaussians.

    Args:
        std: standard deviations in units of the grid's cube; 0 gives weight 1.
        cells: cells of each level per unit of length.
        approximate: the authors' approximation of the error function.
    """
    x = 1.0 / (math.sqrt(8.0) * std * cells).clamp_min(1e-6)
    return _rough_erf(x) if approximate else torch.erf(x)


def weight_features(features: Float[Tensor, "*n L*F"], weights: Float[Tensor, "*n L"]) -> Float[Tensor, "*n L*F"]:
    """Features multiplied by their level's weight.

    Args:
        features: of all levels, level by level.
        weights: see `level_weights`.
    """
    by_level = features.unflatten(-1, (weights.shape[-1], -1))
    return (by_level * weights[..., None]).flatten(-2)


def weights_of_levels(shape: GridShape, std: Float[Tensor, "*n"]) -> Float[Tensor, "*n L"]:
    """`level_weights` of a grid's levels, constants in the number format of std, on its device."""
    return level_weights(std.detach()[..., None], cells_per_unit(shape, std.device).to(std.dtype))


def mean_of_gaussians(
    features: Float[Tensor, "*n k L*F"], weights: Float[Tensor, "*n k L"] | None
) -> Float[Tensor, "*n L*F"]:
    """Mean over k Gaussians of weighted features.

    Args:
        features: of all levels, level by level.
        weights: see `level_weights`; None: all are 1.
    """
    return (features if weights is None else weight_features(features, weights)).mean(-2)


def scale_features(
    weights: Float[Tensor, "*n L"], mean_squares: Float[Tensor, "L"], init_scale: float
) -> Float[Tensor, "*n L"]:
    """Features that tell a network the weights: (2 weight − 1) √(init² + mean square of the level's features).

    That factor keeps them as large as the level's own features, which start small and grow; it counts as a constant.
    The authors append one such feature to each level's.

    Args:
        weights: see `level_weights`.
        mean_squares: of each level's table, see `common_ns.hash_grid.decay.level_mean_squares`.
        init_scale: rows start uniformly within ± this (`HashGrid.INIT_SCALE`).
    Source: the authors' code, not the paper.
    """
    return (2.0 * weights - 1.0) * (init_scale**2 + mean_squares.detach()).sqrt()


def _rough_erf(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """√(1 − exp(−4 x² / π)) for x ≥ 0."""
    return (-torch.expm1((-4.0 / math.pi) * x * x)).sqrt()
