"""Gaussian splatting on CPUs, compiled by numba.

Gaussians are projected, and listed for each of the tiles that they may be seen in, which sorts its own by depth. A
tile's pixels and what is summed up in them stay in the core's own cache while its Gaussians pass from front to back;
all pixels of a Gaussian's rows go through the same arithmetic, which becomes vector instructions. The backward pass
goes from front to back, too: what is behind a Gaussian is the whole, which is known, less what is before it. So nothing
is kept for each pair of a Gaussian and a pixel.

Threads take ranges of Gaussians, or of tiles. With several, each entry of a tile's list has a place of its own for its
part of a Gaussian's derivatives, and these are added up in the order in which one thread would add them: results do not
depend on the number of threads in a single bit. Threads are Python's, and as many as torch has: the compiled functions
release its lock, and several callers (a trainer and a viewer, say) do not disturb each other as they would with numba's
own.

numba compiles at the first use and keeps the result in `__pycache__`, in the user's cache folder if that cannot be
written, or in NUMBA_CACHE_DIR.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from common_ns.splats import numba_kernels as kernels
from common_ns.splats.blending import Pictures
from common_ns.splats.numba_kernels import ACROSS, BATCH, DOWN, MOMENTS, ROW, SCRATCH, SPLAT, Camera, Scene
from common_ns.splats.projection import Frame, Projected, camera_center

CHUNK = 8192
"""Gaussians that a thread projects at a time. Their number is fixed, for the sums of a camera's derivatives are."""
SMALL = 2000
"""Gaussians below which starting threads takes longer than it saves."""


def refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why these Gaussians cannot be drawn here, or None if they can."""
    if device.type != "cpu":
        return f"numba computes on the CPU, and the Gaussians are on {device.type}."
    if dtype != torch.float32:
        return f"numba computes in float32, and the Gaussians are in {dtype}."
    return None


def _empty(*shape: int) -> Tensor:
    """Memory for a result. numpy asks for large pages, which the first writing takes a third of the time with."""
    return torch.from_numpy(np.empty(shape, np.float32))


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().contiguous().numpy()


@functools.lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work. A process's own: they do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="splats")


def _run(task: Callable[[int, int], None], ranges: Sequence[tuple[int, int]], threads: int) -> None:
    """Do tasks, each given by two numbers."""
    if threads == 1 or len(ranges) <= 1:
        for first, second in ranges:
            task(first, second)
    else:
        list(_pool(os.getpid(), threads).map(task, *zip(*ranges)))


def _threads(count: int) -> int:
    return 1 if count < SMALL else torch.get_num_threads()


def _chunks(count: int) -> list[tuple[int, int]]:
    return [(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _camera(viewmat: Tensor, center: Tensor, frame: Frame) -> Camera:
    return Camera(
        viewmat=_array(viewmat.double()),
        center=_array(center.double()),
        intrinsics=np.array(frame.intrinsics),
        limits=np.array(frame.limits()),
        near=float(frame.near),
        far=float(frame.far),
        eps2d=float(frame.eps2d),
        width=frame.width,
        height=frame.height,
        degree=frame.sh_degree,
        antialiased=frame.antialiased,
    )


class _Project(torch.autograd.Function):
    """`projection.project`, with its derivatives written by hand."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        coefficients: Tensor,
        viewmat: Tensor,
        center: Tensor,
        frame: Frame,
    ) -> tuple[Tensor, ...]:
        count = len(means)
        scene = Scene(*(_array(value) for value in (means, quats, scales, opacities, coefficients)))
        camera, threads = _camera(viewmat, center, frame), _threads(count)
        means2d, splats = _empty(count, 2), _empty(count, SPLAT)
        radii, ids = np.empty(count, np.int32), np.empty(count, np.int64)
        results = (means2d.numpy(), splats.numpy(), radii, ids)
        chunks = _chunks(count)
        found = [0] * len(chunks)

        def task(start: int, stop: int) -> None:
            found[start // CHUNK] = kernels.project(scene, start, stop, camera, *results, np.empty(16, np.float32))

        _run(task, chunks, threads)
        total, seen = 0, []
        for (start, _), here in zip(chunks, found):
            if start != total:
                for result in results:  # downward, so that numpy may copy as it goes
                    result[total : total + here] = result[start : start + here]
            seen.append((total, total + here))
            total += here
        ctx.save_for_backward(means, quats, scales, opacities, coefficients)
        ctx.scene, ctx.camera, ctx.ids, ctx.seen, ctx.threads = scene, camera, ids, seen, threads
        ctx.dtypes = viewmat.dtype, center.dtype
        outputs = means2d[:total], splats[:total], torch.from_numpy(radii[:total]), torch.from_numpy(ids[:total])
        ctx.mark_non_differentiable(*outputs[2:])
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_means2d: Tensor, d_splats: Tensor, *_: Tensor) -> Any:
        _ = ctx.saved_tensors  # raises if they have been changed since
        scene, chunks = ctx.scene, _chunks(len(ctx.scene.means))
        results = [_empty(*value.shape) for value in scene]
        out = kernels.Gradients(*(result.numpy() for result in results))
        pose = np.zeros((len(chunks), 15))
        given = _array(d_means2d), _array(d_splats)

        def task(start: int, stop: int) -> None:
            number, scratch = start // CHUNK, np.empty((2, 16), np.float32)
            kernels.project_backward(
                scene, start, stop, ctx.camera, ctx.ids, *ctx.seen[number], *given, out, pose[number], *scratch
            )

        _run(task, chunks, ctx.threads)
        sums = torch.from_numpy(pose.sum(0))
        viewmat = torch.cat([sums[:12].view(3, 4), sums.new_zeros(1, 4)]).to(ctx.dtypes[0])
        return *results, viewmat, sums[12:].to(ctx.dtypes[1]), None


def project(
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    scales: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"],
    coefficients: Float[Tensor, "n k 3"],
    viewmat: Float[Tensor, "4 4"],
    frame: Frame,
) -> Projected:
    """Project Gaussians (see `projection.project`)."""
    center = camera_center(viewmat)
    return Projected(*_Project.apply(means, quats, scales, opacities, coefficients, viewmat, center, frame))  # type: ignore[misc]


class Lists(NamedTuple):
    """What is blended, and which of it in each tile."""

    rows: Float[np.ndarray, "m ROW"]
    rows_of: Int[np.ndarray, "m"]
    """Each Gaussian's."""
    entries: Int[np.ndarray, "entries"]
    """Of each tile from front to back, tile by tile, column by column (see `numba_kernels.distribute`)."""
    starts: Int[np.ndarray, "tiles+1"]
    """Where each tile's begin."""
    slots: Int[np.ndarray, "m+1"]
    """Where each Gaussian's begin, in a list Gaussian by Gaussian."""


def tile_lists(
    means2d: Float[Tensor, "m 2"],
    splats: Float[Tensor, "m 11"],
    radii: Int[Tensor, "m"],
    width: int,
    height: int,
    threads: int,
) -> Lists:
    """List Gaussians for each tile, and sort them by depth."""
    count, tiles = len(means2d), -(-width // ACROSS) * -(-height // DOWN)
    means, values = _array(means2d), _array(splats)
    rows, forms = np.empty((count, ROW), np.float32), np.empty((count, 6), np.float32)
    rows_of, boxes = np.empty(count, np.int32), np.empty((count, 4), np.int32)
    firsts, slots = np.zeros((2, count + 1), np.int64)
    kernels.arrange(means, width, height, np.empty(tiles + 1, np.int64), rows_of)
    edges = np.linspace(0, count, threads + 1).astype(int).tolist()
    shares, ranges = {start: number for number, start in enumerate(edges[:-1])}, list(pairwise(edges))
    counts = np.empty((len(ranges), tiles), np.int64)

    def prepare(start: int, stop: int) -> None:
        given = (means, values, _array(radii), start, stop, width, height)
        kernels.prepare(*given, rows_of, rows, forms, boxes, firsts[1:])

    def measure(start: int, stop: int) -> None:
        kernels.measure(forms, boxes, start, stop, height, firsts, spans, counts[shares[start]], slots[1:])

    def distribute(start: int, stop: int) -> None:
        cursor = cursors[shares[start]]
        kernels.distribute(values, rows_of, boxes, start, stop, height, spans, cursor, entries, keys)

    _run(prepare, ranges, threads)
    np.cumsum(firsts, out=firsts)
    spans = np.empty((int(firsts[-1]), 2), np.int32)
    _run(measure, ranges, threads)
    np.cumsum(slots, out=slots)
    # A tile's list begins with what the first range has of it, and goes on with the next range's.
    cursors = np.concatenate([[0], counts.T.ravel().cumsum()])
    starts = cursors[:: len(ranges)].copy()
    cursors = cursors[:-1].reshape(tiles, len(ranges)).T.copy()
    entries, keys = np.empty(int(slots[-1]), np.int64), np.empty(int(slots[-1]), np.uint32)
    _run(distribute, ranges, threads)
    longest = int(np.diff(starts).max(initial=0))

    def task(first: int, last: int) -> None:
        scratch = np.empty(longest, np.int64), np.empty(longest, np.uint32), np.empty((4, 256), np.int64)
        kernels.sort_tiles(starts, first, last, entries, keys, *scratch)

    _run(task, _tile_ranges(starts, threads), threads)
    return Lists(rows, rows_of, entries, starts, slots)


def _tile_ranges(starts: Int[np.ndarray, "tiles+1"], threads: int) -> list[tuple[int, int]]:
    """Ranges of tiles with about as many entries each, several for each thread."""
    tiles, parts = len(starts) - 1, 1 if threads == 1 else 8 * threads
    work = starts + np.arange(tiles + 1)  # an empty tile is some work, too
    bounds = np.searchsorted(work, np.linspace(0, work[-1], parts + 1)[1:-1])
    edges = [0, *bounds.tolist(), tiles]
    return [(first, last) for first, last in pairwise(edges) if first < last]


class _Blend(torch.autograd.Function):
    """`reference.blend`, with its derivatives written by hand."""

    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, splats: Tensor, background: Tensor, radii: Tensor, width: int, height: int
    ) -> tuple[Tensor, ...]:
        threads, behind = _threads(len(means2d)), _array(background)
        lists = tile_lists(means2d, splats, radii, width, height, threads)
        color, accumulation, depth, median, normals = (_empty(height, width, size) for size in (3, 1, 1, 1, 3))
        images = kernels.Images(color.numpy(), accumulation.numpy(), depth.numpy(), normals.numpy())
        ends = np.empty(len(lists.starts) - 1, np.int64)

        def task(first: int, last: int) -> None:
            scratch = np.empty(SCRATCH, np.float32), np.empty((BATCH, ROW), np.float32)
            given = (lists.rows, lists.entries, lists.starts, first, last, behind)
            kernels.blend(*given, images, median.numpy(), ends, *scratch)

        _run(task, _tile_ranges(lists.starts, threads), threads)
        ctx.save_for_backward(background, color, accumulation, depth, normals)
        ctx.lists, ctx.ends, ctx.threads = lists, ends, threads
        ctx.mark_non_differentiable(median)
        return color, accumulation, depth, median, normals

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_color: Tensor, d_weight: Tensor, d_depth: Tensor, _: Tensor, d_normals: Tensor) -> Any:
        background, color, accumulation, depth, normals = ctx.saved_tensors
        lists, threads = ctx.lists, ctx.threads
        images = kernels.Images(*(_array(image) for image in (color, accumulation, depth, normals)))
        slopes = kernels.Images(*(_array(slope) for slope in (d_color, d_weight, d_depth, d_normals)))
        count, behind = len(lists.rows), _array(background)
        sums = np.zeros((count, MOMENTS), np.float32)
        # Several threads would add to the same row: each entry has a place of its own.
        parts = np.zeros((0 if threads == 1 else len(lists.entries), MOMENTS), np.float32)
        added, slots = sums, lists.slots[:0]
        if threads > 1:
            added, slots = parts, np.empty(count, np.int64)
            slots[lists.rows_of] = lists.slots[:-1]
        given = (lists.rows, lists.entries, lists.starts, ctx.ends, slots)

        def task(first: int, last: int) -> None:
            scratch = np.empty(SCRATCH, np.float32), np.empty((BATCH, ROW), np.float32)
            kernels.blend_backward(*given, first, last, behind, images, slopes, added, *scratch)

        _run(task, _tile_ranges(lists.starts, threads), threads)
        d_means2d, d_splats = _empty(count, 2), _empty(count, SPLAT)
        results = d_means2d.numpy(), d_splats.numpy()

        def close(start: int, stop: int) -> None:
            kernels.finish(sums, parts, lists.slots, lists.rows_of, lists.rows, start, stop, *results)

        _run(close, _chunks(count), threads)
        d_background = ((1 - accumulation) * d_color).sum((0, 1)) if ctx.needs_input_grad[2] else None
        return d_means2d, d_splats, d_background, None, None, None


def blend(
    projected: Projected, width: int, height: int, background: Float[Tensor, "3"] | None, geometry: bool
) -> Pictures:
    """Blend ellipses from front to back (see `reference.blend`). Geometry takes a tenth of the time: it is always
    computed."""
    behind = torch.zeros(3) if background is None else background
    found = Pictures(*_Blend.apply(projected.means2d, projected.splats, behind, projected.radii, width, height))  # type: ignore[misc]
    return found if geometry else Pictures(found.color, found.accumulation, None, None, None)
