"""The hash grid on CPUs, compiled by numba.

What takes time is fetching rows from all over the table. So all points visit a level before any visits the next: a
level's rows then stay in cache. Blocks of points pass through four loops, which hand on through a scratch memory that
stays in the core's own cache: rows and weights of the corners; fetching; interpolation; writing. The first and the
third do the same for every number, and become vector instructions; the second and the fourth only move numbers, so
that the processor has many fetches under way at once.

Threads take ranges of points, or for the gradient of the table, levels: no two write to the same row, each row's sum
runs over the points in order, and results do not depend on the number of threads in a single bit. Threads are Python's:
the compiled functions release its lock, and several callers (a trainer and a viewer, say) do not disturb each other as
they would with numba's own.

numba compiles at the first use and keeps the result in `__pycache__`, in the user's cache folder if that cannot be
written, or in NUMBA_CACHE_DIR.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common_ns.hash_grid import numba_kernels as kernels
from common_ns.hash_grid.levels import GridShape, count_active, level_weight
from common_ns.hash_grid.numba_kernels import LANES, ROWS, Levels, Work
from common_ns.hash_grid.weighting import weights_of_levels

CHUNK, CHUNK_WITH_JACOBIAN = 65536, 8192
"""Points that visit a level before they go on to the next. Features and derivatives of a point lie together, those of
a level far apart: the more there is of them, the sooner they leave the cache before the next level's are added."""

SMALL = 30_000
"""Points times levels below which starting threads takes longer than it saves."""


def refusal(shape: GridShape, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this grid cannot be computed here, or None if it can."""
    if device.type != "cpu":
        return f"numba computes on the CPU, and the grid is on {device.type}."
    if dtype != torch.float32:
        return f"numba computes in float32, and the table is in {dtype}."
    if shape.features not in (1, 2, 4, 8):
        return f"numba takes 1, 2, 4 or 8 features per level, not {shape.features}."
    return None


@functools.lru_cache(maxsize=64)
def _levels(shape: GridShape, active_levels: float) -> Levels:
    count = count_active(shape, active_levels)
    levels = shape.levels[:count]
    return Levels(
        scale=np.array([level.scale for level in levels], np.float32),
        vertices=np.array([level.vertices for level in levels], np.int64),
        offset=np.array([level.offset for level in levels] + [sum(level.size for level in levels)], np.int64),
        hashed=np.array([level.hashed for level in levels], np.bool_),
        weight=np.array([level_weight(active_levels, index) for index in range(count)], np.float32),
        smooth=shape.smooth,
    )


def _empty(*shape: int) -> Tensor:
    """Memory for a result. numpy asks for large pages, which the first writing takes a third of the time with."""
    return torch.from_numpy(np.empty(shape, np.float32))


def _words(tensor: Float[Tensor, "*n"], features: int) -> np.ndarray[Any, Any]:
    """A tensor's numbers in pairs, or singly if a level has one feature only: what is copied at a time."""
    tensor = tensor.detach().contiguous()
    if features > 1 and tensor.data_ptr() % 8:
        tensor = tensor.clone()
    return tensor.numpy().view(_word(features))


def _word(features: int) -> Any:
    return np.uint32 if features == 1 else np.uint64


def _points(x: Float[Tensor, "n 3"]) -> Float[np.ndarray, "3 n"]:
    return x.detach().t().contiguous().numpy()


def _work(features: int) -> Work:
    words = np.zeros(ROWS * LANES, np.float32).view(_word(features))
    return Work(np.zeros(8 * LANES // features, np.uint32), words.view(np.float32), words)


@functools.lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work. A process's own: they do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="hash-grid")


def _run(task: Callable[[int, int], None], ranges: Sequence[tuple[int, int]], threads: int) -> None:
    """Do tasks, each given by two numbers."""
    if threads == 1 or len(ranges) == 1:
        for first, second in ranges:
            task(first, second)
    else:
        list(_pool(os.getpid(), threads).map(task, *zip(*ranges)))


def _threads(levels: Levels, count: int) -> int:
    return 1 if count * len(levels.scale) < SMALL else torch.get_num_threads()


def _ranges(count: int, threads: int, shape: GridShape, chunk: int) -> list[tuple[int, int]]:
    """Ranges of points for the threads, of whole blocks: a point's place in its block never changes."""
    block = LANES // shape.features
    share = -(-count // (threads * block)) * block
    chunk = min(share, chunk)
    return [(start, min(start + chunk, count)) for start in range(0, count, chunk)]


def _chunk(jacobian: Tensor | None) -> int:
    return CHUNK if jacobian is None else CHUNK_WITH_JACOBIAN


class _Given(NamedTuple):
    """What the kernels get of x, of derivatives by features and Jacobian, and of a direction."""

    points: Float[np.ndarray, "3 n"]
    values: np.ndarray[Any, Any]
    jacobian: np.ndarray[Any, Any]
    direction: Float[np.ndarray, "3 n"]


def _given(shape: GridShape, x: Tensor, values: Tensor, jacobian: Tensor | None, direction: Tensor | None) -> _Given:
    word = _word(shape.features)
    return _Given(
        points=_points(x),
        values=_words(values, shape.features),
        jacobian=np.empty((0, 0, 0), word) if jacobian is None else _words(jacobian, shape.features),
        direction=np.empty((0, 0), np.float32) if direction is None else _points(direction),
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
    levels = _levels(shape, active_levels)
    values = _empty(len(x), shape.output_dim)
    values[:, len(levels.scale) * shape.features :] = 0
    if len(levels.scale) and len(x):
        given, features = _given(shape, x, values, jacobian, direction), (0,) * shape.features
        rows = _words(table, shape.features).ravel()

        def task(start: int, stop: int) -> None:
            work = _work(shape.features)
            points, *others = given
            kernels.interpolate(points, start, stop, rows, levels, features, *others, work)

        threads = _threads(levels, len(x))
        _run(task, _ranges(len(x), threads, shape, _chunk(jacobian)), threads)
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
    jacobian = _empty(3, len(x), shape.output_dim)
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
    levels = _levels(shape, active_levels)
    gradient = _empty(shape.rows, shape.features)
    gradient[levels.offset[-1] :] = 0
    if len(levels.scale):
        given, features = _given(shape, x, values, jacobian, direction), (0,) * shape.features
        sums = gradient.numpy().ravel()
        chunk = _chunk(jacobian)

        def task(first: int, step: int) -> None:
            work = _work(shape.features)
            points, *others = given
            kernels.table_gradient(points, chunk, first, step, levels, features, *others, sums, work)

        threads = _threads(levels, len(x))
        tasks = min(len(levels.scale), 1 if threads == 1 else 2 * threads)
        _run(task, [(first, tasks) for first in range(tasks)], threads)
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
    levels = _levels(shape, active_levels)
    gradient = x.new_zeros(len(x), 3)
    if len(levels.scale) and len(x):
        given, features = _given(shape, x, values, jacobian, direction), (0,) * shape.features
        rows, result = _words(table, shape.features).ravel(), gradient.numpy()

        def task(start: int, stop: int) -> None:
            work = _work(shape.features)
            sums = np.zeros((-(-(stop - start) * shape.features // LANES), 3 * LANES), np.float32)
            points, *others = given
            kernels.position_gradient(points, start, stop, rows, levels, features, *others, result, sums, work)

        threads = _threads(levels, len(x))
        _run(task, _ranges(len(x), threads, shape, _chunk(jacobian)), threads)
    return gradient


class _Gaussians(NamedTuple):
    """What the kernels get of groups of Gaussians."""

    points: Float[np.ndarray, "3 k*n"]
    std: Float[np.ndarray, "k*n"]
    samples: int


def _gaussians(x: Float[Tensor, "n k 3"], std: Float[Tensor, "n k"] | None) -> _Gaussians:
    points = x.detach().permute(2, 1, 0).contiguous().flatten(1).numpy()
    stds = np.empty(0, np.float32) if std is None else std.t().contiguous().flatten().numpy()
    return _Gaussians(points, stds, x.shape[1])


def _group_chunk(shape: GridShape, samples: int) -> int:
    """Groups that visit a level before they go on to the next; whole blocks."""
    block = LANES // shape.features
    return max(CHUNK // (samples * block), 1) * block


def gaussian_features(
    shape: GridShape,
    table: Float[Tensor, "T F"],
    x: Float[Tensor, "n k 3"],
    std: Float[Tensor, "n k"] | None,
    active_levels: float,
    with_weights: bool,
) -> tuple[Float[Tensor, "n L*F"], Float[Tensor, "n L"] | None]:
    """Means of weighted features, and of the weights (see `functions.Backend`)."""
    levels, (n, k) = _levels(shape, active_levels), x.shape[:2]
    active, values = len(levels.scale), _empty(n, shape.output_dim)
    values[:, active * shape.features :] = 0
    weights = None
    if with_weights:
        weights = x.new_ones(n, len(shape.levels)) if std is None else _empty(n, len(shape.levels))
        if std is not None and active < len(shape.levels):
            weights[:, active:] = weights_of_levels(shape, std)[..., active:].mean(1)
    if active and n:
        gaussians, features = _gaussians(x, std), (0,) * shape.features
        rows, target = _words(table, shape.features).ravel(), values.numpy().view(_word(shape.features))
        masses = np.empty((0, 0), np.float32) if weights is None or std is None else weights.numpy()

        def task(start: int, stop: int) -> None:
            work = _work(shape.features)
            kernels.gaussian_features(*gaussians, start, stop, rows, levels, features, target, masses, work)

        threads = _threads(levels, n * k)
        _run(task, _ranges(n, threads, shape, _group_chunk(shape, k)), threads)
    return values, weights


def gaussian_table_gradient(
    shape: GridShape,
    x: Float[Tensor, "n k 3"],
    std: Float[Tensor, "n k"] | None,
    active_levels: float,
    values: Float[Tensor, "n L*F"],
) -> Float[Tensor, "T F"]:
    """Derivatives with respect to the table (see `functions.Backend`)."""
    levels, (n, k) = _levels(shape, active_levels), x.shape[:2]
    gradient = _empty(shape.rows, shape.features)
    gradient[levels.offset[-1] :] = 0
    if len(levels.scale):
        gaussians, features = _gaussians(x, std), (0,) * shape.features
        source, sums, chunk = _words(values, shape.features), gradient.numpy().ravel(), _group_chunk(shape, k)

        def task(first: int, step: int) -> None:
            work = _work(shape.features)
            kernels.gaussian_table_gradient(*gaussians, chunk, first, step, levels, features, source, sums, work)

        threads = _threads(levels, n * k)
        tasks = min(len(levels.scale), 1 if threads == 1 else 2 * threads)
        _run(task, [(first, tasks) for first in range(tasks)], threads)
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
    levels, (n, k) = _levels(shape, active_levels), x.shape[:2]
    gradient = x.new_zeros(n, k, 3)
    if len(levels.scale) and n:
        gaussians, features = _gaussians(x, std), (0,) * shape.features
        rows, source = _words(table, shape.features).ravel(), _words(values, shape.features)
        result = gradient.numpy()

        def task(start: int, stop: int) -> None:
            work = _work(shape.features)
            sums = np.zeros((k, -(-(stop - start) * shape.features // LANES), 3 * LANES), np.float32)
            given = (rows, levels, features, source, result, sums, work)
            kernels.gaussian_position_gradient(*gaussians, start, stop, *given)

        threads = _threads(levels, n * k)
        _run(task, _ranges(n, threads, shape, _group_chunk(shape, k)), threads)
    return gradient
