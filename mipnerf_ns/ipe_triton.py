"""The encoding of conical frustums in one CUDA kernel, for inputs that need no gradient.

Training without camera refinement and rendering need the encoding's value only. In torch it takes about a hundred
passes over memory; here each feature is computed in registers and written once. The result is that of
`integrated_pos_enc(*lift_frustum(...))`, samples as rows, which is what cuBLAS reads fastest.

What bounds it, by count and not yet by measurement: a sample of the paper's size is 504 features, 1,008 bytes in
bfloat16 against 20 bytes read. On an H200 (4.8 TB/s) a step of 16,384 rays × 160 samples cannot take less than 0.56 ms.
Evaluating sine, cosine and exponential afresh at every octave takes three special-function instructions for two
features, 0.5 ms, and some 28 instructions in all, 0.6 ms, both beside the writing. So a recurrence over octaves has
little to save here, and without one the result is the more accurate. Lanes own four neighboring features, whatever
octave these belong to: 252 columns (21 directions × 12 octaves) fill 256 places, and all writes are full ones. With a
lane for each direction, 11 of 32 would idle, and the pieces written would be of 42 bytes.
"""

# `tl` is a module only once a kernel is needed.
# pyright: reportInvalidTypeForm=false

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from common_ns.rays.contraction import lift_frustum
from common_ns.rays.icosahedron import basis_directions
from common_ns.rays.positional_encoding import integrated_pos_enc

enabled = True
"""Set to False to compute in torch everywhere."""

# Triton comes with torch's CUDA wheels for Linux only, and takes a third of a second to import: `_compiled` does it.
tl: Any = None

# Samples of a ray that a program holds at once, and that it works through. It is a single warp: a row of the result is
# then two passes of its 32 lanes, each lane writing four features at a time.
_ROWS = 8
_SPAN = 32


def usable(dtype: torch.dtype, *inputs: Tensor) -> bool:
    """Whether `fused_encoding` can stand in for the torch functions.

    Args:
        dtype: number format of the result.
        *inputs: mean, direction, t_var and r_var.
    """
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    formats = dtype in (torch.float32, torch.bfloat16) and all(tensor.dtype == torch.float32 for tensor in inputs)
    return enabled and formats and not needs_gradient and available(inputs[0].device)


@functools.cache
def available(device: torch.device) -> bool:
    """Whether the kernel runs on a device and gives what torch gives; tried once.

    It takes an NVIDIA GPU from Ampere on, Triton, and a C compiler, which Triton builds its launcher with. Where Triton
    interprets its kernels (TRITON_INTERPRET=1, for tests), the CPU will do.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    if device.type == "cuda":
        if torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
            return False
    elif device.type != "cpu" or not _interpreted():
        return False
    try:
        problem = _deviation(device)
    # Whatever goes wrong (no compiler, a driver too old, a version of Triton that lacks something): torch can do it.
    except Exception as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if problem is not None:
        CONSOLE.print(
            f"The fused encoding is not used, torch's is: {problem}", style="yellow", markup=False, soft_wrap=True
        )
    return problem is None


def fused_encoding(
    mean: Float[Tensor, "*n 3"],
    direction: Float[Tensor, "*m 3"],
    t_var: Float[Tensor, "*n 1"],
    r_var: Float[Tensor, "*n 1"],
    basis: Float[Tensor, "3 k"],
    num_frequencies: int,
    contracted: bool,
    dtype: torch.dtype,
    position_scale: float = 1.0,
) -> Float[Tensor, "*n 2*k*num_frequencies"]:
    """Integrated positional encoding of conical frustums along the directions of a basis, without gradients.

    Args:
        mean: means of the frustums' Gaussians, in scene units.
        direction: ray directions, broadcast over the samples of a ray; t is measured in units of their length.
        t_var: variances along the ray, of the parameter t.
        r_var: variances along one direction across the ray, in scene units squared.
        basis: unit vectors as columns.
        num_frequencies: octaves, from 2^0.
        contracted: whether to contract.
        dtype: number format of the result, float32 or bfloat16; the computation is in float32.
        position_scale: factor on positions before contraction.
    Returns: all sines, octave by octave, then all cosines, as rows in memory.
    Source: mip-NeRF 360, equations 7, 8, 10 and 12, and mip-NeRF, equation 14, combined.
    """
    half = basis.shape[1] * num_frequencies
    columns = 1 << (half - 1).bit_length()
    result = mean.new_empty((*mean.shape[:-1], 2 * half), dtype=dtype)
    direction = _per_ray(direction, mean)
    rays = direction.numel() // 3
    samples = mean.numel() // (3 * rays) if rays else 0
    if samples == 0:
        return result
    chunks = -(-samples // _SPAN)
    # A column for each sine, so that lanes which own neighboring features read neighboring numbers.
    table = torch.nn.functional.pad(basis.float().repeat(1, num_frequencies), (0, columns - half))
    with torch.cuda.device_of(mean):
        _compiled()[(rays * chunks,)](
            *(tensor.contiguous() for tensor in (mean, direction, t_var, r_var, table)),
            result,
            samples,
            chunks,
            position_scale,
            K=basis.shape[1],
            HALF=half,
            COLUMNS=columns,
            ROWS=min(_ROWS, 1 << (samples - 1).bit_length()),
            SPAN=_SPAN,
            CONTRACTED=contracted,
            APPROXIMATE=not _interpreted(),
            num_warps=1,
        )
    return result


def _per_ray(direction: Float[Tensor, "*m 3"], mean: Float[Tensor, "*n 3"]) -> Float[Tensor, "*r 3"]:
    """Directions such that each stands for equally many samples that follow each other."""
    leading = list(direction.shape[:-1])
    while leading and leading[-1] == 1:
        leading.pop()
    aligned = not leading or direction.dim() == mean.dim()
    shared = aligned and tuple(leading) == mean.shape[: len(leading)]
    return direction if shared else direction.expand_as(mean)


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.cache
def _compiled() -> Any:
    """The kernel, compiled at its first call for each kind of arguments. The numbers of samples make no new kind."""
    global tl
    import triton
    import triton.language

    tl = triton.language
    jit: Any = triton.jit
    return jit(_kernel, do_not_specialize=["samples", "chunks"])


def _deviation(device: torch.device) -> str | None:
    """How far the kernel is from torch in double precision on a few frustums, in words; None if it is close enough."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 5, 3, generator=generator) * torch.tensor([0.3, 1.0, 30.0])[:, None, None]
    direction = torch.randn(3, 1, 3, generator=generator)
    t_var, r_var = 1e-3 * torch.rand(2, 3, 5, 1, generator=generator)
    basis = basis_directions("icosahedron-21")
    frustums = (mean, direction, t_var, r_var, basis)
    inputs = [tensor.to(device) for tensor in frustums]
    found = fused_encoding(*inputs, num_frequencies=12, contracted=True, dtype=torch.bfloat16).cpu().double()
    exact = integrated_pos_enc(*lift_frustum(*(tensor.double() for tensor in frustums), contracted=True), 0, 12)
    # bfloat16 rounds values up to 1 by 2^-9; the rest is the rounding of positions, 2^11-fold at the highest octave.
    error = float((found - exact).abs().max())
    return None if error < 0.01 else f"it is off by {error:.2g}"


# Compiled by Triton, which reads the source: no closures, no annotations but those of compile-time constants. Names of
# per-sample quantities follow `contraction.lift_frustum`; [:, None] are samples, [None, :] are features.
def _kernel(
    mean_ptr,
    direction_ptr,
    t_var_ptr,
    r_var_ptr,
    table_ptr,
    result_ptr,
    samples,
    chunks,
    scale,
    K: tl.constexpr,  # directions of the basis
    HALF: tl.constexpr,  # sines: K times the number of octaves
    COLUMNS: tl.constexpr,  # HALF, rounded up to a power of two
    ROWS: tl.constexpr,
    SPAN: tl.constexpr,
    CONTRACTED: tl.constexpr,
    APPROXIMATE: tl.constexpr,  # use the GPU's own sine; the interpreter has none
):
    program = tl.program_id(0)
    ray = program // chunks
    first = (program % chunks) * SPAN
    last = tl.minimum(first + SPAN, samples)

    # Four and four: both halves of a row are aligned to four features only, and one layout has to serve both.
    column = tl.max_contiguous(tl.arange(0, COLUMNS), 4)
    written = column < HALF
    basis_x = tl.load(table_ptr + column)
    basis_y = tl.load(table_ptr + COLUMNS + column)
    basis_z = tl.load(table_ptr + 2 * COLUMNS + column)
    frequency = tl.exp2((column // K).to(tl.float32))
    to_turns = frequency * 0.15915494309189535  # 1 / 2π
    to_exponent = frequency * frequency * -0.7213475204444817  # -log2(e) / 2

    dx = tl.load(direction_ptr + ray * 3)
    dy = tl.load(direction_ptr + ray * 3 + 1)
    dz = tl.load(direction_ptr + ray * 3 + 2)
    inverse_d2 = 1.0 / tl.maximum(dx * dx + dy * dy + dz * dz, 1e-20)
    shear = (dx * basis_x + dy * basis_y + dz * basis_z)[None, :]

    for start in range(first, last, ROWS):
        sample = start + tl.arange(0, ROWS)
        inside = sample < last
        row = ray.to(tl.int64) * samples + sample
        x = tl.load(mean_ptr + row * 3, mask=inside, other=0.0) * scale
        y = tl.load(mean_ptr + row * 3 + 1, mask=inside, other=0.0) * scale
        z = tl.load(mean_ptr + row * 3 + 2, mask=inside, other=0.0) * scale
        # Directions are not scaled, so that both variances are.
        t_var = tl.load(t_var_ptr + row, mask=inside, other=0.0) * (scale * scale)
        r_var = tl.load(r_var_ptr + row, mask=inside, other=0.0) * (scale * scale)
        excess = (t_var - r_var * inverse_d2)[:, None]
        if CONTRACTED:
            # As in lift_frustum, in terms of the contracted mean: `ratio` is along / across.
            inverse = tl.rsqrt(tl.maximum(x * x + y * y + z * z, 1.0))
            across = (2.0 - inverse) * inverse
            ratio = inverse / (2.0 - inverse)
            bend = ((ratio - 1.0) * (x * dx + y * dy + z * dz) * (inverse * inverse))[:, None]
            squash = (r_var * (ratio * ratio - 1.0) * (inverse * inverse))[:, None]
            floor = (r_var * across * across)[:, None]
            x = x * across
            y = y * across
            z = z * across
            lifted = x[:, None] * basis_x[None, :] + y[:, None] * basis_y[None, :] + z[:, None] * basis_z[None, :]
            moved = across[:, None] * shear + bend * lifted
            variance = floor + squash * (lifted * lifted) + excess * (moved * moved)
        else:
            lifted = x[:, None] * basis_x[None, :] + y[:, None] * basis_y[None, :] + z[:, None] * basis_z[None, :]
            variance = r_var[:, None] + excess * (shear * shear)
        damping = tl.exp2(tl.maximum(variance, 0.0) * to_exponent[None, :])
        turns = lifted * to_turns[None, :]
        # Adding and subtracting 1.5 · 2^23 rounds to whole turns, on the units that are not the bottleneck. The GPU's
        # own sine is accurate to 2^-21 within half a turn, and to nothing much beyond.
        angle = (turns - ((turns + 12582912.0) - 12582912.0)) * 6.283185307179586
        if APPROXIMATE:
            sin = tl.inline_asm_elementwise("sin.approx.ftz.f32 $0, $1;", "=f,f", [angle], tl.float32, True, 1)
            cos = tl.inline_asm_elementwise("cos.approx.ftz.f32 $0, $1;", "=f,f", [angle], tl.float32, True, 1)
        else:
            sin = tl.sin(angle)
            cos = tl.cos(angle)
        target = result_ptr + row[:, None] * (2 * HALF) + column[None, :]
        mask = inside[:, None] & written[None, :]
        tl.store(target, (damping * sin).to(result_ptr.dtype.element_ty), mask=mask)
        tl.store(target + HALF, (damping * cos).to(result_ptr.dtype.element_ty), mask=mask)
