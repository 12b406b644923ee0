"""Pictures of every kind, in the families that train on photographs: the right pixels, or one line."""

from __future__ import annotations

import importlib
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from common_ns.data.checks import read_json
from miner_ns.image_io import read_image
from tests.odd_inputs.kit import (
    DENIED,
    Row,
    assert_ends_as_it_should,
    datamanager,
    edit_json,
    fifo,
    ids,
    link_loop,
    lock,
    pixels,
)

os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")
import cv2

METHODS = ("mip-nerf-360-small", "depth-hash-small", "hash-neus-small")
SIDE = 40
FIRST = "images/train_0000.png"

y, x = np.mgrid[0:SIDE, 0:SIDE]
COLORS = np.stack([6 * x, 6 * y, 3 * (x + y)], axis=-1).astype(np.uint8)
"""What each picture shows: smooth for JPEG, without symmetry for orientations."""
GRAY = np.asarray(Image.fromarray(COLORS).convert("L"))
DEEP = COLORS.astype(np.uint16) * 257 + 100
"""In 16 bits; rounding gives COLORS again, cutting the last 8 bits off too."""
ROUNDED_UP = np.minimum(COLORS.astype(np.uint16) * 256 + 255, 65535)
"""In 16 bits: of dark pixels, rounding and cutting differ."""
HALF = np.where(x < SIDE // 2, 255, 0).astype(np.uint8)
"""Alpha whose right half is transparent."""
PALETTE = Image.fromarray(COLORS).quantize(64)
PALETTE_COLORS = np.asarray(PALETTE.convert("RGB"))
USED = int(np.asarray(PALETTE)[0, 0])
"""An entry that pixels have."""


def every(save: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A `Row.make` that writes each picture anew under its old name."""

    def make(folder: Path) -> None:
        for file in sorted((folder / "images").iterdir()):
            save(file)

    return make


def first(save: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A `Row.make` that writes one picture anew among others of the sample scene, which are RGB."""
    return lambda folder: save(folder / FIRST)


def fourth(save: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A `Row.make` that spoils a picture that no dataparser looks at."""
    return lambda folder: save(folder / "images/train_0003.png")


def saved(image: Image.Image | np.ndarray, kind: str, **options: Any) -> Callable[[Path], None]:
    """Writes a picture with Pillow, whatever the suffix."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image

    def save(file: Path) -> None:
        if kind == "HEIF":
            import pillow_heif

            pillow_heif.register_heif_opener()
        picture.save(file, kind, **options)

    return save


def png(values: np.ndarray, color_type: int, transparent: bytes = b"", bits: int = 16) -> Callable[[Path], None]:
    """Writes a PNG of 16 bits, which Pillow does not."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    content += chunk(b"tRNS", transparent) if transparent else b""
    content += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return lambda file: file.write_bytes(content)


def png_header(width: int, height: int) -> Callable[[Path], None]:
    """Writes a PNG that states a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return lambda file: file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + bytes(4))


def tiff(values: np.ndarray, **options: Any) -> Callable[[Path], None]:
    return lambda file: tifffile.imwrite(file, values, metadata=None, **options)


def exif(orientation: int) -> bytes:
    content = Image.Exif()
    content[0x0112] = orientation
    return content.tobytes()


def sized(width: int, height: int, make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Cameras of that size, and a `Row.make`."""

    def both(folder: Path) -> None:
        edit_json(folder / "transforms.json", lambda content: content.update(w=width, h=height))
        make(folder)

    return both


def renamed(name: Callable[[str], str], save: Callable[[Path], None]) -> Callable[[Path], None]:
    """All pictures under other names."""

    def make(folder: Path) -> None:
        for file in sorted((folder / "images").iterdir()):
            save(file.with_name(name(file.stem)))
            file.unlink()
        text = (folder / "transforms.json").read_text()
        for stem in {Path(part.split('"')[0]).stem for part in text.split("images/")[1:]}:
            text = text.replace(f"{stem}.png", name(stem))
        (folder / "transforms.json").write_text(text)

    return make


def shows(expected: np.ndarray, tolerance: float = 0.0, alpha: bool = False) -> Callable[[Any], None]:
    """The first training image has these pixels (up to a mean difference), and the batches these channels."""

    def right(manager: Any) -> None:
        found = pixels(manager, 0)
        assert found.dtype == np.uint8 and found.shape == (*expected.shape[:2], 4 if alpha else 3)
        assert manager.train_dataset.metadata["images_have_alpha"] is alpha
        colors = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=-1)
        difference = np.abs(found[..., : colors.shape[-1]].astype(int) - colors)
        assert difference.mean() <= tolerance, difference.mean()
        assert manager.first_batch[1]["image"].shape == (64, found.shape[-1])

    return right


def as_scene(folder: Path) -> None:
    """Nothing is changed but one picture, to COLORS."""
    saved(COLORS, "PNG")(folder / FIRST)


def cut(save: Callable[[Path], None], share: float = 0.5) -> Callable[[Path], None]:
    def make(file: Path) -> None:
        save(file)
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])

    return make


def folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


def upright(orientation: int) -> np.ndarray:
    """WIDE as EXIF wants it shown."""
    turns = {6: lambda a: np.rot90(a, -1), 8: lambda a: np.rot90(a, 1), 5: lambda a: a.transpose(1, 0, 2)}
    return turns[orientation](WIDE)


CFA = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, b"\0\1\1\2", True)]
"""Tags of the colors of a raw picture."""
WIDE = COLORS[:30]
NOISE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
CLEAR = np.dstack([COLORS, HALF])
ANIMATION = [Image.fromarray(COLORS), Image.fromarray(COLORS[::-1].copy())]
MIXED = "train_0000.png: the image has an alpha channel and other images of the split lack one. Add alpha"
CUT = r"train_0000.png: the image cannot be decoded \(.*\). Replace it; it may be cut off"

ROWS = [
    Row("PNG", every(saved(COLORS, "PNG")), right=shows(COLORS)),
    Row("JPEG named PNG", every(saved(COLORS, "JPEG")), right=shows(COLORS, 4.0)),
    Row("progressive JPEG", every(saved(COLORS, "JPEG", progressive=True)), right=shows(COLORS, 4.0)),
    Row("CMYK JPEG", every(saved(Image.fromarray(COLORS).convert("CMYK"), "JPEG")), right=shows(COLORS, 4.0)),
    Row("YCbCr TIFF", every(saved(Image.fromarray(COLORS).convert("YCbCr"), "TIFF")), right=shows(COLORS, 2.0)),
    Row("gray", every(saved(GRAY, "PNG")), right=shows(GRAY)),
    Row("gray among colors", first(saved(GRAY, "PNG")), right=shows(GRAY)),
    Row("1 bit", every(saved(Image.fromarray(HALF).convert("1"), "PNG")), right=shows(HALF)),
    Row("palette", every(saved(PALETTE, "PNG")), right=shows(PALETTE_COLORS)),
    Row("BMP", every(saved(COLORS, "BMP")), right=shows(COLORS)),
    Row("GIF", every(saved(PALETTE, "GIF")), right=shows(PALETTE_COLORS)),
    Row("TIFF", every(saved(COLORS, "TIFF")), right=shows(COLORS)),
    Row("TIFF, deflate", every(tiff(COLORS, photometric="rgb", compression="zlib")), right=shows(COLORS)),
    Row("JPEG 2000", every(saved(COLORS, "JPEG2000")), right=shows(COLORS)),
    Row("WebP", every(saved(COLORS, "WEBP", lossless=True)), right=shows(COLORS)),
    Row("AVIF", every(saved(COLORS, "AVIF", quality=95)), right=shows(COLORS, 3.0)),
    Row("HEIC named PNG", every(saved(COLORS, "HEIF", quality=95)), right=shows(COLORS, 3.0)),
    Row(
        "HEIC as a phone names it",
        renamed(lambda stem: f"{stem}.HEIC", saved(COLORS, "HEIF", quality=95)),
        right=shows(COLORS, 3.0),
    ),
    Row("capital suffix", renamed(lambda stem: f"{stem}.JPG", saved(COLORS, "JPEG")), right=shows(COLORS, 4.0)),
    # 16 bits
    Row("16-bit colors", every(png(DEEP, 2)), right=shows(COLORS)),
    Row("16-bit colors are rounded", every(png(ROUNDED_UP, 2)), right=shows(np.rint(ROUNDED_UP / 257.0))),
    Row("16-bit colors among others", first(png(DEEP, 2)), right=shows(COLORS)),
    Row("16-bit gray", every(saved(DEEP[..., 0], "PNG")), right=shows(COLORS[..., 0])),
    Row(
        "16-bit gray and alpha",
        every(png(np.dstack([DEEP[..., 0], HALF * np.uint16(257)]), 4)),
        right=shows(np.dstack([COLORS[..., [0, 0, 0]], HALF]), alpha=True),
    ),
    Row(
        "16-bit colors and alpha",
        every(png(np.dstack([DEEP, HALF * np.uint16(257)]), 6)),
        right=shows(CLEAR, alpha=True),
    ),
    Row(
        "16-bit gray, one value transparent",
        every(png(DEEP[..., 0], 0, struct.pack(">H", DEEP[0, 7, 0]))),
        right=shows(np.dstack([COLORS[..., [0, 0, 0]], np.where(x == 7, 0, 255)]), alpha=True),
    ),
    Row("16-bit colors in TIFF", every(tiff(DEEP, photometric="rgb", compression="zlib")), right=shows(COLORS)),
    Row("16-bit gray in TIFF", every(tiff(DEEP[..., 0])), right=shows(COLORS[..., 0])),
    Row(
        "16-bit gray in TIFF, white is 0",
        every(tiff(65535 - DEEP[..., 0], photometric="miniswhite")),
        right=shows(COLORS[..., 0]),
    ),
    Row("floats", first(tiff(np.float32(GRAY))), refused="train_0000.png: the image has floats. Convert it to 8 or 16"),
    Row("32 bits", first(tiff(np.int32(GRAY))), refused="the image has signed values or values of 32 bits. Convert"),
    Row(
        "EXR",
        first(lambda file: file.write_bytes(cv2.imencode(".exr", np.float32(COLORS))[1].tobytes())),
        refused="train_0000.png: the image cannot be read .an EXR, which holds floats.. Replace",
    ),
    # Alpha
    Row("RGBA", every(saved(CLEAR, "PNG")), right=shows(CLEAR, alpha=True)),
    Row("gray and alpha", every(saved(np.dstack([GRAY, HALF]), "PNG")), right=shows(GRAY, alpha=True)),
    Row(
        "palette, one entry transparent",
        every(saved(PALETTE, "PNG", transparency=USED)),
        right=shows(np.dstack([PALETTE_COLORS, np.where(np.asarray(PALETTE) == USED, 0, 255)]), alpha=True),
    ),
    Row(
        "palette, one entry transparent, among RGB",
        first(saved(PALETTE, "PNG", transparency=USED)),
        refused=MIXED,
    ),
    Row(
        "palette, an unused entry transparent, among RGB",
        first(saved(PALETTE, "PNG", transparency=200)),
        right=shows(PALETTE_COLORS),
    ),
    Row("opaque RGBA among RGB", first(saved(Image.fromarray(COLORS).convert("RGBA"), "PNG")), right=shows(COLORS)),
    Row("RGBA among RGB", first(saved(CLEAR, "PNG")), refused=MIXED),
    Row(
        "RGB among RGBA",
        lambda folder: (every(saved(CLEAR, "PNG"))(folder), as_scene(folder)),
        refused="train_0000.png: the image lacks an alpha channel and other images of the split have one",
    ),
    Row(
        "a transparent color",
        every(saved(COLORS, "PNG", transparency=tuple(COLORS[0, 0].tolist()))),
        right=shows(np.dstack([COLORS, np.where((x == 0) & (y == 0), 0, 255)]), alpha=True),
    ),
    Row(
        "a transparent color that no pixel has, among RGB",
        first(saved(COLORS, "PNG", transparency=(1, 2, 3))),
        right=shows(COLORS),
    ),
    # Orientation
    Row(
        "EXIF 6, cameras of the sensor's size",
        sized(40, 30, every(saved(WIDE, "PNG", exif=exif(6)))),
        right=shows(WIDE),
    ),
    *(
        Row(
            f"EXIF {orientation}, cameras of the upright size, {kind}",
            sized(30, 40, every(saved(WIDE, kind, exif=exif(orientation), **options))),
            right=shows(upright(orientation), tolerance),
            warns="12 of 12 images are turned by their EXIF orientation: only then",
        )
        for orientation, kind, options, tolerance in [
            (6, "JPEG", {"quality": 95}, 3.0),
            (8, "PNG", {}, 0.0),
            (6, "TIFF", {}, 0.0),
            (5, "WEBP", {"lossless": True}, 0.0),
            (6, "AVIF", {"quality": 95}, 3.0),
        ]
    ),
    Row(
        "TIFF turned, cameras of the sensor's size",
        sized(40, 30, every(saved(WIDE, "TIFF", exif=exif(6)))),
        right=shows(WIDE),
    ),
    Row(
        "16-bit TIFF turned, cameras of the sensor's size",
        sized(40, 30, every(tiff(DEEP[:30], photometric="rgb", extratags=[(274, 3, 1, 8, True)]))),
        right=shows(WIDE),
    ),
    Row(
        "EXIF 6, square",
        every(saved(COLORS, "PNG", exif=exif(6))),
        right=shows(COLORS),
        warns="12 of 12 images are used as stored, though EXIF says they are turned",
    ),
    Row(
        "EXIF 3",
        sized(40, 30, every(saved(WIDE, "PNG", exif=exif(3)))),
        right=shows(WIDE),
        warns="12 of 12 images are used as stored, though EXIF says they are turned",
    ),
    Row("EXIF 1", every(saved(COLORS, "PNG", exif=exif(1))), right=shows(COLORS)),
    Row("EXIF cut off", every(saved(COLORS, "JPEG", exif=b"Exif\0\0MM\0*\0\0")), right=shows(COLORS, 4.0)),
    Row(
        "another size",
        first(saved(WIDE, "PNG")),
        refused="train_0000.png: the image has 40×30 pixels, its camera 40×40",
    ),
    # Several frames
    *(
        Row(
            f"two frames, {kind}",
            every(saved(ANIMATION[0], kind, save_all=True, append_images=ANIMATION[1:], **options)),
            right=shows(COLORS, 5.0),
            warns="12 of 12 images are read without their further frames",
        )
        for kind, options in [("GIF", {}), ("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("AVIF", {})]
    ),
    Row(
        "JPEG of a phone with a preview",
        every(saved(ANIMATION[0], "MPO", save_all=True, append_images=ANIMATION[1:])),
        right=shows(COLORS, 4.0),
    ),
    # No pictures
    Row("missing", first(lambda file: file.unlink()), refused="train_0000.png: .*does not exist"),
    Row(
        "empty",
        first(lambda file: file.write_bytes(b"")),
        refused="train_0000.png: .*cannot be read .the file is empty",
    ),
    Row("text", first(lambda file: file.write_text("hello")), refused="train_0000.png: .*cannot be read .not an image"),
    Row(
        "pointer of Git LFS",
        first(lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")),
        refused="train_0000.png: the image cannot be read .a pointer of Git LFS; git lfs pull brings the image",
    ),
    Row("folder", first(folder_instead), refused="train_0000.png: the image is a folder"),
    Row(
        "folder, not the first", lambda folder: folder_instead(folder / "images/train_0003.png"), refused="is a folder"
    ),
    Row(
        "pipe, not the first", lambda folder: fifo(folder / "images/train_0003.png"), refused="0003.png: .*a named pipe"
    ),
    Row("locked", first(lock), refused=f"train_0000.png: the image {DENIED}read it"),
    Row("locked, not the first", fourth(lock), refused=f"train_0003.png: the image {DENIED}read it"),
    Row(
        "in a locked folder",
        lambda folder: lock(folder / "images"),
        refused=f"images/train_00...png: the (file|image) {DENIED}enter the folder DATA/nerfstudio/images ",
    ),
    Row("loop of links, not the first", lambda folder: link_loop(folder / "images/train_0003.png"), refused="0003.png"),
    Row(
        "cut PNG",
        first(cut(saved(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8), "PNG"))),
        refused=CUT,
    ),
    Row("cut JPEG", first(cut(saved(COLORS, "JPEG", quality=100), 0.8)), refused=CUT),
    Row("cut HEIC", first(cut(saved(COLORS, "HEIF"), 0.8)), refused=r"train_0000.png: the image cannot be"),
    Row("cut WebP", first(cut(saved(COLORS, "WEBP", lossless=True))), refused=r"train_0000.png: the image cannot be"),
    Row("cut 16-bit PNG", first(cut(png(ROUNDED_UP, 2), 0.7)), refused=r"train_0000.png: the image cannot be"),
    Row("cut TIFF", first(cut(tiff(COLORS, photometric="rgb"))), refused=r"train_0000.png: the image cannot be"),
    Row("PNG of 0×0 pixels", first(png_header(0, 0)), refused="train_0000.png: .*it has 0×0 pixels"),
    Row(
        "PNG that states 100000×100000 pixels",
        sized(100000, 100000, first(png_header(100000, 100000))),
        refused="train_0000.png: decoding 100000×100000 pixels needs 111.8 GiB of memory and .* are available",
    ),
    Row(
        "PNG that states 200 megapixels",
        sized(16384, 12288, first(png_header(16384, 12288))),
        refused="train_0001.png: the image has 40×40 pixels, its camera 16384×12288",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What takes long once is no part of a row's time."""
    importlib.import_module("nerfstudio.configs.method_configs")


@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
def test_photographs(row: Row, base_scene, tmp_path: Path, capfd) -> None:
    folder = base_scene.copy("nerfstudio", tmp_path)
    row.make(folder)
    # Depth maps of the scene have the size of its pictures.
    square = read_json(folder / "transforms.json")["h"] == read_json(folder / "transforms.json")["w"] == SIDE
    method = METHODS[ROWS.index(row) % len(METHODS) if square else 0]
    assert_ends_as_it_should(row, lambda: datamanager(method, folder, "nerfstudio-data"), capfd, tmp_path)


LOCKED = {
    "": rf"{{layout}}: the data path {DENIED}read it",
    "{list}": rf"{{list}}: the file {DENIED}read it",
    "{images}": rf"{{images}}.*: the (file|image|folder) {DENIED}(read it|enter the folder DATA/{{layout}}/{{images}})",
    "..": rf"{{layout}}: the data path {DENIED}enter the folder DATA \(chmod u\+x\)",
}
"""What is locked, and the line about it."""


@pytest.mark.parametrize("place", LOCKED)
@pytest.mark.parametrize(
    ("parser", "layout", "list_file", "images"),
    [
        ("nerfstudio-data", "nerfstudio", "transforms.json", "images"),
        ("instant-ngp-data", "nerfstudio", "transforms.json", "images"),
        ("rgbd-data", "nerfstudio", "transforms.json", "images"),
        ("blender-data", "blender", "transforms_train.json", "train"),
        ("idr-data", "idr", "cameras_sphere.npz", "image"),
    ],
)
def test_locked_data_sets(parser, layout, list_file, images, place, base_scene, tmp_path: Path, capfd) -> None:
    folder = base_scene.copy(layout, tmp_path)
    names = {"layout": layout, "list": list_file, "images": images}
    lock((folder / place.format(**names)).resolve())
    method = "depth-hash-small" if parser == "rgbd-data" else "hash-neus-small" if layout == "idr" else METHODS[0]
    row = Row("locked", lock, refused=LOCKED[place].format(**names))
    try:
        assert_ends_as_it_should(row, lambda: datamanager(method, folder, parser), capfd, tmp_path)
    finally:
        tmp_path.chmod(0o700)
    assert "defect" not in "".join(capfd.readouterr())


# ---------------------------------------------------------------------------------------------------------------------
# Single images, which MINER fits

HEIGHTS = (100 + 5 * x[:30] + y[:30]).astype(np.int16)
"""A map of heights."""
GAPS = (x[:30] < 4) | (y[:30] > 25)
"""Where it has no data."""
GEO_KEYS = (34735, "H", 8, (1, 1, 0, 1, 1025, 0, 1, 1), True)
VIEW = COLORS[:24, :32]
"""A thumbnail."""


def nodata(text: str) -> tuple:
    return (42113, "s", 0, text, True)


def one(save: Callable[[Path], Any], name: str = "image") -> Callable[[Path], Path]:
    """A `Row.make` that writes one image and returns where it is."""

    def make(folder: Path) -> Path:
        save(folder / name)
        return folder / name

    return make


def pages(*all_pages: tuple[np.ndarray, dict[str, Any]]) -> Callable[[Path], None]:
    """Writes a TIFF of several pages."""

    def save(file: Path) -> None:
        with tifffile.TiffWriter(file) as writer:
            for values, options in all_pages:
                writer.write(values, metadata=None, **options)

    return save


def exr(channels: dict[str, int]) -> Callable[[Path], None]:
    """Writes an EXR whose channels, by their names, are those of COLORS."""

    def save(file: Path) -> None:
        import OpenEXR

        planes = {name: np.ascontiguousarray(COLORS[..., number], np.float32) for name, number in channels.items()}
        OpenEXR.File({}, planes).write(str(file))

    return save


def reads(expected: np.ndarray, tolerance: float = 0.0, value_range: tuple | None = None) -> Callable[[Any], None]:
    """The stored values, up to a mean difference, and what they are scaled by."""

    def right(signal: Any) -> None:
        found = signal.read_stored((0, 0), signal.spatial_shape)
        assert found.shape == (*expected.shape, 1)[:3], found.shape
        assert np.abs(found.reshape(expected.shape).astype(float) - expected).mean() <= tolerance
        if value_range is not None:
            assert signal.value_range == value_range
            scaled = signal.read((0, 0), signal.spatial_shape)
            assert scaled.min() == 0.0 and scaled.max() == 1.0

    return right


WITHOUT_GAPS = np.where(GAPS, HEIGHTS[~GAPS].min(), HEIGHTS)
LIMITS = (float(HEIGHTS[~GAPS].min()), float(HEIGHTS[~GAPS].max()))
RGB = {"photometric": "rgb"}

IMAGE_ROWS = [
    Row("HEIC", one(saved(COLORS, "HEIF", quality=95)), right=reads(COLORS, 3.0)),
    Row("AVIF", one(saved(COLORS, "AVIF", quality=95)), right=reads(COLORS, 3.0)),
    Row("WebP", one(saved(COLORS, "WEBP", lossless=True)), right=reads(COLORS)),
    Row(
        "transparent palette",
        one(saved(PALETTE, "PNG", transparency=USED)),
        right=reads(np.dstack([PALETTE_COLORS, np.where(np.asarray(PALETTE) == USED, 0, 255)])),
    ),
    Row(
        "animation",
        one(saved(ANIMATION[0], "WEBP", save_all=True, append_images=ANIMATION[1:], lossless=True)),
        right=reads(COLORS),
        warns="image: the first of its frames is read",
    ),
    Row("EXIF 6", one(saved(WIDE, "PNG", exif=exif(6))), right=reads(WIDE)),
    Row(
        "thumbnail first",
        one(pages((VIEW, RGB), (COLORS, RGB))),
        right=reads(COLORS),
        warns=r"image: page 2 is read, the largest \(40×40 pixels\); the first has 32×24",
    ),
    Row(
        "thumbnail first, compressed",
        one(pages((VIEW, RGB), (COLORS, RGB | {"compression": "zlib", "tile": (16, 16)}))),
        right=reads(COLORS),
        warns="page 2 is read",
    ),
    Row(
        "thumbnail first, in a compression of OpenCV",
        one(saved(Image.fromarray(VIEW), "TIFF", save_all=True, append_images=ANIMATION[:1], compression="tiff_lzw")),
        right=reads(COLORS),
        warns="page 2 is read",
    ),
    Row(
        "the picture below a thumbnail, as in a DNG",
        one(pages((VIEW, RGB | {"subifds": 2}), (COLORS[:30], RGB), (COLORS, RGB))),
        right=reads(COLORS),
        warns=r"page 1.2 is read, the largest \(40×40",
    ),
    Row(
        "a raw picture below a thumbnail",
        one(pages((VIEW, RGB | {"subifds": 1}), (DEEP[..., 0], {"photometric": 32803, "extratags": CFA}))),
        refused="image: TIFF of kind CFA, .*page 1.1, 40×40 pixels.* is not supported. .*develop a raw photograph",
    ),
    Row("a pyramid", one(pages((COLORS, RGB), (COLORS[::2, ::2], RGB | {"subfiletype": 1}))), right=reads(COLORS)),
    Row(
        "a mask larger than the picture",
        one(pages((VIEW, RGB), (HALF > 0, {"subfiletype": 4, "photometric": "mask"}))),
        right=reads(VIEW),
    ),
    Row(
        "a stack",
        one(pages(*[(COLORS, RGB)] * 3)),
        right=reads(COLORS),
        warns="the first of its 3 pages of 40×40 pixels is read",
    ),
    Row(
        "turned TIFF that OpenCV reads",
        one(saved(Image.fromarray(WIDE), "TIFF", compression="tiff_lzw", tiffinfo={274: 8})),
        right=reads(WIDE),
    ),
    # Maps
    *(
        Row(
            f"{name} of {dtype}",
            one(tiff(np.where(GAPS, value, HEIGHTS).astype(dtype), extratags=[GEO_KEYS, *tags], **options)),
            right=reads(WITHOUT_GAPS, 0.0, LIMITS),
            warns=re.escape(f"samples of {value:g} (or NaN)") + " have no data; without them, values are",
        )
        for name, dtype, value, tags, options in [
            ("-9999", "int16", -9999, [nodata("-9999")], {}),
            ("-9999, compressed,", "int32", -9999, [nodata("-9999")], {"compression": "zlib"}),
            ("-9999", "float32", -9999, [nodata("-9999 ")], {}),
            ("the least float", "float32", -3.4028234663852886e38, [nodata("-3.4028234663852886e+38")], {}),
            ("NaN named", "float32", np.nan, [nodata("nan")], {}),
            ("NaN not named", "float64", np.nan, [], {}),
        ]
    ),
    Row(
        "nodata that the type cannot hold",
        one(tiff(HEIGHTS, extratags=[GEO_KEYS, nodata("-1e30")])),
        right=reads(HEIGHTS, 0.0, (float(HEIGHTS.min()), float(HEIGHTS.max()))),
    ),
    Row("nodata in 8 bits", one(tiff(HALF, extratags=[GEO_KEYS, nodata("0")])), right=reads(HALF, 0.0, (0.0, 255.0))),
    Row(
        "nothing but nodata",
        one(tiff(np.full((4, 5), -9999, np.int16), extratags=[GEO_KEYS, nodata("-9999")])),
        refused="image: no value is other than -9999, which stands for no data",
    ),
    Row(
        "NaN without a place on the earth",
        one(tiff(np.where(GAPS, np.nan, HEIGHTS).astype(np.float32))),
        refused="image: the value at row 0 column 0 channel 0 is nan",
    ),
    Row(
        "infinity beside nodata",
        one(tiff(np.where(GAPS, np.inf, HEIGHTS).astype(np.float32), extratags=[GEO_KEYS, nodata("-9999")])),
        refused="channel 0 is inf",
    ),
    # EXR
    Row(
        "colors of a layer",
        one(exr({"L.Combined.R": 0, "L.Combined.G": 1, "L.Combined.B": 2, "L.Depth.Z": 0}), "image.exr"),
        right=reads(COLORS),
        warns="of its channels, L.Combined.R, L.Combined.G, L.Combined.B are read",
    ),
    Row("gray of a layer", one(exr({"Image.Y": 1}), "image.exr"), right=reads(COLORS[..., 1])),
    Row(
        "colors of two layers",
        one(exr({f"{layer}.{color}": 0 for layer in "ab" for color in "RGB"}), "image.exr"),
        refused="image.exr: the EXR file has the channels a.B, a.G, a.R, b.B, b.G, b.R. Write it with R, G, B or Y",
    ),
    Row(
        "cut EXR",
        one(cut(exr({f"a.{color}": 0 for color in "RGB"}), 0.7), "image.exr"),
        refused="the image cannot be read",
    ),
    # No images
    Row("empty image", one(lambda file: file.write_bytes(b"")), refused="image: the file is empty"),
    Row("a pipe for an image", one(os.mkfifo), refused="image: the image is a named pipe"),
    Row("a folder for an image", one(Path.mkdir), refused="image: .*is a folder"),
    Row("a locked image", one(lambda file: file.touch() or lock(file)), refused=f"image: the image {DENIED}read it"),
    Row("cut HEIC for an image", one(cut(saved(COLORS, "HEIF"), 0.8)), refused="image: the image cannot be read"),
    Row(
        "100000×100000 pixels for an image",
        one(png_header(100000, 100000)),
        refused="image: an image of 100000×100000 pixels needs .* GiB of memory",
    ),
    Row(
        "a film", one(lambda file: file.write_bytes(b"\0\0\0 ftypisom" + bytes(40))), refused="image: the image cannot"
    ),
]


@pytest.mark.parametrize("row", IMAGE_ROWS, ids=ids(IMAGE_ROWS))
def test_single_images(row: Row, tmp_path: Path, capfd) -> None:
    path = row.make(tmp_path)
    assert_ends_as_it_should(row, lambda: read_image(path), capfd, tmp_path)


def test_pictures_beyond_the_limit_of_pillow(base_scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a photograph of more than 179 megapixels is, in the dataparser, the check and the decoding threads."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for method, layout in (("mip-nerf-small", "blender"), ("hash-neus-small", "idr"), (METHODS[0], "nerfstudio")):
        manager = datamanager(method, base_scene.copy(layout, tmp_path / method))
        assert pixels(manager, 1).shape[:2] == (40, 40)
    assert Image.MAX_IMAGE_PIXELS == 100
