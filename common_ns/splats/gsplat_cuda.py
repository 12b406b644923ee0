"""Gaussian splatting by gsplat's kernels (arXiv 2409.06765) on CUDA GPUs.

gsplat compiles them when they are first used, for which it needs the CUDA toolkit and a compiler.
"""

from __future__ import annotations

import importlib
import math
from subprocess import CalledProcessError
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common_ns.splats import covariance, harmonics
from common_ns.splats.blending import MOST_ALPHA, Pictures
from common_ns.splats.projection import Frame, camera_center, finite


def refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why these Gaussians cannot be drawn here, or None if they can; compiles the kernels, at the first time."""
    if device.type != "cuda":
        return f"gsplat computes on CUDA GPUs, and the Gaussians are on {device.type}."
    if dtype != torch.float32:
        return f"gsplat computes in float32, and the Gaussians are in {dtype}."
    return _missing_kernels()


def _missing_kernels() -> str | None:
    """Why there are no compiled kernels, or None if there are."""
    try:
        kernels = importlib.import_module("gsplat.cuda._backend")._C
    except (ImportError, OSError, RuntimeError, CalledProcessError) as error:
        return f"gsplat's kernels cannot be compiled ({str(error).strip().partition(chr(10))[0]})."
    return None if kernels is not None else "gsplat's kernels are not compiled, for there is no CUDA toolkit (nvcc)."


def draw(
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    scales: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"],
    coefficients: Float[Tensor, "n k 3"],
    viewmat: Float[Tensor, "4 4"],
    K: Float[Tensor, "3 3"],
    frame: Frame,
    background: Float[Tensor, "3"] | None,
    geometry: bool,
) -> tuple[Pictures, dict[str, Any]]:
    """Draw Gaussians.

    Args: as for `common_ns.splats.rasterize`.
    Returns: pictures, and gsplat's own "packed" information on what is seen.
    """
    everything = (means, quats, scales, opacities, coefficients)
    usable = finite(*everything) & (quats.detach().norm(dim=-1) > 0)
    kept = None if bool(usable.all()) else torch.nonzero(usable)[:, 0]
    if kept is not None:
        everything = tuple(value[kept] for value in everything)
    means, quats, scales, opacities, coefficients = everything
    values, degree = coefficients, frame.sh_degree
    if geometry:  # more than colors is blended, and gsplat evaluates harmonics of colors only
        directions = means - camera_center(viewmat)
        normals = covariance.shortest_axes(quats, scales)
        away = (normals * directions).detach().sum(-1, keepdim=True) > 0
        colors = harmonics.colors(directions, coefficients, degree)
        values, degree = torch.cat([colors, torch.where(away, -normals, normals)], -1), None
    behind = None
    if background is not None:
        behind = torch.cat([background, background.new_zeros(3 if geometry else 0)])[None]
    library = importlib.import_module("gsplat")
    blended, accumulation, info = library.rasterization(
        means,
        quats,
        scales,
        opacities,
        values,
        viewmat[None],
        K[None],
        frame.width,
        frame.height,
        near_plane=frame.near,
        far_plane=frame.far,
        eps2d=frame.eps2d,
        sh_degree=degree,
        packed=True,
        backgrounds=behind,
        render_mode="RGB+ED" if geometry else "RGB",
        rasterize_mode="antialiased" if frame.antialiased else "classic",
    )
    blended, accumulation = blended[0], accumulation[0]
    median = _median_depth(library, info) if geometry and not torch.is_grad_enabled() else None
    if kept is not None:
        info["gaussian_ids"] = kept[info["gaussian_ids"]]
    if not geometry:
        return Pictures(blended, accumulation, None, None, None), info
    return Pictures(blended[..., :3], accumulation, blended[..., 6:], median, blended[..., 3:6]), info


def _median_depth(library: Any, info: dict[str, Any]) -> Float[Tensor, "h w 1"]:
    """Median depth, for which gsplat has no kernel, of the pairs of Gaussians and pixels, for which it has one."""
    width, height, size = info["width"], info["height"], info["tile_size"]
    means2d, conics, opacities = (info[key].detach() for key in ("means2d", "conics", "opacities"))
    batches = -(-len(info["flatten_ids"]) // size**2)  # no tile has more than all have
    ids, pixels, _ = library.rasterize_to_indices_in_range(
        0,
        batches,
        means2d.new_ones(1, height, width),
        means2d[None],
        conics[None],
        opacities[None],
        width,
        height,
        size,
        info["isect_offsets"],
        info["flatten_ids"],
    )
    x, y = pixels % width + 0.5, torch.div(pixels, width, rounding_mode="floor") + 0.5
    dx, dy = means2d[ids, 0] - x, means2d[ids, 1] - y
    xx, xy, yy = conics[ids].unbind(-1)
    exponents = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
    alphas = (opacities[ids] * torch.exp(-exponents)).clamp(max=MOST_ALPHA)
    median = median_of_pairs(pixels, alphas, info["depths"].detach()[ids], width * height)
    return median.view(height, width, 1)


def median_of_pairs(
    pixels: Int[Tensor, "p"], alphas: Float[Tensor, "p"], depths: Float[Tensor, "p"], count: int
) -> Float[Tensor, "count"]:
    """Depth at which each pixel's transmittance falls to ½, 0 where it stays above.

    Args:
        pixels: of each pair; a pixel's pairs follow each other from front to back.
        alphas, depths: of the pair's Gaussian there.
        count: number of pixels.
    """
    result = depths.new_zeros(count)
    if len(pixels) == 0:
        return result
    logs = torch.log1p(-alphas.double())
    after = logs.cumsum(0)
    first = torch.ones_like(pixels, dtype=torch.bool)
    first[1:] = pixels[1:] != pixels[:-1]
    number = first.cumsum(0) - 1
    after = after - (after - logs)[first][number]
    crossed = (after <= math.log(0.5)) & (after - logs > math.log(0.5))
    result[pixels[crossed]] = depths[crossed]
    return result
