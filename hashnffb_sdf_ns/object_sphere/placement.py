"""A data set placed in the unit sphere: where its outputs say the object is, and the outputs in new coordinates."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.scene_box import SceneBox

from common_ns.cameras.projection import projection_matrices
from common_ns.data.masks import check_mask_sizes
from common_ns.data.scene_bounds import BLENDER_NEAR_FAR
from hashnffb_sdf_ns.idr_data.cameras import Similarity
from hashnffb_sdf_ns.object_sphere.mask_checks import Meaning, mask_files_of, meaning_of, views_of
from hashnffb_sdf_ns.object_sphere.normalization import Extent, scene_extent
from hashnffb_sdf_ns.object_sphere.scene_sources import OriginalViews, checked_extent, half_angles


def extent_of_outputs(outputs: DataparserOutputs, refuse: bool = True) -> Extent | None:
    """Where the object is in the coordinates of a dataparser's outputs. Lens distortion is left out of account.

    Args:
        outputs: of the training views.
        refuse: whether bad masks are an error.
    Raises: InputError if masks are bad.
    """
    poses = outputs.cameras.camera_to_worlds.double().cpu().numpy()
    views = outputs.metadata.get("original_views") or views_of_outputs(outputs)
    intrinsics, sizes = views.intrinsics, views.sizes
    masks = mask_files_of(views.images, views.masks)
    if masks is not None:
        projections = projection_matrices(intrinsics, poses)
        extent = checked_extent(masks, projections, sizes, poses, refuse, photographs=views.masks is None)
        if extent is not None:
            return extent
    points = outputs.metadata.get("points3D_xyz")
    cloud = None if points is None else torch.as_tensor(points).double().cpu().numpy()
    return scene_extent(poses, half_angles(intrinsics, sizes), points=cloud)


def mask_meaning(outputs: DataparserOutputs) -> tuple[Meaning, str]:
    """What the masks of a dataparser that says nothing of an object mean, and why; see `meaning_of`.

    Args:
        outputs: of the training views.
    """
    assert outputs.mask_filenames is not None
    views = views_of_outputs(outputs)
    poses = outputs.cameras.camera_to_worlds.double().cpu().numpy()
    sizes = [(int(width), int(height)) for width, height in views.sizes]
    files = [Path(file) for file in outputs.mask_filenames]
    check_mask_sizes(files, sizes)
    return meaning_of(*views_of(files, projection_matrices(views.intrinsics, poses), sizes))


def views_of_outputs(outputs: DataparserOutputs) -> OriginalViews:
    """The views of a dataparser that tells no more than what is trained."""
    cameras = outputs.cameras
    fx, fy, cx, cy = (getattr(cameras, name).double().reshape(-1).cpu().numpy() for name in ("fx", "fy", "cx", "cy"))
    intrinsics = np.zeros((len(fx), 3, 3))
    intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = (
        fx,
        fy,
        cx,
        cy,
        1.0,
    )
    sizes = torch.cat([cameras.width, cameras.height], dim=-1).reshape(-1, 2).cpu().numpy()
    return OriginalViews(outputs.image_filenames, outputs.metadata.get("object_mask_filenames"), sizes, intrinsics)


def renormalized(outputs: DataparserOutputs, placed: Similarity, blender: bool = False) -> DataparserOutputs:
    """Outputs in coordinates in which a sphere is the unit sphere; their transform still leads to the data's own.

    Args:
        outputs: of any split.
        placed: map from the unit sphere to the outputs' coordinates.
        blender: whether rays have the near and far planes of Blender scenes, which then scale as well.
    """
    if placed.radius == 1.0 and not placed.center.any():
        return outputs
    cameras, metadata = copy.deepcopy(outputs.cameras), dict(outputs.metadata)
    poses = placed.normalized_poses(cameras.camera_to_worlds.double().cpu().numpy())
    cameras.camera_to_worlds = torch.from_numpy(poses).to(cameras.camera_to_worlds)
    scale = float(outputs.dataparser_scale)
    if "points3D_xyz" in metadata:
        points = torch.as_tensor(metadata["points3D_xyz"])
        moved = placed.normalized_points(points.double().cpu().numpy())
        metadata["points3D_xyz"] = torch.from_numpy(moved).to(points)
    if "reference_camera_to_worlds" in metadata:
        reference = np.stack([pose.double().cpu().numpy() for pose in metadata["reference_camera_to_worlds"]])
        metadata["reference_camera_to_worlds"] = list(torch.from_numpy(placed.normalized_poses(reference)).float())
    if blender and "near_far" not in metadata:
        metadata["near_far"] = tuple(plane * scale for plane in BLENDER_NEAR_FAR)
    if "near_far" in metadata:
        metadata["near_far"] = tuple(float(plane) / placed.radius for plane in metadata["near_far"])
    # x = scale · T(x₀), and what is wanted is Rᵀ (x − center) / radius = scale / radius · Rᵀ (T(x₀) − center / scale).
    transform = outputs.dataparser_transform.double().cpu().numpy()[:3].copy()
    transform[:, 3] -= placed.center / scale
    return replace(
        outputs,
        cameras=cameras,
        metadata=metadata,
        scene_box=SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])),
        dataparser_transform=torch.from_numpy(placed.rotation.T @ transform).float(),
        dataparser_scale=scale / placed.radius,
    )
