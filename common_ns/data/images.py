"""How photographs are opened and decoded: any format of Pillow and HEIC, of any size, to 8 bits.

| in the file | becomes |
|---|---|
| gray, palette, 1 bit, CMYK, YCbCr, LAB | RGB |
| an alpha channel; a transparent color or palette entry | RGBA |
| 16 bits a channel | 8 bits, rounded |
| 32 bits, floats | refused |
| several frames | the first, or the one that the file calls its primary one |

A file's content tells its format, whatever its suffix says.

An EXIF orientation is applied to the pixels only if the camera's size agrees with the picture after it and not before:
most programs that find poses look at pixels as they are stored, and then intrinsics and poses belong to those. Formats
in which turning belongs to the picture itself (HEIC) are decoded turned.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError, features

from common_ns.data.damaged import DAMAGES
from common_ns.data.files import require_file
from common_ns.data.memory import available_memory, require_memory
from common_ns.data.notes import note
from common_ns.errors import InputError

ORIENTATION = 0x0112
"""EXIF's (and TIFF's) tag of how a picture has to be turned to stand upright."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What stands a picture upright, by its orientation (EXIF 2.3, table 6); 1 is upright."""
TURNS_BACK = {**TURNS, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
BYTES_PER_PIXEL = 12
"""That decoding takes: Pillow's own copy, a converted one, and the array, of 4 bytes each."""

_SIGNATURES = {
    b"\x89PNG": "a PNG",
    b"\xff\xd8\xff": "a JPEG",
    b"II": "a TIFF",
    b"MM": "a TIFF",
    b"GIF8": "a GIF",
    b"RIFF": "a WebP",
    b"BM": "a BMP",
    b"\x76\x2f\x31\x01": "an EXR, which holds floats",
    b"version https://git-lfs": "a pointer of Git LFS; git lfs pull brings the image",
}


@dataclass(frozen=True)
class PhotoHeader:
    """What is known of a photograph before it is decoded."""

    size: tuple[int, int]
    """(width, height) in pixels as stored."""
    orientation: int
    """EXIF's, 1 to 8; 1 where it says nothing."""
    has_alpha: bool
    """Whether it is decoded with alpha: a channel of it, or a color or palette entry that is transparent. All of it may
    still be opaque."""
    has_frames: bool
    """Whether further pictures follow, as in an animation. The preview in a phone's JPEG does not count."""

    def turned_for(self, size: tuple[int, int] | None) -> bool:
        """Whether the orientation is applied for a camera of that (width, height); None: no camera, as stored."""
        return self.orientation > 4 and size not in (None, self.size) and size == self.size[::-1]

    @property
    def is_doubtful(self) -> bool:
        """Whether the picture has an orientation that its size cannot confirm."""
        return self.orientation != 1 and (self.orientation < 5 or self.size[0] == self.size[1])


def photo_header(file: Path | str) -> PhotoHeader:
    """Size and kind of a photograph, without decoding it.

    Raises: InputError if it is missing, no image, or of more than 16 bits a channel.
    """
    with open_photo(file) as image:
        return _header(image, Path(file))


def check_images(files: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> bool:
    """Check from their headers that images exist, can be read, have their cameras' sizes and agree about alpha.

    Where some have alpha and some not, those that have are decoded: a palette whose transparent entry no pixel uses
    counts as opaque. Says in a line each, for all images together: orientations that are applied, orientations that a
    size cannot confirm (which are not), and further frames.

    Args:
        files: one path per camera.
        sizes: (width, height) in pixels of each camera.
    Returns: whether the images have alpha: all of them, else none.
    Raises: InputError about the first image that fails, also if decoding it would not fit into memory.
    """
    if len(files) == 0:
        raise InputError("the split has no images", "Check the split's frame list, or choose another split")
    turned, doubtful, several, has_alpha = [], [], [], []
    for file, size in zip(files, sizes):
        header = photo_header(file)
        if header.turned_for(size):
            turned.append(file)
        elif header.size != size:
            problem = f"the image has {_times(header.size)} pixels, its camera {_times(size)}"
            raise InputError(problem, "Give all images the size that their cameras state", file)
        elif header.is_doubtful:
            doubtful.append(file)
        if header.has_frames:
            several.append(file)
        has_alpha.append(header.has_alpha)
    if any(has_alpha) and not all(has_alpha):
        _require_opaque(files, sizes, has_alpha)
    _say(turned, len(files), "turned by their EXIF orientation: only then they have the sizes of their cameras")
    _say(doubtful, len(files), "used as stored, though EXIF says they are turned: their sizes cannot confirm it")
    _say(several, len(files), "read without their further frames")
    return all(has_alpha)


def images_have_alpha(files: Sequence[Path]) -> bool:
    """Whether images carry alpha, as `check_images` says for a split that passes; images that are missing do not count.
    Reads headers up to the first image without.

    Raises: InputError if one cannot be read.
    """
    there = [file for file in files if Path(file).exists()]
    return bool(there) and all(photo_header(file).has_alpha for file in there)


def decode_image(
    file: Path | str, size: tuple[int, int] | None = None, alpha: bool | None = None
) -> UInt8[NDArray, "h w c"]:
    """Decode an image to 8 bits, with 3 or 4 channels; see the table above.

    Args:
        file: of any format.
        size: (width, height) of its camera: an EXIF orientation is applied if only then the sizes agree. None: the
            pixels as they are stored.
        alpha: True gives 4 channels, False 3; None: what the file holds.
    Raises: InputError if the file is damaged, has more than 16 bits a channel, would not fit into memory, or has
        transparent pixels where `alpha` is False.
    """
    with open_photo(file, "decoded") as image:
        header = _header(image, Path(file))
        pixels = _decoded(image, Path(file))
        is_turned = image.format == "TIFF" and header.orientation != 1  # Pillow and OpenCV turn TIFFs, and only those
    if is_turned != header.turned_for(size):
        turn = (TURNS_BACK if is_turned else TURNS)[header.orientation]
        pixels = np.asarray(Image.fromarray(pixels).transpose(turn))
    channels = pixels.shape[-1] if alpha is None else 4 if alpha else 3
    if channels > pixels.shape[-1]:
        return np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1)
    if channels < pixels.shape[-1] and pixels[..., 3].min() < 255:
        raise InputError("the image has transparent pixels", "Remove them, or add alpha to all images", file)
    return pixels[..., :channels]


@contextmanager
def open_photo(file: Path | str, verb: str = "read", what: str = "image") -> Iterator[ImageFile.ImageFile]:
    """Open an image with Pillow: HEIC too, and of any number of pixels that decode into the memory there is.

    Args:
        file: of any format.
        verb: what is done with it, for the error.
        what: it is, for the error.
    Raises: InputError if it is no regular file, no image or damaged (also about what is raised inside of the context),
        or would not fit into memory.
    """
    file = require_file(file, what)
    start = b""
    try:
        # By its name, Pillow would map a gray TIFF into memory, and then mixes up the pixels of one that is turned.
        with file.open("rb") as opened:
            start = opened.read(32)
            with pixel_limit(None), Image.open(opened, formats=formats_of(start)) as image:
                width, height = image.size
                needed = BYTES_PER_PIXEL * width * height
                require_memory(needed, f"decoding {width}×{height} pixels", "Replace it by a smaller one", file)
                yield image
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"the {what} cannot be {verb} ({_no_image(start)})", "Replace it", file) from None
    except DAMAGES as error:
        reason = str(error) or type(error).__name__
        problem = f"the {what} cannot be {verb} ({reason})"
        raise InputError(problem, "Replace it; it may be cut off", file) from error


@contextmanager
def parsers_open_any_photo(data: Path | str) -> Iterator[None]:
    """Let nerfstudio's dataparsers, which open images themselves, open them as `open_photo` does.

    Args:
        data: the data set, for the error.
    Raises: InputError about one that is no image, or that the memory cannot hold.
    """
    _register_heif()
    available = available_memory()
    try:
        # Pillow refuses twice the limit, and a pixel takes 4 bytes.
        with pixel_limit(None if available is None else available // 8):
            yield
    except (Image.DecompressionBombError, OSError) as error:
        file = _opened_by_pillow(error)
        if file is not None:
            photo_header(file)  # says it better
        elif not isinstance(error, Image.DecompressionBombError):
            raise
        raise InputError(f"an image cannot be read ({error})", "Replace it", file or data) from error


def _opened_by_pillow(error: BaseException) -> Path | None:
    """The file that Pillow was opening when it raised an error, which its text may not name."""
    trace, file = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code is Image.open.__code__:
            file = trace.tb_frame.f_locals.get("filename")
        trace = trace.tb_next
    return Path(file) if isinstance(file, str) and file else None


def _header(image: ImageFile.ImageFile, file: Path) -> PhotoHeader:
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        kind = "floats" if image.mode == "F" else "signed values or values of 32 bits"
        raise InputError(f"the image has {kind}", "Convert it to 8 or 16 bits a channel", file)
    size, orientation = image.size, 1
    tags = getattr(image, "tag_v2", None)  # of a TIFF, whose size Pillow may give turned
    if tags is not None:
        size, orientation = (int(tags[256]), int(tags[257])), tags.get(ORIENTATION, 1)
    # Of a PNG, Pillow would decode all pixels to look for EXIF after them.
    elif image.format != "PNG" or {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"} & set(image.info):
        with suppress(Exception):  # damaged EXIF says nothing
            orientation = image.getexif().get(ORIENTATION, 1)
    if orientation not in TURNS:
        orientation = 1
    has_frames = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    return PhotoHeader(size, orientation, is_transparent(image), has_frames)


def is_transparent(image: Image.Image) -> bool:
    """Whether an image that Pillow opened is decoded with alpha: a channel of it, or a transparent color."""
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _decoded(image: ImageFile.ImageFile, file: Path) -> UInt8[NDArray, "h w c"]:
    """The pixels of an opened image in 8 bits and 3 or 4 channels."""
    if _has_deep_colors(image, file):
        return _eight_bits(_deep_colors(file))
    if image.mode.startswith("I"):
        values = np.asarray(image)
        tags = getattr(image, "tag_v2", {})
        most = 2 ** _bits(tags) - 1 if tags else 65535  # of 12 bits, Pillow keeps the values
        gray = _eight_bits(values, most)
        if tags.get(262) == 0:  # white is zero, which Pillow heeds for 8 bits only
            gray = 255 - gray
        channels = [gray, gray, gray]
        if "transparency" in image.info:
            channels.append(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8))
        return np.stack(channels, axis=-1)
    transparent = is_transparent(image)
    # Pillow turns premultiplied gray back to LA alone.
    straight: Image.Image = image.convert("LA") if image.mode == "La" else image
    mode = "RGBA" if transparent else "RGB"
    return np.asarray(straight if straight.mode == mode else straight.convert(mode))


def _has_deep_colors(image: ImageFile.ImageFile, file: Path) -> bool:
    """Whether an image has colors of 16 bits, which Pillow cuts down to 8."""
    if image.format == "PNG":
        with file.open("rb") as opened:
            depth, color_type = struct.unpack(">8x16xBB", opened.read(26))
        return depth == 16 and color_type != 0
    return not image.mode.startswith("I") and _bits(getattr(image, "tag_v2", {})) > 8


def _bits(tags: Mapping) -> int:
    """Bits per channel by the tags of a TIFF; 8 without."""
    depth = tags.get(258, 8)
    return depth if isinstance(depth, int) else depth[0]


def _deep_colors(file: Path) -> UInt16[NDArray, "h w c"]:
    """The pixels of an image of 16 bits and 3 or 4 channels, by OpenCV."""
    import cv2

    try:
        pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"OpenCV: {error.err or error}") from error
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise ValueError("OpenCV cannot decode its 16 bits a channel")
    order = [2, 1, 0, 3][: pixels.shape[-1]]
    return pixels[..., order]


def _eight_bits(values: NDArray, most: int = 65535) -> UInt8[NDArray, "..."]:
    """Values of up to 16 bits as 8: the greatest that there can be becomes 255, others are rounded to the nearest."""
    return ((values.astype(np.uint32) * 255 + most // 2) // most).astype(np.uint8)


def _require_opaque(files: Sequence[Path], sizes: Sequence[tuple[int, int]], has_alpha: list[bool]) -> None:
    """Raises: InputError if one of the images with alpha has a transparent pixel, given that others have no alpha."""
    for file, size, has in zip(files, sizes, has_alpha):
        if has and decode_image(file, size)[..., 3].min() < 255:
            break
    else:
        return
    if sum(has_alpha) * 2 > len(has_alpha):
        file, problem = files[has_alpha.index(False)], "lacks an alpha channel and other images of the split have one"
    else:
        problem = "has an alpha channel and other images of the split lack one"
    raise InputError(f"the image {problem}", "Add alpha to all images or remove it from all", file)


def _say(files: list[Path], total: int, what: str) -> None:
    """Warn in one line of images that have something in common."""
    if files:
        text = f"{len(files)} of {total} images are {what} (the first: {files[0]})."
        note(text)


def _no_image(start: bytes) -> str:
    """What a file is that Pillow does not know, from its first bytes."""
    if not start:
        return "the file is empty"
    if start.startswith(b"\x89PNG") and len(start) >= 24 and 0 in (size := struct.unpack(">II", start[16:24])):
        return f"it has {_times(size)} pixels"
    kind = next((kind for signature, kind in _SIGNATURES.items() if start.startswith(signature)), None)
    if kind is None:
        return "not an image"
    return kind if start[:1] == b"v" else f"{kind} that is damaged or of a kind that is not read"


def _times(size: Sequence[int]) -> str:
    return f"{size[0]}×{size[1]}"


def formats_of(start: bytes) -> list[str] | None:
    """Which of Pillow's readers reads a file with these first bytes; None: whichever knows it."""
    if start[4:8] != b"ftyp":
        return None
    if start[8:12] in (b"avif", b"avis") and features.check("avif"):
        return ["AVIF"]  # libheif's reader knows them too, and does not tell how they are turned
    _register_heif()
    return [name for name in ("HEIF", "AVIF") if name in Image.OPEN]


@cache
def _register_heif() -> None:
    """Let Pillow open HEIC, and AVIF where it does not itself."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    if not features.check("avif") and hasattr(pillow_heif, "register_avif_opener"):
        pillow_heif.register_avif_opener()


_limits_lock = threading.Lock()
_limits: list[int | None] = []
_usual_limit: int | None = None


@contextmanager
def pixel_limit(most: int | None) -> Iterator[None]:
    """Raise Pillow's limit on the pixels of an image, which all threads share: while several want another limit, the
    largest holds, and the last to leave restores the usual one.

    Args:
        most: pixels; None: no limit.
    """
    global _usual_limit

    def apply() -> None:
        wanted = [_usual_limit, *_limits]
        Image.MAX_IMAGE_PIXELS = None if None in wanted else max(limit for limit in wanted if limit is not None)

    with _limits_lock:
        if not _limits:
            _usual_limit = Image.MAX_IMAGE_PIXELS
        _limits.append(most)
        apply()
    try:
        yield
    finally:
        with _limits_lock:
            _limits.remove(most)
            apply()
