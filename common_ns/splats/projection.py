"""Gaussians as a camera sees them: ellipses of a Gaussian's profile, in pixels.

Source: EWA Volume Splatting (Zwicker et al., IEEE Visualization 2001), section 4, equation 31: a covariance's image is
J W Σ Wᵀ Jᵀ, with the Jacobian J of the projection at the mean; 3D Gaussian Splatting (arXiv 2308.04079), section 4.
Conventions, and constants that those papers leave open, are those of gsplat (arXiv 2409.06765) 1.4: scenes look alike
in both.

Cameras look along +z, with x to the right and y downward; the center of the first pixel is at (½, ½).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common_ns.splats import covariance, harmonics

RADIUS = 3.0
"""Standard deviations, along the longer axis of an ellipse, that its box of tiles is made for."""
BOX = 16
"""Side of gsplat's tiles in pixels. A Gaussian reaches all pixels of the tiles that the square of its radius touches,
and no others: where alpha there is still above the least, this is seen."""
LEAST_ALPHA = 1 / 255
"""Where a Gaussian is fainter, it is left out."""
FRAME = 0.3
"""How far beyond the picture, in shares of half of it, the Jacobian follows the mean. Further out it would spread
Gaussians beside the camera over the whole picture."""
MOST_RADIUS = 1e9
"""In pixels: larger Gaussians, whose numbers soon overflow in float32, are left out."""
LEAST_SPREAD = 0.01
"""The least square, in pixels⁴, of half the difference between an ellipse's eigenvalues."""
LEAST_COMPENSATION = 1e-6


class Frame(NamedTuple):
    """What is drawn, and how: all but Gaussians and the camera's pose."""

    width: int
    height: int
    intrinsics: tuple[float, float, float, float]
    """Focal lengths along x and y, and where the optical axis meets the picture, in pixels."""
    sh_degree: int
    antialiased: bool
    eps2d: float
    """Variance in squared pixels that is added to each ellipse: the pixel's own."""
    near: float
    far: float
    """The least and the greatest depth along the optical axis, in scene units."""

    def limits(self) -> tuple[float, float, float, float]:
        """Least and greatest x/z, least and greatest y/z that the Jacobian is taken at."""
        fx, fy, cx, cy = self.intrinsics
        across, down = FRAME * 0.5 * self.width / fx, FRAME * 0.5 * self.height / fy
        return (
            -cx / fx - across,
            (self.width - cx) / fx + across,
            -cy / fy - down,
            (self.height - cy) / fy + down,
        )


class Projected(NamedTuple):
    """The Gaussians that a camera may see, in the order in which they are stored."""

    means2d: Float[Tensor, "m 2"]
    """In pixels."""
    splats: Float[Tensor, "m 11"]
    """Of each the conic's xx, xy, yy (the inverse covariance, in 1 / pixels²); the opacity; red, green, blue; depth
    along the optical axis in scene units; the normal in the world."""
    radii: Int[Tensor, "m"]
    """In pixels: three standard deviations along the longer axis, rounded up."""
    ids: Int[Tensor, "m"]
    """Which Gaussians they are."""


CONIC, OPACITY, COLOR, DEPTH, NORMAL = slice(0, 3), slice(3, 4), slice(4, 7), slice(7, 8), slice(8, 11)
"""Columns of `Projected.splats`."""


def camera_center(viewmat: Float[Tensor, "4 4"]) -> Float[Tensor, "3"]:
    """Where in the world the camera is."""
    return torch.linalg.inv(viewmat)[:3, 3]


def finite(*values: Float[Tensor, "n ..."]) -> Bool[Tensor, "n"]:
    """Of which Gaussians all numbers are finite."""
    each = [value.detach().flatten(1) if value.dim() > 1 else value.detach()[:, None] for value in values]
    # A sum is finite if its terms are, overflow apart, which no sensible Gaussian comes near to; times 0 there is none.
    sums = torch.stack([(value * 0).sum(1) for value in each])
    return sums.sum(0) == 0


def project(
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    scales: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"],
    coefficients: Float[Tensor, "n k 3"],
    viewmat: Float[Tensor, "4 4"],
    frame: Frame,
) -> Projected:
    """Project Gaussians, by plain torch operations that autograd differentiates.

    Left out are those before the near plane, behind the far plane or beside the picture, those with a number that is
    not finite or a quaternion of length zero, and those of more than 10⁹ pixels.

    Args: as for `common_ns.splats.rasterize`.
    """
    everything = (means, quats, scales, opacities, coefficients)
    usable = finite(*everything) & (quats.detach().norm(dim=-1) > 0)
    depth = means.detach() @ viewmat[2, :3].detach() + viewmat[2, 3].detach()
    ids = torch.nonzero(usable & (depth >= frame.near) & (depth <= frame.far))[:, 0]

    def ellipses() -> tuple[Tensor, Tensor, Tensor]:
        m, q, s, o, c = (value[ids] for value in everything)
        return _ellipses(m, q, s, o, c, viewmat, frame)

    # Left out before anything is differentiated: derivatives of what overflows would not be finite.
    with torch.no_grad():
        means2d, splats, radii = ellipses()
        size = means2d.new_tensor([frame.width, frame.height])
        inside = ((means2d + radii[:, None] > 0) & (means2d - radii[:, None] < size)).all(-1)
        ids = ids[inside & finite(means2d, splats) & (radii <= MOST_RADIUS)]
    means2d, splats, radii = ellipses()
    return Projected(means2d, splats, radii.int(), ids)


def _ellipses(
    means: Float[Tensor, "m 3"],
    quats: Float[Tensor, "m 4"],
    scales: Float[Tensor, "m 3"],
    opacities: Float[Tensor, "m"],
    coefficients: Float[Tensor, "m k 3"],
    viewmat: Float[Tensor, "4 4"],
    frame: Frame,
) -> tuple[Float[Tensor, "m 2"], Float[Tensor, "m 11"], Float[Tensor, "m"]]:
    """Means, splats and radii, without a look at whether they are in the picture."""
    fx, fy, cx, cy = frame.intrinsics
    x, y, z = (means @ viewmat[:3, :3].T + viewmat[:3, 3]).unbind(-1)
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)
    left, right, top, bottom = frame.limits()
    tx, ty = z * (x / z).clamp(left, right), z * (y / z).clamp(top, bottom)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * tx / z**2, zero, fy / z, -fy * ty / z**2], -1).unflatten(-1, (2, 3))
    first, second = (jacobian @ (viewmat[:3, :3] @ covariance.square_roots(quats, scales))).unbind(-2)
    xx, xy, yy = (first * first).sum(-1), (first * second).sum(-1), (second * second).sum(-1)
    # Lagrange's identity: xx yy − xy² would cancel for thin ellipses.
    sharp = torch.linalg.cross(first, second).square().sum(-1)
    determinant = sharp + frame.eps2d * (xx + yy) + frame.eps2d**2
    xx, yy = xx + frame.eps2d, yy + frame.eps2d
    conics = torch.stack([yy, -xy, xx], -1) / determinant[:, None]
    if frame.antialiased:  # Mip-Splatting (arXiv 2311.16493), the 2D filter: an ellipse keeps its mass
        opacities = opacities * (sharp / determinant).clamp(min=LEAST_COMPENSATION**2).sqrt()
    with torch.no_grad():
        half = 0.5 * (xx + yy)
        radii = (RADIUS * (half + (half * half - determinant).clamp(min=LEAST_SPREAD).sqrt()).sqrt()).ceil()
    directions = means - camera_center(viewmat)
    normals = covariance.shortest_axes(quats, scales)
    away = (normals * directions).detach().sum(-1, keepdim=True) > 0
    normals = torch.where(away, -normals, normals)
    colors = harmonics.colors(directions, coefficients, frame.sh_degree)
    return means2d, torch.cat([conics, opacities[:, None], colors, z[:, None], normals], -1), radii
