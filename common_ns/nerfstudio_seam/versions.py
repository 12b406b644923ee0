"""Where nerfstudio 1.1.5 and its main branch differ, which both call themselves 1.1.5: told apart by what they do."""

from __future__ import annotations

import inspect
from typing import Any

from nerfstudio.engine.trainer import Trainer
from torch import nn


def all_images(count: float) -> bool:
    """Whether a number of images to sample from means all of them: −1 in nerfstudio 1.1.5, infinity on main."""
    return count in (-1, float("inf"))


def set_training(datamanager: Any, training: bool) -> None:
    """Tell a datamanager whether its pipeline trains. On main it is no torch module, and is not told otherwise."""
    if isinstance(datamanager, nn.Module):
        datamanager.train(training)
    elif datamanager is not None:
        datamanager.training = training


def in_training(datamanager: Any) -> bool:
    """Whether a datamanager's pipeline trains; as of a torch module, it does until `eval` is called."""
    return getattr(datamanager, "training", True)


def steps_of_a_resume(total: int, done: int) -> int:
    """What `--max-num-iterations` has to be for a resumed run to end after so many steps in all.

    Args:
        total: steps of the whole run.
        done: steps at the checkpoint. nerfstudio 1.1.5 counts those that are still to come, main all of them.
    """
    counts_all = "max_num_iterations - self._start_step" in inspect.getsource(Trainer.train)
    return total if counts_all else total - done
