"""The GPU kernel against batched torch: on a GPU, or emulated by triton's interpreter in a process of its own."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from miner_ns import kernels
from miner_ns.kernels import BlockState, TrainOptions, epoch_permutations, train_epochs, triton_cuda
from miner_ns.networks import BlockNetwork

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_gpu = pytest.mark.skipif(
    DEVICE == "cpu" and not triton_cuda.INTERPRETED, reason="no GPU, and not in the process that emulates one"
)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cuda" or triton_cuda.INTERPRETED, reason="the tests below run")
def test_emulated():
    """triton decides at import whether it compiles or interprets."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


def both(network: BlockNetwork, options: TrainOptions, epochs: tuple[int, ...], masked: bool = False):
    """Train with triton and with torch.

    Returns: states and outcomes of the last call.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = 2 * torch.rand(network.num_inputs, 40, generator=generator) - 1
    noise = torch.rand(3, network.num_outputs, 40, generator=generator) - 0.5
    targets = 0.5 + torch.tensor([1.0, 0.1, 0.02])[:, None, None] * noise
    valid = (torch.rand(3, 40, generator=generator) < 0.8).to(DEVICE) if masked else None
    theta = network.init(3, generator)
    results = []
    for name in ("triton", "torch"):
        state, done = BlockState.create(theta.clone().to(DEVICE)), 0
        for count in epochs:
            rates = torch.full((count * kernels.steps_per_epoch(40, options.batch_points),), 0.02)
            outcome = train_epochs(
                network,
                state,
                inputs.to(DEVICE),
                targets.to(DEVICE),
                rates,
                epoch_permutations(40, done, count),
                amplitudes=torch.tensor([1.0, 0.5, 0.7], device=DEVICE),
                valid=valid,
                options=options,
                implementation=name,
            )
            done += count
        results.append((state, outcome))
    return results


@needs_gpu
@pytest.mark.parametrize(
    "layers, output, loss, masked",
    [(2, "sine", "mse", True), (3, "sigmoid", "mse", False), (3, "sigmoid", "bce", True), (4, "linear", "mse", False)],
)
def test_it_computes_what_torch_computes(layers, output, loss, masked):
    network = BlockNetwork(num_inputs=6, num_outputs=3, hidden_dim=9, num_layers=layers, output=output)
    options = TrainOptions(batch_points=18, loss=loss)
    (found, _), (expected, _) = both(network, options, (3,), masked)
    assert found.steps == 9
    assert torch.allclose(found.theta, expected.theta, atol=1e-4)
    assert torch.allclose(found.first_moment, expected.first_moment, rtol=1e-3, atol=1e-4)
    assert torch.allclose(found.losses, expected.losses, rtol=1e-4)


@needs_gpu
def test_blocks_finish_and_parts_are_exact():
    network = BlockNetwork(num_inputs=6, num_outputs=1, hidden_dim=8)
    options = TrainOptions(batch_points=20, threshold=1e-2, check_every=2)
    (whole, outcome), (expected, expected_outcome) = both(network, options, (6,))
    (parts, _), _ = both(network, options, (3, 1, 2))
    assert torch.equal(outcome.epochs, expected_outcome.epochs) and torch.equal(whole.finished, expected.finished)
    assert 0 < int(whole.finished.sum()) < 3
    for name in ("theta", "first_moment", "second_moment", "losses"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))


@needs_gpu
def test_large_networks_are_left_to_torch():
    large = BlockNetwork(num_inputs=200, num_outputs=1)
    with pytest.raises(ValueError, match="up to 63 inputs"):
        kernels.resolve("triton", DEVICE, large)


@pytest.mark.skipif(triton_cuda.INTERPRETED or sys.platform != "linux", reason="nothing to compile with")
def test_it_compiles_for_a_gpu_that_is_not_here():
    """The interpreter is more tolerant than the compiler."""
    compiler = pytest.importorskip("triton.compiler")
    backend = pytest.importorskip("triton.backends.compiler")
    kernel = triton_cuda._train_block
    constants = dict(K0=32, H=16, C=16, LAYERS=4, OUTPUT=1, CROSS_ENTROPY=False, WEIGHT_BY_LOSS=True, MASKED=True)
    constants |= dict(TILE=triton_cuda.TILE, PRECISION="tf32x3")
    floats = {"threshold", "beta1", "beta2", "eps"}
    pointers = {"theta", "first", "second", "inputs", "targets", "amplitudes", "valid", "step_sizes", "losses"}
    kinds = dict.fromkeys(constants, "constexpr") | dict.fromkeys(floats, "fp32") | dict.fromkeys(pointers, "*fp32")
    kinds |= dict.fromkeys(("order", "epochs", "finished"), "*i32")
    signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = compiler.ASTSource(kernel, signature, constexprs=values)
    options = dict(num_warps=triton_cuda.NUM_WARPS)
    compiled = compiler.compile(source, target=backend.GPUTarget("cuda", 80, 32), options=options)
    assert "mma.sync" in compiled.asm["ptx"]
