"""Training of blocks with batched torch operations: the definition that the fast implementations are tested against.

Gradients come from autograd, so every network of `miner_ns.networks` can be trained, on every device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from miner_ns.kernels import LOSS_FLOOR, Job, Outcome, TrainOptions
from miner_ns.networks import BlockNetwork

MAX_POINTS_IN_FLIGHT = 2**19
"""Points of all blocks in one step: with 20 hidden units some 0.5 GB of activations. More blocks train in turn."""


def refusal(network: BlockNetwork, device: torch.device) -> str | None:
    """Why these networks cannot be trained here: there is nothing that this implementation cannot do."""
    return None


def train(theta: Float[Tensor, "n P"], first: Float[Tensor, "n P"], second: Float[Tensor, "n P"], job: Job) -> Outcome:
    """Train all blocks in place, each until the last epoch or until it finishes."""
    group = max(MAX_POINTS_IN_FLIGHT // min(job.options.batch_points, job.inputs.shape[1]), 1)
    outcomes = []
    for start in range(0, len(theta), group):
        end = min(start + group, len(theta))
        outcomes.append(_train_group(theta[start:end], first[start:end], second[start:end], job.rows(start, end)))
    return Outcome(*(torch.cat(parts) for parts in zip(*outcomes)))


def _train_group(theta: Tensor, first: Tensor, second: Tensor, job: Job) -> Outcome:
    """Train blocks that fit into memory together."""
    device = theta.device
    num_epochs = len(job.permutations)
    losses = torch.empty(len(theta), device=device)
    epochs = torch.full((len(theta),), num_epochs, device=device)
    finished = torch.zeros(len(theta), dtype=torch.bool, device=device)
    live = torch.arange(len(theta), device=device)
    state, targets, amplitudes, valid = [theta, first, second], job.targets, job.amplitudes, job.valid
    for epoch in range(num_epochs):
        order = job.permutations[epoch].to(device)
        step_sizes = job.step_sizes[epoch * job.steps_per_epoch :][: job.steps_per_epoch]
        errors = _train_epoch(state, order, step_sizes, targets, amplitudes, valid, job)
        losses[live] = errors
        if job.is_check(epoch):
            done = errors < job.options.threshold
            if done.any():
                finished[live[done]] = True
                epochs[live[done]] = epoch + 1
                _write_back([theta, first, second], state, live)
                live, state = live[~done], [x[~done] for x in state]
                targets, amplitudes = targets[~done], amplitudes[~done]
                valid = None if valid is None else valid[~done]
                if not len(live):
                    break
    _write_back([theta, first, second], state, live)
    return Outcome(losses, epochs, finished)


def _write_back(whole: list[Tensor], compact: list[Tensor], live: Int[Tensor, "m"]) -> None:
    """Put the rows of the blocks in training back into the tensors of all blocks."""
    for x, rows in zip(whole, compact):
        if rows is not x:
            x[live] = rows


def _train_epoch(
    state: list[Float[Tensor, "n P"]],
    order: Int[Tensor, "p"],
    step_sizes: Float[ndarray, "steps"],
    targets: Float[Tensor, "n C p"],
    amplitudes: Float[Tensor, "n"],
    valid: Float[Tensor, "n p"] | None,
    job: Job,
) -> Float[Tensor, "n"]:
    """Go through all points once.

    Args:
        state: parameters and moments, changed.
        order: of the points.
        step_sizes: of the batches.
        targets, amplitudes, valid: of the blocks in training.
        job: the rest.
    Returns: mean squared error of each block over the epoch.
    """
    theta, first, second = state
    squared, counted = torch.zeros_like(amplitudes), torch.zeros_like(amplitudes)
    for batch, step_size in zip(order.split(job.options.batch_points), step_sizes.tolist()):
        weights = torch.ones(1, len(batch), device=theta.device) if valid is None else valid[:, batch]
        with torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            logits = job.network.logits(leaf, job.inputs[:, batch])
            prediction = job.network.activate(leaf, logits, amplitudes)
            loss, error = block_losses(logits, prediction, targets[:, :, batch], weights, job.options)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        radam_step(theta, first, second, gradient, step_size, job.options)
        squared += error
        counted += weights.sum(-1) * job.network.num_outputs
    return squared / counted.clamp_min(1e-12)


def block_losses(
    logits: Float[Tensor, "n C b"],
    prediction: Float[Tensor, "n C b"],
    targets: Float[Tensor, "n C b"],
    weights: Float[Tensor, "n b"],
    options: TrainOptions,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Loss of each block on a batch of its points.

    Args:
        logits, prediction: before and after the output function.
        targets: the signal.
        weights: of the points, 0 for padding; [1, b] if the same for all blocks.
        options: which loss.
    Returns: the loss to differentiate, and the summed squared error.
    """
    weights = weights[:, None, :]
    error = (weights * (prediction.detach() - targets).square()).sum((1, 2))
    if options.loss == "bce":
        pointwise = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    else:
        pointwise = (prediction - targets).square()
    counted = (weights.sum((1, 2)) * targets.shape[1]).clamp_min(1e-12)  # a batch may be all padding
    loss = (weights * pointwise).sum((1, 2)) / counted
    if options.weight_by_loss:
        loss = loss / (loss.detach() + LOSS_FLOOR)
    return loss, error


@torch.no_grad()
def radam_step(
    theta: Float[Tensor, "n P"],
    first: Float[Tensor, "n P"],
    second: Float[Tensor, "n P"],
    gradient: Float[Tensor, "n P"],
    step_size: float,
    options: TrainOptions,
) -> None:
    """One step of RAdam in place; all that depends on the step's number is in `step_size` (see `radam_step_sizes`)."""
    first.lerp_(gradient, 1 - options.beta1)
    second.mul_(options.beta2).addcmul_(gradient, gradient, value=1 - options.beta2)
    if step_size:
        theta.addcdiv_(first, second.sqrt().add_(options.eps), value=-step_size)
