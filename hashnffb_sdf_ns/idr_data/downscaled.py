"""Smaller copies of images and masks, made once, so that every method and command reads the same pixels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from common_ns.data.files import written_whole
from common_ns.data.images import decode_image, photo_header
from common_ns.data.masks import read_mask
from common_ns.errors import InputError


def downscaled_size(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """(width, height) of an image at 1 / factor; pixels that do not fill a whole one are cut off at the right and
    below, so that intrinsics in pixels are divided by the factor exactly."""
    return size[0] // factor, size[1] // factor


def downscaled_copies(files: Sequence[Path], factor: int, masks: bool = False) -> list[Path]:
    """Copies of images at 1 / factor, each pixel the mean of factor × factor.

    They are in a folder beside that of the images, or in the user's cache where that cannot be written, and are made
    anew only if they are older than their originals.

    Args:
        files: images in one folder.
        factor: 1 gives the files themselves.
        masks: whether they are masks: copies are gray, with shades along the object's border.
    Raises: InputError if an image cannot be read, is smaller than the factor, or copies cannot be written.
    """
    if factor == 1:
        return list(files)
    folder = copies_folder(files[0].parent, factor)

    def copy(file: Path) -> Path:
        target = folder / f"{file.name}.png"  # files that differ in their suffix only stay apart
        if target.exists() and target.stat().st_mtime >= file.stat().st_mtime:
            return target
        image = Image.fromarray(read_mask(file) if masks else decode_image(file))
        width, height = downscaled_size(image.size, factor)
        if not width or not height:
            problem = f"the image has {image.width}×{image.height} pixels, fewer than --downscale-factor {factor}"
            raise InputError(problem, "Lower it", file)
        box = (0, 0, width * factor, height * factor)
        small = image.resize((width, height), Image.Resampling.BOX, box=box)
        with written_whole(target) as partial:
            small.save(partial)
        return target

    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(copy, files))


def copies_folder(folder: Path, factor: int) -> Path:
    """Where the copies of the images in a folder are kept."""
    name = f"{folder.name}_{factor}"
    beside = folder.absolute().parent / f"downscaled_{factor}" / folder.name
    nearest = next(parent for parent in (beside, *beside.parents) if parent.is_dir())
    if os.access(nearest, os.W_OK):
        return beside
    user = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fieldsuite" / "downscaled"
    return user / f"{name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}"


def image_size(file: Path) -> tuple[int, int]:
    """(width, height) of an image as stored, from its header.

    Raises: InputError if it cannot be read.
    """
    return photo_header(file).size


def image_sizes(files: Sequence[Path]) -> np.ndarray:
    """(width, height) of images [n, 2]."""
    return np.array([image_size(file) for file in files])
