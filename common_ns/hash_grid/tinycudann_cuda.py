"""The hash grid in NVIDIA's tiny-cuda-nn, where it is installed. First derivatives only.

It computes the same function of the same table: hashed levels are laid out alike, dense ones are rearranged. Two things
differ. It computes in half precision unless it was built without, and on the far faces of dense levels, where a
position would need a vertex that it does not have, it takes another row: features differ within half a cell of them.
"""

from __future__ import annotations

import functools
import importlib
import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common_ns.hash_grid.levels import GridShape, level_weight


def refusal(shape: GridShape, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this grid cannot be computed here, or None if it can."""
    if device.type != "cuda":
        return f"tinycudann computes on CUDA GPUs, and the grid is on {device.type}."
    if shape.features not in (1, 2, 4, 8):
        return f"tinycudann takes 1, 2, 4 or 8 features per level, not {shape.features}."
    try:
        _library()
    except OSError as error:  # tinycudann's own: it was built for another kind of GPU
        return f"tinycudann cannot be loaded ({error})."
    return None


def _library() -> Any:
    return importlib.import_module("tinycudann")


@functools.lru_cache(maxsize=4)
def _encoding(shape: GridShape, device: torch.device) -> Any:
    """tinycudann's module; its own parameters are not used."""
    first, last, count = shape.levels[0], shape.levels[-1], len(shape.levels)
    base = first.scale + 1
    growth = ((last.scale + 1) / base) ** (1 / max(count - 1, 1))
    config = {
        "otype": "HashGrid",
        "n_levels": count,
        "n_features_per_level": shape.features,
        # Of hashed levels this is the size. If there are none, so large that tinycudann hashes none either.
        "log2_hashmap_size": round(math.log2(last.size)) if last.hashed else 30,
        "base_resolution": round(base),
        "per_level_scale": growth,
        "interpolation": "Smoothstep" if shape.smooth else "Linear",
    }
    with torch.cuda.device_of(torch.empty(0, device=device)):
        return _library().Encoding(3, config, dtype=torch.float32)


@functools.lru_cache(maxsize=4)
def _dense_rows(shape: GridShape, device: torch.device) -> Int[Tensor, "D"]:
    """For each row of tinycudann's dense levels, which of ours it is.

    Their grids have ⌈scale⌉ + 1 vertices along an axis, and their number of rows is a multiple of 8.
    """
    found = [torch.empty(0, dtype=torch.int64)]
    for level in shape.levels:
        if not level.hashed:
            side = math.ceil(level.scale) + 1
            number = torch.arange(-(-(side**3) // 8) * 8)
            x, y, z = number % side, number // side % side, number // side**2
            exists = z < level.vertices
            row = x + level.vertices * (y + level.vertices * z)
            found.append(level.offset + torch.where(exists, row, 0))
    return torch.cat(found).to(device)


def parameters(shape: GridShape, table: Float[Tensor, "T F"]) -> Float[Tensor, "P"]:
    """The table in tinycudann's order."""
    first_hashed = next((level.offset for level in shape.levels if level.hashed), shape.rows)
    rows = torch.cat([table[_dense_rows(shape, table.device)], table[first_hashed:]])
    return rows.flatten()


class _Once(torch.autograd.Function):
    """tinycudann's encoding, with a refusal where it has no derivatives."""

    @staticmethod
    def forward(ctx: Any, params: Tensor, x: Tensor, encoding: Any) -> Tensor:
        with torch.enable_grad():
            ctx.inputs = tuple(t.detach().requires_grad_(n) for t, n in zip((params, x), ctx.needs_input_grad))
            ctx.result = torch.func.functional_call(encoding, {"params": ctx.inputs[0]}, (ctx.inputs[1],))
        return ctx.result.detach().float()

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "Hash grid 'tinycudann' has first derivatives only, and create_graph=True asks for second ones. "
                "Use implementation 'auto', 'triton' or 'torch'."
            )
        wanted = [t for t in ctx.inputs if t.requires_grad]
        found = iter(torch.autograd.grad(ctx.result, wanted, cotangents[0].to(ctx.result.dtype), retain_graph=True))
        return *(next(found) if t.requires_grad else None for t in ctx.inputs), None


def interpolate(
    shape: GridShape, table: Float[Tensor, "T F"], x: Float[Tensor, "n 3"], active_levels: float
) -> Float[Tensor, "n L*F"]:
    """Features of positions, once differentiable.

    Args: as for `reference.interpolate`. Levels that are not active take their time all the same.
    """
    x = x.nan_to_num(nan=0.0, posinf=1.0, neginf=0.0).clamp(0, 1)
    y: Any = _Once.apply(parameters(shape, table), x, _encoding(shape, x.device))
    if active_levels < len(shape.levels):
        weights = [level_weight(active_levels, level) for level in range(len(shape.levels))]
        y = y * torch.tensor(weights, device=y.device).repeat_interleave(shape.features)
    return y
