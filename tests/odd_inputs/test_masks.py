"""Masks of all kinds in all families; which images, masks and cameras belong together; and what masks mean."""

from __future__ import annotations

import copy
import functools
import io
import json
import shutil
import string
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.configs.method_configs import all_methods
from PIL import Image

from hashnffb_sdf_ns.dataparser import IdrDataParserConfig
from hashnffb_sdf_ns.dataset import MaskedDataset
from tests.odd_inputs.kit import (
    DENIED,
    Row,
    assert_ends_as_it_should,
    datamanager,
    dataparser_config,
    edit_json,
    fifo,
    ids,
    link_loop,
    lock,
)

RADIANCE, DEPTH = ("mip-nerf-360-small", "nerfstudio-data"), ("depth-hash-small", "rgbd-data")
SURFACE = ("hash-neus-small", "nerfstudio-data")
WHITE = np.zeros((40, 40), dtype=bool)
WHITE[8:30, 12:28] = True
GRAY = WHITE.astype(np.uint8) * 255
COLOR = np.repeat(GRAY[..., None], 3, axis=-1)
COUNT = 12 * int(WHITE.sum())
"""Valid pixels of the training views."""

Save = Callable[[Path], Any]


# ---------------------------------------------------------------------------------------------------------------------
# Valid pixels of any kind of file


def masked(save: Save, suffix: str = ".png", only: int | None = None) -> Callable[[Path], None]:
    """A `Row.make` that gives all frames of the nerfstudio layout a mask, and spoils one or all of them.

    Args:
        save: writes a mask.
        suffix: of its file.
        only: number of the training view whose mask is written so; the others are plain. None: all.
    """

    def make(folder: Path) -> None:
        (folder / "masks").mkdir()

        def add(content: dict) -> None:
            for frame in content["frames"]:
                stem = Path(frame["file_path"]).stem
                odd = only is None or stem == f"train_{only:04d}"
                file = folder / "masks" / f"{stem}{suffix if odd else '.png'}"
                (save if odd else Image.fromarray(GRAY).save)(file)
                frame["mask_path"] = f"masks/{file.name}"

        edit_json(folder / "transforms.json", add)

    return make


def image(picture: Callable[[], Image.Image], **options: Any) -> Save:
    return lambda file: picture().save(file, **options)


def with_alpha(colors: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([colors, alpha]).astype(np.uint8))


def indexed(colors: list[int], transparency: bytes | None = None) -> Image.Image:
    """White pixels have entry 0 of the palette, the others entry 1."""
    picture = Image.fromarray((~WHITE).astype(np.uint8))
    picture.putpalette(colors + [0] * (768 - len(colors)))
    if transparency is not None:
        picture.info["transparency"] = transparency
    return picture


def soft() -> Image.Image:
    """With shades about the edge, of which those below the middle do not count."""
    shades = GRAY.copy()
    shades[7, 12:28], shades[30, 12:28], shades[8, 12:28] = 100, 127, 128
    return Image.fromarray(shades)


OPAQUE, NOISE = np.full_like(GRAY, 255), np.random.default_rng(0).integers(0, 255, GRAY.shape).astype(np.uint8)
KINDS: dict[str, tuple[Save, str]] = {
    "L": (image(lambda: Image.fromarray(GRAY)), ".png"),
    "1": (image(lambda: Image.fromarray(WHITE)), ".png"),
    "0 and 1": (image(lambda: Image.fromarray(WHITE.astype(np.uint8))), ".png"),
    "soft edges": (image(soft), ".png"),
    "RGB": (image(lambda: Image.fromarray(COLOR)), ".png"),
    "red on black": (image(lambda: Image.fromarray(COLOR * np.array([1, 0, 0], np.uint8))), ".png"),
    "RGBA": (image(lambda: with_alpha(np.dstack([NOISE] * 3), GRAY)), ".png"),
    "RGBA, opaque": (image(lambda: with_alpha(COLOR, OPAQUE)), ".png"),
    "LA": (image(lambda: with_alpha(NOISE, GRAY)), ".png"),
    "LA, opaque": (image(lambda: with_alpha(GRAY, OPAQUE)), ".png"),
    "palette": (image(lambda: Image.fromarray(COLOR).convert("P")), ".png"),
    "palette whose first entry is white": (image(lambda: indexed([255, 255, 255, 0, 0, 0])), ".png"),
    "palette with transparency": (image(lambda: indexed([9, 9, 9, 255, 255, 255], bytes([255, 0]))), ".png"),
    "16 bits": (image(lambda: Image.fromarray(WHITE.astype(np.uint16) * 65535)), ".png"),
    "16 bits of which 8 are used": (image(lambda: Image.fromarray(WHITE.astype(np.uint16) * 255)), ".png"),
    "32 bits": (image(lambda: Image.fromarray(WHITE.astype(np.int32) * 65535)), ".tiff"),
    "floating point": (image(lambda: Image.fromarray(WHITE.astype(np.float32))), ".tiff"),
    "JPEG": (image(lambda: Image.fromarray(GRAY), quality=90), ".jpg"),
    "JPEG under the name of a PNG": (image(lambda: Image.fromarray(GRAY), format="JPEG", quality=90), ".png"),
    "CMYK JPEG": (image(lambda: Image.fromarray(COLOR).convert("CMYK"), quality=95), ".jpg"),
    "YCbCr TIFF": (image(lambda: Image.fromarray(COLOR).convert("YCbCr")), ".tiff"),
    "GIF": (image(lambda: Image.fromarray(GRAY)), ".gif"),
    "lossless WebP": (image(lambda: Image.fromarray(COLOR), lossless=True), ".webp"),
    "BMP": (image(lambda: Image.fromarray(GRAY)), ".bmp"),
    "PGM": (image(lambda: Image.fromarray(GRAY)), ".pgm"),
    "npy of truth values": (lambda file: np.save(file, WHITE), ".npy"),
    "npy of floats": (lambda file: np.save(file, WHITE.astype(np.float64)[..., None]), ".npy"),
}
OTHER_FAMILIES = ("RGB", "RGBA", "LA", "palette whose first entry is white", "16 bits", "JPEG", "0 and 1")


def draws_the_valid_pixels(manager: Any, count: int = COUNT) -> None:
    assert len(manager.train_pixel_sampler.store) == count
    _, row, column = manager.first_batch[1]["indices"].T.numpy()
    assert WHITE[row, column].all()
    image_mask = manager.eval_dataset[0]["mask"]
    assert image_mask.dtype == torch.bool and np.array_equal(image_mask[..., 0].numpy(), WHITE)
    assert manager.train_dataset.metadata.get("has_masks", False) is False


def draws_half(manager: Any) -> None:
    assert len(manager.train_pixel_sampler.store) == 12 * int(WHITE[1::2, 1::2].sum())
    assert manager.eval_dataset[0]["mask"].shape == (20, 20, 1)


def without_mask(value: Any = KeyError) -> Callable[[Path], None]:
    """The frame of one training view has no mask, or this value in its place."""

    def make(folder: Path) -> None:
        masked(image(lambda: Image.fromarray(GRAY)))(folder)

        def change(content: dict) -> None:
            frame = next(frame for frame in content["frames"] if "train_0003" in frame["file_path"])
            if value is KeyError:
                del frame["mask_path"]
            else:
                frame["mask_path"] = value

        edit_json(folder / "transforms.json", change)

    return make


def smaller_copies(folder: Path) -> None:
    """Images and masks at half of the resolution, where nerfstudio looks for them."""
    masked(image(lambda: Image.fromarray(GRAY)))(folder)
    for name in ("images", "masks"):
        (folder / f"{name}_2").mkdir()
        for file in (folder / name).iterdir():
            Image.open(file).resize((20, 20), Image.Resampling.NEAREST).save(folder / f"{name}_2" / file.name)


def cut_off(file: Path) -> None:
    Image.fromarray(NOISE).save(file)
    file.write_bytes(file.read_bytes()[:900])


def image_of(picture: Image.Image) -> Save:
    return image(lambda: picture)


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "of another size": (
        masked(image_of(Image.fromarray(GRAY[:20])), only=3),
        r"masks/train_0003.png: the mask has 40×20 pixels, its image 40×40. Give masks the size of their images",
    ),
    "npy of another size": (
        masked(lambda file: np.save(file, WHITE[:20]), ".npy", only=3),
        r"masks/train_0003.npy: the mask has 40×20 pixels, its image 40×40",
    ),
    "all black": (
        masked(image_of(Image.fromarray(0 * GRAY))),
        r"DATA: the masks leave no pixel to train on. Mark valid pixels white",
    ),
    "missing": (masked(lambda file: None, only=3), r"masks/train_0003.png: the mask does not exist"),
    "text": (
        masked(lambda file: file.write_text("x"), only=3),
        r"masks/train_0003.png: the mask cannot be read \(not an image\)",
    ),
    "an empty file": (
        masked(lambda file: file.write_bytes(b""), only=3),
        r"masks/train_0003.png: the mask cannot be read \(the file is empty\)",
    ),
    "cut off": (
        masked(cut_off, only=3),
        r"masks/train_0003.png: the mask cannot be read \(.*\). Replace it; it may be",
    ),
    "a folder": (masked(lambda file: file.mkdir(), only=3), r"masks/train_0003.png: the mask is a folder"),
    "a named pipe": (masked(fifo, only=3), r"masks/train_0003.png: the mask is a named pipe"),
    "locked": (
        masked(lambda file: file.touch() or lock(file), only=3),
        rf"masks/train_0003.png: the mask {DENIED}read it",
    ),
    "in a locked folder": (
        lambda folder: masked(image_of(Image.fromarray(GRAY)))(folder) or lock(folder / "masks"),
        rf"masks/train_00..\.png: the mask {DENIED}enter the folder DATA/masks ",
    ),
    "a loop of links": (masked(link_loop, only=3), r"masks/train_0003.png: the mask cannot be opened"),
    "npy of three dimensions": (
        masked(lambda file: np.save(file, COLOR), ".npy", only=3),
        r"masks/train_0003.npy: the mask cannot be read|masks/train_0003.npy: the mask is an array",
    ),
    "npy of objects": (
        masked(lambda file: np.save(file, np.array([{}])), ".npy", only=3),
        r"masks/train_0003.npy: the mask cannot be read",
    ),
    "not a number": (
        masked(lambda file: np.save(file, np.where(WHITE, np.nan, 0.0)), ".npy", only=3),
        r"masks/train_0003.npy: the mask holds nan",
    ),
    "of some frames only": (without_mask(), r'1 of 17 frames have no mask \("mask_path"\): images/train_0003.png'),
    "null in one frame": (without_mask(None), r'1 of 17 frames have no mask \("mask_path"\): images/train_0003.png'),
    "a number": (without_mask(7), r'transforms.json: the field "mask_path" of frame 3 is 7'),
    "without a name": (without_mask(""), r'transforms.json: the field "mask_path" of frame 3 is \'\''),
}
IN_OTHER_FAMILIES = ("of another size", "missing", "a named pipe", "of some frames only", "text")

FAMILY_ROWS: list[tuple[tuple[str, str], Row]] = [
    *((RADIANCE, Row(f"{name}", masked(*kind), right=draws_the_valid_pixels)) for name, kind in KINDS.items()),
    *((RADIANCE, Row(name, make, refused=line)) for name, (make, line) in BAD.items()),
    *(
        (family, Row(f"{name} [{family[1]} of {family[0]}]", masked(*KINDS[name]), right=draws_the_valid_pixels))
        for name in OTHER_FAMILIES
        for family in (DEPTH, SURFACE)
    ),
    *(
        (family, Row(f"{name} [{family[1]} of {family[0]}]", BAD[name][0], refused=BAD[name][1]))
        for name in IN_OTHER_FAMILIES
        for family in (DEPTH, SURFACE)
    ),
    (
        RADIANCE,
        Row(
            "one black",
            masked(image_of(Image.fromarray(0 * GRAY)), only=3),
            right=lambda manager: draws_the_valid_pixels(manager, COUNT - int(WHITE.sum())),
            warns=r"Masks: 1 of 12 masks are black, and their image gives no pixel: train_0003.png",
        ),
    ),
    (
        RADIANCE,
        Row(
            "at half of the resolution",
            masked(image_of(Image.fromarray(GRAY))),
            right=draws_half,
            options={"camera_res_scale_factor": 0.5},
        ),
    ),
    (RADIANCE, Row("smaller copies", smaller_copies, right=draws_half, options={"downscale_factor": 2})),
    (
        ("mip-nerf-360-small", "instant-ngp-data"),
        Row("of some frames only [instant-ngp-data]", without_mask(), refused=r"1 of 17 frames have no mask"),
    ),
]


@pytest.mark.parametrize(("family", "row"), FAMILY_ROWS, ids=ids([row for _, row in FAMILY_ROWS]))
def test_masks_of_valid_pixels(family, row, base_scene, tmp_path, capsys):
    folder = base_scene.copy("nerfstudio", tmp_path)
    row.make(folder)
    assert_ends_as_it_should(
        row, lambda: datamanager(family[0], folder, family[1], **row.options), capsys, folder=folder
    )


# ---------------------------------------------------------------------------------------------------------------------
# Which files belong together, and what else is odd in IDR's layout


def files_of(folder: Path, kind: str) -> list[Path]:
    return sorted((folder / kind).iterdir())


def in_order(*steps: Callable[[Path], Any]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for step in steps:
            step(folder)

    return make


def no_splits(folder: Path) -> None:
    (folder / "splits.json").unlink()


def renamed(kind: str, name: Callable[[int], str], last_first: bool = False) -> Callable[[Path], None]:
    """Rename all images or masks, given their number."""

    def make(folder: Path) -> None:
        files = files_of(folder, kind)
        for file in reversed(files) if last_first else files:
            file.rename(file.with_name(name(int(file.stem)) + file.suffix))

    return make


def removed(*names: str) -> Callable[[Path], None]:
    return in_order(*(lambda folder, name=name: (folder / name).unlink() for name in names))


def cameras(change: Callable[[dict[str, np.ndarray]], dict | None]) -> Callable[[Path], None]:
    """Edit, or replace, the arrays of the file of cameras."""

    def make(folder: Path) -> None:
        with np.load(folder / "cameras_sphere.npz") as content:
            arrays = dict(content)
        np.savez(folder / "cameras_sphere.npz", **(change(arrays) or arrays))

    return make


def shifted_cameras(arrays: dict[str, np.ndarray]) -> dict:
    """Cameras that are counted from 1."""
    return {f"{name[:10]}{int(name[10:]) + 1}": value for name, value in arrays.items()}


def masks_saved(save: Callable[[Image.Image, Path], Any]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for file in files_of(folder, "mask"):
            picture = Image.open(file).convert("L")
            file.unlink()
            save(picture, file)

    return make


def bomb(name: str) -> Callable[[Path], None]:
    """An array of 28 GB, of which the file holds 4 kB and the zip file's directory says 4 MB."""

    def make(folder: Path) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (60000, 60000)})
        with zipfile.ZipFile(folder / "cameras_sphere.npz", "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.npy", header.getvalue() + bytes(1 << 22))

    return make


def replaced(number: int, value: Any) -> Callable[[Path], None]:
    return cameras(lambda arrays: {**arrays, f"world_mat_{number}": value})


def splits(content: Any) -> Callable[[Path], Any]:
    return lambda folder: (folder / "splits.json").write_text(json.dumps(content))


def in_subfolder(folder: Path) -> None:
    (folder / "image" / "cam0").mkdir()
    for file in files_of(folder, "image"):
        if file.is_file():
            file.rename(folder / "image" / "cam0" / file.name)


def strangers(folder: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "._000001.png", "readme.txt"):
        for kind in ("image", "mask"):
            (folder / kind / name).write_bytes(b"x")


@functools.cache
def true_masks(folder: Path) -> list[bytes]:
    """The masks of all views of the base scene, by number."""
    return [np.asarray(Image.open(file).convert("L")).tobytes() for file in files_of(folder / "idr", "mask")]


def rays_agree(numbers: list[int] | None = None) -> Callable[[Any], None]:
    """Every image has its mask and its camera, as the base scene has them.

    Args:
        numbers: of the views, in order; None: all of them.
    """

    def right(found: tuple[Any, Path]) -> None:
        outputs, written = found
        expected = IdrDataParserConfig(data=written / "idr", eval_mode="all").setup().get_dataparser_outputs("train")
        views = list(range(17)) if numbers is None else numbers
        assert len(outputs.image_filenames) == len(views)
        poses = expected.cameras.camera_to_worlds[views]
        assert torch.allclose(outputs.cameras.camera_to_worlds, poses, atol=1e-5)
        for view, image_file, mask_file in zip(
            views, outputs.image_filenames, outputs.metadata["object_mask_filenames"]
        ):
            assert np.array_equal(np.asarray(Image.open(mask_file)) > 127, _mask(written, view))
            original = Image.open(written / "idr" / "image" / f"{view:06d}.png").convert("RGB")
            difference = np.asarray(Image.open(image_file).convert("RGB")).astype(int) - np.asarray(original)
            assert np.abs(difference).mean() < 4.0

    return right


def _mask(written: Path, view: int) -> np.ndarray:
    return np.frombuffer(true_masks(written)[view], dtype=np.uint8).reshape(40, 40) > 127


def shapes_agree(outputs: Any, written: Path) -> None:
    """The masks of all views, whatever kind of file they are in, by the reader of the surfaces' data set."""
    dataset = MaskedDataset(outputs)
    for view in range(17):
        mask = dataset.object_mask(view)
        assert mask is not None and np.array_equal(mask[..., 0] > 127, _mask(written, view))


def alpha_for_masks(change: Callable[[Image.Image], Image.Image]) -> Callable[[Path], None]:
    """Put the masks, changed, into the images as their alpha."""

    def make(folder: Path) -> None:
        for file, mask in zip(files_of(folder, "image"), files_of(folder, "mask")):
            picture = Image.open(file).convert("RGB")
            picture.putalpha(change(Image.open(mask).convert("L")))
            picture.save(file)
        shutil.rmtree(folder / "mask")

    return make


def no_sphere(folder: Path) -> None:
    cameras(lambda arrays: {name: matrix for name, matrix in arrays.items() if name[0] == "w"})(folder)


def alpha_agrees(outputs: Any, written: Path) -> None:
    mask = MaskedDataset(outputs).object_mask(5)
    assert mask is not None and np.array_equal(mask[..., 0] > 127, _mask(written, 5))


BLACK = Image.new("L", (40, 40))
LETTERS = string.ascii_lowercase
ALL = rays_agree()
IDR_ROWS = [
    Row("plain", no_splits, right=ALL, warns=r"Masks are paired with images by number: 000000.png with 000.png."),
    Row("equal names", in_order(no_splits, renamed("mask", lambda n: f"{n:06d}")), right=ALL),
    Row("numbers without zeros", in_order(no_splits, renamed("image", str), renamed("mask", str)), right=ALL),
    Row(
        "a constant number at the end",
        in_order(no_splits, renamed("image", lambda n: f"i{n}_256"), renamed("mask", lambda n: f"m_{n:04d}_512")),
        right=ALL,
        warns=r"by number: i0_256.png with m_0000_512.png",
    ),
    Row("a word at the end", in_order(no_splits, renamed("mask", lambda n: f"view_{n}_mask")), right=ALL),
    Row(
        "a time beside the number",
        in_order(no_splits, renamed("image", lambda n: f"{n:04d}_{170000 + 33 * n}")),
        right=ALL,
    ),
    Row(
        "the image's whole name, as COLMAP has it",
        in_order(no_splits, renamed("mask", lambda n: f"{n:06d}.png")),
        right=ALL,
    ),
    Row(
        "two cameras' numbers",
        in_order(
            no_splits,
            renamed("image", lambda n: f"{n:02d}_c{n % 2}_{n // 2}"),
            renamed("mask", lambda n: f"m_{n % 2}_{n // 2}_{n:02d}"),
        ),
        right=ALL,
    ),
    Row(
        "more masks than images",
        in_order(no_splits, removed("image/000003.png")),
        right=rays_agree([0, 1, 2, *range(4, 17)]),
    ),
    Row(
        "one image and its mask missing",
        in_order(no_splits, removed("image/000003.png", "mask/003.png")),
        right=rays_agree([0, 1, 2, *range(4, 17)]),
    ),
    Row(
        "the first image and the last mask missing",
        in_order(no_splits, removed("image/000000.png", "mask/016.png")),
        refused=r"DATA/mask: masks belong to the images of their number, .* and 000016.png has none. Give it a mask",
    ),
    Row(
        "one image and another mask missing",
        in_order(no_splits, removed("image/000003.png", "mask/002.png")),
        refused=r"numbers of masks and images disagree, .* \(000002.png has no mask of its number, 003.png no image\)",
    ),
    Row(
        "masks counted from 1",
        in_order(no_splits, renamed("mask", lambda n: f"{n + 1:03d}", last_first=True)),
        right=ALL,
        warns=r"Masks are paired with images in sorted order: 000000.png with 001.png",
    ),
    Row(
        "cameras counted from 1",
        in_order(no_splits, cameras(shifted_cameras)),
        right=ALL,
        warns=r"Cameras are paired with images in sorted order: 000000.png with world_mat_1",
    ),
    Row(
        "cameras counted from 1, no masks",
        in_order(no_splits, cameras(shifted_cameras), lambda folder: shutil.rmtree(folder / "mask")),
        refused=r"cameras_sphere.npz: the numbers of cameras .* disagree, .* \(000000.png has no camera of its number",
    ),
    Row(
        "numbers of a photo camera",
        in_order(no_splits, renamed("image", lambda n: f"IMG_{4711 + n}")),
        right=ALL,
        warns=r"Masks are paired with images in sorted order: IMG_4711.png with 000.png|in sorted order: IMG_4711",
    ),
    Row("names without numbers", in_order(no_splits, renamed("image", lambda n: LETTERS[n])), right=ALL),
    Row(
        "a mask missing",
        removed("mask/003.png"),
        refused=r"DATA/mask: there are 16 masks for 17 images; 000003.png has none",
    ),
    Row(
        "no mask in the folder",
        lambda folder: [file.unlink() for file in files_of(folder, "mask")],
        refused=r"DATA/mask: there are 0 masks for 17 images",
    ),
    Row(
        "a camera missing",
        cameras(lambda a: {n: m for n, m in a.items() if not n.endswith("_3")}),
        refused=r"there are 16 cameras \(world_mat\) for 17 images; 000003.png has none of its number",
    ),
    Row(
        "masks of a labeling tool",
        in_order(no_splits, masks_saved(lambda m, file: Image.merge("RGB", [m, BLACK, BLACK]).save(file))),
        right=lambda found: shapes_agree(found[0], found[1]),
    ),
    Row(
        "a mask of another size",
        lambda folder: Image.fromarray(GRAY[:20]).save(folder / "mask" / "003.png"),
        refused=r"mask/003.png: the mask has 40×20 pixels, its image 40×40",
    ),
    Row(
        "a mask that is text",
        lambda folder: (folder / "mask" / "003.png").write_text("x"),
        refused=r"mask/003.png: the mask cannot be read \(not an image\)",
    ),
    Row(
        "a mask that is a named pipe",
        lambda folder: fifo(folder / "mask" / "003.png"),
        refused=r"mask/003.png: the mask is a named pipe",
    ),
    Row("a locked mask", lambda folder: lock(folder / "mask/003.png"), refused=rf"003.png: the mask {DENIED}read it"),
    Row("a locked image", lambda f: lock(f / "image/000003.png"), refused=rf"3.png: the image {DENIED}read it"),
    Row("locked cameras", lambda f: lock(f / "cameras_sphere.npz"), refused=rf"e.npz: the file {DENIED}read it"),
    Row("locked splits", lambda f: lock(f / "splits.json"), refused=rf"splits.json: the file {DENIED}read it"),
    Row("a locked folder", lambda f: lock(f / "mask"), refused=rf"DATA/mask: the folder {DENIED}read it"),
    Row(
        "a folder with the name of a mask",
        in_order(no_splits, lambda folder: [(folder / kind / "x.png").mkdir() for kind in ("image", "mask")]),
        right=ALL,
    ),
    Row(
        "a superscript in a name",
        in_order(no_splits, *(renamed(kind, lambda n: f"²{n}") for kind in ("image", "mask"))),
        right=ALL,
    ),
    Row(
        "alpha instead of masks",
        in_order(no_splits, no_sphere, alpha_for_masks(lambda mask: mask)),
        right=lambda found: alpha_agrees(*found),
        warns="The unit sphere is found from the masks",
    ),
    Row("hidden files and others", in_order(no_splits, strangers), right=ALL),
    Row(
        "images in a subfolder", in_subfolder, refused=r"DATA/image: the folder holds no image, its subfolder cam0 does"
    ),
    Row(
        "world_mat of Python objects",
        replaced(3, np.array({"x": 1}, dtype=object)),
        refused=r"cameras_sphere.npz: world_mat_3 is an array of Python objects",
    ),
    Row(
        "world_mat of text",
        replaced(3, np.full((4, 4), "x")),
        refused=r"world_mat_3 is an array of <U1 of shape \(4, 4\)",
    ),
    Row(
        "world_mat beyond all cameras",
        cameras(lambda a: {**a, "world_mat_3": np.sign(a["world_mat_3"]) * 1e308}),
        refused=r"cameras_sphere.npz: world_mat_3 holds -?1e\+308",
    ),
    Row("world_mat of infinity", replaced(3, np.full((4, 4), np.inf)), refused=r"world_mat_3 holds inf"),
    Row(
        "world_mat times −1",
        in_order(no_splits, cameras(lambda a: {n: -m if n[0] == "w" else m for n, m in a.items()})),
        right=ALL,
    ),
    Row(
        "inverse matrices as well",
        in_order(no_splits, cameras(lambda a: {**a, **{n.replace("mat_", "mat_inv_"): m for n, m in a.items()}})),
        right=ALL,
    ),
    Row(
        "a bomb for a camera",
        in_order(cameras(lambda a: {n: m for n, m in a.items() if n != "world_mat_3"}), bomb("world_mat_3")),
        refused=r"cameras_sphere.npz: world_mat_3 takes [\d,]+ bytes, and is no 4×4 matrix",
    ),
    Row("a bomb beside the cameras", in_order(no_splits, bomb("images")), right=ALL),
    Row(
        "a camera twice",
        cameras(lambda a: {**a, "world_mat_03": a["world_mat_3"]}),
        refused=r"world_mat_3 is there twice",
    ),
    Row(
        "names of another program",
        cameras(lambda a: {n.replace("world_mat", "cam"): m for n, m in a.items()}),
        refused=r"cameras_sphere.npz: there is no world_mat_0; the file holds cam_0",
    ),
    Row(
        "cameras are text",
        lambda folder: (folder / "cameras_sphere.npz").write_text("x"),
        refused=r"cameras_sphere.npz: cannot be read as an .npz file \(BadZipFile\)",
    ),
    Row(
        "cameras are a named pipe",
        lambda folder: fifo(folder / "cameras_sphere.npz"),
        refused=r"cameras_sphere.npz: the file is a named pipe",
    ),
    Row(
        "splits are text", splits({"train": "all", "test": 5}), refused=r'splits.json: "train" is "all". Give it a list'
    ),
    Row("splits are a number", splits({"train": ["000000.png"], "test": 5}), refused=r'splits.json: "test" is 5'),
    Row("splits of lists", splits({"train": [["a"]], "test": [None]}), refused=r'splits.json: "train" lists \["a"\]'),
    Row("splits of null", splits({"train": ["000000.png"], "test": [None]}), refused=r'splits.json: "test" lists null'),
    Row(
        "splits of a lost file",
        splits({"train": ["9.png"]}),
        refused=r"splits.json: it lists 9.png, which is not there",
    ),
    Row(
        "splits without val",
        splits({"train": [f"{n:06d}.png" for n in range(5)], "test": ["000005.png"]}),
        right=rays_agree([0, 1, 2, 3, 4]),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("row", IDR_ROWS, ids=ids(IDR_ROWS))
def test_files_that_belong_together(row, base_scene, tmp_path, capsys):
    folder = base_scene.copy("idr", tmp_path)
    row.make(folder)
    mode = "auto" if (folder / "splits.json").exists() else "all"
    parser = IdrDataParserConfig(data=folder, eval_mode=mode)
    assert_ends_as_it_should(
        row, lambda: (parser.setup().get_dataparser_outputs("train"), base_scene.written), capsys, folder=folder
    )


def has_no_masks(manager: Any) -> None:
    assert "mask" not in manager.first_batch[1] and not manager.train_dataset.metadata["has_masks"]


WITHOUT_MASKS = [
    Row(
        "opaque alpha instead of masks",
        in_order(no_splits, no_sphere, alpha_for_masks(lambda mask: mask.point(lambda value: 255))),
        right=has_no_masks,
    ),
    Row(
        "white masks, as NeuS's preparation writes them",
        lambda folder: [Image.new("L", (40, 40), 255).save(file) for file in (folder / "mask").iterdir()],
        right=has_no_masks,
        warns="all masks are white everywhere, and say nothing: the data has no masks",
    ),
]


@pytest.mark.parametrize("row", WITHOUT_MASKS, ids=ids(WITHOUT_MASKS))
def test_masks_that_say_nothing_are_none(row, base_scene, tmp_path, capsys):
    folder = base_scene.copy("idr", tmp_path)
    row.make(folder)
    options = {} if (folder / "splits.json").exists() else {"eval_mode": "all"}
    assert_ends_as_it_should(row, lambda: datamanager("hash-neus-small", folder, **options), capsys, folder=folder)


# ---------------------------------------------------------------------------------------------------------------------
# What masks mean to surfaces


def object_masks(folder: Path) -> list[np.ndarray]:
    """Where the object is in the 17 views of the nerfstudio layout, in the order of their files."""
    blender = folder.parent / "blender"
    files = [blender / split / f"r_{index}.png" for split, index in VIEW_NAMES]
    return [np.asarray(Image.open(file))[..., 3] > 127 for file in files]


VIEW_NAMES = [("train", index) for index in range(12)] + [("val", 0), ("val", 1)] + [("test", i) for i in range(3)]


def meant(change: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[Path], None]:
    """A `Row.make` that gives each view a mask, given the object's and its number."""

    def make(folder: Path) -> None:
        masks = object_masks(folder)
        (folder / "masks").mkdir()

        def add(content: dict) -> None:
            for frame in content["frames"]:
                stem = Path(frame["file_path"]).stem
                split, index = stem.split("_")
                number = VIEW_NAMES.index((split, int(index)))
                mask = change(masks[number], number)
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{stem}.png")
                frame["mask_path"] = f"masks/{stem}.png"

        edit_json(folder / "transforms.json", add)

    return make


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((40, 40), dtype=bool)
    mask[top : 40 - bottom, left : 40 - right] = True
    return mask


def disc() -> np.ndarray:
    row, column = np.mgrid[:40, :40] - 19.5
    return row**2 + column**2 < 20.0**2


def passer_by(number: int) -> np.ndarray:
    """White but for someone who walks through the picture."""
    mask = np.ones((40, 40), dtype=bool)
    mask[10:36, 2 + 2 * number : 7 + 2 * number] = False
    return mask


def taken_for(meaning: str, kept: bool = True) -> Callable[[Any], None]:
    def right(manager: Any) -> None:
        assert manager.config.masks_are == meaning and manager.has_completed_config == kept
        is_object = meaning == "object"
        assert manager.train_dataset.metadata["has_masks"] is is_object
        assert (manager.train_dataset._dataparser_outputs.mask_filenames is None) is is_object
        batch = manager.first_batch[1]
        if is_object:
            assert batch["mask"].dtype == torch.float32 and batch["mask"].min() == 0.0 and batch["mask"].max() == 1.0
            assert 0.55 < (batch["mask"] > 0.5).float().mean() < 0.65  # of mask_ray_fraction
        else:
            assert "mask" not in batch

    return right


MEANING_ROWS = [
    Row(
        "the object",
        meant(lambda mask, number: mask),
        right=taken_for("object"),
        warns=r"Masks: taken as where the object is \(--pipeline.datamanager.masks-are object\): they agree on one "
        r"visual hull, which explains \d+% of them.",
    ),
    Row(
        "the object, and one mask of something else",
        meant(lambda mask, number: np.roll(mask, 20, axis=1) if number == 3 else mask),
        right=taken_for("object"),
        warns="taken as where the object is",
    ),
    Row(
        "a corner is cut off",
        meant(lambda mask, number: ~box(0, 32, 0, 26)),
        right=taken_for("valid"),
        warns=r"Masks: taken as the pixels to train on \(--pipeline.datamanager.masks-are valid\): they are the same",
    ),
    Row("the hood of a car", meant(lambda mask, number: box(0, 10, 0, 0)), right=taken_for("valid")),
    Row("a border is cut off", meant(lambda mask, number: box(4, 4, 4, 4)), right=taken_for("valid")),
    Row(
        "borders of changing width",
        meant(lambda mask, number: box(1 + number % 4, 1 + number % 3, 2 + number % 5, 1)),
        right=taken_for("valid"),
        warns="they are rectangles, and leave out the borders",
    ),
    Row("the picture of a fisheye", meant(lambda mask, number: disc()), right=taken_for("valid")),
    Row(
        "someone who walks through",
        meant(lambda mask, number: passer_by(number)),
        right=taken_for("valid"),
        warns="they are white along most of the borders",
    ),
    Row("white everywhere", meant(lambda mask, number: mask | True), right=taken_for("valid")),
    Row(
        "inverted",
        meant(lambda mask, number: ~mask),
        refused=r"masks: the masks are inverted: .* Invert them, or set --pipeline.datamanager.masks-are valid to",
    ),
    Row(
        "one of the object's is inverted",
        meant(lambda mask, number: ~mask if number == 3 else mask),
        refused=r"masks/train_0003.png: 1 of 12 masks are inverted, unlike the others",
    ),
    Row(
        "one of the object's is empty",
        meant(lambda mask, number: mask & (number != 3)),
        refused=r"masks/train_0003.png: the mask is empty",
    ),
    Row(
        "half of the object's are empty",
        meant(lambda mask, number: mask & (number % 2 == 0)),
        refused=r"masks/train_0001.png: the mask is empty, as are 5 others of 12",
    ),
    Row(
        "all are empty",
        meant(lambda mask, number: mask & False),
        refused=r"masks/train_0000.png: the mask is empty, as are 11 others of 12",
    ),
    Row(
        "at random places",
        meant(lambda mask, number: np.roll(mask, (7 * number % 40, 17 * number % 40), axis=(0, 1))),
        refused=r"masks: the masks are not of one object \(a visual hull explains \d+% of them\)",
    ),
    Row(
        "inverted, and meant so",
        meant(lambda mask, number: ~mask),
        right=taken_for("valid", kept=False),
        options={"masks_are": "valid", "scale_check": "off"},
    ),
    Row(
        "the object, and meant so",
        meant(lambda mask, number: mask),
        right=taken_for("object", kept=False),
        options={"masks_are": "object", "scale_check": "off"},
    ),
]


@pytest.mark.parametrize("row", MEANING_ROWS, ids=ids(MEANING_ROWS))
def test_what_masks_mean(row, base_scene, tmp_path, capsys):
    folder = base_scene.copy("nerfstudio", tmp_path)
    (tmp_path / "blender").symlink_to(base_scene.written / "blender")
    row.make(folder)
    product = functools.partial(datamanager, SURFACE[0], folder, SURFACE[1], **row.options)
    assert_ends_as_it_should(row, product, capsys, folder=folder)


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation


@pytest.mark.parametrize("family", [RADIANCE, DEPTH, SURFACE], ids=["radiance", "depth", "surface"])
def test_evaluation_counts_the_valid_pixels_only(family, base_scene, tmp_path, capsys, monkeypatch):
    """Of gray photographs, pictures that are 0.1 too bright inside of the masks, and white outside."""
    folder = base_scene.copy("nerfstudio", tmp_path)
    for file in (folder / "images").iterdir():
        Image.new("RGB", (40, 40), (102, 102, 102)).save(file)
    masked(image_of(Image.fromarray(GRAY)))(folder)
    config = copy.deepcopy(all_methods[family[0]].pipeline)
    config.datamanager.dataparser = dataparser_config(family[1])
    config.datamanager.data = config.datamanager.dataparser.data = folder
    config.model.eval_num_rays_per_chunk = 4096
    pipeline = config.setup(device="cpu", test_mode="test")
    white = torch.from_numpy(WHITE)[..., None]
    render = pipeline.model.get_outputs_for_camera_ray_bundle

    def known(rays):
        outputs = render(rays)
        return {**outputs, "rgb": torch.where(white, 0.5, 1.0).expand(40, 40, 3)}

    monkeypatch.setattr(pipeline.model, "get_outputs_for_camera_ray_bundle", known)
    capsys.readouterr()
    metrics = pipeline.get_average_image_metrics(pipeline.datamanager.fixed_indices_eval_dataloader, "eval")
    said = " ".join(capsys.readouterr().out.split())
    assert metrics["psnr"] == pytest.approx(20.0, abs=1e-3)
    assert metrics["ssim"] == pytest.approx(2 * 0.4 * 0.5 / (0.4**2 + 0.5**2), abs=1e-3)  # all windows are flat
    assert metrics["valid_fraction"] == pytest.approx(WHITE.mean())
    assert "masked_psnr" not in metrics and "mask_iou" not in metrics
    assert "Metrics are those of the masks' valid pixels, 22% of the pixels." in said
    metrics, _ = pipeline.get_eval_image_metrics_and_images(0)
    assert metrics["psnr"] == pytest.approx(20.0, abs=1e-3)
    assert "Metrics are those of the masks' valid pixels" in capsys.readouterr().out
