"""What a fit is said to need of memory is what it needs; a budget changes how much is in work, not what is learned."""

from __future__ import annotations

import copy
import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common_ns.errors import InputError
from miner_ns.fitting import Fitting, intersection_over_union, mean_squared_error
from miner_ns.kernels import BlockState, TrainOptions, epoch_permutations, steps_per_epoch, train_epochs
from miner_ns.memory import GIB, DeviceNeed, evaluation_bytes
from miner_ns.networks import BlockNetwork
from miner_ns.options import FitOptions
from miner_ns.pyramid import Pyramid, coarse_bytes
from miner_ns.signal import Signal, SignalLoader

TINY = {"num_levels": 3, "block_size": 8, "hidden_dim": 8, "num_frequencies": 3, "batch_points": 16}
TINY |= {"epochs": (20, 20, 30), "check_every": 10, "implementation": "torch", "threshold": 1e-3}


class Allocations(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.alive:
                    self.alive[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, storage._cdata, None)
        self.peak = max(self.peak, sum(self.alive.values()))
        return result


def waves(height: int, width: int) -> Signal:
    y, x = np.mgrid[:height, :width] / 20.0
    values = np.stack([0.5 + 0.4 * np.sin(5 * x + k) * np.cos(4 * y * y - k) for k in range(3)], axis=-1)
    return Signal((values * 255).astype(np.uint8), 2)


def finish(fitting: Fitting) -> Fitting:
    while fitting.advance() is not None:
        pass
    return fitting


@pytest.mark.parametrize("kind", ["mlp", "gabor"])
@pytest.mark.parametrize(("hidden", "layers", "output"), [(20, 3, "sigmoid"), (9, 4, "sine"), (16, 2, "sigmoid")])
@pytest.mark.parametrize(("points", "batch"), [(1024, 128), (64, 64), (256, 16)])
def test_training_needs_what_is_said(kind, hidden, layers, output, points, batch):
    network, blocks, epochs = BlockNetwork(22, 3, hidden, layers, kind, output), 32, 2
    # Those that are finished before, and those that finish at the look, leave copies of the others.
    options = TrainOptions(batch_points=batch, check_every=epochs, threshold=0.12)
    targets = torch.rand(blocks, 3, points).round()
    targets[: blocks // 8] = 0.0 if output == "sine" else 0.5
    with Allocations() as seen:
        state = BlockState.create(network.init(blocks))
        state.finished[-blocks // 8 :] = True
        train_epochs(
            network,
            state,
            torch.zeros(22, points),
            targets.clone(),  # the device's own
            torch.full((epochs * steps_per_epoch(points, batch),), 1e-4),
            epoch_permutations(points, 0, epochs),
            valid=torch.ones(blocks, points),
            options=options,
            implementation="torch",
        )
    assert 0 < int(state.finished.sum()) < blocks
    need = DeviceNeed(network, points, batch, epochs, True, "torch", blocks)
    assert seen.peak <= need.peak(blocks, 0) <= 1.6 * seen.peak


@pytest.mark.parametrize("kind", ["mlp", "gabor"])
@pytest.mark.parametrize("own_points", [False, True])
def test_evaluation_needs_what_is_said(kind, own_points):
    network, points = BlockNetwork(22, 3, 20, 3, kind), 256
    theta = network.init(40)
    with Allocations() as seen:
        inputs = torch.zeros(32, 22, points) if own_points else torch.zeros(22, points)
        network.evaluate(theta[torch.arange(32)], inputs)
    assert 0.9 * seen.peak <= evaluation_bytes(network, 32, points, own_points) <= 2.0 * seen.peak


@pytest.mark.parametrize(
    "options",
    [
        {},
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ({"pyramid": "laplacian"}, {"architecture": "gabor"}, {"warm_start": True})
        ),
    ],
)
def test_a_budget_changes_chunks_and_not_what_blocks_learn(options):
    options = {**TINY, **options}
    whole = finish(Fitting(waves(64, 70), FitOptions(**options)))
    need = whole.device_need
    budget = need.minimum(16) + 1
    tight = Fitting(waves(64, 70), FitOptions(**options, max_device_memory=budget / GIB))
    assert whole.blocks_at_once == 4096 and tight.blocks_at_once == 16
    finish(tight)
    assert len(whole.hierarchy.levels[0].index) > 32  # several chunks
    for level, trained in whole.hierarchy.levels.items():
        other = tight.hierarchy.levels[level]
        assert torch.equal(trained.index, other.index)
        assert torch.allclose(trained.theta, other.theta, atol=1e-3)
    error = mean_squared_error(whole.hierarchy, whole.pyramid)
    assert mean_squared_error(tight.hierarchy, tight.pyramid) == pytest.approx(error, rel=1e-3)


def test_chunks_grow_with_the_budget_in_whole_groups_and_up_to_the_option():
    counts = []
    for gib in (0.001, 0.003, 0.01, 0.1, 1.0):
        fitting = Fitting(waves(64, 70), FitOptions(**TINY, max_device_memory=gib, blocks_per_chunk=1000))
        counts.append(fitting.blocks_at_once)
        assert fitting.device_need.peak(counts[-1], 0) <= gib * GIB
    assert counts == sorted(counts) and counts[0] < counts[1] < counts[2] and counts[-1] == 992
    assert all(count % 16 == 0 for count in counts)


def test_a_budget_below_one_group_is_refused_with_what_is_needed():
    loader = SignalLoader((64, 64), 3, lambda: pytest.fail("the signal was read"))
    tight = Fitting(loader, FitOptions(**TINY, max_device_memory=1e-5))
    with pytest.raises(
        InputError, match=r"max-device-memory is 1e-05 GiB, and 16 blocks need 0\.001 GiB\. Raise it to"
    ):
        tight.prepare()
    with pytest.raises(InputError, match="max-device-memory"):
        tight.advance()
    enough = Fitting(loader, FitOptions(**TINY, max_device_memory=0.001))
    enough.prepare()


def test_networks_are_evaluated_within_the_budget(monkeypatch):
    """Whatever asks for them: the look at what is good enough, the errors, and the whole reconstruction."""
    fitting = Fitting(waves(64, 70), FitOptions(**TINY, pyramid="laplacian", max_device_memory=0.0006))
    largest = 0
    evaluate = BlockNetwork.evaluate

    def watched(network, theta, inputs, amplitudes=None):
        nonlocal largest
        largest = max(largest, evaluation_bytes(network, len(theta), inputs.shape[-1], inputs.ndim == 3))
        return evaluate(network, theta, inputs, amplitudes)

    monkeypatch.setattr(BlockNetwork, "evaluate", watched)
    finish(fitting)
    mean_squared_error(fitting.hierarchy, fitting.pyramid)
    intersection_over_union(fitting)
    fitting.hierarchy.reconstruct(0)
    fitting.hierarchy.query(64 * torch.rand(3000, 2))
    share = 0.25 * 0.0006 * GIB
    assert 0.5 * share < largest <= share
    fitting.hierarchy.budget = None
    fitting.hierarchy.reconstruct(0)
    assert largest > share


@pytest.mark.slow
def test_a_run_goes_on_with_a_smaller_budget():
    options = {**TINY, "threshold": 1e-5}
    whole = finish(Fitting(waves(64, 64), FitOptions(**options)))
    first = Fitting(waves(64, 64), FitOptions(**options))
    while first.level > 0 or first.chunk is None:
        first.advance()
    assert len(first.chunk.index) > 16 and first.chunk.epoch > 0
    second = Fitting(waves(64, 64), FitOptions(**options, max_device_memory=0.0008))
    second.restore(copy.deepcopy(first.state()))  # as from a file
    shown = [torch.equal(a.show().levels[0].theta, first.chunk.state.theta) for a in (first, second)]
    assert all(shown)
    progress = second.advance()
    assert progress is not None and progress.active == len(whole.hierarchy.levels[0].index)
    assert len(second.chunk.index) == second.blocks_at_once < len(first.chunk.index)
    third = Fitting(waves(64, 64), FitOptions(**options))
    third.restore(copy.deepcopy(second.state()))  # one part in training, the other still waiting
    for fitting in (second, third):
        finish(fitting)
        assert torch.equal(fitting.hierarchy.levels[0].index, whole.hierarchy.levels[0].index)
        assert torch.allclose(fitting.hierarchy.levels[0].theta, whole.hierarchy.levels[0].theta, atol=1e-3)


@pytest.mark.slow
def test_looking_at_a_run_that_goes_on_does_not_change_it():
    """The networks of blocks that wait to be trained further are shown, and are no part of what they have to learn."""
    options = FitOptions(**{**TINY, "threshold": 1e-5, "pyramid": "laplacian", "blocks_per_chunk": 32})
    whole = Fitting(waves(64, 64), options)
    while whole.level > 0 or whole.chunk is None:
        whole.advance()
    looked_at = Fitting(waves(64, 64), options)
    looked_at.restore(copy.deepcopy(whole.state()))
    looked_at.show()
    while looked_at.advance() is not None:
        looked_at.show()
    assert torch.equal(looked_at.hierarchy.levels[0].theta, finish(whole).hierarchy.levels[0].theta)


def test_networks_stay_in_main_memory():
    """Those of a gigapixel would fill a device; "meta" is a device whose tensors hold nothing."""
    fitting = finish(Fitting(waves(40, 40), FitOptions(**TINY)))
    for level in fitting.hierarchy.to("meta").levels.values():
        assert level.theta.device.type == level.index.device.type == level.amplitudes.device.type == "cpu"
        assert level.slot.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{}, {"implementation": "auto"}, {"pyramid": "laplacian"}])
def test_a_cuda_device_holds_no_more_than_the_budget(options):
    budget = 0.05
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    options = {**TINY, "block_size": 16, "threshold": 0.0, "epochs": (20,), **options}
    fitting = finish(Fitting(waves(1024, 1024), FitOptions(**options, max_device_memory=budget), "cuda"))
    mean_squared_error(fitting.hierarchy, fitting.pyramid)
    peak = torch.cuda.max_memory_allocated() - before
    assert 0.3 * budget * GIB < peak <= budget * GIB


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(33, 47, 3), (1, 9), (16, 16)])
def test_size_of_the_coarser_levels_is_known_before_they_are_made(shape, dtype):
    signal = Signal(np.arange(np.prod(shape)).reshape(shape).astype(dtype), 2)
    for levels in (1, 4):
        expected = Pyramid(signal, levels, 8).nbytes
        assert coarse_bytes(signal.spatial_shape, signal.channels, signal.dtype, levels) == expected


@pytest.mark.parametrize(("nbytes", "available"), [(3 * 10**9, 4), (0, 1)])
def test_a_signal_larger_than_the_memory_is_refused_before_it_is_read(monkeypatch, nbytes, available):
    """10⁹ pixels in memory or on disk; the 16-bit levels above them are in memory in any case."""
    loader = SignalLoader(
        (31623, 31623),
        3,
        lambda: pytest.fail("the signal was read"),
        dtype=np.uint8,
        nbytes=nbytes,
        source="large.png",
        remedy="Store it uncompressed",
    )
    fitting = Fitting(loader, FitOptions(implementation="torch"))
    monkeypatch.setattr("common_ns.data.memory.available_memory", lambda: available * GIB)
    pattern = r"large\.png: fitting 31623×31623 samples \(.*coarser levels 1\.8 GiB.*\) needs .* Store it uncompressed"
    with pytest.raises(InputError, match=pattern):
        fitting.prepare()
    with pytest.raises(InputError, match=pattern):
        _ = fitting.pyramid
    monkeypatch.setattr("common_ns.data.memory.available_memory", lambda: 16 * GIB)
    needed = fitting.prepare()
    assert needed.certain < 8 * GIB < needed.worst


def test_what_is_in_memory_already_is_not_counted_again():
    signal = waves(64, 64)
    loader = SignalLoader((64, 64), 3, lambda: signal, nbytes=signal.nbytes)
    fitting = Fitting(loader, FitOptions(**TINY))
    assert fitting.main_memory().signal == signal.nbytes
    loader.load()
    assert fitting.main_memory().signal == Fitting(signal, FitOptions(**TINY)).main_memory().signal == 0


def test_chunks_in_main_memory_count_there(monkeypatch):
    """A block of 2048² samples is some 100 MB, 4096 of them are not."""
    options = FitOptions(block_size=2048, num_levels=1, num_frequencies=2, implementation="torch")
    fitting = Fitting(SignalLoader((32768, 32768), 1, lambda: pytest.fail("read")), options)
    monkeypatch.setattr("common_ns.data.memory.available_memory", lambda: 8 * GIB)
    with pytest.raises(
        InputError, match=r"a chunk in training .* GiB\) needs .* set --pipeline.model.fit.max-device-m"
    ):
        fitting.prepare()
