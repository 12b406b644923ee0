"""A nerfstudio `transforms.json` in which the object is in the unit sphere."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from common_ns.cameras.projection import projection_matrices
from common_ns.data.masks import check_mask_fields
from common_ns.data.transforms import read_transforms
from common_ns.errors import InputError
from hashnffb_sdf_ns.idr_data.cameras import Similarity
from hashnffb_sdf_ns.idr_data.downscaled import image_size
from hashnffb_sdf_ns.object_sphere.mask_checks import mask_files_of, meaning_of, views_of
from hashnffb_sdf_ns.object_sphere.normalization import Extent, scene_extent
from hashnffb_sdf_ns.object_sphere.scene_sources import checked_extent, half_angles, read_points

PLAIN_OPTIONS = "--orientation-method none --center-method none --auto-scale-poses False"
"""Options of nerfstudio-data with which poses stay as they are in the file."""
FILE_FIELDS = ("file_path", "mask_path", "depth_file_path", "normal_file_path", "depth_sigma_file_path")


@dataclass(frozen=True)
class TransformsCapture:
    """The views of a transforms.json in its coordinates."""

    path: Path
    content: dict[str, Any]
    images: list[Path]
    masks: list[Path] | None
    sizes: NDArray
    """(width, height) of the images [n, 2]."""
    intrinsics: Float[NDArray, "n 3 3"]
    """Intrinsics without distortion; the first pixel's center is at 0.5."""
    poses: Float[NDArray, "n 3 4"]
    """Camera to world, OpenGL axes."""
    points: Float[NDArray, "m 3"] | None
    """SfM points of `ply_file_path`."""

    @staticmethod
    def read(path: Path) -> TransformsCapture:
        """Raises: InputError if a field or a file is missing or wrong."""
        transforms = read_transforms(path, image_size)
        content, frames, folder = transforms.content, transforms.frames, path.parent
        images = [folder / frame["file_path"] for frame in frames]
        check_mask_fields(frames, path)
        masks = [folder / frame["mask_path"] for frame in frames if "mask_path" in frame] or None
        intrinsics, sizes = zip(*(_intrinsics(transforms.intrinsics(frame)) for frame in frames))
        poses = np.array([frame["transform_matrix"] for frame in frames], dtype=np.float64)[:, :3]
        points = read_points(folder / content["ply_file_path"])[0] if "ply_file_path" in content else None
        return TransformsCapture(path, content, images, masks, np.array(sizes), np.stack(intrinsics), poses, points)

    def extent(self, source: str | None = None) -> Extent:
        """Where the object is.

        Args:
            source: masks, points or cameras; None: the first of them that the data has.
        Raises: InputError if the source is not there or does not tell, or masks are bad.
        """
        masks, projections = mask_files_of(self.images, self.masks), projection_matrices(self.intrinsics, self.poses)
        if source == "masks" or (source is None and masks is not None and not self._has_valid_pixels(projections)):
            if masks is None:
                remedy = "Add them (mask_path of each frame, or alpha), or choose another --source"
                raise InputError("there are no masks", remedy, self.path)
            photographs = self.masks is None
            extent = checked_extent(masks, projections, self.sizes, self.poses, photographs=photographs)
            assert extent is not None
            return extent
        points = self.points if source in (None, "points") else None
        extent = scene_extent(self.poses, half_angles(self.intrinsics, self.sizes), points)
        if extent is None or (source is not None and extent.source != source):
            problem = f"the {source or 'masks, points and cameras'} do not tell where the object is, or are not there"
            raise InputError(
                problem, "Add masks (mask_path of each frame, or alpha), or choose another --source", self.path
            )
        return extent

    def _has_valid_pixels(self, projections: Float[NDArray, "n 3 4"]) -> bool:
        """Whether the masks are those of valid pixels, which say nothing of an object; prints it."""
        if self.masks is None:
            return False
        sizes = [(int(width), int(height)) for width, height in self.sizes]
        try:
            meaning, reason = meaning_of(*views_of(self.masks, projections, sizes))
        except InputError:  # bad masks of an object, which is told where they are used
            return False
        if meaning == "valid":
            print(f"The masks say which pixels are valid, and nothing of an object: {reason}.")
        return meaning == "valid"

    def normalized(self, placed: Similarity, target: Path) -> tuple[dict[str, Any], Float[NDArray, "m 3"] | None]:
        """The content of a transforms.json in `target`, and its SfM points, in coordinates in which a sphere is the
        unit sphere. `applied_transform` and `applied_scale` still lead to the coordinates of the capture."""
        content = copy.deepcopy(self.content)
        poses = placed.normalized_poses(self.poses)
        for frame, pose in zip(content["frames"], poses):
            frame["transform_matrix"] = [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]
            for key in FILE_FIELDS:
                if key in frame:
                    frame[key] = _relative(self.path.parent / frame[key], target.parent)
        # x = scale · T(x₀) becomes Rᵀ (x − center) / radius = scale / radius · Rᵀ (T(x₀) − center / scale).
        scale = float(content.get("applied_scale", 1.0))
        applied = np.array(content.get("applied_transform", np.eye(4)), dtype=np.float64)[:3].copy()
        applied[:, 3] -= placed.center / scale
        content["applied_transform"] = (placed.rotation.T @ applied).tolist()
        content["applied_scale"] = scale / placed.radius
        points = None if self.points is None else placed.normalized_points(self.points)
        return content, points


def _intrinsics(fields: dict[str, Any]) -> tuple[Float[NDArray, "3 3"], tuple[int, int]]:
    """K and the (width, height) of a frame."""
    intrinsics = np.eye(3)
    intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2] = (
        fields[key] for key in ("fl_x", "fl_y", "cx", "cy")
    )
    return intrinsics, (fields["w"], fields["h"])


def _relative(file: Path, folder: Path) -> str:
    """A file's path as seen from a folder."""
    return Path(os.path.relpath(file.absolute(), folder.absolute())).as_posix()
