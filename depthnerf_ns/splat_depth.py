"""What depth maps say of drawn Gaussians: losses on pictures of depth and normals, and the first Gaussians.

Depth of a picture is ray distance in scene units, as in batches (`DepthDataset`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import huber_loss

from depthnerf_ns.depth_losses import has_depth

SplatDepthLoss = Literal["huber", "l1", "log-l1", "none"]


def ray_per_depth(
    intrinsics: tuple[float, float, float, float], height: int, width: int
) -> Float[Tensor, "height width 1"]:
    """Ray distance for each unit of depth along the optical axis, of a pinhole camera's pixels.

    Args:
        intrinsics: fx, fy, cx, cy in pixels.
        height, width: of the picture.
    """
    fx, fy, cx, cy = intrinsics
    x = (torch.arange(width) + 0.5 - cx) / fx
    y = (torch.arange(height) + 0.5 - cy) / fy
    return (1.0 + y[:, None].square() + x[None].square()).sqrt()[..., None]


def depth_loss(
    drawn: Float[Tensor, "h w 1"],
    measured: Float[Tensor, "h w 1"],
    epsilon: float | Float[Tensor, "h w 1"],
    kind: SplatDepthLoss,
) -> Float[Tensor, ""]:
    """Mean over the pixels with a measured depth of a loss on e = |drawn − measured| / ε; 0 where none has one.

    Args:
        drawn: mean distance of what a pixel shows; 0 where that is nothing, which no loss can move.
        measured: 0 or not finite: none.
        epsilon: how well depth is known, in scene units.
        kind: l1: e; huber: e² / 2 up to 1 and e − ½ above (Huber 1964); log-l1: log(1 + e), which errors between
            surfaces move less (DN-Splatter, arXiv 2403.17822, section 3.2); none: 0.
    """
    valid = has_depth(measured) & (drawn.detach() > 0)
    if kind == "none" or not bool(valid.any()):
        return (drawn * 0.0).sum()
    tolerance = epsilon[valid] if isinstance(epsilon, Tensor) else epsilon
    error = (drawn[valid] - measured[valid]) / tolerance
    if kind == "huber":
        return huber_loss(error, torch.zeros_like(error))
    return error.abs().mean() if kind == "l1" else error.abs().log1p().mean()


def normal_loss(drawn: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"]) -> Float[Tensor, ""]:
    """Mean over the pixels with a normal of one minus the cosine; 0 where none has one.

    Args:
        drawn: sums by weight of unit normals, in the scene's axes.
        target: unit normals; 0: none.
    """
    valid = (target != 0).any(dim=-1) & (drawn.detach().norm(dim=-1) > 0.1)
    if not bool(valid.any()):
        return (drawn * 0.0).sum()
    cosine = torch.nn.functional.cosine_similarity(drawn[valid], target[valid], dim=-1)
    return (1.0 - cosine).mean()


class View(NamedTuple):
    """A photograph with depth, of a pinhole camera."""

    image: Float[Tensor, "h w 3"]
    """In [0, 1]."""
    depth: Float[Tensor, "h w 1"]
    """Ray distance in scene units; 0 or not finite: none."""
    valid: Bool[Tensor, "h w 1"] | None
    """The pixels that count; None: all."""
    pose: Float[Tensor, "3 4"]
    """Camera to world, in nerfstudio's axes."""
    intrinsics: tuple[float, float, float, float]
    """fx, fy, cx, cy in pixels."""


class Points(NamedTuple):
    """Where photographs with depth see a surface."""

    places: Float[Tensor, "n 3"]
    """In scene units."""
    colors: Float[Tensor, "n 3"]
    """In [0, 1]."""
    footprints: Float[Tensor, "n"]
    """Side of the pixel that each was seen in, in scene units."""


def points_of(views: Iterable[View], number: int, generator: torch.Generator) -> Points:
    """So many points, or as many as there are pixels with depth: drawn from all pixels alike.

    Args:
        views: looked through once; a random key for each pixel keeps those with the smallest.
        number: of points, at most.
        generator: of random numbers.
    """
    found = torch.zeros(0, 8, dtype=torch.float64)
    for view in views:
        height, width = view.depth.shape[:2]
        distance = view.depth[..., 0].double().cpu()
        known = has_depth(distance)
        if view.valid is not None:
            known &= view.valid[..., 0].cpu()
        row, column = torch.nonzero(known, as_tuple=True)
        keys = torch.rand(len(row), generator=generator, dtype=torch.float64)
        kept = keys.argsort()[:number]
        row, column, keys = row[kept], column[kept], keys[kept]
        fx, fy, cx, cy = view.intrinsics
        depth = distance[row, column] / ray_per_depth(view.intrinsics, height, width)[row, column, 0]
        local = torch.stack([(column + 0.5 - cx) / fx * depth, (cy - row - 0.5) / fy * depth, -depth], dim=-1)
        pose = view.pose.double().cpu()
        places = local @ pose[:3, :3].T + pose[:3, 3]
        colors = view.image.cpu()[row, column].double()
        rows = torch.cat([keys[:, None], places, colors, (depth / max(fx, fy))[:, None]], dim=1)
        found = torch.cat([found, rows])
        found = found[found[:, 0].argsort()[:number]]
    found = found.float()
    return Points(found[:, 1:4], found[:, 4:7], found[:, 7])
