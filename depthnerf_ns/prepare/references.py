"""Depth that is known at some pixels of each frame, which predictions are aligned to: from where, in which order.

| reference | what |
|---|---|
| sensor | the frame's own depth map |
| colmap | the points of the COLMAP model that the poses come from, in the views that found them |
| ply | the data set's point cloud (`ply_file_path`), in all views where no nearer point hides it |
| features | key points matched between the images and triangulated at the given poses |
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from common_ns.errors import InputError
from common_ns.meshing.reading import load_geometry
from depthnerf_ns.prepare.capture import Capture, frame_number, poses
from depthnerf_ns.prepare.colmap_model import ColmapModel
from depthnerf_ns.prepare.sparse import PointDepth, SparsePoints

Reference = Literal["sensor", "colmap", "ply", "features"]

CELL, HIDDEN = 24, 1.1
"""A point of a cloud is taken for hidden if the nearest in its cell, of that many on the image's longer side, is nearer
by this factor."""
CLOUD_ERROR = 1.0
"""Pixels that the points of a cloud, which does not tell, are taken to be off."""


def sparse_points(
    capture: Capture, which: Literal["colmap", "ply", "features"] | None, model: Path | None, progress: bool
) -> SparsePoints:
    """Points with known places, in the world of the capture.

    Args:
        capture: the data set.
        which: where from; None: the first that is there.
        model: folder of the COLMAP model; None: beside the data set.
        progress: show a progress bar where it takes time.
    Raises: InputError if there are none.
    """
    folder = model if model is not None else capture.model_folder()
    if which is None:
        has_cloud = "ply_file_path" in capture.header and Path(capture.header["ply_file_path"]).exists()
        which = "colmap" if folder is not None else "ply" if has_cloud else "features"
    if which == "colmap":
        if folder is None:
            remedy = "Name it as --colmap-path, or use --reference features"
            raise InputError("there is no COLMAP model (colmap/sparse/0) beside the data set", remedy, capture.source)
        numbers = frame_number(capture)
        return ColmapModel.read(folder).sparse_points(capture.names, numbers, poses(capture), capture.sizes)
    if which == "ply":
        return _cloud(capture)
    from depthnerf_ns.prepare.triangulate import triangulate_features

    return triangulate_features(capture.images, capture.cameras, progress=progress)


def _cloud(capture: Capture) -> SparsePoints:
    """The data set's point cloud; its views are those in which no other point hides it."""
    if "ply_file_path" not in capture.header:
        raise InputError("names no ply_file_path", "Choose another --reference", capture.source)
    file = Path(capture.header["ply_file_path"])
    _, xyz, _ = load_geometry(file, "point cloud", "Choose another --reference")
    xyz = xyz[np.isfinite(xyz).all(axis=1)]
    places, points = [], []
    for view, size in enumerate(capture.sizes):
        place, depth = project(capture, view, xyz)
        inside = (depth > 0) & (place >= 0).all(axis=1) & (place < size).all(axis=1)
        which = np.flatnonzero(inside)
        cell = (place[which] * (CELL / max(size))).astype(int)
        number = cell[:, 1] * CELL + cell[:, 0]
        nearest = np.full(CELL * CELL, np.inf)
        np.minimum.at(nearest, number, depth[which])
        keep = which[depth[which] <= HIDDEN * nearest[number]]
        places.append(place[keep])
        points.append(keep)
    return SparsePoints(xyz, np.full(len(xyz), CLOUD_ERROR), places, points, "ply")


def project(
    capture: Capture, view: int, xyz: Float[ndarray, "n 3"]
) -> tuple[Float[ndarray, "n 2"], Float[ndarray, " n"]]:
    """(x, y) in pixels and z-depth of points in a view, by the pinhole with its lens distortion."""
    import cv2

    cameras, pose = capture.cameras, poses(capture)[view]
    local = (xyz - pose[:, 3]) @ pose[:, :3] * [1.0, -1.0, -1.0]
    focal = [float(getattr(cameras, name)[view]) for name in ("fx", "fy", "cx", "cy")]
    matrix = np.array([[focal[0], 0.0, focal[2]], [0.0, focal[1], focal[3]], [0.0, 0.0, 1.0]])
    k1, k2, k3, k4, p1, p2 = (
        cameras.distortion_params[view].tolist() if cameras.distortion_params is not None else [0] * 6
    )
    front = np.where(local[:, 2:] > 1e-6, local, [0.0, 0.0, 1.0])
    if "FISHEYE" in str(capture.header.get("camera_model")):
        place, _ = cv2.fisheye.projectPoints(
            front[:, None], np.zeros(3), np.zeros(3), matrix, np.array([k1, k2, k3, k4])
        )
    else:
        place, _ = cv2.projectPoints(front, np.zeros(3), np.zeros(3), matrix, np.array([k1, k2, p1, p2, k3]))
    return place.reshape(-1, 2), local[:, 2]


def sampled(depth: Float[ndarray, "h w"], sigma: Float[ndarray, "h w"], count: int) -> PointDepth:
    """About so many pixels of a depth map, on a regular grid."""
    height, width = depth.shape
    step = max(1.0, float(np.sqrt((depth > 0).sum() / count)))
    rows, columns = (np.arange(0.5 * step, length, step).astype(int) for length in (height, width))
    rows, columns = (places.ravel() for places in np.meshgrid(rows, columns, indexing="ij"))
    keep = depth[rows, columns] > 0
    rows, columns = rows[keep], columns[keep]
    found, spread = depth[rows, columns].astype(np.float64), sigma[rows, columns].astype(np.float64)
    return PointDepth(rows, columns, found, spread, "sensor")
