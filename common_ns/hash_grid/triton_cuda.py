"""The hash grid on CUDA GPUs, in Triton.

Programs take a block of points and one level, and all blocks of a level run before those of the next: its rows, 4 MB of
them with the paper's sizes, then stay in the GPU's cache. Gradients of the table are added atomically, so that their
last bits depend on the order in which programs run. For gradients of positions a program goes through the levels.
"""

# Compiled functions have no types that pyright could follow.
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import functools
import os
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from common_ns.hash_grid import reference
from common_ns.hash_grid.levels import PRIMES, GridShape, count_active, make_shape
from common_ns.hash_grid.weighting import mean_of_gaussians, weights_of_levels

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton emulates a GPU on the CPU, for tests."""

BLOCK, NUM_WARPS = 128, 4
"""Points of a program, one for each of its threads: eight rows are on their way at a time."""


def refusal(shape: GridShape, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this grid cannot be computed here, or None if it can."""
    if device.type != "cuda" and not (INTERPRETED and device.type == "cpu"):
        return f"triton computes on CUDA GPUs, and the grid is on {device.type}."
    if dtype != torch.float32:
        return f"triton computes in float32, and the table is in {dtype}."
    if shape.features not in (1, 2, 4, 8):
        return f"triton takes 1, 2, 4 or 8 features per level, not {shape.features}."
    return _failure(device)


@functools.cache
def _failure(device: torch.device) -> str | None:
    """Try a small grid: Triton needs a C compiler for what launches kernels, and a GPU that it knows."""
    try:
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller computes under
            deviation = _deviation(device)
    except Exception as error:  # whatever is missing, torch can do it
        return f"triton does not work here ({' '.join(f'{type(error).__name__}: {error}'.split())[:200]})."
    return None if deviation < 1e-4 else f"triton's results are off by {deviation:.2g} here."


def _deviation(device: torch.device) -> float:
    """Largest relative difference from torch in double precision."""
    shape = make_shape(4, 2, 8, 4, 16, smooth=True)
    generator = torch.Generator("cpu").manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float32, device="cpu")

    x = (torch.floor(15 * random(100, 3)) + 0.2 + 0.2 * random(100, 3)) / 15  # not at the border of a cell
    table, g, j, u = random(shape.rows, 2), random(100, 8), random(3, 100, 8), random(100, 3)
    exact = [t.double().requires_grad_() for t in (table, x)]
    y, jacobian = reference.interpolate_with_jacobian(shape, *exact, active_levels=3.5)
    along = (jacobian * u.double().t()[:, :, None]).sum(0)
    expected = (
        *(y, jacobian, along),
        *torch.autograd.grad([y, jacobian], exact, [g.double(), j.double()], retain_graph=True),
        *torch.autograd.grad(along, exact, g.double()),
    )
    std = 0.3 * random(50, 2)  # of 50 groups of two
    weights = weights_of_levels(shape, std.double())
    means = mean_of_gaussians(reference.interpolate(shape, exact[0], exact[1], 3.5).unflatten(0, (50, 2)), weights)
    by_table, by_x = torch.autograd.grad(means, exact, g[:50].double())
    expected = (*expected, means, weights.mean(1), by_table, by_x.unflatten(0, (50, 2)))
    table, x, g, j, u, std = (t.to(device) for t in (table, x, g, j, u, std))
    pairs = x.unflatten(0, (50, 2))
    means, weights = gaussian_features(shape, table, pairs, std, 3.5, with_weights=True)
    assert weights is not None
    found = (
        *interpolate_with_jacobian(shape, table, x, 3.5),
        interpolate(shape, table, x, 3.5, direction=u),
        table_gradient(shape, x, 3.5, g, j),
        position_gradient(shape, table, x, 3.5, g, j),
        table_gradient(shape, x, 3.5, g, direction=u),
        position_gradient(shape, table, x, 3.5, g, direction=u),
        means,
        weights,
        gaussian_table_gradient(shape, pairs, std, 3.5, g[:50]),
        gaussian_position_gradient(shape, table, pairs, std, 3.5, g[:50]),
    )
    return max(float((f.cpu() - e).abs().max() / e.abs().max()) for f, e in zip(found, expected))


class _Levels(NamedTuple):
    """The levels on the GPU."""

    scale: Float[Tensor, "L"]
    offset: Int[Tensor, "L"]
    numbers: Int[Tensor, "L 5"]
    """Last cell along an axis; what a step along y and along z adds to the number of a vertex, or its prime; mask of
    the hash; whether there is one. Unsigned, kept as int32."""


@functools.lru_cache(maxsize=16)
def _levels(shape: GridShape, device: torch.device) -> _Levels:
    numbers = []
    for level in shape.levels:
        steps = PRIMES[1:] if level.hashed else (level.vertices, level.vertices**2)
        numbers.append((level.vertices - 2, *steps, level.size - 1, int(level.hashed)))
    wrapped = [[n - 2**32 if n >= 2**31 else n for n in row] for row in numbers]
    return _Levels(
        scale=torch.tensor([level.scale for level in shape.levels], dtype=torch.float32, device=device),
        offset=torch.tensor([level.offset for level in shape.levels], dtype=torch.int64, device=device),
        numbers=torch.tensor(wrapped, dtype=torch.int32, device=device),
    )


@triton.jit
def _axis(p, scale, last_cell, SMOOTH: tl.constexpr):
    """Where coordinates are along an axis of a level.

    Returns: the cell; the weight of its upper corners, its derivative by the coordinate, and the second derivative.
    """
    limited = tl.where(p > 0.0, tl.where(p < 1.0, p, 1.0), 0.0)  # NaN becomes 0
    place = limited * scale + 0.5
    cell = tl.minimum(place.to(tl.int32), last_cell)
    weight = place - cell.to(tl.float32)
    slope = tl.where((p >= 0.0) & (p <= 1.0), scale, 0.0)
    curve = slope * 0.0
    if SMOOTH:
        curve = (6.0 - 12.0 * weight) * slope * slope
        slope = 6.0 * weight * (1.0 - weight) * slope
        weight = weight * weight * (3.0 - 2.0 * weight)
    return cell, weight, slope, curve


@triton.jit
def _cells(x_ptr, point, valid, level, scale_ptr, offset_ptr, numbers_ptr, SMOOTH: tl.constexpr):
    """Where points are in a level.

    Returns: weight, slope and curve along each axis; and what `_row` needs.
    """
    scale = tl.load(scale_ptr + level)
    last_cell = tl.load(numbers_ptr + level * 5)
    step_y = tl.load(numbers_ptr + level * 5 + 1).to(tl.uint32, bitcast=True)
    step_z = tl.load(numbers_ptr + level * 5 + 2).to(tl.uint32, bitcast=True)
    mask = tl.load(numbers_ptr + level * 5 + 3).to(tl.uint32, bitcast=True)
    hashed = tl.load(numbers_ptr + level * 5 + 4) != 0
    offset = tl.load(offset_ptr + level)
    place = x_ptr + point.to(tl.int64) * 3
    cx, wx, sx, qx = _axis(tl.load(place, mask=valid, other=0.0), scale, last_cell, SMOOTH)
    cy, wy, sy, qy = _axis(tl.load(place + 1, mask=valid, other=0.0), scale, last_cell, SMOOTH)
    cz, wz, sz, qz = _axis(tl.load(place + 2, mask=valid, other=0.0), scale, last_cell, SMOOTH)
    ux = cx.to(tl.uint32, bitcast=True)
    uy = cy.to(tl.uint32, bitcast=True) * step_y
    uz = cz.to(tl.uint32, bitcast=True) * step_z
    return (wx, wy, wz), (sx, sy, sz), (qx, qy, qz), (ux, uy, uz, step_y, step_z, mask, hashed, offset)


@triton.jit
def _row(vertex, CORNER: tl.constexpr):
    """Row of the table of a corner; x changes fastest."""
    x, y, z, step_y, step_z, mask, hashed, offset = vertex
    if CORNER & 1:
        x += 1
    if CORNER & 2:
        y += step_y
    if CORNER & 4:
        z += step_z
    row = tl.where(hashed, (x ^ y ^ z) & mask, x + y + z)
    return offset + row.to(tl.int64)


@triton.jit
def _of_corner(upper, CORNER: tl.constexpr, AXIS: tl.constexpr):
    """A corner's weight along an axis, from that of the upper corners."""
    return upper if (CORNER >> AXIS) & 1 else 1.0 - upper


@triton.jit
def _slope_of_corner(upper, CORNER: tl.constexpr, AXIS: tl.constexpr):
    """The same for derivatives of weights."""
    return upper if (CORNER >> AXIS) & 1 else -upper


@triton.jit
def _direction(u_ptr, point, valid):
    """Each point's direction, beside its features."""
    place = u_ptr + point.to(tl.int64) * 3
    ux = tl.load(place, mask=valid, other=0.0)
    uy = tl.load(place + 1, mask=valid, other=0.0)
    uz = tl.load(place + 2, mask=valid, other=0.0)
    return ux[:, None], uy[:, None], uz[:, None]


@triton.jit
def _level_weight(active_levels, level):
    """See `levels.level_weight`."""
    return tl.minimum(tl.maximum(active_levels - level, 0.0), 1.0)


@triton.jit(do_not_specialize=["n"])
def _interpolate_kernel(
    x_ptr,
    table_ptr,
    y_ptr,  # [n, WIDTH]
    j_ptr,  # [3, n, WIDTH], not written unless JACOBIAN
    u_ptr,  # [n, 3], not read unless DIRECTION
    scale_ptr,
    offset_ptr,
    numbers_ptr,
    active_levels,
    n,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
    SMOOTH: tl.constexpr,
    JACOBIAN: tl.constexpr,
    DIRECTION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    level = tl.program_id(1)
    valid = point < n
    feature = tl.arange(0, F)[None, :]
    weights, slopes, _, vertex = _cells(x_ptr, point, valid, level, scale_ptr, offset_ptr, numbers_ptr, SMOOTH)
    sx, sy, sz = slopes
    y = tl.zeros([BLOCK, F], tl.float32)
    jx = tl.zeros([BLOCK, F], tl.float32)
    jy = tl.zeros([BLOCK, F], tl.float32)
    jz = tl.zeros([BLOCK, F], tl.float32)
    for corner in tl.static_range(8):
        wx, wy, wz = (
            _of_corner(weights[0], corner, 0),
            _of_corner(weights[1], corner, 1),
            _of_corner(weights[2], corner, 2),
        )
        place = _row(vertex, corner)[:, None] * F + feature
        value = tl.load(table_ptr + place, mask=valid[:, None], other=0.0)
        y += (wx * wy * wz)[:, None] * value
        if JACOBIAN or DIRECTION:
            jx += (_slope_of_corner(sx, corner, 0) * wy * wz)[:, None] * value
            jy += (_slope_of_corner(sy, corner, 1) * wx * wz)[:, None] * value
            jz += (_slope_of_corner(sz, corner, 2) * wx * wy)[:, None] * value
    if DIRECTION:
        ux, uy, uz = _direction(u_ptr, point, valid)
        y = ux * jx + uy * jy + uz * jz
    weight = _level_weight(active_levels, level)
    target = point.to(tl.int64)[:, None] * WIDTH + level * F + feature
    tl.store(y_ptr + target, weight * y, mask=valid[:, None])
    if JACOBIAN:
        plane = n.to(tl.int64) * WIDTH
        tl.store(j_ptr + target, weight * jx, mask=valid[:, None])
        tl.store(j_ptr + plane + target, weight * jy, mask=valid[:, None])
        tl.store(j_ptr + 2 * plane + target, weight * jz, mask=valid[:, None])


@triton.jit(do_not_specialize=["n"])
def _table_gradient_kernel(
    x_ptr,
    gradient_ptr,
    y_ptr,  # derivatives by the features, [n, WIDTH]
    j_ptr,  # derivatives by the Jacobian, [3, n, WIDTH], not read unless JACOBIAN
    u_ptr,
    scale_ptr,
    offset_ptr,
    numbers_ptr,
    active_levels,
    n,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
    SMOOTH: tl.constexpr,
    JACOBIAN: tl.constexpr,
    DIRECTION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    level = tl.program_id(1)
    valid = point < n
    feature = tl.arange(0, F)[None, :]
    weights, slopes, _, vertex = _cells(x_ptr, point, valid, level, scale_ptr, offset_ptr, numbers_ptr, SMOOTH)
    sx, sy, sz = slopes
    weight = _level_weight(active_levels, level)
    source = point.to(tl.int64)[:, None] * WIDTH + level * F + feature
    y = weight * tl.load(y_ptr + source, mask=valid[:, None], other=0.0)
    if JACOBIAN:
        plane = n.to(tl.int64) * WIDTH
        jx = weight * tl.load(j_ptr + source, mask=valid[:, None], other=0.0)
        jy = weight * tl.load(j_ptr + plane + source, mask=valid[:, None], other=0.0)
        jz = weight * tl.load(j_ptr + 2 * plane + source, mask=valid[:, None], other=0.0)
    if DIRECTION:  # y is the derivative by what is written for a direction, not by the features
        ux, uy, uz = _direction(u_ptr, point, valid)
        jx = ux * y
        jy = uy * y
        jz = uz * y
        y = y * 0.0
    for corner in tl.static_range(8):
        wx, wy, wz = (
            _of_corner(weights[0], corner, 0),
            _of_corner(weights[1], corner, 1),
            _of_corner(weights[2], corner, 2),
        )
        value = (wx * wy * wz)[:, None] * y
        if JACOBIAN or DIRECTION:
            value += (_slope_of_corner(sx, corner, 0) * wy * wz)[:, None] * jx
            value += (_slope_of_corner(sy, corner, 1) * wx * wz)[:, None] * jy
            value += (_slope_of_corner(sz, corner, 2) * wx * wy)[:, None] * jz
        place = _row(vertex, corner)[:, None] * F + feature
        tl.atomic_add(gradient_ptr + place, value, mask=valid[:, None], sem="relaxed")


@triton.jit(do_not_specialize=["n", "levels"])
def _position_gradient_kernel(
    x_ptr,
    table_ptr,
    gradient_ptr,  # [n, 3]
    y_ptr,
    j_ptr,
    u_ptr,
    scale_ptr,
    offset_ptr,
    numbers_ptr,
    active_levels,
    n,
    levels,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
    SMOOTH: tl.constexpr,
    JACOBIAN: tl.constexpr,
    DIRECTION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = point < n
    feature = tl.arange(0, F)[None, :]
    px = tl.zeros([BLOCK], tl.float32)
    py = tl.zeros([BLOCK], tl.float32)
    pz = tl.zeros([BLOCK], tl.float32)
    plane = n.to(tl.int64) * WIDTH
    for level in range(levels):
        weights, slopes, curves, vertex = _cells(x_ptr, point, valid, level, scale_ptr, offset_ptr, numbers_ptr, SMOOTH)
        weight = _level_weight(active_levels, level)
        source = point.to(tl.int64)[:, None] * WIDTH + level * F + feature
        y = weight * tl.load(y_ptr + source, mask=valid[:, None], other=0.0)
        if JACOBIAN:
            jx = weight * tl.load(j_ptr + source, mask=valid[:, None], other=0.0)
            jy = weight * tl.load(j_ptr + plane + source, mask=valid[:, None], other=0.0)
            jz = weight * tl.load(j_ptr + 2 * plane + source, mask=valid[:, None], other=0.0)
        if DIRECTION:  # y is the derivative by what is written for a direction, not by the features
            ux, uy, uz = _direction(u_ptr, point, valid)
            jx = ux * y
            jy = uy * y
            jz = uz * y
            y = y * 0.0
        for corner in tl.static_range(8):
            wx, wy, wz = (
                _of_corner(weights[0], corner, 0),
                _of_corner(weights[1], corner, 1),
                _of_corner(weights[2], corner, 2),
            )
            sx, sy, sz = (
                _slope_of_corner(slopes[0], corner, 0),
                _slope_of_corner(slopes[1], corner, 1),
                _slope_of_corner(slopes[2], corner, 2),
            )
            place = _row(vertex, corner)[:, None] * F + feature
            value = tl.load(table_ptr + place, mask=valid[:, None], other=0.0)
            v = tl.sum(value * y, axis=1)
            px += sx * wy * wz * v
            py += wx * sy * wz * v
            pz += wx * wy * sz * v
            if JACOBIAN or DIRECTION:
                vx = tl.sum(value * jx, axis=1)
                vy = tl.sum(value * jy, axis=1)
                vz = tl.sum(value * jz, axis=1)
                px += wz * sx * sy * vy + wy * sx * sz * vz
                py += wz * sx * sy * vx + wx * sy * sz * vz
                pz += wy * sx * sz * vx + wx * sy * sz * vy
                if SMOOTH:
                    px += _slope_of_corner(curves[0], corner, 0) * wy * wz * vx
                    py += _slope_of_corner(curves[1], corner, 1) * wx * wz * vy
                    pz += _slope_of_corner(curves[2], corner, 2) * wx * wy * vz
    target = gradient_ptr + point.to(tl.int64) * 3
    tl.store(target, px, mask=valid)
    tl.store(target + 1, py, mask=valid)
    tl.store(target + 2, pz, mask=valid)


@triton.jit
def _gaussian_weight(std_ptr, point, valid, scale_ptr, level):
    """See `weighting.level_weights`."""
    width = 2.8284271247461903 * tl.load(std_ptr + point, mask=valid, other=0.0) * tl.load(scale_ptr + level)
    return tl.erf(1.0 / tl.where(width < 1e-6, 1e-6, width))


@triton.jit(do_not_specialize=["n", "samples"])
def _gaussian_features_kernel(
    x_ptr,  # [n, samples, 3]
    std_ptr,  # [n, samples], not read unless WEIGHTED
    table_ptr,
    y_ptr,  # [n, WIDTH]
    mass_ptr,  # [n, WIDTH / F], not written unless MASS
    scale_ptr,
    offset_ptr,
    numbers_ptr,
    active_levels,
    n,
    samples,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
    SMOOTH: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MASS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    group = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    level = tl.program_id(1)
    valid = group < n
    feature = tl.arange(0, F)[None, :]
    total = tl.zeros([BLOCK, F], tl.float32)
    mass = tl.zeros([BLOCK], tl.float32)
    for sample in range(samples):
        point = group * samples + sample
        weights, _, _, vertex = _cells(x_ptr, point, valid, level, scale_ptr, offset_ptr, numbers_ptr, SMOOTH)
        y = tl.zeros([BLOCK, F], tl.float32)
        for corner in tl.static_range(8):
            wx, wy, wz = (
                _of_corner(weights[0], corner, 0),
                _of_corner(weights[1], corner, 1),
                _of_corner(weights[2], corner, 2),
            )
            place = _row(vertex, corner)[:, None] * F + feature
            y += (wx * wy * wz)[:, None] * tl.load(table_ptr + place, mask=valid[:, None], other=0.0)
        if WEIGHTED:
            share = _gaussian_weight(std_ptr, point, valid, scale_ptr, level)
            total += share[:, None] * y
            mass += share
        else:
            total += y
    weight = _level_weight(active_levels, level) / samples
    tl.store(y_ptr + group[:, None] * WIDTH + level * F + feature, weight * total, mask=valid[:, None])
    if MASS:
        tl.store(mass_ptr + group * (WIDTH // F) + level, mass / samples, mask=valid)


@triton.jit(do_not_specialize=["n", "samples"])
def _gaussian_table_gradient_kernel(
    x_ptr,
    std_ptr,
    gradient_ptr,
    y_ptr,  # derivatives by the means, [n, WIDTH]
    scale_ptr,
    offset_ptr,
    numbers_ptr,
    active_levels,
    n,
    samples,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
    SMOOTH: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    group = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    level = tl.program_id(1)
    valid = group < n
    feature = tl.arange(0, F)[None, :]
    y = tl.load(y_ptr + group[:, None] * WIDTH + level * F + feature, mask=valid[:, None], other=0.0)
    y = _level_weight(active_levels, level) / samples * y
    for sample in range(samples):
        point = group * samples + sample
        weights, _, _, vertex = _cells(x_ptr, point, valid, level, scale_ptr, offset_ptr, numbers_ptr, SMOOTH)
        each = y
        if WEIGHTED:
            each = _gaussian_weight(std_ptr, point, valid, scale_ptr, level)[:, None] * y
        for corner in tl.static_range(8):
            wx, wy, wz = (
                _of_corner(weights[0], corner, 0),
                _of_corner(weights[1], corner, 1),
                _of_corner(weights[2], corner, 2),
            )
            place = _row(vertex, corner)[:, None] * F + feature
            tl.atomic_add(gradient_ptr + place, (wx * wy * wz)[:, None] * each, mask=valid[:, None], sem="relaxed")


@triton.jit(do_not_specialize=["n", "samples", "levels"])
def _gaussian_position_gradient_kernel(
    x_ptr,
    std_ptr,
    table_ptr,
    gradient_ptr,  # [n, samples, 3]
    y_ptr,
    scale_ptr,
    offset_ptr,
    numbers_ptr,
    active_levels,
    n,
    samples,
    levels,
    F: tl.constexpr,
    WIDTH: tl.constexpr,
    SMOOTH: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    point = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    group = point // samples
    valid = group < n
    feature = tl.arange(0, F)[None, :]
    px = tl.zeros([BLOCK], tl.float32)
    py = tl.zeros([BLOCK], tl.float32)
    pz = tl.zeros([BLOCK], tl.float32)
    for level in range(levels):
        weights, slopes, _, vertex = _cells(x_ptr, point, valid, level, scale_ptr, offset_ptr, numbers_ptr, SMOOTH)
        y = tl.load(y_ptr + group[:, None] * WIDTH + level * F + feature, mask=valid[:, None], other=0.0)
        y = _level_weight(active_levels, level) / samples * y
        if WEIGHTED:
            y = _gaussian_weight(std_ptr, point, valid, scale_ptr, level)[:, None] * y
        for corner in tl.static_range(8):
            wx, wy, wz = (
                _of_corner(weights[0], corner, 0),
                _of_corner(weights[1], corner, 1),
                _of_corner(weights[2], corner, 2),
            )
            place = _row(vertex, corner)[:, None] * F + feature
            v = tl.sum(tl.load(table_ptr + place, mask=valid[:, None], other=0.0) * y, axis=1)
            px += _slope_of_corner(slopes[0], corner, 0) * wy * wz * v
            py += _slope_of_corner(slopes[1], corner, 1) * wx * wz * v
            pz += _slope_of_corner(slopes[2], corner, 2) * wx * wy * v
    target = gradient_ptr + point * 3
    tl.store(target, px, mask=valid)
    tl.store(target + 1, py, mask=valid)
    tl.store(target + 2, pz, mask=valid)


def _launch(
    kernel: Any,
    grid: tuple[int, ...],
    shape: GridShape,
    tensors: tuple[Tensor, ...],
    jacobian: Tensor | None,
    direction: Tensor | None,
    numbers: tuple[float, ...],
) -> None:
    """Start programs."""
    x = tensors[0]
    with torch.cuda.device_of(x):
        kernel[grid](
            *(tensor.contiguous() for tensor in tensors),
            x if jacobian is None else jacobian.contiguous(),
            x if direction is None else direction.contiguous(),
            *_levels(shape, x.device),
            *numbers,
            F=shape.features,
            WIDTH=shape.output_dim,
            SMOOTH=shape.smooth,
            JACOBIAN=jacobian is not None,
            DIRECTION=direction is not None,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )


def _interpolate(
    shape: GridShape,
    table: Float[Tensor, "T F"],
    x: Float[Tensor, "n 3"],
    active_levels: float,
    jacobian: Float[Tensor, "3 n L*F"] | None = None,
    direction: Float[Tensor, "n 3"] | None = None,
) -> Float[Tensor, "n L*F"]:
    """Features, or their derivatives along a direction; `jacobian` is written if it is there."""
    count = count_active(shape, active_levels)
    values = x.new_empty(len(x), shape.output_dim)
    values[:, count * shape.features :] = 0
    if count and len(x):
        grid, numbers = (-(-len(x) // BLOCK), count), (active_levels, len(x))
        _launch(_interpolate_kernel, grid, shape, (x, table, values), jacobian, direction, numbers)
    return values


def interpolate(
    shape: GridShape,
    table: Float[Tensor, "T F"],
    x: Float[Tensor, "n 3"],
    active_levels: float,
    direction: Float[Tensor, "n 3"] | None = None,
) -> Float[Tensor, "n L*F"]:
    """Features, or their derivatives along a direction (see `functions.Backend`)."""
    return _interpolate(shape, table, x, active_levels, direction=direction)


def interpolate_with_jacobian(
    shape: GridShape, table: Float[Tensor, "T F"], x: Float[Tensor, "n 3"], active_levels: float
) -> tuple[Float[Tensor, "n L*F"], Float[Tensor, "3 n L*F"]]:
    """Features and their derivatives (see `functions.Backend`)."""
    jacobian = x.new_empty(3, len(x), shape.output_dim)
    jacobian[..., count_active(shape, active_levels) * shape.features :] = 0
    return _interpolate(shape, table, x, active_levels, jacobian), jacobian


def table_gradient(
    shape: GridShape,
    x: Float[Tensor, "n 3"],
    active_levels: float,
    values: Float[Tensor, "n L*F"],
    jacobian: Float[Tensor, "3 n L*F"] | None = None,
    direction: Float[Tensor, "n 3"] | None = None,
) -> Float[Tensor, "T F"]:
    """Derivatives with respect to the table (see `functions.Backend`)."""
    count = count_active(shape, active_levels)
    gradient = x.new_zeros(shape.rows, shape.features)
    if count and len(x):
        grid, numbers = (-(-len(x) // BLOCK), count), (active_levels, len(x))
        _launch(_table_gradient_kernel, grid, shape, (x, gradient, values), jacobian, direction, numbers)
    return gradient


def position_gradient(
    shape: GridShape,
    table: Float[Tensor, "T F"],
    x: Float[Tensor, "n 3"],
    active_levels: float,
    values: Float[Tensor, "n L*F"],
    jacobian: Float[Tensor, "3 n L*F"] | None = None,
    direction: Float[Tensor, "n 3"] | None = None,
) -> Float[Tensor, "n 3"]:
    """Derivatives with respect to the positions (see `functions.Backend`)."""
    count = count_active(shape, active_levels)
    gradient = torch.zeros_like(x, memory_format=torch.contiguous_format)
    if count and len(x):
        tensors, numbers = (x, table, gradient, values), (active_levels, len(x), count)
        _launch(_position_gradient_kernel, (-(-len(x) // BLOCK),), shape, tensors, jacobian, direction, numbers)
    return gradient


def _launch_gaussians(
    kernel: Any,
    grid: tuple[int, ...],
    shape: GridShape,
    std: Tensor | None,
    tensors: tuple[Tensor, ...],
    numbers: tuple[float, ...],
    **flags: bool,
) -> None:
    """Start programs."""
    x, *others = (tensor.contiguous() for tensor in tensors)
    with torch.cuda.device_of(x):
        kernel[grid](
            x,
            x if std is None else std.contiguous(),
            *others,
            *_levels(shape, x.device),
            *numbers,
            F=shape.features,
            WIDTH=shape.output_dim,
            SMOOTH=shape.smooth,
            WEIGHTED=std is not None,
            **flags,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )


def gaussian_features(
    shape: GridShape,
    table: Float[Tensor, "T F"],
    x: Float[Tensor, "n k 3"],
    std: Float[Tensor, "n k"] | None,
    active_levels: float,
    with_weights: bool,
) -> tuple[Float[Tensor, "n L*F"], Float[Tensor, "n L"] | None]:
    """Means of weighted features, and of the weights (see `functions.Backend`)."""
    count, (n, k) = count_active(shape, active_levels), x.shape[:2]
    values, weights = x.new_empty(n, shape.output_dim), None
    values[:, count * shape.features :] = 0
    if with_weights:
        weights = x.new_ones(n, len(shape.levels))
        if std is not None and count < len(shape.levels):
            weights[:, count:] = weights_of_levels(shape, std)[..., count:].mean(1)
    if count and n:
        mass = values if weights is None or std is None else weights
        grid, numbers = (-(-n // BLOCK), count), (active_levels, n, k)
        tensors, flags = (x, table, values, mass), {"MASS": mass is not values}
        _launch_gaussians(_gaussian_features_kernel, grid, shape, std, tensors, numbers, **flags)
    return values, weights


def gaussian_table_gradient(
    shape: GridShape,
    x: Float[Tensor, "n k 3"],
    std: Float[Tensor, "n k"] | None,
    active_levels: float,
    values: Float[Tensor, "n L*F"],
) -> Float[Tensor, "T F"]:
    """Derivatives with respect to the table (see `functions.Backend`)."""
    count, (n, k) = count_active(shape, active_levels), x.shape[:2]
    gradient = x.new_zeros(shape.rows, shape.features)
    if count and n:
        grid, numbers = (-(-n // BLOCK), count), (active_levels, n, k)
        _launch_gaussians(_gaussian_table_gradient_kernel, grid, shape, std, (x, gradient, values), numbers)
    return gradient


def gaussian_position_gradient(
    shape: GridShape,
    table: Float[Tensor, "T F"],
    x: Float[Tensor, "n k 3"],
    std: Float[Tensor, "n k"] | None,
    active_levels: float,
    values: Float[Tensor, "n L*F"],
) -> Float[Tensor, "n k 3"]:
    """Derivatives with respect to the points (see `functions.Backend`)."""
    count, (n, k) = count_active(shape, active_levels), x.shape[:2]
    gradient = torch.zeros_like(x, memory_format=torch.contiguous_format)
    if count and n:
        tensors, numbers = (x, table, gradient, values), (active_levels, n, k, count)
        grid = (-(-n * k // BLOCK),)
        _launch_gaussians(_gaussian_position_gradient_kernel, grid, shape, std, tensors, numbers)
    return gradient
