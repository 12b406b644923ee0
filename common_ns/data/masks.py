"""Masks of pixels, read alike by all families, whatever kind of file they are in.

There are two kinds. Masks of valid pixels say which pixels of a photograph are to be trained and scored on; a pixel
counts if its value is above `COUNTS_ABOVE`, so that neither the shades along an edge nor the ringing of JPEG do. Masks
of an object say how much of a pixel it covers, and keep their shades.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from PIL import Image

from common_ns.data.files import require_file
from common_ns.data.images import open_photo
from common_ns.errors import InputError

COUNTS_ABOVE = 127
"""Value in 8 bits above which a pixel is inside a mask."""
NAMED = 5
"""Files that a message names at most."""


def read_mask(
    file: Path, size: tuple[int, int] | None = None, nearest: bool = False, alpha_only: bool = False
) -> UInt8[NDArray, "h w"]:
    """A mask in 8 bits, 255 where it is white.

    What counts is the alpha channel where there is one that varies, else the brightest of the colors: gray as it is,
    palettes by the colors of their entries, and the red on black of many labeling tools as white.

    Args:
        file: an image of any mode and format that Pillow reads, or an array [h, w] in a .npy file. Files of 0 and 1 are
            stretched to 255; 16 bits and floating-point numbers are brought to 8 bits.
        size: (width, height) to bring it to; None: as it is.
        nearest: take the nearest pixel, and not the average.
        alpha_only: the file is a photograph, of which the alpha channel alone is a mask.
    Raises: InputError if it cannot be read.
    """
    file = require_file(file, "mask")
    with _readable(file):
        if file.suffix.lower() == ".npy":
            values = np.squeeze(np.load(file, mmap_mode="r", allow_pickle=False))
        else:
            with open_photo(file, what="mask") as image:
                values = _channel(image, alpha_only)
        mask = _stretched(_eight_bits(values))
    if size is not None and mask.shape[::-1] != size:
        resample = Image.Resampling.NEAREST if nearest else Image.Resampling.BOX
        mask = np.asarray(Image.fromarray(mask).resize(size, resample))
    return mask


def mask_size(file: Path) -> tuple[int, int]:
    """(width, height) of a mask, from its header.

    Raises: InputError if it cannot be read.
    """
    file = require_file(file, "mask")
    with _readable(file):
        if file.suffix.lower() == ".npy":
            height, width = np.squeeze(np.load(file, mmap_mode="r", allow_pickle=False)).shape
            return width, height
        with open_photo(file, what="mask") as image:
            return image.size


def check_mask_sizes(masks: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
    """Raises: InputError about the first mask that has not the (width, height) of its image, from the headers."""
    for file, size in zip(masks, sizes):
        found = mask_size(file)
        if found != size:
            problem = f"the mask has {found[0]}×{found[1]} pixels, its image {size[0]}×{size[1]}"
            raise InputError(problem, "Give masks the size of their images", file)


def valid_pixels(file: Path, size: tuple[int, int], scaled: tuple[int, int]) -> Bool[NDArray, "h w 1"]:
    """Which pixels of an image count.

    Args:
        file: the mask.
        size: (width, height) of the image on disk, which is that of the mask.
        scaled: (width, height) of the image as it is used; of a larger mask, the nearest pixels decide.
    Raises: InputError if it cannot be read, or has another size.
    """
    check_mask_sizes([file], [size])
    return (read_mask(file, scaled, nearest=True) > COUNTS_ABOVE)[..., None]


def check_mask_fields(frames: Sequence[dict[str, Any]], file: Path) -> None:
    """Look at `mask_path` of the frames of a transforms.json.

    Args:
        frames: with `file_path` each.
        file: where they are listed.
    Raises: InputError if some frames have a mask and others have none.
    """
    lacking = [str(frame["file_path"]) for frame in frames if frame.get("mask_path") is None]
    if 0 < len(lacking) < len(frames):
        problem = f'{len(lacking)} of {len(frames)} frames have no mask ("mask_path"): {listed(lacking)}'
        raise InputError(problem, "Give each frame a mask (white where all counts), or remove the field from all", file)


def empty_masks_warning(empty: Sequence[Path], count: int) -> str:
    """A line about masks without a valid pixel.

    Args:
        empty: their files.
        count: number of all masks.
    """
    names = listed(sorted(file.name for file in empty))
    images = "image gives" if len(empty) == 1 else "images give"
    return f"{len(empty)} of {count} masks are black, and their {images} no pixel: {names}."


def listed(names: Sequence[str]) -> str:
    """The first `NAMED` names, and how many there are beside them."""
    more = f" and {len(names) - NAMED} others" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn whatever readers raise into an error that names the file."""
    try:
        yield
    except InputError:
        raise
    except _NoMask as error:
        raise InputError(str(error), "Write a mask of one channel, 0 to 255", file) from None
    except Exception as error:  # readers raise whatever comes up in damaged files
        raise InputError(f"the mask cannot be read ({error})", "Replace it; it may be cut off", file) from error


class _NoMask(ValueError):
    """What a file holds is no mask."""


def _channel(image: Image.Image, alpha_only: bool) -> NDArray:
    """The channel that is the mask [h, w], as numbers of any type."""
    if image.mode.startswith(("I", "F")):
        return np.asarray(image)
    if image.mode == "LAB":
        return np.asarray(image.getchannel("L"))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        alpha = rgba[..., 3]
        # Masks saved by an editor that always adds alpha: it is the same everywhere, and the colors are the mask.
        is_filler = alpha.min() == alpha.max() > 0
        return alpha if alpha_only or not is_filler else rgba[..., :3].max(axis=-1)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    return np.asarray(image.convert("RGB")).max(axis=-1)


def _eight_bits(values: NDArray) -> UInt8[NDArray, "h w"]:
    """Numbers of any type in 8 bits: up to 1, 255 or 65535, whichever holds them, else up to the largest of them."""
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise _NoMask(f"the mask is an array of {values.dtype} of shape {values.shape}")
    if values.size == 0:
        raise _NoMask("the mask has no pixel")
    if values.dtype == np.uint8:
        return values
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise _NoMask(f"the mask holds {values[~np.isfinite(values)][0]}")
    largest = float(values.max())
    white = next((limit for limit in (1.0, 255.0, 65535.0) if largest <= limit), largest)
    return np.rint(values.clip(min=0.0) * (255.0 / white)).astype(np.uint8)


def _stretched(mask: UInt8[NDArray, "h w"]) -> UInt8[NDArray, "h w"]:
    """Files of 0 and 1 instead of 0 and 255, and those of black and one other tone that counts, as labels have it."""
    largest = int(mask.max(initial=0))
    if largest == 1 or (COUNTS_ABOVE < largest < 255 and bool(((mask == 0) | (mask == largest)).all())):
        return np.where(mask == largest, np.uint8(255), np.uint8(0))
    return mask
