"""Training of blocks on CUDA GPUs: one program per block.

A program loads its block's parameters and the optimizer's state once, keeps them for all steps of the call, and ends
when its block is finished; the GPU then gives its place to the next block. From memory come the encoded positions, the
same for all blocks and therefore in the cache, and the block's own signal.

Matrix products need sizes that are powers of two, so the networks are padded. The first padding column of each layer's
input is 1, and the biases are the weights of that column: a hidden unit without weights has z = 0 and exp(−0) = 1.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from miner_ns.kernels import LOSS_FLOOR, Job, Outcome
from miner_ns.networks import WIDTH_FLOOR, BlockNetwork

LIMITS = {"layers": 4, "inputs": 63, "hidden units": 31, "outputs": 15}
"""The largest networks whose programs fit into 99 kB of shared memory, which every GPU since Ampere has per core."""

TILE = 32
"""Points that are worked on together; a batch is a number of tiles."""

NUM_WARPS = 4

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""triton emulates a GPU on the CPU, for tests."""

SIGMOID, SINE, LINEAR = (tl.constexpr(number) for number in range(3))
VARIANCE_FLOOR, WEIGHT_FLOOR = tl.constexpr(WIDTH_FLOOR), tl.constexpr(LOSS_FLOOR)


def refusal(network: BlockNetwork, device: torch.device) -> str | None:
    """Why these networks cannot be trained here, or None if they can."""
    if device.type != "cuda" and not INTERPRETED:
        return f"triton trains on CUDA GPUs, and the blocks are on {device.type}."
    if network.architecture != "mlp":
        return f"triton has no '{network.architecture}' networks."
    sizes = (network.num_layers, network.num_inputs, network.hidden_dim, network.num_outputs)
    for (name, limit), size in zip(LIMITS.items(), sizes):
        if size > limit:
            return f"triton trains networks of up to {limit} {name}, not {size}."
    return None if INTERPRETED else _failure(device)


@functools.cache
def _failure(device: torch.device) -> str | None:
    """Try a program of one line: triton needs a C compiler for what launches programs, and a GPU that it knows."""
    kernel: Any = _probe
    try:
        with torch.cuda.device(device):
            kernel[(1,)](torch.empty(1, device=device))
    except Exception as error:  # whatever is missing, torch can train
        return f"triton does not work here ({error})."
    return None


@triton.jit
def _probe(x):
    """Write a number."""
    tl.store(x, 1.0)


def _precision(device: torch.device) -> str:
    """How matrices are multiplied: "tf32x3" reaches float32's accuracy on NVIDIA's tensor cores since Ampere."""
    if device.type != "cuda" or torch.version.hip:
        return "ieee"
    return "tf32x3" if torch.cuda.get_device_capability(device) >= (8, 0) else "ieee"


@triton.jit
def _places(start, fan_in, fan_out, K: tl.constexpr, N: tl.constexpr):
    """Where a layer's padded matrix [K, N] is in a row of theta: weights, and below them the biases.

    Returns: places, and which of them exist.
    """
    k, n = tl.arange(0, K)[:, None], tl.arange(0, N)[None, :]
    place = tl.where(k < fan_in, start + n * fan_in + k, start + fan_in * fan_out + n)
    return place, (k <= fan_in) & (n < fan_out)


@triton.jit
def _load(theta, first, second, place, exists):
    """Parameters and moments; padding is 0."""
    return (
        tl.load(theta + place, mask=exists, other=0.0),
        tl.load(first + place, mask=exists, other=0.0),
        tl.load(second + place, mask=exists, other=0.0),
    )


@triton.jit
def _store(theta, first, second, place, exists, w, m, v):
    """Write parameters and moments back."""
    tl.store(theta + place, w, mask=exists)
    tl.store(first + place, m, mask=exists)
    tl.store(second + place, v, mask=exists)


@triton.jit
def _hidden(below, w, a, hidden_dim, N: tl.constexpr, PRECISION: tl.constexpr):
    """A hidden layer.

    Args:
        below: [points, K], its input.
        w: [K, N], weights and biases.
        a: width of the activation.
    Returns: z and exp(−z² / 2a²), [points, N]; the latter is 1 in the column after the last unit, and then 0.
    """
    z = tl.dot(below, w, input_precision=PRECISION)
    unit = tl.arange(0, N)[None, :]
    return z, tl.where(unit <= hidden_dim, tl.exp(z * z * (-0.5 / (a * a + VARIANCE_FLOOR))), 0.0)


@triton.jit
def _below(delta, w, z, h, a, PRECISION: tl.constexpr):
    """Pass the derivative down through a linear layer and the activation below it.

    Args:
        delta: [points, N], derivative with respect to the layer's output.
        w: [K, N], its weights.
        z, h: [points, K], before and after the activation below.
        a: width of that activation.
    Returns: derivatives with respect to z and to a.
    """
    variance = a * a + VARIANCE_FLOOR
    slope = tl.dot(delta, tl.trans(w), input_precision=PRECISION) * h * z
    return slope * (-1.0 / variance), tl.sum(tl.sum(slope * z, axis=1), axis=0) * a / (variance * variance)


@triton.jit
def _weights(below, delta, PRECISION: tl.constexpr):
    """Derivative with respect to a layer's weights and biases."""
    return tl.dot(tl.trans(below), delta, input_precision=PRECISION)


@triton.jit
def _radam(w, m, v, gradient, step_size, beta1, beta2, eps):
    """One step of RAdam (see `radam_step_sizes`).

    Returns: parameters and moments.
    """
    m += (1.0 - beta1) * (gradient - m)
    v = beta2 * v + (1.0 - beta2) * gradient * gradient
    return w - step_size * m / (tl.sqrt(v) + eps), m, v


# Not specialized: numbers that change from call to call; each new kind of number would be compiled anew.
@triton.jit(
    do_not_specialize=["num_points", "num_epochs", "first_epoch", "check_every", "batch_points", "steps_per_epoch"]
)
def _train_block(
    theta,
    first,
    second,
    num_parameters,
    inputs,  # [p, K0]: padded positions of points, then 1, then 0
    targets,  # [n, C, p]
    amplitudes,
    valid,  # [n, p], not read unless MASKED
    order,  # [epochs, p]
    step_sizes,
    losses,
    epochs,
    finished,
    num_points,
    num_epochs,
    first_epoch,
    check_every,
    threshold,
    beta1,
    beta2,
    eps,
    num_inputs,
    hidden_dim,
    num_outputs,
    batch_points,
    steps_per_epoch,
    K0: tl.constexpr,
    H: tl.constexpr,
    C: tl.constexpr,
    LAYERS: tl.constexpr,
    OUTPUT: tl.constexpr,
    CROSS_ENTROPY: tl.constexpr,
    WEIGHT_BY_LOSS: tl.constexpr,
    MASKED: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Train one block until the last epoch, or until it finishes. Layers 1 and 2 are there if LAYERS is 3 or 4."""
    block = tl.program_id(0).to(tl.int64)
    theta += block * num_parameters
    first += block * num_parameters
    second += block * num_parameters
    targets += block * num_outputs * num_points
    valid += block * num_points

    place0, exists0 = _places(0, num_inputs, hidden_dim, K0, H)  # pyright: ignore[reportGeneralTypeIssues]
    w0, m0, v0 = _load(theta, first, second, place0, exists0)
    used = (num_inputs + 1) * hidden_dim
    if LAYERS > 2:
        place1, exists1 = _places(used, hidden_dim, hidden_dim, H, H)
        w1, m1, v1 = _load(theta, first, second, place1, exists1)
        used += (hidden_dim + 1) * hidden_dim
    if LAYERS > 3:
        place2, exists2 = _places(used, hidden_dim, hidden_dim, H, H)
        w2, m2, v2 = _load(theta, first, second, place2, exists2)
        used += (hidden_dim + 1) * hidden_dim
    place_out, exists_out = _places(used, hidden_dim, num_outputs, H, C)
    w_out, m_out, v_out = _load(theta, first, second, place_out, exists_out)
    used += (hidden_dim + 1) * num_outputs
    a0, ma0, va0 = _load(theta, first, second, used, True)
    if LAYERS > 2:
        a1, ma1, va1 = _load(theta, first, second, used + 1, True)
    if LAYERS > 3:
        a2, ma2, va2 = _load(theta, first, second, used + 2, True)
    place_gain = used + LAYERS - 1
    gain, m_gain, v_gain = _load(theta, first, second, place_gain, OUTPUT == SINE)
    amplitude = tl.load(amplitudes + block)

    lane, channel = tl.arange(0, TILE), tl.arange(0, C)
    loss, epoch, done = 0.0, 0, 0
    while (epoch < num_epochs) & (done == 0):
        squared_epoch, counted_epoch = 0.0, 0.0
        for batch in range(0, steps_per_epoch):
            squared, entropy, counted = 0.0, 0.0, 0.0
            g0 = tl.zeros((K0, H), tl.float32)
            g_out = tl.zeros((H, C), tl.float32)
            ga0, g_gain = 0.0, 0.0
            if LAYERS > 2:
                g1, ga1 = tl.zeros((H, H), tl.float32), 0.0
            if LAYERS > 3:
                g2, ga2 = tl.zeros((H, H), tl.float32), 0.0

            for start in range(0, batch_points, TILE):
                position = batch * batch_points + start + lane
                real = (start + lane < batch_points) & (position < num_points)
                point = tl.load(order + epoch * num_points + position, mask=real, other=0)
                weight = real.to(tl.float32)
                if MASKED:
                    weight *= tl.load(valid + point)
                counted += tl.sum(weight, axis=0)
                x = tl.load(inputs + point[:, None] * K0 + tl.arange(0, K0)[None, :])
                wanted = real[:, None] & (channel < num_outputs)[None, :]
                t = tl.load(targets + channel[None, :] * num_points + point[:, None], mask=wanted, other=0.0)
                weights = tl.where(wanted, weight[:, None], 0.0)

                z0, h0 = _hidden(x, w0, a0, hidden_dim, H, PRECISION)
                top = h0
                if LAYERS > 2:
                    z1, h1 = _hidden(h0, w1, a1, hidden_dim, H, PRECISION)
                    top = h1
                if LAYERS > 3:
                    z2, h2 = _hidden(h1, w2, a2, hidden_dim, H, PRECISION)
                    top = h2
                z = tl.dot(top, w_out, input_precision=PRECISION)

                if OUTPUT == SIGMOID:
                    y = 1.0 / (1.0 + tl.exp(-z))
                    error = y - t
                    delta = weights * error
                    if CROSS_ENTROPY:
                        softplus = tl.maximum(z, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(z)))
                        entropy += tl.sum(tl.sum(weights * (softplus - z * t), axis=1), axis=0)
                    else:
                        delta *= y * (1.0 - y)
                elif OUTPUT == SINE:
                    error = amplitude * tl.sin(gain * z) - t
                    slope = weights * error * amplitude * tl.cos(gain * z)
                    g_gain += tl.sum(tl.sum(slope * z, axis=1), axis=0)
                    delta = slope * gain
                else:
                    error = z - t
                    delta = weights * error
                squared += tl.sum(tl.sum(weights * error * error, axis=1), axis=0)

                g_out += _weights(top, delta, PRECISION)
                if LAYERS > 3:
                    delta2, slope_a = _below(delta, w_out, z2, h2, a2, PRECISION)
                    ga2 += slope_a
                    g2 += _weights(h1, delta2, PRECISION)
                    delta1, slope_a = _below(delta2, w2, z1, h1, a1, PRECISION)
                elif LAYERS > 2:
                    delta1, slope_a = _below(delta, w_out, z1, h1, a1, PRECISION)
                if LAYERS > 2:
                    ga1 += slope_a
                    g1 += _weights(h0, delta1, PRECISION)
                    delta0, slope_a = _below(delta1, w1, z0, h0, a0, PRECISION)
                else:
                    delta0, slope_a = _below(delta, w_out, z0, h0, a0, PRECISION)
                ga0 += slope_a
                g0 += _weights(x, delta0, PRECISION)

            squared_epoch += squared
            counted_epoch += counted * num_outputs
            # From the derivative of the sum (for squared errors, of half of it) to that of the weighted mean.
            count = tl.maximum(counted * num_outputs, 1e-12)
            factor = (1.0 if CROSS_ENTROPY else 2.0) / count
            if WEIGHT_BY_LOSS:
                factor /= (entropy if CROSS_ENTROPY else squared) / count + WEIGHT_FLOOR
            size = tl.load(step_sizes + epoch * steps_per_epoch + batch)
            w0, m0, v0 = _radam(w0, m0, v0, g0 * factor, size, beta1, beta2, eps)
            a0, ma0, va0 = _radam(a0, ma0, va0, ga0 * factor, size, beta1, beta2, eps)
            if LAYERS > 2:
                w1, m1, v1 = _radam(w1, m1, v1, g1 * factor, size, beta1, beta2, eps)
                a1, ma1, va1 = _radam(a1, ma1, va1, ga1 * factor, size, beta1, beta2, eps)
            if LAYERS > 3:
                w2, m2, v2 = _radam(w2, m2, v2, g2 * factor, size, beta1, beta2, eps)
                a2, ma2, va2 = _radam(a2, ma2, va2, ga2 * factor, size, beta1, beta2, eps)
            w_out, m_out, v_out = _radam(w_out, m_out, v_out, g_out * factor, size, beta1, beta2, eps)
            gain, m_gain, v_gain = _radam(gain, m_gain, v_gain, g_gain * factor, size, beta1, beta2, eps)

        loss = squared_epoch / tl.maximum(counted_epoch, 1e-12)
        epoch += 1
        done = (((first_epoch + epoch) % check_every == 0) & (loss < threshold)).to(tl.int32)

    _store(theta, first, second, place0, exists0, w0, m0, v0)
    _store(theta, first, second, place_out, exists_out, w_out, m_out, v_out)
    _store(theta, first, second, used, True, a0, ma0, va0)
    if LAYERS > 2:
        _store(theta, first, second, place1, exists1, w1, m1, v1)
        _store(theta, first, second, used + 1, True, a1, ma1, va1)
    if LAYERS > 3:
        _store(theta, first, second, place2, exists2, w2, m2, v2)
        _store(theta, first, second, used + 2, True, a2, ma2, va2)
    _store(theta, first, second, place_gain, OUTPUT == SINE, gain, m_gain, v_gain)
    tl.store(losses + block, loss)
    tl.store(epochs + block, epoch)
    tl.store(finished + block, done)


def train(theta: Float[Tensor, "n P"], first: Float[Tensor, "n P"], second: Float[Tensor, "n P"], job: Job) -> Outcome:
    """Train all blocks in place, each until the last epoch or until it finishes."""
    network, options, device, num_blocks = job.network, job.options, theta.device, len(theta)
    num_points = job.inputs.shape[1]

    def padded(size: int) -> int:
        return max(1 << (size - 1).bit_length(), 16)

    inputs = torch.zeros(num_points, padded(network.num_inputs + 1), device=device)
    inputs[:, : network.num_inputs] = job.inputs.T
    inputs[:, network.num_inputs] = 1
    losses = torch.empty(num_blocks, device=device)
    epochs, finished = (torch.empty(num_blocks, dtype=torch.int32, device=device) for _ in range(2))
    with torch.cuda.device_of(theta):
        kernel: Any = _train_block
        kernel[(num_blocks,)](
            theta,
            first,
            second,
            network.num_parameters,
            inputs,
            job.targets,
            job.amplitudes,
            job.amplitudes if job.valid is None else job.valid,
            job.permutations.to(device, torch.int32).contiguous(),
            torch.from_numpy(job.step_sizes).to(device),
            losses,
            epochs,
            finished,
            num_points,
            len(job.permutations),
            job.first_epoch,
            options.check_every,
            float(options.threshold),
            options.beta1,
            options.beta2,
            options.eps,
            network.num_inputs,
            network.hidden_dim,
            network.num_outputs,
            min(options.batch_points, num_points),
            job.steps_per_epoch,
            K0=inputs.shape[1],
            H=padded(network.hidden_dim + 1),
            C=padded(network.num_outputs),
            LAYERS=network.num_layers,
            OUTPUT={"sigmoid": SIGMOID, "sine": SINE, "linear": LINEAR}[network.output].value,
            CROSS_ENTROPY=options.loss == "bce",
            WEIGHT_BY_LOSS=options.weight_by_loss,
            MASKED=job.valid is not None,
            TILE=TILE,
            PRECISION=_precision(device),
            num_warps=NUM_WARPS,
        )
    return Outcome(losses, epochs.long(), finished.bool())
