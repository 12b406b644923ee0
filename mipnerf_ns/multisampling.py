"""A few isotropic Gaussians that stand for a conical frustum, for fields that can only be asked at points.

Features of grids have no closed form under a Gaussian that is long in one direction. They are read at points within the
frustum instead, each with the standard deviation of a small ball around it (Zip-NeRF, arXiv 2304.06706, section
"Spatial Anti-Aliasing", paragraph "Multisampling").

The points lie on a helix about the ray. What of the frustum's moments they keep, beside their mean, which is exact:

======  ==========================================  ============================================================
points  kept exactly                                not kept
======  ==========================================  ============================================================
6       variance along the ray; variance across     the latter's evenness: directions across differ in relative
        it, averaged over the directions across     order (t1 − t0) / (t0 + t1); along and across are coupled in
                                                    the square of that
3       variance along the ray and in every         points lie in a plane, so along and across are coupled
        direction across it
1       none: the point is the mean; its standard
        deviation is that of the whole frustum
======  ==========================================  ============================================================

A turn and a mirroring drawn for each interval make the covariance exact in expectation, for 3 points and for 6.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common_ns.rays.dispatch import ray_kernels

NumPoints = Literal[1, 3, 6]

STD_SCALE = 0.5
"""Standard deviation of each of several points, over its distance from the ray (the authors' setting)."""

# Squares of distances below this are nothing; without it, frustums at the camera divide by 0, forward or backward.
_TINY = 1e-30


class _Helix(NamedTuple):
    """Angles of the points in order along the ray, in turns."""

    angles: tuple[float, ...]
    """In intervals of even number."""
    odd_turn: float
    """What those of odd number are turned by where nothing is drawn, so that neighbors complement each other."""
    odd_mirrored: bool
    """Whether their order is also reversed there."""


_HELICES: dict[int, _Helix] = {
    # Steps of 120°, twice around; the second round is the mirror image of the first, so that the mean stays on the ray.
    6: _Helix(tuple(sixth / 6 for sixth in (0, 2, 4, 3, 5, 1)), 1 / 12, True),
    # Opposite triangles: their couplings of along with across cancel.
    3: _Helix((0.0, 1 / 3, 2 / 3), 1 / 2, False),
}


class Multisamples(NamedTuple):
    """Points within conical frustums."""

    points: Float[Tensor, "*r s k 3"]
    """Positions in scene units."""
    std: Float[Tensor, "*r s k"]
    """Standard deviation of each one's isotropic Gaussian, in scene units."""


def multisamples(
    t0: Float[Tensor, "*r s"],
    t1: Float[Tensor, "*r s"],
    origins: Float[Tensor, "*r 3"],
    directions: Float[Tensor, "*r 3"],
    radius: Float[Tensor, "*r 1"],
    num_points: NumPoints = 6,
    uniforms: Float[Tensor, "*r s 2"] | None = None,
    std_scale: float = STD_SCALE,
) -> Multisamples:
    """Points that stand for conical frustums, and their extent.

    Args:
        t0, t1: ray distances of the intervals' ends, in units of |direction|, the intervals of a ray in order.
        origins, directions: of the rays.
        radius: cone radius in scene units at distance 1, as `common_ns.rays.cones.pixel_radius` gives it: the authors'
            base radius is the same 2 / √12 of a pixel's side.
        num_points: points in each frustum, see the module.
        uniforms: random numbers in [0, 1) for training: each interval's helix is turned by the first, in turns, and
            mirrored where the second is below ½. None: every other interval's is turned and mirrored.
        std_scale: standard deviation of each point, over its distance from the ray; not used with one point.
    Returns: points and standard deviations.
    Raises: ValueError for another number of points.
    Source: Zip-NeRF, section "Spatial Anti-Aliasing"; moments as mip-NeRF's equation 7.
    """
    if num_points != 1 and num_points not in _HELICES:
        raise ValueError(f"Multisamples: num_points is {num_points}; it must be 1, 3 or 6.")
    mean, std = _moments_along(t0, t1)
    # A uniform disc of radius 1 has the mean square distance ½ from its center, and the variance ¼ in each direction.
    mean_square = mean * mean + std * std
    if num_points == 1:
        length2 = (directions * directions).sum(-1, keepdim=True)
        variance = (std * std * length2 + 0.5 * radius * radius * mean_square) / 3.0
        points = torch.addcmul(origins[..., None, :], directions[..., None, :], mean[..., None])
        return Multisamples(points[..., None, :], variance.clamp_min(_TINY).sqrt()[..., None])
    # Points and coordinates come first in memory, so that loops run over the intervals of all rays, not over three.
    places = _first(_places(num_points), t0)
    distance = torch.addcmul(mean, std, places)
    # Three discs that grow with the distance would have their mean beside the ray.
    size = distance if num_points == 6 else mean_square.clamp_min(_TINY).sqrt().expand_as(distance)
    disc = math.sqrt(0.5) * radius * size
    angle = 2.0 * math.pi * _angles(_HELICES[num_points], t0, uniforms)
    on_first, on_second = disc * angle.cos(), disc * angle.sin()
    axes = zip(origins.unbind(-1), directions.unbind(-1), *(axis.unbind(-1) for axis in perpendicular(directions)))
    points = torch.stack(
        [
            torch.addcmul(
                torch.addcmul(torch.addcmul(o[..., None], d[..., None], distance), first[..., None], on_first),
                second[..., None],
                on_second,
            )
            for o, d, first, second in axes
        ]
    )
    return Multisamples(points.movedim((0, 1), (-1, -2)), (std_scale * disc).movedim(0, -1))


def grid_multisamples(
    t0: Float[Tensor, "r s"],
    t1: Float[Tensor, "r s"],
    origins: Float[Tensor, "r 3"],
    directions: Float[Tensor, "r 3"],
    radius: Float[Tensor, "r 1"],
    num_points: NumPoints,
    uniforms: Float[Tensor, "r s 2"] | None,
    contracted: bool,
    std_scale: float = STD_SCALE,
) -> Multisamples | None:
    """The points of `multisamples`, contracted by `common_ns.rays.contraction.contract_isotropic` if asked for, in
    coordinates from 0 to 1 of a grid about the origin whose side is 4 if contracted, else 2: in one loop of numba's.

    Args: as `multisamples`.
    Returns: points and standard deviations, their memory ordered as `multisamples` orders it; None where there is no
        such loop: on other devices, for other numbers than float32, where a gradient is needed, and without numba.
    """
    kernels = ray_kernels(t0, t1, origins, directions, radius)
    if kernels is None:
        return None
    helix = np.zeros((1, 3), np.float32)
    turns = np.zeros((1, 1, 2), np.float32)
    if num_points > 1:
        angles = 2.0 * math.pi * np.array(_HELICES[num_points].angles)
        helix = np.stack([np.cos(angles), np.sin(angles), _places(num_points).numpy()], axis=-1).astype(np.float32)
        turns = (_fixed_turns(_HELICES[num_points], t0) if uniforms is None else uniforms).contiguous().numpy()
    rays = torch.cat([origins, directions, *perpendicular(directions), radius], dim=-1).detach().numpy()
    out = np.empty((4, num_points, *t0.shape), np.float32)
    starts, ends = t0.detach().contiguous().numpy(), t1.detach().contiguous().numpy()
    kernels.place_points(starts, ends, rays, turns, helix, num_points == 3, std_scale, contracted, out)
    found = torch.from_numpy(out)
    return Multisamples(found[:3].permute(2, 3, 1, 0), found[3].permute(1, 2, 0))


def perpendicular(directions: Float[Tensor, "*r 3"]) -> tuple[Float[Tensor, "*r 3"], Float[Tensor, "*r 3"]]:
    """Two unit vectors perpendicular to each direction and to each other: the first also to the z axis."""
    x, y, _ = directions.unbind(-1)
    first = torch.stack([y, -x, torch.zeros_like(x)], dim=-1)
    along_z = (first * first).sum(-1, keepdim=True) <= 1e-14 * (directions * directions).sum(-1, keepdim=True)
    first = torch.where(along_z, first.new_tensor([1.0, 0.0, 0.0]), first)
    first = torch.nn.functional.normalize(first, dim=-1)
    return first, torch.nn.functional.normalize(torch.linalg.cross(directions, first), dim=-1)


def _moments_along(
    t0: Float[Tensor, "*r s"], t1: Float[Tensor, "*r s"]
) -> tuple[Float[Tensor, "*r s"], Float[Tensor, "*r s"]]:
    """Mean and standard deviation of a frustum along its ray: those of `common_ns.rays.cones.frustum_moments`, with the
    terms of the variance collected into squares, whose root is then well-behaved."""
    center, half = (t0 + t1) / 2, (t1 - t0) / 2
    denominator = (3 * center * center + half * half).clamp_min(_TINY)
    near, far = half * half / denominator, center * center / denominator  # near + 3 far = 1
    # The sum of squares is at least 1/5, so that the bound changes nothing but empty intervals at the camera, where the
    # root would have no gradient.
    std = half * (0.6 * ((near - far).square() + 4 * far * far).clamp_min(0.2)).sqrt()
    return center + 2 * center * near, std


def _angles(
    helix: _Helix, t0: Float[Tensor, "*r s"], uniforms: Float[Tensor, "*r s 2"] | None
) -> Float[Tensor, "k *r s"]:
    """Angles of the points about the ray, in turns."""
    angles = t0.new_tensor(helix.angles)
    if uniforms is None:
        uniforms = _fixed_turns(helix, t0)
    turn, mirrored = uniforms[..., 0], uniforms[..., 1] < 0.5
    return torch.where(mirrored, _first(angles.flip(0), t0), _first(angles, t0)) + turn


def _fixed_turns(helix: _Helix, t0: Float[Tensor, "*r s"]) -> Float[Tensor, "*r s 2"]:
    """Numbers in place of random ones: every other interval's points are turned, and mirrored."""
    odd = (torch.arange(t0.shape[-1], device=t0.device) % 2).to(t0)
    turns = torch.stack([helix.odd_turn * odd, 1.0 - odd * helix.odd_mirrored], dim=-1)
    return turns.expand(*t0.shape, 2)


def _places(num_points: int) -> Float[Tensor, "k"]:
    """Places of the points along the ray, in standard deviations from the mean."""
    places = torch.linspace(-1.0, 1.0, num_points, dtype=torch.float64)
    return places / places.square().mean().sqrt()


def _first(values: Float[Tensor, "k"], like: Float[Tensor, "*r s"]) -> Float[Tensor, "k ..."]:
    """Numbers of the points, to be combined with numbers of the intervals: a first dimension before theirs."""
    return values.to(like).reshape(-1, *(1,) * like.ndim)
