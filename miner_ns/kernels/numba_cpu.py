"""Training of blocks on CPUs: one compiled loop per block.

A block's parameters, the optimizer's state and the activations of a batch are some 100 kB. Batched tensor operations
send the activations of all blocks through memory, several times a step. Here a block does all its steps before the next
one begins, so that everything but the encoded positions (shared by all blocks) stays in the core's own cache. Threads
take blocks from a queue: finished blocks do not leave cores idle, as a fixed share of blocks per thread would.

numba compiles at the first use and keeps the result in `__pycache__`, in the user's cache folder if that cannot be
written, or in NUMBA_CACHE_DIR.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numba import njit
from torch import Tensor

from miner_ns.kernels import LOSS_FLOOR, Job, Outcome, numba_layers, simd
from miner_ns.kernels.numba_layers import (
    LINEAR,
    SIGMOID,
    SINE,
    gaussian,
    hidden_gradient,
    linear,
    output_gradient,
    radam_update,
    weight_gradient,
)
from miner_ns.kernels.simd import OPTIONS, ROWS, WIDE_LANES
from miner_ns.networks import WIDTH_FLOOR, BlockNetwork

MAX_GATHERED_BYTES = 64 * 2**20
"""Size of the encoded positions in the order of several epochs; more epochs are done one after the other."""

ZERO, VARIANCE_FLOOR = np.float32(0.0), np.float32(WIDTH_FLOOR)


def refusal(network: BlockNetwork, device: torch.device) -> str | None:
    """Why these networks cannot be trained here, or None if they can."""
    if device.type != "cpu":
        return f"numba trains on the CPU, and the blocks are on {device.type}."
    return None if network.architecture == "mlp" else f"numba has no '{network.architecture}' networks."


class Shape(NamedTuple):
    """Where the padded parameters of a block are."""

    fan_in: Int[np.ndarray, "layers"]
    fan_out: Int[np.ndarray, "layers"]
    weight: Int[np.ndarray, "layers"]
    """Start of each layer's weights, fan_out rows of fan_in."""
    bias: Int[np.ndarray, "layers"]
    widths: int
    """Start of the activations' widths."""
    gain: int
    """Place of the sine's gain; a place without meaning for other outputs."""
    channels: int
    """Outputs that are not padding."""
    places: Int[np.ndarray, "P"]
    """Where each parameter of theta is."""


class Rules(NamedTuple):
    """The options as numbers."""

    output: int
    cross_entropy: bool
    weight_by_loss: bool
    beta1: np.float32
    beta2: np.float32
    eps: np.float32
    threshold: float
    check_every: int
    first_epoch: int


class Blocks(NamedTuple):
    """All blocks: parameters, signals, and what becomes of them."""

    theta: Float[np.ndarray, "n P"]
    first: Float[np.ndarray, "n P"]
    second: Float[np.ndarray, "n P"]
    targets: Float[np.ndarray, "n C p"]
    amplitudes: Float[np.ndarray, "n"]
    valid: Float[np.ndarray, "n p"]
    """Without columns if all points count."""
    losses: Float[np.ndarray, "n"]
    epochs: Int[np.ndarray, "n"]
    finished: Bool[np.ndarray, "n"]


class Batches(NamedTuple):
    """The points in the order in which they are visited."""

    inputs: Float[np.ndarray, "steps F b"]
    order: Int[np.ndarray, "steps b"]
    step_sizes: Float[np.ndarray, "steps"]
    counts: Int[np.ndarray, "batches"]
    """Points that are not padding, of the batches of an epoch."""


class Work(NamedTuple):
    """The memory of the block in training; rows and columns are padded."""

    theta: Float[np.ndarray, "Q"]
    first: Float[np.ndarray, "Q"]
    second: Float[np.ndarray, "Q"]
    gradient: Float[np.ndarray, "Q"]
    moving: Float[np.ndarray, "Q"]
    """1 for parameters, 0 for padding."""
    z: Float[np.ndarray, "layers U b"]
    """Before the activations."""
    h: Float[np.ndarray, "layers U b"]
    """After them."""
    delta: Float[np.ndarray, "2 U b"]
    """Derivatives with respect to z: of a layer, and of the one below."""
    targets: Float[np.ndarray, "C b"]
    weights: Float[np.ndarray, "b"]


# Compiled functions.


@njit(**OPTIONS)
def _gather(block, blocks, order, count, work):
    """Bring the signal of a batch of points into the order of the batch.

    Returns: sum of the points' weights.
    """
    for channel in range(blocks.targets.shape[1]):
        source, target = blocks.targets[block, channel], work.targets[channel]
        for i in range(order.size):
            target[i] = source[order[i]]
    total = ZERO
    work.weights[count:] = ZERO
    for i in range(count):
        weight = blocks.valid[block, order[i]] if blocks.valid.shape[1] > 0 else np.float32(1)
        work.weights[i] = weight
        total += weight
    return total


@njit(**OPTIONS)
def _train_step(inputs, total_weight, step_size, amplitude, shape, rules, work):
    """One optimization step of a block.

    Returns: summed squared error of the batch.
    """
    theta, gradient = work.theta, work.gradient
    last = shape.fan_in.size - 1

    below = inputs
    for i in range(last + 1):
        rows = shape.fan_out[i]
        z, bias = work.z[i][:rows], theta[shape.bias[i] : shape.bias[i] + rows]
        linear(theta[shape.weight[i] : shape.bias[i]], bias, below, z)
        if i < last:
            width = theta[shape.widths + i]
            below = work.h[i][:rows]
            gaussian(z, width * width + VARIANCE_FLOOR, below)

    gain = theta[shape.gain]
    delta, below_delta = work.delta[0], work.delta[1]
    delta[shape.channels : shape.fan_out[last]] = ZERO  # left there by a hidden layer
    squared, entropy, gradient[shape.gain] = output_gradient(
        work.z[last],
        work.targets,
        work.weights,
        shape.channels,
        rules.output,
        rules.cross_entropy,
        gain,
        amplitude,
        delta,
    )
    for i in range(last, -1, -1):
        columns, weight, bias = shape.fan_in[i], shape.weight[i], shape.bias[i]
        slope = delta[: shape.fan_out[i]]
        below = inputs if i == 0 else work.h[i - 1][:columns]
        weight_gradient(slope, below, gradient[weight:bias], gradient[bias : bias + shape.fan_out[i]])
        if i > 0:
            width = theta[shape.widths + i - 1]
            variance = width * width + VARIANCE_FLOOR
            total = hidden_gradient(theta[weight:bias], slope, work.z[i - 1][:columns], below, variance, below_delta)
            gradient[shape.widths + i - 1] = total * width / (variance * variance)
            delta, below_delta = below_delta, delta

    # From the derivative of the sum (for squared errors, of half of it) to that of the weighted mean.
    count = max(total_weight * shape.channels, 1e-12)
    factor = (1.0 if rules.cross_entropy else 2.0) / count
    if rules.weight_by_loss:
        factor /= (entropy if rules.cross_entropy else squared) / count + LOSS_FLOOR
    radam_update(
        theta,
        work.first,
        work.second,
        gradient,
        work.moving,
        np.float32(factor),
        step_size,
        rules.beta1,
        rules.beta2,
        rules.eps,
    )
    return squared


def _train_blocks(start, end, blocks, batches, shape, rules, work):
    """Train blocks from `start` to `end`, one after the other."""
    num_batches = batches.counts.size
    for block in range(start, end):
        if blocks.finished[block]:
            continue
        work.theta[:], work.first[:], work.second[:] = ZERO, ZERO, ZERO  # padding too: the last block may have diverged
        for i in range(shape.places.size):
            place = shape.places[i]
            work.theta[place] = blocks.theta[block, i]
            work.first[place] = blocks.first[block, i]
            work.second[place] = blocks.second[block, i]
        for epoch in range(batches.order.shape[0] // num_batches):
            squared, counted = 0.0, 0.0
            for batch in range(num_batches):
                step = epoch * num_batches + batch
                total = _gather(block, blocks, batches.order[step], batches.counts[batch], work)
                counted += total * shape.channels
                squared += _train_step(
                    batches.inputs[step],
                    total,
                    batches.step_sizes[step],
                    blocks.amplitudes[block],
                    shape,
                    rules,
                    work,
                )
            loss = squared / max(counted, 1e-12)
            blocks.losses[block] = loss
            blocks.epochs[block] += 1
            if (rules.first_epoch + epoch + 1) % rules.check_every == 0 and loss < rules.threshold:
                blocks.finished[block] = True
                break
        for i in range(shape.places.size):
            place = shape.places[i]
            blocks.theta[block, i] = work.theta[place]
            blocks.first[block, i] = work.first[place]
            blocks.second[block, i] = work.second[place]


@functools.cache
def _compiled() -> Any:
    """The loop. Its name tells versions apart on disk: numba sees edits of this file, but not of what it imports."""
    sources = (Path(file) for file in (__file__, numba_layers.__file__, simd.__file__))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    _train_blocks.__qualname__ = f"train_blocks_{digest}"
    try:
        return njit(cache=True, **OPTIONS)(_train_blocks)
    except RuntimeError:  # no folder can be written
        return njit(**OPTIONS)(_train_blocks)


# The caller's side.


def _up(number: int, multiple: int) -> int:
    """Round up to a multiple."""
    return -(-number // multiple) * multiple


@contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Let this thread treat denormal numbers as 0: they take a hundred times as long, and what is left of a Gaussian's
    tail after some products is such."""
    before = bool(np.float32(1e-39) * np.float32(1.0) == 0.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _aligned(*shape: int) -> Float[np.ndarray, "..."]:
    """Zeros that start at a cache line: vectors that straddle two are loaded at half the speed."""
    line = 64
    size = 4 * math.prod(shape)
    raw = np.zeros(size + line, dtype=np.uint8)
    start = -raw.ctypes.data % line
    return raw[start : start + size].view(np.float32).reshape(shape)


def _shape(network: BlockNetwork) -> tuple[Shape, int]:
    """Lay out a block's parameters with padded rows and columns.

    Returns: the layout, and its size.
    """
    layers, rows = network.num_layers, ROWS
    fan_in = [network.num_inputs] + [network.hidden_dim] * (layers - 1)
    fan_out = [network.hidden_dim] * (layers - 1) + [network.num_outputs]
    weight, bias, places, used = [], [], [], 0
    for columns, units in zip(fan_in, fan_out):
        weight.append(used)
        padded = _up(columns, rows)
        places.append((used + np.arange(units)[:, None] * padded + np.arange(columns)).ravel())
        bias.append(used + _up(units, rows) * padded)
        places.append(bias[-1] + np.arange(units))
        used = bias[-1] + _up(units, rows)
    widths, gain = used, used + layers - 1
    places.append(widths + np.arange(layers - 1 + (network.output == "sine")))
    shape = Shape(
        fan_in=np.array([_up(n, rows) for n in fan_in]),
        fan_out=np.array([_up(n, rows) for n in fan_out]),
        weight=np.array(weight),
        bias=np.array(bias),
        widths=widths,
        gain=gain,
        channels=network.num_outputs,
        places=np.concatenate(places),
    )
    return shape, _up(gain + 1, WIDE_LANES)


def _batches(job: Job, padded_inputs: Float[Tensor, "F p"], epochs: slice) -> Batches:
    """Bring the points into the order of some epochs."""
    num_points, size = job.inputs.shape[1], min(job.options.batch_points, job.inputs.shape[1])
    num_batches, width = job.steps_per_epoch, _up(size, WIDE_LANES)
    permutations = job.permutations[epochs].long()
    order = torch.zeros(len(permutations), num_batches * size, dtype=torch.int64)  # padding: the first point again
    order[:, :num_points] = permutations
    order = torch.nn.functional.pad(order.reshape(-1, size), (0, width - size))
    inputs = padded_inputs[:, order.flatten()].reshape(-1, *order.shape).transpose(0, 1)
    counts = [min(size, num_points - size * batch) for batch in range(num_batches)]
    return Batches(
        inputs=inputs.contiguous().numpy(),
        order=order.to(torch.int32).numpy(),
        step_sizes=np.ascontiguousarray(job.step_sizes[epochs.start * num_batches :][: len(order)]),
        counts=np.array(counts),
    )


def _work(shape: Shape, size: int, width: int) -> Work:
    """Memory for a thread."""
    moving = _aligned(size)
    moving[shape.places] = 1
    units = int(shape.fan_out.max())
    layers = len(shape.fan_in)
    return Work(
        theta=_aligned(size),
        first=_aligned(size),
        second=_aligned(size),
        gradient=_aligned(size),
        moving=moving,
        z=_aligned(layers, units, width),
        h=_aligned(layers, units, width),
        delta=_aligned(2, units, width),
        targets=_aligned(int(shape.fan_out[-1]), width),
        weights=_aligned(width),
    )


def train(theta: Float[Tensor, "n P"], first: Float[Tensor, "n P"], second: Float[Tensor, "n P"], job: Job) -> Outcome:
    """Train all blocks in place, each until the last epoch or until it finishes.

    Args:
        theta, first, second: parameters and moments.
        job: the rest.
    """
    options, count = job.options, len(theta)
    shape, size = _shape(job.network)
    blocks = Blocks(
        theta=theta.numpy(),
        first=first.numpy(),
        second=second.numpy(),
        targets=job.targets.numpy(),
        amplitudes=job.amplitudes.numpy(),
        valid=np.empty((count, 0), np.float32) if job.valid is None else job.valid.numpy(),
        losses=np.zeros(count, np.float32),
        epochs=np.zeros(count, np.int64),
        finished=np.zeros(count, np.bool_),
    )
    padded_inputs = torch.zeros(int(shape.fan_in[0]), job.inputs.shape[1])
    padded_inputs[: len(job.inputs)] = job.inputs
    together = max(MAX_GATHERED_BYTES // (4 * padded_inputs.numel()), 1)
    loop = _compiled()
    threads = min(torch.get_num_threads(), count)
    share = max(count // (8 * threads), 1)  # blocks that a thread takes from the queue at a time

    for start in range(0, len(job.permutations), together):
        batches = _batches(job, padded_inputs, slice(start, start + together))
        rules = Rules(
            output={"sigmoid": SIGMOID, "sine": SINE, "linear": LINEAR}[job.network.output],
            cross_entropy=options.loss == "bce",
            weight_by_loss=options.weight_by_loss,
            beta1=np.float32(options.beta1),
            beta2=np.float32(options.beta2),
            eps=np.float32(options.eps),
            threshold=float(options.threshold),
            check_every=options.check_every,
            first_epoch=job.first_epoch + start,
        )

        def run(first_block: int, batches: Batches = batches, rules: Rules = rules) -> None:
            work = _work(shape, size, batches.order.shape[1])
            with _flushed_denormals():
                loop(first_block, min(first_block + share, count), blocks, batches, shape, rules, work)

        if not loop.signatures:  # compile it first: numba and numpy rely on denormal numbers
            loop(0, 0, blocks, batches, shape, rules, _work(shape, size, batches.order.shape[1]))
        if threads == 1:
            for first_block in range(0, count, share):
                run(first_block)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(run, range(0, count, share)))
    return Outcome(torch.from_numpy(blocks.losses), torch.from_numpy(blocks.epochs), torch.from_numpy(blocks.finished))
