"""The layers of one block: what the loop of `numba_cpu` consists of.

A block's arrays are matrices with a row per unit and a column per point of the batch. Numbers of rows are multiples of
ROWS, numbers of points multiples of WIDE_LANES: there are no remainders. Weights are the rows of a matrix one after the
other. Products of matrices are written with explicit vectors, in tiles of ROWS rows whose sums stay in registers; LLVM
vectorizes the other loops as they are, once exp and its like are ordinary arithmetic (numba's call a library for each
number).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from miner_ns.kernels.simd import (
    LANES,
    OPTIONS,
    ROWS,
    WIDE_LANES,
    fill,
    fill_wide,
    load,
    load_wide,
    store,
    store_sums,
    sum_lanes,
)

assert ROWS == 4, "the tiles below are written out for four rows"

SIGMOID, SINE, LINEAR = 0, 1, 2
"""Output functions, as compiled code knows them."""

# Sums may be added up in any order, or they are not vectorized. Not in functions that round by adding (see _SHIFT).
SUM_OPTIONS = OPTIONS | dict(fastmath=OPTIONS["fastmath"] | {"reassoc"})

ONE, ZERO, HALF, TWO = np.float32(1.0), np.float32(0.0), np.float32(0.5), np.float32(2.0)

_SHIFT = np.float32(1.5 * 2**23)
"""Added to a float32 below 2^22, it leaves no bits for a fraction: the sum is rounded, and holds the nearest integer in
its lowest bits."""

# Coefficients that make the largest relative error smallest: of 2^f for f in ±½; of sin r = r + r³ p(r²) for r in ±π/2;
# of 2 artanh s = s p(s²) for s from 0 to ⅓.
_EXP2 = tuple(np.float32(c) for c in (1.0000000717, 0.693146967, 0.240221197, 0.055507133, 0.0096755415, 0.0013276472))
_SIN = tuple(np.float32(c) for c in (-0.16666659550, 0.00833306625, -0.00019809603, 2.6057805e-6))
_ARTANH = tuple(np.float32(c) for c in (2.0, 0.6666631473, 0.4002490871, 0.2796062115, 0.2817826300))

_LOG2_E, _ONE_OVER_PI = np.float32(1.4426950408889634), np.float32(0.3183098861837907)
_PI, _PI_REST = np.float32(3.1415927410125732), np.float32(-8.742278e-08)  # their sum has twice the digits
_HALF_PI = np.float32(1.5707963267948966)
EXP_LIMIT = np.float32(80.0)
"""Of exponents: neither e^80 nor e^−80 is out of range or denormal."""


@njit(**OPTIONS)
def _whole(size):
    """The size, which is a multiple of LANES; put like this, LLVM knows, and makes no second loop for a remainder."""
    return size // LANES * LANES


@njit(**OPTIONS)
def exp(x):
    """e^x, for x up to EXP_LIMIT and limited to at least its negative: relative error below 2e-7 (1 + |x|)."""
    x = -EXP_LIMIT if x < -EXP_LIMIT else x
    shifted = x * _LOG2_E + _SHIFT
    f = x * _LOG2_E - (shifted - _SHIFT)  # in ±½, where the polynomial is 2^f
    power = ((((_EXP2[5] * f + _EXP2[4]) * f + _EXP2[3]) * f + _EXP2[2]) * f + _EXP2[1]) * f + _EXP2[0]
    n = np.float32(shifted).view(np.int32) << 23  # the integer, moved to where the exponent starts
    return np.int32(np.float32(power).view(np.int32) + n).view(np.float32)


@njit(**OPTIONS)
def sin(x):
    """Sine of x in radians: absolute error below 2e-7 (1 + |x|), on CPUs with fused multiply-add below 2e-7."""
    shifted = x * _ONE_OVER_PI + _SHIFT
    n = shifted - _SHIFT
    r = x - n * _PI - n * _PI_REST  # in ±π/2
    q = r * r
    wave = (((_SIN[3] * q + _SIN[2]) * q + _SIN[1]) * q + _SIN[0]) * q * r + r
    odd = np.float32(shifted).view(np.int32) << 31  # whether the integer is odd, moved to the sign
    return np.int32(np.float32(wave).view(np.int32) ^ odd).view(np.float32)


@njit(**OPTIONS)
def cos(x):
    """Cosine of x in radians."""
    return sin(x + _HALF_PI)


@njit(**OPTIONS)
def log1p_unit(x):
    """log(1 + x) for x from 0 to 1, from the series of the inverse hyperbolic tangent."""
    s = x / (x + TWO)
    q = s * s
    return ((((_ARTANH[4] * q + _ARTANH[3]) * q + _ARTANH[2]) * q + _ARTANH[1]) * q + _ARTANH[0]) * s


@njit(**OPTIONS)
def _products(weight, start, row, column, below, p, sums):
    """Four rows of weights times WIDE_LANES points, added to `sums`.

    Args:
        weight: the matrix, in which the first row starts at `start`, with `row` from one to the next, and `column` from
            an element of a row to the next.
        below: [columns, points], of which those from `p` on are meant.
    """
    sum0, sum1, sum2, sum3 = sums
    for k in range(below.shape[0]):
        x, w = load_wide(below, k, p), start + k * column
        sum0 += weight[w] * x
        sum1 += weight[w + row] * x
        sum2 += weight[w + 2 * row] * x
        sum3 += weight[w + 3 * row] * x
    return sum0, sum1, sum2, sum3


@njit(**OPTIONS)
def linear(weight, bias, below, z):
    """z = weight · below + bias.

    Args:
        weight, bias: [N · K] and [N].
        below: [K, points].
        z: [N, points], written.
    """
    columns = below.shape[0]
    for n in range(0, bias.size, ROWS):
        for p in range(0, below.shape[1], WIDE_LANES):
            sums = fill_wide(bias[n]), fill_wide(bias[n + 1]), fill_wide(bias[n + 2]), fill_wide(bias[n + 3])
            sum0, sum1, sum2, sum3 = _products(weight, n * columns, columns, 1, below, p, sums)
            store(z, n, p, sum0)
            store(z, n + 1, p, sum1)
            store(z, n + 2, p, sum2)
            store(z, n + 3, p, sum3)


@njit(**OPTIONS)
def gaussian(z, variance, h):
    """h = exp(−z² / 2 variance), for all units of a layer. Apart from `linear`: exp needs the registers of the sums."""
    factor = -HALF / variance
    for unit in range(z.shape[0]):
        z_row, h_row = z[unit], h[unit]
        for p in range(_whole(z_row.size)):
            h_row[p] = exp(z_row[p] * z_row[p] * factor)


@njit(**SUM_OPTIONS)
def output_gradient(z, targets, weights, channels, output, cross_entropy, gain, amplitude, delta):
    """Losses at the output, and their derivative.

    Args:
        z: [C, points], before the output function.
        targets: [C, points].
        weights: of the points; 0 for padding.
        channels: rows that are not padding.
        output: SIGMOID, SINE or LINEAR.
        cross_entropy: the loss is that of the sigmoid, else ½ (y − t)².
        gain, amplitude: of the sine.
        delta: [C, points], written: derivative of the summed loss with respect to z.
    Returns: summed squared error, summed cross entropy, and the derivative of the loss with respect to the gain.
    """
    squared, entropy, gain_slope = ZERO, ZERO, ZERO
    for channel in range(channels):
        z_row, t_row, d_row = z[channel], targets[channel], delta[channel]
        for p in range(_whole(z_row.size)):
            x = z_row[p]
            if output == SIGMOID:
                y = ONE / (ONE + exp(EXP_LIMIT if -x > EXP_LIMIT else -x))
                error = y - t_row[p]
                slope = weights[p] * error
                if cross_entropy:  # softplus(x) − x t, where softplus(x) = max(x, 0) + log(1 + exp(−|x|))
                    softplus = max(x, ZERO) + log1p_unit(exp(-abs(x)))
                    entropy += weights[p] * (softplus - x * t_row[p])
                else:
                    slope = slope * y * (ONE - y)
            elif output == SINE:
                error = amplitude * sin(gain * x) - t_row[p]
                slope = weights[p] * error * amplitude * cos(gain * x)
                gain_slope += slope * x
                slope = slope * gain
            else:
                error = x - t_row[p]
                slope = weights[p] * error
            d_row[p] = slope
            squared += weights[p] * error * error
    return squared, entropy, gain_slope


@njit(**OPTIONS)
def weight_gradient(delta, below, weight, bias):
    """Derivative with respect to a linear layer's parameters.

    Args:
        delta: [N, points], derivative with respect to its output.
        below: [K, points], its input.
        weight, bias: [N · K] and [N], written.
    """
    for n in range(bias.size):
        total = fill(ZERO)
        for p in range(0, delta.shape[1], LANES):
            total += load(delta, n, p)
        bias[n] = sum_lanes(total)
    zero, columns = fill(ZERO), below.shape[0]
    for n in range(0, bias.size, ROWS):
        for k in range(0, columns, ROWS):
            s00, s01, s02, s03 = zero, zero, zero, zero
            s10, s11, s12, s13 = zero, zero, zero, zero
            s20, s21, s22, s23 = zero, zero, zero, zero
            s30, s31, s32, s33 = zero, zero, zero, zero
            for p in range(0, delta.shape[1], LANES):
                x0, x1 = load(below, k, p), load(below, k + 1, p)
                x2, x3 = load(below, k + 2, p), load(below, k + 3, p)
                d = load(delta, n, p)
                s00, s01, s02, s03 = s00 + d * x0, s01 + d * x1, s02 + d * x2, s03 + d * x3
                d = load(delta, n + 1, p)
                s10, s11, s12, s13 = s10 + d * x0, s11 + d * x1, s12 + d * x2, s13 + d * x3
                d = load(delta, n + 2, p)
                s20, s21, s22, s23 = s20 + d * x0, s21 + d * x1, s22 + d * x2, s23 + d * x3
                d = load(delta, n + 3, p)
                s30, s31, s32, s33 = s30 + d * x0, s31 + d * x1, s32 + d * x2, s33 + d * x3
            tile = (s00, s01, s02, s03, s10, s11, s12, s13, s20, s21, s22, s23, s30, s31, s32, s33)
            store_sums(weight, n * columns + k, columns, tile)


@njit(**OPTIONS)
def hidden_gradient(weight, delta, z, h, variance, below_delta):
    """Pass the derivative down through a linear layer and the activation below it.

    Args:
        weight: [N · K], of the linear layer.
        delta: [N, points], derivative with respect to its output.
        z, h: [K, points], before and after the activation.
        variance: of the activation.
        below_delta: [K, points], written: derivative with respect to z.
    Returns: the derivative with respect to the variance, times 2 variance².
    """
    zero, total, factor, columns = fill_wide(ZERO), fill_wide(ZERO), -ONE / variance, z.shape[0]
    for k in range(0, columns, ROWS):
        for p in range(0, delta.shape[1], WIDE_LANES):
            sum0, sum1, sum2, sum3 = _products(weight, k, 1, columns, delta, p, (zero, zero, zero, zero))
            total = _through_gaussian(sum0, z, h, factor, below_delta, k, p, total)
            total = _through_gaussian(sum1, z, h, factor, below_delta, k + 1, p, total)
            total = _through_gaussian(sum2, z, h, factor, below_delta, k + 2, p, total)
            total = _through_gaussian(sum3, z, h, factor, below_delta, k + 3, p, total)
    return sum_lanes(total)


@njit(**OPTIONS)
def _through_gaussian(slope, z, h, factor, below_delta, k, p, total):
    """From the derivative with respect to the activation's output to that with respect to its input."""
    x = load_wide(z, k, p)
    slope = slope * load_wide(h, k, p) * x
    store(below_delta, k, p, slope * factor)
    return total + slope * x


@njit(**OPTIONS)
def radam_update(theta, first, second, gradient, moving, factor, step_size, beta1, beta2, eps):
    """One step of RAdam.

    Args:
        theta, first, second: parameters and moments, changed.
        gradient: of the summed loss.
        moving: 1, or 0 for padding, which must stay 0.
        factor: on the gradient.
        step_size: from `radam_step_sizes`.
        beta1, beta2, eps: RAdam's.
    """
    for i in range(_whole(theta.size)):
        g = gradient[i] * moving[i] * factor
        first[i] += (ONE - beta1) * (g - first[i])
        second[i] = beta2 * second[i] + (ONE - beta2) * g * g
        theta[i] -= step_size * first[i] / (math.sqrt(second[i]) + eps)
