"""Hierarchies of block networks: consistent queries, fitting, and continuing."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch

from miner_ns.fitting import Fitting, mean_squared_error
from miner_ns.hierarchy import Hierarchy, Level
from miner_ns.networks import BlockNetwork, encoding_dim
from miner_ns.options import FitOptions
from miner_ns.signal import Signal

TINY = {"num_levels": 3, "block_size": 8, "hidden_dim": 8, "num_frequencies": 3, "batch_points": 16}
TINY |= {"epochs": (30, 30, 40), "check_every": 10, "implementation": "torch", "threshold": 1e-3}


def smooth_image(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / 40.0
    channels = [0.5 + 0.4 * np.sin(3 * x + k) * np.cos(2 * y - k) for k in range(3)]
    return (np.stack(channels, axis=-1) * 255).astype(np.uint8)


def finish(fitting: Fitting) -> Fitting:
    while fitting.advance() is not None:
        pass
    return fitting


def random_hierarchy(shape: tuple[int, ...], pyramid: str = "gaussian") -> Hierarchy:
    """Networks with random parameters in some blocks of each level."""
    torch.manual_seed(0)
    hierarchy = Hierarchy(shape, 2, 3, 4, 2, pyramid=pyramid)
    for level in range(3):
        grid = hierarchy.grids[level]
        count = grid.num_blocks if level == 2 else grid.num_blocks // 2
        index = torch.randperm(grid.num_blocks)[:count].sort().values
        output = "sine" if pyramid == "laplacian" and level < 2 else "sigmoid"
        network = BlockNetwork(encoding_dim(len(shape), 2), 2, 6, output=output)
        amplitudes = torch.full((count,), 0.3 if output == "sine" else 1.0)
        hierarchy.set_level(level, Level(grid, network, index, network.init(count), amplitudes))
    return hierarchy


@pytest.mark.parametrize("pyramid", ["gaussian", "laplacian"])
@pytest.mark.parametrize("shape", [(16, 16), (13, 21), (9, 6, 11)])
def test_query_at_sample_centers_is_the_reconstruction_of_every_level(shape, pyramid):
    hierarchy = random_hierarchy(shape, pyramid)
    for level in range(3):
        size = hierarchy.grids[level].shape
        centers = torch.stack(torch.meshgrid(*[torch.arange(n) + 0.5 for n in size], indexing="ij"), dim=-1)
        points = centers.reshape(-1, len(shape)) * 2.0**level
        inside = (points < torch.tensor(shape)).all(dim=-1)  # the last sample of a level may reach beyond the signal
        values = hierarchy.query(points, level)
        expected = hierarchy.reconstruct(level).reshape(-1, 2)
        assert torch.allclose(values[inside], expected[inside], atol=1e-5)


def test_levels_between_two_are_blended():
    hierarchy = random_hierarchy((16, 16))
    points = 16 * torch.rand(50, 2)
    mixed = hierarchy.query(points, 0.25)
    assert torch.allclose(mixed, 0.75 * hierarchy.query(points, 0) + 0.25 * hierarchy.query(points, 1), atol=1e-6)
    assert torch.equal(hierarchy.query(points, -3.0), hierarchy.query(points, 0))
    everything = hierarchy.reconstruct(2).mean(dim=(0, 1))
    assert torch.allclose(hierarchy.query(points, 9.0), everything.expand(50, -1), atol=1e-6)


def test_a_place_belongs_to_the_finest_network_by_a_slow_search():
    hierarchy = random_hierarchy((16, 12))
    grid = hierarchy.grids[0]
    owner, row = hierarchy.owners(0, torch.arange(grid.num_blocks))
    for number in range(grid.num_blocks):
        place = np.array(np.unravel_index(number, grid.blocks))
        for level in range(3):
            ancestor = int(np.ravel_multi_index(tuple(place >> level), hierarchy.grids[level].blocks))
            numbers = hierarchy.levels[level].index.tolist()
            if ancestor in numbers:
                assert (int(owner[number]), int(row[number])) == (level, numbers.index(ancestor))
                break


def test_border_continues_outside_of_the_signal():
    hierarchy = random_hierarchy((16, 16))
    inside, outside = torch.tensor([[0.0, 5.0], [16.0, 16.0]]), torch.tensor([[-7.0, 5.0], [40.0, 90.0]])
    assert torch.equal(hierarchy.query(inside), hierarchy.query(outside))


@pytest.mark.parametrize("options", [{}, {"pyramid": "laplacian"}, {"architecture": "gabor"}, {"warm_start": True}])
def test_a_smooth_image_of_any_size_is_fitted(options):
    fitting = finish(Fitting(Signal(smooth_image(45, 38), 2), FitOptions(**{**TINY, **options})))
    error = mean_squared_error(fitting.hierarchy, fitting.pyramid)
    assert error < 2e-3
    direct = fitting.hierarchy.reconstruct(0).numpy() - smooth_image(45, 38) / 255.0
    assert error == pytest.approx(np.mean(direct**2), rel=1e-4)


def test_converged_blocks_get_no_network_at_finer_levels():
    image = np.full((32, 32, 3), 90, dtype=np.uint8)
    image[:8, :8] = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    fitting = finish(Fitting(Signal(image, 2), FitOptions(**TINY)))
    assert 0 in fitting.hierarchy.levels[0].index.tolist()
    assert len(fitting.hierarchy.levels[0].index) <= 4  # of 16


def test_a_constant_image_finishes_at_the_first_look():
    fitting = Fitting(Signal(np.full((40, 40), 200, dtype=np.uint8), 2), FitOptions(**TINY))
    portions = 0
    while fitting.advance() is not None:
        portions += 1
    assert portions <= 3 and set(fitting.hierarchy.levels) == {2}
    assert mean_squared_error(fitting.hierarchy, fitting.pyramid) < 1e-3


def test_chunks_of_blocks_do_not_change_the_result():
    signal = Signal(smooth_image(64, 64), 2)
    whole = finish(Fitting(signal, FitOptions(**TINY)))
    parts = finish(Fitting(signal, FitOptions(**{**TINY, "blocks_per_chunk": 16})))
    assert set(whole.hierarchy.levels) == set(parts.hierarchy.levels)
    for level, trained in whole.hierarchy.levels.items():
        assert torch.equal(trained.index, parts.hierarchy.levels[level].index)
        assert torch.allclose(trained.theta, parts.hierarchy.levels[level].theta, atol=1e-4)


@pytest.mark.parametrize("pyramid", ["gaussian", "laplacian"])
def test_continued_fitting_equals_an_uninterrupted_one(pyramid):
    """Also in the middle of a level, in the middle of a chunk, with blocks that are finished."""
    signal = Signal(smooth_image(40, 40), 2)
    options = FitOptions(**{**TINY, "pyramid": pyramid, "blocks_per_chunk": 16})
    whole = Fitting(signal, options)
    states = []
    while whole.advance() is not None:
        buffer = io.BytesIO()
        torch.save(whole.state(), buffer)
        states.append(buffer)
    for buffer in states[:: max(1, len(states) // 4)]:
        buffer.seek(0)
        continued = Fitting(signal, options)
        continued.restore(copy.deepcopy(torch.load(buffer, weights_only=True)))
        finish(continued)
        for level, trained in whole.hierarchy.levels.items():
            assert torch.equal(trained.theta, continued.hierarchy.levels[level].theta)


def test_warm_start_begins_as_the_parent():
    """The child's network is the parent's function, seen in the child's coordinates."""
    signal = Signal(smooth_image(32, 32), 2)
    options = FitOptions(**{**TINY, "num_levels": 2, "warm_start": True, "threshold": 1e-7, "epochs": (30, 30)})
    fitting = Fitting(signal, options)
    while fitting.level == 1:
        fitting.advance()
    before = fitting.hierarchy.reconstruct(0)
    fitting._begin_level()
    fitting._begin_chunk()
    after = fitting.show().reconstruct(0)
    assert (before - after).abs().max() < 0.02
