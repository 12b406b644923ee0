"""Whole photographs with depth as training batches, for models that draw pictures instead of rays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from common_ns.nerfstudio_seam.datamanager import FieldDataset
from common_ns.nerfstudio_seam.image_datamanager import ImageDataManager, ImageDataManagerConfig
from common_ns.splat_baking.undistortion import source_pixels
from depthnerf_ns.datamanager import DepthCheckOption, check_depth_of
from depthnerf_ns.dataset import DepthDataset


@dataclass
class DepthImageDataManagerConfig(DepthCheckOption, ImageDataManagerConfig):
    """Whole photographs with depth, checked, without lens distortion."""

    _target: type = field(default_factory=lambda: DepthImageDataManager)
    """target class to instantiate"""


class DepthImageDataManager(ImageDataManager):
    """Photographs have `depth_image` [h w 1], ray distance in scene units, and `depth_sigma` and `normal_image` where
    the data set has them; see `DepthDataset`.

    Args: those of `ImageDataManager`.
    """

    config: DepthImageDataManagerConfig
    dataset_class = DepthDataset

    def __init__(self, config: DepthImageDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        if self.test_mode == "val":
            check_depth_of(self)

    def straightened(
        self, dataset: FieldDataset, taken_by: Cameras, index: int, data: dict[str, Any]
    ) -> dict[str, Any]:
        """The maps of lenses with distortion are looked up anew: the nearest pixel counts, as a mean of two surfaces
        lies on neither."""
        assert isinstance(dataset, DepthDataset)
        lens = taken_by.distortion_params
        if lens is None or not bool((lens[index] != 0).any()):
            return data
        height, width = data["image"].shape[:2]
        pixels, shown = source_pixels(
            _intrinsics(taken_by, index),
            (int(taken_by.width[index]), int(taken_by.height[index])),
            lens[index],
            int(taken_by.camera_type[index]) == CameraType.FISHEYE.value,
            pinhole=(_intrinsics(dataset.cameras, index), (width, height)),
        )
        maps = dataset.maps(index, taken_by)
        return {**data, **{name: _nearest(value, pixels, shown) for name, value in maps.items()}}


def _intrinsics(cameras: Cameras, index: int) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy of a camera, in pixels."""
    return tuple(float(getattr(cameras, name)[index]) for name in ("fx", "fy", "cx", "cy"))  # type: ignore[return-value]


def _nearest(values: Tensor, pixels: Tensor, shown: Tensor) -> Tensor:
    """Values [h w c] at places (x, y) in pixels [h' w' 2]; 0 where nothing is shown."""
    height, width = values.shape[:2]
    column, row = pixels.floor().long().unbind(-1)
    found = values[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return torch.where(shown[..., None], found, torch.zeros_like(found))
