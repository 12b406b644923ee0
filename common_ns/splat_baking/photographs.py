"""A run's photographs as the rasteriser draws them: pinhole pictures with the pixels that count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from nerfstudio.cameras.cameras import CameraType
from torch import Tensor

from common_ns.metrics import valid_pixels_of
from common_ns.splat_baking.undistortion import looked_up, source_pixels

ALL_COUNTS = 0.999
"""Least value of a mask between pixels at which all of these count."""


@dataclass(frozen=True)
class Photograph:
    """What a pinhole camera saw."""

    index: int
    """Of the camera in its data set."""
    image: UInt8[Tensor, "h w 3"]
    """Over the background."""
    valid: Bool[Tensor, "h w"]
    """The pixels that count: shown by the lens, and within the mask if there is one."""
    source: Float[Tensor, "h w 2"] | None
    """(x, y) of each pixel in the photograph as it was taken; None: the same."""
    viewmat: Float[Tensor, "4 4"]
    """World to camera, which looks along +z with y downward (OpenCV)."""
    K: Float[Tensor, "3 3"]
    """Intrinsics in pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def colors(self) -> Float[Tensor, "h w 3"]:
        """In [0, 1]."""
        return self.image.float() / 255.0


def viewmat_of(camera_to_world: Float[Tensor, "3 4"]) -> Float[Tensor, "4 4"]:
    """World to camera in OpenCV's axes, of a pose in nerfstudio's. Derivatives pass through."""
    rotation = camera_to_world[:3, :3] * camera_to_world.new_tensor([1.0, -1.0, -1.0])
    moved = -(rotation.T @ camera_to_world[:3, 3:])
    last = camera_to_world.new_tensor([[0.0, 0.0, 0.0, 1.0]])
    return torch.cat([torch.cat([rotation.T, moved], dim=1), last])


def refined_poses(model: Any, poses: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
    """The training cameras' poses as a model that refines them has found them."""
    optimizer = getattr(model, "camera_optimizer", None)
    if optimizer is None or getattr(optimizer.config, "mode", "off") == "off":
        return poses
    if hasattr(optimizer, "refined_poses"):
        return optimizer.refined_poses(poses.to(model.device)).detach().cpu()
    change = optimizer(torch.arange(len(poses), device=model.device)).detach().cpu()
    turned = change[:, :3, :3] @ poses[:, :3, :3]
    return torch.cat([turned, poses[:, :3, 3:] + change[:, :3, 3:]], dim=-1)


def photographs_of(
    dataset: Any,
    background: Float[Tensor, "3"],
    object_only: bool = False,
    poses: Float[Tensor, "n 3 4"] | None = None,
) -> Iterator[Photograph]:
    """The photographs of a data set, one by one.

    Args:
        dataset: of images with cameras that `cameras.pinhole.require_pinhole` lets pass.
        background: that images with alpha are put over.
        object_only: put the background in the place of what is outside of the objects' masks, where there are any.
        poses: camera to world, in nerfstudio's axes; None: those of the data set.
    """
    cameras = dataset.cameras.to("cpu")
    stands = cameras.camera_to_worlds if poses is None else poses
    assert stands is not None
    for index in range(len(dataset)):
        data = dataset.get_data(index, image_type="float32")
        image, mask = data["image"].cpu(), valid_pixels_of(data)
        alpha = image[..., 3:] if image.shape[-1] == 4 else None
        object_mask = getattr(dataset, "object_mask", lambda index: None)(index) if object_only else None
        if object_mask is not None:
            covered = torch.from_numpy(np.asarray(object_mask)).float() / 255.0
            alpha = covered
        image = image[..., :3]
        if alpha is not None:
            image = image * alpha + background.to(image) * (1.0 - alpha)
        height, width = image.shape[:2]
        intrinsics = tuple(float(getattr(cameras, name)[index]) for name in ("fx", "fy", "cx", "cy"))
        parameters = None if cameras.distortion_params is None else cameras.distortion_params[index]
        fisheye = int(cameras.camera_type[index]) == CameraType.FISHEYE.value
        straight = not fisheye and (parameters is None or not bool((parameters != 0).any()))
        valid = torch.ones(height, width, dtype=torch.bool)
        source: Tensor | None = None
        if not straight:
            source, valid = source_pixels(intrinsics, (width, height), parameters, fisheye)  # type: ignore[arg-type]
            image = looked_up(image, source)
        if mask is not None:
            shown = mask.cpu().float() if source is None else looked_up(mask.cpu().float(), source)
            valid = valid & (shown[..., 0] >= ALL_COUNTS)
        fx, fy, cx, cy = intrinsics
        yield Photograph(
            index=index,
            image=(image.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8),
            valid=valid,
            source=None if source is None else source.float(),
            viewmat=viewmat_of(stands[index].double()).float(),
            K=torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]),
        )
