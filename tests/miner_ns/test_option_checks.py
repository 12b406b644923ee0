"""Options that make no sense are named as the command line calls them; odd ones that make sense work."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common_ns.errors import InputError
from miner_ns.fitting import Fitting, mean_squared_error
from miner_ns.options import FitOptions
from miner_ns.signal import Signal

TINY = {"num_levels": 2, "block_size": 8, "hidden_dim": 6, "num_frequencies": 2, "batch_points": 16}
TINY |= {"epochs": (10, 10), "check_every": 5, "implementation": "torch", "threshold": 1e-3}


def picture(height: int = 20, width: int = 23) -> Signal:
    return Signal(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8), 2)


def fitted(options: dict, signal: Signal | None = None) -> Fitting:
    fitting = Fitting(signal or picture(), FitOptions(**{**TINY, **options}))
    while fitting.advance() is not None:
        pass
    return fitting


@pytest.mark.parametrize(
    "options",
    [
        *({"num_levels": value} for value in (0, -1, 21)),
        *({"block_size": value} for value in (0, -8)),
        *({"hidden_dim": value} for value in (0, -1)),
        *({"num_layers": value} for value in (1, 0)),
        *({"num_frequencies": value} for value in (-1, 25)),
        *({"epochs": value} for value in ((), (10, 0), (-1,))),
        *({"learning_rate": value} for value in (0.0, -1.0, math.nan, math.inf)),
        *({"threshold": value} for value in (-1e-4, math.nan)),
        *({"batch_points": value} for value in (0, -16)),
        *({"beta2": value} for value in (0.5, 1.0, math.nan)),
        *({"check_every": value} for value in (0, -5)),
        *({"blocks_per_chunk": value} for value in (0, 15, -16)),
        *({"max_device_memory": value} for value in (0.0, -1.0, math.nan)),
        *({"seed": value} for value in (2**40, -(2**40))),
        {"encoding": "icosahedron"},
        {"warm_start": True, "pyramid": "laplacian"},
        {"warm_start": True, "architecture": "gabor"},
        {"loss": "bce", "pyramid": "laplacian"},
    ],
    ids=str,
)
def test_nonsense_is_refused_by_name(options):
    name = f"--pipeline.model.fit.{next(iter(options)).replace('_', '-')} "
    with pytest.raises(InputError) as error:
        Fitting(picture(), FitOptions(**{**TINY, **options}))
    assert str(error.value).startswith(name) and "\n" not in str(error.value)
    value = next(iter(options.values()))
    shown = "is empty." if value == () else " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    assert shown in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"num_levels": 1},
        {"num_levels": 20, "epochs": (5,)},  # nearly all of one sample
        {"block_size": 1, "num_levels": 3},
        {"block_size": 5},
        {"block_size": 64, "batch_points": 1024},  # more than the image
        {"num_frequencies": 0},
        {"hidden_dim": 1, "num_layers": 2},
        {"batch_points": 10**6},
        {"threshold": 0.0},
        {"check_every": 1000},
        {"seed": -5},
        {"pyramid": "laplacian", "num_levels": 6, "num_layers": 4},
        {"warm_start": True, "num_levels": 1},
    ],
    ids=str,
)
def test_odd_options_work(options):
    fitting = fitted(options)
    error = mean_squared_error(fitting.hierarchy, fitting.pyramid)
    assert fitting.finished and 0.0 < error < 0.2
    assert bool(torch.isfinite(fitting.hierarchy.reconstruct(0)).all())


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 2)])
def test_default_levels_suit_tiny_images(shape):
    fitting = fitted({"num_levels": 4, "block_size": 32, "batch_points": 256, "epochs": (20,)}, picture(*shape))
    assert mean_squared_error(fitting.hierarchy, fitting.pyramid) < 0.2


def test_a_volume_with_directions_of_an_icosahedron():
    inside = np.indices((9, 10, 11)).sum(axis=0) < 12
    fitting = fitted({"encoding": "icosahedron", "loss": "bce"}, Signal.from_occupancy(inside))
    assert mean_squared_error(fitting.hierarchy, fitting.pyramid) < 0.1


def test_threshold_zero_trains_every_block_to_its_last_epoch():
    fitting = Fitting(Signal(np.full((16, 16), 90, np.uint8), 2), FitOptions(**{**TINY, "threshold": 0.0}))
    seen = []
    while (progress := fitting.advance()) is not None:
        seen.append((progress.level, progress.epoch, progress.training))
    assert seen == [(1, 5, 1), (1, 10, 1), (0, 5, 4), (0, 10, 4)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"implementation": "triton"}, "triton"),
        ({"implementation": "numba", "architecture": "gabor"}, "no 'gabor' networks"),
    ],
)
def test_an_implementation_that_cannot_train_here_is_named(options, reason):
    fitting = Fitting(picture(), FitOptions(**{**TINY, **options}))
    with pytest.raises(InputError, match=rf"{reason}.* Choose --pipeline\.model\.fit\.implementation auto or torch\."):
        fitting.prepare()
    fitting.show()  # what was trained elsewhere can be looked at
