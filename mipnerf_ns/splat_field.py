"""A radiance field that is fitted for a short while, for Gaussians to begin from.

Source: RadSplat (arXiv 2403.13806), section 3.2, with a hash field in the place of its Zip-NeRF of an hour.
"""

from __future__ import annotations

import functools
import time
from types import SimpleNamespace
from typing import Any

import torch
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from common_ns.nerfstudio_seam.image_datamanager import ImageDataManager
from common_ns.nerfstudio_seam.photograph_rays import PhotographRays
from common_ns.splat_baking.bake import Samples, bake
from common_ns.splat_baking.gaussians import Gaussians
from mipnerf_ns.zip_model import ZipNerfModel, ZipNerfModelConfig
from mipnerf_ns.zip_small import RAYS, small_model, small_optimizers


class Fit(SimpleNamespace):
    """A field that was fitted, as `bake` wants a pipeline: `model` in evaluation mode, and `datamanager`."""

    model: ZipNerfModel
    datamanager: PhotographRays
    seconds: float
    """Of the processor."""


def fitted_field(
    datamanager: ImageDataManager,
    scene_box: SceneBox,
    steps: int,
    seed: int,
    config: ZipNerfModelConfig | None = None,
) -> Fit:
    """Fit `zip-nerf-small`'s field to photographs. The same seed gives the same field; torch's random state is left as
    it was.

    Args:
        datamanager: with the training photographs.
        scene_box: of the scene.
        steps: of training; learning rates fall over them.
        seed: of the first parameters and of the pixels.
        config: of the field; None: as `zip-nerf-small`.
    """
    started = time.process_time()
    device = torch.device(datamanager.device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        rays = PhotographRays(datamanager, RAYS)
        dataset = rays.train_dataset
        config = small_model() if config is None else config
        model: ZipNerfModel = config.setup(
            scene_box=scene_box, num_train_data=len(dataset.cameras), metadata=dataset.metadata
        )
        model.to(device)
        _train(model, rays, steps)
    return Fit(model=model.eval(), datamanager=rays, seconds=time.process_time() - started)


def _train(model: ZipNerfModel, rays: PhotographRays, steps: int) -> None:
    configs, optimizers, schedulers = small_optimizers(steps), [], []
    for name, parameters in model.get_param_groups().items():
        optimizer = configs[name]["optimizer"].setup(params=parameters)
        schedule = configs[name]["scheduler"].setup()
        optimizers.append(optimizer)
        schedulers.append(schedule.get_scheduler(optimizer, lr_init=configs[name]["optimizer"].lr))
    model.train()
    for step in range(steps):
        model.train_fraction = step / steps
        bundle, batch = rays.next_train(step)
        losses: dict[str, Tensor] = model.get_loss_dict(model(bundle), batch)
        loss = functools.reduce(torch.add, losses.values())
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        if bool(torch.isfinite(loss)):
            for optimizer in optimizers:
                optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    model.train_fraction = 1.0


def baked(fit: Any, count: int, degree: int, seed: int) -> tuple[Gaussians, Samples]:
    """`bake`, with torch's random state left as it was."""
    with torch.random.fork_rng(devices=[]):
        return bake(fit, count, degree, seed)
