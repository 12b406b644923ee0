"""What nerfstudio asks of a data set, for a signal that is fitted directly: cameras to look at it with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.pixel_samplers import PixelSampler, PixelSamplerConfig
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader, RandIndicesEvalDataloader
from nerfstudio.model_components.ray_generators import RayGenerator
from torch import Tensor

from common_ns.data import checks
from common_ns.data.gate import check_outputs
from common_ns.nerfstudio_seam.renames import SuiteConfig
from miner_ns.signal import Signal, SignalLoader


class SignalDataset(InputDataset):
    """Pictures of the signal: an image shrunk to its camera's size; for a volume, which has none, plain gray."""

    def get_numpy_image(self, image_idx: int) -> np.ndarray:
        """The picture [height, width, 3] in 8 bits."""
        camera = self.cameras[image_idx]
        height, width = int(camera.height), int(camera.width)
        signal = self.metadata["signal"]
        if len(signal.spatial_shape) != 2:
            return np.full((height, width, 3), 128, dtype=np.uint8)
        return shrunk(signal.load() if isinstance(signal, SignalLoader) else signal, height, width)


def shrunk(image: Signal, height: int, width: int) -> np.ndarray:
    """An image at another size in 8 bits, from samples at the centers of its pixels: a picture for orientation, for
    which a gigapixel need not be averaged."""
    rows, columns = (
        np.minimum(((np.arange(count) + 0.5) * size / count).astype(int), size - 1)
        for count, size in zip((height, width), image.spatial_shape)
    )
    lines = [image.read((row, 0), (row + 1, image.spatial_shape[1]))[0, columns] for row in rows]
    values = np.stack(lines)
    color = values[..., :3] if image.channels >= 3 else np.repeat(values[..., :1], 3, axis=-1)
    if image.channels in (2, 4):
        color = color * values[..., -1:] + (1.0 - values[..., -1:])
    return np.rint(color.clip(0.0, 1.0) * 255.0).astype(np.uint8)


class AnyPixelSampler(PixelSampler):
    """Draws pixels of all cameras; exporters set `num_rays_per_batch`."""

    def __init__(self, dataset: SignalDataset, num_rays_per_batch: int) -> None:
        super().__init__(PixelSamplerConfig(), num_rays_per_batch=num_rays_per_batch)
        self.cameras = dataset.cameras

    def sample(self, image_batch: Any = None) -> dict[str, Tensor]:
        """Indices (camera, row, column)."""
        count = self.num_rays_per_batch
        camera = torch.randint(len(self.cameras), (count,))
        height, width = self.cameras.height[camera, 0].cpu(), self.cameras.width[camera, 0].cpu()
        place = torch.rand(count, 2)
        row, column = (place[:, 0] * height).long(), (place[:, 1] * width).long()
        return {"indices": torch.stack([camera, row, column], dim=-1)}


@dataclass
class SignalDataManagerConfig(SuiteConfig, VanillaDataManagerConfig):
    """Cameras that look at a signal. Training reads the signal itself, not rays."""

    _target: type = field(default_factory=lambda: SignalDataManager)
    """target class to instantiate"""


class SignalDataManager(VanillaDataManager[SignalDataset]):
    """Gives exporters and evaluation what they look for; a training step gets nothing from it."""

    config: SignalDataManagerConfig

    def __init__(self, config: SignalDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        data = Path(config.data if config.data is not None else config.dataparser.data)
        checks.require_path(data)
        with checks.explained(data):
            super().__init__(config, *args, **kwargs)
            check_outputs(self.train_dataparser_outputs, data)

    def create_train_dataset(self) -> SignalDataset:
        return SignalDataset(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> SignalDataset:
        return SignalDataset(self.dataparser.get_dataparser_outputs(split=self.test_split))

    def setup_train(self) -> None:
        self.train_pixel_sampler = AnyPixelSampler(self.train_dataset, self.config.train_num_rays_per_batch)
        self.train_ray_generator = RayGenerator(self.train_dataset.cameras.to(self.device))

    def setup_eval(self) -> None:
        self.eval_pixel_sampler = AnyPixelSampler(self.eval_dataset, self.config.eval_num_rays_per_batch)
        self.eval_ray_generator = RayGenerator(self.eval_dataset.cameras.to(self.device))
        self.fixed_indices_eval_dataloader = FixedIndicesEvalDataloader(
            input_dataset=self.eval_dataset, device=self.device
        )
        self.eval_dataloader = RandIndicesEvalDataloader(input_dataset=self.eval_dataset, device=self.device)

    def next_train(self, step: int) -> tuple[RayBundle, dict]:
        """Random rays of the cameras, as exporters ask for them."""
        self.train_count += 1
        assert self.train_pixel_sampler is not None
        batch = self.train_pixel_sampler.sample({})
        return self.train_ray_generator(batch["indices"]), batch

    def next_eval(self, step: int) -> tuple[RayBundle, dict]:
        """Random rays of the cameras."""
        self.eval_count += 1
        assert self.eval_pixel_sampler is not None
        batch = self.eval_pixel_sampler.sample({})
        return self.eval_ray_generator(batch["indices"]), batch
