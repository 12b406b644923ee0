"""Images of every kind are read as they are stored, and what cannot be read is said in one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from common_ns.errors import InputError
from miner_ns import image_io
from miner_ns import signal as signal_module
from miner_ns.image_io import read_header, read_image

os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")
import cv2

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 21, 34


def some_pixels(channels: int, dtype: str = "uint8") -> np.ndarray:
    """Smooth enough for JPEG, different in every channel and type."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = np.stack([np.sin(0.1 * (c + 1) * x + 0.2 * y + c) for c in range(channels)], axis=-1) * 0.5 + 0.5
    if np.dtype(dtype).kind == "f":
        return (3.0 * waves - 1.0).astype(dtype)
    return (waves * np.iinfo(dtype).max).astype(dtype)


def stored(path: Path, **options) -> np.ndarray:
    """The pixels of a file as the reader keeps them."""
    header, signal = read_header(path), read_image(path, **options)
    assert header.shape == (*signal.spatial_shape, signal.channels) and signal.ndim == 2
    assert header.dtype == signal.dtype
    return np.asarray(signal.array)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_png_is_kept_as_stored(tmp_path: Path, mode: str) -> None:
    channels = len(mode) if mode != "1" else 1
    image = Image.fromarray(some_pixels(max(3, channels))[..., : max(3, channels)]).convert(mode)
    image.save(tmp_path / "image.png")
    expected = np.asarray(image.convert("L") if mode == "1" else image).reshape(HEIGHT, WIDTH, channels)
    np.testing.assert_array_equal(stored(tmp_path / "image.png"), expected)


def test_palettes_become_colors_strip_by_strip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_module, "CHUNK_SAMPLES", 500)
    palette = Image.fromarray(some_pixels(3)).quantize(16)
    palette.save(tmp_path / "opaque.png")
    palette.save(tmp_path / "clear.png", transparency=3)
    np.testing.assert_array_equal(stored(tmp_path / "opaque.png"), np.asarray(palette.convert("RGB")))
    clear = stored(tmp_path / "clear.png")
    np.testing.assert_array_equal(clear, np.asarray(Image.open(tmp_path / "clear.png").convert("RGBA")))
    assert clear.shape[-1] == 4 and set(np.unique(clear[..., 3])) == {0, 255}


def test_16_bit_png_keeps_its_16_bits(tmp_path: Path) -> None:
    gray = some_pixels(1, "uint16")[..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(stored(tmp_path / "gray.png")[..., 0], gray)
    for channels, order in ((3, [2, 1, 0]), (4, [2, 1, 0, 3])):
        pixels = some_pixels(channels, "uint16")
        cv2.imwrite(str(tmp_path / "color.png"), pixels[..., order])
        np.testing.assert_array_equal(stored(tmp_path / "color.png"), pixels)


def test_jpeg_equals_pillow(tmp_path: Path) -> None:
    for channels in (1, 3):
        file = tmp_path / f"{channels}.jpg"
        Image.fromarray(some_pixels(channels).squeeze()).save(file)
        np.testing.assert_array_equal(stored(file).squeeze(), np.asarray(Image.open(file)))


def test_there_is_no_limit_on_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(some_pixels(3)).save(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    np.testing.assert_array_equal(stored(tmp_path / "image.png"), some_pixels(3))
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_tiff_of_any_type(tmp_path: Path, dtype: str, channels: int) -> None:
    pixels = some_pixels(channels, dtype)
    photometric = "rgb" if channels > 2 else "minisblack"
    options = {"photometric": photometric, "metadata": None}
    if channels > 1:
        options["planarconfig"] = "contig"
    squeezed = pixels if channels > 1 else pixels[..., 0]
    tifffile.imwrite(tmp_path / "raw.tif", squeezed, **options)
    assert read_header(tmp_path / "raw.tif").reader == "mapped"
    np.testing.assert_array_equal(stored(tmp_path / "raw.tif"), pixels)
    tifffile.imwrite(tmp_path / "tiled.tif", squeezed, tile=(16, 16), compression="zlib", bigtiff=True, **options)
    assert read_header(tmp_path / "tiled.tif").reader == "tifffile"
    np.testing.assert_array_equal(stored(tmp_path / "tiled.tif"), pixels)
    np.testing.assert_array_equal(stored(tmp_path / "tiled.tif", on_disk=True), pixels)


def test_an_uncompressed_tiff_and_npy_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = some_pixels(3, "uint16")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    np.save(tmp_path / "a.npy", pixels)
    monkeypatch.setattr("common_ns.data.memory.available_memory", lambda: 0)
    for name in ("a.tif", "a.npy"):
        signal = read_image(tmp_path / name)
        assert isinstance(signal.array, np.memmap)
        np.testing.assert_array_equal(signal.read_stored((2, 3), (5, 9)), pixels[2:5, 3:9])


def test_tiff_of_other_layouts(tmp_path: Path) -> None:
    pixels = some_pixels(3, "uint16")
    planes = np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(stored(tmp_path / "planes.tif"), pixels)
    tifffile.imwrite(tmp_path / "big-endian.tif", pixels, photometric="rgb", byteorder=">")
    np.testing.assert_array_equal(stored(tmp_path / "big-endian.tif"), pixels)
    assert read_image(tmp_path / "big-endian.tif").value_range == (0.0, 65535.0)
    tifffile.imwrite(tmp_path / "predicted.tif", pixels, photometric="rgb", compression="zlib", predictor=True)
    np.testing.assert_array_equal(stored(tmp_path / "predicted.tif"), pixels)
    tifffile.imwrite(tmp_path / "white.tif", pixels[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(stored(tmp_path / "white.tif")[..., 0], 65535 - pixels[..., 0])


def test_tiff_that_tifffile_cannot_decode_alone(tmp_path: Path) -> None:
    """LZW and JPEG need a package that is not required; OpenCV reads them."""
    pixels = some_pixels(3, "uint16")
    cv2.imwrite(str(tmp_path / "lzw.tif"), pixels[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    np.testing.assert_array_equal(stored(tmp_path / "lzw.tif"), pixels)
    Image.fromarray(some_pixels(3)).save(tmp_path / "jpeg.tif", compression="jpeg")
    assert np.abs(stored(tmp_path / "jpeg.tif").astype(int) - some_pixels(3)).mean() < 5.0
    palette = Image.fromarray(some_pixels(3)).quantize(16)
    palette.save(tmp_path / "palette.tif")
    np.testing.assert_array_equal(stored(tmp_path / "palette.tif"), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_exr_floats(tmp_path: Path, channels: int) -> None:
    pixels = some_pixels(channels, "float32")
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    cv2.imwrite(str(tmp_path / "a.exr"), pixels[..., order], [cv2.IMWRITE_EXR_TYPE, cv2.IMWRITE_EXR_TYPE_FLOAT])
    np.testing.assert_array_equal(stored(tmp_path / "a.exr"), pixels)
    assert read_image(tmp_path / "a.exr").value_range == (float(pixels.min()), float(pixels.max()))


def test_numpy_arrays(tmp_path: Path) -> None:
    pixels = some_pixels(4, "float32")
    np.savez_compressed(tmp_path / "a.npz", image=pixels)
    np.testing.assert_array_equal(stored(tmp_path / "a.npz"), pixels)
    np.save(tmp_path / "gray.npy", pixels[..., 0] > 0)
    assert stored(tmp_path / "gray.npy").dtype == bool


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    Image.fromarray(some_pixels(3)).save(tmp_path / "image.jpg", format="PNG")
    np.testing.assert_array_equal(stored(tmp_path / "image.jpg"), some_pixels(3))


def write_all_formats(folder: Path) -> list[Path]:
    """One file of every format, each of a few kilobytes."""
    colors, deep, floats = (RNG.integers(0, 256, (64, 48, 3), np.uint8) for _ in range(3))
    deep, floats = deep.astype(np.uint16) * 257, floats.astype(np.float32)
    Image.fromarray(colors).save(folder / "a.png")
    Image.fromarray(colors).save(folder / "a.jpg")
    Image.fromarray(colors).save(folder / "jpeg.tif", compression="jpeg")
    cv2.imwrite(str(folder / "deep.png"), deep)
    cv2.imwrite(str(folder / "lzw.tif"), deep, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    cv2.imwrite(str(folder / "a.exr"), floats)
    tifffile.imwrite(folder / "raw.tif", deep, photometric="rgb")
    tifffile.imwrite(folder / "zip.tif", deep, photometric="rgb", compression="zlib", tile=(16, 16))
    np.save(folder / "a.npy", floats)
    np.savez_compressed(folder / "a.npz", floats)
    return sorted(folder.iterdir())


def test_files_that_are_cut_off(tmp_path: Path) -> None:
    """However much of a file is missing, the error is one line that names it."""
    for file in write_all_formats(tmp_path):
        content = file.read_bytes()
        for share in (0.03, 0.5, 0.9):
            file.write_bytes(content[: int(share * len(content))])
            with pytest.raises(InputError) as caught:
                read_image(file)
            assert str(file) in str(caught.value) and "\n" not in str(caught.value), file


def test_files_with_a_damaged_header(tmp_path: Path) -> None:
    """Random bytes behind a valid signature end in an InputError or an image, never in another exception."""
    for file in write_all_formats(tmp_path):
        content = bytearray(file.read_bytes())
        for _ in range(10):
            damaged = content.copy()
            for position in RNG.integers(8, 120, 4):
                damaged[position] = RNG.integers(256)
            file.write_bytes(damaged)
            try:
                read_image(file)
            except InputError as error:
                assert str(file) in str(error)


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("This is not a picture at all, it is a text.")
    for name, message in (
        ("missing.png", "does not exist"),
        ("empty.png", "empty"),
        ("text.png", "cannot be read"),
        (".", "folder"),
    ):
        with pytest.raises(InputError, match=message):
            read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5, 6), np.uint8), "6 channels"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"shape \(2, 4, 5, 3\)"),
        (np.zeros(7), r"shape \(7,\)"),
        (np.zeros((0, 5, 3), np.uint8), "5×0 pixels"),
        (np.zeros((4, 5), complex), "complex128"),
        (np.array([["a", "b"]]), "type"),
        (np.array([[None]]), "cannot be read"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=message):
        read_image(tmp_path / "a.npy")


def test_several_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", first=np.zeros((2, 2)), second=np.zeros((2, 2)))
    with pytest.raises(InputError, match="first, second"):
        read_image(tmp_path / "a.npz")


def test_floats_that_are_not_finite(tmp_path: Path) -> None:
    pixels = some_pixels(3, "float32")
    pixels[7, 11, 2] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    with pytest.raises(InputError, match=r"a.tif: the value at row 7 column 11 channel 2 is nan"):
        read_image(tmp_path / "a.tif")


def test_more_than_the_memory_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_all_formats(tmp_path)
    monkeypatch.setattr("common_ns.data.memory.available_memory", lambda: 1000)
    for name in ("_read_pillow", "_read_opencv", "_read_tiff"):
        monkeypatch.setattr(image_io, name, lambda *args: pytest.fail("decoded"))
    for file in files:
        if file.name in ("a.npy", "raw.tif"):
            continue  # these stay on disk
        with pytest.raises(InputError, match=r"needs 0.0 GiB of memory and 0.0 GiB are available"):
            read_image(file)


def test_on_disk_needs_room_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all_formats(tmp_path)
    signal = read_image(tmp_path / "zip.tif", on_disk=True)
    assert isinstance(signal.array.base, np.memmap) or isinstance(signal.array, np.memmap)
    monkeypatch.setattr(image_io.shutil, "disk_usage", lambda folder: (0, 0, 100))
    monkeypatch.setattr(image_io.shutil, "disk_usage", lambda folder: type("usage", (), {"free": 100}))
    with pytest.raises(InputError, match="disk space"):
        read_image(tmp_path / "zip.tif", on_disk=True)
