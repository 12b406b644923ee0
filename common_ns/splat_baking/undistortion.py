"""Photographs as a pinhole camera would have taken them, with a mask of the pixels that the lens shows.

The pinhole camera has the focal lengths, principal point and size of the photograph's own camera. Each of its pixels is
looked up in the photograph where nerfstudio's camera model sees the same direction: a point (x, y) of the plane at
distance 1 is moved to

    d (x, y) + (2 p₁ x y + p₂ (ρ + 2 x²), 2 p₂ x y + p₁ (ρ + 2 y²))
    with ρ = x² + y² and d = 1 + k₁ ρ + k₂ ρ² + k₃ ρ³ + k₄ ρ⁴

(Brown's model); of a fisheye the point is first moved to the distance θ, its angle from the axis, from the middle.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def distorted(points: Float[Tensor, "*n 2"], parameters: Float[Tensor, "6"]) -> Float[Tensor, "*n 2"]:
    """Where a lens shows points of the plane at distance 1.

    Args:
        points: x to the right, y downward.
        parameters: k1, k2, k3, k4, p1, p2.
    """
    k1, k2, k3, k4, p1, p2 = parameters
    x, y = points.unbind(-1)
    square = x * x + y * y
    radial = 1.0 + square * (k1 + square * (k2 + square * (k3 + square * k4)))
    across = 2.0 * p1 * x * y + p2 * (square + 2.0 * x * x)
    down = 2.0 * p2 * x * y + p1 * (square + 2.0 * y * y)
    return torch.stack([radial * x + across, radial * y + down], dim=-1)


def last_radius(parameters: Float[Tensor, "6"], most: float, steps: int = 4096) -> float:
    """The distance from the middle up to which farther points are shown farther out; beyond it, polynomials that were
    fitted to a photograph's own field of view fold back into it.

    Args:
        parameters: k1, k2, k3, k4, p1, p2.
        most: largest distance of interest.
        steps: at which the derivative is looked at.
    """
    square = torch.linspace(0.0, most, steps, dtype=torch.float64) ** 2
    k1, k2, k3, k4 = parameters[:4].double()
    slope = 1.0 + square * (3.0 * k1 + square * (5.0 * k2 + square * (7.0 * k3 + square * 9.0 * k4)))
    folded = torch.nonzero(slope <= 0.0)
    return most if len(folded) == 0 else float(square[max(int(folded[0]) - 1, 0)].sqrt())


def source_pixels(
    intrinsics: tuple[float, float, float, float],
    size: tuple[int, int],
    parameters: Float[Tensor, "6"] | None,
    fisheye: bool = False,
    pinhole: tuple[tuple[float, float, float, float], tuple[int, int]] | None = None,
) -> tuple[Float[Tensor, "h w 2"], Bool[Tensor, "h w"]]:
    """Where in a photograph each pixel of the pinhole camera is.

    Args:
        intrinsics: fx, fy, cx, cy in pixels, the first pixel's center at (½, ½).
        size: width and height.
        parameters: k1, k2, k3, k4, p1, p2; None: no distortion.
        fisheye: whether the photograph is an equidistant fisheye's.
        pinhole: intrinsics and size of the pinhole camera; None: those of the photograph.
    Returns: (x, y) in pixels, and which pixels the photograph shows. Where it is not shown, the place means nothing.
    """
    (fx, fy, cx, cy), (width, height) = (intrinsics, size) if pinhole is None else pinhole
    x = (torch.arange(width, dtype=torch.float64) + 0.5 - cx) / fx
    y = (torch.arange(height, dtype=torch.float64) + 0.5 - cy) / fy
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    if fisheye:
        radius = points.norm(dim=-1, keepdim=True)
        points = points * (torch.atan(radius) / radius.clamp_min(1e-12))
    shown = torch.ones(height, width, dtype=torch.bool)
    if parameters is not None and bool((parameters != 0).any()):
        parameters, radius = parameters.double().cpu(), points.norm(dim=-1)
        shown = radius <= last_radius(parameters, float(radius.max()))
        points = distorted(points, parameters)
    pixels = points * points.new_tensor(intrinsics[:2]) + points.new_tensor(intrinsics[2:])
    # Colors between the centers of the outermost pixels and the edge are known well enough.
    inside = (pixels > -1e-6) & (pixels < pixels.new_tensor(size) + 1e-6)
    return pixels, shown & inside.all(dim=-1)


def looked_up(image: Float[Tensor, "h w c"], pixels: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n c"]:
    """Bilinear colors of an image.

    Args:
        image: of any number of channels.
        pixels: (x, y), the first pixel's center at (½, ½); outside of the centers the nearest counts.
    """
    height, width = image.shape[:2]
    grid = 2.0 * pixels / pixels.new_tensor([width, height]) - 1.0
    found = torch.nn.functional.grid_sample(
        image.movedim(-1, 0)[None].double(),
        grid.reshape(1, 1, -1, 2).double(),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return found[0, :, 0].T.reshape(*pixels.shape[:-1], -1).to(image)
