"""The compiled training loops against batched torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from numba import njit

from miner_ns import kernels
from miner_ns.kernels import BlockState, TrainOptions, epoch_permutations, numba_cpu, train_epochs
from miner_ns.kernels.simd import OPTIONS
from miner_ns.networks import BlockNetwork, encode_positions

NETWORK = BlockNetwork(num_inputs=22, num_outputs=3, hidden_dim=9)
BATCHES = TrainOptions(batch_points=16)
SIZES = {
    "paper": (BlockNetwork(num_inputs=22, num_outputs=3, hidden_dim=9, num_layers=4), 50, 16),
    "shallow": (BlockNetwork(num_inputs=33, num_outputs=1, hidden_dim=20, num_layers=2), 70, 128),
    "wide": (BlockNetwork(num_inputs=60, num_outputs=4, hidden_dim=13, num_layers=3), 37, 30),
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def problem(network: BlockNetwork, num_points: int, num_blocks: int = 5):
    """Smooth random signals; those of later blocks are weaker, thus easier."""
    generator = torch.Generator().manual_seed(0)
    frequencies = (network.num_inputs - 2) // 4 + 1
    x = 2 * torch.rand(num_points, 2, generator=generator) - 1
    inputs = encode_positions(x, frequencies).T[: network.num_inputs].contiguous()
    strength = torch.linspace(1, 0.02, num_blocks)[:, None, None]
    noise = torch.rand(num_blocks, network.num_outputs, num_points, generator=generator) - 0.5
    return network.init(num_blocks, generator), inputs, 0.5 + strength * noise


def train(theta, network, inputs, targets, implementation="numba", parts=(4,), options=BATCHES, **others):
    """Train copies of the parameters, in one or several calls."""
    state, outcomes, done = BlockState.create(theta.clone()), [], 0
    steps = kernels.steps_per_epoch(inputs.shape[1], options.batch_points)
    for epochs in parts:
        arguments = (torch.full((steps * epochs,), 0.01), epoch_permutations(inputs.shape[1], done, epochs))
        outcomes.append(
            train_epochs(
                network, state, inputs, targets, *arguments, options=options, implementation=implementation, **others
            )
        )
        done += epochs
    return state, outcomes


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("output, loss", [("sigmoid", "mse"), ("sigmoid", "bce"), ("sine", "mse"), ("linear", "mse")])
def test_it_computes_what_torch_computes(size, masked, output, loss):
    network, num_points, batch_points = SIZES[size]
    network = replace(network, output=output)
    theta, inputs, targets = problem(network, num_points)
    others = dict(amplitudes=targets.abs().amax((1, 2))) if output == "sine" else {}
    if masked:
        valid = (torch.rand(5, num_points, generator=torch.Generator().manual_seed(1)) < 0.7).to(torch.uint8)
        valid[1] = 0  # all padding
        others["valid"] = valid
    options = TrainOptions(loss=loss, batch_points=batch_points)
    steps = kernels.steps_per_epoch(num_points, batch_points)

    # RAdam does not move in its first five steps: its moments are averages of gradients at the same parameters.
    found, expected = (
        train(theta, network, inputs, targets, name, (max(5 // steps, 1),), options, **others)[0]
        for name in ("numba", "torch")
    )
    assert torch.equal(found.theta, theta)
    size_of = expected.first_moment.abs().amax(1, keepdim=True) + 1e-12  # float32 rounds to some 1e-4 of it
    assert ((found.first_moment - expected.first_moment) / size_of).abs().max() < 2e-4
    assert ((found.second_moment - expected.second_moment) / size_of**2).abs().max() < 2e-4
    assert torch.allclose(found.losses, expected.losses, rtol=1e-5)

    found, expected = (
        train(theta, network, inputs, targets, name, (12 // steps,), options, **others)[0]
        for name in ("numba", "torch")
    )
    assert found.steps == expected.steps > 8 and not torch.equal(found.theta, theta)
    assert torch.allclose(found.theta, expected.theta, atol=2e-3)
    assert torch.allclose(found.losses, expected.losses, rtol=1e-3)


def test_options_reach_the_loop():
    theta, inputs, targets = problem(NETWORK, 40)
    for change in (dict(weight_by_loss=False), dict(beta1=0.8), dict(beta2=0.9), dict(eps=0.3)):
        options = replace(BATCHES, **change)
        found, _ = train(theta, NETWORK, inputs, targets, options=options)
        expected, _ = train(theta, NETWORK, inputs, targets, "torch", options=options)
        assert torch.allclose(found.theta, expected.theta, atol=1e-3)
        assert not torch.allclose(found.theta, train(theta, NETWORK, inputs, targets, options=BATCHES)[0].theta)


@pytest.mark.parametrize("threads", [1, 2])
def test_training_in_parts_is_exact(threads):
    torch.set_num_threads(threads)
    theta, inputs, targets = problem(NETWORK, 40, num_blocks=40)
    options = TrainOptions(batch_points=16, threshold=2e-3, check_every=3)
    whole, (outcome,) = train(theta, NETWORK, inputs, targets, parts=(12,), options=options)
    parts, outcomes = train(theta, NETWORK, inputs, targets, parts=(4, 1, 7), options=options)
    torch.set_num_threads(3 - threads)
    others, _ = train(theta, NETWORK, inputs, targets, parts=(12,), options=options)
    assert 0 < int(whole.finished.sum()) < 40
    for name in ("theta", "first_moment", "second_moment", "finished", "losses"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name
        assert torch.equal(getattr(whole, name), getattr(others, name)), name
    assert torch.equal(outcome.epochs, torch.stack([part.epochs for part in outcomes]).sum(0))


def test_blocks_finish_as_in_torch():
    theta, inputs, targets = problem(NETWORK, 40)
    options = TrainOptions(batch_points=16, threshold=2e-3, check_every=2)
    found, (outcome,) = train(theta, NETWORK, inputs, targets, parts=(7,), options=options)
    _, (expected,) = train(theta, NETWORK, inputs, targets, "torch", parts=(7,), options=options)
    assert torch.equal(outcome.epochs, expected.epochs) and torch.equal(outcome.finished, expected.finished)
    assert 0 < int(outcome.finished.sum()) < 5
    order, rates = epoch_permutations(40, 7, 1), torch.full((3,), 0.02)
    kept = found.theta.clone()
    train_epochs(NETWORK, found, inputs, targets, rates, order, options=options, implementation="numba")
    assert torch.equal((kept == found.theta).all(1), found.finished)


def test_the_order_of_the_points_counts():
    theta, inputs, targets = problem(NETWORK, 40)
    results = []
    for order in (torch.arange(40), torch.arange(40), torch.arange(39, -1, -1)):
        state = BlockState.create(theta.clone())
        state.steps = 30
        options = TrainOptions(batch_points=16)
        rates = torch.full((3,), 0.01)
        train_epochs(NETWORK, state, inputs, targets, rates, order[None], options=options, implementation="numba")
        results.append(state.theta)
    assert torch.equal(results[0], results[1]) and not torch.allclose(results[0], results[2], atol=1e-4)


def test_many_epochs_are_gathered_in_parts(monkeypatch):
    theta, inputs, targets = problem(NETWORK, 40)
    options = TrainOptions(batch_points=16, threshold=2e-3, check_every=2)
    whole, _ = train(theta, NETWORK, inputs, targets, parts=(7,), options=options)
    monkeypatch.setattr(numba_cpu, "MAX_GATHERED_BYTES", 3 * 24 * 40 * 4)
    parts, _ = train(theta, NETWORK, inputs, targets, parts=(7,), options=options)
    assert torch.equal(whole.theta, parts.theta) and torch.equal(whole.finished, parts.finished)


def test_a_block_that_diverges_stays_alone():
    theta, inputs, targets = problem(NETWORK, 40)
    expected, _ = train(theta, NETWORK, inputs, targets)
    spoiled = theta.clone()
    spoiled[1] = float("nan")
    found, _ = train(spoiled, NETWORK, inputs, targets)
    others = torch.tensor([0, 2, 3, 4])
    assert torch.equal(found.theta[others], expected.theta[others]) and found.losses[1].isnan()


def test_denormal_numbers_are_zero_only_while_blocks_train():
    def halved() -> float:
        return float(np.float32(1e-39) * np.float32(0.5))

    with numba_cpu._flushed_denormals():
        inside = halved()
    assert inside == 0 < halved()
    theta, inputs, targets = problem(NETWORK, 40)
    train(theta, NETWORK, inputs, targets)
    assert halved() > 0
    torch.set_flush_denormal(True)
    try:
        train(theta, NETWORK, inputs, targets)
        assert halved() == 0, "who wants them to be 0 keeps it so"
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.slow
def test_code_from_disk_is_the_code_that_was_compiled(tmp_path):
    """numba stores one function, and links what it does not inline from memory: that may round in another way."""
    theta, inputs, targets = problem(NETWORK, 40)
    numba_cpu._compiled.cache_clear()
    train(theta, NETWORK, inputs, targets)  # compiles and stores, if that was not done before
    numba_cpu._compiled.cache_clear()
    stored, _ = train(theta, NETWORK, inputs, targets, parts=(20,))
    loop = numba_cpu._compiled()
    assert loop.stats.cache_hits and not loop.stats.cache_misses
    afresh = njit(**OPTIONS)(loop.py_func)
    numba_cpu._compiled.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba_cpu, "_compiled", lambda: afresh)
        compiled, _ = train(theta, NETWORK, inputs, targets, parts=(20,))
    assert torch.equal(stored.theta, compiled.theta)


def test_gabor_networks_are_left_to_torch():
    gabor = replace(NETWORK, architecture="gabor")
    assert kernels.resolve("auto", "cpu", NETWORK).name == "numba"
    found = kernels.resolve("auto", "cpu", gabor)
    assert found.name == "torch" and "gabor" in found.reason
    with pytest.raises(ValueError, match="gabor"):
        kernels.resolve("numba", "cpu", gabor)
