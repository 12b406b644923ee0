"""Which pixels of an image its camera saw, and how likely each is to be drawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from numpy import ndarray
from torch import Tensor

from common_ns.errors import InputError
from common_ns.rays.cones import pixel_radius

WHOLE_VIEWS = (
    CameraType.OMNIDIRECTIONALSTEREO_L,
    CameraType.OMNIDIRECTIONALSTEREO_R,
    CameraType.VR180_L,
    CameraType.VR180_R,
)
"""Camera models that nerfstudio renders with, and has no rays of single pixels for."""


def row_weights(cameras: Cameras, index: int) -> Float[ndarray, " h"] | None:
    """How likely a pixel of each row of an image is to be drawn, 1 on average over the rows; None: all alike.

    A panorama's pixels at the poles see next to nothing: here a pixel is as likely as its solid angle is large, that
    is, as the cosines of the angles between the pole and the two edges of its row differ.

    Raises: InputError if nerfstudio has no rays of single pixels for the camera.
    """
    kind = CameraType(int(cameras.camera_type[index]))
    if kind in WHOLE_VIEWS:
        problem = f"the images are of the camera model {kind.name}, which nerfstudio can render and not train with"
        raise InputError(problem, "Use perspective, fisheye or EQUIRECTANGULAR images")
    if kind != CameraType.EQUIRECTANGULAR:
        return None
    height, cy, fy = int(cameras.height[index]), float(cameras.cy[index]), float(cameras.fy[index])
    edges = np.clip(np.pi * (0.5 + (np.arange(height + 1) - cy) / fy), 0.0, np.pi)
    angles = -np.diff(np.cos(edges))
    return angles / angles.mean()


def crop_radius(value: Any, factor: float = 1.0, file: Path | None = None) -> float:
    """A fisheye's radius, in pixels of an image that was scaled by a factor.

    Raises: InputError about the file unless it is a number above 0.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0.0 < value < math.inf:
        remedy = "Give the radius in pixels, at the size that the cameras state, or remove the field"
        raise InputError(f"fisheye_crop_radius is {value!r}", remedy, file)
    return float(value) * factor


def inside_crop(cameras: Cameras, index: int, radius: float) -> Bool[ndarray, "h w 1"]:
    """The pixels of an image whose centers are within a radius of the principal point, where a fisheye's picture is.

    Args:
        cameras: of the size of the images.
        index: of the image.
        radius: in pixels.
    """
    height, width = int(cameras.height[index]), int(cameras.width[index])
    x = np.arange(width) + 0.5 - float(cameras.cx[index])
    y = np.arange(height) + 0.5 - float(cameras.cy[index])
    return (x[None, :] ** 2 + y[:, None] ** 2 <= radius**2)[..., None]


def widest_pixel(cameras: Cameras) -> float:
    """Largest cone radius at distance 1 of the pixels in the middles of images."""
    middles = torch.cat([cameras.height, cameras.width], dim=-1).reshape(-1, 2) / 2.0
    rays = cameras.generate_rays(torch.arange(len(middles))[:, None].to(middles.device), middles)
    return float(pixel_radius(rays.pixel_area).max())


def pixel_footprint(cameras: Cameras, image_scale: list[int] | None = None) -> Float[Tensor, "n 1"]:
    """Area of each camera's pixels, relative to those of the finest copy of the same image, and 1 on average over the
    pixels of all.

    Multi-scale training weights the loss by it, so that each image counts by the area that its pixels stand for
    (mip-NeRF, section 4.1: "loss multiplied by the pixel's footprint"). The mean weight of rays is then 1, whichever
    chunk or device they are in. A photograph with another lens is no copy: its pixels count 1.

    Args:
        cameras: of the size of the images.
        image_scale: factor by which each image was made smaller, where the data set says so; else the copies of an
            image are those cameras with its pose and field of view.
    """
    sizes = torch.cat([cameras.fx, cameras.fy, cameras.width, cameras.height], dim=-1).reshape(-1, 4).double().cpu()
    if image_scale is not None:
        area = torch.tensor(image_scale, dtype=torch.float64) ** 2
    else:
        area = torch.from_numpy(_area_of_copies(cameras.camera_to_worlds.reshape(-1, 12).cpu().numpy(), sizes.numpy()))
    pixels = sizes[:, 2] * sizes[:, 3]
    return (area * pixels.sum() / (area * pixels).sum()).float()[:, None]


def _area_of_copies(poses: Float[ndarray, "n 12"], sizes: Float[ndarray, "n 4"]) -> Float[ndarray, " n"]:
    """Area of pixels relative to those of the finest camera with the same pose and field of view.

    Args:
        poses: of the cameras.
        sizes: focal lengths, width and height in pixels.
    """
    area = np.ones(len(poses))
    step = 1e-6 * max(1.0, float(np.abs(poses).max()))
    _, place = np.unique(np.round(poses / step), axis=0, return_inverse=True)
    order = np.argsort(place.reshape(-1), kind="stable")
    for same_pose in np.split(order, np.flatnonzero(np.diff(place.reshape(-1)[order])) + 1):
        rest = same_pose[np.argsort(-sizes[same_pose, 0] * sizes[same_pose, 1], kind="stable")]
        while len(rest) > 1:
            finest = sizes[rest[0]]
            # The size of a copy is rounded to whole pixels.
            view, own = sizes[rest, 2:] / sizes[rest, :2], finest[2:] / finest[:2]
            copies = (np.abs(view / own - 1.0) < 1.5 / sizes[rest, 2:]).all(axis=1)
            area[rest[copies]] = finest[0] * finest[1] / (sizes[rest[copies], 0] * sizes[rest[copies], 1])
            rest = rest[~copies]
    return area
