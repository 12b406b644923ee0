"""Training of blocks: the torch reference, and what all implementations share."""

from dataclasses import replace

import pytest
import torch

import miner_ns.kernels as kernels
from miner_ns.kernels import BlockState, TrainOptions, cosine_rates, epoch_permutations, radam_step_sizes, train_epochs
from miner_ns.kernels.reference import block_losses, radam_step
from miner_ns.networks import BlockNetwork

NETWORK = BlockNetwork(num_inputs=6, num_outputs=3, hidden_dim=8)
SMALL_BATCHES = TrainOptions(batch_points=16)


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny operations on several threads wait for each other; on a busy machine, for seconds."""
    torch.set_num_threads(1)


def problem(network: BlockNetwork, num_blocks: int = 6, num_points: int = 40, seed: int = 0):
    """Random inputs and targets; the signals of later blocks are weaker, thus easier."""
    generator = torch.Generator().manual_seed(seed)
    inputs = 2 * torch.rand(network.num_inputs, num_points, generator=generator) - 1
    strength = torch.linspace(1, 0.02, num_blocks)[:, None, None]
    noise = torch.rand(num_blocks, network.num_outputs, num_points, generator=generator) - 0.5
    return network.init(num_blocks, generator), inputs, 0.5 + strength * noise


def train(network, theta, inputs, targets, parts=(4,), options=SMALL_BATCHES, implementation="torch", **others):
    """Train copies of the parameters for some epochs, in one or several calls.

    Returns: the state, and the outcome of each call.
    """
    state, outcomes, done = BlockState.create(theta.clone()), [], 0
    per_epoch = kernels.steps_per_epoch(inputs.shape[1], options.batch_points)
    for epochs in parts:
        rates = cosine_rates(0.03, per_epoch * sum(parts), per_epoch * done, per_epoch * (done + epochs))
        order = epoch_permutations(inputs.shape[1], done, epochs)
        outcomes.append(
            train_epochs(
                network, state, inputs, targets, rates, order, options=options, implementation=implementation, **others
            )
        )
        done += epochs
    return state, outcomes


@pytest.mark.parametrize("loss", ["mse", "bce"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_is_the_mean_over_valid_points(loss, masked):
    generator = torch.Generator().manual_seed(0)
    logits, targets = (torch.randn(2, 3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    targets = torch.sigmoid(targets)
    weights = torch.ones(2, 5, dtype=torch.float64)
    if masked:
        weights[0, 2:4] = 0
    prediction = torch.sigmoid(logits)
    options = TrainOptions(loss=loss, weight_by_loss=False)
    found, squared = block_losses(logits, prediction, targets, weights, options)
    for block in range(2):
        total, errors, count = 0.0, 0.0, 0
        for channel in range(3):
            for point in torch.nonzero(weights[block]).flatten():
                y, t = prediction[block, channel, point], targets[block, channel, point]
                errors += (y - t) ** 2
                total += (y - t) ** 2 if loss == "mse" else -(t * y.log() + (1 - t) * (1 - y).log())
                count += 1
        assert torch.allclose(found[block], total / count)
        assert torch.allclose(squared[block], errors)


def test_weighting_divides_the_gradient_by_the_loss():
    theta, inputs, targets = problem(NETWORK)
    gradients = []
    for weight_by_loss in (False, True):
        leaf = theta.clone().requires_grad_()
        logits = NETWORK.logits(leaf, inputs)
        options = TrainOptions(weight_by_loss=weight_by_loss)
        loss, squared = block_losses(logits, torch.sigmoid(logits), targets, torch.ones(1, 40), options)
        gradients.append(torch.autograd.grad(loss.sum(), leaf)[0])
    assert torch.allclose(gradients[1], gradients[0] / (squared[:, None] / (3 * 40) + 1e-8), rtol=1e-4)


@pytest.mark.parametrize("beta2", [0.95, 0.999])
def test_radam_is_torch_s_from_where_it_rectifies(beta2):
    options = TrainOptions(beta2=beta2)
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(2, 9, generator=generator)
    theirs = ours.clone().requires_grad_()
    optimizer = torch.optim.RAdam([theirs], lr=0.02, betas=(0.9, beta2), eps=1e-8)
    first, second = torch.zeros_like(ours), torch.zeros_like(ours)
    sizes = radam_step_sizes(torch.full((12,), 0.02).numpy(), 0, 0.9, beta2)
    assert (sizes[:5] == 0).all() and (sizes[5:] > 0).all()
    for step, size in enumerate(sizes.tolist()):
        theirs.grad = torch.randn(2, 9, generator=generator)
        optimizer.step()
        if step < 5:
            before = ours.clone()
        radam_step(ours, first, second, theirs.grad, size, options)
        if step < 5:
            assert torch.equal(ours, before)
            with torch.no_grad():
                theirs.copy_(ours)
        assert torch.allclose(ours, theirs, atol=1e-6)
        assert torch.allclose(first, optimizer.state[theirs]["exp_avg"])
        assert torch.allclose(second, optimizer.state[theirs]["exp_avg_sq"])


def test_step_sizes_depend_on_the_absolute_step():
    rates = cosine_rates(0.03, 20)
    assert rates[0] == 0.03 and abs(float(rates[-1]) - 0.001) < 2e-4
    whole = radam_step_sizes(rates.numpy(), 0, 0.9, 0.95)
    assert (radam_step_sizes(cosine_rates(0.03, 20, 7).numpy(), 7, 0.9, 0.95) == whole[7:]).all()
    assert torch.equal(epoch_permutations(11, 3, 2, seed=5), epoch_permutations(11, 0, 5, seed=5)[3:])


@pytest.mark.parametrize("kind", ["mlp", "gabor"])
@pytest.mark.parametrize("output", ["sigmoid", "sine", "linear"])
def test_training_lowers_the_loss(kind, output):
    network = replace(NETWORK, architecture=kind, output=output)
    theta, inputs, targets = problem(network)
    amplitudes = targets.abs().amax((1, 2))
    before = (network.evaluate(theta, inputs, amplitudes) - targets).square().mean((1, 2))
    state, _ = train(network, theta, inputs, targets, parts=(25,), amplitudes=amplitudes)
    after = (network.evaluate(state.theta, inputs, amplitudes) - targets).square().mean((1, 2))
    assert after.mean() < 0.7 * before.mean()


def test_one_epoch_matches_a_plain_loop():
    theta, inputs, targets = problem(NETWORK, num_blocks=2)
    options = TrainOptions(batch_points=16)
    order = torch.flip(torch.arange(40), (0,))
    state = BlockState.create(theta.clone())
    state.steps = 9 * 3  # far enough for RAdam to move
    rates = torch.tensor([0.01, 0.02, 0.03])
    outcome = train_epochs(NETWORK, state, inputs, targets, rates, order[None], options=options, implementation="torch")
    sizes = radam_step_sizes(rates.numpy(), 27, 0.9, 0.95)
    for block in range(2):
        row = theta[block : block + 1].clone()
        first, second, squared = torch.zeros_like(row), torch.zeros_like(row), 0.0
        for step, batch in enumerate((order[:16], order[16:32], order[32:])):
            row.requires_grad_()
            error = NETWORK.evaluate(row, inputs[:, batch])[0] - targets[block, :, batch]
            loss = error.square().mean()
            (gradient,) = torch.autograd.grad(loss / (loss.detach() + 1e-8), row)
            squared += float(error.detach().square().sum())
            row = row.detach()
            radam_step(row, first, second, gradient, float(sizes[step]), options)
        assert torch.allclose(state.theta[block], row[0], atol=1e-6)
        assert abs(float(outcome.losses[block]) - squared / 120) < 1e-6
    assert state.steps == 30 and outcome.epochs.tolist() == [1, 1]


def test_blocks_below_the_threshold_stop_and_stay():
    theta, inputs, targets = problem(NETWORK)
    options = TrainOptions(threshold=2e-3, check_every=2, batch_points=16)
    state, (outcome,) = train(NETWORK, theta, inputs, targets, parts=(7,), options=options)
    assert 0 < int(state.finished.sum()) < 6
    assert (outcome.epochs[~state.finished] == 7).all() and (outcome.epochs[state.finished] % 2 == 0).all()
    assert (state.losses[state.finished] < 2e-3).all()
    kept = state.theta.clone(), state.first_moment.clone(), state.losses.clone()
    order, rates = epoch_permutations(40, 7, 1), torch.full((3,), 0.02)
    outcome = train_epochs(NETWORK, state, inputs, targets, rates, order, options=options, implementation="torch")
    assert torch.equal(outcome.epochs == 0, state.finished)
    for before, now in zip(kept, (state.theta, state.first_moment, state.losses)):
        assert torch.equal(before[state.finished], now[state.finished])
        assert not torch.equal(before[~state.finished], now[~state.finished])


def test_each_block_trains_as_if_alone():
    theta, inputs, targets = problem(NETWORK)
    options = TrainOptions(threshold=2e-3, check_every=2, batch_points=16)
    together, _ = train(NETWORK, theta, inputs, targets, parts=(6,), options=options)
    for block in range(6):
        alone, _ = train(
            NETWORK, theta[block : block + 1], inputs, targets[block : block + 1], parts=(6,), options=options
        )
        assert torch.allclose(alone.theta[0], together.theta[block], atol=1e-5)


def test_select_keeps_the_optimizer_s_state():
    theta, inputs, targets = problem(NETWORK)
    state, _ = train(NETWORK, theta, inputs, targets)
    chosen = torch.tensor([True, False, True, True, False, True])
    part = state.select(chosen)
    assert part.steps == state.steps and torch.equal(part.second_moment, state.second_moment[chosen])
    order, rates = epoch_permutations(40, 4, 2), torch.full((6,), 0.02)
    options = SMALL_BATCHES
    train_epochs(NETWORK, part, inputs, targets[chosen], rates, order, options=options, implementation="torch")
    assert not torch.equal(part.theta, state.theta[chosen]), "a selection is a copy"
    assert part.to("cpu").steps == part.steps and part.to("meta").theta.device.type == "meta"
    train_epochs(NETWORK, state, inputs, targets, rates, order, options=options, implementation="torch")
    assert torch.allclose(part.theta, state.theta[chosen], atol=1e-6)


def test_padding_does_not_matter():
    theta, inputs, targets = problem(NETWORK)
    valid = torch.ones(6, 40, dtype=torch.uint8)
    valid[2, 30:] = 0
    spoiled = targets.clone()
    spoiled[2, :, 30:] = 100.0
    clean, _ = train(NETWORK, theta, inputs, targets, valid=valid)
    state, _ = train(NETWORK, theta, inputs, spoiled, valid=valid)
    assert torch.equal(clean.theta, state.theta) and torch.equal(clean.losses, state.losses)
    whole, _ = train(NETWORK, theta, inputs, targets)
    assert torch.allclose(whole.theta[[0, 1, 3, 4, 5]], state.theta[[0, 1, 3, 4, 5]], atol=1e-6)
    assert not torch.allclose(whole.theta[2], state.theta[2], atol=1e-3)


def test_a_scale_may_be_larger_than_memory(monkeypatch):
    import miner_ns.kernels.reference as reference

    theta, inputs, targets = problem(NETWORK)
    options = TrainOptions(batch_points=16, threshold=2e-3, check_every=2)
    whole, _ = train(NETWORK, theta, inputs, targets, options=options)
    monkeypatch.setattr(reference, "MAX_POINTS_IN_FLIGHT", 64)
    parts, _ = train(NETWORK, theta, inputs, targets, options=options)
    assert torch.allclose(whole.theta, parts.theta, atol=1e-6) and torch.equal(whole.finished, parts.finished)


def test_which_implementation_runs_and_why(monkeypatch):
    gabor = replace(NETWORK, architecture="gabor")
    assert kernels.resolve("torch", "cpu", gabor) == ("torch", "asked for")
    assert kernels.resolve("auto", "meta", NETWORK).name == "torch"
    found = kernels.resolve("auto", "cpu", gabor)
    assert found.name == "torch" and "gabor" in found.reason
    with pytest.raises(ValueError, match="gabor"):
        kernels.resolve("numba", "cpu", gabor)
    with pytest.raises(ValueError, match="CPU"):
        kernels.resolve("numba", "cuda", NETWORK)

    def missing(name: str):
        raise ImportError("No module named 'numba'")

    monkeypatch.setattr(kernels, "_backend", missing)
    found = kernels.resolve("auto", "cpu", NETWORK)
    assert found.name == "torch" and "numba" in found.reason


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(targets=torch.zeros(6, 3, 39)), r"targets has shape \[6, 3, 39\], expected \[6, 3, 40\]"),
        (dict(learning_rates=torch.zeros(5)), "learning_rates"),
        (dict(permutations=torch.zeros(1, 40, dtype=torch.int64)), "each of 0 … 39 once"),
        (dict(permutations=torch.arange(1, 41)[None]), "each of 0 … 39 once"),
        (dict(valid=torch.ones(5, 40)), "valid"),
        (dict(options=TrainOptions(batch_points=0)), "batch_points"),
        (dict(options=TrainOptions(beta2=0.6)), "beta2"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    theta, inputs, targets = problem(NETWORK)
    arguments = dict(inputs=inputs, targets=targets, learning_rates=torch.zeros(1), permutations=torch.arange(40)[None])
    with pytest.raises(ValueError, match=message):
        train_epochs(NETWORK, BlockState.create(theta), **(arguments | change), implementation="torch")


def test_parameters_of_a_module_can_be_trained():
    theta, inputs, targets = problem(NETWORK)
    expected, _ = train(NETWORK, theta, inputs, targets)
    for name in ("torch", kernels.resolve("auto", "cpu", NETWORK).name):
        state = BlockState.create(torch.nn.Parameter(theta.clone()))
        state.finished[2] = True
        rates, order = cosine_rates(0.03, 12), epoch_permutations(40, 0, 4)
        train_epochs(NETWORK, state, inputs, targets, rates, order, options=SMALL_BATCHES, implementation=name)
        others = torch.tensor([0, 1, 3, 4, 5])
        assert torch.equal(state.theta[2], theta[2]) and torch.allclose(
            state.theta[others], expected.theta[others], atol=1e-3
        )


def test_warming_up_needs_no_data():
    assert kernels.warm_up(NETWORK, "cpu", TrainOptions(loss="bce"), masked=True, implementation="torch") > 0


def test_cross_entropy_needs_a_sigmoid():
    network = replace(NETWORK, output="sine")
    theta, inputs, targets = problem(network)
    with pytest.raises(ValueError, match="sigmoid"):
        train(network, theta, inputs, targets, options=TrainOptions(loss="bce"))
