"""Cameras of the IDR and NeuS layout: projection matrices in an .npz file, taken apart into intrinsics and poses.

| array | is |
|---|---|
| world_mat_i | K [R | t] of view i in OpenCV axes, 4×4 or 3×4: from the data set's world to pixel indices (the first
pixel's center is at 0) |
| scale_mat_i | similarity from the unit sphere that holds the object to the world; the same for all views |
| camera_mat_i | only where world_mat_i is [R | t] alone: K in pixels, or to image coordinates in [−1, 1] as DVR writes
it |

Here, as everywhere else in the suite, the first pixel's center is at 0.5, and cameras have OpenGL axes.

Source of the layout: IDR (arXiv 2003.09852) and NeuS (2106.10689), data preparation of the released code.
"""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from common_ns.cameras.projection import decompose_projection
from common_ns.data.files import require_file
from common_ns.errors import InputError

CAMERA_FILES = ("cameras_sphere.npz", "cameras.npz")
"""Names of the file with the cameras, the preferred one first."""
INITIAL_FILE = "cameras_linear_init.npz"
"""Name of the file with rough cameras, to be refined while training."""
SINGULAR = 1e-5
"""Ratio of singular values below which a projection counts as singular, its rows scaled to length 1."""
MAX_SKEW = 1.0
"""Largest shift, in pixels at the upper or lower border, that leaving out the skew may make."""
BARE_FOCAL = 10.0
"""Below this focal length, in pixels, a matrix has no intrinsics in it."""
LARGEST = 1e30
"""Absolute value from which a number in a matrix is no camera's."""
MOST_BYTES = 1 << 16
"""Size from which an array in an .npz file is not looked at: 4×4 numbers and their header take a few hundred bytes."""
SAME = 1e-4
"""Relative difference up to which two matrices are the same."""


@dataclass(frozen=True)
class Similarity:
    """The map from normalized coordinates, in which the object is in the unit sphere, to the data set's world:
    x ↦ radius · rotation x + center."""

    center: Float[NDArray, "3"]
    """Center of the object in the world's unit."""
    radius: float
    """Radius of the sphere about it that becomes the unit sphere, in the world's unit."""
    rotation: Float[NDArray, "3 3"] = field(default_factory=lambda: np.eye(3))
    """Directions of the normalized axes."""

    @property
    def matrix(self) -> Float[NDArray, "4 4"]:
        """As scale_mat."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.radius * self.rotation, self.center
        return matrix

    @property
    def to_normalized(self) -> Float[NDArray, "3 4"]:
        """[R | t] such that a point x of the world is at (R x + t) / radius, as nerfstudio's dataparsers state it."""
        return np.concatenate([self.rotation.T, -self.rotation.T @ self.center[:, None]], axis=1)

    def normalized_points(self, points: Float[NDArray, "n 3"]) -> Float[NDArray, "n 3"]:
        """Points of the world in normalized coordinates."""
        return (points - self.center) @ self.rotation / self.radius

    def normalized_poses(self, poses: Float[NDArray, "n 3 4"]) -> Float[NDArray, "n 3 4"]:
        """Camera-to-world matrices in normalized coordinates; they stay rigid."""
        rotations = self.rotation.T @ poses[:, :, :3]
        return np.concatenate([rotations, self.normalized_points(poses[:, :, 3])[:, :, None]], axis=2)


@dataclass(frozen=True)
class CameraFile:
    """What an .npz file of cameras holds, by the number of the view."""

    path: Path
    world: dict[int, Float[NDArray, "3 4"]]
    scale: dict[int, Float[NDArray, "4 4"]]
    camera: dict[int, Float[NDArray, "3 4"]]

    def similarity(self) -> Similarity | None:
        """The scale_mat that all views share; None if the file has none.

        Raises: InputError if some views lack it, views differ in it, or it is no similarity.
        """
        if not self.scale:
            return None
        lacking = sorted(set(self.world) - set(self.scale))
        if lacking:
            problem = f"scale_mat_{lacking[0]} is missing, and other views have one"
            raise InputError(problem, "Write it anew with ns-idr-cameras", self.path)
        numbers = sorted(self.world)
        matrix = self.scale[numbers[0]]
        for number in numbers:
            if np.abs(self.scale[number] - matrix).max() > SAME * np.abs(matrix).max():
                problem = f"scale_mat_{number} differs from scale_mat_{numbers[0]}"
                raise InputError(problem, "All views need the same; write it anew with ns-idr-cameras", self.path)
        return similarity_of(matrix, self.path)

    def projections(self, numbers: list[int], sizes: list[tuple[int, int]]) -> list[Float[NDArray, "3 4"]]:
        """Projections from the world to pixels of the views `numbers`; the first pixel's center is at 0.5.

        Args:
            numbers: which views.
            sizes: (width, height) in pixels of their images.
        """
        to_center = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
        return [to_center @ self._to_indices(number, size) for number, size in zip(numbers, sizes)]

    def _to_indices(self, number: int, size: tuple[int, int]) -> Float[NDArray, "3 4"]:
        """Projection to pixel indices."""
        matrix = self.world[number]
        check_projection(matrix, f"world_mat_{number}", self.path)
        if decompose_projection(matrix)[0][0, 0] >= BARE_FOCAL:
            return matrix
        if number not in self.camera:
            problem = f"world_mat_{number} has a focal length of less than {BARE_FOCAL:g} pixels"
            raise InputError(problem, f"Include the intrinsics in it, or add camera_mat_{number}", self.path)
        intrinsics = self.camera[number]
        if abs(intrinsics[0, 0]) < BARE_FOCAL:
            # From [−1, 1], the centers of the first and the last pixel, to indices.
            half = 0.5 * (np.array(size) - 1.0)
            intrinsics = np.array([[half[0], 0.0, half[0]], [0.0, half[1], half[1]], [0.0, 0.0, 1.0]]) @ intrinsics
        return intrinsics @ np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])


def read_camera_file(path: Path) -> CameraFile:
    """Read an .npz file of cameras.

    Raises: InputError if the file is missing, damaged or without cameras, or a matrix is not finite or of another size.
    """
    require_file(path)
    found: dict[str, dict[int, NDArray]] = {"world": {}, "scale": {}, "camera": {}}
    try:
        with zipfile.ZipFile(path) as content:
            names = [member.filename.removesuffix(".npy") for member in content.infolist()]
            for member in content.infolist():
                match = re.fullmatch(r"(world|scale|camera)_mat_(\d+)\.npy", member.filename)
                if match is None:
                    continue
                kind, number = match[1], int(match[2])
                if number in found[kind]:
                    raise InputError(f"{kind}_mat_{number} is there twice", "Write each view once", path)
                matrix = np.eye(4)
                array = _read_matrix(content, member, path)
                matrix[: array.shape[0], : array.shape[1]] = array
                found[kind][number] = matrix if kind == "scale" else matrix[:3]
    except InputError:
        raise
    except Exception as error:  # zip files and arrays that are damaged raise whatever comes up
        problem = f"cannot be read as an .npz file ({type(error).__name__})"
        raise InputError(problem, "Write it again; it may be cut off", path) from error
    if not found["world"]:
        held = ", ".join(names[:4]) or "nothing"
        raise InputError(f"there is no world_mat_0; the file holds {held}", "Write K [R | t] of each view", path)
    return CameraFile(path, found["world"], found["scale"], found["camera"])


def _read_matrix(content: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> NDArray:
    """A matrix of numbers of an .npz file. Nothing is unpacked before its header says that it is one.

    Raises: InputError if it is none, or holds values that no camera has.
    """
    name, remedy = member.filename.removesuffix(".npy"), "Give a 4×4 matrix of numbers"
    if member.file_size > MOST_BYTES:
        raise InputError(f"{name} takes {member.file_size:,} bytes, and is no 4×4 matrix", remedy, path)
    data = io.BytesIO(content.read(member))
    version = np.lib.format.read_magic(data)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(data)
    if shape not in ((4, 4), (3, 4), (3, 3)) or dtype.kind not in "fiu":
        kind = "Python objects" if dtype.hasobject else str(dtype)
        raise InputError(f"{name} is an array of {kind} of shape {shape}", remedy, path)
    data.seek(0)
    array = np.lib.format.read_array(data, allow_pickle=False)
    beyond = ~(np.abs(array) < LARGEST)
    if beyond.any():
        raise InputError(f"{name} holds {array[beyond][0]:g}", "Correct or remove this view", path)
    return array


def check_projection(matrix: Float[NDArray, "3 4"], name: str, file: Path | None = None) -> None:
    """Raises: InputError if a projection maps space to less than a plane, so that there is no camera behind it."""
    rows = np.linalg.norm(matrix[:, :3], axis=1, keepdims=True)
    values = np.zeros(3) if rows.min() == 0 else np.linalg.svd(matrix[:, :3] / rows, compute_uv=False)
    if values[2] <= SINGULAR * values[0]:
        problem = f"{name} is singular (its singular values are {', '.join(f'{v:.2g}' for v in values)})"
        raise InputError(problem, "It must be K [R | t]; correct or remove this view", file)


def decompose(
    matrix: Float[NDArray, "3 4"], size: tuple[int, int], name: str, file: Path | None = None
) -> tuple[Float[NDArray, "3 3"], Float[NDArray, "3 4"]]:
    """The camera behind a projection.

    Args:
        matrix: from the world to pixels; the first pixel's center is at 0.5.
        size: (width, height) of the image in pixels.
        name: of the matrix, for errors.
        file: where it was read, for errors.
    Returns: K without skew, and the camera-to-world matrix in OpenGL axes.
    Raises: InputError if the matrix is singular, belongs to images of another size, or has a skew that matters.
    """
    check_projection(matrix, name, file)
    intrinsics, c2w = decompose_projection(matrix)
    _check_principal_point(intrinsics, size, name, file)
    shift = abs(intrinsics[0, 1] / intrinsics[1, 1]) * 0.5 * size[1]
    if shift > MAX_SKEW:
        problem = f"{name} has a skew that shifts pixels by {shift:.1f}, and cameras here have none"
        raise InputError(problem, "Rectify the images, or estimate the cameras without skew", file)
    intrinsics = intrinsics.copy()
    intrinsics[0, 1] = 0.0
    return intrinsics, c2w


def _check_principal_point(
    intrinsics: Float[NDArray, "3 3"], size: tuple[int, int], name: str, file: Path | None
) -> None:
    """Refuse intrinsics of images of another size: their principal point is twice as far from the corner, or half."""
    share = intrinsics[:2, 2] / np.array(size)
    scaled = abs(share[0] - share[1]) < 0.2 * share.mean() and not 0.3 < share.mean() < 0.75
    if scaled or not ((share > 0.0) & (share < 1.0)).all():
        problem = f"{name} has its principal point at ({intrinsics[0, 2]:.0f}, {intrinsics[1, 2]:.0f}) "
        problem += f"of an image of {size[0]}×{size[1]} pixels"
        likely = (
            f": these look like cameras for about {2 * intrinsics[0, 2]:.0f}×{2 * intrinsics[1, 2]:.0f}"
            if scaled
            else ""
        )
        raise InputError(problem + likely, "Use images of the size that the cameras were made for", file)


def similarity_of(matrix: Float[NDArray, "4 4"], file: Path | None = None) -> Similarity:
    """Read a scale_mat.

    Raises: InputError if it is not a uniform scale, a rotation and a shift.
    """
    part = matrix[:3, :3]
    radius = float(np.cbrt(np.linalg.det(part)))
    if radius <= 0 or np.abs(np.asarray(part.T @ part) - radius**2 * np.eye(3)).max() > SAME * radius**2:
        problem = "scale_mat is not a uniform scale with a rotation and a shift"
        raise InputError(problem, "Write it anew with ns-idr-cameras", file)
    return Similarity(matrix[:3, 3].copy(), radius, part / radius)
