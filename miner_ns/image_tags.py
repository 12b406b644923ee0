"""What an image's file says about it beside its pixels: color profile, EXIF, and its place on the earth (GeoTIFF)."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, TiffImagePlugin

from common_ns.data.damaged import damage_explained
from miner_ns.image_io import open_pillow, read_header, tiff_page

ICC_PROFILE, EXIF, GPS = 34675, 0x8769, 0x8825
DESCRIPTIONS = (270, 271, 272, 274, 306, 315, 33432)
"""Tags of the first table of EXIF that are about the picture and not about how its pixels are stored: description,
maker, model, orientation, date, artist, copyright."""
PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, GEO_KEYS = 33550, 33922, 34264, 34735
GEO_TAGS = (PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, GEO_KEYS, 34736, 34737, 42112, 42113)
"""GeoTIFF 1.1 (OGC 19-008r4), and GDAL's metadata and value of samples without data."""
_RASTER_TYPE, _PIXEL_IS_POINT = 1025, 2

TiffTag = tuple[int, int, int, Any, bool]
"""Code, type, number of values, values, only in the first page: as tifffile writes it."""


@dataclass(frozen=True)
class ImageTags:
    """What is kept of an image's file."""

    profile: bytes | None = None
    """ICC profile of its colors."""
    exif: bytes | None = None
    """EXIF, as a TIFF without an image."""
    geo: Mapping[int, TiffTag] = field(default_factory=dict)
    """`GEO_TAGS` by their codes."""

    def at_level(self, level: int) -> ImageTags:
        """Those of the image at 1 / 2^level of its size: each pixel covers 2^level along each axis."""
        geo, factor = dict(self.geo), 2**level
        # Positions in the image count from the corner of its first pixel, or from that pixel's center.
        first = 0.5 * (factor - 1) if self._counts_from_centers else 0.0
        if PIXEL_SCALE in geo:
            x, y, z = geo[PIXEL_SCALE][3]
            geo[PIXEL_SCALE] = _with(geo[PIXEL_SCALE], (x * factor, y * factor, z))
        if TIE_POINTS in geo:
            values = list(geo[TIE_POINTS][3])
            for start in range(0, len(values), 6):
                values[start : start + 2] = [(value - first) / factor for value in values[start : start + 2]]
            geo[TIE_POINTS] = _with(geo[TIE_POINTS], tuple(values))
        if TRANSFORMATION in geo:
            values = list(geo[TRANSFORMATION][3])
            for row in range(0, 16, 4):
                a, b = values[row : row + 2]
                values[row : row + 2] = [a * factor, b * factor]
                values[row + 3] += first * (a + b)
            geo[TRANSFORMATION] = _with(geo[TRANSFORMATION], tuple(values))
        return replace(self, geo=geo)

    def profile_for(self, channels: int) -> bytes | None:
        """The color profile, if it is for gray and there is one color, or for RGB and there are three."""
        kind = b"GRAY" if channels <= 2 else b"RGB "
        return self.profile if self.profile is not None and self.profile[16:20] == kind else None

    def of_tiff(self) -> list[TiffTag]:
        """As tifffile writes them; what it does not write, `add_exif_to_tiff` adds."""
        return [*self._exif_tables()[0], *self.geo.values()]

    def add_exif_to_tiff(self, path: Path) -> None:
        """Write the tables of EXIF at the end of a little-endian TIFF of one page, and a list of tags that names them.

        Raises: OSError if it cannot be written.
        """
        tables = self._exif_tables()[1]
        if not tables:
            return
        with path.open("r+b") as file:
            start = file.read(16)
            is_big = start[2] == 43
            entry, number = (struct.Struct("<HHQQ"), "<Q") if is_big else (struct.Struct("<HHII"), "<I")
            count = struct.Struct("<Q" if is_big else "<H")
            (place,) = struct.unpack_from(number, start, 8 if is_big else 4)
            file.seek(place)
            entries: list[bytes] = [file.read(entry.size) for _ in range(count.unpack(file.read(count.size))[0])]
            for code, content in tables.items():
                place = _end(file)
                file.write(_table(start if is_big else start[:8], content).tobytes(place))
                entries.append(entry.pack(code, 16 if is_big else 4, 1, place))  # a number of 64 or 32 bits
            place = _end(file)
            entries.sort(key=lambda tag: int.from_bytes(tag[:2], "little"))
            file.write(count.pack(len(entries)) + b"".join(entries))
            file.write(struct.pack(number, 0))
            file.seek(8 if is_big else 4)
            file.write(struct.pack(number, place))

    @property
    def _counts_from_centers(self) -> bool:
        keys = self.geo[GEO_KEYS][3] if GEO_KEYS in self.geo else ()
        entries = [tuple(keys[start : start + 4]) for start in range(4, len(keys), 4)]
        return any(entry[0] == _RASTER_TYPE and entry[3] == _PIXEL_IS_POINT for entry in entries if len(entry) == 4)

    def _exif_tables(self) -> tuple[list[TiffTag], dict[int, dict[int, Any]]]:
        """The descriptions in EXIF's first table, and its further tables."""
        if self.exif is None:
            return [], {}
        exif = Image.Exif()
        exif.load(b"Exif\0\0" + self.exif)
        described: list[TiffTag] = []
        for code in DESCRIPTIONS:
            if code in exif:
                value = exif[code]
                is_text = isinstance(value, str)
                described.append((code, 2 if is_text else 3, 0 if is_text else 1, value, True))
        tables = {code: dict(exif.get_ifd(code)) for code in (EXIF, GPS)}
        return described, {code: table for code, table in tables.items() if table}


def read_tags(path: Path) -> ImageTags:
    """Color profile, EXIF and place on the earth of an image; of a TIFF, those of the page that is read.

    Raises: InputError if the file is missing or damaged.
    """
    header = read_header(path)
    with damage_explained(path, "image"):
        if header.reader == "numpy":
            return ImageTags()
        with path.open("rb") as file:
            start = file.read(4)
        if start[:2] in (b"II", b"MM"):
            return _tags_of_tiff(path, header.page)
        if start == b"\x76\x2f\x31\x01":  # EXR
            return ImageTags()
        with open_pillow(path) as image:
            exif = image.info.get("exif")
            if image.format not in ("PNG", "HEIF") and exif is None:
                exif = image.getexif().tobytes() if len(image.getexif()) else None
            return ImageTags(image.info.get("icc_profile"), _usable(exif))


def _tags_of_tiff(path: Path, place: tuple[int, ...]) -> ImageTags:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = tiff_page(file, place)
        found = {code: page.tags[code] for code in GEO_TAGS if code in page.tags}
        geo: dict[int, TiffTag] = {}
        for code, tag in found.items():
            many = isinstance(tag.value, (tuple, list, str, bytes))
            geo[code] = (code, int(tag.dtype), int(tag.count), tag.value if many else (tag.value,), True)
        profile = page.tags.valueof(ICC_PROFILE)
    exif = Image.Exif()
    with suppress(Exception), open_pillow(path, ("TIFF",)) as image:
        exif_of_file = image.getexif()  # of its first page, which cameras describe
        for code in DESCRIPTIONS:
            if code in exif_of_file:
                exif[code] = exif_of_file[code]
        for code in (EXIF, GPS):
            if table := exif_of_file.get_ifd(code):
                exif.get_ifd(code).update(table)
                exif[code] = dict(table)
    return ImageTags(profile, _usable(exif.tobytes()) if len(exif) else None, geo)


def _usable(exif: bytes | None) -> bytes | None:
    """EXIF without its name; None if it is damaged."""
    exif = (exif or b"").removeprefix(b"Exif\0\0")
    with suppress(Exception):  # its reader and writer raise whatever comes up
        for table in ImageTags(exif=exif)._exif_tables()[1].values():
            _table(b"II*\0\x08\0\0\0", table).tobytes(8)
        return exif or None
    return None


def _table(start: bytes, content: dict[int, Any]) -> TiffImagePlugin.ImageFileDirectory_v2:
    """A table of EXIF for a TIFF with these first bytes."""
    table = TiffImagePlugin.ImageFileDirectory_v2(ifh=start)
    table.update(content)
    return table


def _with(tag: TiffTag, values: tuple) -> TiffTag:
    return (*tag[:3], values, tag[4])


def _end(file: BinaryIO) -> int:
    """Go to the end of a file, made even, as TIFF wants its tables."""
    end = file.seek(0, io.SEEK_END)
    return end + file.write(bytes(end % 2))
