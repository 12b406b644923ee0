"""What is written tile by tile is what other programs read, in bounded memory, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from common_ns.errors import InputError
from miner_ns import image_writer
from miner_ns.image_io import read_image
from miner_ns.image_writer import write_image
from miner_ns.signal import Signal

RNG = np.random.default_rng(0)
SHAPE = (45, 70)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_writer, "TILE", 16)


def some_pixels(channels: int, dtype: str) -> np.ndarray:
    """A ramp with noise: every filter of PNG is the best for some line."""
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    noise = RNG.random((*SHAPE, channels)) * (y % 5 == 0)[..., None]
    values = (((x + 2 * y) % 64) / 64)[..., None] * 0.9 + 0.1 * noise
    return values.astype(dtype) if np.dtype(dtype).kind == "f" else (values * np.iinfo(dtype).max).astype(dtype)


def write(path: Path, pixels: np.ndarray) -> Path:
    signal = Signal(pixels, ndim=2)
    return write_image(path, (*signal.spatial_shape, signal.channels), signal.dtype, signal.read_stored)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int32"])
@pytest.mark.parametrize("suffix", [".tif", ".png", ".npy"])
def test_what_is_written_is_read_again(tmp_path: Path, suffix: str, dtype: str, channels: int) -> None:
    pixels = some_pixels(channels, dtype)
    file = tmp_path / "new" / f"image{suffix}"
    if suffix == ".png" and dtype not in ("uint8", "uint16"):
        with pytest.raises(InputError, match=f"PNG does not store values of type {dtype}"):
            write(file, pixels)
        return
    assert write(file, pixels) == file
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    # Other programs' reading.
    if suffix == ".tif":
        np.testing.assert_array_equal(tifffile.imread(file).reshape(pixels.shape), pixels)
    elif suffix == ".png" and dtype == "uint8":
        np.testing.assert_array_equal(np.asarray(Image.open(file)).reshape(pixels.shape), pixels)
    elif suffix == ".png" and channels != 2:
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
        read = cv2.imread(str(file), cv2.IMREAD_UNCHANGED).reshape(pixels.shape)
        np.testing.assert_array_equal(read[..., order], pixels)
    np.testing.assert_array_equal(read_image(file).array, pixels)


def test_every_filter_is_used_where_it_is_best() -> None:
    lines = np.zeros((4, 256), dtype=np.uint8)
    lines[0, ::7] = 20  # single pixels: none
    lines[1] = np.arange(256)  # a ramp: the pixel to the left
    lines[2] = RNG.integers(0, 256, 256)  # equals the line above
    above = np.zeros_like(lines)
    above[2] = lines[2]
    # An edge that moves by a pixel a line: the pixel above fits left of it, on it that to the left (Paeth finds out).
    above[3, 100:] = 40 + np.arange(156)
    lines[3, 1:] = above[3, :-1]
    filtered = image_writer._filter_lines(lines, above, step=1)
    assert filtered.shape == (4, 257) and filtered[:, 0].tolist() == [0, 1, 2, 4]
    np.testing.assert_array_equal(filtered[0, 1:], lines[0])
    assert filtered[1, 2:].tolist() == [1] * 255 and not filtered[2, 1:].any()


def test_png_with_strips_of_a_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_writer, "STRIP_BYTES", 1000)
    pixels = some_pixels(3, "uint16")
    write(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").array, pixels)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".npy"])
def test_pixels_are_asked_for_once_and_by_tiles(tmp_path: Path, suffix: str) -> None:
    asked = np.zeros((45, 70), dtype=int)

    def read_box(lower: tuple[int, int], upper: tuple[int, int]) -> np.ndarray:
        asked[lower[0] : upper[0], lower[1] : upper[1]] += 1
        assert upper[0] - lower[0] <= 16 and upper[1] - lower[1] <= 16
        return np.zeros((upper[0] - lower[0], upper[1] - lower[1], 1), dtype=np.uint8)

    write_image(tmp_path / f"a{suffix}", (45, 70, 1), np.uint8, read_box)
    assert (asked == 1).all()


def test_bits_become_black_and_white(tmp_path: Path) -> None:
    write(tmp_path / "a.png", RNG.random(SHAPE) < 0.5)
    assert set(np.unique(np.asarray(Image.open(tmp_path / "a.png")))) == {0, 255}


def test_large_tiffs_have_long_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = some_pixels(3, "uint8")
    write(tmp_path / "a.tif", pixels)
    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II*\0"
    monkeypatch.setattr(image_writer, "BIG_TIFF_BYTES", 1000)
    write(tmp_path / "a.tif", pixels)
    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II+\0"
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, pixels)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".npy"])
def test_an_interrupted_file_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_text("before")

    def read_box(lower: tuple[int, int], upper: tuple[int, int]) -> np.ndarray:
        if lower[0] > 0:
            raise KeyboardInterrupt
        return np.zeros((upper[0] - lower[0], upper[1] - lower[1], 3), dtype=np.uint8)

    with pytest.raises(KeyboardInterrupt):
        write_image(file, (45, 70, 3), np.uint8, read_box)
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "file" / "a.png", some_pixels(1, "uint8"))
    for name in ("a.jpg", "a"):
        with pytest.raises(InputError, match=r"Use one of .tif, .tiff, .png, .npy"):
            write(tmp_path / name, some_pixels(1, "uint8"))
