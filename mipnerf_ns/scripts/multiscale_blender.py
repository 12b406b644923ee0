"""`ns-multiscale-blender`: makes a multi-scale scene from a Blender scene, as the mip-NeRF paper does.

Every view is stored at 1, ½, ¼ and ⅛ of its size, in the format that `mipnerf_ns.dataparser` describes. In contrast to
google/mipnerf's converter, which averages color and opacity apart, colors are averaged weighted by their opacity, so
that the color hidden in transparent pixels does not bleed into the edges.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image

from common_ns.data.files import require_writable, written_whole
from common_ns.data.images import check_images, decode_image
from common_ns.data.transforms import DISTORTION, read_transforms
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.dataparsers import image_size
from common_ns.nerfstudio_seam.last_words import report_input_errors
from mipnerf_ns.dataparser import METADATA_FILE

SPLITS = ("train", "val", "test")
SCALES = (1, 2, 4, 8)


def area_average(image: Float[NDArray, "h w *c"], height: int, width: int) -> Float[NDArray, "height width *c"]:
    """Resample by averaging over each new pixel's exact area; old pixels that it cuts count by the part inside.

    An average over an interval is a difference of the cumulative sum at its ends, and the cumulative sum of a piecewise
    constant signal is linear in between, so that fractional ends need no further approximation.

    Args:
        image: any number of channels; to be exact for transparent images, with premultiplied color.
        height: new height in pixels, at most the old one.
        width: new width in pixels, at most the old one.
    """
    for axis, size in ((0, height), (1, width)):
        old_size = image.shape[axis]
        if size == old_size:
            continue
        signal = np.moveaxis(image.astype(np.float64), axis, 0)
        cumulative = np.concatenate([np.zeros_like(signal[:1]), np.cumsum(signal, axis=0)])
        ends = np.arange(size + 1) * (old_size / size)
        whole = np.minimum(np.floor(ends).astype(int), old_size - 1)
        part = (ends - whole).reshape(-1, *[1] * (signal.ndim - 1))
        integral = cumulative[whole] + part * signal[whole]
        image = np.moveaxis(np.diff(integral, axis=0) * (size / old_size), 0, axis)
    return image


def downscale(image: UInt8[NDArray, "h w c"], scale: int) -> UInt8[NDArray, "height width c"]:
    """An 8-bit image, RGB or RGBA with straight alpha, made smaller by area averaging.

    Args:
        image: 3 or 4 channels.
        scale: factor by which the sides shrink; sides that it does not divide are rounded to the nearest pixel, and
            at least 1.
    """
    height, width = (max(1, math.floor(side / scale + 0.5)) for side in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    color = image[..., :3].astype(np.float64)
    if image.shape[2] == 3:
        return np.rint(area_average(color, height, width)).astype(np.uint8)
    alpha = image[..., 3:] / 255.0
    small_alpha = area_average(alpha, height, width)
    # Straight alpha is what PNG stores. Where nothing is visible the color is arbitrary: 0.
    premultiplied = area_average(color * alpha, height, width)
    straight = np.where(small_alpha > 1e-9, premultiplied / np.maximum(small_alpha, 1e-9), 0.0)
    return np.rint(np.concatenate([straight, 255.0 * small_alpha], axis=-1)).clip(0, 255).astype(np.uint8)


def pixel_to_camera(fx: float, fy: float, cx: float, cy: float) -> list[list[float]]:
    """Inverse intrinsic matrix to a camera that looks along −z with y up: pixel (x, y, 1) to ray direction."""
    return [[1.0 / fx, 0.0, -cx / fx], [0.0, -1.0 / fy, cy / fy], [0.0, 0.0, -1.0]]


@dataclass(frozen=True)
class View:
    """A frame of a Blender scene."""

    image: Path
    pose: list[list[float]]
    """Camera to world, 4×4."""
    intrinsics: tuple[float, float, float, float]
    """fx, fy, cx and cy in pixels of the image."""


def read_views(file: Path) -> list[View]:
    """Read and check a Blender scene's transforms_{split}.json.

    Raises: InputError if images are missing, or have distortion, for which the multi-scale format has no field.
    """
    transforms = read_transforms(file, image_size, blender=True)
    views = []
    for frame in transforms.frames:
        fields = transforms.intrinsics(frame)
        lens = {key: fields[key] for key in DISTORTION if fields[key]}
        if lens:
            shown = ", ".join(f"{key} {value:g}" for key, value in lens.items())
            problem = f"{frame['file_path']} has distortion ({shown}), for which the multi-scale format has no field"
            raise InputError(problem, "Undistort the images", file)
        fx, fy, cx, cy = (float(fields[key]) for key in ("fl_x", "fl_y", "cx", "cy"))
        views.append(View(file.parent / frame["file_path"], frame["transform_matrix"], (fx, fy, cx, cy)))
    missing = [view.image for view in views if not view.image.is_file()]
    if missing:
        problem = f"{len(missing)} of {len(views)} images do not exist, such as {missing[0]}"
        raise InputError(problem, "Restore them, or remove their frames", file)
    check_images(
        [view.image for view in views],
        [(int(f["w"]), int(f["h"])) for f in map(transforms.intrinsics, transforms.frames)],
    )
    for note in transforms.notes:
        print(f"{file}: {note}")
    return views


@dataclass
class MultiscaleBlender:
    """Make a multi-scale scene from a Blender scene: every image at 1, ½, ¼ and ⅛ of its size, and metadata.json."""

    input: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="INPUT")]]
    """Folder of the Blender scene, with transforms_train.json and so on."""
    output: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUTPUT")]]
    """Folder to write the multi-scale scene to; images of an earlier conversion are replaced."""
    near: float = 2.0
    """Ray distance in scene units at which the scene begins."""
    far: float = 6.0
    """Ray distance in scene units at which the scene ends."""

    def main(self) -> None:
        """Convert all splits that the scene has."""
        if not self.input.is_dir():
            raise InputError("no such folder", "Give the folder of a Blender scene", self.input)
        require_writable(self.output, "OUTPUT", folder=True)
        if self.output.resolve() == self.input.resolve():
            raise InputError("is both input and output", "Name another folder for the multi-scale scene", self.output)
        if not 0 <= self.near < self.far < math.inf:
            problem = f"--near {self.near} and --far {self.far} hold no range"
            raise InputError(problem, "Choose 0 ≤ near < far in scene units")

        transforms = {}
        for split in SPLITS:
            file = self.input / f"transforms_{split}.json"
            if file.is_file():
                transforms[split] = read_views(file)
            else:
                print(f"{file} does not exist: the multi-scale scene has no {split} split.")
        if not transforms:
            problem = "holds no transforms_train.json, transforms_val.json or transforms_test.json"
            raise InputError(problem, "Give the folder of a Blender scene", self.input)

        self.output.mkdir(parents=True, exist_ok=True)
        metadata_file = self.output / METADATA_FILE
        # Metadata that is there describes images that are complete: old metadata goes first, the new comes last.
        metadata_file.unlink(missing_ok=True)
        metadata = {}
        for split, views in transforms.items():
            metadata[split] = self.convert_split(split, views)
            print(f"{split}: {len(views)} views at {len(SCALES)} scales")
        with written_whole(metadata_file) as partial:
            partial.write_text(json.dumps(metadata, indent=1))
        command = shlex.join(["ns-train", "mip-nerf", "multiscale-blender-data", "--data", str(self.output)])
        print(f"Written to {metadata_file}. Train on it with:\n{command}")

    def convert_split(self, split: str, views: list[View]) -> dict[str, list]:
        """Write all images of a split and return its table of metadata, image by image and scale by scale."""
        (self.output / f"images_{split}").mkdir(exist_ok=True)

        def convert_frame(index: int) -> list[dict[str, Any]]:
            return self.convert_frame(f"images_{split}/{index:03d}", views[index])

        # PNG compression takes most of the time and runs outside of Python's global lock.
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            rows = [row for rows in pool.map(convert_frame, range(len(views))) for row in rows]
        return {key: [row[key] for row in rows] for key in rows[0]}

    def convert_frame(self, stem: str, view: View) -> list[dict[str, Any]]:
        """Write one view at all scales and return one row of metadata per scale."""
        original = decode_image(view.image)
        full_height, full_width = original.shape[:2]
        rows = []
        for label, scale in enumerate(SCALES):
            image = downscale(original, scale)
            height, width = image.shape[:2]
            name = f"{stem}_d{label}.png"
            Image.fromarray(image).save(self.output / name)
            # The field of view stays, so the focal lengths shrink by what the sides really shrank by.
            across, down = width / full_width, height / full_height
            fx, fy, cx, cy = (n * factor for n, factor in zip(view.intrinsics, (across, down, across, down)))
            rows.append(
                {
                    "file_path": name,
                    "cam2world": view.pose,
                    "width": width,
                    "height": height,
                    "focal": fx,
                    "label": label,
                    "near": self.near,
                    "far": self.far,
                    "lossmult": full_width * full_height / (width * height),
                    "pix2cam": pixel_to_camera(fx, fy, cx, cy),
                }
            )
        return rows


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    tyro.cli(MultiscaleBlender, description=MultiscaleBlender.__doc__).main()


if __name__ == "__main__":
    entrypoint()
