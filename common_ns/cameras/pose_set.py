"""The cameras of a data set as training would see them, with what is printed and drawn of them.

The poses are those after the data parser has oriented, centered and scaled them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from common_ns.cameras.geometry import (
    fraction_in_front,
    in_words,
    orbit_center,
    positions,
    spherical_coordinates,
    up_axis,
)
from common_ns.data.images import decode_image
from common_ns.errors import InputError

if TYPE_CHECKING:
    from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs

SPLIT_COLORS = {"train": (37, 99, 235), "test": (234, 88, 12)}
"""Color of each split's frusta, 8-bit RGB."""
BOX_COLOR = (130, 138, 150)
UP_COLOR = (22, 140, 80)
FOCUS_COLOR = (200, 30, 90)


@dataclass(frozen=True)
class SplitCameras:
    """The cameras of one split."""

    name: str
    """train or test."""
    c2w: Float[NDArray, "n 3 4"]
    """Camera-to-world matrices, OpenGL convention."""
    sizes: Float[NDArray, "n 2"]
    """Width and height in pixels."""
    focals: Float[NDArray, "n 2"]
    """fx and fy in pixels."""
    principal_points: Float[NDArray, "n 2"]
    """cx and cy in pixels."""
    image_files: list[Path]
    """Image of each camera."""
    alpha_color: Float[NDArray, " 3"]
    """What transparent images are blended with, 0 to 1."""

    @property
    def distinct(self) -> NDArray[np.intp]:
        """Indices of the cameras to draw: the first of each pose, as a multi-scale scene has several with one pose."""
        keys = np.round(self.c2w.reshape(len(self.c2w), -1), 6)
        return np.sort(np.unique(keys, axis=0, return_index=True)[1])


@dataclass(frozen=True)
class PoseSet:
    """The cameras of a data set and the region they are about."""

    title: str
    """Name of the data set and its data parser."""
    splits: list[SplitCameras]
    """At least the train split; none of them is empty."""
    box: Float[NDArray, "2 3"]
    """Lower and upper corner of the scene box."""

    @property
    def c2w(self) -> Float[NDArray, "n 3 4"]:
        """Poses of all splits."""
        return np.concatenate([split.c2w for split in self.splits])

    @property
    def focus(self) -> Float[NDArray, " 3"]:
        """The point that the cameras look at."""
        return orbit_center(self.c2w, self.box)[0]

    @property
    def up(self) -> Float[NDArray, " 3"]:
        """The direction that is up for the cameras."""
        return up_axis(self.c2w)

    @property
    def frustum_depth(self) -> float:
        """Depth in scene units at which frusta are drawn: so that neighboring cameras stay apart."""
        centers = np.concatenate([positions(split.c2w[split.distinct]) for split in self.splits])[:500]
        extent = float(np.linalg.norm(np.ptp(np.concatenate([centers, self.focus[None]]), axis=0)))
        extent = max(extent, 0.1 * float(np.linalg.norm(self.box[1] - self.box[0])))
        distances = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
        # Each camera is not its own neighbor, nor are cameras that turn about one point.
        distances[distances < 1e-4 * extent] = np.inf
        spacing = np.median(distances.min(axis=1)) if len(centers) > 1 else np.inf
        return float(np.clip(0.7 * spacing, 0.05 * extent, 0.1 * extent))


def split_cameras(name: str, outputs: DataparserOutputs, only: list[int] | None = None) -> SplitCameras:
    """Take what is drawn out of a data parser's outputs, for all cameras or only for those at the given indices."""
    cameras = outputs.cameras
    index = np.arange(len(outputs.image_filenames)) if only is None else np.asarray(only, dtype=int)

    def pair(first: Any, second: Any) -> Float[NDArray, "n 2"]:
        return np.stack([first.flatten().numpy(), second.flatten().numpy()], axis=-1).astype(np.float64)[index]

    white = np.ones(3)
    return SplitCameras(
        name=name,
        c2w=cameras.camera_to_worlds.numpy().astype(np.float64)[index],
        sizes=pair(cameras.width, cameras.height),
        focals=pair(cameras.fx, cameras.fy),
        principal_points=pair(cameras.cx, cameras.cy),
        image_files=[outputs.image_filenames[i] for i in index],
        alpha_color=white if outputs.alpha_color is None else np.asarray(outputs.alpha_color, dtype=np.float64),
    )


def load_poses(dataparser_config: DataParserConfig, title: str) -> PoseSet:
    """Read the train and test cameras of a data set.

    A data set without a test split, or one whose test images are its train images, is shown with its train split alone.
    """
    from common_ns.nerfstudio_seam.dataparsers import checked_outputs, set_up

    dataparser = set_up(dataparser_config)
    train = checked_outputs(dataparser, "train")
    splits = [split_cameras("train", train)]
    try:
        test = checked_outputs(dataparser, "test")
    except InputError as error:
        print(f"The test split is not shown: {error}")
    else:
        known = set(train.image_filenames)
        only = [i for i, file in enumerate(test.image_filenames) if file not in known]
        if only:
            splits.append(split_cameras("test", test, only))
    return PoseSet(title=title, splits=splits, box=train.scene_box.aabb.numpy().astype(np.float64))


def thumbnail(split: SplitCameras, index: int, side: int) -> UInt8[NDArray, "h w 3"] | None:
    """The image of one camera with its longer side shrunk to `side` pixels; None if it cannot be read."""
    from PIL import Image

    width, height = split.sizes[index]
    try:
        image = Image.fromarray(decode_image(split.image_files[index], (int(width), int(height))))
    except InputError:
        return None
    scale = side / max(image.size)
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    small = np.asarray(image.resize(size, Image.Resampling.BOX))
    if small.shape[-1] == 3:
        return small
    alpha = small[..., 3:] / 255.0
    return np.rint(small[..., :3] * alpha + 255.0 * split.alpha_color * (1.0 - alpha)).astype(np.uint8)


def number_range(values: NDArray, unit: str = "", digits: int = 4) -> str:
    """Smallest, median and largest value, or the one value that they all are."""
    low, middle, high = np.min(values), np.median(values), np.max(values)
    if high - low <= 1e-3 * max(abs(high), abs(low)):
        return f"{middle:.{digits}g}{unit}"
    return f"{low:.{digits}g} – {high:.{digits}g}{unit}, median {middle:.{digits}g}{unit}"


def summary(poses: PoseSet) -> list[tuple[str, str]]:
    """What there is to say about the cameras in numbers, as pairs of heading and value."""
    sizes = np.concatenate([split.sizes for split in poses.splits])
    focals = np.concatenate([split.focals for split in poses.splits])
    distance, elevation, _ = spherical_coordinates(positions(poses.c2w), poses.focus, poses.up)
    counts = ", ".join(f"{len(split.c2w)} {split.name}" for split in poses.splits)
    kinds = np.unique(sizes, axis=0)[::-1]
    resolutions = ", ".join(f"{w:.0f} × {h:.0f}" for w, h in kinds[:4]) + (" …" if len(kinds) > 4 else "")
    fov = np.degrees(2 * np.arctan(0.5 * sizes[:, 1] / focals[:, 1]))
    in_front = fraction_in_front(poses.c2w, poses.focus)
    rows = [("cameras", counts), ("resolution", f"{resolutions} px")]
    if np.allclose(focals[:, 0], focals[:, 1], rtol=1e-3):
        rows.append(("focal length", number_range(focals[:, 0], " px")))
    else:
        rows += [(f"focal length {axis}", number_range(focals[:, k], " px")) for k, axis in enumerate("xy")]
    rows += [
        ("field of view", f"{number_range(fov, '°', 3)} vertical"),
        ("focus point", f"{in_words(poses.focus)}, in front of {in_front:.0%} of the cameras"),
        ("distance", number_range(distance)),
        ("elevation", number_range(np.degrees(elevation), "°", 3)),
        ("up axis", in_words(poses.up)),
        ("scene box", f"{in_words(poses.box[0])}  to  {in_words(poses.box[1])}"),
    ]
    return rows
