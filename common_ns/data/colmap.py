"""COLMAP models: which of those in a data set counts, and their files, read and checked.

A model is cameras, images and points3D, each as .bin or .txt (https://colmap.github.io/format.html). What else lies
beside them, such as rigs and frames of COLMAP 3.12, is not needed. Sizes that a file states are compared with what is
in it before anything is read by them: a file that is cut off anywhere ends in one line.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from common_ns.data.files import require_file
from common_ns.data.notes import note_once
from common_ns.errors import InputError

if TYPE_CHECKING:
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

PARENTS = ("colmap/sparse", "sparse", "colmap", "")
"""Where a model may lie in a data set; of each, first in numbered folders."""
FORMS = (".bin", ".txt")
"""COLMAP itself prefers .bin; nerfstudio reads cameras and images from .txt first."""

CAMERA_MODELS = {
    "SIMPLE_PINHOLE": (0, "f cx cy"),
    "PINHOLE": (1, "fx fy cx cy"),
    "SIMPLE_RADIAL": (2, "f cx cy k1"),
    "RADIAL": (3, "f cx cy k1 k2"),
    "OPENCV": (4, "fx fy cx cy k1 k2 p1 p2"),
    "OPENCV_FISHEYE": (5, "fx fy cx cy k1 k2 k3 k4"),
    "FULL_OPENCV": (6, "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6"),
    "FOV": (7, "fx fy cx cy omega"),
    "SIMPLE_RADIAL_FISHEYE": (8, "f cx cy k1"),
    "RADIAL_FISHEYE": (9, "f cx cy k1 k2"),
    "THIN_PRISM_FISHEYE": (10, "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1"),
    "RAD_TAN_THIN_PRISM_FISHEYE": (11, "fx fy cx cy k0 k1 k2 k3 k4 k5 p0 p1 s0 s1 s2 s3"),
    "SIMPLE_DIVISION": (12, "f cx cy k"),
    "DIVISION": (13, "fx fy cx cy k"),
    "SIMPLE_FISHEYE": (14, "f cx cy"),
    "FISHEYE": (15, "fx fy cx cy"),
    "EUCM": (16, "fx fy cx cy alpha beta"),
    "EQUIRECTANGULAR": (17, "w h"),
}
"""Numbers and parameters of the camera models, as COLMAP orders them."""
MODEL_NAMES = {number: name for name, (number, _) in CAMERA_MODELS.items()}

SUPPORTED = {
    **dict.fromkeys(("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"), "OPENCV"),
    **dict.fromkeys(("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE"), "OPENCV_FISHEYE"),
    **dict.fromkeys(("THIN_PRISM_FISHEYE", "SIMPLE_FISHEYE", "FISHEYE"), "OPENCV_FISHEYE"),
}
"""nerfstudio's camera model that is the same as COLMAP's, but for the parameters that have to be 0."""
HAS_TO_BE_0 = {"FULL_OPENCV": ("k4", "k5", "k6"), "THIN_PRISM_FISHEYE": ("p1", "p2", "sx1", "sy1")}
"""Parameters that nerfstudio's camera model lacks."""
POINT = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8")])
"""What points3D.bin has of a point, before the images that see it."""


@dataclass(frozen=True)
class ColmapCamera:
    """The intrinsics of some images."""

    id: int
    model: str
    """A name of CAMERA_MODELS."""
    width: int
    height: int
    params: Float[ndarray, " k"]
    """In the order of CAMERA_MODELS; lengths in pixels."""


@dataclass(frozen=True)
class ColmapImage:
    """An image with a pose, and its key points."""

    id: int
    qvec: Float[ndarray, "4"]
    """Unit quaternion (w, x, y, z) of the rotation from the world to the camera, in OpenCV axes."""
    tvec: Float[ndarray, "3"]
    """Translation from the world to the camera."""
    camera_id: int
    name: str
    """Path below the folder of images."""
    xys: Float[ndarray, "k 2"]
    """Key points in pixels from the upper left corner."""
    point3D_ids: Int[ndarray, " k"]
    """Numbers of the points that they are images of; −1: none."""


@dataclass(frozen=True)
class ColmapPoints:
    """Points in the world."""

    ids: Int[ndarray, " m"]
    xyz: Float[ndarray, "m 3"]
    rgb: UInt8[ndarray, "m 3"]
    error: Float[ndarray, " m"]
    """Mean distance in pixels between a point's images and its key points."""

    @staticmethod
    def of(rows: ndarray) -> ColmapPoints:
        """From rows of POINT."""
        return ColmapPoints(rows["id"].astype(np.int64), rows["xyz"], rows["rgb"], rows["error"])

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Reconstruction:
    """A COLMAP model: its cameras by number and its images sorted by name."""

    folder: Path
    cameras: dict[int, ColmapCamera]
    images: list[ColmapImage]
    form: str
    """Suffix of the files they were read from."""

    @classmethod
    def read(cls, folder: Path, form: str | None = None):
        """Read a model.

        Args:
            folder: that holds its files.
            form: suffix of those to read; None: .bin if they are there, else .txt.
        Raises: InputError that names the file, and the image or camera, if it is missing, cut off or damaged.
        """
        form = form or next((suffix for suffix in FORMS if _has_form(folder, suffix)), None)
        if form is None:
            problem = "is no COLMAP model: it lacks cameras and images (.bin or .txt)"
            raise InputError(problem, "Correct the path", folder)
        cameras = {camera.id: camera for camera in read_cameras(folder / f"cameras{form}")}
        images = read_images(folder / f"images{form}")
        if not images:
            raise InputError("the COLMAP model has no images", "Reconstruct the scene again", folder)
        for image in images:
            if image.camera_id not in cameras:
                known = ", ".join(str(number) for number in sorted(cameras)[:8]) or "none"
                problem = f"the image {image.name} is of camera {image.camera_id}, and the cameras are {known}"
                raise InputError(problem, "Export cameras and images of one model", folder / f"images{form}")
        return cls(folder, cameras, sorted(images, key=lambda image: image.name), form)

    @cached_property
    def points(self) -> ColmapPoints:
        """Its points; none if there is no points3D.

        Raises: InputError if its file is damaged.
        """
        files = [self.folder / f"points3D{form}" for form in (self.form, *FORMS)]
        file = next((file for file in files if file.exists()), None)
        return read_points(file) if file is not None else ColmapPoints.of(np.zeros(0, POINT))

    @cached_property
    def used_cameras(self) -> list[ColmapCamera]:
        """The cameras of its images."""
        return [self.cameras[number] for number in sorted({image.camera_id for image in self.images})]

    def intrinsics(self, camera: ColmapCamera) -> dict[str, Any]:
        """A camera as fields of a transforms.json: camera_model, w, h, fl_x, fl_y, cx, cy and its distortion.

        Raises: InputError if nerfstudio has no camera model that is exactly the same.
        """
        values = dict(zip(CAMERA_MODELS[camera.model][1].split(), camera.params.tolist()))
        odd = [f"{name} = {values[name]:g}" for name in HAS_TO_BE_0.get(camera.model, ()) if values[name] != 0.0]
        if camera.model not in SUPPORTED or odd:
            raise self.refused(camera, f" with {', '.join(odd)}" if odd else "")
        kind = SUPPORTED[camera.model]
        distortion = ["k1", "k2", "k3", "k4"] if kind == "OPENCV_FISHEYE" else ["k1", "k2", "p1", "p2"]
        if camera.model == "FULL_OPENCV":
            distortion.append("k3")
        return {
            "w": camera.width,
            "h": camera.height,
            "fl_x": values.get("f", values.get("fx")),
            "fl_y": values.get("f", values.get("fy")),
            "cx": values["cx"],
            "cy": values["cy"],
            **{name: values.get(name, 0.0) for name in distortion},
            "camera_model": kind,
        }

    def camera_model(self, cameras: list[ColmapCamera]) -> str:
        """nerfstudio's camera model of cameras, which has to be one.

        Raises: InputError if there are several, or one that nerfstudio does not have.
        """
        kinds = {self.intrinsics(camera)["camera_model"]: camera for camera in cameras}
        if len(kinds) > 1:
            names = " and ".join(f"{camera.model} (camera {camera.id})" for camera in kinds.values())
            problem = f"the model mixes perspective and fisheye cameras: {names}"
            raise InputError(problem, f"Make all of them perspective: {self._undistort}", self.folder)
        return next(iter(kinds))

    def refused(self, camera: ColmapCamera, why: str = "") -> InputError:
        """The error about a camera that nerfstudio cannot use."""
        problem = f"the camera {camera.id} has COLMAP's camera model {camera.model}{why}, which cannot be used here"
        if camera.model == "EQUIRECTANGULAR":
            remedy = "Cut the panoramas into perspective views, and reconstruct with those"
        else:
            remedy = f"Undistort the images: {self._undistort}"
        return InputError(problem, remedy, self.folder)

    @property
    def _undistort(self) -> str:
        command = "colmap image_undistorter --image_path images --input_path"
        return f"{command} {self.folder} --output_path undistorted, then read the folder undistorted"


def find_model(data: Path, largest: bool = True) -> Path | None:
    """The folder of the COLMAP model in or at a folder; None if there is none.

    Where COLMAP could not connect all images it leaves several models (sparse/0, sparse/1, …): the one with the most
    images counts, and the run says so.

    Args:
        data: of a data set, or of a model.
        largest: False: take the first of several, which is what `ns-process-data` reads.
    """
    for name in PARENTS:
        parent = data / name
        numbered = [folder for folder in _numbered(parent) if is_model(folder)] if name else []
        if len(numbered) > 1 and largest:
            counts = [_count_images(folder) for folder in numbered]
            best = numbered[max(range(len(numbered)), key=lambda index: counts[index])]
            words = ", ".join(f"{folder.name} ({count} images)" for folder, count in zip(numbered, counts))
            note_once(f"{parent} holds {len(numbered)} COLMAP models, {words}: {best.name} is used.")
            return best
        if numbered:
            return numbered[0]
        if is_model(parent):
            return parent
    return None


def parser_content(model: Reconstruction, config: ColmapDataParserConfig) -> dict[str, Any]:
    """What nerfstudio's `ColmapDataParser._get_all_images_and_cameras` makes of a model: the fields of a
    transforms.json, with poses as arrays. The same numbers for models that it can read, and right ones for quaternions
    of any length, names with spaces in text models, and cameras that are its own under another name.

    Raises: InputError if a camera's model has no counterpart in nerfstudio, or several are mixed.
    """
    from nerfstudio.data.utils.colmap_parsing_utils import qvec2rotmat

    kind = model.camera_model(model.used_cameras)
    fields = {camera.id: model.intrinsics(camera) for camera in model.used_cameras}
    # COLMAP's guess of what is down, −y, becomes nerfstudio's, −z.
    turn = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    folders = {"mask_path": config.masks_path, "depth_path": config.depths_path}
    frames = []
    for image in sorted(model.images, key=lambda image: image.id):
        world_to_camera = np.eye(4)
        world_to_camera[:3] = np.column_stack([qvec2rotmat(image.qvec), image.tvec])
        pose = np.linalg.inv(world_to_camera)
        pose[:3, 1:3] *= -1.0  # OpenCV axes to OpenGL's
        if config.assume_colmap_world_coordinate_convention:
            pose[:3] = turn @ pose[:3]
        beside = {
            field: (config.data / folder / image.name).with_suffix(".png").as_posix()
            for field, folder in folders.items()
            if folder is not None
        }
        path = (config.data / config.images_path / image.name).as_posix()
        own = {"file_path": path, "transform_matrix": pose, "colmap_im_id": image.id, **fields[image.camera_id]}
        frames.append({**own, **beside})
    applied = {"applied_transform": np.column_stack([turn, np.zeros(3)]).tolist()}
    applied = applied if config.assume_colmap_world_coordinate_convention else {}
    return {"frames": frames, **applied, "camera_model": kind}


def check_model(folder: Path, needs_points: bool = True) -> Reconstruction:
    """Read a COLMAP model for nerfstudio's `colmap` dataparser: cameras and images as .txt before .bin, as it does.

    Args:
        folder: that holds its files.
        needs_points: whether the dataparser loads the points (its `load_3D_points`).
    Raises: InputError if it is damaged, or has something that the dataparser cannot use.
    """
    form = next((suffix for suffix in (".txt", ".bin") if (folder / f"cameras{suffix}").exists()), None)
    model = Reconstruction.read(folder, form)
    model.camera_model(model.used_cameras)
    if needs_points:
        # The dataparser reads them itself, .bin first.
        file = next((folder / f"points3D{suffix}" for suffix in FORMS if (folder / f"points3D{suffix}").exists()), None)
        if file is None or not len(read_points(file)):
            problem = "the COLMAP model has no points (points3D.bin or .txt)"
            raise InputError(problem, "Export them as well, or add --load-3D-points False", folder)
    return model


def _numbered(parent: Path) -> list[Path]:
    try:
        return sorted((f for f in parent.iterdir() if f.name.isdecimal()), key=lambda folder: int(folder.name))
    except OSError:
        return []


def _has_form(folder: Path, form: str) -> bool:
    return all((folder / f"{name}{form}").exists() for name in ("cameras", "images"))


def is_model(folder: Path) -> bool:
    """Whether a folder holds the cameras and images of a COLMAP model."""
    return any(_has_form(folder, form) for form in FORMS)


def _count_images(folder: Path) -> int:
    """Number of images that a model states; 0 if that cannot be read."""
    file = next(folder / f"images{form}" for form in FORMS if _has_form(folder, form))
    try:
        if file.suffix == ".txt":
            return len(read_images(file))
        with require_file(file).open("rb") as stream:
            count = struct.unpack("<Q", stream.read(8))[0]
        return count if count <= file.stat().st_size else 0
    except (InputError, OSError, struct.error):
        return 0


# ---------------------------------------------------------------------------------------------------------------------
# Files


def read_cameras(file: Path) -> list[ColmapCamera]:
    """The cameras of a model.

    Raises: InputError if the file is missing or damaged, or holds impossible values.
    """
    cameras = list(_cameras_of_text(file) if file.suffix == ".txt" else _cameras_of_binary(file))
    for camera in cameras:
        names = CAMERA_MODELS[camera.model][1].split()
        if len(camera.params) != len(names):
            problem = f"the camera {camera.id} has {len(camera.params)} parameters, and {camera.model} has "
            raise InputError(f"{problem}{len(names)}: {', '.join(names)}", "Export the model again", file)
        values = dict(zip(names, camera.params.tolist()))
        bad = next((name for name, value in values.items() if not math.isfinite(value)), None)
        bad = bad or next((name for name in ("f", "fx", "fy") if values.get(name, 1.0) <= 0.0), None)
        if bad is not None:
            problem = f"the camera {camera.id} has {bad} = {values[bad]:g}"
            raise InputError(problem, "Reconstruct the scene again", file)
        if camera.width < 1 or camera.height < 1:
            problem = f"the camera {camera.id} has {camera.width}×{camera.height} pixels"
            raise InputError(problem, "Reconstruct the scene again", file)
    _check_unique([camera.id for camera in cameras], "camera", file)
    return cameras


def read_images(file: Path) -> list[ColmapImage]:
    """The images of a model, with quaternions of length 1.

    Raises: InputError if the file is missing or damaged, or holds impossible values.
    """
    images = []
    for image in _images_of_text(file) if file.suffix == ".txt" else _images_of_binary(file):
        pose = np.concatenate([image.qvec, image.tvec])
        length = float(np.linalg.norm(image.qvec))
        if not np.isfinite(pose).all() or not 0.0 < length < math.inf:
            problem = f"the pose of the image {image.name} is {' '.join(f'{value:g}' for value in pose)}"
            remedy = "Remove the image from the model, or reconstruct the scene again"
            raise InputError(f"{problem} (a quaternion w x y z and a translation)", remedy, file)
        rounding = abs(length - 1.0) < 1e-12  # as COLMAP writes them; what it wrote stays as it is
        images.append(image if rounding else replace(image, qvec=image.qvec / length))
    _check_unique([image.id for image in images], "image", file)
    _check_unique([image.name for image in images], "image", file)
    return images


def read_points(file: Path) -> ColmapPoints:
    """The points of a model.

    Raises: InputError if the file is missing or damaged, or holds positions that are not finite.
    """
    points = _points_of_text(file) if file.suffix == ".txt" else _points_of_binary(file)
    bad = ~np.isfinite(points.xyz).all(axis=1)
    if bad.any():
        problem = f"the position of the point {points.ids[bad][0]} is not finite, as of {int(bad.sum())} points"
        raise InputError(problem, "Remove them, or reconstruct the scene again", file)
    return points


def _check_unique(keys: list[Any], what: str, file: Path) -> None:
    if len(set(keys)) < len(keys):
        twice = next(key for index, key in enumerate(keys) if key in keys[:index])
        raise InputError(f"the {what} {twice} is there twice", "Export the model again", file)


class _Bytes:
    """A binary file from its beginning to its end."""

    def __init__(self, file: Path) -> None:
        self.file, self.at = file, 0
        self.content = require_file(file, "COLMAP file").read_bytes()

    def skip(self, size: int) -> int:
        """Go on by so many bytes, and return where they begin."""
        start, self.at = self.at, self.at + size
        if self.at > len(self.content):
            problem = f"the COLMAP file ends after {len(self.content)} bytes, amid what should reach to byte {self.at}"
            raise InputError(problem, "Copy or export it again; it is cut off or damaged", self.file)
        return start

    def __call__(self, form: str) -> tuple[Any, ...]:
        """The next values, in a form of `struct`."""
        return struct.unpack_from(f"<{form}", self.content, self.skip(struct.calcsize(f"<{form}")))

    def array(self, dtype: Any, count: int) -> ndarray:
        """The next `count` values of a type of numpy."""
        dtype = np.dtype(dtype)
        return np.frombuffer(self.content, dtype, count, self.skip(dtype.itemsize * count))

    def text(self) -> str:
        """The next text, which ends at a 0."""
        end = self.content.find(b"\0", self.at)
        start = self.skip((end if end >= 0 else len(self.content)) + 1 - self.at)
        text = self.content[start : self.at - 1]
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            problem = f"the image name {text[:60]!r} is not in UTF-8"
            raise InputError(problem, "Rename the image, and reconstruct the scene again", self.file) from None


def _cameras_of_binary(file: Path) -> Iterator[ColmapCamera]:
    take = _Bytes(file)
    for _ in range(take("Q")[0]):
        number, model, width, height = take("iiQQ")
        if model not in MODEL_NAMES:
            problem = f"the camera {number} has the camera model number {model}, and COLMAP's are 0 to "
            raise InputError(f"{problem}{max(MODEL_NAMES)}", "Export the model again; the file may be damaged", file)
        name = MODEL_NAMES[model]
        params = take.array("<f8", len(CAMERA_MODELS[name][1].split()))
        yield ColmapCamera(number, name, width, height, params)


def _images_of_binary(file: Path) -> Iterator[ColmapImage]:
    take = _Bytes(file)
    for _ in range(take("Q")[0]):
        number, *pose, camera = take("idddddddi")
        name = take.text()
        key_points = take.array([("xy", "<f8", 2), ("id", "<i8")], take("Q")[0])
        yield ColmapImage(
            number, np.array(pose[:4]), np.array(pose[4:]), camera, name, key_points["xy"], key_points["id"]
        )


def _points_of_binary(file: Path) -> ColmapPoints:
    take = _Bytes(file)
    starts = []
    for _ in range(take("Q")[0]):
        starts.append(take.skip(POINT.itemsize))
        take.skip(8 * take("Q")[0])  # images and key points of the point, which the images state as well
    places = np.array(starts, dtype=np.int64)[:, None] + np.arange(POINT.itemsize)
    return ColmapPoints.of(np.frombuffer(take.content, np.uint8)[places].reshape(-1).view(POINT))


def _lines(file: Path) -> list[str]:
    try:
        return require_file(file, "COLMAP file").read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"is not a text in UTF-8 ({error})", "Export the model again", file) from None


def _is_record(line: str) -> bool:
    return bool(line.strip()) and not line.strip().startswith("#")


def _unreadable(file: Path, number: int, wanted: str, line: str) -> InputError:
    problem = f"line {number} does not hold {wanted}: {line.strip()[:60]}"
    return InputError(problem, "Export the model again; it may have been edited or cut off", file)


def _cameras_of_text(file: Path) -> Iterator[ColmapCamera]:
    for number, line in enumerate(_lines(file), 1):
        if _is_record(line):
            words = line.split()
            try:
                model, params = words[1], np.array([float(word) for word in words[4:]])
                camera = ColmapCamera(int(words[0]), model, int(words[2]), int(words[3]), params)
            except (ValueError, IndexError):
                raise _unreadable(file, number, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS", line) from None
            if model not in CAMERA_MODELS:
                problem = f"line {number}: the camera model {model[:40]} is none of COLMAP's"
                raise InputError(problem, f"Export the model again; it has {', '.join(CAMERA_MODELS)}", file)
            yield camera


def _images_of_text(file: Path) -> Iterator[ColmapImage]:
    lines = iter(enumerate(_lines(file), 1))
    for number, line in lines:
        if not _is_record(line):
            continue
        words = line.split(maxsplit=9)  # names may hold spaces
        try:
            pose = np.array([float(word) for word in words[1:8]])
            head = int(words[0]), pose[:4], pose[4:], int(words[8]), words[9].strip()
        except (ValueError, IndexError):
            raise _unreadable(file, number, "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME", line) from None
        # The line of key points may be empty, and is there nonetheless.
        number, line = next(lines, (number + 1, ""))
        words = line.split()
        try:
            if len(words) % 3:
                raise ValueError
            xys = np.array([words[0::3], words[1::3]], dtype=np.float64).T.reshape(-1, 2)
            yield ColmapImage(*head, xys, np.array(words[2::3], dtype=np.int64))
        except (ValueError, OverflowError):
            wanted = f"the key points of {head[-1]}, as X Y POINT3D_ID each"
            raise _unreadable(file, number, wanted, line) from None


def _points_of_text(file: Path) -> ColmapPoints:
    rows = []
    for number, line in enumerate(_lines(file), 1):
        if _is_record(line):
            words = line.split(maxsplit=8)
            try:
                color = tuple(bytes(int(word) for word in words[4:7]))  # from 0 to 255
                xyz, error = tuple(float(word) for word in words[1:4]), float(words[7])
                rows.append(np.array([(int(words[0]), xyz, color, error)], POINT))
            except (ValueError, IndexError, OverflowError):
                raise _unreadable(file, number, "POINT3D_ID X Y Z R G B ERROR TRACK", line) from None
    return ColmapPoints.of(np.concatenate(rows) if rows else np.zeros(0, POINT))
