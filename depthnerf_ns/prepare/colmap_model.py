"""Poses of a COLMAP model for a transforms.json, and its points with their views.

Poses are written as `ns-process-data` writes them: the world turned so that z is up (APPLIED), cameras in OpenGL axes.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from common_ns.data.colmap import Reconstruction
from common_ns.errors import InputError
from depthnerf_ns.prepare.sparse import SparsePoints

APPLIED = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0]])
"""Rotation of the world that nerfstudio applies to COLMAP's."""
POSE_TOLERANCE, TURN_TOLERANCE = 0.02, 2.0
"""Of cameras in another world than the model's: distance per spread of the cameras, and degrees."""


class ColmapModel(Reconstruction):
    """A COLMAP model in the terms of a capture."""

    @cached_property
    def poses(self) -> Float[ndarray, "n 3 4"]:
        """Camera to COLMAP's world, in OpenGL axes."""
        from nerfstudio.data.utils.colmap_parsing_utils import qvec2rotmat

        result = []
        for image in self.images:
            rotation = qvec2rotmat(image.qvec).T
            result.append(np.column_stack([rotation * [1.0, -1.0, -1.0], -rotation @ image.tvec]))
        return np.stack(result)

    def transforms(self, images: Path) -> dict[str, Any]:
        """Content of a transforms.json, with the absolute paths of images in a folder.

        Raises: InputError if a camera's model has no counterpart in nerfstudio, or several are mixed.
        """
        intrinsics = {camera.id: self.intrinsics(camera) for camera in self.used_cameras}
        shared: dict[str, Any] = {"camera_model": self.camera_model(self.used_cameras)}
        if len(intrinsics) == 1:
            shared = next(iter(intrinsics.values()))
        frames = []
        for image, pose in zip(self.images, self.poses):
            own = {} if "fl_x" in shared else {**intrinsics[image.camera_id]}
            own.pop("camera_model", None)
            matrix = np.vstack([APPLIED[:, :3] @ pose, [0.0, 0.0, 0.0, 1.0]])
            path = str((images / image.name).absolute())
            frames.append({"file_path": path, **own, "transform_matrix": matrix.tolist(), "colmap_im_id": image.id})
        return {**shared, "applied_transform": APPLIED.tolist(), "frames": frames}

    def sparse_points(
        self, names: list[str], ids: list[int | None], poses: Float[ndarray, "n 3 4"], sizes: list[tuple[int, int]]
    ) -> SparsePoints:
        """The points in the world of a capture whose frames are images of this model.

        Args:
            names: file names of the frames, by which the model's images are found…
            ids: …unless the frames state their numbers in the model.
            poses: camera to world of the frames, OpenGL axes.
            sizes: (width, height) of the frames in pixels; other ones than the model's scale the key points.
        Raises: InputError if frames and model have too few images in common, or other poses.
        """
        by_id = {image.id: index for index, image in enumerate(self.images)}
        own_names = [Path(image.name).name for image in self.images]
        by_name = {name: index for index, name in enumerate(own_names) if own_names.count(name) == 1}
        known = [by_name.get(name) if number is None else by_id.get(number) for name, number in zip(names, ids)]
        pairs = [(frame, index) for frame, index in enumerate(known) if index is not None]
        if len(pairs) < 3:
            problem = f"{len(pairs)} of {len(names)} frames are images of the COLMAP model"
            raise InputError(problem, "Give the model of this data set as --colmap-path", self.folder)
        at, of = np.array(pairs).T
        scale, rotation, translation = self._to_world(poses[at], self.poses[of])

        place = {number: index for index, number in enumerate(self.points.ids.tolist())}
        places = [np.zeros((0, 2))] * len(names)
        points = [np.zeros(0, dtype=int)] * len(names)
        for frame, index in pairs:
            image = self.images[index]
            camera = self.cameras[image.camera_id]
            seen = [(xy, place[p]) for xy, p in zip(image.xys, image.point3D_ids.tolist()) if p in place]
            if seen:
                factor = np.array(sizes[frame]) / np.array([camera.width, camera.height])
                places[frame] = np.array([xy for xy, _ in seen]) * factor
                points[frame] = np.array([p for _, p in seen])
        xyz = scale * self.points.xyz @ rotation.T + translation
        return SparsePoints(xyz, self.points.error, places, points, "COLMAP")

    def _to_world(
        self, wanted: Float[ndarray, "n 3 4"], own: Float[ndarray, "n 3 4"]
    ) -> tuple[float, Float[ndarray, "3 3"], Float[ndarray, " 3"]]:
        """Scale, rotation and translation from this model's world to that of the same cameras elsewhere.

        Raises: InputError if the two sets of cameras differ by more than such a change.
        """
        u, _, vt = np.linalg.svd(np.einsum("nij,nkj->ik", wanted[:, :, :3], own[:, :, :3]))
        rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
        center, own_center = wanted[:, :, 3].mean(axis=0), own[:, :, 3].mean(axis=0)
        offsets, own_offsets = wanted[:, :, 3] - center, (own[:, :, 3] - own_center) @ rotation.T
        scale = float((offsets * own_offsets).sum() / max(float((own_offsets**2).sum()), 1e-300))
        spread = max(float(np.sqrt((offsets**2).sum(axis=1).mean())), 1e-300)
        error = float(np.median(np.linalg.norm(offsets - scale * own_offsets, axis=1))) / spread
        turns = np.einsum("nij,nij->n", wanted[:, :, :3], rotation @ own[:, :, :3])
        turn = float(np.degrees(np.median(np.arccos(np.clip((turns - 1.0) / 2.0, -1.0, 1.0)))))
        if not (scale > 0 and error < POSE_TOLERANCE and turn < TURN_TOLERANCE):
            problem = f"the poses of the frames are not those of the COLMAP model: they differ by {error:.1%} of the "
            problem += f"cameras' spread and {turn:.1f}°"
            remedy = "Give the model that the poses come from as --colmap-path, or --reference features"
            raise InputError(problem, remedy, self.folder)
        return scale, rotation, center - scale * rotation @ own_center
