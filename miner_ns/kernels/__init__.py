"""Training of all blocks of a level: one function, three implementations.

Blocks are independent and tiny. What they share are the points (every block has the same local grid), the order in
which these are visited, and the learning rates. `train_epochs` advances all blocks that are not finished by some
epochs, and can be called again and again: 20 and then 30 epochs give what 50 at once give. Which implementation runs
is decided by `resolve`:

- "torch" (`reference.py`): batched products and autograd, on any device; the definition of what the others compute.
- "numba" (`numba_cpu.py`): on CPUs, one loop per block that keeps its parameters and the optimizer's state in cache
  for many steps.
- "triton" (`triton_cuda.py`): the same on CUDA GPUs, one program per block.
"""

from __future__ import annotations

import functools
import importlib
import math
import time
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from miner_ns.networks import BlockNetwork

Implementation = Literal["auto", "torch", "numba", "triton"]

LOSS_FLOOR = 1e-8
"""Added to a block's loss before its gradient is divided by it."""


@dataclass(frozen=True)
class TrainOptions:
    """How blocks are trained; the same for all blocks of a level."""

    loss: Literal["mse", "bce"] = "mse"
    """Squared error, or cross entropy of the sigmoid (for occupancy)."""
    weight_by_loss: bool = True
    """Divide each block's gradient by its loss: easy blocks then converge as fast as hard ones."""
    threshold: float = 0.0
    """A block whose mean squared error over an epoch is below this is finished; 0: never."""
    check_every: int = 25
    """Epochs between looks at the threshold, counted from the first epoch of the level."""
    batch_points: int = 128
    """Points of a block per optimization step."""
    beta1: float = 0.9
    """RAdam's decay of the mean gradient per step."""
    beta2: float = 0.95
    """RAdam's decay of the mean squared gradient per step. The usual 0.999 warms up for longer than a block trains."""
    eps: float = 1e-8
    """Keeps RAdam's division away from 0."""


@dataclass
class BlockState:
    """Everything that training changes: with this and the absolute step a run continues exactly."""

    theta: Float[Tensor, "n P"]
    """Parameters, laid out by `BlockNetwork.shapes`."""
    first_moment: Float[Tensor, "n P"]
    """RAdam's running mean of the gradient."""
    second_moment: Float[Tensor, "n P"]
    """RAdam's running mean of the squared gradient."""
    finished: Bool[Tensor, "n"]
    """Blocks below the threshold: no longer trained."""
    losses: Float[Tensor, "n"]
    """Mean squared error over the last epoch that a block was trained for; infinite before the first."""
    steps: int = 0
    """Optimization steps that the blocks that are not finished have done."""

    @classmethod
    def create(cls, theta: Float[Tensor, "n P"]) -> BlockState:
        """The state before the first step."""
        return cls(
            theta=theta,
            first_moment=torch.zeros_like(theta),
            second_moment=torch.zeros_like(theta),
            finished=torch.zeros(len(theta), dtype=torch.bool, device=theta.device),
            losses=torch.full((len(theta),), math.inf, device=theta.device),
        )

    def select(self, which: Bool[Tensor, "n"] | Int[Tensor, "m"]) -> BlockState:
        """A state of its own for some of the blocks, with their part of the optimizer's state."""
        return BlockState(
            theta=self.theta[which],
            first_moment=self.first_moment[which],
            second_moment=self.second_moment[which],
            finished=self.finished[which],
            losses=self.losses[which],
            steps=self.steps,
        )

    def to(self, device: torch.device | str) -> BlockState:
        """The state on another device."""
        tensors = (self.theta, self.first_moment, self.second_moment, self.finished, self.losses)
        return BlockState(*(x.to(device) for x in tensors), steps=self.steps)


class Job(NamedTuple):
    """What an implementation needs beside the parameters; tensors are contiguous float32 on one device."""

    network: BlockNetwork
    inputs: Float[Tensor, "F p"]
    targets: Float[Tensor, "n C p"]
    amplitudes: Float[Tensor, "n"]
    valid: Float[Tensor, "n p"] | None
    permutations: Int[Tensor, "epochs p"]
    step_sizes: Float[np.ndarray, "steps"]
    """From `radam_step_sizes`."""
    first_epoch: int
    """Epochs that the blocks have done before."""
    options: TrainOptions

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.inputs.shape[1], self.options.batch_points)

    def is_check(self, epoch: int) -> bool:
        """Whether blocks may finish after this epoch (from 0, of this job)."""
        return self.options.threshold > 0 and (self.first_epoch + epoch + 1) % self.options.check_every == 0

    def rows(self, start: int, end: int) -> Job:
        """The job of some of the blocks."""
        valid = None if self.valid is None else self.valid[start:end]
        return self._replace(targets=self.targets[start:end], amplitudes=self.amplitudes[start:end], valid=valid)


class Outcome(NamedTuple):
    """What becomes of each block."""

    losses: Float[Tensor, "n"]
    """Mean squared error over its last epoch, over valid points and channels, while its parameters moved."""
    epochs: Int[Tensor, "n"]
    """Epochs that it was trained for."""
    finished: Bool[Tensor, "n"]
    """Whether it fell below the threshold."""


class Backend(Protocol):
    """A module that trains blocks."""

    def refusal(self, network: BlockNetwork, device: torch.device) -> str | None:
        """Why it cannot train these networks here, or None if it can."""
        ...

    def train(
        self, theta: Float[Tensor, "n P"], first: Float[Tensor, "n P"], second: Float[Tensor, "n P"], job: Job
    ) -> Outcome:
        """Train all blocks in place, each until the last epoch or until it finishes."""
        ...


class Resolution(NamedTuple):
    """Which implementation runs, and why."""

    name: Literal["torch", "numba", "triton"]
    reason: str


_FASTEST: dict[str, Literal["numba", "triton"]] = {"cpu": "numba", "cuda": "triton"}
_MODULES = {"torch": "reference", "numba": "numba_cpu", "triton": "triton_cuda"}


def resolve(implementation: Implementation, device: torch.device | str, network: BlockNetwork) -> Resolution:
    """Decide which implementation trains.

    Args:
        implementation: a name, or "auto": the fastest that is installed and can do it.
        device: where the blocks are.
        network: the shape of their networks.
    Raises: ValueError if the implementation asked for cannot do it; the message says why.
    """
    device = torch.device(device)
    if implementation != "auto":
        if reason := _refusal(implementation, device, network):
            raise ValueError(f"Implementation '{implementation}' cannot train here: {reason} Use 'auto' or 'torch'.")
        return Resolution(implementation, "asked for")
    fast = _FASTEST.get(device.type)
    if fast is None:
        return Resolution("torch", f"there is no other implementation for {device.type}")
    if reason := _refusal(fast, device, network):
        return Resolution("torch", reason)
    return Resolution(fast, f"the fastest on {device.type}")


def _refusal(name: str, device: torch.device, network: BlockNetwork) -> str | None:
    try:
        return _backend(name).refusal(network, device)
    except ImportError as error:  # not installed, or not for this numpy
        return f"{name} cannot be imported ({error})."


@functools.cache
def _backend(name: str) -> Backend:
    """Import an implementation; its compiler is loaded only when it is used."""
    return importlib.import_module(f"miner_ns.kernels.{_MODULES[name]}")  # pyright: ignore[reportReturnType]


@torch.no_grad()
def train_epochs(
    network: BlockNetwork,
    state: BlockState,
    inputs: Float[Tensor, "F p"],
    targets: Float[Tensor, "n C p"],
    learning_rates: Float[Tensor, "steps"],
    permutations: Int[Tensor, "epochs p"],
    amplitudes: Float[Tensor, "n"] | None = None,
    valid: Float[Tensor, "n p"] | None = None,
    options: TrainOptions = TrainOptions(),
    implementation: Implementation = "auto",
) -> Outcome:
    """Train the blocks that are not finished for some epochs, and keep the result in `state`.

    Every epoch visits all points once, in batches, in the order of its permutation. After every
    `options.check_every`-th epoch of the level, blocks below the threshold finish: their parameters stay.

    Args:
        network: the shape of the networks.
        state: parameters and optimizer state, changed in place.
        inputs: encoded local positions of a block's points, the same for all blocks.
        targets: the signal at these points.
        learning_rates: one per optimization step of this call, epochs · ⌈p / batch_points⌉.
        permutations: order of the points, one row per epoch of this call.
        amplitudes: factor of each block's output (output "sine"); None: 1.
        valid: weights of the points in the loss, 0 for padding (whose targets must be finite); None: all count.
        options: how to train.
        implementation: see `resolve`.
    Returns: one entry per block of the state. Blocks that were finished before have done 0 epochs.
    """
    _check(network, state, inputs, targets, learning_rates, permutations, amplitudes, valid, options)
    device = state.theta.device
    name = resolve(implementation, device, network).name
    live = torch.nonzero(~state.finished).squeeze(1)
    epochs = torch.zeros(len(state.theta), dtype=torch.int64, device=device)
    per_epoch = steps_per_epoch(inputs.shape[1], options.batch_points)
    if len(live) and len(permutations):
        every = len(live) == len(state.theta)

        def rows(x: Tensor) -> Tensor:
            x = x if every else x[live]
            return x.detach().to(device, torch.float32).contiguous()

        job = Job(
            network=network,
            inputs=inputs.to(device, torch.float32).contiguous(),
            targets=rows(targets),
            amplitudes=torch.ones(len(live), device=device) if amplitudes is None else rows(amplitudes),
            valid=None if valid is None else rows(valid),
            permutations=permutations.cpu(),
            step_sizes=radam_step_sizes(learning_rates.cpu().numpy(), state.steps, options.beta1, options.beta2),
            first_epoch=state.steps // per_epoch,
            options=options,
        )
        kept = (state.theta, state.first_moment, state.second_moment)
        theta, first, second = (rows(x) for x in kept)  # the state's own tensors, or compact copies
        outcome = _backend(name).train(theta, first, second, job)
        for x, new in zip(kept, (theta, first, second)):
            if new.data_ptr() != x.data_ptr():
                x[live] = new
        state.losses[live] = outcome.losses.to(state.losses)
        state.finished[live] = outcome.finished.to(device)
        epochs[live] = outcome.epochs.to(epochs)
    state.steps += per_epoch * len(permutations)
    return Outcome(state.losses.clone(), epochs, state.finished.clone())


def warm_up(
    network: BlockNetwork,
    device: torch.device | str,
    options: TrainOptions = TrainOptions(),
    masked: bool = False,
    implementation: Implementation = "auto",
) -> float:
    """Compile what `train_epochs` will need, unless that was done in an earlier run.

    Args:
        network, options: as in training.
        device: where the blocks will be.
        masked: whether `valid` will be given.
        implementation: see `resolve`.
    Returns: the time it took, in seconds.
    """
    start = time.perf_counter()
    train_epochs(
        network,
        BlockState.create(network.init(1).to(device)),
        inputs=torch.zeros(network.num_inputs, 1, device=device),
        targets=torch.zeros(1, network.num_outputs, 1, device=device),
        learning_rates=torch.zeros(1),
        permutations=torch.zeros(1, 1, dtype=torch.int64),
        valid=torch.ones(1, 1, device=device) if masked else None,
        options=options,
        implementation=implementation,
    )
    return time.perf_counter() - start


def _check(
    network: BlockNetwork,
    state: BlockState,
    inputs: Tensor,
    targets: Tensor,
    learning_rates: Tensor,
    permutations: Tensor,
    amplitudes: Tensor | None,
    valid: Tensor | None,
    options: TrainOptions,
) -> None:
    """Shapes that do not fit would be read out of bounds by compiled code."""
    n, p = len(state.theta), inputs.shape[-1]
    if options.batch_points < 1 or options.check_every < 1:
        raise ValueError("TrainOptions: batch_points and check_every must be at least 1.")
    if not 2 / 3 < options.beta2 < 1:
        raise ValueError(
            f"TrainOptions: with beta2 = {options.beta2} RAdam never moves; it must be above 2/3, below 1."
        )
    if options.loss == "bce" and network.output != "sigmoid":
        raise ValueError(f"Loss 'bce' needs the output 'sigmoid', not '{network.output}'.")
    if state.steps % steps_per_epoch(p, options.batch_points):
        raise ValueError(f"The state has done {state.steps} steps, which is not a whole number of epochs.")
    steps = len(permutations) * steps_per_epoch(p, options.batch_points)
    expected: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "state.theta": (state.theta, (n, network.num_parameters)),
        "state.first_moment": (state.first_moment, (n, network.num_parameters)),
        "state.second_moment": (state.second_moment, (n, network.num_parameters)),
        "state.finished": (state.finished, (n,)),
        "state.losses": (state.losses, (n,)),
        "inputs": (inputs, (network.num_inputs, p)),
        "targets": (targets, (n, network.num_outputs, p)),
        "learning_rates": (learning_rates, (steps,)),
        "permutations": (permutations, (len(permutations), p)),
        "amplitudes": (amplitudes, (n,)),
        "valid": (valid, (n, p)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"train_epochs: {name} has shape {list(tensor.shape)}, expected {list(shape)}.")
    in_range = bool(((permutations >= 0) & (permutations < p)).all())
    seen = torch.zeros(permutations.shape, dtype=torch.bool, device=permutations.device)
    if not (in_range and bool(seen.scatter_(1, permutations.long(), True).all())):
        raise ValueError(f"train_epochs: every row of permutations must hold each of 0 … {p - 1} once.")


def steps_per_epoch(num_points: int, batch_points: int) -> int:
    """Batches in an epoch; the last one may be smaller."""
    return -(-num_points // batch_points)


def radam_step_sizes(
    learning_rates: Float[np.ndarray, "steps"], first_step: int, beta1: float, beta2: float
) -> Float[np.ndarray, "steps"]:
    """RAdam's corrections as factors s on a plain step: θ ← θ − s · m / (√v + eps).

    While the variance of the squared gradient's mean is not defined (the first steps: five with β2 = 0.95), RAdam
    prescribes steps along m itself. Their length depends on the gradient's scale, thus on how the loss is weighted;
    they are left out: the factor is 0.

    Args:
        learning_rates: one per step.
        first_step: absolute number of the first of these steps, from 0.
        beta1, beta2: decays of the mean gradient and the mean squared gradient.
    Source: Liu et al., On the variance of the adaptive learning rate and beyond, algorithm 2 (arXiv 1908.03265).
    """
    t = np.arange(first_step + 1, first_step + 1 + len(learning_rates), dtype=np.float64)
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t * beta2**t / (1 - beta2**t)
    defined = np.maximum(length, 5.0)
    variance = (defined - 4) * (defined - 2) * longest / ((longest - 4) * (longest - 2) * defined)
    factor = np.sqrt(variance) * np.sqrt(1 - beta2**t) / (1 - beta1**t)
    return np.where(length > 5, learning_rates * factor, 0.0).astype(np.float32)


def epoch_permutations(
    num_points: int, first_epoch: int, num_epochs: int, seed: int = 0
) -> Int[Tensor, "num_epochs num_points"]:
    """Orders of the points that depend on the absolute epoch only, so that a resumed run continues alike."""
    generator = torch.Generator()
    rows = []
    for epoch in range(first_epoch, first_epoch + num_epochs):
        generator.manual_seed(seed * 1_000_003 + epoch)
        rows.append(torch.randperm(num_points, generator=generator))
    return torch.stack(rows) if rows else torch.empty(0, num_points, dtype=torch.int64)


def cosine_rates(
    learning_rate: float, num_steps: int, first: int = 0, last: int | None = None
) -> Float[Tensor, "last-first"]:
    """Learning rates of steps `first` to `last` (exclusive) of a run: a cosine from `learning_rate` to 1/30 of it."""
    step = torch.arange(first, num_steps if last is None else last, dtype=torch.float64)
    lowest = learning_rate / 30
    return (lowest + (learning_rate - lowest) * 0.5 * (1 + torch.cos(math.pi * step / num_steps))).float()
