"""Vectors of float32 in numba against numpy."""

import numpy as np
import pytest

pytest.importorskip("numba")

from numba import njit

from miner_ns.kernels.simd import (
    LANES,
    OPTIONS,
    WIDE_LANES,
    absolute,
    at_least,
    at_most,
    cos,
    exp,
    fill,
    flush_denormals,
    load,
    load_wide,
    log1p_unit,
    matrix,
    restore_denormals,
    sin,
    sqrt,
    store,
    store_sums,
    sum_lanes,
    unowned,
)


@njit(**OPTIONS)
def _functions_of_vectors(x, out):
    for i in range(0, x.size, LANES):
        v = load(x, i)
        store(out, (0, i), exp(v))
        store(out, (1, i), sin(v))
        store(out, (2, i), cos(v))
        store(out, (3, i), log1p_unit(absolute(v) / np.float32(80)))
        store(out, (4, i), sqrt(absolute(v)))


@njit(**OPTIONS)
def _functions_of_numbers(x, out):
    for i in range(x.size):
        v = x[i]
        out[0, i], out[1, i], out[2, i] = exp(v), sin(v), cos(v)
        out[3, i], out[4, i] = log1p_unit(absolute(v) / np.float32(80)), sqrt(absolute(v))


@pytest.mark.parametrize("functions", [_functions_of_vectors, _functions_of_numbers])
def test_functions_are_accurate(functions):
    x = np.linspace(-80, 80, 4096 * LANES).astype(np.float32)
    out = np.empty((5, x.size), np.float32)
    functions(x, out)
    exact = x.astype(np.float64)
    allowed = 2e-7 * (1 + np.abs(exact))  # what rounding x itself would do
    assert (np.abs(out[0] / np.exp(exact) - 1) < allowed).all()
    assert (np.abs(out[1] - np.sin(exact)) < allowed).all()
    assert (np.abs(out[2] - np.cos(exact)) < allowed).all()
    assert np.abs(out[3] - np.log1p(np.abs(exact) / 80)).max() < 3e-7
    assert np.abs(out[4] - np.sqrt(np.abs(exact))).max() < 1e-6


def test_exp_is_limited_and_never_denormal():
    x = np.full(LANES, -1e30, np.float32)
    x[1] = 1e30
    out = np.empty((5, LANES), np.float32)
    _functions_of_vectors(x, out)
    assert np.finfo(np.float32).tiny < out[0, 0] < 2e-35 and 5e34 < out[0, 1] < np.inf


def test_operators_take_vectors_and_numbers():
    @njit(**OPTIONS)
    def compute(x, y, out):
        a, b, number = load_wide(x, (0, 0)), load_wide(y, (0, 0)), np.float32(3)
        total = number * a + b * number - a / b
        total += number / b
        total -= a - number
        total *= b
        total /= number + a
        store(out, (0, 0), total)
        c = load(x, (0, 0))
        store(out, (1, 0), at_most(at_least(c, number), np.float32(5)))
        store(out, (2, 0), fill(number))

    generator = np.random.default_rng(0)
    x, y = (generator.uniform(1, 8, (1, WIDE_LANES)).astype(np.float32) for _ in range(2))
    out = np.zeros((3, WIDE_LANES), np.float32)
    compute(x, y, out)
    assert np.allclose(out[0], (3 * x + 3 * y - x / y + 3 / y - (x - 3)) * y / (3 + x), rtol=1e-5)
    assert (out[1, :LANES] == np.clip(x[0, :LANES], 3, 5)).all() and (out[2, :LANES] == 3).all()


def test_sums_over_lanes():
    @njit(**OPTIONS)
    def compute(x, result):
        r0, r1, r2, r3 = load(x, (0, 1)), load(x, (1, 1)), load(x, (2, 1)), load(x, (3, 1))
        r4, r5, r6, r7 = load(x, (4, 1)), load(x, (5, 1)), load(x, (6, 1)), load(x, (7, 1))
        r8, r9, r10, r11 = load(x, (8, 1)), load(x, (9, 1)), load(x, (10, 1)), load(x, (11, 1))
        r12, r13, r14, r15 = load(x, (12, 1)), load(x, (13, 1)), load(x, (14, 1)), load(x, (15, 1))
        tile = (r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13, r14, r15)
        store_sums(result, 1, 2, tile)
        result[0, 0] = sum_lanes(load_wide(x, (0, 1)))

    x = np.random.default_rng(0).normal(size=(16, WIDE_LANES + 1)).astype(np.float32)
    result = np.zeros((6, 7), np.float32)
    compute(x, result)
    expected = np.zeros((6, 7))
    expected[1:5, 2:6] = x[:, 1 : 1 + LANES].astype(np.float64).sum(1).reshape(4, 4)
    expected[0, 0] = x[0, 1:].astype(np.float64).sum()
    assert np.allclose(result, expected, atol=1e-5)


def test_views_without_owners():
    @njit(**OPTIONS)
    def compute(pair):
        pair = unowned(pair)
        view = matrix(pair[0], 3, 2, 4)
        for row in range(2):
            for column in range(4):
                pair[1][row, column] = view[row, column]
        view[1, 3] = np.float32(-1)

    first, second = np.arange(12, dtype=np.float32), np.zeros((3, 5), np.float32)
    compute((first, second))
    assert (second[:2, :4] == [[3, 4, 5, 6], [7, 8, 9, 10]]).all() and (second[2] == 0).all()
    assert first[10] == -1


def test_denormals_are_flushed_and_restored():
    @njit(**OPTIONS)
    def compute(x, out):
        mode = flush_denormals()
        out[0] = x[0] * np.float32(0.5)
        restore_denormals(mode)
        out[1] = x[0] * np.float32(0.5)

    x, out = np.array([1e-39], np.float32), np.ones(2, np.float32)
    compute(x, out)
    assert out[1] == np.float32(0.5) * x[0] > 0
    from miner_ns.kernels.simd import IS_X86

    assert out[0] == (0 if IS_X86 else out[1])
