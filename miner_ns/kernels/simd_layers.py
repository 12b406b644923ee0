"""The layers of one block on explicit vectors: the same functions as in `numba_layers`, several times as fast.

Matrices are worked on in tiles of ROWS rows, so that a loaded vector is used for ROWS sums, which stay in registers.
Numbers of rows are multiples of ROWS, numbers of points multiples of WIDE_LANES: there are no remainders.
"""

from __future__ import annotations

from numba import njit

from miner_ns.kernels.numba_layers import HALF, ONE, SIGMOID, SINE, ZERO
from miner_ns.kernels.simd import (
    LANES,
    OPTIONS,
    ROWS,
    WIDE_LANES,
    absolute,
    at_least,
    cos,
    exp,
    fill,
    fill_wide,
    load,
    load_wide,
    log1p_unit,
    sin,
    sqrt,
    store,
    store_sums,
    sum_lanes,
)

assert ROWS == 4, "the tiles below are written out for four rows"


@njit(**OPTIONS)
def linear(weight, bias, below, z):
    """See `numba_layers.linear`."""
    for n in range(0, weight.shape[0], ROWS):
        for p in range(0, below.shape[1], WIDE_LANES):
            sum0, sum1 = fill_wide(bias[n]), fill_wide(bias[n + 1])
            sum2, sum3 = fill_wide(bias[n + 2]), fill_wide(bias[n + 3])
            for k in range(weight.shape[1]):
                x = load_wide(below, (k, p))
                sum0 += weight[n, k] * x
                sum1 += weight[n + 1, k] * x
                sum2 += weight[n + 2, k] * x
                sum3 += weight[n + 3, k] * x
            store(z, (n, p), sum0)
            store(z, (n + 1, p), sum1)
            store(z, (n + 2, p), sum2)
            store(z, (n + 3, p), sum3)


@njit(**OPTIONS)
def gaussian(z, variance, h):
    """See `numba_layers.gaussian`. Apart from `linear`: exp needs the registers that the sums fill there."""
    factor = -HALF / variance
    for n in range(z.shape[0]):
        for p in range(0, z.shape[1], LANES):
            x = load(z, (n, p))
            store(h, (n, p), exp(x * x * factor))


@njit(**OPTIONS)
def output_gradient(z, targets, weights, channels, output, cross_entropy, gain, scale, delta):
    """See `numba_layers.output_gradient`."""
    squared, entropy, gain_slope = fill(ZERO), fill(ZERO), fill(ZERO)
    for channel in range(channels):
        for p in range(0, z.shape[1], LANES):
            x, t, w = load(z, (channel, p)), load(targets, (channel, p)), load(weights, p)
            if output == SIGMOID:
                y = ONE / (ONE + exp(ZERO - x))
                error = y - t
                slope = w * error
                if cross_entropy:
                    softplus = at_least(x, ZERO) + log1p_unit(exp(ZERO - absolute(x)))
                    entropy += w * (softplus - x * t)
                else:
                    slope = slope * y * (ONE - y)
            elif output == SINE:
                error = scale * sin(gain * x) - t
                slope = w * error * scale * cos(gain * x)
                gain_slope += slope * x
                slope = slope * gain
            else:
                error = x - t
                slope = w * error
            store(delta, (channel, p), slope)
            squared += w * error * error
    return sum_lanes(squared), sum_lanes(entropy), sum_lanes(gain_slope)


@njit(**OPTIONS)
def weight_gradient(delta, below, weight, bias):
    """See `numba_layers.weight_gradient`."""
    for n in range(weight.shape[0]):
        total = fill(ZERO)
        for p in range(0, delta.shape[1], LANES):
            total += load(delta, (n, p))
        bias[n] = sum_lanes(total)
    zero = fill(ZERO)
    for n in range(0, weight.shape[0], ROWS):
        for k in range(0, weight.shape[1], ROWS):
            s00, s01, s02, s03 = zero, zero, zero, zero
            s10, s11, s12, s13 = zero, zero, zero, zero
            s20, s21, s22, s23 = zero, zero, zero, zero
            s30, s31, s32, s33 = zero, zero, zero, zero
            for p in range(0, delta.shape[1], LANES):
                x0, x1 = load(below, (k, p)), load(below, (k + 1, p))
                x2, x3 = load(below, (k + 2, p)), load(below, (k + 3, p))
                d = load(delta, (n, p))
                s00, s01, s02, s03 = s00 + d * x0, s01 + d * x1, s02 + d * x2, s03 + d * x3
                d = load(delta, (n + 1, p))
                s10, s11, s12, s13 = s10 + d * x0, s11 + d * x1, s12 + d * x2, s13 + d * x3
                d = load(delta, (n + 2, p))
                s20, s21, s22, s23 = s20 + d * x0, s21 + d * x1, s22 + d * x2, s23 + d * x3
                d = load(delta, (n + 3, p))
                s30, s31, s32, s33 = s30 + d * x0, s31 + d * x1, s32 + d * x2, s33 + d * x3
            store_sums(weight, n, k, (s00, s01, s02, s03, s10, s11, s12, s13, s20, s21, s22, s23, s30, s31, s32, s33))


@njit(**OPTIONS)
def hidden_gradient(weight, delta, z, h, variance, below_delta):
    """See `numba_layers.hidden_gradient`."""
    total, factor = fill_wide(ZERO), -ONE / variance
    for k in range(0, weight.shape[1], ROWS):
        for p in range(0, delta.shape[1], WIDE_LANES):
            sum0, sum1, sum2, sum3 = fill_wide(ZERO), fill_wide(ZERO), fill_wide(ZERO), fill_wide(ZERO)
            for n in range(weight.shape[0]):
                d = load_wide(delta, (n, p))
                sum0 += weight[n, k] * d
                sum1 += weight[n, k + 1] * d
                sum2 += weight[n, k + 2] * d
                sum3 += weight[n, k + 3] * d
            total = _through_gaussian(sum0, z, h, factor, below_delta, k, p, total)
            total = _through_gaussian(sum1, z, h, factor, below_delta, k + 1, p, total)
            total = _through_gaussian(sum2, z, h, factor, below_delta, k + 2, p, total)
            total = _through_gaussian(sum3, z, h, factor, below_delta, k + 3, p, total)
    return sum_lanes(total)


@njit(**OPTIONS)
def _through_gaussian(slope, z, h, factor, below_delta, k, p, total):
    """From the derivative with respect to the activation's output to that with respect to its input."""
    x = load_wide(z, (k, p))
    slope = slope * load_wide(h, (k, p)) * x
    store(below_delta, (k, p), slope * factor)
    return total + slope * x


@njit(**OPTIONS)
def radam_update(theta, first, second, gradient, moving, factor, step_size, beta1, beta2, eps):
    """See `numba_layers.radam_update`."""
    for i in range(0, theta.size, LANES):
        g = load(gradient, i) * load(moving, i) * factor
        m = load(first, i)
        m += (ONE - beta1) * (g - m)
        v = load(second, i) * beta2 + (ONE - beta2) * g * g
        store(first, i, m)
        store(second, i, v)
        store(theta, i, load(theta, i) - step_size * m / (sqrt(v) + eps))
