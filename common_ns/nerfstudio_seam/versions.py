"""Where nerfstudio 1.1.5 and its main branch differ, which both call themselves 1.1.5: told apart by what they do."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from nerfstudio.engine.trainer import Trainer
from PIL import Image
from torch import Tensor, nn


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


def read_mask(file: Path, scale_factor: float = 1.0) -> Bool[Tensor, "height width 1"]:
    """A mask of one channel, true where it is not black, as nerfstudio 1.1.5 reads it. The reader of main fails with
    Pillow 13, by "function takes exactly 2 arguments".

    Args:
        file: the mask.
        scale_factor: factor on its height and width.
    """
    picture = Image.open(file)
    if scale_factor != 1.0:
        width, height = picture.size
        size = (int(width * scale_factor), int(height * scale_factor))
        picture = picture.resize(size, resample=Image.Resampling.NEAREST)
    mask = torch.from_numpy(np.array(picture)).unsqueeze(-1).bool()
    if mask.ndim != 3:
        raise ValueError("The mask image should have 1 channel")
    return mask


def steps_of_a_resume(total: int, done: int) -> int:
    """What `--max-num-iterations` has to be for a resumed run to end after so many steps in all.

    Args:
        total: steps of the whole run.
        done: steps at the checkpoint. nerfstudio 1.1.5 counts those that are still to come, main all of them.
    """
    counts_all = "max_num_iterations - self._start_step" in inspect.getsource(Trainer.train)
    return total if counts_all else total - done
