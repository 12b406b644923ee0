"""Vectors of float32 in numba, and functions that are accurate to float32, against numpy."""

import numpy as np
import pytest

pytest.importorskip("numba")

from numba import njit

from miner_ns.kernels.numba_layers import EXP_LIMIT, cos, exp, log1p_unit, sin
from miner_ns.kernels.simd import (
    LANES,
    OPTIONS,
    WIDE_LANES,
    fill,
    load,
    load_wide,
    store,
    store_sums,
    sum_lanes,
)


@njit(**OPTIONS)
def _functions(x, out):
    for i in range(x.size):
        v = x[i]
        out[0, i], out[1, i], out[2, i] = exp(v), sin(v), cos(v)
        out[3, i] = log1p_unit(abs(v) / EXP_LIMIT)


def test_functions_are_accurate():
    x = np.linspace(-80, 80, 65536).astype(np.float32)
    out = np.empty((4, x.size), np.float32)
    _functions(x, out)
    exact = x.astype(np.float64)
    allowed = 2e-7 * (1 + np.abs(exact))  # what rounding x itself would do
    assert (np.abs(out[0] / np.exp(exact) - 1) < allowed).all()
    assert (np.abs(out[1] - np.sin(exact)) < allowed).all()
    assert (np.abs(out[2] - np.cos(exact)) < allowed).all()
    assert np.abs(out[3] - np.log1p(np.abs(exact) / 80)).max() < 3e-7


def test_exp_is_limited_and_never_denormal():
    x, out = np.array([-1e30, EXP_LIMIT], np.float32), np.empty((4, 2), np.float32)
    _functions(x, out)
    assert np.finfo(np.float32).tiny < out[0, 0] < 2e-35 and 5e34 < out[0, 1] < np.inf


def test_operators_take_vectors_and_numbers():
    @njit(**OPTIONS)
    def compute(x, y, out):
        a, b, number = load_wide(x, 0, 0), load_wide(y, 0, 0), np.float32(3)
        total = number * a + b * number + a * b
        total += number
        total += a + number
        store(out, 0, 0, total)
        store(out, 1, 0, fill(number) + load(x, 0, 0))

    generator = np.random.default_rng(0)
    x, y = (generator.uniform(1, 8, (1, WIDE_LANES)).astype(np.float32) for _ in range(2))
    out = np.zeros((2, WIDE_LANES), np.float32)
    compute(x, y, out)
    assert np.allclose(out[0], 3 * x + 3 * y + x * y + x + 6, rtol=1e-5)
    assert (out[1, :LANES] == 3 + x[0, :LANES]).all() and (out[1, LANES:] == 0).all()


def test_sums_over_lanes():
    @njit(**OPTIONS)
    def compute(x, square, total):
        r0, r1, r2, r3 = load(x, 0, 1), load(x, 1, 1), load(x, 2, 1), load(x, 3, 1)
        r4, r5, r6, r7 = load(x, 4, 1), load(x, 5, 1), load(x, 6, 1), load(x, 7, 1)
        r8, r9, r10, r11 = load(x, 8, 1), load(x, 9, 1), load(x, 10, 1), load(x, 11, 1)
        r12, r13, r14, r15 = load(x, 12, 1), load(x, 13, 1), load(x, 14, 1), load(x, 15, 1)
        store_sums(square, 9, 7, (r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13, r14, r15))
        total[0] = sum_lanes(load_wide(x, 0, 1))

    x = np.random.default_rng(0).normal(size=(16, WIDE_LANES + 1)).astype(np.float32)
    square, total = np.zeros((6, 7), np.float32), np.zeros(1, np.float32)
    compute(x, square.reshape(-1), total)
    expected = np.zeros((6, 7))
    expected[1:5, 2:6] = x[:, 1 : 1 + LANES].astype(np.float64).sum(1).reshape(4, 4)
    assert np.allclose(square, expected, atol=1e-5)
    assert np.allclose(total, x[0, 1:].astype(np.float64).sum(), atol=1e-5)
