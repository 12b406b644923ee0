"""Rays of photographs that are in memory, for models of rays within a run of pictures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.model_components.ray_generators import RayGenerator
from torch import Tensor

from common_ns.data.drawing import widest_pixel
from common_ns.data.pixels import PixelStore
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.datamanager import StorePixelSampler
from common_ns.nerfstudio_seam.image_datamanager import ImageDataManager


class PhotographRays:
    """Draws pixels of training photographs and gives their rays, with what bakers and fields ask a datamanager for.

    Args:
        datamanager: has read the photographs, and brought them into a pinhole camera's form.
        num_rays: of a batch. Random numbers are torch's global ones.
    Raises: InputError if masks leave no pixel.
    """

    def __init__(self, datamanager: ImageDataManager, num_rays: int) -> None:
        photographs, dataset = datamanager.cached_train, datamanager.train_dataset
        cameras = without_distortion(dataset.cameras)
        metadata = {**dataset.metadata, "cameras": cameras, "widest_pixel": widest_pixel(cameras)}
        self.train_dataset = SimpleNamespace(cameras=cameras, metadata=metadata)
        sizes = [(data["image"].shape[0], data["image"].shape[1]) for data in photographs]
        store = PixelStore(lambda index: _arrays(photographs[index]), sizes, device=datamanager.device)
        if len(store) == 0:
            problem = "the masks leave no pixel to train on"
            raise InputError(problem, "Mark valid pixels white", datamanager.config.data)
        self.train_pixel_sampler = StorePixelSampler(lambda: store, None, num_rays)
        self.train_ray_generator = RayGenerator(cameras.to(datamanager.device))

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Tensor]]:
        """New rays and a batch of their colors ("image") and pixels ("indices"), whichever the step."""
        batch = self.train_pixel_sampler.sample()
        return self.train_ray_generator(batch["indices"]), batch


def without_distortion(cameras: Cameras) -> Cameras:
    """Pinhole cameras of the same poses, sizes and intrinsics."""
    kept = {name: getattr(cameras, name) for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height")}
    return Cameras(**kept, camera_type=CameraType.PERSPECTIVE)


def _arrays(data: dict[str, Any]) -> dict[str, np.ndarray]:
    """A photograph in 8 bits, and its mask if it has one."""
    image = data["image"].cpu()
    if image.dtype != torch.uint8:
        image = (image.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    arrays = {"image": image.numpy()}
    if "mask" in data:
        arrays["mask"] = data["mask"].cpu().numpy().astype(bool)
    return arrays
