"""Photographs of any kind become the right 8 bits, and what cannot is said in one line."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from common_ns.data import images
from common_ns.errors import InputError


def image(path, size=(8, 6), mode="RGB"):
    Image.new(mode, size).save(path)
    return path


def test_images_of_one_kind_pass(tmp_path):
    files = [image(tmp_path / f"{i}.png") for i in range(3)]
    assert images.check_images(files, [(8, 6)] * 3) is False


def test_images_that_do_not_fit(tmp_path):
    good = image(tmp_path / "good.png")
    with pytest.raises(InputError, match=r"gone\.png: the image does not exist"):
        images.check_images([good, tmp_path / "gone.png"], [(8, 6)] * 2)
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(InputError, match=r"text\.png: the image cannot be read \(not an image\)"):
        images.check_images([text], [(8, 6)])
    with pytest.raises(InputError, match=r"large\.png: the image has 9×6 pixels, its camera 8×6"):
        images.check_images([good, image(tmp_path / "large.png", (9, 6))], [(8, 6)] * 2)
    with pytest.raises(InputError, match=r"alpha\.png: the image has an alpha channel and other images"):
        images.check_images([good, good, image(tmp_path / "alpha.png", mode="RGBA")], [(8, 6)] * 3)
    with pytest.raises(InputError, match=r"deep\.tif: the image has signed values or values of 32 bits"):
        images.check_images([image(tmp_path / "deep.tif", mode="I")], [(8, 6)])
    with pytest.raises(InputError, match="the split has no images"):
        images.check_images([], [])


def test_the_minority_is_named_when_alpha_is_missing(tmp_path):
    files = [image(tmp_path / f"{i}.png", mode="RGBA") for i in range(3)]
    files.append(image(tmp_path / "plain.png"))
    with pytest.raises(InputError, match=r"plain\.png: the image lacks an alpha channel"):
        images.check_images(files, [(8, 6)] * 4)


def test_truncated_image(tmp_path):
    file = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cut\.png: the image cannot be decoded"):
        images.decode_image(file)


@pytest.mark.parametrize(("mode", "channels"), [("L", 3), ("P", 3), ("LA", 4), ("RGB", 3), ("RGBA", 4)])
def test_decoding_expands_gray_and_palette(tmp_path, mode, channels):
    assert images.decode_image(image(tmp_path / "a.png", mode=mode)).shape == (6, 8, channels)


def test_the_pixel_limit_is_lifted_in_every_thread_and_then_restored(tmp_path, monkeypatch):
    files = [image(tmp_path / f"{i}.png", (64, 48)) for i in range(40)]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with ThreadPoolExecutor(8) as pool:
        assert {pixels.shape for pixels in pool.map(images.decode_image, files)} == {(48, 64, 3)}
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(Image.DecompressionBombError):
        Image.open(files[0])
    with images.parsers_open_any_photo(tmp_path), Image.open(files[0]):
        assert images.photo_header(files[0]).size == (64, 48)


def test_a_parser_that_meets_a_bomb_names_it(tmp_path, monkeypatch):
    file = image(tmp_path / "large.png", (64, 48))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    monkeypatch.setattr("common_ns.data.memory.available_memory", lambda: 2**20 // 100)
    monkeypatch.setattr(images, "available_memory", lambda: 2**20 // 100)
    with (
        pytest.raises(InputError, match=r"large\.png: decoding 64×48 pixels needs"),
        images.parsers_open_any_photo(tmp_path),
    ):
        Image.open(file)


def test_alpha_is_given_as_asked_for(tmp_path):
    opaque = image(tmp_path / "opaque.png")
    assert images.decode_image(opaque, alpha=True)[..., 3].min() == 255
    clear = image(tmp_path / "clear.png", mode="RGBA")
    assert images.decode_image(clear, alpha=True).shape == (6, 8, 4)
    with pytest.raises(InputError, match=r"clear\.png: the image has transparent pixels"):
        images.decode_image(clear, alpha=False)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_every_orientation_is_that_of_exif(tmp_path, orientation, suffix):
    """Pillow's own transposition is the reference; without a camera's size, pixels are as stored."""
    stored = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(5, 6) * 8).resize((24, 20), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    file = tmp_path / f"a.{suffix}"
    stored.save(file, exif=exif)
    plain = tmp_path / f"plain.{suffix}"
    stored.save(plain)
    with file.open("rb") as opened, Image.open(opened) as image:  # by its name, Pillow misreads gray TIFFs
        upright = np.asarray(ImageOps.exif_transpose(image))
    pixels = images.decode_image(file, upright.shape[::-1])
    expected = upright if orientation > 4 else np.asarray(Image.open(plain))
    np.testing.assert_array_equal(pixels[..., 0], expected)
    np.testing.assert_array_equal(images.decode_image(file)[..., 0], np.asarray(Image.open(plain)))
