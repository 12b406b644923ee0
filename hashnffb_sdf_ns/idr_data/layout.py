"""Files of the IDR and NeuS layout in all its spellings, and which of them belong together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common_ns.data.checks import require_path
from common_ns.errors import InputError
from hashnffb_sdf_ns.idr_data.cameras import CAMERA_FILES

IMAGE_FOLDERS = ("image", "images", "rgb")
MASK_FOLDERS = ("mask", "masks")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif")
POINT_FILES = ("sparse_points_interest.ply", "sparse_points.ply", "points3D.ply", "points.ply")
"""Names of a file with SfM points in the coordinates of world_mat, the preferred one first."""


@dataclass(frozen=True)
class IdrFiles:
    """The files of a data set, in the order of the views."""

    folder: Path
    images: list[Path]
    masks: list[Path] | None
    """One for each image; None if the data set has none."""
    points: Path | None
    """SfM points, if there are any."""


def find_files(folder: Path) -> IdrFiles:
    """The images, masks and points of a data set.

    Raises: InputError if there are no images, or the counts of images and masks differ.
    """
    folder = require_path(folder)
    if not folder.is_dir():
        raise InputError("is a file", "Name the folder that holds the images and the cameras", folder)
    image_folder = _first_folder(folder, IMAGE_FOLDERS)
    if image_folder is None:
        raise InputError(f"there is no folder {' or '.join(IMAGE_FOLDERS)}", "Put the images there", folder)
    images = list_images(image_folder)
    if not images:
        problem = f"the folder holds no image ({', '.join(IMAGE_SUFFIXES)})"
        raise InputError(problem, "Put the images there", image_folder)
    mask_folder = _first_folder(folder, MASK_FOLDERS)
    masks = None if mask_folder is None else pair_masks(images, list_images(mask_folder), mask_folder)
    points = next((folder / name for name in POINT_FILES if (folder / name).is_file()), None)
    return IdrFiles(folder, images, masks, points)


def find_camera_file(folder: Path) -> Path:
    """The file with the cameras of a data set.

    Raises: InputError if there is none.
    """
    for name in CAMERA_FILES:
        if (folder / name).is_file():
            return folder / name
    remedy = "Put it there; captures that COLMAP has posed are read by colmap or nerfstudio-data instead"
    raise InputError(f"there is no {' or '.join(CAMERA_FILES)}", remedy, folder)


def list_images(folder: Path) -> list[Path]:
    """The image files of a folder in natural order (2 before 10); hidden files do not count."""
    files = (f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith("."))
    return sorted(files, key=lambda f: [(int(s), "") if s.isdigit() else (-1, s) for s in re.split(r"(\d+)", f.name)])


def number_of(file: Path) -> int | None:
    """The last number in a file's name, without its suffix; None if there is none."""
    digits = re.findall(r"\d+", file.stem)
    return int(digits[-1]) if digits else None


def pair_masks(images: Sequence[Path], masks: Sequence[Path], folder: Path) -> list[Path]:
    """The mask of each image: in sorted order, as names need not agree; where there are more masks than images, by
    number.

    Raises: InputError if the counts differ and the numbers do not tell which belong together.
    """
    if len(masks) == len(images):
        return list(masks)
    by_number = {number_of(mask): mask for mask in masks}
    numbers = [number_of(image) for image in images]
    unique = len(by_number) == len(masks) and len(set(numbers)) == len(images) and None not in numbers
    if len(masks) > len(images) and unique and all(number in by_number for number in numbers):
        return [by_number[number] for number in numbers]
    lacking = [image.name for image, number in zip(images, numbers) if number not in by_number]
    first = f"; {lacking[0]} has none" if lacking and unique else ""
    problem = f"there are {len(masks)} masks for {len(images)} images{first}"
    raise InputError(problem, "Give each image one mask, or remove the folder to train without masks", folder)


def pair_views(images: Sequence[Path], numbers: Sequence[int], file: Path) -> list[int]:
    """The number of the camera of each image.

    Images whose names are numbered like the cameras take those of their numbers: then there may be gaps, and cameras
    without an image. Else images and cameras are paired in sorted order.

    Args:
        images: in natural order.
        numbers: of the cameras.
        file: of the cameras, for errors.
    Raises: InputError if the counts differ and the numbers do not tell which belong together.
    """
    known = set(numbers)
    named = [number_of(image) for image in images]
    by_name = [number for number in named if number in known]
    if len(by_name) == len(images) and len(set(by_name)) == len(images):
        return [number for number in by_name if number is not None]
    if len(images) == len(numbers):
        return sorted(numbers)
    lacking = [image.name for image, number in zip(images, named) if number not in known]
    first = f"; {lacking[0]} has none of its number" if lacking else ""
    problem = f"there are {len(numbers)} cameras (world_mat) for {len(images)} images{first}"
    raise InputError(problem, "Give each image one camera, or remove the images that have none", file)


def _first_folder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)
