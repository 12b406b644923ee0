"""A `transforms.json` as anyone may have written it, brought into the form that nerfstudio's dataparsers read rightly.

Tools differ in what they write, and nerfstudio's dataparsers each read a part of it. One set of rules holds for all:

- Intrinsics: what a frame says counts, else what the file says, else what follows from other fields. A focal length is
  `fl_x` (pixels), `camera_angle_x` (radians) or `x_fov` (degrees), in this order. Of two directions, one alone stands
  for both: pixels are square, or as the file's others where a frame states one. The principal point is the middle, the
  size that of the picture. A full panorama (EQUIRECTANGULAR) has fl_x = w / 2 and fl_y = h, as nerfstudio's rays want.
- Lenses: a frame's `distortion_params` or its `k1` … `p2`, else the file's. instant-ngp's `is_fisheye` and
  `equirectangular` are camera models, and so are COLMAP's names of models that nerfstudio has under another one.
- Poses: 3×4 or 4×4 camera to world, rigid, finite. `applied_transform` likewise.
- File names: with a slash or a backslash, with or without their suffix, in upper or lower case; absolute names of the
  machine that a capture comes from.
- Splits: where `val_filenames` or `test_filenames` is missing, the other stands in, else the frames that no list names.

What was changed is said in notes; what cannot be meant is an error with file, frame, field, value and remedy.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from common_ns.data.checks import check_pose, read_json
from common_ns.data.files import spelled_on_disk
from common_ns.errors import InputError

INTRINSICS = ("fl_x", "fl_y", "cx", "cy", "w", "h")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
"""Fields of the lens, in nerfstudio's order: radial of 2nd to 8th order, tangential."""
RATIONAL = ("k5", "k6")
"""Fields of OpenCV's rational model, which nerfstudio has not."""
FILE_FIELDS = ("file_path", "mask_path", "depth_file_path", "depth_sigma_file_path", "normal_file_path", "depth_path")
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".heic", ".heif", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".jp2", ".exr"),
)
"""Suffixes that are tried for a name without one, in this order."""
PERSPECTIVE_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
"""Camera models that are one and the same to nerfstudio: a perspective with distortion."""
CAMERA_MODELS = (
    *(*PERSPECTIVE_MODELS, "OPENCV_FISHEYE", "EQUIRECTANGULAR"),
    *("OMNIDIRECTIONALSTEREO_L", "OMNIDIRECTIONALSTEREO_R", "VR180_L", "VR180_R", "ORTHOPHOTO", "FISHEYE624"),
)
"""Camera models that nerfstudio knows."""
OTHER_NAMES = {
    "PERSPECTIVE": "OPENCV",
    **dict.fromkeys(("FISHEYE", "SIMPLE_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"), "OPENCV_FISHEYE"),
}
"""Names that other tools have for some of them."""
LENS_NUMBERS = {"FISHEYE624": 12}
"""Length of `distortion_params`, by the camera model; 6 for all others."""
UNDISTORT = "Undistort the images, as with colmap image_undistorter, and give that model"
SPLITS = ("train", "val", "test")
LARGEST_COORDINATE = 1e15
"""Positions from here on are not lengths: single precision cannot tell their differences."""
ONE_PLACE = 1e-6
"""Spread of positions, relative to their size, below which they are one place but for rounding."""
LARGEST_SCENE = 1e3
"""Size of positions from which they are those of a map's grid: then not their size tells the rounding."""
OFF_ORIGIN = 1e3
"""Distance of positions from the origin, in their spread, from which single precision loses what it needs."""
IN_THE_MIDDLE = 0.1
"""Distance of a principal point from the middle, in sizes of the picture, up to which it belongs to that picture."""
SAME_ANGLE = 0.02
"""Relative difference of two statements of the focal length that is rounding."""


@dataclass
class Transforms:
    """The content of a file, in the one form."""

    path: Path
    """The file."""
    content: dict[str, Any]
    """Fields of nerfstudio's format. Intrinsics are the file's if all frames have the same, else each frame's; poses
    are 4×4; names of files are those on disk, where they are there."""
    notes: list[str] = field(default_factory=list)
    """What was changed, in one line each."""

    @property
    def frames(self) -> list[dict[str, Any]]:
        """One for each image."""
        return self.content["frames"]

    @property
    def positions(self) -> np.ndarray:
        """Where the cameras are, [n, 3], in double precision."""
        return np.array([frame["transform_matrix"] for frame in self.frames], dtype=np.float64)[:, :3, 3]

    def intrinsics(self, frame: dict[str, Any]) -> dict[str, Any]:
        """Intrinsics and distortion of a frame."""
        keys = (*INTRINSICS, *DISTORTION, "distortion_params", "camera_model")
        return {key: frame.get(key, self.content.get(key)) for key in keys}


def read_transforms(path: Path, size_of: Callable[[Path], tuple[int, int]], blender: bool = False) -> Transforms:
    """Read a `transforms.json`, of nerfstudio, of a Blender scene, or of instant-ngp.

    Args:
        path: the file.
        size_of: (width, height) of a picture, for files that do not state it.
        blender: of a Blender scene: names of images have no suffix, and .png is meant; splits are files of their own.
    Raises: InputError about what cannot be meant.
    """
    content = dict(read_json(path, required=["frames"]))
    folder = path.parent
    frames = content["frames"]
    if not isinstance(frames, list):
        raise InputError(f'the field "frames" holds {_short(frames)}', "It must be a list of frames", path)
    if not frames:
        raise InputError("the list of frames is empty", "Add frames, or choose another split", path)
    for index, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise InputError(f"frame {index} is {_short(frame)}", "It must be an object with fields", path)
        for key in ("file_path", "transform_matrix"):
            if frame.get(key) is None:
                state = "is null" if key in frame else "is missing"
                raise InputError(f'the field "{key}" of frame {index} {state}', "Give it a value", path)
    # Fields that are null say nothing.
    content = {key: value for key, value in content.items() if value is not None}
    frames = [{key: value for key, value in frame.items() if value is not None} for frame in frames]
    result = Transforms(path, {**content, "frames": frames})
    _mend_names(result, folder, blender)
    _mend_poses(result)
    _mend_camera_model(result)
    _mend_intrinsics(result, folder, size_of)
    if not blender:
        _mend_splits(result, folder)
    _look_for_duplicates(result)
    return result


def number(value: Any, name: str, path: Path) -> float:
    """A field's value as a finite number; text that is one counts.

    Raises: InputError with the name and the value.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, (numbers.Real, str)):
            raise TypeError
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {_short(value)}", "It must be a number", path) from None
    if not math.isfinite(result):
        raise InputError(f"{name} is {result}", "It must be a finite number", path)
    return result


def positions_in_one_place(positions: np.ndarray) -> bool:
    """Whether positions [n, 3] differ by rounding at most."""
    spread = float(np.abs(positions - positions.mean(axis=0)).max())
    return spread <= ONE_PLACE * min(float(np.abs(positions).max()), LARGEST_SCENE)


def far_from_origin(positions: np.ndarray) -> np.ndarray | None:
    """The middle [3] of positions [n, 3] that single precision would blur, as the coordinates of a map's grid are;
    None of others."""
    middle = positions.mean(axis=0)
    spread = float(np.abs(positions - middle).max())
    is_far = float(np.abs(middle).max()) > OFF_ORIGIN * spread and not positions_in_one_place(positions)
    return middle if is_far else None


def _short(value: Any) -> str:
    """A value from JSON in a few words."""
    kind = {list: "a list", dict: "an object"}.get(type(value))
    text = kind or ("null" if value is None else repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---------------------------------------------------------------------------------------------------------------------
# Names of files


def find_file(folder: Path, name: str, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> str | None:
    """The name, relative to a folder, of the file that is meant; None if there is none.

    Tried in this order: the name as it is; with slashes for backslashes; with a suffix; in another case; of an absolute
    name, of this machine's or another's, as much of its end as names a file in the folder.

    Args:
        folder: from which the name starts.
        name: as it is stated.
        suffixes: that a name without its suffix may have.
    """
    slashes = name.replace("\\", "/")
    for spelled in dict.fromkeys((name, slashes)):
        path = folder / spelled
        with suppress(OSError, ValueError):  # a name too long, or with a zero byte
            if path.is_file() or path.is_fifo() or path.is_char_device() or path.is_symlink():
                return spelled
    is_absolute = PurePosixPath(slashes).is_absolute() or bool(PureWindowsPath(name).drive)
    parts = PureWindowsPath(slashes).parts[1:] if is_absolute else ()
    for spelled in (slashes, *("/".join(parts[start:]) for start in range(len(parts)))):
        for ending in ("", *suffixes):
            with suppress(OSError, ValueError):
                found = _on_disk(folder, f"{spelled}{ending}")
                if found is not None and (folder / found).is_file():
                    return found
    return None


def _on_disk(folder: Path, name: str) -> str | None:
    """`spelled_on_disk` for absolute names too."""
    path = PurePosixPath(name)
    if not path.is_absolute():
        return spelled_on_disk(folder, name)
    found = spelled_on_disk(Path(path.anchor), str(path.relative_to(path.anchor)))
    return None if found is None else f"{path.anchor}{found}"


def _mend_names(transforms: Transforms, folder: Path, blender: bool) -> None:
    changed: dict[str, int] = {}
    example = ""

    def mended(name: Any, what: str) -> str:
        nonlocal example
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{what} is {_short(name)}", "It must be the name of a file", transforms.path)
        found = find_file(folder, name)
        if blender:
            name = name.removeprefix("./")
            if found is None and Path(name).suffix.lower() not in IMAGE_SUFFIXES:
                return f"{name}.png"
            if found is not None and found.removeprefix("./") in (name, f"{name}.png"):
                return found.removeprefix("./")
        if found is None or found == name:
            return name
        reason = "slashes for backslashes" if found == name.replace("\\", "/") else "the spelling on disk"
        if not changed:
            example = f"{name} is {found}"
        changed[reason] = changed.get(reason, 0) + 1
        return found

    for index, frame in enumerate(transforms.frames):
        for key in FILE_FIELDS:
            if key in frame:
                frame[key] = mended(frame[key], f'the field "{key}" of frame {index}')
    for reason, count in changed.items():
        transforms.notes.append(f"{count} names of files are read with {reason} ({example}).")


# ---------------------------------------------------------------------------------------------------------------------
# Poses


def _matrix(value: Any, name: str, path: Path) -> np.ndarray:
    """A 3×4 or 4×4 matrix as 4×4."""
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is not a matrix of numbers ({_short(value)})", "Correct it", path) from None
    if matrix.shape not in ((3, 4), (4, 4)):
        raise InputError(f"{name} has shape {matrix.shape}", "Give a 3×4 or 4×4 matrix", path)
    if matrix.shape == (4, 4) and not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-6, equal_nan=True):
        row = ", ".join(f"{entry:g}" for entry in matrix[3])
        raise InputError(f"the last row of {name} is {row}", "It must be 0, 0, 0, 1: matrices are by rows", path)
    return np.vstack([matrix[:3], [0.0, 0.0, 0.0, 1.0]])


def _mend_poses(transforms: Transforms) -> None:
    path, content = transforms.path, transforms.content
    for frame in transforms.frames:
        name = f"the pose of {frame['file_path']}"
        pose = _matrix(frame["transform_matrix"], name, path)
        check_pose(pose, frame["file_path"], path)
        farthest = float(np.abs(pose[:3, 3]).max())
        if farthest > LARGEST_COORDINATE:
            raise InputError(f"{name} puts it at {farthest:.3g}", "Correct this frame or remove it", path)
        frame["transform_matrix"] = pose.tolist()
    if "applied_transform" in content:
        applied = _matrix(content["applied_transform"], "applied_transform", path)
        content["applied_transform"] = applied[:3].tolist()
    if "applied_scale" in content:
        scale = number(content["applied_scale"], "applied_scale", path)
        if scale <= 0:
            raise InputError(f"applied_scale is {scale:g}", "It must be above 0", path)
    orientation = content.get("orientation_override", "up")
    if orientation not in ("pca", "up", "vertical", "none"):
        problem = f"orientation_override is {_short(orientation)}"
        raise InputError(problem, "Choose pca, up, vertical or none, or remove it", path)


# ---------------------------------------------------------------------------------------------------------------------
# Intrinsics


def _mend_camera_model(transforms: Transforms) -> None:
    path, content = transforms.path, transforms.content
    stated = [frame.pop("camera_model") for frame in transforms.frames if "camera_model" in frame]
    spelled = {str(model) for model in (*stated, *([content["camera_model"]] if "camera_model" in content else []))}
    models = {OTHER_NAMES.get(model.upper(), model.upper()) for model in spelled}
    for key, model in (("is_fisheye", "OPENCV_FISHEYE"), ("equirectangular", "EQUIRECTANGULAR")):
        if any(_is_true(fields.get(key)) for fields in (content, *transforms.frames)) and not models - {"OPENCV"}:
            models = {model}
            transforms.notes.append(f"{key} is taken for the camera model {model}.")
    if len(models) > 1 and models <= set(PERSPECTIVE_MODELS):
        models = {"OPENCV"}
    if len(models) > 1:
        problem = f"the frames mix the camera models {', '.join(sorted(spelled))}"
        raise InputError(problem, "Give all frames one camera model, or divide the capture", path)
    if not models:
        return
    known = models.pop()
    if known == "FULL_OPENCV" and not any(_nonzero(transforms, ("k4", *RATIONAL))):
        known = "OPENCV"
        transforms.notes.append("FULL_OPENCV without k4, k5 and k6 is OPENCV.")
    if known not in CAMERA_MODELS:
        problem = f'the camera model is "{spelled.pop()}", and nerfstudio knows {", ".join(CAMERA_MODELS[:7])}'
        raise InputError(problem, UNDISTORT, path)
    content["camera_model"] = known


def _is_true(value: Any) -> bool:
    """Whether a field says yes, as JSON's true, a number or a word."""
    return value is True or value == 1 or (isinstance(value, str) and value.strip().lower() in ("true", "yes", "1"))


def _nonzero(transforms: Transforms, keys: Iterable[str]) -> Iterable[tuple[str, float]]:
    """Fields of the file or of frames that are not 0."""
    for fields in (transforms.content, *transforms.frames):
        for key in keys:
            if key in fields and (value := number(fields[key], key, transforms.path)) != 0.0:
                yield key, value


def _mend_intrinsics(transforms: Transforms, folder: Path, size_of: Callable[[Path], tuple[int, int]]) -> None:
    path, content = transforms.path, transforms.content
    for key, value in _nonzero(transforms, RATIONAL):
        raise InputError(
            f"{key} is {value:g}, of OpenCV's rational lens model, which nerfstudio has not", UNDISTORT, path
        )
    files = [folder / frame["file_path"] for frame in transforms.frames]
    stated = [{**content, **frame} for frame in transforms.frames]
    if not all("w" in fields and "h" in fields for fields in stated):
        some = next((size_of(file) for file in files if file.exists()), None)
        # Images that are missing are dealt with later: they may be left out.
        size_of = partial(_size_or, size_of, some)
    every = [_frame_intrinsics(transforms, frame, folder, size_of) for frame in transforms.frames]
    lenses = [_lens(transforms, frame) for frame in transforms.frames]
    lens = tuple(key for key in (*DISTORTION, "distortion_params") if any(key in found for found in lenses))
    for own, found in zip(every, lenses):
        own.update({key: found.get(key, 0.0) for key in lens})
    for fields in (content, *transforms.frames):
        fields.pop("distortion_params", None)
    for key in (*INTRINSICS, *lens):
        values = [own[key] for own in every]
        shared = all(value == values[0] for value in values)
        if shared:
            content[key] = values[0]
        else:
            content.pop(key, None)
        for frame, value in zip(transforms.frames, values):
            frame.pop(key, None)
            if not shared:
                frame[key] = value
    if any(key not in content for key in lens):
        # nerfstudio takes the lens from the file altogether, or from the frames altogether.
        for key in lens:
            value = content.pop(key, None)
            for frame in transforms.frames:
                frame.setdefault(key, value)
    sizes = [f"{own['w']}×{own['h']}" for own in every]
    if len(set(sizes)) > 1 and not all("w" in fields for fields in stated):
        counts = ", ".join(f"{size} ({sizes.count(size)})" for size in list(dict.fromkeys(sizes))[:4])
        transforms.notes.append(f"The images have different sizes: {counts}. Each is taken for a whole picture.")
    if any(own.pop("contradiction", False) for own in every):
        text = "The focal length in pixels (fl_x) and the angle of view (camera_angle_x) differ: fl_x counts."
        transforms.notes.append(text)


def _size_or(size_of: Callable[[Path], tuple[int, int]], other: tuple[int, int] | None, file: Path) -> tuple[int, int]:
    """The size of a picture; if it is not there, another."""
    return size_of(file) if other is None or file.exists() or file.is_symlink() else other


def _lens(transforms: Transforms, frame: dict[str, Any]) -> dict[str, Any]:
    """Distortion of a frame by name, or as `distortion_params` where the camera model has other numbers than k1 … p2;
    none where nothing is stated."""
    path, content = transforms.path, transforms.content
    model = content.get("camera_model", "OPENCV")
    for fields in (frame, content):
        if "distortion_params" in fields:
            values, wanted = fields["distortion_params"], LENS_NUMBERS.get(model, len(DISTORTION))
            if not isinstance(values, list) or len(values) != wanted:
                names = ", ".join(DISTORTION) if wanted == len(DISTORTION) else f"those of {model}"
                shown = f"{len(values)} numbers" if isinstance(values, list) else _short(values)
                problem = f"distortion_params is {shown}"
                raise InputError(problem, f"It must be a list of {wanted} numbers: {names}", path)
            found = [number(each, "distortion_params", path) for each in values]
            return dict(zip(DISTORTION, found)) if wanted == len(DISTORTION) else {"distortion_params": found}
        if any(key in frame for key in DISTORTION):
            break
    stated = [key for key in DISTORTION if key in frame or key in content]
    return {key: number(frame.get(key, content.get(key)), key, path) for key in stated}


def _frame_intrinsics(
    transforms: Transforms, frame: dict[str, Any], folder: Path, size_of: Callable[[Path], tuple[int, int]]
) -> dict[str, Any]:
    """Intrinsics of a frame by the rule of this module, and whether two statements of its focal length contradict."""
    path, content = transforms.path, transforms.content

    def value(key: str) -> float | None:
        own = frame.get(key, content.get(key))
        return None if own is None else number(own, f"{key} of {frame['file_path']}", path)

    is_panorama = _is_panorama(content)

    def radians(fields: dict[str, Any], key: str, degrees: str) -> float | None:
        """An angle of view that is stated in some fields."""
        name = next((name for name in (key, degrees) if name in fields), None)
        if name is None or is_panorama:
            return None
        shown = number(fields[name], f"{name} of {frame['file_path']}", path)
        angle = math.radians(shown) if name == degrees else shown
        if not 0.0 < angle < math.pi:
            if name == degrees or angle <= 0.0 or angle >= 180.0:
                unit, remedy = ("degrees", "180") if name == degrees else ("radians", "π (3.1416)")
                raise InputError(f"{name} is {shown:g}", f"It must be an angle in {unit} between 0 and {remedy}", path)
            problem = f"{name} is {angle:g}, more than half a turn in radians"
            raise InputError(problem, f"If these are degrees, write {math.radians(angle):.6g}", path)
        return angle

    def focal_length(fields: dict[str, Any], key: str, side: float, *angles: str) -> float | None:
        """What some fields say of a focal length; the length goes before the angle."""
        stated, angle = fields.get(key), radians(fields, *angles)
        derived = None if angle is None else 0.5 * side / math.tan(0.5 * angle)
        length = derived if stated is None else number(stated, f"{key} of {frame['file_path']}", path)
        if length is not None and derived is not None and abs(derived / length - 1.0 if length else 1.0) > SAME_ANGLE:
            result["contradiction"] = True
        return length

    width, height, x, y = value("w"), value("h"), value("cx"), value("cy")
    if width is None or height is None:
        size = size_of(folder / frame["file_path"])
        upright = size[1], size[0]
        if width is None and height is None and _fits(x, y, upright) and not _fits(x, y, size):
            size = upright  # the principal point is that of the picture as EXIF turns it
        width, height = width or size[0], height or size[1]
    for name, side in (("w", width), ("h", height)):
        if side != int(side) or not 1 <= side <= 2**24:
            problem = f"{name} of {frame['file_path']} is {side:g}"
            raise InputError(problem, "It must be the size of the image in pixels", path)
    result: dict[str, Any] = {"w": int(width), "h": int(height)}
    x_fields, y_fields = ("fl_x", width, "camera_angle_x", "x_fov"), ("fl_y", height, "camera_angle_y", "y_fov")
    focal, other = focal_length(frame, *x_fields), focal_length(frame, *y_fields)
    files, files_other = focal_length(content, *x_fields), focal_length(content, *y_fields)
    aspect = files_other / files if files and files_other else 1.0
    if is_panorama:
        aspect, files, files_other = 2.0 * height / width, files or 0.5 * width, files_other or float(height)
    if focal is None and other is None:
        focal, other = files, files_other
    focal = other / aspect if focal is None and other is not None else focal
    other = focal * aspect if other is None and focal is not None else other
    if focal is None or other is None:
        problem = f'the focal length of {frame["file_path"]} is missing: there is neither "fl_x" nor "camera_angle_x"'
        raise InputError(
            problem, "Add fl_x in pixels, or camera_angle_x in radians, to the file or to each frame", path
        )
    for name, length in (("fl_x", focal), ("fl_y", other)):
        if length <= 0.0:
            problem = f"{name} of {frame['file_path']} is {length:g}"
            raise InputError(problem, "It must be the focal length in pixels, above 0", path)
    result.update(fl_x=focal, fl_y=other, cx=0.5 * width if x is None else x, cy=0.5 * height if y is None else y)
    return result


def _fits(x: float | None, y: float | None, size: tuple[int, int]) -> bool:
    """Whether a principal point is near the middle of a picture of this (width, height)."""
    off = [abs(at / side - 0.5) for at, side in ((x, size[0]), (y, size[1])) if at is not None]
    return len(off) == 2 and max(off) < IN_THE_MIDDLE


def _is_panorama(content: dict[str, Any]) -> bool:
    """Whether the camera model has no focal length."""
    return str(content.get("camera_model", "")).startswith(("EQUI", "OMNI", "VR180"))


# ---------------------------------------------------------------------------------------------------------------------
# Splits


def _mend_splits(transforms: Transforms, folder: Path) -> None:
    path, content = transforms.path, transforms.content
    lists = {split: content[f"{split}_filenames"] for split in SPLITS if f"{split}_filenames" in content}
    if not lists:
        return
    frames = {frame["file_path"]: frame["file_path"] for frame in transforms.frames}
    frames |= {Path(name).as_posix(): name for name in frames}
    for split, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            problem = f"{split}_filenames is {_short(names)}"
            raise InputError(problem, "It must be a list of the file_path of frames", path)
        found = [
            frames.get(name) or frames.get(Path(name).as_posix()) or frames.get(find_file(folder, name) or name)
            for name in names
        ]
        if None in found:
            name = names[found.index(None)]
            problem = f"{split}_filenames lists {name}, which is the file_path of no frame"
            raise InputError(problem, "Correct the list, or add the frame", path)
        content[f"{split}_filenames"] = lists[split] = found
    remedy = "Add the list, or remove all lists, so that --eval-mode divides the frames"
    if not lists.get("train"):
        raise InputError('the list "train_filenames" is missing or empty', remedy, path)
    if lists.get("val") and lists.get("test"):
        return
    there = lists.get("val") or lists.get("test")
    if there is None:
        listed = set(lists["train"])
        there = [frame["file_path"] for frame in transforms.frames if frame["file_path"] not in listed]
        if not there:
            problem = (
                'the lists "val_filenames" and "test_filenames" are missing or empty, and all frames are for training'
            )
            raise InputError(problem, remedy, path)
        transforms.notes.append(f"The {len(there)} frames that train_filenames does not list are for evaluation.")
    else:
        lacking = "val" if lists.get("test") else "test"
        transforms.notes.append(f"There are no {lacking}_filenames: the other evaluation frames stand in.")
    content["val_filenames"] = lists.get("val") or there
    content["test_filenames"] = lists.get("test") or there


def _look_for_duplicates(transforms: Transforms) -> None:
    names = [frame["file_path"] for frame in transforms.frames]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1] if len(set(names)) < len(names) else []
    if twice:
        text = f"{len(twice)} images are listed more than once, and count as often: {', '.join(twice[:3])}."
        transforms.notes.append(text)
