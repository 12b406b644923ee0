"""The folder layouts that data parsers read: Blender, nerfstudio and IDR / NeuS.

A writer is told of each view as it is rendered, from several threads, and of the end. Pictures come first and the
files that list them last, each of which appears as a whole: a reader never finds a list without its pictures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from common_ns.data.files import written_whole
from common_ns.sample_scene.cameras import SPLITS, Camera
from common_ns.sample_scene.rendering import View
from common_ns.sample_scene.sensors import MILLI, to_millis


@dataclass(frozen=True)
class Shot:
    """One view and its place in the dataset."""

    split: str
    """train, val or test."""
    index: int
    """Number within the split."""
    number: int
    """Number within the dataset: training views first, then validation, then test views."""
    camera: Camera
    """Where it was taken from."""

    @property
    def name(self) -> str:
        """Name that sorts in order within a split."""
        return f"{self.split}_{self.index:04d}"


@dataclass(frozen=True)
class Extras:
    """What only some layouts have of a view; None where it was not asked for. z-depth in scene units, 0: none."""

    depth: Float[ndarray, "h w"]
    """What the depth sensor gives."""
    mono: Float[ndarray, "h w"] | None
    """What the monocular predictor gives."""


class Writer(Protocol):
    """Writes one layout."""

    def add(self, shot: Shot, view: View, extras: Extras) -> None:
        """Write the pictures of a view."""
        ...

    def finish(self) -> None:
        """Write the files that list the pictures."""
        ...


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is there as a whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def to_bytes(values: Float[ndarray, "h w *c"]) -> UInt8[ndarray, "h w *c"]:
    """0..1 to 0..255."""
    return np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)


def _save(path: Path, pixels: ndarray) -> None:
    Image.fromarray(pixels).save(path, compress_level=4)


def _over(view: View, background: float) -> UInt8[ndarray, "h w 3"]:
    """The view over a gray background of the given display value."""
    alpha = view.alpha[..., None]
    return to_bytes(view.rgb * alpha + background * (1.0 - alpha))


class BlenderWriter:
    """`transforms_{train,val,test}.json` and RGBA pictures with straight alpha, `{split}/r_{index}.png`."""

    def __init__(self, folder: Path, shots: list[Shot]) -> None:
        self._folder, self._shots = folder, shots
        for split in SPLITS:
            (folder / split).mkdir(parents=True)

    def add(self, shot: Shot, view: View, extras: Extras) -> None:
        rgba = np.concatenate([view.rgb, view.alpha[..., None]], axis=2)
        _save(self._folder / shot.split / f"r_{shot.index}.png", to_bytes(rgba))

    def finish(self) -> None:
        camera = self._shots[0].camera
        angle = 2.0 * float(np.arctan(0.5 * camera.width / camera.focal))
        for split in SPLITS:
            frames = [
                {"file_path": f"./{split}/r_{shot.index}", "transform_matrix": shot.camera.camera_to_world.tolist()}
                for shot in self._shots
                if shot.split == split
            ]
            write_json(self._folder / f"transforms_{split}.json", {"camera_angle_x": angle, "frames": frames})


class NerfstudioWriter:
    """`transforms.json` with lists of the splits; RGB pictures over white, 16-bit z-depth in 1e-3 scene units.

    Args:
        folder: where to.
        shots: all views.
        mono: whether there is monocular depth, `mono_depth_file_path`, in the same format.
        masks: whether to write `mask_path`: white where the objects are. nerfstudio draws no rays where it is black.
        normals: whether to write `normal_file_path`: world-space normals, (n + 1) / 2, and black where there are none.
    """

    def __init__(self, folder: Path, shots: list[Shot], mono: bool, masks: bool, normals: bool) -> None:
        self._folder, self._shots = folder, shots
        # Key in a frame → folder of the pictures.
        self._folders = {"file_path": "images", "depth_file_path": "depths"}
        if mono:
            self._folders["mono_depth_file_path"] = "mono_depths"
        if masks:
            self._folders["mask_path"] = "masks"
        if normals:
            self._folders["normal_file_path"] = "normals"
        for name in self._folders.values():
            (folder / name).mkdir(parents=True)

    def add(self, shot: Shot, view: View, extras: Extras) -> None:
        for key, name in self._folders.items():
            if key == "file_path":
                pixels = _over(view, 1.0)
            elif key == "depth_file_path":
                pixels = to_millis(extras.depth)
            elif key == "mono_depth_file_path":
                assert extras.mono is not None
                pixels = to_millis(extras.mono)
            elif key == "mask_path":
                pixels = to_bytes(view.mask.astype(np.float64))
            else:
                pixels = np.where((view.depth > 0)[..., None], to_bytes((view.normals + 1.0) / 2.0), np.uint8(0))
            _save(self._folder / name / f"{shot.name}.png", pixels)

    def finish(self) -> None:
        camera = self._shots[0].camera
        content: dict[str, Any] = {
            "camera_model": "OPENCV",
            "fl_x": camera.focal,
            "fl_y": camera.focal,
            "cx": camera.width / 2,
            "cy": camera.height / 2,
            "w": camera.width,
            "h": camera.height,
            **{key: 0.0 for key in ("k1", "k2", "p1", "p2")},
            "depth_unit_scale_factor": MILLI,
            "depth_kind": "z",
        }
        if "normal_file_path" in self._folders:
            content["normal_space"] = "world"
        for split in SPLITS:
            content[f"{split}_filenames"] = [f"images/{shot.name}.png" for shot in self._shots if shot.split == split]
        content["frames"] = [
            {
                **{key: f"{name}/{shot.name}.png" for key, name in self._folders.items()},
                "transform_matrix": shot.camera.camera_to_world.tolist(),
            }
            for shot in self._shots
        ]
        write_json(self._folder / "transforms.json", content)


class IdrWriter:
    """`image/`, `mask/` and `cameras_sphere.npz` of all views, and `splits.json`, which lists the files of each split.

    Pictures are over black. `world_mat_i` is K [R | t] in OpenCV axes and maps to pixel indices, as IDR and NeuS read
    it: the first pixel's center is (0, 0).

    Args:
        folder: where to.
        shots: all views.
        center: middle of the objects in scene units.
        radius: radius of a sphere about it that holds the objects; `scale_mat_i` makes it the unit sphere.
    """

    def __init__(self, folder: Path, shots: list[Shot], center: Float[ndarray, "3"], radius: float) -> None:
        self._folder, self._shots = folder, shots
        self._scale = np.diag([radius, radius, radius, 1.0])
        self._scale[:3, 3] = center
        # Readers pair pictures and masks in sorted order, so the masks' numbers need as many digits as the last has.
        self._digits = max(3, len(str(len(shots) - 1)))
        for name in ("image", "mask"):
            (folder / name).mkdir(parents=True)

    def add(self, shot: Shot, view: View, extras: Extras) -> None:
        _save(self._folder / "image" / f"{shot.number:06d}.png", _over(view, 0.0))
        mask = to_bytes(view.mask.astype(np.float64))
        _save(self._folder / "mask" / f"{shot.number:0{self._digits}d}.png", mask)

    def finish(self) -> None:
        matrices: dict[str, Float[ndarray, "4 4"]] = {}
        for shot in self._shots:
            intrinsics = np.eye(4)
            intrinsics[:3, :3] = shot.camera.intrinsics(first_pixel=0.0)
            matrices[f"world_mat_{shot.number}"] = intrinsics @ shot.camera.opencv_pose
            matrices[f"scale_mat_{shot.number}"] = self._scale
        splits = {split: [f"{shot.number:06d}.png" for shot in self._shots if shot.split == split] for split in SPLITS}
        write_json(self._folder / "splits.json", splits)
        with written_whole(self._folder / "cameras_sphere.npz") as partial, partial.open("wb") as file:
            np.savez(file, **matrices)  # type: ignore[arg-type]
