"""What an image's file says beside its pixels is in the file that is decoded from its fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from miner_ns import image_writer
from miner_ns.image_tags import EXIF, GEO_KEYS, GPS, PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, ImageTags, read_tags
from miner_ns.image_writer import write_image

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PIXELS = (np.arange(30 * 40 * 3) % 251).reshape(30, 40, 3).astype(np.uint8)


def exif() -> Image.Exif:
    content = Image.Exif()
    content[271], content[274], content[306] = "Maker", 6, "2020:01:01 00:00:00"
    content.get_ifd(EXIF).update({33434: (1, 250), 36867: "2020:01:01 00:00:00"})
    content.get_ifd(GPS).update({1: "N", 2: (48.0, 8.0, 1.5)})
    return content


def written(path: Path, tags: ImageTags, pixels: np.ndarray = PIXELS) -> Path:
    def read(lower: tuple[int, int], upper: tuple[int, int]) -> np.ndarray:
        return pixels[lower[0] : upper[0], lower[1] : upper[1]]

    return write_image(path, pixels.shape, pixels.dtype, read, tags=tags)


@pytest.mark.parametrize("source", ["a.jpg", "a.png", "a.webp", "a.avif", "a.tif"])
@pytest.mark.parametrize("target", ["b.png", "b.tif", "b big.tif"])
def test_color_profile_and_exif_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str
) -> None:
    if "big" in target:
        monkeypatch.setattr(image_writer, "BIG_TIFF_BYTES", 0)
    first = source.replace("tif", "jpg")  # Pillow writes no tables of EXIF into a TIFF; ours is the source then
    Image.fromarray(PIXELS).save(tmp_path / first, exif=exif(), icc_profile=PROFILE)
    if first != source:
        written(tmp_path / source, read_tags(tmp_path / first))
    path = written(tmp_path / target, read_tags(tmp_path / source))
    with path.open("rb") as file, Image.open(file) as image:
        assert image.info["icc_profile"] == PROFILE
        found = image.getexif()
        assert (found[271], found[274], found[306]) == ("Maker", 6, "2020:01:01 00:00:00")
        assert found.get_ifd(EXIF)[33434] == (1, 250) or found.get_ifd(EXIF)[33434] == 1 / 250
        assert found.get_ifd(GPS) == {1: "N", 2: (48.0, 8.0, 1.5)}
    if target.endswith(".tif"):
        with tifffile.TiffFile(path) as file:
            assert len(file.pages) == 1 and file.is_bigtiff is ("big" in target)
            np.testing.assert_array_equal(file.asarray(), PIXELS)


def test_a_color_profile_of_other_colors_is_left_out(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=PROFILE)
    path = written(tmp_path / "b.png", read_tags(tmp_path / "a.png"), PIXELS[..., :1])
    assert "icc_profile" not in Image.open(path).info


def test_damaged_exif_is_left_out(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x87")
    assert read_tags(tmp_path / "a.jpg").exif is None or written(tmp_path / "b.tif", read_tags(tmp_path / "a.jpg"))


def place(tags: ImageTags, column: float, row: float) -> tuple[float, float]:
    """Where on the earth a position in the image is."""
    if TRANSFORMATION in tags.geo:
        x, y, *_ = np.array(tags.geo[TRANSFORMATION][3]).reshape(4, 4) @ [column, row, 0.0, 1.0]
        return x, y
    i, j, _, x, y, _ = tags.geo[TIE_POINTS][3][:6]
    across, down, _ = tags.geo[PIXEL_SCALE][3]
    return x + (column - i) * across, y - (row - j) * down


@pytest.mark.parametrize("raster_type", [1, 2], ids=["area", "point"])
@pytest.mark.parametrize("kind", ["scale", "matrix"])
def test_every_level_lies_at_the_same_place_of_the_earth(tmp_path: Path, kind: str, raster_type: int) -> None:
    keys = (1, 1, 0, 2, 1024, 0, 1, 1, 1025, 0, 1, raster_type)
    geo = [(GEO_KEYS, "H", len(keys), keys, True), (42113, "s", 0, "-9999", True)]
    if kind == "scale":
        geo += [(PIXEL_SCALE, "d", 3, (2.0, 3.0, 0.0), True)]
        geo += [(TIE_POINTS, "d", 6, (5.0, 7.0, 0.0, 500000.0, 4600000.0, 0.0), True)]
    else:
        matrix = (2.0, 0.5, 0.0, 500000.0, 0.25, -3.0, 0.0, 4600000.0, *[0.0] * 7, 1.0)
        geo += [(TRANSFORMATION, "d", 16, matrix, True)]
    tifffile.imwrite(tmp_path / "map.tif", PIXELS[..., 0], extratags=geo, metadata=None)
    original = read_tags(tmp_path / "map.tif")
    small = np.ascontiguousarray(PIXELS[::4, ::4, :1])
    level = read_tags(written(tmp_path / "level.tif", original.at_level(2), small))
    assert level.geo[42113][3] == "-9999" and level.geo[GEO_KEYS] == original.geo[GEO_KEYS]
    # The corner between the pixels (4, 8) of the image, which are the pixels (1, 2) of the level; positions of a raster
    # of points count from the center of the first pixel.
    shift = 0.5 if raster_type == 2 else 0.0
    np.testing.assert_allclose(place(level, 2 - shift, 1 - shift), place(original, 8 - shift, 4 - shift))
    np.testing.assert_allclose(place(level, 9 - shift, 3 - shift), place(original, 36 - shift, 12 - shift))
    assert original.at_level(0) == original


def test_what_has_no_tags(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    assert read_tags(tmp_path / "a.npy") == ImageTags()
