"""Files of the IDR and NeuS layout in all its spellings, and which of them belong together."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nerfstudio.utils.rich_utils import CONSOLE

from common_ns.data.checks import require_path
from common_ns.data.files import entries_of
from common_ns.data.formats import advice
from common_ns.errors import InputError
from hashnffb_sdf_ns.idr_data.cameras import CAMERA_FILES
from hashnffb_sdf_ns.idr_data.pairing import Score, Undecided, common_numbers, paired_by_agreement, paired_by_names

IMAGE_FOLDERS = ("image", "images", "rgb")
MASK_FOLDERS = ("mask", "masks")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif")
MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".gif", ".tga", ".pbm", ".pgm", ".ppm", ".jp2", ".npy")
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
    unpaired_masks: list[Path] | None = None
    """Masks of which names do not tell the images they belong to: cameras may. `masks` is then None."""


def find_files(folder: Path) -> IdrFiles:
    """The images, masks and points of a data set.

    Raises: InputError if there are no images, or fewer masks.
    """
    folder = require_path(folder)
    if not folder.is_dir():
        raise InputError("is a file", advice(folder, "idr-data", "the folder of the images and the cameras"), folder)
    image_folder = _first_folder(folder, IMAGE_FOLDERS)
    if image_folder is None:
        wanted = "a folder with image/, cameras_sphere.npz, and mask/ where there are masks"
        remedy = advice(folder, "idr-data", wanted)
        raise InputError(f"there is no folder {' or '.join(IMAGE_FOLDERS)}", remedy, folder)
    images = list_images(image_folder)
    if not images:
        raise _no_image(image_folder)
    points = next((folder / name for name in POINT_FILES if (folder / name).is_file()), None)
    mask_folder = _first_folder(folder, MASK_FOLDERS)
    if mask_folder is None:
        return IdrFiles(folder, images, None, points)
    masks = list_images(mask_folder, MASK_SUFFIXES)
    unknown = paired_by_names([image.name for image in images], [mask.name for mask in masks]) is None
    if unknown and len(masks) >= len(images):
        return IdrFiles(folder, images, None, points, unpaired_masks=masks)
    return IdrFiles(folder, images, pair_masks(images, masks, mask_folder), points)


def find_camera_file(folder: Path) -> Path:
    """The file with the cameras of a data set.

    Raises: InputError if there is none.
    """
    for name in CAMERA_FILES:
        if os.path.lexists(folder / name):  # whatever it is: who reads it says so
            return folder / name
    remedy = advice(folder, "idr-data", "the cameras of the images in that file")
    raise InputError(f"there is no {' or '.join(CAMERA_FILES)}", remedy, folder)


def _no_image(folder: Path) -> InputError:
    """What is wrong with a folder without images."""
    inner = sorted(f for f in entries_of(folder) if f.is_dir() and list_images(f))
    if inner:
        problem = f"the folder holds no image, its subfolder {inner[0].name} does"
        return InputError(problem, f"Put the images into {folder.name} itself", folder)
    return InputError(f"the folder holds no image ({', '.join(IMAGE_SUFFIXES)})", "Put the images there", folder)


def list_images(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The image files of a folder in natural order (2 before 10); hidden files and folders do not count."""
    files = (f for f in entries_of(folder) if f.suffix.lower() in suffixes and not f.name.startswith("."))

    def key(file: Path) -> list[tuple[int, str]]:
        return [(int(s), "") if s.isdecimal() else (-1, s) for s in re.split(r"(\d+)", file.name)]

    return sorted((file for file in files if not file.is_dir()), key=key)


def pair_masks(images: Sequence[Path], masks: Sequence[Path], folder: Path, score: Score | None = None) -> list[Path]:
    """The mask of each image: by name, by number, else in the order that the visual hull of the masks agrees with.
    Prints what was paired unless the names are equal.

    Args:
        images, masks: in natural order.
        folder: of the masks, for errors.
        score: how well the masks agree if images and masks of these positions belong together; None: not known.
    Raises: InputError if they do not tell which belong together.
    """
    names, others = [image.name for image in images], [mask.name for mask in masks]
    pairing = paired_by_names(names, others)
    if pairing is None:
        try:
            pairing = paired_by_agreement(names, others, score)
        except Undecided as undecided:
            raise _mask_error(names, others, folder, undecided.by_number) from None
    found = [masks[position] for position in pairing.positions]
    if pairing.rule != "name":
        _say(pairing.words("Masks", "images", names[0], found[0].name))
    return found


def _mask_error(names: list[str], others: list[str], folder: Path, by_number: bool) -> InputError:
    """What is wrong with masks that cannot be paired."""
    lacking, spare = _alone(names, others)
    if by_number:
        problem = f"masks belong to the images of their number, as their visual hull says, and {lacking[0]} has none"
        return InputError(problem, "Give it a mask, or remove it", folder)
    first = f"; {lacking[0]} has none" if lacking else ""
    if len(others) != len(names):
        problem = f"there are {len(others)} masks for {len(names)} images{first}"
        return InputError(problem, "Give each image one mask, or remove the folder to train without masks", folder)
    problem = "the numbers of masks and images disagree, and the masks do not tell clearly which belong together"
    details = f"{lacking[0]} has no mask of its number, {spare[0]} no image" if lacking and spare else ""
    return InputError(f"{problem}{f' ({details})' * bool(details)}", "Give masks the names of their images", folder)


def _alone(names: Sequence[str], others: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names on either side whose number the other side has not; none where no number is common."""
    same = common_numbers(names, others)
    if not same:
        return [], []
    taken = set(same.values())
    first = [name for index, name in enumerate(names) if index not in same]
    return first, [name for index, name in enumerate(others) if index not in taken]


def pair_views(images: Sequence[Path], numbers: Sequence[int], file: Path, score: Score | None = None) -> list[int]:
    """The number of the camera of each image.

    Images whose names are numbered like the cameras take those of their numbers: then there may be gaps, and cameras
    without an image. Else they are paired in sorted order, which masks have to agree with where some numbers are the
    same.

    Args:
        images: in natural order.
        numbers: of the cameras.
        file: of the cameras, for errors.
        score: how well masks agree if images and cameras, by their rank, of these positions belong together; None: not
            known.
    Raises: InputError if they do not tell which belong together.
    """
    numbers = sorted(numbers)
    names, cameras = [image.name for image in images], [f"world_mat_{number}" for number in numbers]
    pairing = paired_by_names(names, cameras)
    if pairing is None:
        try:
            pairing = paired_by_agreement(names, cameras, score)
        except Undecided:
            raise _camera_error(names, cameras, file) from None
        _say(pairing.words("Cameras", "images", names[0], cameras[pairing.positions[0]]))
    return [numbers[position] for position in pairing.positions]


def _camera_error(names: list[str], cameras: list[str], file: Path) -> InputError:
    """What is wrong with cameras that cannot be paired."""
    lacking, spare = _alone(names, cameras)
    if len(names) != len(cameras):
        first = f"; {lacking[0]} has none of its number" if lacking else ""
        problem = f"there are {len(cameras)} cameras (world_mat) for {len(names)} images{first}"
        return InputError(problem, "Give each image one camera, or remove the images that have none", file)
    problem = "the numbers of cameras (world_mat) and images disagree, and nothing tells which belong together"
    details = f"{lacking[0]} has no camera of its number, {spare[0]} no image" if lacking and spare else ""
    return InputError(
        f"{problem}{f' ({details})' * bool(details)}", "Rename the images by the numbers of their cameras", file
    )


def _say(line: str) -> None:
    CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)


def _first_folder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)
