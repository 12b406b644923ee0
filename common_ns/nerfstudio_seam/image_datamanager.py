"""Whole photographs as training batches, for models that draw pictures instead of rays.

It is nerfstudio's datamanager of this kind, which undoes lens distortion and keeps the photographs in memory, with this
suite's checks of the input. Which photograph a step sees follows from the step alone, so that a resumed run goes on as
an uninterrupted one would have.
"""

from __future__ import annotations

import copy
import functools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader
from torch import Tensor

from common_ns.cameras.pinhole import require_pinhole
from common_ns.cameras.smaller import smaller_view
from common_ns.errors import InputError
from common_ns.metrics import valid_pixels_of
from common_ns.nerfstudio_seam.datamanager import CheckedInput, FieldDataset, reading, seed_step
from common_ns.nerfstudio_seam.renames import SuiteConfig
from common_ns.nerfstudio_seam.versions import in_training

LEAST_DISTORTION = 1e-12
"""Changes no pixel."""


@dataclass
class ImageDataManagerConfig(SuiteConfig, FullImageDatamanagerConfig):
    """Whole photographs, checked, without lens distortion."""

    _target: type = field(default_factory=lambda: ImageDataManager)
    """target class to instantiate"""
    cache_images_type: Literal["uint8", "float32"] = "uint8"
    """Number format of photographs in memory; colors in 8 bits take a quarter of the memory."""
    skip_missing_images: bool = False
    """Leave out frames whose image file does not exist, after naming them, instead of ending with an error."""
    max_train_pixels: int | None = None
    """Train on photographs averaged over squares of pixels, so large that no more than so many are left of each; None:
    at full size. Test images keep theirs."""


@dataclass
class RaysAsked:
    """Stands where nerfstudio's exporters say how many rays they want at once."""

    num_rays_per_batch: int | None = None
    """None: photographs are wanted, not rays."""


class ImageDataManager(CheckedInput, FullImageDatamanager[FieldDataset]):
    """Differs from nerfstudio's as the top of this file says.

    Args:
        config: its config.
        args, kwargs: those of nerfstudio's.
    """

    config: ImageDataManagerConfig

    def __init__(self, config: ImageDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        # Taken before anything is drawn: machine.seed, when a run is started by ns-train.
        seed = torch.initial_seed()
        if config.max_train_pixels is not None and config.max_train_pixels < 1:
            problem = f"max-train-pixels is {config.max_train_pixels}, and photographs need a pixel at least"
            raise InputError(problem, "Give a positive number to --pipeline.datamanager.max-train-pixels")
        if config.data is None and getattr(config.dataparser, "data", None) is None:
            raise InputError("there is no data", "Give --data")
        config.cache_images = "gpu"  # on this machine's device, whichever it is; "cpu" pins memory, which needs CUDA
        with reading(config):
            super().__init__(config, *args, **kwargs)
        self.seed = seed
        self._describe_scene()
        self._order: tuple[int, list[int]] = (-1, [])
        self.train_pixel_sampler = RaysAsked()

    def create_train_dataset(self) -> FieldDataset:
        self._check(self.train_dataparser_outputs, "train")
        self.train_dataparser_outputs = self._present(self.train_dataparser_outputs)
        _require_straight(self.train_dataparser_outputs)
        return self._dataset(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> FieldDataset:
        outputs = self.dataparser.get_dataparser_outputs(split=self.test_split)
        self._check(outputs, self.test_split)
        outputs = self._present(outputs)
        _require_straight(outputs)
        return self._dataset(outputs)

    def _load_images(self, split: Literal["train", "eval"], cache_images_device: Any) -> list[dict[str, Tensor]]:
        dataset: FieldDataset = self.train_dataset if split == "train" else self.eval_dataset
        _mark_fisheyes(dataset.cameras)
        taken_by = copy.deepcopy(dataset.cameras)
        loaded = super()._load_images(split, cache_images_device)
        loaded = [self.straightened(dataset, taken_by, index, data) for index, data in enumerate(loaded)]
        limit = self.config.max_train_pixels
        if split == "train" and limit is not None:
            loaded = [self._smaller(index, data, limit) for index, data in enumerate(loaded)]
            self.train_cameras = self.train_dataset.cameras.to(self.device)
        return loaded

    def straightened(
        self, dataset: FieldDataset, taken_by: Cameras, index: int, data: dict[str, Any]
    ) -> dict[str, Any]:
        """What is known of a photograph, brought into the form that it has got without distortion; its colors and its
        mask are already.

        Args:
            dataset: whose cameras are those of photographs without distortion.
            taken_by: the cameras as they were.
            index: of the photograph.
            data: what is known of it.
        """
        return data

    def _smaller(self, index: int, data: dict[str, Any], limit: int) -> dict[str, Any]:
        """A photograph of at most so many pixels; its camera, in the data set, becomes one of such pictures."""
        height, width = data["image"].shape[:2]
        factor = math.ceil(math.sqrt(height * width / limit))
        if factor <= 1:
            return data
        cameras = self.train_dataset.cameras
        factor = min(factor, height, width)
        data = {**data, "image": colors_of(data["image"])}
        camera, data = smaller_view(cameras[index : index + 1], data, factor)
        for name in ("fx", "fy", "cx", "cy", "width", "height"):
            getattr(cameras, name)[index] = getattr(camera, name)[0].to(getattr(cameras, name))
        if self.config.cache_images_type == "uint8":
            data["image"] = (data["image"] * 255.0).round().to(torch.uint8)
        return data

    def image_of_step(self, step: int) -> int:
        """Which photograph a step sees: each once before any twice, in an order that is drawn anew each time."""
        number = len(self.train_dataset)
        epoch = step // number
        if self._order[0] != epoch:
            order = list(range(number))
            random.Random((self.seed << 20) + epoch).shuffle(order)
            self._order = (epoch, order)
        return self._order[1][step % number]

    def train_photographs(self) -> Iterator[Tensor]:
        """All training photographs [h w 3 or 4] in [0, 1]; they are read at once."""
        cached = self.cached_train
        return (colors_of(data["image"]) for data in cached)

    def mean_color(self) -> Float[Tensor, "3"]:
        """Mean color in [0, 1] of the training photographs' valid pixels, each by its opacity."""
        total, weight = torch.zeros(3, dtype=torch.float64), 0.0
        for data in self.cached_train:
            image = colors_of(data["image"]).double().cpu()
            counts = image[..., 3:] if image.shape[-1] == 4 else torch.ones_like(image[..., :1])
            valid = valid_pixels_of(data)
            counts = counts if valid is None else counts * valid.cpu()
            total += (image[..., :3] * counts).sum(dim=(0, 1))
            weight += float(counts.sum())
        return (total / max(weight, 1.0)).float().to(self.device)

    def next_train(self, step: int) -> tuple[Cameras | RayBundle, dict]:
        """The step's camera, of shape [1], and its photograph; or rays of a random photograph, where an exporter has
        said how many."""
        if self.train_pixel_sampler.num_rays_per_batch is not None:
            return self._rays(self.train_pixel_sampler.num_rays_per_batch), {}
        if in_training(self):
            seed_step(self.seed, step)
        index = self.image_of_step(step)
        data = self.cached_train[index].copy()
        data["image"] = colors_of(data["image"].to(self.device))
        camera = self.train_cameras[index : index + 1]
        camera.metadata = {**(camera.metadata or {}), "cam_idx": index}
        return camera, data

    def _rays(self, number: int) -> RayBundle:
        """Rays [n] of random valid pixels of one training photograph."""
        index = int(torch.randint(len(self.train_dataset), ()))
        mask = self.cached_train[index].get("mask")  # before the cameras, which are changed while they are read
        camera = self.train_cameras[index : index + 1]
        height, width = int(camera.height), int(camera.width)
        places = torch.arange(height * width) if mask is None else mask.cpu().reshape(-1).nonzero()[:, 0]
        places = places[torch.randint(len(places), (number,))] if len(places) else places
        coords = torch.stack([places // width, places % width], dim=-1) + 0.5
        indices = torch.full((len(places), 1), index)
        return self.train_cameras.generate_rays(camera_indices=indices.to(self.device), coords=coords.to(self.device))

    def next_eval_image(self, step: int) -> tuple[Cameras, dict]:
        camera, data = super().next_eval_image(step)
        return camera, {**data, "image": colors_of(data["image"])}

    @functools.cached_property
    def eval_dataloader(self) -> FixedIndicesEvalDataloader:
        """What `ns-render spiral` takes a test camera from."""
        self.cached_eval  # noqa: B018 - reading the photographs makes the cameras those of undistorted ones
        return FixedIndicesEvalDataloader(input_dataset=self.eval_dataset, device=self.device)

    @property
    def fixed_indices_eval_dataloader(self) -> list[tuple[Cameras, dict]]:
        pairs = super().fixed_indices_eval_dataloader
        return [(camera, {**data, "image": colors_of(data["image"])}) for camera, data in pairs]


def colors_of(image: Tensor) -> Tensor:
    """Colors in [0, 1] of an image in 8 bits or in floating point."""
    return image.float() / 255.0 if image.dtype == torch.uint8 else image


def _mark_fisheyes(cameras: Cameras) -> None:
    """Give fisheyes without distortion a very small one: nerfstudio takes photographs without for a pinhole camera's,
    and a fisheye's are none."""
    if cameras.distortion_params is None:
        cameras.distortion_params = torch.zeros(*cameras.shape, 6)
    straight = (cameras.distortion_params == 0).all(dim=-1, keepdim=True)
    fisheye = cameras.camera_type == CameraType.FISHEYE.value
    least = torch.full_like(cameras.distortion_params, LEAST_DISTORTION)
    cameras.distortion_params = torch.where(straight & fisheye, least, cameras.distortion_params)


def _require_straight(outputs: DataparserOutputs) -> None:
    """Raises: InputError if a photograph cannot be brought into a pinhole camera's form."""
    cameras = outputs.cameras
    require_pinhole(cameras, "Take perspective or fisheye photographs, or another method, such as zip-nerf-small")
    perspective = (cameras.camera_type == CameraType.PERSPECTIVE.value).flatten()
    distortion = cameras.distortion_params
    if distortion is not None and bool((distortion[perspective][..., 3] != 0).any()):
        problem = "the lens has a distortion k4, which cannot be undone for photographs that are no fisheye's"
        raise InputError(problem, "Undistort the photographs, or take another method, such as zip-nerf-small")
