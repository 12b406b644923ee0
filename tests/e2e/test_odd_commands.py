"""Whole commands on data that cannot be read: exit code 1, one line on the error stream, and nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.odd_inputs.kit import BaseScene, edit_json, fifo

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> BaseScene:
    return BaseScene(tmp_path_factory.mktemp("base"))


def pipe_for_image(folder: Path) -> None:
    fifo(folder / "images" / "train_0000.png")


def folded(folder: Path) -> None:
    edit_json(folder / "transforms.json", lambda content: content.update(k1=-2.0))


def degrees(folder: Path) -> None:
    for file in folder.glob("transforms_*.json"):
        edit_json(file, lambda content: content.update(camera_angle_x=39.6))


def one_mask_less(folder: Path) -> None:
    sorted((folder / "mask").iterdir())[3].unlink()


def eight_bits(folder: Path) -> None:
    for file in (folder / "depths").iterdir():
        Image.open(file).convert("L").save(file)


def no_faces(folder: Path) -> None:
    (folder / "points.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")


def cut(folder: Path) -> None:
    file = folder / "images" / "train_0000.png"
    file.write_bytes(file.read_bytes()[:200])


def no_model(folder: Path) -> None:
    (folder / "transforms.json").unlink()


TRAIN = "--vis tensorboard --max-num-iterations 2 --output-dir OUT"

COMMANDS = {
    "ns-train, a pipe": (
        "nerfstudio", pipe_for_image,
        f"ns-train mip-nerf-360-small --data DATA {TRAIN} nerfstudio-data",
        "DATA/images/train_0000.png: the image is a named pipe",
    ),
    "ns-train, a lens": (
        "nerfstudio", folded,
        f"ns-train depth-hash-small --data DATA {TRAIN}",
        "DATA: the distortion",
    ),
    "ns-train, degrees": (
        "blender", degrees,
        f"ns-train mip-nerf-small --data DATA {TRAIN}",
        "DATA/transforms_train.json: camera_angle_x is 39.6",
    ),
    "ns-train, another layout": (
        "blender", lambda folder: None,
        f"ns-train hash-neus-small --data DATA {TRAIN}",
        "This looks like a Blender scene: ns-train hash-neus-small --data DATA blender-data.",
    ),
    "ns-train, masks": (
        "idr", one_mask_less,
        f"ns-train hash-idr-small --data DATA {TRAIN}",
        "mask",
    ),
    "ns-train, 8-bit depth": (
        "nerfstudio", eight_bits,
        f"ns-train depth-mip-nerf-small --data DATA {TRAIN}",
        "8 bits",
    ),
    "ns-train, an image": (
        "nerfstudio", cut,
        f"ns-train miner-image --data DATA/images/train_0000.png {TRAIN}",
        "DATA/images/train_0000.png: the image",
    ),
    "ns-voxelize": (
        "nerfstudio", no_faces, "ns-voxelize DATA/points.obj --output-path OUT/volume.npz", "DATA/points.obj: "
    ),
    "ns-show-poses": (
        "nerfstudio", no_model, "ns-show-poses nerfstudio-data --data DATA --output-path OUT/a.png", "transforms.json"
    ),
    "ns-depth-check": ("nerfstudio", eight_bits, "ns-depth-check DATA", "8 bits"),
    "ns-depth-prepare": (
        "nerfstudio", no_model, "ns-depth-prepare DATA --source sensor --output-path OUT/prepared", "DATA: "
    ),
    "ns-multiscale-blender": ("blender", degrees, "ns-multiscale-blender DATA OUT/multi", "camera_angle_x is 39.6"),
    "ns-idr-cameras": ("idr", one_mask_less, "ns-idr-cameras DATA --output-path OUT/cameras.npz", "mask"),
    "ns-mesh": ("nerfstudio", lambda folder: None, "ns-mesh --load-config DATA/config.yml --output-path OUT/a.ply",
                "DATA/config.yml: no such file"),
    "ns-splat": ("nerfstudio", lambda folder: None, "ns-splat --load-config DATA/config.yml --output-path OUT/a.ply",
                 "DATA/config.yml: no such file"),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_end_in_one_line(name: str, base: BaseScene, tmp_path: Path):
    layout, spoil, command, message = COMMANDS[name]
    data, out = base.copy(layout, tmp_path), tmp_path / "out"
    spoil(data)
    program, *words = command.replace("DATA", str(data)).replace("OUT", str(out)).split()
    done = subprocess.run([str(BIN / program), *words], capture_output=True, text=True, timeout=300, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.returncode == 1 and len(lines) == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stdout + done.stderr
    assert message.replace("DATA", str(data)) in lines[0], lines[0]
    products = (".ckpt", ".npz", ".ply", ".png", ".tmp")
    left = [file for file in out.rglob("*") if file.suffix in products] if out.exists() else []
    assert not left, left


def test_a_colmap_folder_needs_no_options(base: BaseScene, tmp_path: Path):
    """`ns-train mip-nerf-360-small --data DIR colmap`, with the model in sparse/0, as COLMAP leaves it."""
    from tests.odd_inputs.test_random_changes import colmap_text

    data = base.copy("nerfstudio", tmp_path)
    content = json.loads((data / "transforms.json").read_text())
    model = data / "sparse" / "0"
    model.mkdir(parents=True)
    for name, lines in colmap_text(data, content).items():
        (model / name).write_text("\n".join(lines) + "\n")
    (data / "transforms.json").unlink()
    words = ["mip-nerf-360-small", "--data", str(data), *TRAIN.replace("OUT", str(tmp_path / "out")).split(), "colmap"]
    words[3:3] = ["--pipeline.datamanager.train-num-rays-per-batch", "64"]
    done = subprocess.run([str(BIN / "ns-train"), *words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert np.any([file.suffix == ".ckpt" for file in (tmp_path / "out").rglob("*")])
