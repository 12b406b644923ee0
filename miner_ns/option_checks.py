"""Whether the options of a fit can work, alone and together; each refusal names the option as the command line does."""

from __future__ import annotations

import math
from typing import Any

from common_ns.errors import InputError
from miner_ns.options import FitOptions

MAX_LEVELS = 20
"""At the twentieth level a sample stands for half a million along each axis."""
MAX_FREQUENCIES = 24
"""A float32 does not tell the phases of higher octaves apart."""


def check_options(options: FitOptions, ndim: int, group: int) -> None:
    """Look at the options of a fit, before any work.

    Args:
        options: of the fit.
        ndim: axes of the signal.
        group: blocks that draw their first parameters together; chunks are multiples of it.
    Raises: InputError about the first that cannot work.
    """
    wholes: dict[str, tuple[int, float]] = {
        "num_levels": (1, MAX_LEVELS),
        "block_size": (1, math.inf),
        "hidden_dim": (1, math.inf),
        "num_layers": (2, math.inf),
        "num_frequencies": (0, MAX_FREQUENCIES),
        "batch_points": (1, math.inf),
        "check_every": (1, math.inf),
        "blocks_per_chunk": (group, math.inf),
        "seed": (-(2**32), 2**32),
    }
    for name, (least, most) in wholes.items():
        if not least <= getattr(options, name) <= most:
            upper = "or more" if most == math.inf else f"to {most}"
            raise _refusal(options, name, f"Choose a number from {least} {upper}")
    if not options.epochs or min(options.epochs) < 1:
        raise _refusal(options, "epochs", "Give one number or more, from coarse to fine, each at least 1")
    if not 0.0 < options.learning_rate < math.inf:
        raise _refusal(options, "learning_rate", "Choose a number above 0")
    if not 0.0 <= options.threshold < math.inf:
        raise _refusal(
            options, "threshold", "Choose a mean squared error, or 0 to train all blocks to their last epoch"
        )
    if not 2 / 3 < options.beta2 < 1:
        raise _refusal(options, "beta2", "Choose a number between 2/3, below which RAdam never moves, and 1")
    if options.max_device_memory is not None and not options.max_device_memory > 0.0:
        raise _refusal(options, "max_device_memory", "Choose a number of GiB above 0, or leave it out")
    _check_together(options, ndim)


def _check_together(options: FitOptions, ndim: int) -> None:
    """Options that exclude each other."""
    if options.encoding == "icosahedron" and ndim != 3:
        remedy = f"Choose {_name('encoding')} axes"
        raise InputError(f"{_name('encoding')} icosahedron is for volumes, and this signal has {ndim} axes", remedy)
    if options.loss == "bce" and options.pyramid == "laplacian":
        problem = f"{_name('loss')} bce needs networks that describe the signal itself, not what a level lacks"
        raise InputError(problem, f"Choose {_name('pyramid')} gaussian or {_name('loss')} mse")
    if options.warm_start and (options.pyramid != "gaussian" or options.architecture != "mlp"):
        given = f"{_name('pyramid')} {options.pyramid} and {_name('architecture')} {options.architecture}"
        problem = f"{_name('warm_start')} True starts blocks of a gaussian pyramid with mlp networks, not of {given}"
        raise InputError(problem, f"Drop {_name('warm_start')} True, or choose gaussian and mlp")


def _name(option: str) -> str:
    """An option as it is called on the command line."""
    return f"--pipeline.model.fit.{option.replace('_', '-')}"


def _refusal(options: FitOptions, name: str, remedy: str) -> InputError:
    value: Any = getattr(options, name)
    shown = " ".join(map(str, value)) or "empty" if isinstance(value, tuple) else value
    return InputError(f"{_name(name)} is {shown}", remedy)
