"""Masks are read whatever their kind, and bad ones are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common_ns.data.masks import check_mask_fields, check_mask_sizes, empty_masks_warning, read_mask, valid_pixels
from common_ns.errors import InputError

WHITE = np.zeros((12, 16), dtype=bool)
WHITE[3:9, 4:11] = True
GRAY = WHITE.astype(np.uint8) * 255
COLOR = np.repeat(GRAY[..., None], 3, axis=-1)
OTHER = np.arange(GRAY.size, dtype=np.uint8).reshape(GRAY.shape)


def indexed(colors: list[int], transparency: bytes | None = None) -> Image.Image:
    """White pixels have entry 0 of the palette, the others entry 1."""
    image = Image.fromarray((~WHITE).astype(np.uint8))
    image.putpalette(colors + [0] * (768 - len(colors)))
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def with_alpha(colors: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([colors, alpha]).astype(np.uint8))


IMAGES = {
    "1": lambda: Image.fromarray(WHITE),
    "L": lambda: Image.fromarray(GRAY),
    "0 and 1": lambda: Image.fromarray(WHITE.astype(np.uint8)),
    "0 and 200": lambda: Image.fromarray(WHITE.astype(np.uint8) * 200),
    "RGB": lambda: Image.fromarray(COLOR),
    "red on black": lambda: Image.fromarray(COLOR * np.array([1, 0, 0], np.uint8)),
    "dark red of a label": lambda: Image.fromarray(np.where(COLOR > 0, np.array([128, 0, 0]), 0).astype(np.uint8)),
    "LA": lambda: with_alpha(OTHER, GRAY),
    "RGBA": lambda: with_alpha(np.dstack([OTHER] * 3), GRAY),
    "RGBA, all opaque": lambda: with_alpha(COLOR, np.full_like(GRAY, 255)),
    "RGBA, all of one alpha": lambda: with_alpha(COLOR, np.full_like(GRAY, 90)),
    "LA, all opaque": lambda: with_alpha(GRAY, np.full_like(GRAY, 255)),
    "P": lambda: Image.fromarray(COLOR).convert("P"),
    "P, entry 0 is white": lambda: indexed([255, 255, 255, 0, 0, 0]),
    "P, entry 0 is blue": lambda: indexed([0, 0, 255, 0, 0, 0]),
    "P, transparent around": lambda: indexed([9, 9, 9, 255, 255, 255], bytes([255, 0])),
    "I;16": lambda: Image.fromarray(WHITE.astype(np.uint16) * 65535),
    "I;16 of 8 bits": lambda: Image.fromarray(WHITE.astype(np.uint16) * 255),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_masks_of_any_kind_read_the_same(tmp_path, kind):
    IMAGES[kind]().save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), GRAY)


FILES = {
    "I.tiff": lambda path: Image.fromarray(WHITE.astype(np.int32) * 65535).save(path),
    "F.tiff": lambda path: Image.fromarray(WHITE.astype(np.float32)).save(path),
    "CMYK.tiff": lambda path: Image.fromarray(COLOR).convert("CMYK").save(path),
    "YCbCr.tiff": lambda path: Image.fromarray(COLOR).convert("YCbCr").save(path),
    "LAB.tiff": lambda path: Image.merge("LAB", [Image.fromarray(GRAY)] + [Image.new("L", (16, 12), 128)] * 2).save(
        path
    ),
    "bool.npy": lambda path: np.save(path, WHITE),
    "float.npy": lambda path: np.save(path, WHITE.astype(np.float64)[..., None]),
    "lossless.webp": lambda path: Image.fromarray(COLOR).save(path, lossless=True),
    "animated.gif": lambda path: Image.fromarray(GRAY).save(
        path, save_all=True, append_images=[Image.fromarray(OTHER)]
    ),
    "mask.bmp": lambda path: Image.fromarray(GRAY).save(path),
    "mask.pgm": lambda path: Image.fromarray(GRAY).save(path),
    "mask.tga": lambda path: Image.fromarray(GRAY).save(path),
    "mask.jp2": lambda path: Image.fromarray(GRAY).save(path, irreversible=False),
}


@pytest.mark.parametrize("name", FILES)
def test_masks_in_any_file(tmp_path, name):
    FILES[name](tmp_path / name)
    found = read_mask(tmp_path / name)
    np.testing.assert_allclose(found.astype(int), GRAY.astype(int), atol=1)
    np.testing.assert_array_equal(valid_pixels(tmp_path / name, (16, 12), (16, 12))[..., 0], WHITE)


def test_shades_are_kept_and_those_above_the_middle_count(tmp_path):
    shades = np.array([[0, 1, 127], [128, 200, 255]], dtype=np.uint8)
    Image.fromarray(shades).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), shades)
    assert valid_pixels(tmp_path / "mask.png", (3, 2), (3, 2))[..., 0].tolist() == [[False] * 3, [True] * 3]


def test_what_jpeg_adds_does_not_count(tmp_path):
    white = np.kron(WHITE, np.ones((5, 5), dtype=bool))
    Image.fromarray(white.astype(np.uint8) * 255).save(tmp_path / "mask.jpg", quality=50)
    assert (np.asarray(Image.open(tmp_path / "mask.jpg"))[~white] > 0).sum() > 50
    np.testing.assert_array_equal(valid_pixels(tmp_path / "mask.jpg", (80, 60), (80, 60))[..., 0], white)


def test_sizes(tmp_path):
    file = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 255], [255, 255]], dtype=np.uint8)).resize((8, 8), Image.Resampling.NEAREST).save(
        file
    )
    assert valid_pixels(file, (8, 8), (2, 2))[..., 0].tolist() == [[False, True], [True, True]]
    assert read_mask(file, (1, 1)).tolist() == [[192]]  # the mean
    check_mask_sizes([file], [(8, 8)])
    with pytest.raises(InputError, match=r"mask.png: the mask has 8×8 pixels, its image 4×2"):
        check_mask_sizes([file], [(4, 2)])


def test_the_alpha_of_a_photograph_is_its_mask_even_if_it_is_opaque(tmp_path):
    with_alpha(COLOR, np.full_like(GRAY, 255)).save(tmp_path / "photo.png")
    assert (read_mask(tmp_path / "photo.png", alpha_only=True) == 255).all()


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("m.png", lambda path: path.write_bytes(b"x"), "the mask cannot be read (not an image). Replace it."),
        ("m.png", lambda path: None, "the mask does not exist."),
        ("m.png", lambda path: path.mkdir(), "the mask is a folder."),
        ("m.npy", lambda path: np.save(path, np.array([{}])), "the mask cannot be read (Array can't be memory-mapped"),
        (
            "m.npy",
            lambda path: np.save(path, np.zeros((2, 3, 4))),
            "the mask is an array of float64 of shape (2, 3, 4).",
        ),
        ("m.npy", lambda path: np.save(path, np.full((2, 2), np.nan)), "the mask holds nan."),
        ("m.npy", lambda path: path.write_bytes(b"\x93NUMPY"), "the mask cannot be read ("),
    ],
)
def test_bad_files_are_explained(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(InputError) as error:
        read_mask(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: {message}"), error.value


def test_a_mask_that_is_cut_off_is_explained(tmp_path):
    file = tmp_path / "mask.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(InputError, match=r"mask.png: the mask cannot be read \(.*\). Replace it; it may be cut off"):
        read_mask(file)


def test_masks_of_some_frames_only_are_named(tmp_path):
    frames: list[dict[str, Any]] = [{"file_path": f"{index}.png"} for index in range(9)]
    check_mask_fields(frames, tmp_path)
    frames[3]["mask_path"] = "m.png"
    with pytest.raises(
        InputError, match=r'8 of 9 frames have no mask \("mask_path"\): 0.png, 1.png, 2.png, 4.png, 5.png and 3 others'
    ):
        check_mask_fields(frames, tmp_path)
    for frame in frames:
        frame["mask_path"] = "m.png"
    check_mask_fields(frames, tmp_path)


def test_black_masks_are_named():
    assert empty_masks_warning([Path("a/7.png")], 9) == "1 of 9 masks are black, and their image gives no pixel: 7.png."
