"""Which layouts of data there are, what tells them apart, and the command that reads each.

The hints in error messages and the table of docs/data.md are made from the one list here.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from common_ns.data.colmap import find_model
from common_ns.data.files import refusal
from common_ns.data.transforms import IMAGE_SUFFIXES
from common_ns.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".insv")
MESH_SUFFIXES = (".ply", ".obj", ".stl", ".glb", ".gltf", ".off")
LOOKED_AT, FOLDERS_LOOKED_AT = 2000, 50
"""Entries of a folder, and folders in it, that are looked at."""


@dataclass(frozen=True)
class Format:
    """A layout of files."""

    name: str
    """What it is called, in words that fit after "this looks like"."""
    made_by: str
    """Apps and tools that write it."""
    files: str
    """What is in the folder."""
    command: str
    """How it is used; DATA is the folder or file."""
    methods: str
    """Families that read it so."""
    signs: Callable[[Path], bool]
    """Whether a folder or file looks like it."""
    dataparser: str | None = None
    """Name of the dataparser that reads it; None: it has to be converted, or is no set of photographs."""


def _json_has(file: Path, *keys: str) -> bool:
    """Whether a JSON file of a reasonable size has all of some fields."""
    try:
        if not file.is_file() or file.stat().st_size > 2**26:
            return False
        content = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and all(key in content for key in keys)


def _has_frame_field(file: Path, key: str) -> bool:
    if not _json_has(file, "frames"):
        return False
    frames = json.loads(file.read_bytes().decode("utf-8-sig"))["frames"]
    return isinstance(frames, list) and any(isinstance(frame, dict) and key in frame for frame in frames)


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from islice(folder.iterdir(), LOOKED_AT)
    except OSError:
        return


def _holds(folder: Path, *suffixes: str) -> bool:
    return any(entry.suffix.lower() in suffixes for entry in _entries(folder))


def _any(folder: Path, *names: str) -> bool:
    return any((folder / name).exists() for name in names)


def _all(folder: Path, *names: str) -> bool:
    return all((folder / name).exists() for name in names)


RADIANCE = "mip-nerf…, hash-neus…, hash-idr…, nffb-…"
"""Families that need no depth."""

FORMATS: tuple[Format, ...] = (
    Format(
        "a capture of instant-ngp",
        "instant-ngp's colmap2nerf.py and record3d2nerf.py",
        "`transforms.json` with `aabb_scale`, images",
        "ns-train METHOD --data DATA nerfstudio-data",
        RADIANCE,
        lambda path: _json_has(path / "transforms.json", "frames", "aabb_scale"),
        "nerfstudio-data",
    ),
    Format(
        "a capture in nerfstudio's format",
        "ns-process-data, Polycam and Record3D through it, KIRI Engine, Luma, RealityCapture",
        "`transforms.json`, images; masks and depth where there are any",
        "ns-train METHOD --data DATA nerfstudio-data",
        RADIANCE,
        lambda path: (path / "transforms.json").is_file(),
        "nerfstudio-data",
    ),
    Format(
        "a capture in nerfstudio's format with depth",
        "ns-process-data, ns-depth-prepare, Kinect and other RGB-D recorders",
        "`transforms.json` with `depth_file_path`, images, depth maps",
        "ns-train depth-hash --data DATA",
        "depth-… (others: `ns-train METHOD --data DATA nerfstudio-data`)",
        lambda path: _has_frame_field(path / "transforms.json", "depth_file_path"),
        "rgbd-data",
    ),
    Format(
        "a Blender scene",
        "NeRF's synthetic scenes, BlenderNeRF",
        "`transforms_train.json`, `transforms_val.json`, `transforms_test.json`, images",
        "ns-train METHOD --data DATA blender-data",
        RADIANCE,
        lambda path: (path / "transforms_train.json").is_file(),
        "blender-data",
    ),
    Format(
        "a multi-scale Blender scene",
        "ns-multiscale-blender, google/mipnerf",
        "`metadata.json`, images at several sizes",
        "ns-train mip-nerf --data DATA multiscale-blender-data",
        "mip-nerf…",
        lambda path: (path / "metadata.json").is_file() and not _json_has(path / "metadata.json", "poses"),
        "multiscale-blender-data",
    ),
    Format(
        "a folder of MonoSDF",
        "MonoSDF's preprocessing",
        "`NAME_rgb.png`, `NAME_depth.npy`, `cameras.npz`",
        "ns-depth-prepare DATA --source mono --output-path OUT, then ns-train depth-hash --data OUT",
        "depth-…",
        lambda path: (path / "cameras.npz").is_file() and any(e.name.endswith("_rgb.png") for e in _entries(path)),
    ),
    Format(
        "a data set in the layout of IDR and NeuS",
        "DTU as IDR and NeuS prepare it, BlendedMVS, ns-idr-cameras",
        "`image/`, `mask/`, `cameras_sphere.npz` or `cameras.npz`",
        "ns-train hash-neus --data DATA",
        "hash-neus…, hash-idr…, nffb-… (others: `ns-train METHOD --data DATA idr-data`)",
        lambda path: _any(path, "cameras_sphere.npz", "cameras.npz", "cameras_linear_init.npz"),
        "idr-data",
    ),
    Format(
        "photographs with a COLMAP model",
        "COLMAP, GLOMAP, mip-NeRF 360's scenes, Tanks and Temples",
        "`images/`; the model in `sparse/0/`, `sparse/` or `colmap/sparse/0/`, as `.bin` or `.txt`",
        "ns-train METHOD --data DATA colmap",
        RADIANCE,
        lambda path: find_model(path, largest=False) is not None,
        "colmap",
    ),
    Format(
        "a ScanNet scene",
        "ScanNet's SensReader",
        "`color/`, `depth/`, `pose/`, `intrinsic/`",
        "ns-train depth-hash --data DATA",
        "depth-…",
        lambda path: _all(path, "color", "depth", "pose", "intrinsic"),
        "rgbd-data",
    ),
    Format(
        "a house of Matterport3D",
        "Matterport3D's download",
        "`undistorted_color_images/`, `undistorted_depth_images/`, `undistorted_camera_parameters/`",
        "ns-train depth-hash --data DATA",
        "depth-…",
        lambda path: _all(path, "undistorted_color_images", "undistorted_camera_parameters"),
        "rgbd-data",
    ),
    Format(
        "a data set of SDFStudio",
        "SDFStudio, MonoSDF's preprocessing",
        "`meta_data.json`, images",
        "ns-train METHOD --data DATA sdfstudio-data",
        RADIANCE,
        lambda path: (path / "meta_data.json").is_file(),
        "sdfstudio-data",
    ),
    Format(
        "a scene of Phototourism",
        "the image matching challenge (others likewise: scannetpp-data, nerfosr-data)",
        "`dense/images/`, `dense/sparse/`",
        "ns-train METHOD --data DATA phototourism-data",
        RADIANCE,
        lambda path: _all(path, "dense/images", "dense/sparse"),
        "phototourism-data",
    ),
    Format(
        "an export of Polycam",
        "Polycam (developer mode: raw data)",
        "`keyframes/images/`, `keyframes/cameras/`, or the .zip",
        "ns-process-data polycam --data DATA --output-dir OUT, then ns-train METHOD --data OUT nerfstudio-data",
        RADIANCE,
        lambda path: (path / "keyframes").is_dir(),
    ),
    Format(
        "an export of Record3D",
        "Record3D (EXR + JPG sequence)",
        "`EXR_RGBD/metadata.json`, `EXR_RGBD/rgb/`, `EXR_RGBD/depth/`",
        "ns-process-data record3d --data DATA --output-dir OUT, then ns-train METHOD --data OUT nerfstudio-data",
        RADIANCE,
        lambda path: (path / "EXR_RGBD").is_dir() or _json_has(path / "metadata.json", "poses"),
    ),
    Format(
        "a scan of ARKitScenes",
        "ARKitScenes' download",
        "`ID_frames/lowres_wide/`, `lowres_depth/`, `lowres_wide.traj`",
        "ns-train METHOD --data DATA arkit-data",
        RADIANCE,
        lambda path: any(entry.name.endswith("_frames") for entry in _entries(path)),
        "arkit-data",
    ),
    Format(
        "a folder of photographs without poses",
        "a camera",
        "images",
        "ns-process-data images --data DATA --output-dir OUT, then ns-train METHOD --data OUT nerfstudio-data",
        RADIANCE,
        lambda path: path.is_dir() and (_holds(path, *IMAGE_SUFFIXES) or _holds(path / "images", *IMAGE_SUFFIXES)),
    ),
    Format(
        "a video",
        "a camera",
        "one file",
        "ns-process-data video --data DATA --output-dir OUT, then ns-train METHOD --data OUT nerfstudio-data",
        RADIANCE,
        lambda path: path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES,
    ),
    Format(
        "an image",
        "a camera, a scanner, a satellite",
        "PNG, JPEG, TIFF (also GeoTIFF, 16-bit, float), HEIC, AVIF, WebP, EXR, `.npy`",
        "ns-train miner-image --data DATA",
        "miner-image…",
        lambda path: path.is_file() and path.suffix.lower() in (*IMAGE_SUFFIXES, ".npy", ".npz"),
        "miner-image-data",
    ),
    Format(
        "a mesh",
        "a modeling program, a scanner, ns-mesh",
        "PLY, OBJ, STL, GLB, OFF",
        "ns-train miner-occupancy --data DATA",
        "miner-occupancy",
        lambda path: path.is_file() and path.suffix.lower() in MESH_SUFFIXES,
        "miner-occupancy-data",
    ),
)


def formats_of(path: Path) -> list[Format]:
    """Formats that a folder or file looks like, the most likely one first.

    Raises: InputError if it looks like none that a dataparser reads, and something in it may not be looked at.
    """
    found, refused = [], None
    for each in FORMATS:
        try:
            if each.signs(path):
                found.append(each)
        except OSError as error:
            refused = error
    if refused is not None and not any(each.dataparser for each in found):
        raise refusal(refused, refused.filename or path)
    return found


def _likely(path: Path) -> list[Format]:
    """As `formats_of`; none of what may not be looked at."""
    try:
        return formats_of(path)
    except InputError:
        return []


def suggestion(path: Path, dataparser: str) -> str | None:
    """The command that would read data in which a dataparser does not find what it looks for; None if none is known.

    Args:
        path: the data.
        dataparser: which has failed, as ns-train names it.
    """
    around = _likely(path.parent) if os.path.isfile(path) else []
    if any(each.dataparser == dataparser for each in around):
        return f"Give its folder: --data {shlex.quote(str(path.parent))}"
    found = next((each for each in _likely(path) if each.dataparser != dataparser), None)
    if found is None and path.suffix.lower() == ".json" and around:
        found = min(around, key=lambda each: f"`{path.name}`" not in each.files)  # the one that names the file
        path = path.parent
    if found is not None:
        command = found.command.replace("METHOD", _asked_for()).replace("DATA", shlex.quote(str(path)))
        return f"This looks like {found.name}: {command}"
    for entry in sorted(entry for entry in _entries(path) if os.path.isdir(entry))[:FOLDERS_LOOKED_AT]:
        inner = _likely(entry)
        if inner and inner[0].dataparser is not None:
            return f"There is {inner[0].name} in its folder {entry.name}: give --data {shlex.quote(str(entry))}"
    return None


def advice(path: Path, dataparser: str, wanted: str) -> str:
    """What to do about data in which a dataparser does not find what it looks for.

    Args:
        path: the data.
        dataparser: which has failed, as ns-train names it.
        wanted: what it looks for, in words.
    """
    return suggestion(path, dataparser) or f"Give {wanted}; docs/data.md lists what is read from which app or tool"


def _asked_for() -> str:
    """The method of an ns-train command, so that the command that is shown can be copied."""
    command, *rest = sys.argv or [""]
    return rest[0] if Path(command).stem == "ns-train" and rest and not rest[0].startswith("-") else "METHOD"


def as_table() -> str:
    """The formats as a table in Markdown, for the documentation."""
    rows = ["| you have | from | files | command | methods |", "|---|---|---|---|---|"]
    for each in FORMATS:
        name = each.name.removeprefix("a ").removeprefix("an ")
        command = each.command.replace(", then ", "`, then `")
        rows.append(f"| {name} | {each.made_by} | {each.files} | `{command}` | {each.methods} |")
    return "\n".join(rows)
