"""Reads images of any size and depth as they are stored: no float copies, no conversion of colors.

| format | read by | kept as |
|---|---|---|
| PNG, JPEG, BMP, GIF, WebP, JPEG 2000, AVIF, HEIC | Pillow; 16-bit color PNG: OpenCV | uint8 or uint16, in memory |
| TIFF, uncompressed; .npy | memory map | any integer or float, on disk |
| TIFF, compressed | tifffile, else OpenCV (LZW, JPEG, …) | any integer or float, in memory |
| EXR | OpenCV; colors of a layer, such as `ViewLayer.Combined.R`: OpenEXR | float32, in memory |
| .npz of one array | numpy | any integer or float, in memory |

Images have 1 to 4 channels: gray, gray and alpha, RGB, RGBA, with alpha as it is stored. An orientation in the metadata
is not applied. Files are told apart by their first bytes.

Of several pages of a TIFF, also in the tree below a page, the one with the most pixels is read, the first of equals:
cameras write a thumbnail first, maps have smaller copies. Of an animation, the first frame is. Either is said.

Samples of a GeoTIFF that have no data (the value that its tag GDAL_NODATA names, or NaN) do not count for the range of
values and are read as its lower end, so that nothing is spent on the step to −9999. 8 and 16 bits without sign keep
them as stored: their range is all that they can hold.
"""

from __future__ import annotations

import math
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray
from PIL import Image, ImageFile

from common_ns.data.checks import require_path
from common_ns.data.damaged import damage_explained
from common_ns.data.files import require_file
from common_ns.data.formats import advice
from common_ns.data.images import ORIENTATION, formats_of, is_transparent, pixel_limit
from common_ns.data.memory import require_memory
from common_ns.data.notes import note
from common_ns.data.pixels import scratch_folder
from common_ns.errors import InputError
from miner_ns.arrays import array_header, load_array
from miner_ns.signal import Signal, chunks

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPages

Reader = Literal["pillow", "opencv", "openexr", "tifffile", "mapped", "numpy"]

OPENCV_PIXELS = 2**30
"""OpenCV refuses larger images."""
PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "JPEG2000")
TIFF_BUFFER = 2**24
"""Bytes of compressed strips or tiles that are read at once."""
MAP_INSTEAD = "Convert it to an uncompressed TIFF or .npy, which are read from disk as needed"

_MODE_CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_EXR_MULTIPART = 0x1000
_DEEPEST = 3
"""Pages below pages below pages are looked at, and no further: a damaged file may lead around in circles."""
_IS_MASK = 4
"""Bit of a TIFF page's kind."""
GDAL_NODATA, GEO_KEYS = 42113, 34735
"""Tags of GeoTIFFs."""
_TURNED_BACK: dict[int, Callable[[NDArray], NDArray]] = {
    2: np.fliplr,
    3: lambda pixels: pixels[::-1, ::-1],
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: np.rot90,
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, -1),
}
"""Undoes what OpenCV does for an orientation."""


@dataclass(frozen=True)
class ImageHeader:
    """What is known of an image before its pixels are read."""

    path: Path
    """The file."""
    shape: tuple[int, int, int]
    """Height and width in pixels, and channels."""
    dtype: np.dtype
    """Type of the values."""
    reader: Reader
    """Who reads the pixels."""
    pillow_mode: str | None = None
    """Mode that Pillow converts to; None: the image's own."""
    white_is_zero: bool = False
    """Whether the file stores black as the greatest value; it is turned around."""
    packed: bool = False
    """Whether numpy has to unpack the file (.npz)."""
    page: tuple[int, ...] = (0,)
    """Which page of a TIFF is read; (1, 2): the third of those below the second."""
    orientation: int = 1
    """Of a TIFF that OpenCV reads, which turns it."""
    layered: tuple[str, ...] = ()
    """Channels of an EXR that belong to a layer, in order."""
    nodata: float | None = None
    """Value of samples of a GeoTIFF that have no data."""
    note: str | None = None
    """What a user should know about what is read and what is not."""

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        height, width, channels = self.shape
        return height * width * channels * self.dtype.itemsize

    def memory(self, on_disk: bool = False) -> int:
        """Bytes of main memory that the pixels will take.

        Args:
            on_disk: as `read_image`.
        """
        stays = self.reader == "mapped" or (self.reader == "numpy" and not self.packed)
        return 0 if stays or (on_disk and self.reader == "tifffile") else self.nbytes

    @property
    def remedy(self) -> str:
        """What to do if they are more than the memory."""
        return "Set --on-disk True" if self.reader == "tifffile" else MAP_INSTEAD


def read_header(path: Path | str) -> ImageHeader:
    """Size, channels and type of an image, without reading its pixels.

    Raises: InputError if the file is missing, empty, damaged, of an unknown format, or no image of 1 to 4 channels.
    """
    path = require_path(path, "image")
    if path.is_dir():
        raise InputError("is a folder", advice(path, "miner-image-data", "one image file"), path)
    path = require_file(path, "image")
    with damage_explained(path, "image"):
        with path.open("rb") as file:
            start = file.read(32)
        if not start:
            raise InputError("the file is empty", "Write the image again", path)
        header = _read_header(path, start)
    height, width, channels = header.shape
    if height < 1 or width < 1:
        raise InputError(f"the image has {width}×{height} pixels", "Give an image with at least one", path)
    if not 1 <= channels <= 4:
        problem = f"the image has {channels} channels"
        raise InputError(problem, "Give 1 (gray), 2 (and alpha), 3 (RGB) or 4 (RGBA), as the last axis", path)
    if header.dtype.kind not in "buif":
        raise InputError(f"the values have type {header.dtype}", "Store them as integers or floats", path)
    if header.reader == "opencv" and height * width > OPENCV_PIXELS:
        raise InputError(f"{width}×{height} pixels are too many for a file of this format", MAP_INSTEAD, path)
    return header


def read_image(path: Path | str, on_disk: bool = False) -> Signal:
    """Read an image of any size as it is stored.

    Args:
        path: the file; see the table above.
        on_disk: where decoding goes strip by strip (TIFF), decode into a temporary file (in TMPDIR, else /var/tmp) that
            is memory-mapped, instead of into main memory.
    Raises: InputError as `read_header`, if the pixels are damaged or cut off, if floats are NaN or infinite, or if the
        image would not fit into memory (or on the disk), which is found before it is decoded.
    """
    header = read_header(path)
    height, width, _ = header.shape
    on_disk = on_disk and header.reader == "tifffile"
    if header.reader in ("pillow", "opencv", "openexr", "tifffile") and not on_disk:
        # Pillow keeps its own copy, of 4 bytes a pixel for colors.
        own_copy = 4 * height * width if header.reader == "pillow" else 0
        what = f"an image of {width}×{height} pixels"
        require_memory(header.nbytes + own_copy, what, header.remedy, header.path)
    with damage_explained(header.path, "image"):
        if header.reader == "pillow":
            pixels = _read_pillow(header)
        elif header.reader == "opencv":
            pixels = _read_opencv(header)
        elif header.reader == "openexr":
            pixels = _read_openexr(header)
        elif header.reader == "numpy":
            pixels = load_array(header.path)
        else:
            pixels = _read_tiff(header, on_disk)
    if header.white_is_zero:
        for rows in chunks(header.shape):
            pixels[rows] = np.iinfo(pixels.dtype).max - pixels[rows]
    if header.note is not None:
        _say(header.path, header.note)
    signal = Signal(pixels.reshape(header.shape), ndim=2, source=header.path, nodata=header.nodata)
    if signal.nodata is not None:
        low, high = signal.value_range
        text = f"samples of {signal.nodata:g} (or NaN) have no data; without them, values are {low:g} to {high:g}"
        _say(header.path, text)
    return signal


def _say(path: Path, text: str) -> None:
    note(f"{path}: {text}.")


def _read_header(path: Path, start: bytes) -> ImageHeader:
    """The header of an image, by the first bytes of its file."""
    if start.startswith((b"\x93NUMPY", b"PK")):
        shape, dtype = array_header(path)
        if len(shape) not in (2, 3):
            problem = f"the array has shape {shape}"
            raise InputError(problem, "An image has shape (height, width) or (height, width, channels)", path)
        height, width, channels = (*shape, 1)[:3]
        packed = start.startswith(b"PK")
        return ImageHeader(path, (height, width, channels), dtype.newbyteorder("="), "numpy", packed=packed)
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return _tiff_header(path)
    if start.startswith(b"\x76\x2f\x31\x01"):
        return _exr_header(path)
    if start.startswith(b"\x89PNG\r\n\x1a\n") and len(start) >= 26:
        width, height, depth, color = struct.unpack(">IIBB", start[16:26])
        if depth == 16 and color != 0:  # Pillow would cut colors down to 8 bits
            return ImageHeader(path, (height, width, {2: 3, 4: 2, 6: 4}[color]), np.dtype(np.uint16), "opencv")
    return _pillow_header(path)


# ---------------------------------------------------------------------------------------------------------------------
# Pillow


@contextmanager
def open_pillow(path: Path, formats: tuple[str, ...] = PILLOW_FORMATS) -> Iterator[ImageFile.ImageFile]:
    """Open an image with Pillow, however many pixels it has."""
    with path.open("rb") as file:
        known = formats_of(file.read(32)) or formats
        with pixel_limit(None), Image.open(file, formats=known) as image:
            yield image


def _pillow_header(path: Path) -> ImageHeader:
    with open_pillow(path) as image:
        width, height = image.size
        several = image.format != "MPO" and getattr(image, "is_animated", False)
        note = "the first of its frames is read" if several else None
        if image.mode.startswith("I"):  # 16-bit gray; older versions of Pillow widen it to 32 bits
            return ImageHeader(path, (height, width, 1), np.dtype(np.uint16), "pillow")
        mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
        if is_transparent(image):
            mode = {"L": "LA", "RGB": "RGBA"}[mode]
        return ImageHeader(path, (height, width, _MODE_CHANNELS[mode]), np.dtype(np.uint8), "pillow", mode, note=note)


def _read_pillow(header: ImageHeader) -> Shaped[NDArray, "h w c"]:
    pixels = np.empty(header.shape, dtype=header.dtype)
    with open_pillow(header.path) as image:
        image.load()
        for rows in chunks(header.shape):  # conversions and copies of a strip at a time
            strip = image.crop((0, rows.start, header.shape[1], rows.stop))
            if header.pillow_mode not in (None, strip.mode):
                if "transparency" in image.info:
                    strip.info["transparency"] = image.info["transparency"]
                strip = strip.convert(header.pillow_mode)
            pixels[rows] = np.asarray(strip).reshape(pixels[rows].shape)
    return pixels


# ---------------------------------------------------------------------------------------------------------------------
# OpenCV


def _read_opencv(header: ImageHeader) -> Shaped[NDArray, "h w c"]:
    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # OpenCV looks at it when it reads its first EXR
    import cv2

    try:
        if header.page == (0,):
            pixels = cv2.imread(str(header.path), cv2.IMREAD_UNCHANGED)
        else:
            pages = cv2.imreadmulti(str(header.path), header.page[0], 1, flags=cv2.IMREAD_UNCHANGED)[1]
            pixels = pages[0] if pages else None
    except cv2.error as error:
        raise ValueError(f"OpenCV: {error.err or error}") from error
    if pixels is None:
        raise ValueError("OpenCV cannot decode it")
    if header.orientation in _TURNED_BACK:
        pixels = np.ascontiguousarray(_TURNED_BACK[header.orientation](pixels))
    height, width, channels = header.shape
    there = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 2 and there == 4:
        pixels, there = pixels[..., [0, 3]], 2
    if pixels.shape[:2] != (height, width) or there != channels or pixels.dtype != header.dtype:
        raise ValueError(f"OpenCV reads shape {pixels.shape} of {pixels.dtype}, where {header.shape} was announced")
    if channels >= 3:
        for rows in chunks(header.shape):  # blue, green, red to red, green, blue, in place
            pixels[rows, :, :3] = pixels[rows, :, 2::-1].copy()
    return pixels


def _read_openexr(header: ImageHeader) -> Shaped[NDArray, "h w c"]:
    import OpenEXR

    with OpenEXR.File(str(header.path), separate_channels=True) as file:
        channels = file.parts[0].channels
        pixels = np.empty(header.shape, dtype=np.float32)
        for number, name in enumerate(header.layered):
            pixels[..., number] = channels[name].pixels
        return pixels


def _exr_header(path: Path) -> ImageHeader:
    with path.open("rb") as file:
        _, version = struct.unpack("<II", _exactly(file.read(8), 8))
        if version & _EXR_MULTIPART:
            raise InputError("the EXR file has several parts", "Write one part with channels R, G, B", path)
        attributes: dict[str, bytes] = {}
        while name := _exr_string(file):
            _exr_string(file)  # its type
            (size,) = struct.unpack("<i", _exactly(file.read(4), 4))
            attributes[name] = _exactly(file.read(size), size)
    left, top, right, bottom = struct.unpack("<4i", attributes["dataWindow"])
    # Each channel is its name, ended by a zero, and 16 bytes.
    names, rest = [], attributes["channels"]
    while rest.strip(b"\0"):
        name, rest = rest.split(b"\0", 1)
        names.append(name.decode("latin-1"))
        rest = rest[16:]
    height, width, floats = bottom - top + 1, right - left + 1, np.dtype(np.float32)
    colors = {"R", "G", "B"} & set(names)
    if colors or "Y" in names:
        count = 3 if colors or {"RY", "BY"} & set(names) else 1
        return ImageHeader(path, (height, width, count + (count == 3 and "A" in names)), floats, "opencv")
    layers = {name.rpartition(".")[0] for name in names}
    found = [
        tuple(f"{layer}.{color}" for color in wanted)
        for layer in sorted(layers)
        if (wanted := next((w for w in ("RGBA", "RGB", "Y", "V") if {f"{layer}.{c}" for c in w} <= set(names)), None))
    ]
    if len(found) != 1:
        raise InputError(f"the EXR file has the channels {', '.join(names)}", "Write it with R, G, B or Y", path)
    note = None if len(found[0]) == len(names) else f"of its channels, {', '.join(found[0])} are read"
    return ImageHeader(path, (height, width, len(found[0])), floats, "openexr", layered=found[0], note=note)


def _exr_string(file) -> str:
    """A string that ends with a zero byte."""
    content = b""
    while (byte := _exactly(file.read(1), 1)) != b"\0":
        content += byte
    return content.decode("latin-1")


def _exactly(content: bytes, size: int) -> bytes:
    if len(content) != size:
        raise EOFError("the file ends within its header")
    return content


# ---------------------------------------------------------------------------------------------------------------------
# TIFF


def _tiff_header(path: Path) -> ImageHeader:
    import tifffile
    from tifffile import PHOTOMETRIC

    with tifffile.TiffFile(path) as file:
        place, page, note = _largest_page(file)
        height, width, channels = int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel)
        kind = f"{_name(page.photometric)}, {page.bitspersample} bits, {_name(page.compression)}"
        usual = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB)
        dtype = page.dtype
        found = {"page": place, "note": note}
        orientation = int(page.tags.valueof(ORIENTATION, 1))
        # OpenCV's reader converts palettes and JPEG's colors.
        if page.photometric in (PHOTOMETRIC.PALETTE, PHOTOMETRIC.YCBCR) and page.bitspersample == 8 and len(place) == 1:
            eight_bits = np.dtype(np.uint8)
            return ImageHeader(path, (height, width, 3), eight_bits, "opencv", orientation=orientation, **found)
        if page.photometric not in usual or dtype is None or page.axes not in ("YX", "YXS", "SYX"):
            which = f" (page {'.'.join(str(number + 1) for number in place)}, {width}×{height} pixels)"
            which = which if note is not None else ""
            problem = f"TIFF of kind {kind}{which} is not supported"
            raise InputError(problem, "Convert it to gray, RGB or RGBA; develop a raw photograph", path)
        inverted = page.photometric == PHOTOMETRIC.MINISWHITE and dtype.kind in "u"
        if page.is_memmappable and not inverted:
            reader = "mapped"
        else:
            reader = "tifffile" if _tifffile_decodes(page) else "opencv"
        if reader == "opencv" and len(place) > 1:
            problem = f"the compression {_name(page.compression)} of its largest page is not supported"
            raise InputError(problem, "Convert it to an uncompressed TIFF", path)
        return ImageHeader(
            path,
            (height, width, channels),
            np.dtype(dtype),
            reader,
            white_is_zero=inverted and reader == "tifffile",
            orientation=orientation,
            nodata=_nodata(page, np.dtype(dtype)),
            **found,
        )


def _largest_page(file: TiffFile) -> tuple[tuple[int, ...], TiffPage, str | None]:
    """The page of a TIFF with the most pixels: its place, itself, and a note if there are others of which it could be
    taken for one."""
    pages = [(place, page) for place, page in _all_pages(file.pages) if not page.subfiletype & _IS_MASK]
    place, page = max(pages, key=lambda found: found[1].imagewidth * found[1].imagelength)  # the first of equals
    size = f"{page.imagewidth}×{page.imagelength} pixels"
    equals = sum((other.imagewidth, other.imagelength) == (page.imagewidth, page.imagelength) for _, other in pages)
    if place != (0,):
        number = ".".join(str(index + 1) for index in place)
        first = tiff_page(file, (0,))
        note = f"page {number} is read, the largest ({size}); the first has {first.imagewidth}×{first.imagelength}"
        return place, page, note
    return place, page, f"the first of its {equals} pages of {size} is read" if equals > 1 else None


def _all_pages(pages: TiffPages, above: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], TiffPage]]:
    """All pages of a TIFF, each before those below it, with its place."""
    for index, page in enumerate(cast("Iterable[TiffPage]", pages)):  # others are made on request only
        yield (*above, index), page
        if page.pages is not None and len(above) < _DEEPEST:
            yield from _all_pages(page.pages, (*above, index))


def tiff_page(file: TiffFile, place: tuple[int, ...]) -> TiffPage:
    """The page at a place that `ImageHeader.page` names."""
    pages: Any = file.pages
    page = pages[place[0]]
    for index in place[1:]:
        page = page.pages[index]
    return page


def _nodata(page: TiffPage, dtype: np.dtype) -> float | None:
    """The value of samples that have no data; NaN in a map of floats that names none. None: all have."""
    text = page.tags.valueof(GDAL_NODATA)
    is_float = dtype.kind == "f"
    if text is None:
        return math.nan if is_float and GEO_KEYS in page.tags else None
    try:
        value = float(str(text).strip("\0 "))
    except ValueError:
        return math.nan if is_float else None
    if is_float:
        return value
    limits = np.iinfo(dtype)
    return value if value.is_integer() and limits.min <= value <= limits.max else None


def _name(value: Any) -> str:
    """The name of an enumeration's value, or the number where it has none."""
    return str(getattr(value, "name", value))


def _tifffile_decodes(page) -> bool:
    """Whether tifffile has the codecs for a page; some need a package that is not required here."""
    import tifffile

    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
        tifffile.TIFF.UNPREDICTORS[page.predictor]
    except (KeyError, ValueError):
        return False
    return True


def _read_tiff(header: ImageHeader, on_disk: bool) -> Shaped[NDArray, "h w c"]:
    import tifffile

    with tifffile.TiffFile(header.path) as file:
        page = tiff_page(file, header.page)
        if header.reader == "mapped":
            stored = np.dtype(page.dtype).newbyteorder(file.byteorder)
            pixels = np.memmap(header.path, stored, mode="r", offset=page.dataoffsets[0], shape=page.shape)
        else:
            pixels = _allocate(page.shape, header.dtype, on_disk)
            page.asarray(out=pixels, buffersize=TIFF_BUFFER)
        return np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels


def _allocate(shape: tuple[int, ...], dtype: np.dtype, on_disk: bool) -> Shaped[NDArray, "..."]:
    """An uninitialized array, in memory or in a file without a name."""
    if not on_disk:
        return np.empty(shape, dtype=dtype)
    folder, needed = scratch_folder(), int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    free = shutil.disk_usage(folder).free
    if needed > free:
        problem = f"the image needs {needed / 2**30:.1f} GiB of disk space and {free / 2**30:.1f} GiB are free"
        raise InputError(problem, "Set TMPDIR to a folder with more space", folder)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(needed)
        if hasattr(os, "posix_fallocate"):
            # A file with holes would end the process with a bus error when the disk fills up later.
            os.posix_fallocate(file.fileno(), 0, needed)
        return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
