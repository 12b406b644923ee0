"""RGB-D data sets that are not nerfstudio's own, rewritten as the content of a transforms.json.

One reader then decides orientation, scale and splits for all of them.

- scannet: `color/ID.jpg`, `depth/ID.png`, `pose/ID.txt`, `intrinsic/intrinsic_color.txt` and `intrinsic_depth.txt`, as
  ScanNet's own reader extracts them from a .sens file. Poses are camera to world in OpenCV axes, z-depth is in
  millimeters. Where depth has another size than color, the two intrinsics say which of its pixels belongs to which.
- matterport: `undistorted_color_images/`, `undistorted_depth_images/` and `undistorted_camera_parameters/*.conf` of
  Matterport3D. Poses are camera to world in OpenGL axes, the principal point counts from the bottom left, and z-depth
  is in steps of 0.25 mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from common_ns.data.checks import check_pose, require_path
from common_ns.data.damaged import damage_explained
from common_ns.data.depth.contract import map_header
from common_ns.data.files import entries_of, require_file
from common_ns.data.formats import advice
from common_ns.data.images import photo_header
from common_ns.errors import InputError

Layout = Literal["nerfstudio", "scannet", "matterport"]

UNITS: dict[Layout, float] = {"scannet": 1e-3, "matterport": 2.5e-4}
"""Meters per step of the depth files, as the data sets define it."""
FOLDERS: dict[Layout, tuple[str, ...]] = {
    "scannet": ("color", "depth", "pose", "intrinsic"),
    "matterport": ("undistorted_color_images", "undistorted_depth_images", "undistorted_camera_parameters"),
}
"""What tells the layouts apart."""

PixelMap = tuple[float, float, float, float]


@dataclass(frozen=True)
class Rewritten:
    """A data set of another layout."""

    transforms: dict[str, Any]
    """Content of a transforms.json, with absolute paths."""
    pixel_map: PixelMap | None = None
    """Where the depth map has what the image has at a position; see `DepthContract`."""
    note: str = ""
    """What was left out, for the user."""


def layout_of(data: Path) -> Layout | None:
    """The layout of a data set, by the files in it; None if it is another.

    Raises: InputError if there is nothing at the path.
    """
    require_path(data, "data set")
    if data.suffix == ".json" or (data / "transforms.json").is_file():
        return "nerfstudio"
    return next((name for name, parts in FOLDERS.items() if all((data / part).is_dir() for part in parts)), None)


def find_layout(data: Path) -> Layout:
    """The layout of a data set, by the files in it.

    Raises: InputError that says what was looked for.
    """
    layout = layout_of(data)
    if layout is not None:
        return layout
    folders = "; ".join(f"{', '.join(folders)} ({layout})" for layout, folders in FOLDERS.items())
    wanted = "a folder with transforms.json that names depth maps, or a scene of ScanNet or Matterport3D"
    raise InputError(
        f"holds neither transforms.json nor the folders {folders}", advice(data, "rgbd-data", wanted), data
    )


def rewrite(layout: Layout, data: Path) -> Rewritten:
    """Read a data set of the scannet or matterport layout.

    Raises: InputError if something is missing or cannot be read.
    """
    for folder in FOLDERS[layout]:
        require_path(data / folder, f"folder of the {layout} layout")
    return read_scannet(data) if layout == "scannet" else read_matterport(data)


def read_scannet(data: Path) -> Rewritten:
    """A ScanNet scene whose frames are extracted into folders. Frames without a finite pose are left out: tracking was
    lost there.

    Raises: InputError if there are no frames, or files are missing or damaged.
    """
    images = {file.stem: file for file in entries_of(data / "color") if file.suffix.lower() in (".jpg", ".png")}
    if not images:
        raise InputError("holds no .jpg or .png", "Extract the frames of the .sens file", data / "color")
    frames, lost = [], 0
    for name in sorted(images, key=lambda name: (len(name), name)):
        pose = _read_matrix(data / "pose" / f"{name}.txt")
        if not np.isfinite(pose).all():
            lost += 1
            continue
        check_pose(pose, name, data / "pose" / f"{name}.txt")
        pose = pose * np.array([1.0, -1.0, -1.0, 1.0])  # OpenCV axes to OpenGL's
        depth = require_file(data / "depth" / f"{name}.png", "depth map")
        frames.append(_frame(images[name], depth, pose))
    if not frames:
        raise InputError("no frame has a finite pose", "Extract the poses again", data / "pose")
    color = _read_intrinsics(data / "intrinsic" / "intrinsic_color.txt")
    size = _image_size(Path(frames[0]["file_path"]))
    intrinsics = _intrinsics(color[0, 0], color[1, 1], color[0, 2], color[1, 2], size)

    pixel_map = None
    shape, _ = map_header(Path(frames[0]["depth_file_path"]))
    if shape[1::-1] != size:
        depth = _read_intrinsics(data / "intrinsic" / "intrinsic_depth.txt")
        a, c = depth[0, 0] / color[0, 0], depth[1, 1] / color[1, 1]
        pixel_map = (a, depth[0, 2] - a * color[0, 2], c, depth[1, 2] - c * color[1, 2])
    note = f"Left out {lost} frames whose pose is not finite." if lost else ""
    return Rewritten({**intrinsics, "frames": frames}, pixel_map, note)


def read_matterport(data: Path) -> Rewritten:
    """A house of Matterport3D, undistorted, with the intrinsics of each tripod's three cameras.

    Raises: InputError if there is not one .conf file, or it cannot be read.
    """
    files = sorted(f for f in entries_of(data / "undistorted_camera_parameters") if f.suffix == ".conf")
    if len(files) != 1:
        problem = f"holds {len(files)} .conf files"
        raise InputError(problem, "Keep the one of this house", data / "undistorted_camera_parameters")
    file = files[0]
    color_folder, depth_folder = data / "undistorted_color_images", data / "undistorted_depth_images"
    frames: list[dict[str, Any]] = []
    intrinsics: dict[str, float] = {}
    size = None
    with damage_explained(require_file(file), "camera file"):
        lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        words = line.split()
        try:
            if words[:1] == ["intrinsics_matrix"]:
                fx, _, cx, _, fy, cy, *_ = (float(word) for word in words[1:10])
                intrinsics = {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}
            elif words[:1] == ["scan"]:
                color, depth = color_folder / words[2], depth_folder / words[1]
                pose = np.array([float(word) for word in words[3:19]]).reshape(4, 4)
                size = size or _image_size(color)
                # Positions in these images count from the bottom.
                frame = {**intrinsics, "cy": size[1] - intrinsics["cy"]}
                check_pose(pose, words[2], file)
                frames.append({**frame, **_frame(color, require_file(depth, "depth map"), pose)})
        except InputError:
            raise
        except (ValueError, KeyError, IndexError) as error:
            problem = f"line {number} cannot be read ({error}): {line[:60]}"
            raise InputError(problem, "Download the file again", file) from error
    if not frames or size is None:
        raise InputError("names no scan", "Download the file again", file)
    return Rewritten({"camera_model": "OPENCV", "w": size[0], "h": size[1], "frames": frames})


def with_our_names(transforms: dict[str, Any]) -> dict[str, Any]:
    """The content of a transforms.json with instant-ngp's `depth_path` as `depth_file_path`.

    Its depth is z-depth, and `integer_depth_scale` is the length of a stored step in the unit of the poses, before its
    `scale`, which moves cameras and depth alike (nerf_loader.cu). What is there under our names counts before it.
    """
    frames = transforms["frames"]
    if not any("depth_path" in frame and "depth_file_path" not in frame for frame in frames):
        return transforms
    frames = [{"depth_file_path": frame["depth_path"], **frame} if "depth_path" in frame else frame for frame in frames]
    unit = {"depth_unit_scale_factor": transforms["integer_depth_scale"]} if "integer_depth_scale" in transforms else {}
    return {**unit, "depth_kind": "z", **transforms, "frames": frames}


def _frame(image: Path, depth: Path, pose: Float[ndarray, "4 4"]) -> dict[str, Any]:
    return {
        "file_path": str(image.absolute()),
        "depth_file_path": str(depth.absolute()),
        "transform_matrix": pose.tolist(),
    }


def _intrinsics(fx: float, fy: float, cx: float, cy: float, size: tuple[int, int]) -> dict[str, Any]:
    numbers = {"fl_x": float(fx), "fl_y": float(fy), "cx": float(cx), "cy": float(cy)}
    return {"camera_model": "OPENCV", **numbers, "w": size[0], "h": size[1]}


def _image_size(file: Path) -> tuple[int, int]:
    """(width, height) in pixels."""
    return photo_header(require_path(file, "image")).size


def _read_matrix(file: Path) -> Float[ndarray, "4 4"]:
    """A 4×4 matrix from a text file."""
    try:
        matrix = np.loadtxt(require_file(file), dtype=np.float64)
    except ValueError as error:
        raise InputError(f"is not a table of numbers ({error})", "Extract it again", file) from error
    if matrix.shape != (4, 4):
        raise InputError(f"holds a table of shape {matrix.shape}", "It must hold a 4×4 matrix", file)
    return matrix


def _read_intrinsics(file: Path) -> Float[ndarray, "4 4"]:
    """A 4×4 matrix with focal lengths in pixels and the principal point."""
    matrix = _read_matrix(file)
    if not np.isfinite(matrix).all() or not (matrix[0, 0] > 0 and matrix[1, 1] > 0):
        problem = f"the focal lengths are {matrix[0, 0]:g} and {matrix[1, 1]:g} pixels"
        raise InputError(problem, "Extract the intrinsics again", file)
    return matrix
