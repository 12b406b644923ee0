"""Normalized device coordinates (NDC): all that lies before a reference camera in a cube, also for Gaussians.

For captures whose cameras all face one way. A point (x, y, z) in the frame of the reference camera (x right, y up,
looking along −z) is at depth w = −z and goes to

    (a_x x / w,  a_y y / w,  1 − 2 n / w):

depths from the near plane n to infinity to [−1, 1], and what the reference camera sees, with a = 2 · focal length /
image size, into [−1, 1] across. The map is projective, so that straight lines stay straight; equal steps along one of
them are equal steps in 1 / w. What lies nearer than n, or behind the camera, is taken for a point on the near plane.

NeRF's own code maps rays and goes on in NDC. Here rays stay in the world, and points and Gaussians are mapped where
other captures are contracted: distances, depth, and cameras of any focal length keep their meaning.

Functions take `factors` (a_x, a_y, n), with n in scene units. Source: NeRF, arXiv 2003.08934, appendix C.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from common_ns.rays.contraction import project_onto

MIN_COSINE = 0.05
"""Rays that advance less than this along the reference axis, for each unit of their length, are divided by their own
disparity: depth hardly changes along them."""
_SMALLEST_NEAR = 1e-4
"""Near plane over far plane that stands in for a near plane of 0, on these rays."""

DistanceMap = Callable[[Float[Tensor, "n s"]], Float[Tensor, "n s"]]


def inverse_depth(x: Float[Tensor, "*n 3"], factors: Float[Tensor, "3"]) -> Float[Tensor, "*n 1"]:
    """1 / depth of points in the reference frame, in 1 / scene units; before the near plane that of the plane."""
    return 1.0 / torch.maximum(-x[..., 2:], factors[2])


def to_ndc(x: Float[Tensor, "*n 3"], factors: Float[Tensor, "3"]) -> Float[Tensor, "*n 3"]:
    """Normalized device coordinates of points in the reference frame."""
    inverse = inverse_depth(x, factors)
    return torch.cat([factors[:2] * x[..., :2] * inverse, 1.0 - 2.0 * factors[2] * inverse], dim=-1)


def ndc_isotropic(
    mean: Float[Tensor, "*n 3"], std: Float[Tensor, "*n 1"], factors: Float[Tensor, "3"]
) -> tuple[Float[Tensor, "*n 3"], Float[Tensor, "*n 1"]]:
    """Map isotropic Gaussians, which stay isotropic: of the Jacobian J, only its change of volume counts.

    Args:
        mean: means in the reference frame.
        std: standard deviations in one direction, scene units.
        factors: see the module.
    Returns: mapped means, and standard deviations times the cube root of det J = 2 n a_x a_y / w⁴; before the near
        plane, that of the plane.
    Source: Zip-NeRF, arXiv 2304.06706, section "Spatial Anti-Aliasing", for its contraction.
    """
    inverse = inverse_depth(mean, factors)
    # As `contract_isotropic`'s, a root by logarithm; logarithms are added, as w⁴ of the horizon is beyond float32.
    root = ((2.0 * factors.prod()).log() / 3.0 + (4.0 / 3.0) * inverse.log()).exp()
    return to_ndc(mean, factors), std * root


def lift_frustum_ndc(
    mean: Float[Tensor, "*n 3"],
    direction: Float[Tensor, "*r 3"],
    t_var: Float[Tensor, "*n 1"],
    r_var: Float[Tensor, "*n 1"],
    basis: Float[Tensor, "3 k"],
    factors: Float[Tensor, "3"],
) -> tuple[Float[Tensor, "*n k"], Float[Tensor, "*n k"]]:
    """Means and variances in NDC along the directions of a basis, of the Gaussians of conical frustums.

    With m the mapped mean, the Jacobian turns a unit vector p into Jᵀp = (a_x p_x, a_y p_y, p·m − p_z) / w. The
    covariance t_var d dᵀ + r_var (I − d dᵀ / |d|²) then has the variance t_var (d·Jᵀp)² + r_var (|Jᵀp|² − (d·Jᵀp)² /
    |d|²) along p. No matrix is built.

    Args:
        mean: means in the reference frame.
        direction: ray directions there, broadcast over the samples of a ray; t is measured in units of their length.
        t_var: variances along the ray, of the parameter t.
        r_var: variances along one direction across the ray, in scene units squared.
        basis: unit vectors as columns.
        factors: see the module.
    Returns: means and variances along each direction.
    """
    inverse = inverse_depth(mean, factors)
    ndc = to_ndc(mean, factors)
    lifted = project_onto(ndc, basis)
    # On the near plane's near side, depth does not move the point.
    beyond = (-mean[..., 2:] > factors[2]).to(mean)
    axial = (lifted - basis[2]) * beyond
    flat = factors[:2, None] * basis[:2]
    moved = (direction[..., :1] * flat[0] + direction[..., 1:2] * flat[1] + direction[..., 2:] * axial) * inverse
    gain = (flat.square().sum(0) + axial.square()) * inverse.square()
    inverse_d2 = 1.0 / (direction * direction).sum(-1, keepdim=True).clamp_min(1e-20)
    variance = torch.addcmul(r_var * gain, t_var - r_var * inverse_d2, moved * moved)
    return lifted, variance.clamp_min(0.0)


def ndc_distance_maps(
    depth: Float[Tensor, "n 1"],
    cosine: Float[Tensor, "n 1"],
    near: Float[Tensor, "n 1"],
    far: Float[Tensor, "n 1"],
    plane: Float[Tensor, ""],
) -> tuple[DistanceMap, DistanceMap]:
    """The map from normalized distance in [0, 1] to ray distance, whose equal steps are equal steps in NDC, and its
    inverse.

    A ray begins where it crosses the near plane, or later if `near` is. Rays that do not run forward, or end before the
    near plane, are divided by their own disparity from `near` to `far`.

    Args:
        depth: of the rays' origins along the reference axis, scene units.
        cosine: depth that a ray gains for each unit of ray distance.
        near, far: planes in ray distance, scene units.
        plane: depth of NDC's near plane, above 0.
    """
    last = depth + cosine * far
    forward = (cosine > MIN_COSINE) & (last > plane)
    offset, slope = torch.where(forward, depth, 0.0), torch.where(forward, cosine, 1.0)
    first = torch.where(forward, torch.maximum(depth + cosine * near, plane), near.maximum(_SMALLEST_NEAR * far))
    low, high = 1.0 / first, 1.0 / torch.where(forward, last, far)

    def to_distance(s: Float[Tensor, "n s"]) -> Float[Tensor, "n s"]:
        return torch.maximum((1.0 / (low * (1.0 - s) + high * s) - offset) / slope, near)

    def to_spacing(t: Float[Tensor, "n s"]) -> Float[Tensor, "n s"]:
        return (1.0 / torch.maximum(offset + slope * t, first) - low) / (high - low)

    return to_distance, to_spacing


def mean_pose(c2w: Float[Tensor, "n 3 4"]) -> Float[Tensor, "3 4"]:
    """The pose of mean position, mean viewing direction and mean upward direction.

    Args:
        c2w: camera-to-world matrices, OpenGL axes; their viewing directions do not cancel.
    """
    back = F.normalize(c2w[:, :, 2].mean(0), dim=0)
    # Pictures taken upright and head down have no common top: any will do.
    ups = torch.stack([c2w[:, :, 1].mean(0), c2w[0, :, 1], c2w[0, :, 0]])
    ups = ups - (ups @ back)[:, None] * back
    up = F.normalize(ups[int((ups.norm(dim=-1) > 1e-3).int().argmax())], dim=0)
    return torch.stack([torch.linalg.cross(up, back), up, back, c2w[:, :, 3].mean(0)], dim=1)
