"""Writes images tile by tile or strip by strip, so that an image of any size needs little memory.

| suffix | written as | with |
|---|---|---|
| .tif, .tiff | tiles, deflate, any integer or float; BigTIFF from 4 GB on | color profile, EXIF, place on the earth |
| .png | 8 or 16 bits | color profile, EXIF |
| .npy | any integer or float | |
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy.typing import DTypeLike, NDArray
from rich.progress import Progress

from common_ns.data.files import written_whole
from common_ns.errors import InputError
from miner_ns.image_tags import ImageTags
from miner_ns.signal import chunks

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".npy")
TILE = 512
"""Side of a tile in pixels, and most rows of a strip."""
STRIP_BYTES = 2**25
"""About the size of a strip of PNG and .npy, which are written by rows."""
FILTERED_SAMPLES = 2**19
"""About how many values are filtered at once: few enough to stay in the cache of the processor."""
COMPRESSION = 4
"""Level of deflate: three times as fast as zlib's default of 6, files 5 % larger (Blue Marble)."""
BIG_TIFF_BYTES = 2**32 - 2**25
"""From here on, offsets need more than 32 bits; compression is not counted on."""

ReadBox = Callable[[tuple[int, int], tuple[int, int]], Shaped[NDArray, "h w c"]]
"""Gives the pixels from (row, column) up to, but without, another (row, column), as they are to be stored."""


def check_image_path(path: Path | str, dtype: DTypeLike) -> Path:
    """Return `path` as a Path if its suffix names a format that keeps values of that type.

    Raises: InputError if not.
    """
    path, dtype = Path(path), np.dtype(dtype)
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        problem = f"the suffix {path.suffix!r} is not an image format" if suffix else "the file name has no suffix"
        raise InputError(problem, f"Use one of {', '.join(IMAGE_SUFFIXES)}", path)
    if suffix == ".png" and not (dtype.kind == "b" or (dtype.kind == "u" and dtype.itemsize <= 2)):
        raise InputError(f"PNG does not store values of type {dtype}", "Use .tif or .npy", path)
    return path


def write_image(
    path: Path | str,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    read_box: ReadBox,
    progress: bool = False,
    tags: ImageTags | None = None,
) -> Path:
    """Write an image of any size in bounded memory, whole or not at all.

    Args:
        path: file to write; its suffix decides the format, its folder is made if need be.
        shape: height and width in pixels, and channels (1 to 4: gray, gray and alpha, RGB, RGBA).
        dtype: type of the values; bool becomes 0 and 255.
        read_box: gives boxes of the image, row by row; each pixel is asked for once. `Signal.read_stored` is one.
        progress: show a progress bar.
        tags: what the file says about the image beside its pixels, where its format can.
    Raises: InputError if the suffix does not fit or the file cannot be written.
    """
    path, dtype = check_image_path(path, dtype), np.dtype(dtype)
    height, width, channels = shape
    assert height > 0 and width > 0 and 1 <= channels <= 4, shape
    is_bool = dtype.kind == "b"
    write = {".png": _write_png, ".npy": _write_npy}.get(path.suffix.lower(), _write_tiff)
    tags = ImageTags() if tags is None else tags
    with Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task(f"Writing {path.name}", total=height * width)

        def read(lower: tuple[int, int], upper: tuple[int, int]) -> Shaped[NDArray, "h w c"]:
            box = read_box(lower, upper)
            expected = (upper[0] - lower[0], upper[1] - lower[1], channels)
            assert box.shape == expected and box.dtype == dtype, (box.shape, box.dtype, expected, dtype)
            bar.advance(task, expected[0] * expected[1])
            return box * np.uint8(255) if is_bool else box

        with written_whole(path) as partial:
            write(partial, (height, width, channels), np.dtype(np.uint8) if is_bool else dtype, read, tags)
    return path


def _strips(shape: tuple[int, int, int], dtype: np.dtype, read: ReadBox) -> Iterator[Shaped[NDArray, "h w c"]]:
    """Strips of full width from top to bottom, each read by tiles."""
    height, width, channels = shape
    rows = min(TILE, max(1, STRIP_BYTES // (width * channels * dtype.itemsize)))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = np.empty((bottom - top, width, channels), dtype=dtype)
        for left in range(0, width, TILE):
            right = min(left + TILE, width)
            strip[:, left:right] = read((top, left), (bottom, right))
        yield strip


def _write_npy(path: Path, shape: tuple[int, int, int], dtype: np.dtype, read: ReadBox, tags: ImageTags) -> None:
    target = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    top = 0
    for strip in _strips(shape, dtype, read):
        target[top : top + len(strip)] = strip
        top += len(strip)
    target.flush()


def _write_tiff(path: Path, shape: tuple[int, int, int], dtype: np.dtype, read: ReadBox, tags: ImageTags) -> None:
    import tifffile

    height, width, channels = shape

    def tiles() -> Iterator[Shaped[NDArray, "..."]]:
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                bottom, right = min(top + TILE, height), min(left + TILE, width)
                tile = np.zeros((TILE, TILE, channels), dtype=dtype)
                tile[: bottom - top, : right - left] = read((top, left), (bottom, right))
                yield tile if channels > 1 else tile[..., 0]

    size = height * width * channels * dtype.itemsize
    with tifffile.TiffWriter(path, bigtiff=size >= BIG_TIFF_BYTES, byteorder="<") as writer:
        writer.write(
            tiles(),
            shape=shape if channels > 1 else shape[:2],
            dtype=dtype,
            tile=(TILE, TILE),
            photometric="rgb" if channels >= 3 else "minisblack",
            extrasamples=["unassalpha"] if channels in (2, 4) else None,
            planarconfig="contig" if channels > 1 else None,
            compression="zlib",
            compressionargs={"level": COMPRESSION},
            predictor=dtype.kind in "ui",
            maxworkers=1,
            metadata=None,
            iccprofile=tags.profile_for(channels),
            extratags=tags.of_tiff(),
        )
    tags.add_exif_to_tiff(path)


def _write_png(path: Path, shape: tuple[int, int, int], dtype: np.dtype, read: ReadBox, tags: ImageTags) -> None:
    """Write a PNG (specification: W3C, PNG third edition), filtering and compressing strip by strip."""
    height, width, channels = shape
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    compress = zlib.compressobj(COMPRESSION)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * dtype.itemsize, color_type, 0, 0, 0))
        profile = tags.profile_for(channels)
        if profile is not None:
            _write_chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
        if tags.exif is not None:
            _write_chunk(file, b"eXIf", tags.exif)
        above = np.zeros(width * channels * dtype.itemsize, dtype=np.uint8)
        for strip in _strips(shape, dtype, read):
            for rows in chunks(strip.shape, FILTERED_SAMPLES):
                lines = strip[rows].astype(dtype.newbyteorder(">")).view(np.uint8).reshape(rows.stop - rows.start, -1)
                filtered = _filter_lines(lines, np.concatenate([above[None], lines[:-1]]), channels * dtype.itemsize)
                data = compress.compress(filtered.tobytes())
                if data:
                    _write_chunk(file, b"IDAT", data)
                above = lines[-1]
        _write_chunk(file, b"IDAT", compress.flush())
        _write_chunk(file, b"IEND", b"")


def _filter_lines(lines: UInt8[NDArray, "h b"], above: UInt8[NDArray, "h b"], step: int) -> UInt8[NDArray, "h b+1"]:
    """Each line as its difference to a neighboring pixel, by the filter with the least sum of absolute differences.

    Args:
        lines: bytes of lines of pixels.
        above: the line above each.
        step: bytes of a pixel.
    Returns: the number of the filter before each line: 0 none, 1 left, 2 above, 4 Paeth's predictor.
    """
    left, above_left = np.zeros_like(lines), np.zeros_like(lines)
    left[:, step:], above_left[:, step:] = lines[:, :-step], above[:, :-step]
    # Paeth: of left, above and above-left the one nearest to left + above − above-left; the first of equals.
    to_left = np.abs(above.astype(np.int16) - above_left)
    to_above = np.abs(left.astype(np.int16) - above_left)
    to_corner = np.abs(left.astype(np.int16) + above - 2 * above_left.astype(np.int16))
    paeth = np.where(
        (to_left <= to_above) & (to_left <= to_corner), left, np.where(to_above <= to_corner, above, above_left)
    )
    best = np.zeros(len(lines), dtype=np.uint8)
    result = np.concatenate([best[:, None], lines], axis=1)
    least = np.abs(lines.view(np.int8).astype(np.int16)).sum(axis=1, dtype=np.int64)
    for number, predicted in ((1, left), (2, above), (4, paeth)):
        difference = lines - predicted
        cost = np.abs(difference.view(np.int8).astype(np.int16)).sum(axis=1, dtype=np.int64)
        better = cost < least
        result[better, 0], result[better, 1:] = number, difference[better]
        least = np.minimum(least, cost)
    return result


def _write_chunk(file: BinaryIO, name: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
