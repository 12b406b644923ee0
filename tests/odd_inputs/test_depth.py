"""Depth files as sensors, apps and renderers write them: the right depth, or a line that names the file."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common_ns.data.depth.contract import load_depth
from common_ns.data.depth.normals import NormalContract, load_normals
from depthnerf_ns.dataparser import RgbdDataParserConfig
from depthnerf_ns.dataset import DepthDataset
from tests.odd_inputs.kit import (
    DENIED,
    BaseScene,
    Row,
    assert_ends_as_it_should,
    edit_json,
    fifo,
    ids,
    link_loop,
    lock,
    of_json,
)

SIZE = 40


def meters(file: Path) -> np.ndarray:
    """The base scene's depth."""
    return np.asarray(Image.open(file)).astype(np.float32) / 1000.0


def stored_as(write: Callable[[Path, np.ndarray], Any], suffix: str, **fields: Any) -> Callable[[Path], None]:
    """A `Row.make` that stores all depth, given in meters, in other files.

    Args:
        write: a file.
        suffix: of the files.
        fields: of transforms.json; without, neither unit nor kind is stated.
    """

    def make(folder: Path) -> None:
        def edit(content: dict[str, Any]) -> None:
            for key in ("depth_unit_scale_factor", "depth_kind"):
                content.pop(key)
            content.update(fields)
            for frame in content["frames"]:
                old = folder / frame["depth_file_path"]
                depth = meters(old)
                old.unlink()
                write(old.with_suffix(suffix), depth)
                frame["depth_file_path"] = str(old.with_suffix(suffix).relative_to(folder))

        edit_json(folder / "transforms.json", edit)

    return make


def first(write: Callable[[Path, np.ndarray], Any], suffix: str = ".png") -> Callable[[Path], None]:
    """A `Row.make` that stores the depth of the first training frame, given in meters, in another file."""

    def make(folder: Path) -> None:
        old = folder / "depths/train_0000.png"
        depth = meters(old)
        old.unlink()
        write(old.with_suffix(suffix), depth)

        def edit(content: dict[str, Any]) -> None:
            frame = next(f for f in content["frames"] if f["depth_file_path"] == "depths/train_0000.png")
            frame["depth_file_path"] = f"depths/train_0000{suffix}"

        edit_json(folder / "transforms.json", edit)

    return make


def exr(
    channels: Callable[[np.ndarray], dict[str, np.ndarray]], header: dict[str, Any] | None = None
) -> Callable[[Path, np.ndarray], None]:
    """Writes an EXR file of these channels."""

    def write(file: Path, depth: np.ndarray) -> None:
        import OpenEXR

        base = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        named = {name: np.ascontiguousarray(pixels) for name, pixels in channels(depth).items()}
        OpenEXR.File({**base, **(header or {})}, named).write(str(file))

    return write


def exr_parts(**parts: Callable[[np.ndarray], dict[str, np.ndarray]]) -> Callable[[Path, np.ndarray], None]:
    def write(file: Path, depth: np.ndarray) -> None:
        import OpenEXR

        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        made = [OpenEXR.Part(dict(header), channels(depth), name) for name, channels in parts.items()]
        OpenEXR.File(made).write(str(file))

    return write


def window(left: int, top: int, right: int, bottom: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([left, top], np.int32), np.array([right, bottom], np.int32)


def render(depth: np.ndarray) -> dict[str, np.ndarray]:
    """Colors of a view layer, and the passes beside them that are not depth."""
    layer = {f"ViewLayer.Combined.{c}": depth * 0.1 * k for k, c in enumerate("RGBA", 1)}
    layer |= {f"ViewLayer.Normal.{c}": depth * 0.2 * k for k, c in enumerate("XYZ", 1)}
    return {**layer, "ViewLayer.Mist.Z": depth / 10.0, "ViewLayer.IndexOB.X": np.ones_like(depth)}


def opencv(file: Path, depth: np.ndarray) -> None:
    import os

    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")
    import cv2

    assert cv2.imwrite(str(file), depth)


def npy(change: Callable[[np.ndarray], Any], **options: Any) -> Callable[[Path, np.ndarray], None]:
    return lambda file, depth: np.save(file, change(depth), **options)


def png(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, np.ndarray], None]:
    return lambda file, depth: Image.fromarray(change(depth)).save(file)


def cv_png(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, np.ndarray], None]:
    """16-bit colors, which Pillow does not write."""

    def write(file: Path, depth: np.ndarray) -> None:
        import cv2

        assert cv2.imwrite(str(file), change(depth))

    return write


def steps(depth: np.ndarray) -> np.ndarray:
    return (depth * 1000.0).round().astype(np.uint16)


def png_bomb(file: Path, _: np.ndarray) -> None:
    """A PNG of 60000×60000 pixels, as its header says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = (60000).to_bytes(4, "big")
    rows = zlib.compress(bytes(2**20))
    parts = chunk(b"IHDR", size + size + bytes([16, 0, 0, 0, 0])) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def npz_bomb(file: Path, _: np.ndarray) -> None:
    """An array of 29 GB, as its header says, in a small file."""
    header = io.BytesIO()
    fields = {"descr": "<f8", "fortran_order": False, "shape": (60000, 60000)}
    np.lib.format.write_array_header_1_0(header, fields)  # type: ignore[arg-type]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", header.getvalue() + bytes(2**20))


def exr_bomb(file: Path, depth: np.ndarray) -> None:
    """An EXR of 60000×60000 pixels, as its header says."""
    exr(lambda d: {"Z": d})(file, depth)
    content = file.read_bytes()
    for name in (b"dataWindow", b"displayWindow"):
        start = content.index(name + b"\0box2i\0") + len(name) + 11
        content = content[:start] + np.array([0, 0, 59999, 59999], "<i4").tobytes() + content[start + 16 :]
    file.write_bytes(content)


class Malicious:
    def __reduce__(self):
        return print, ("executed",)


def instant_ngp(**fields: Any) -> Callable[[Path], None]:
    def edit(content: dict[str, Any]) -> None:
        for key in ("depth_unit_scale_factor", "depth_kind"):
            content.pop(key)
        content.update(fields)
        for frame in content["frames"]:
            frame["depth_path"] = frame.pop("depth_file_path")

    return of_json(edit)


def still(content: dict[str, Any]) -> None:
    """All cameras in nearly one place, looking apart, so that no depth check can tell."""
    for index, frame in enumerate(content["frames"]):
        pose = np.array(frame["transform_matrix"])
        pose[:3, 3] = np.array([0.01, 0.02, 0.03]) * (index % 3)
        frame["transform_matrix"] = pose.tolist()


def both(*makes: Callable[[Path], Any]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for each in makes:
            each(folder)

    return make


# What has to come out: depth of the first training frame in meters, along the optical axis.


def exact(found: SimpleNamespace) -> None:
    np.testing.assert_allclose(found.depth, found.truth, rtol=1e-5)


def rounded(found: SimpleNamespace) -> None:
    """As far as half floats go."""
    np.testing.assert_allclose(found.depth, found.truth, rtol=1e-3)
    assert (found.depth > 0).sum() == (found.truth > 0).sum()


def assumed(words: str) -> Callable[[SimpleNamespace], None]:
    def right(found: SimpleNamespace) -> None:
        exact(found)
        assert found.outputs.metadata["depth_assumed"] == words

    return right


def inside(rows: slice, columns: slice, offset: tuple[int, int] = (0, 0)) -> Callable[[SimpleNamespace], None]:
    """Only there, and there what was stored from `offset` on."""

    def right(found: SimpleNamespace) -> None:
        expected = np.zeros_like(found.truth)
        there = found.truth[rows, columns]
        expected[rows, columns] = there
        np.testing.assert_allclose(found.depth, expected, rtol=1e-5)
        assert (there > 0).any()

    return right


def kind(name: str) -> Callable[[SimpleNamespace], None]:
    def right(found: SimpleNamespace) -> None:
        assert found.outputs.metadata["depth_contract"].kind == name
        exact(found)

    return right


Z = {"depth_kind": "z", "depth_unit_scale_factor": 1.0}
UNIT = "depth_unit_scale_factor"
KIND = "depth_kind"


def field(name: str, value: Any) -> Callable[[Path], None]:
    return of_json(lambda content: content.update({name: value}))


def frame_field(name: str, value: Any) -> Callable[[Path], None]:
    return of_json(lambda content: content["frames"][0].update({name: value}))


ROWS = [
    # EXR, by the names of channels.
    Row("EXR R (Record3D)", stored_as(exr(lambda d: {"R": d}), ".exr"), right=assumed("unit and kind")),
    Row("EXR Z", stored_as(exr(lambda d: {"Z": d}), ".exr"), right=exact),
    Row("EXR V", stored_as(exr(lambda d: {"V": d}), ".exr"), right=exact),
    Row("EXR Y of OpenCV", stored_as(opencv, ".exr"), right=exact),
    Row("EXR depth", stored_as(exr(lambda d: {"depth": d}), ".exr"), right=exact),
    Row("EXR D", stored_as(exr(lambda d: {"D": d}), ".exr"), right=exact),
    Row("EXR of any one name", stored_as(exr(lambda d: {"my pass": d}), ".exr"), right=exact),
    Row(
        "EXR of Blender, layered",
        stored_as(exr(lambda d: {**render(d), "ViewLayer.Depth.Z": d}), ".exr"),
        right=exact,
        warns=r"the channel ViewLayer\.Depth\.Z is taken for the depth map, of ViewLayer\.Combined\.A",
    ),
    Row(
        "EXR of older Blender, layered",
        stored_as(exr(lambda d: {**render(d), "View Layer.Depth.Z": d}), ".exr"),
        right=exact,
        warns=r"View Layer\.Depth\.Z is taken",
    ),
    Row(
        "EXR with denoising data",
        stored_as(exr(lambda d: {"L.Depth.Z": d, "L.Denoising Depth.Z": d * 2.0}), ".exr"),
        right=exact,
        warns=r"the channel L\.Depth\.Z is taken",
    ),
    Row(
        "EXR of colors and Z",
        stored_as(exr(lambda d: {"R": d * 0.1, "G": d * 0.2, "B": d * 0.3, "A": d, "Z": d}), ".exr"),
        right=exact,
        warns="channel Z is taken",
    ),
    Row("EXR of Combined.Z", stored_as(exr(lambda d: {"ViewLayer.Combined.Z": d}), ".exr"), right=exact),
    Row("EXR of equal R, G, B", stored_as(exr(lambda d: {"R": d, "G": d, "B": d}), ".exr"), right=exact),
    Row(
        "EXR of different R, G, B",
        first(exr(lambda d: {"R": d, "G": d * 2.0, "B": d}), ".exr"),
        r"train_0000\.exr: the depth map has the channels B, G, R, which differ\. Write .* one channel, Z\.",
    ),
    Row(
        "EXR of two view layers",
        first(exr(lambda d: {"A.Depth.Z": d, "B.Depth.Z": d * 2.0}), ".exr"),
        r"has the channels A\.Depth\.Z, B\.Depth\.Z, which differ",
    ),
    Row(
        "EXR of normals", first(exr(lambda d: {c: d * k for k, c in enumerate("XYZ", 1)}), ".exr"), r"channels X, Y, Z"
    ),
    Row(
        "EXR of two parts",
        stored_as(
            exr_parts(rgb=lambda d: {c: d * k for k, c in enumerate("RGB", 1)}, depth=lambda d: {"Z": d}), ".exr"
        ),
        right=exact,
        warns=r"the channel depth\.Z is taken",
    ),
    Row("EXR of half floats", stored_as(exr(lambda d: {"Z": d.astype(np.float16)}), ".exr"), right=rounded),
    Row(
        "EXR of a crop",
        both(
            of_json(lambda content: content.update(Z)),
            first(
                exr(
                    lambda d: {"Z": d[10:30, 5:35]},
                    {"dataWindow": window(5, 10, 34, 29), "displayWindow": window(0, 0, 39, 39)},
                ),
                ".exr",
            ),
        ),
        right=inside(slice(10, 30), slice(5, 35)),
        options={"only_first": True},
    ),
    Row(
        "EXR with overscan",
        stored_as(
            exr(
                lambda d: {"Z": np.pad(d, 3, constant_values=9.0)},
                {"dataWindow": window(-3, -3, 42, 42), "displayWindow": window(0, 0, 39, 39)},
            ),
            ".exr",
        ),
        right=exact,
    ),
    Row(
        "EXR of a window elsewhere",
        stored_as(
            exr(lambda d: {"Z": d}, {"dataWindow": window(7, 9, 46, 48), "displayWindow": window(7, 9, 46, 48)}), ".exr"
        ),
        right=exact,
    ),
    Row("EXR of 1e10 where nothing is", stored_as(exr(lambda d: {"Z": np.where(d > 0, d, 1e10)}), ".exr"), right=exact),
    Row(
        "EXR cut off",
        first(lambda f, d: exr(lambda d: {"Z": d})(f, d) or f.write_bytes(f.read_bytes()[:-900]), ".exr"),
        r"train_0000\.exr: the depth map cannot be read \(",
    ),
    Row("EXR that is text", first(lambda f, d: f.write_text("depth"), ".exr"), r"0\.exr: the depth map cannot be read"),
    # Other formats.
    Row("16-bit PNG", lambda folder: None, right=assumed("")),
    Row("float TIFF", stored_as(lambda f, d: Image.fromarray(d).save(f), ".tif"), right=assumed("unit and kind")),
    Row("npy of 16-bit millimeters", stored_as(npy(steps), ".npy"), right=assumed("unit and kind")),
    Row("npy of 32-bit millimeters", stored_as(npy(lambda d: steps(d).astype(np.int32)), ".npy"), right=exact),
    Row("npy of double floats", stored_as(npy(lambda d: d.astype(np.float64)), ".npy"), right=exact),
    Row("npy of half floats", stored_as(npy(lambda d: d.astype(np.float16)), ".npy"), right=rounded),
    Row("npy (1, h, w)", stored_as(npy(lambda d: d[None]), ".npy"), right=exact),
    Row("npy (h, w, 1)", stored_as(npy(lambda d: d[..., None]), ".npy"), right=exact),
    Row("npy of big-endian floats", stored_as(npy(lambda d: d.astype(">f4")), ".npy"), right=exact),
    Row("npy in columns", stored_as(npy(np.asfortranarray), ".npy"), right=exact),
    Row("npy (3, h, w)", first(npy(lambda d: np.stack([d] * 3)), ".npy"), r"has 40×3 pixels, its image 40×40"),
    Row("16-bit RGB of equal channels", stored_as(cv_png(lambda d: np.stack([steps(d)] * 3, -1)), ".png"), right=exact),
    Row(
        "16-bit RGB",
        first(cv_png(lambda d: np.stack([steps(d), steps(d) * 2, steps(d)], -1))),
        r"train_0000\.png: the depth map has 3 channels that differ",
    ),
    Row("8-bit", first(png(lambda d: (d * 10).astype(np.uint8))), r"has 8 bits a channel: that is a picture of depth"),
    Row(
        "depth in colors",
        first(png(lambda d: np.stack([steps(d) % 256, steps(d) // 256, steps(d) * 0], -1).astype(np.uint8))),
        r"has 3 channels, of 8 bits a channel: a colored picture of depth, or depth coded in colors\. Decode it",
    ),
    Row("a JPEG", first(lambda f, d: Image.fromarray((d * 9).astype(np.uint8)).save(f), ".jpg"), r"8 bits a channel"),
    Row("complex numbers", first(npy(lambda d: d * 1j), ".npy"), r"train_0000\.npy: the depth map holds complex64"),
    Row("booleans", first(npy(lambda d: d > 0), ".npy"), r"the depth map holds bool"),
    Row("a structure", first(npy(lambda d: np.zeros((40, 40), "f4,f4")), ".npy"), r"the depth map holds \[\('f0'"),
    Row(
        "a pickle",
        first(npy(lambda d: np.array([Malicious()], dtype=object), allow_pickle=True), ".npy"),
        r"train_0000\.npy: the depth map holds Python objects",
    ),
    Row("words", first(npy(lambda d: np.full((40, 40), "far")), ".npy"), r"the depth map holds <U3"),
    Row(
        "negative", first(npy(lambda d: np.where(d > 0, d, -1.0)), ".npy"), r"depths are negative, down to -1\. Write 0"
    ),
    Row("NaN everywhere", first(npy(lambda d: d * np.nan), ".npy"), r"train_0000\.npy: the depth map holds no depth"),
    Row("infinity everywhere", first(npy(lambda d: d + np.inf), ".npy"), r"the depth map holds no depth"),
    Row("no pixel", first(npy(lambda d: d[:0]), ".npy"), r"the depth map has shape \(0, 40\)"),
    Row(
        "transposed",
        both(of_json(lambda c: None), first(npy(lambda d: d[:30].T), ".npy")),
        r"has 30×40 pixels, its image 40×30: width and height are swapped\. Turn or transpose",
        options={"image": (40, 30)},
    ),
    Row(
        "half the size", first(npy(lambda d: d[::2, ::2]), ".npy"), r"has 20×20 pixels, its image 40×40.*--depth-resize"
    ),
    Row("a PNG bomb", first(png_bomb), r"train_0000\.png: the depth map states the size 60000×60000"),
    Row("an npz bomb", first(npz_bomb, ".npz"), r"train_0000\.npz: the depth map states the size 60000×60000"),
    Row("an EXR bomb", first(exr_bomb, ".exr"), r"train_0000\.exr: the depth map states the size 60000×60000"),
    Row("a named pipe", first(lambda f, d: fifo(f)), r"train_0000\.png: the depth map is a named pipe"),
    Row("a folder", first(lambda f, d: f.mkdir()), r"train_0000\.png: the depth map is a folder\. Name a file"),
    *(
        Row(
            f"locked {suffix}",
            first(lambda f, d: f.touch() or lock(f), suffix),
            rf"{suffix}: the depth map {DENIED}read",
        )
        for suffix in (".png", ".npy", ".npz", ".exr", ".tif")
    ),
    Row(
        "in a locked folder",
        lambda folder: lock(folder / "depths"),
        rf"png: the depth map {DENIED}enter the folder DATA/depths ",
    ),
    Row(
        "an empty file",
        first(lambda f, d: f.write_bytes(b"")),
        r"train_0000\.png: the depth map cannot be read \(it is",
    ),
    Row("an empty npz", first(lambda f, d: np.savez(f), ".npz"), r"train_0000\.npz: holds the arrays none"),
    Row(
        "a link to itself",
        first(lambda f, d: link_loop(f)),
        r"train_0000\.png: the depth map cannot be opened \(Too many",
    ),
    Row("a file that is not there", first(lambda f, d: None), r"train_0000\.png: the depth map does not exist"),
    Row("confidence maps beside it", frame_field("confidence_file_path", "confidence/0.png"), right=exact),
    # Fields.
    Row("instant-ngp", instant_ngp(enable_depth_loading=True, integer_depth_scale=0.001), right=assumed("")),
    Row(
        "instant-ngp with a scale",
        instant_ngp(integer_depth_scale=0.001, scale=0.33, offset=[0, 0, 0]),
        right=kind("z"),
    ),
    Row("instant-ngp without a unit", instant_ngp(), right=assumed("unit")),
    Row(
        "our names before instant-ngp's",
        of_json(lambda c: (c.update(integer_depth_scale=5.0), [f.update(depth_path="x") for f in c["frames"]])),
        right=exact,
    ),
    Row("unit null", field(UNIT, None), right=assumed("unit")),
    Row("unit as text", field(UNIT, "0.001"), right=exact),
    Row("unit mm", field(UNIT, "mm"), r"DATA: depth_unit_scale_factor is 'mm'\. Write 0\.001\."),
    Row("unit Meters", field(UNIT, "Meters"), r"depth_unit_scale_factor is 'Meters'\. Write 1\."),
    Row("unit true", field(UNIT, True), r"depth_unit_scale_factor is True\. It must be meters per stored step"),
    Row("unit list", field(UNIT, [0.001]), r"depth_unit_scale_factor is \[0\.001\]"),
    Row("unit 0", field(UNIT, 0), r"DATA: the depth unit is 0\.0\. Set --depth-unit"),
    Row("unit NaN", field(UNIT, float("nan")), r"DATA: the depth unit is nan\. Set --depth-unit"),
    Row("unit 1e308", field(UNIT, 1e308), r"DATA: the depth unit is 1e\+308\. Set --depth-unit"),
    Row("unit −0.001", field(UNIT, -0.001), r"the depth unit is -0\.001"),
    Row("kind euclidean", field(KIND, "euclidean"), r"DATA: the depth kind is 'euclidean'\. It is called \"ray\" here"),
    Row("kind planar", field(KIND, "Planar"), r'the depth kind is \'Planar\'\. It is called "z" here'),
    Row("kind disparity", field(KIND, "disparity"), r"the depth kind is 'disparity'\. Set --depth-kind z \(along"),
    Row("kind list", field(KIND, ["z"]), r"the depth kind is \['z'\]\. Set --depth-kind"),
    Row("kind null", field(KIND, None), right=assumed("kind")),
    Row(
        "path null",
        frame_field("depth_file_path", None),
        r'frame images/train_0000\.png lacks the field "depth_file_path"',
    ),
    Row(
        "path 5",
        frame_field("depth_file_path", 5),
        r'the field "depth_file_path" of frame 0 is 5\. It must be the name',
    ),
    Row("path empty", frame_field("depth_file_path", ""), r"the field \"depth_file_path\" of frame 0 is ''"),
    Row(
        "σ is the depth",
        of_json(lambda c: [f.update(depth_sigma_file_path=f["depth_file_path"]) for f in c["frames"]]),
        right=exact,
        warns=r"transforms\.json: depth_sigma_file_path names the depth itself",
    ),
    Row(
        "meters in integers",
        both(of_json(still), stored_as(npy(lambda d: d.round().astype(np.uint16)), ".npy")),
        warns=r"The median depth is 0\.00\d+ m at 0\.001 m a step.*--depth-unit 1 if the files hold meters",
    ),
    Row(
        "millimeters in floats",
        both(of_json(still), stored_as(npy(lambda d: d * 1000.0), ".npy")),
        warns=r"The median depth is \d{4} m at 1 m a step.*--depth-unit 0\.001 if the files hold millimeters",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
def test_depth_files(row: Row, base_scene: BaseScene, tmp_path: Path, capsys):
    folder = base_scene.copy("nerfstudio", tmp_path)
    truth = meters(folder / "depths/train_0000.png")
    row.make(folder)

    def product() -> SimpleNamespace:
        if "image" in row.options:  # of a size that the base scene does not have
            file = next(file for file in (folder / "depths").iterdir() if file.stem == "train_0000")
            contract = (
                RgbdDataParserConfig(data=folder).setup().get_dataparser_outputs("test").metadata["depth_contract"]
            )
            return SimpleNamespace(depth=load_depth(file, contract, row.options["image"]))
        outputs = RgbdDataParserConfig(data=folder).setup().get_dataparser_outputs("train")
        index = next(i for i, file in enumerate(outputs.image_filenames) if Path(file).stem == "train_0000")
        contract = outputs.metadata["depth_contract"]
        data = DepthDataset(outputs) if "only_first" not in row.options else None
        if data is not None:
            depth = data.depth_arrays(index)["stored_depth"][..., 0].astype(np.float32) * contract.unit
        else:
            file = Path(outputs.metadata["depth_filenames"][index])
            depth = load_depth(file, contract, (SIZE, SIZE)).astype(np.float32) * contract.unit
        return SimpleNamespace(outputs=outputs, depth=depth, truth=truth)

    assert_ends_as_it_should(row, product, capsys, folder)


def as_scannet(folder: Path, pixels: int = SIZE) -> Path:
    """The capture in ScanNet's layout, with depth of so many rows and columns, and intrinsics of its own for it."""
    content = json.loads((folder / "transforms.json").read_text())
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / "scan" / name).mkdir(parents=True)
    for number, frame in enumerate(content["frames"]):
        Image.open(folder / frame["file_path"]).convert("RGB").save(folder / f"scan/color/{number}.jpg")
        depth = Image.open(folder / frame["depth_file_path"])
        depth.resize((pixels, pixels), Image.Resampling.NEAREST).save(folder / f"scan/depth/{number}.png")
        np.savetxt(folder / f"scan/pose/{number}.txt", np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1]))
    matrix = np.eye(4)
    matrix[[0, 1, 0, 1], [0, 1, 2, 2]] = content["fl_x"], content["fl_y"], content["cx"], content["cy"]
    np.savetxt(folder / "scan/intrinsic/intrinsic_color.txt", matrix)
    np.savetxt(folder / "scan/intrinsic/intrinsic_depth.txt", np.diag([pixels / SIZE, pixels / SIZE, 1, 1]) @ matrix)
    return folder / "scan"


def scan(change: Callable[[Path], Any], pixels: int = SIZE) -> Callable[[Path], None]:
    return lambda folder: change(as_scannet(folder, pixels))


def halved(found: SimpleNamespace) -> None:
    """Each number stands for 2×2 pixels."""
    np.testing.assert_allclose(found.depth[::2, ::2], found.depth[1::2, 1::2])
    near = (found.depth > 0) & (found.truth > 0)
    assert near.sum() > 200 and np.median(np.abs(found.depth - found.truth)[near]) < 0.05


SCANS = [
    Row("plain", scan(lambda data: None), right=assumed("")),
    Row("depth of half the size", scan(lambda data: None, SIZE // 2), right=halved),
    Row(
        "a lost pose",
        scan(lambda data: (data / "pose/0.txt").write_text("-inf " * 4 + "\n" + "-inf " * 12)),
        r"table of",
    ),
    Row(
        "tracking lost",
        scan(lambda data: np.savetxt(data / "pose/0.txt", np.full((4, 4), -np.inf))),
        right=assumed(""),
        warns="Left out 1 frames whose pose is not finite",
    ),
    Row(
        "words in a pose",
        scan(lambda data: (data / "pose/3.txt").write_text("none")),
        r"pose/3\.txt: is not a table of",
    ),
    Row(
        "a pose in bytes",
        scan(lambda data: (data / "pose/3.txt").write_bytes(b"\xff\xfe\0")),
        r"3\.txt: is not a table",
    ),
    Row(
        "a pose that is a pipe", scan(lambda data: fifo(data / "pose/3.txt")), r"pose/3\.txt: the file is a named pipe"
    ),
    Row("a locked pose", scan(lambda data: lock(data / "pose/3.txt")), rf"pose/3\.txt: the file {DENIED}read it"),
    Row("locked depth", scan(lambda data: lock(data / "depth/3.png")), rf"3\.png: the depth map {DENIED}read it"),
    Row("locked colors", scan(lambda data: lock(data / "color")), rf"color: the folder of .* {DENIED}read it"),
    Row(
        "depth that is gone",
        scan(lambda data: (data / "depth/3.png").unlink()),
        r"3\.png: the depth map does not exist",
    ),
    Row(
        "focal length 0",
        scan(lambda data: np.savetxt(data / "intrinsic/intrinsic_color.txt", np.zeros((4, 4)))),
        r"intrinsic_color\.txt: the focal lengths are 0 and 0 pixels",
    ),
]


@pytest.mark.parametrize("row", SCANS, ids=ids(SCANS))
def test_folders_of_scannet(row: Row, base_scene: BaseScene, tmp_path: Path, capsys):
    folder = base_scene.copy("nerfstudio", tmp_path)
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    row.make(folder)

    def product() -> SimpleNamespace:
        outputs = RgbdDataParserConfig(data=folder / "scan").setup().get_dataparser_outputs("train")
        truth = meters(folder / frames[int(Path(outputs.image_filenames[0]).stem)]["depth_file_path"])
        contract = outputs.metadata["depth_contract"]
        depth = load_depth(Path(outputs.metadata["depth_filenames"][0]), contract, (SIZE, SIZE)) * contract.unit
        return SimpleNamespace(outputs=outputs, depth=depth, truth=truth)

    assert_ends_as_it_should(row, product, capsys, folder)


def test_normals_of_an_exr_come_in_order(tmp_path: Path):
    """R, G, B are x, y, z, as X, Y, Z of the layer of normals are."""
    normals = np.zeros((3, 4, 3), np.float32)
    normals[..., :] = [0.6, 0.0, -0.8]
    normals[0, 0] = [0.0, 1.0, 0.0]
    x, y, z = np.moveaxis(normals, -1, 0)
    exr(lambda d: {"R": x, "G": y, "B": z})(tmp_path / "rgb.exr", x)
    exr(lambda d: {**render(x), "ViewLayer.Normal.X": x, "ViewLayer.Normal.Y": y, "ViewLayer.Normal.Z": z})(
        tmp_path / "layers.exr", x
    )
    for name in ("rgb.exr", "layers.exr"):
        np.testing.assert_array_equal(load_normals(tmp_path / name, NormalContract(), (4, 3)), normals)
