"""The loops of the hash grid on CPUs (see `numba_cpu`), compiled by numba.

All are in one file: numba's store on disk notices edits of the file that a function is in, not of what it calls.

A block of points passes through `_locate`, `_fetch` or `_copy_in`, arithmetic, and `_copy_out` or `_add`, one level at
a time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from common_ns.compiled import inline, jit
from common_ns.hash_grid.levels import PRIMES

LANES = 256
"""Numbers of a block in a row of the scratch memory: points times features of a level."""

# Rows of the scratch memory. One array for all: the compiler then sees that what is written overlaps nothing else.
FRACTION, SLOPE, CURVE, CORNER, VALUE, FIRST = (np.intp(n) for n in (0, 3, 6, 9, 17, 18))
WEIGHT, TOTAL, MASS, ROWS = (np.intp(n) for n in (21, 22, 23, 24))  # of Gaussians

HALF, ONE, ZERO = np.float32(0.5), np.float32(1), np.float32(0)
PRIME_Y, PRIME_Z = np.uint32(PRIMES[1]), np.uint32(PRIMES[2])
UNIT = np.uint32(1)

ROOT_8, TINY, ERF_END = np.float32(8**0.5), np.float32(1e-6), np.float32(3.925)
ERF_UPPER = tuple(
    np.float32(c) for c in (1.128379146, 0.190595242, 0.05276949665, 0.003772613166, 2.848448256e-4, 2.046015080e-6)
)
ERF_LOWER = tuple(
    np.float32(c) for c in (1.0, 0.5022433656, 0.1141833373, 0.01498332587, 0.001163872732, 3.804771308e-5)
)
"""Polynomials in x² whose ratio is erf(x) / x from 0 to `ERF_END`, from where on erf is 1 in float32. Fitted by least
squares with weights that level the relative error: at most 3.4e-7 in float32. A call of the C library's function takes
longer than all else, for it does not become vector instructions."""


class Levels(NamedTuple):
    """The active levels, as arrays."""

    scale: Float[np.ndarray, "l"]
    vertices: Int[np.ndarray, "l"]
    offset: Int[np.ndarray, "l+1"]
    hashed: Bool[np.ndarray, "l"]
    weight: Float[np.ndarray, "l"]
    smooth: bool


class Work(NamedTuple):
    """The scratch memory of a thread."""

    index: Int[np.ndarray, "8*points"]
    """Rows of a level, at the corners of the points' cells."""
    numbers: Float[np.ndarray, "rows*LANES"]
    words: Int[np.ndarray, "words"]
    """The same memory as `numbers`, as what is copied at a time."""


@inline
def _locate(points, first, count, level, levels, features, inner, index, s):
    """Rows of the table at the corners of each point's cell, and where in the cell it is.

    Writes: index [8, points], rows of the level; FRACTION, position within the cell; SLOPE, if `inner`, the derivative
    of that with respect to the position: the level's scale, or 0 if the position had to be moved into the cube.
    """
    f = len(features)
    size = LANES // f
    scale, vertices = levels.scale[level], np.uint32(levels.vertices[level])
    last_cell = np.int32(levels.vertices[level] - 2)
    for axis in range(points.shape[0]):  # 3; a loop that the compiler does not unroll
        for i in range(count):
            p = points[axis, first + i]
            p = p if p > ZERO else ZERO  # NaN too
            p = (p if p < ONE else ONE) * scale + HALF
            cell = np.int32(p)
            cell = cell if cell < last_cell else last_cell
            index[axis * size + i] = np.uint32(cell)
            fraction = p - np.float32(cell)
            for k in range(f):
                s[(FRACTION + axis) * LANES + i * f + k] = fraction
        if inner:
            for i in range(count):
                p = points[axis, first + i]
                slope = scale if p >= ZERO and p <= ONE else ZERO
                for k in range(f):
                    s[(SLOPE + axis) * LANES + i * f + k] = slope
    if levels.hashed[level]:
        mask = np.uint32(levels.offset[level + 1] - levels.offset[level] - 1)
        for i in range(size):
            x = index[i]
            y, z = np.uint32(index[size + i] * PRIME_Y), np.uint32(index[2 * size + i] * PRIME_Z)
            nx, ny, nz = np.uint32(x + UNIT), np.uint32(y + PRIME_Y), np.uint32(z + PRIME_Z)
            index[i] = (x ^ y ^ z) & mask
            index[size + i] = (nx ^ y ^ z) & mask
            index[2 * size + i] = (x ^ ny ^ z) & mask
            index[3 * size + i] = (nx ^ ny ^ z) & mask
            index[4 * size + i] = (x ^ y ^ nz) & mask
            index[5 * size + i] = (nx ^ y ^ nz) & mask
            index[6 * size + i] = (x ^ ny ^ nz) & mask
            index[7 * size + i] = (nx ^ ny ^ nz) & mask
    else:
        layer = np.uint32(vertices * vertices)
        for i in range(size):
            lower = np.uint32(index[i] + np.uint32(vertices * index[size + i]) + np.uint32(layer * index[2 * size + i]))
            upper = np.uint32(lower + layer)
            index[i] = lower
            index[size + i] = lower + UNIT
            index[2 * size + i] = lower + vertices
            index[3 * size + i] = lower + vertices + UNIT
            index[4 * size + i] = upper
            index[5 * size + i] = upper + UNIT
            index[6 * size + i] = upper + vertices
            index[7 * size + i] = upper + vertices + UNIT


@inline
def _smooth(s):
    """From the position in the cell to the weight of its upper corners, its derivative, and its second derivative."""
    for k in range(3 * LANES):
        f, slope = s[FRACTION * LANES + k], s[SLOPE * LANES + k]
        s[FRACTION * LANES + k] = f * f * (np.float32(3) - np.float32(2) * f)
        s[SLOPE * LANES + k] = np.float32(6) * f * (ONE - f) * slope
        s[CURVE * LANES + k] = (np.float32(6) - np.float32(12) * f) * slope * slope


@inline
def _fetch(rows, index, count, features, words):
    """Copy the corners' rows; a word is two features, or one if there is no other."""
    size = LANES // len(features)
    n = max(len(features) // 2, 1)
    corner = CORNER * size * n
    for i in range(count):
        for w in range(n):
            r0, r1 = rows[index[i] * n + w], rows[index[size + i] * n + w]
            r2, r3 = rows[index[2 * size + i] * n + w], rows[index[3 * size + i] * n + w]
            r4, r5 = rows[index[4 * size + i] * n + w], rows[index[5 * size + i] * n + w]
            r6, r7 = rows[index[6 * size + i] * n + w], rows[index[7 * size + i] * n + w]
            k = corner + i * n + w
            words[k], words[k + size * n] = r0, r1
            words[k + 2 * size * n], words[k + 3 * size * n] = r2, r3
            words[k + 4 * size * n], words[k + 5 * size * n] = r4, r5
            words[k + 6 * size * n], words[k + 7 * size * n] = r6, r7


@inline
def _copy_in(source, first, count, level, features, row, words):
    """A level's part of a contiguous matrix of words [points, L * n] into a row of the scratch memory."""
    n = max(len(features) // 2, 1)
    start = row * (LANES // len(features)) * n
    for i in range(count):
        for w in range(n):
            words[start + i * n + w] = source[first + i, level * n + w]


@inline
def _copy_out(target, first, count, level, features, row, words):
    """The opposite of `_copy_in`."""
    n = max(len(features) // 2, 1)
    start = row * (LANES // len(features)) * n
    for i in range(count):
        for w in range(n):
            target[first + i, level * n + w] = words[start + i * n + w]


@inline
def _value(weight, s):
    """VALUE: the interpolated features. Pairs of corners along x, of edges along y, of faces along z."""
    for k in range(LANES):
        x, y, z = s[FRACTION * LANES + k], s[(FRACTION + 1) * LANES + k], s[(FRACTION + 2) * LANES + k]
        c = CORNER * LANES + k
        c0, c2, c4, c6 = s[c], s[c + 2 * LANES], s[c + 4 * LANES], s[c + 6 * LANES]
        e0, e1 = c0 + x * (s[c + LANES] - c0), c2 + x * (s[c + 3 * LANES] - c2)
        e2, e3 = c4 + x * (s[c + 5 * LANES] - c4), c6 + x * (s[c + 7 * LANES] - c6)
        f0, f1 = e0 + y * (e1 - e0), e2 + y * (e3 - e2)
        s[VALUE * LANES + k] = weight * (f0 + z * (f1 - f0))


@inline
def _value_and_slope(weight, s):
    """VALUE, and FIRST: its derivatives with respect to the position."""
    for k in range(LANES):
        x, y, z = s[FRACTION * LANES + k], s[(FRACTION + 1) * LANES + k], s[(FRACTION + 2) * LANES + k]
        c = CORNER * LANES + k
        c0, c2, c4, c6 = s[c], s[c + 2 * LANES], s[c + 4 * LANES], s[c + 6 * LANES]
        d0, d1 = s[c + LANES] - c0, s[c + 3 * LANES] - c2
        d2, d3 = s[c + 5 * LANES] - c4, s[c + 7 * LANES] - c6
        e0, e1, e2, e3 = c0 + x * d0, c2 + x * d1, c4 + x * d2, c6 + x * d3
        g0, g1, dx0, dx1 = e1 - e0, e3 - e2, d0 + y * (d1 - d0), d2 + y * (d3 - d2)
        f0, f1 = e0 + y * g0, e2 + y * g1
        s[VALUE * LANES + k] = weight * (f0 + z * (f1 - f0))
        s[FIRST * LANES + k] = weight * s[SLOPE * LANES + k] * (dx0 + z * (dx1 - dx0))
        s[(FIRST + 1) * LANES + k] = weight * s[(SLOPE + 1) * LANES + k] * (g0 + z * (g1 - g0))
        s[(FIRST + 2) * LANES + k] = weight * s[(SLOPE + 2) * LANES + k] * (f1 - f0)


@inline
def _along(direction, first, count, features, s):
    """VALUE: the derivative along each point's direction [3, n], from those in FIRST."""
    f = len(features)
    for i in range(count):
        u, v, w = direction[0, first + i], direction[1, first + i], direction[2, first + i]
        for k in range(i * f, i * f + f):
            s[VALUE * LANES + k] = (
                u * s[FIRST * LANES + k] + v * s[(FIRST + 1) * LANES + k] + w * s[(FIRST + 2) * LANES + k]
            )


@inline
def _outer(direction, first, count, features, s):
    """The opposite: FIRST, if VALUE is a derivative with respect to what `_along` computes. VALUE becomes 0."""
    f = len(features)
    for i in range(count):
        u, v, w = direction[0, first + i], direction[1, first + i], direction[2, first + i]
        for k in range(i * f, i * f + f):
            s[FIRST * LANES + k] = u * s[VALUE * LANES + k]
            s[(FIRST + 1) * LANES + k] = v * s[VALUE * LANES + k]
            s[(FIRST + 2) * LANES + k] = w * s[VALUE * LANES + k]
            s[VALUE * LANES + k] = ZERO


@inline
def _spread(weight, s):
    """CORNER: derivatives of a loss with respect to the corners, from those with respect to VALUE and FIRST.

    Each pair of corners gets what its interpolation got: weights of a pair sum to 1, derivatives of weights to 0.
    """
    for k in range(LANES):
        x, y, z = s[FRACTION * LANES + k], s[(FRACTION + 1) * LANES + k], s[(FRACTION + 2) * LANES + k]
        v = weight * s[VALUE * LANES + k]
        c = CORNER * LANES + k
        dx = weight * s[FIRST * LANES + k] * s[SLOPE * LANES + k]
        dy = weight * s[(FIRST + 1) * LANES + k] * s[(SLOPE + 1) * LANES + k]
        dz = weight * s[(FIRST + 2) * LANES + k] * s[(SLOPE + 2) * LANES + k]
        f1, dx1, dy1 = z * v + dz, z * dx, z * dy
        f0, dx0, dy0 = v - f1, dx - dx1, dy - dy1
        e1, d1 = y * f0 + dy0, y * dx0
        e3, d3 = y * f1 + dy1, y * dx1
        e0, d0, e2, d2 = f0 - e1, dx0 - d1, f1 - e3, dx1 - d3
        c1, c3, c5, c7 = x * e0 + d0, x * e1 + d1, x * e2 + d2, x * e3 + d3
        s[c], s[c + LANES], s[c + 2 * LANES], s[c + 3 * LANES] = e0 - c1, c1, e1 - c3, c3
        s[c + 4 * LANES], s[c + 5 * LANES], s[c + 6 * LANES], s[c + 7 * LANES] = e2 - c5, c5, e3 - c7, c7


@inline
def _add(rows, index, count, features, s):
    """Add the corners to their rows."""
    f = len(features)
    size = LANES // f
    for i in range(count):
        for corner in range(8):
            row = np.intp(index[corner * size + i]) * f
            k = (CORNER + corner) * LANES + i * f
            for j in range(f):
                rows[row + j] += s[k + j]


@inline
def _position(weight, s):
    """First three of CORNER: derivatives of a loss with respect to the position, from those by VALUE and FIRST.

    For each feature; the position's is their sum. Beside the differences along each axis it takes those along two,
    and with smooth weights the second derivatives of these.
    """
    for k in range(LANES):
        x, y, z = s[FRACTION * LANES + k], s[(FRACTION + 1) * LANES + k], s[(FRACTION + 2) * LANES + k]
        c = CORNER * LANES + k
        c0, c2, c4, c6 = s[c], s[c + 2 * LANES], s[c + 4 * LANES], s[c + 6 * LANES]
        d0, d1 = s[c + LANES] - c0, s[c + 3 * LANES] - c2
        d2, d3 = s[c + 5 * LANES] - c4, s[c + 7 * LANES] - c6
        e0, e1, e2, e3 = c0 + x * d0, c2 + x * d1, c4 + x * d2, c6 + x * d3
        g0, g1, h0, h1 = e1 - e0, e3 - e2, d1 - d0, d3 - d2
        dx0, dx1 = d0 + y * h0, d2 + y * h1
        sx, sy, sz = s[SLOPE * LANES + k], s[(SLOPE + 1) * LANES + k], s[(SLOPE + 2) * LANES + k]
        dx, dy, dz = dx0 + z * (dx1 - dx0), g0 + z * (g1 - g0), e2 + y * g1 - (e0 + y * g0)
        v = weight * s[VALUE * LANES + k]
        vx, vy = weight * s[FIRST * LANES + k], weight * s[(FIRST + 1) * LANES + k]
        vz = weight * s[(FIRST + 2) * LANES + k]
        dxy = sx * sy * (h0 + z * (h1 - h0))
        dxz, dyz = sx * sz * (dx1 - dx0), sy * sz * (g1 - g0)
        s[c] = (v * sx + vx * s[CURVE * LANES + k]) * dx + vy * dxy + vz * dxz
        s[c + LANES] = (v * sy + vy * s[(CURVE + 1) * LANES + k]) * dy + vx * dxy + vz * dyz
        s[c + 2 * LANES] = (v * sz + vz * s[(CURVE + 2) * LANES + k]) * dz + vx * dxz + vy * dyz


@inline
def _weigh(std, first, count, scale, features, s):
    """WEIGHT: of the level for each Gaussian, erf(1 / √(8 σ² scale²)); see `weighting.level_weights`."""
    f = len(features)
    scale = ROOT_8 * scale
    p0, p1, p2, p3, p4, p5 = ERF_UPPER
    q0, q1, q2, q3, q4, q5 = ERF_LOWER
    for i in range(count):
        width = std[first + i] * scale
        x = ONE / (TINY if width < TINY else width)  # NaN stays
        x = ERF_END if x > ERF_END else x
        t = x * x
        upper = p0 + t * (p1 + t * (p2 + t * (p3 + t * (p4 + t * p5))))
        lower = q0 + t * (q1 + t * (q2 + t * (q3 + t * (q4 + t * q5))))
        weight = x * upper / lower
        weight = ONE if weight > ONE else weight
        for k in range(f):
            s[WEIGHT * LANES + i * f + k] = weight


@inline
def _collect(weighted, first_of_all, s):
    """Add VALUE to TOTAL, weighted, and WEIGHT to MASS."""
    if first_of_all:
        for k in range(LANES):
            s[TOTAL * LANES + k] = ZERO
            s[MASS * LANES + k] = ZERO
    if weighted:
        for k in range(LANES):
            s[TOTAL * LANES + k] += s[WEIGHT * LANES + k] * s[VALUE * LANES + k]
            s[MASS * LANES + k] += s[WEIGHT * LANES + k]
    else:
        for k in range(LANES):
            s[TOTAL * LANES + k] += s[VALUE * LANES + k]


@inline
def _share(weighted, s):
    """VALUE: what a Gaussian gets of TOTAL."""
    if weighted:
        for k in range(LANES):
            s[VALUE * LANES + k] = s[WEIGHT * LANES + k] * s[TOTAL * LANES + k]
    else:
        for k in range(LANES):
            s[VALUE * LANES + k] = s[TOTAL * LANES + k]


@inline
def _spread_value(weight, s):
    """CORNER: as `_spread`, without derivatives."""
    for k in range(LANES):
        x, y, z = s[FRACTION * LANES + k], s[(FRACTION + 1) * LANES + k], s[(FRACTION + 2) * LANES + k]
        v = weight * s[VALUE * LANES + k]
        c = CORNER * LANES + k
        f1 = z * v
        f0 = v - f1
        e1, e3 = y * f0, y * f1
        e0, e2 = f0 - e1, f1 - e3
        c1, c3, c5, c7 = x * e0, x * e1, x * e2, x * e3
        s[c], s[c + LANES], s[c + 2 * LANES], s[c + 3 * LANES] = e0 - c1, c1, e1 - c3, c3
        s[c + 4 * LANES], s[c + 5 * LANES], s[c + 6 * LANES], s[c + 7 * LANES] = e2 - c5, c5, e3 - c7, c7


# The functions that Python calls. Arrays that are not needed are empty.


@jit
def interpolate(points, start, stop, table, levels, features, values, jacobian, direction, work):
    """Features of some points, and their derivatives [3, n, words] if there is room for them.

    If a direction [3, n] is given, the derivatives along it take the place of the features.
    """
    f = len(features)
    size, n = LANES // f, max(f // 2, 1)
    inner = jacobian.shape[0] > 0 or direction.shape[0] > 0
    for level in range(levels.weight.size):
        rows = table[levels.offset[level] * n : levels.offset[level + 1] * n]
        for first in range(start, stop, size):
            count = stop - first if stop - first < size else size
            _locate(points, first, count, level, levels, features, inner, work.index, work.numbers)
            if levels.smooth:
                _smooth(work.numbers)
            _fetch(rows, work.index, count, features, work.words)
            if inner:
                _value_and_slope(levels.weight[level], work.numbers)
                for axis in range(jacobian.shape[0]):
                    _copy_out(jacobian[axis], first, count, level, features, FIRST + axis, work.words)
                if direction.shape[0] > 0:
                    _along(direction, first, count, features, work.numbers)
            else:
                _value(levels.weight[level], work.numbers)
            _copy_out(values, first, count, level, features, VALUE, work.words)


@jit
def table_gradient(points, chunk, first_level, step, levels, features, values, jacobian, direction, gradient, work):
    """Derivatives of a loss with respect to the rows of every `step`-th level."""
    f = len(features)
    size = LANES // f
    inner = jacobian.shape[0] > 0 or direction.shape[0] > 0
    for level in range(first_level, levels.weight.size, step):
        for k in range(levels.offset[level] * f, levels.offset[level + 1] * f):
            gradient[k] = ZERO
    for start in range(0, points.shape[1], chunk):
        stop = start + chunk if start + chunk < points.shape[1] else points.shape[1]
        for level in range(first_level, levels.weight.size, step):
            rows = gradient[levels.offset[level] * f : levels.offset[level + 1] * f]
            for first in range(start, stop, size):
                count = stop - first if stop - first < size else size
                _locate(points, first, count, level, levels, features, inner, work.index, work.numbers)
                if levels.smooth:
                    _smooth(work.numbers)
                _copy_in(values, first, count, level, features, VALUE, work.words)
                for axis in range(jacobian.shape[0]):
                    _copy_in(jacobian[axis], first, count, level, features, FIRST + axis, work.words)
                if direction.shape[0] > 0:
                    _outer(direction, first, count, features, work.numbers)
                _spread(levels.weight[level], work.numbers)
                _add(rows, work.index, count, features, work.numbers)


@jit
def position_gradient(points, start, stop, table, levels, features, values, jacobian, direction, gradient, sums, work):
    """Derivatives of a loss with respect to some positions [n, 3]. Sums are 0 before."""
    f = len(features)
    size, n = LANES // f, max(f // 2, 1)
    for level in range(levels.weight.size):
        rows = table[levels.offset[level] * n : levels.offset[level + 1] * n]
        for first in range(start, stop, size):
            count = stop - first if stop - first < size else size
            _locate(points, first, count, level, levels, features, True, work.index, work.numbers)
            if levels.smooth:
                _smooth(work.numbers)
            _fetch(rows, work.index, count, features, work.words)
            _copy_in(values, first, count, level, features, VALUE, work.words)
            for axis in range(jacobian.shape[0]):
                _copy_in(jacobian[axis], first, count, level, features, FIRST + axis, work.words)
            if direction.shape[0] > 0:
                _outer(direction, first, count, features, work.numbers)
            _position(levels.weight[level], work.numbers)
            block = sums[(first - start) // size]
            for k in range(3 * LANES):
                block[k] += work.numbers[CORNER * LANES + k]
    for i in range(stop - start):
        for axis in range(3):
            total = ZERO
            for k in range(f):
                total += sums[i // size, axis * LANES + (i % size) * f + k]
            gradient[start + i, axis] = total


# Of Gaussians: a block takes the first of each of its groups, then the second, and so on; sums stay where they are.


@jit
def gaussian_features(points, std, samples, start, stop, table, levels, features, values, weights, work):
    """Means over each group's Gaussians of features, and of the levels' weights [n, levels] if there is room for them.

    Points are [3, samples * n], their standard deviations [samples * n]; if there are none, all weights are 1.
    """
    f = len(features)
    size, n = LANES // f, max(f // 2, 1)
    groups, weighted, share = points.shape[1] // samples, std.size > 0, ONE / np.float32(samples)
    for level in range(levels.weight.size):
        rows = table[levels.offset[level] * n : levels.offset[level + 1] * n]
        for first in range(start, stop, size):
            count = stop - first if stop - first < size else size
            for sample in range(samples):
                place = sample * groups + first
                _locate(points, place, count, level, levels, features, False, work.index, work.numbers)
                if levels.smooth:
                    _smooth(work.numbers)
                _fetch(rows, work.index, count, features, work.words)
                _value(share * levels.weight[level], work.numbers)
                if weighted:
                    _weigh(std, place, count, levels.scale[level], features, work.numbers)
                _collect(weighted, sample == 0, work.numbers)
            _copy_out(values, first, count, level, features, TOTAL, work.words)
            if weights.shape[0] > 0:
                for i in range(count):
                    weights[first + i, level] = share * work.numbers[MASS * LANES + i * f]


@jit
def gaussian_table_gradient(points, std, samples, chunk, first_level, step, levels, features, values, gradient, work):
    """Derivatives of a loss with respect to the rows of every `step`-th level."""
    f = len(features)
    size = LANES // f
    groups, weighted, share = points.shape[1] // samples, std.size > 0, ONE / np.float32(samples)
    for level in range(first_level, levels.weight.size, step):
        for k in range(levels.offset[level] * f, levels.offset[level + 1] * f):
            gradient[k] = ZERO
    for start in range(0, groups, chunk):
        stop = start + chunk if start + chunk < groups else groups
        for level in range(first_level, levels.weight.size, step):
            rows = gradient[levels.offset[level] * f : levels.offset[level + 1] * f]
            for first in range(start, stop, size):
                count = stop - first if stop - first < size else size
                _copy_in(values, first, count, level, features, TOTAL, work.words)
                for sample in range(samples):
                    place = sample * groups + first
                    _locate(points, place, count, level, levels, features, False, work.index, work.numbers)
                    if levels.smooth:
                        _smooth(work.numbers)
                    if weighted:
                        _weigh(std, place, count, levels.scale[level], features, work.numbers)
                    _share(weighted, work.numbers)
                    _spread_value(share * levels.weight[level], work.numbers)
                    _add(rows, work.index, count, features, work.numbers)


@jit
def gaussian_position_gradient(points, std, samples, start, stop, table, levels, features, values, result, sums, work):
    """Derivatives of a loss with respect to the points of some groups [n, samples, 3]. Sums are 0 before."""
    f = len(features)
    size, n = LANES // f, max(f // 2, 1)
    groups, weighted, share = points.shape[1] // samples, std.size > 0, ONE / np.float32(samples)
    for level in range(levels.weight.size):
        rows = table[levels.offset[level] * n : levels.offset[level + 1] * n]
        for first in range(start, stop, size):
            count = stop - first if stop - first < size else size
            _copy_in(values, first, count, level, features, TOTAL, work.words)
            for sample in range(samples):
                place = sample * groups + first
                _locate(points, place, count, level, levels, features, True, work.index, work.numbers)
                if levels.smooth:
                    _smooth(work.numbers)
                _fetch(rows, work.index, count, features, work.words)
                if weighted:
                    _weigh(std, place, count, levels.scale[level], features, work.numbers)
                _share(weighted, work.numbers)
                _position(share * levels.weight[level], work.numbers)
                block = sums[sample, (first - start) // size]
                for k in range(3 * LANES):
                    block[k] += work.numbers[CORNER * LANES + k]
    for i in range(stop - start):
        for sample in range(samples):
            for axis in range(3):
                total = ZERO
                for k in range(f):
                    total += sums[sample, i // size, axis * LANES + (i % size) * f + k]
                result[start + i, sample, axis] = total
