"""The layers of one block as plain loops: what `numba_cpu` trains with where there is no vector unit that we know.

`simd_layers` has functions of the same names and arguments, on explicit vectors. A block's arrays are matrices with a
row per unit and a column per point of the batch; the numbers of rows are padded to multiples of ROWS.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit

from miner_ns.kernels.simd import OPTIONS, absolute, at_least, cos, exp, log1p_unit, sin, sqrt

SIGMOID, SINE, LINEAR = 0, 1, 2
"""Output functions, as compiled code knows them."""

# Sums may be added up in any order, or they are not vectorized. Not in functions that round by adding (see `simd`).
SUM_OPTIONS = OPTIONS | dict(fastmath=OPTIONS["fastmath"] | {"reassoc"})

ONE, ZERO, HALF = np.float32(1.0), np.float32(0.0), np.float32(0.5)


@njit(**OPTIONS)
def linear(weight, bias, below, z):
    """z = weight · below + bias.

    Args:
        weight, bias: [N, K] and [N].
        below: [K, points].
        z: [N, points], written.
    """
    for unit in range(weight.shape[0]):
        row = z[unit]
        row[:] = bias[unit]
        for k in range(0, weight.shape[1], 4):  # four products per access to z
            x0, x1, x2, x3 = below[k], below[k + 1], below[k + 2], below[k + 3]
            w0, w1, w2, w3 = weight[unit, k], weight[unit, k + 1], weight[unit, k + 2], weight[unit, k + 3]
            for p in range(row.size):
                row[p] += w0 * x0[p] + w1 * x1[p] + w2 * x2[p] + w3 * x3[p]


@njit(**OPTIONS)
def gaussian(z, variance, h):
    """h = exp(−z² / 2 variance), for all units of a layer."""
    factor = -HALF / variance
    for unit in range(z.shape[0]):
        z_row, h_row = z[unit], h[unit]
        for p in range(z_row.size):
            h_row[p] = exp(z_row[p] * z_row[p] * factor)


@njit(**SUM_OPTIONS)
def output_gradient(z, targets, weights, channels, output, cross_entropy, gain, scale, delta):
    """Losses at the output, and their derivative.

    Args:
        z: [C, points], before the output function.
        targets: [C, points].
        weights: of the points; 0 for padding.
        channels: rows that are not padding.
        output: SIGMOID, SINE or LINEAR.
        cross_entropy: the loss is that of the sigmoid, else ½ (y − t)².
        gain, scale: of the sine.
        delta: [C, points], written: derivative of the summed loss with respect to z.
    Returns: summed squared error, summed cross entropy, and the derivative of the loss with respect to the gain.
    """
    squared, entropy, gain_slope = ZERO, ZERO, ZERO
    for channel in range(channels):
        z_row, t_row, d_row = z[channel], targets[channel], delta[channel]
        for p in range(z_row.size):
            if output == SIGMOID:
                y = ONE / (ONE + exp(-z_row[p]))
                error = y - t_row[p]
                slope = weights[p] * error
                if cross_entropy:  # softplus(z) − z t, where softplus(z) = max(z, 0) + log(1 + exp(−|z|))
                    softplus = at_least(z_row[p], ZERO) + log1p_unit(exp(-absolute(z_row[p])))
                    entropy += weights[p] * (softplus - z_row[p] * t_row[p])
                    d_row[p] = slope
                else:
                    d_row[p] = slope * y * (ONE - y)
            elif output == SINE:
                error = scale * sin(gain * z_row[p]) - t_row[p]
                slope = weights[p] * error * scale * cos(gain * z_row[p])
                gain_slope += slope * z_row[p]
                d_row[p] = slope * gain
            else:
                error = z_row[p] - t_row[p]
                d_row[p] = weights[p] * error
            squared += weights[p] * error * error
    return squared, entropy, gain_slope


@njit(**SUM_OPTIONS)
def weight_gradient(delta, below, weight, bias):
    """Derivative with respect to a linear layer's parameters.

    Args:
        delta: [N, points], derivative with respect to its output.
        below: [K, points], its input.
        weight, bias: [N, K] and [N], written.
    """
    for unit in range(weight.shape[0]):
        row = delta[unit]
        total = ZERO
        for p in range(row.size):
            total += row[p]
        bias[unit] = total
        for k in range(0, weight.shape[1], 4):
            x0, x1, x2, x3 = below[k], below[k + 1], below[k + 2], below[k + 3]
            s0, s1, s2, s3 = ZERO, ZERO, ZERO, ZERO
            for p in range(row.size):
                s0 += row[p] * x0[p]
                s1 += row[p] * x1[p]
                s2 += row[p] * x2[p]
                s3 += row[p] * x3[p]
            weight[unit, k], weight[unit, k + 1], weight[unit, k + 2], weight[unit, k + 3] = s0, s1, s2, s3


@njit(**SUM_OPTIONS)
def hidden_gradient(weight, delta, z, h, variance, below_delta):
    """Pass the derivative down through a linear layer and the activation below it.

    Args:
        weight: [N, K], of the linear layer.
        delta: [N, points], derivative with respect to its output.
        z, h: [K, points], before and after the activation.
        variance: of the activation.
        below_delta: [K, points], written: derivative with respect to z.
    Returns: the derivative with respect to the variance, times 2 variance².
    """
    total = ZERO
    factor = -ONE / variance
    for k in range(weight.shape[1]):
        row, z_row, h_row = below_delta[k], z[k], h[k]
        row[:] = ZERO
        for unit in range(0, weight.shape[0], 4):
            d0, d1, d2, d3 = delta[unit], delta[unit + 1], delta[unit + 2], delta[unit + 3]
            w0, w1, w2, w3 = weight[unit, k], weight[unit + 1, k], weight[unit + 2, k], weight[unit + 3, k]
            for p in range(row.size):
                row[p] += w0 * d0[p] + w1 * d1[p] + w2 * d2[p] + w3 * d3[p]
        for p in range(row.size):
            slope = row[p] * h_row[p] * z_row[p]
            total += slope * z_row[p]
            row[p] = slope * factor
    return total


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
    for i in range(theta.size):
        g = gradient[i] * moving[i] * factor
        first[i] += (ONE - beta1) * (g - first[i])
        second[i] = beta2 * second[i] + (ONE - beta2) * g * g
        theta[i] -= step_size * first[i] / (sqrt(second[i]) + eps)


LAYERS: tuple[Callable, ...] = (linear, gaussian, output_gradient, weight_gradient, hidden_gradient, radam_update)
"""What a set of layers consists of."""
