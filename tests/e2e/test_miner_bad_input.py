"""What a user can get wrong with MINER's data ends training in one line that names file, value and remedy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import trimesh
from nerfstudio.scripts.eval import ComputePSNR
from PIL import Image

from common_ns.errors import InputError
from miner_ns.fitting import FitOptions
from miner_ns.scripts.decode import DecodeCommand
from tests.e2e.running import run_config, train

TINY: dict[str, Any] = {"num_levels": 2, "block_size": 8, "hidden_dim": 8, "num_frequencies": 3, "batch_points": 32}
TINY |= {"epochs": (25, 25), "implementation": "torch"}
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
COMMANDS = Path(sys.executable).parent


def image_config(data: Path, output: Path, **fit: Any) -> Any:
    return run_config("miner-image", data, output, 10**6, fit=FitOptions(**{**TINY, **fit}))


def volume_config(data: Path, output: Path, **fit: Any) -> Any:
    config = run_config("miner-occupancy", data, output, 10**6, fit=FitOptions(**{**TINY, "loss": "bce", **fit}))
    config.pipeline.datamanager.dataparser.resolution = 16
    return config


def refusal(config: Any) -> str:
    """The line that training ends with, after what a user must find in it."""
    with pytest.raises(InputError) as error:
        train(config)
    line = str(error.value)
    assert "\n" not in line and line.startswith(str(config.data)) and line.endswith("."), line
    return line.removeprefix(str(config.data))


def cut(path: Path, share: float = 0.5) -> None:
    """Leave the first part of a file."""
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def spoil(path: Path, share: float = 0.5, count: int = 64) -> None:
    """Overwrite bytes in the middle of a file."""
    content = bytearray(path.read_bytes())
    start = int(share * len(content))
    content[start : start + count] = b"\xa5" * count
    path.write_bytes(bytes(content))


def png(path: Path) -> None:
    Image.fromarray(PIXELS).save(path, "PNG")


def tiff(path: Path) -> None:
    tifffile.imwrite(path, PIXELS, photometric="rgb", compression="zlib")


def mapped_tiff(path: Path) -> None:
    tifffile.imwrite(path, PIXELS, photometric="rgb")


def jpeg(path: Path) -> None:
    Image.fromarray(PIXELS).save(path, "JPEG", quality=95)


def exr_with_nan(path: Path) -> None:
    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")
    import cv2

    pixels = PIXELS.astype(np.float32)
    pixels[4, 7, 0] = np.nan  # blue, in OpenCV's order
    cv2.imwrite(str(path), pixels)


def array(*shape: int, dtype: Any = np.float32, **values: Any) -> Callable[[Path], None]:
    """Writes an array of that shape, with `at` set to `value`."""

    def make(path: Path) -> None:
        content = np.linspace(0.0, 1.0, max(1, int(np.prod(shape))))[: int(np.prod(shape))].reshape(shape).astype(dtype)
        if values:
            content[values["at"]] = values["value"]
        np.save(path, content)

    return make


def made(path: Path, make: Callable[[Path], None], *damages: Callable[[Path], None]) -> Path:
    for step in (make, *damages):
        step(path)
    return path


def nothing(path: Path) -> None:
    path.write_bytes(b"")


BROKEN = "Write it again; it may be cut off or of another format."
CHANNELS = "Give 1 (gray), 2 (and alpha), 3 (RGB) or 4 (RGBA), as the last axis."
FINITE = "Replace values that are not finite."

BAD_IMAGES: dict[str, tuple[str, tuple[Callable[[Path], None], ...], str, str]] = {
    "cut PNG": ("a.png", (png, cut), "the image cannot be read", BROKEN),
    "PNG cut in its header": ("a.png", (png, lambda path: cut(path, 0.01)), "the image cannot be read", BROKEN),
    "spoilt PNG": ("a.png", (png, spoil), "the image cannot be read", BROKEN),
    "cut JPEG": ("a.jpg", (jpeg, cut), "the image cannot be read", BROKEN),
    "JPEG without its header": ("a.jpg", (jpeg, lambda path: spoil(path, 0.0)), "the image cannot be read", BROKEN),
    "cut TIFF": ("a.tif", (tiff, cut), "the image cannot be read", BROKEN),
    "spoilt TIFF": ("a.tif", (tiff, spoil), "the image cannot be read", BROKEN),
    "cut uncompressed TIFF": ("a.tif", (mapped_tiff, cut), "the image cannot be read", BROKEN),
    "cut npy": ("a.npy", (array(20, 20), cut), "the image cannot be read", BROKEN),
    "no bytes": ("a.png", (nothing,), "the file is empty", "Write the image again."),
    "text": ("a.png", (lambda path: path.write_text("hello"),), "the image cannot be read", BROKEN),
    "no rows": ("a.npy", (array(0, 5),), "the image has 5×0 pixels", "Give an image with at least one."),
    "no channels": ("a.npy", (array(4, 5, 0),), "the image has 0 channels", CHANNELS),
    "many channels": ("a.npy", (array(4, 5, 7),), "the image has 7 channels", CHANNELS),
    "one axis": ("a.npy", (array(9),), "the array has shape (9,)", "An image has shape (height, width) or"),
    "a volume": ("a.npy", (array(4, 4, 4, 1),), "the array has shape (4, 4, 4, 1)", "An image has shape"),
    "complex numbers": ("a.npy", (array(4, 4, dtype=complex),), "the values have type complex128", "Store them as"),
    "NaN": (
        "a.npy",
        (array(9, 8, 3, at=(5, 2, 1), value=np.nan),),
        "the value at row 5 column 2 channel 1 is nan",
        FINITE,
    ),
    "infinity": ("a.npy", (array(9, 8, at=(0, 7), value=-np.inf),), "row 0 column 7 channel 0 is -inf", FINITE),
    "NaN in EXR": ("a.exr", (exr_with_nan,), "the value at row 4 column 7 channel 2 is nan", FINITE),
    "folder": (
        "a.png",
        (lambda path: path.mkdir(),),
        "is a folder",
        "Give one image file; docs/data.md lists what is read from which app or tool.",
    ),
    "mesh": (
        "a.ply",
        (lambda path: trimesh.creation.box().export(path),),
        "is a mesh",
        "Name an image, or use miner-occupancy.",
    ),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_is_named(tmp_path, case):
    name, steps, problem, remedy = BAD_IMAGES[case]
    line = refusal(image_config(made(tmp_path / name, *steps), tmp_path / "runs"))
    assert problem in line and remedy in line, line


def cube_without_a_face(path: Path) -> None:
    mesh = trimesh.creation.box()
    mesh.update_faces(np.arange(len(mesh.faces)) > 1)
    mesh.export(path)


def bad_obj(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text)  # type: ignore[return-value]


THREE_AXES = "It must have three axes: voxels along x, y, z."

BAD_VOLUMES: dict[str, tuple[str, tuple[Callable[[Path], None], ...], str, str]] = {
    "an image": ("a.npy", (array(8, 8),), "the volume has shape (8, 8)", THREE_AXES),
    "channels": ("a.npy", (array(8, 8, 8, 3),), "the volume has shape (8, 8, 8, 3)", THREE_AXES),
    "no voxels": ("a.npy", (array(8, 0, 8),), "the volume has shape (8, 0, 8)", THREE_AXES),
    "cut npy": ("a.npy", (array(8, 8, 8), cut), "the volume cannot be read", BROKEN),
    "cut npz": (
        "a.npz",
        (lambda path: np.savez_compressed(path, a=np.random.default_rng(0).random((8, 8, 8))), cut),
        "the volume cannot be read",
        BROKEN,
    ),
    "several arrays": (
        "a.npz",
        (lambda path: np.savez(path, a=np.zeros(3), b=np.zeros(3)),),
        "the file holds the arrays a, b",
        "Store what is to be fitted as its only array.",
    ),
    "NaN": ("a.npy", (array(8, 8, 8, at=(1, 2, 3), value=np.nan),), "sample (1, 2, 3) channel 0 is nan", FINITE),
    "text array": ("a.npy", (array(2, 2, 2, dtype="U3"),), "the values have type <U3", "Store them as bool"),
    "a PNG": ("a.png", (png,), "the suffix '.png' is neither of a mesh nor of a volume", "miner-image for an image."),
    "forgotten suffix": ("volume", (array(8, 8, 8),), "does not exist", "Correct the path."),
    "no bytes": ("a.obj", (nothing,), "the mesh", ""),
    "no triangles": ("a.obj", (bad_obj("v 0 0 0\nv 1 0 0\nv 0 1 0\n"),), "the mesh has no triangles", "Give a surface"),
    "a missing vertex": ("a.obj", (bad_obj("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n"),), "the mesh", "Write it again"),
    "a vertex nowhere": (
        "a.obj",
        (bad_obj("v 0 0 0\nv 1 0 0\nv 0 nan 0\nf 1 2 3\n"),),
        "vertex 2 is at [0.0, nan, 0.0]",
        "Correct or remove it.",
    ),
    "one point": ("a.obj", (bad_obj("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n"),), "extent of 0.0", "Give a mesh of more"),
    "cut ply": (
        "a.ply",
        (lambda path: trimesh.creation.icosphere().export(path), cut),
        "the mesh cannot be read",
        "Write it again; it may be cut off.",
    ),
    "folder": ("a.ply", (lambda path: path.mkdir(),), "is a folder", "Name one mesh file."),
    "folder of a volume's name": ("a.npz", (lambda path: path.mkdir(),), "is a folder", "Name one volume file."),
}


@pytest.mark.parametrize("case", BAD_VOLUMES)
def test_a_bad_volume_is_named(tmp_path, case):
    name, steps, problem, remedy = BAD_VOLUMES[case]
    line = refusal(volume_config(made(tmp_path / name, *steps), tmp_path / "runs"))
    assert problem in line and remedy in line, line


@pytest.mark.parametrize("config", [image_config, volume_config])
def test_a_missing_file_is_named_with_its_neighbors(tmp_path, config):
    (tmp_path / "data").mkdir()
    png(tmp_path / "data" / "astronaut.png")
    line = refusal(config(tmp_path / "data" / "astronout.png", tmp_path / "runs"))
    assert "does not exist" in line and "holds: astronaut.png" in line and line.endswith("Correct the path.")


def test_more_than_the_memory_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    config = image_config(made(tmp_path / "a.png", png), tmp_path / "runs")
    monkeypatch.setattr(
        "common_ns.data.memory.available_memory", lambda: 24 * 30 * 3 + 100
    )  # not even its coarser level
    monkeypatch.setattr("miner_ns.dataparser.read_image", lambda *_: pytest.fail("the image was read"))
    line = refusal(config)
    assert re.search(r"fitting 24×30 samples \(.*\) needs 0\.0 GiB of memory and 0\.0 GiB are available\. ", line)
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


def test_a_mesh_larger_than_the_memory_is_refused(tmp_path, monkeypatch):
    config = volume_config(tmp_path / "a.ply", tmp_path / "runs")
    trimesh.creation.icosphere().export(config.data)
    monkeypatch.setattr("common_ns.data.memory.available_memory", lambda: 1000)
    assert "reading the mesh needs" in (line := refusal(config)) and line.endswith("Decimate the mesh.")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"threshold": -1.0}, "--pipeline.model.fit.threshold is -1.0"),
        ({"encoding": "icosahedron"}, "--pipeline.model.fit.encoding icosahedron is for volumes"),
        ({"implementation": "triton"}, "Implementation 'triton' cannot train here"),
        ({"max_device_memory": 1e-6}, "--pipeline.model.fit.max-device-memory is 1e-06 GiB, and 16 blocks need"),
    ],
)
def test_options_that_cannot_work_are_named_before_the_image_is_read(tmp_path, options, problem, monkeypatch):
    monkeypatch.setattr("miner_ns.dataparser.read_image", lambda *_: pytest.fail("the image was read"))
    with pytest.raises(InputError, match=re.escape(problem)):
        train(image_config(made(tmp_path / "a.png", png), tmp_path / "runs", **options))


def results(run: Path, folder: Path) -> dict[str, float]:
    ComputePSNR(run, folder / "eval.json").main()
    return json.loads((folder / "eval.json").read_text())["results"]


@pytest.mark.parametrize(
    ("name", "pixels"),
    [("a.png", np.full((20, 30, 3), 77, np.uint8)), ("a.npy", np.full((20, 30), -3.5, np.float32))],
)
def test_a_constant_image_trains_at_once(tmp_path, name, pixels):
    data = tmp_path / name
    if name.endswith("png"):
        Image.fromarray(pixels).save(data)
    else:
        np.save(data, pixels)
    usual = run_config("miner-image", data, tmp_path / "runs", 10**6, fit=FitOptions(implementation="torch"))
    run = train(usual)
    checkpoint = next((run.parent / "nerfstudio_models").glob("*.ckpt"))
    assert int(checkpoint.stem.removeprefix("step-")) <= 2  # one portion, and the end
    assert results(run, tmp_path)["psnr"] > 50
    decoded = DecodeCommand(load_config=run, output_path=tmp_path / f"out{data.suffix}").main()
    values = np.load(decoded) if name.endswith("npy") else np.asarray(Image.open(decoded))
    assert values.dtype == pixels.dtype and np.abs(values.squeeze() - pixels.astype(float)).max() <= 1


@pytest.mark.parametrize("value", [0, 1])
def test_a_volume_all_outside_or_all_inside_trains(tmp_path, value):
    np.save(tmp_path / "a.npy", np.full((10, 9, 12), value, np.uint8))
    run = train(volume_config(tmp_path / "a.npy", tmp_path / "runs", threshold=1e-2))
    found = results(run, tmp_path)
    assert found["iou"] == 1.0 and found["psnr"] > 15


def test_an_open_mesh_is_said_to_be_open_and_trains(tmp_path, capsys):
    run = train(volume_config(made(tmp_path / "open.obj", cube_without_a_face), tmp_path / "runs"))
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(r"open\.obj: the mesh is not closed: it has 4 open edges; --votes 9 ", shown)
    assert results(run, tmp_path)["psnr"] > 0


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "1000"}
    full = [str(COMMANDS / arguments[0]), *arguments[1:]]
    return subprocess.run(full, capture_output=True, text=True, cwd=folder, env=environment, check=False, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["miner-image", "miner-occupancy"])
def test_the_command_ends_with_one_line(tmp_path, method):
    if method == "miner-image":
        data = made(tmp_path / "a.png", png, cut)  # found when training begins
        expected = rf"a\.png: the image cannot be read \(.*\)\. {re.escape(BROKEN)}"
    else:
        data = made(tmp_path / "a.npy", array(4, 5))
        expected = rf"a\.npy: the volume has shape \(4, 5\)\. {re.escape(THREE_AXES)}"
    options = ("--vis", "tensorboard", "--pipeline.model.fit.implementation", "torch", "--output-dir", "runs")
    result = command("ns-train", method, "--data", str(data), *options, folder=tmp_path)
    assert result.returncode == 1, result.stdout[-1000:] + result.stderr[-1000:]
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1 and re.search(expected, errors[0]), result.stderr
    assert "Traceback" not in result.stderr + result.stdout
