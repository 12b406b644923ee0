"""Scene contraction: all of space in a ball of radius 2, and what it does to Gaussians.

Points within distance 1 stay; a point at distance r beyond goes to distance 2 − 1/r in the same direction. The Jacobian
there has two eigenvalues: 1/r² along the direction from the origin and (2r − 1)/r² across it. With these in closed
form, the variance of a contracted Gaussian along any direction costs a few products per direction, and no matrix is
ever built (mip-NeRF 360, section 2 and equation 10).

In place of nerfstudio's `SceneContraction`, whose gradient at the origin is NaN and which builds the Jacobians.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def contraction_scales(
    x: Float[Tensor, "*n 3"],
) -> tuple[Float[Tensor, "*n 1"], Float[Tensor, "*n 1"], Float[Tensor, "*n 1"]]:
    """Eigenvalues of the contraction's Jacobian, and the inverse distance.

    The eigenvalue across is also the factor on the point itself: contract(x) = across · x.

    Args:
        x: points in units of the radius that is left as it is.
    Returns: eigenvalue along x, eigenvalue across x, and 1 / max(|x|, 1); both eigenvalues are 1 within the unit ball.
    """
    # Clamped before the root: its gradient at the origin would be infinite.
    # A sum of three numbers each, which torch takes four times as long for by itself.
    first, second, third = x.unbind(-1)
    inverse = torch.rsqrt((first * first + second * second + third * third).clamp_min(1.0))[..., None]
    along = inverse * inverse
    return along, (2.0 - inverse) * inverse, inverse


def contract(x: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Contract points into the ball of radius 2.

    Source: mip-NeRF 360, equation 10.
    """
    return contraction_scales(x)[1] * x


def contract_isotropic(
    mean: Float[Tensor, "*n 3"], std: Float[Tensor, "*n 1"]
) -> tuple[Float[Tensor, "*n 3"], Float[Tensor, "*n 1"]]:
    """Contract isotropic Gaussians, which stay isotropic: of the Jacobian J, only its change of volume counts.

    Args:
        mean: means, in units of the contraction's radius.
        std: standard deviations in one direction.
    Returns: contracted means, and standard deviations times the cube root of |det J|.
    Source: Zip-NeRF, arXiv 2304.06706, section "Spatial Anti-Aliasing".
    """
    along, across, _ = contraction_scales(mean)
    # The root by logarithm takes half as long as a power, and gives the same, an ulp or two aside; 1 stays 1.
    return across * mean, std * ((along * across * across).log() / 3.0).exp()


def lift_frustum(
    mean: Float[Tensor, "*n 3"],
    direction: Float[Tensor, "*r 3"],
    t_var: Float[Tensor, "*n 1"],
    r_var: Float[Tensor, "*n 1"],
    basis: Float[Tensor, "3 k"],
    contracted: bool,
) -> tuple[Float[Tensor, "*n k"], Float[Tensor, "*n k"]]:
    """Means and variances along the directions of a basis, of the Gaussians of conical frustums.

    Such a Gaussian has the covariance t_var d dᵀ + r_var (I − d dᵀ / |d|²). Its variance along a unit vector p, after
    a symmetric Jacobian J, is t_var (p·Jd)² + r_var (|Jp|² − (p·Jd)² / |d|²).

    Args:
        mean: means, in units of the contraction's radius.
        direction: ray directions, broadcast over the samples of a ray; t is measured in units of their length.
        t_var: variances along the ray, of the parameter t.
        r_var: variances along one direction across the ray.
        basis: unit vectors as columns.
        contracted: whether to contract.
    Returns: means and variances along each direction.
    Source: mip-NeRF 360, equations 7, 8, 10 and 12 combined.
    """
    lifted = project_onto(mean, basis)
    shear = project_onto(direction, basis)
    inverse_d2 = 1.0 / (direction * direction).sum(-1, keepdim=True).clamp_min(1e-20)
    if not contracted:
        return lifted, ((t_var - r_var * inverse_d2) * (shear * shear) + r_var).clamp_min(0.0)
    along, across, inverse = contraction_scales(mean)
    cosine = (mean * direction).sum(-1, keepdim=True) * (inverse * inverse)
    moved = torch.addcmul(across * shear, (along - across) * cosine, lifted)
    squash = (along * along - across * across) * (inverse * inverse)
    gain = torch.addcmul(across * across, squash, lifted * lifted)
    variance = torch.addcmul(r_var * gain, t_var - r_var * inverse_d2, moved * moved)
    return across * lifted, variance.clamp_min(0.0)


def project_onto(x: Float[Tensor, "*n 3"], basis: Float[Tensor, "3 k"]) -> Float[Tensor, "*n k"]:
    """x @ basis, in full precision also where matrix products are not: the highest octave multiplies errors by 2^11."""
    return torch.addcmul(torch.addcmul(x[..., :1] * basis[0], x[..., 1:2], basis[1]), x[..., 2:], basis[2])
