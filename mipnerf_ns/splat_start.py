"""The Gaussians that training begins with: at known points, or at random ones."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common_ns.splat_baking import bake, shapes
from common_ns.splats.harmonics import C0, count

FIRST_OPACITY, SURE_OPACITY = 0.1, 0.5
"""As in the authors' code; and where points are many and as wide as pixels."""
MOST_PIXELS = 1.5
"""Largest standard deviation at the start, in pixels, where it is known how large they are."""
LEAST_SPACING = 1e-5
"""Least standard deviation at the start as a fraction of the middle one: points may lie in the same place."""


def spacings(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """Mean distance of each point to its nearest three others, in scene units; 1 for a single point."""
    if len(points) < 2:
        return points.new_ones(len(points))
    found = torch.from_numpy(shapes.spacings(points.detach().double().cpu().numpy())).to(points)
    return found.clamp_min(max(LEAST_SPACING * float(found.median()), 1e-9))


def gaussians_at(
    points: Float[Tensor, "n 3"],
    colors: Float[Tensor, "n 3"],
    sh_degree: int,
    footprints: Float[Tensor, "n"] | None = None,
) -> dict[str, Float[Tensor, "n ..."]]:
    """Balls at points, as wide as the points are apart, in the names and forms that nerfstudio's splatfacto trains.

    Args:
        points: in scene units.
        colors: in [0, 1].
        sh_degree: of the harmonics that colors get; those above degree 0 begin at 0.
        footprints: side in scene units of the pixel that each was seen in, which bounds its size; None: unknown.
    Returns: means [n 3]; scales [n 3], logarithms of standard deviations; quats [n 4], (w, x, y, z); features_dc [n 3]
        and features_rest [n k−1 3], coefficients of harmonics; opacities [n 1], logits.
    """
    quats = points.new_zeros(len(points), 4)
    quats[:, 0] = 1.0
    deviations = spacings(points)
    if footprints is not None:
        deviations = deviations.minimum(MOST_PIXELS * footprints)
    opacity = FIRST_OPACITY if footprints is None else SURE_OPACITY
    return {
        "means": points.clone(),
        "scales": deviations.log()[:, None].repeat(1, 3),
        "quats": quats,
        "features_dc": (colors - 0.5) / C0,
        "features_rest": points.new_zeros(len(points), count(sh_degree) - 1, 3),
        "opacities": torch.logit(points.new_full((len(points), 1), opacity)),
    }


def random_points_in_box(
    aabb: Float[Tensor, "2 3"], number: int, generator: torch.Generator
) -> Float[Tensor, "number 3"]:
    """Points spread evenly over a box given by its lower and upper corner."""
    return aabb[0] + torch.rand(number, 3, generator=generator) * (aabb[1] - aabb[0])


def random_points_in_views(
    camera_to_worlds: Float[Tensor, "c 3 4"],
    intrinsics: Float[Tensor, "c 4"],
    sizes: Float[Tensor, "c 2"],
    near: float,
    far: float,
    number: int,
    generator: torch.Generator,
) -> Float[Tensor, "number 3"]:
    """Points that cameras see: at random pixels of random cameras, evenly in the inverse of depth.

    Args:
        camera_to_worlds: poses in nerfstudio's axes (looking along −z with y upward).
        intrinsics: fx, fy, cx, cy in pixels.
        sizes: width and height in pixels.
        near, far: least and greatest depth along the optical axis, in scene units.
        number: of points.
        generator: of random numbers.
    """
    camera = torch.randint(len(sizes), (number,), generator=generator)
    x, y, inverse = torch.rand(3, number, generator=generator)
    fx, fy, cx, cy = intrinsics[camera].unbind(-1)
    width, height = sizes[camera].unbind(-1)
    depth = 1.0 / (inverse / near + (1.0 - inverse) / far)
    local = torch.stack([(x * width - cx) / fx * depth, (cy - y * height) / fy * depth, -depth], dim=-1)
    poses = camera_to_worlds[camera]
    return (poses[:, :3, :3] @ local[..., None])[..., 0] + poses[:, :3, 3]


def camera_extent(camera_to_worlds: Float[Tensor, "c 3 4"]) -> float:
    """1.1 times the greatest distance of a camera from the mean of all, in scene units: what 3D Gaussian Splatting's
    code measures the scene by. 1 if all are in one place."""
    extent = bake.camera_extent(camera_to_worlds)
    return extent if extent > 0 and np.isfinite(extent) else 1.0
