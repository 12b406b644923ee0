"""The suite's datamanager for surfaces: masks in batches, and every data set placed in the unit sphere."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.utils.rich_utils import CONSOLE

from common_ns import distributed
from common_ns.checks import InputError
from common_ns.datamanager import FieldDataManager, FieldDataManagerConfig
from common_ns.projection import projection_matrices
from common_ns.scene_bounds import BLENDER_NEAR_FAR
from hashnffb_sdf_ns.dataset import MaskedDataset
from hashnffb_sdf_ns.idr_cameras import Similarity
from hashnffb_sdf_ns.mask_checks import mask_files_of
from hashnffb_sdf_ns.normalization import Extent, diagnose, scene_extent
from hashnffb_sdf_ns.scene_sources import OriginalViews, checked_extent, half_angles


@dataclass
class SdfDataManagerConfig(FieldDataManagerConfig):
    """The suite's datamanager for surfaces in the unit sphere."""

    _target: type = field(default_factory=lambda: SdfDataManager)
    """target class to instantiate"""
    scale_check: Literal["fix", "refuse", "warn", "off"] = "fix"
    """Find where the object is, from masks, SfM points or the cameras. If it is not in the unit sphere, or fills little
    of it, fix: move and scale the scene; refuse: end with an error; warn: say so. off: do not look."""
    unit_sphere: tuple[float, float, float, float] | None = None
    """Center (x, y, z) and radius of what becomes the unit sphere, in the coordinates of the dataparser; None: as
    scale_check has it. What `fix` finds is kept here in the run's config.yml, so that later commands see the scene as
    training did, whatever has become of masks and points."""
    mask_check: Literal["refuse", "warn"] = "refuse"
    """What to do about masks that are empty, inverted or contradict each other."""
    masks_are: Literal["valid", "object"] = "valid"
    """What the masks of nerfstudio's own dataparsers mean. valid: the pixels to train on, as the host has it; object:
    where the object is. Those of idr-data, and alpha, always mean the object."""


class SdfDataManager(FieldDataManager):
    """Batches and evaluation images have `mask` where the data has object masks; see `MaskedDataset`."""

    config: SdfDataManagerConfig
    dataset_class = MaskedDataset
    _placed: Similarity | None = None
    """Map from the unit sphere to the dataparser's coordinates; None before it is decided."""

    def _present(self, outputs: DataparserOutputs) -> DataparserOutputs:
        """The outputs in the unit sphere, which the first of them, those of the training views, decide."""
        outputs = super()._present(outputs)
        if self.config.masks_are == "object" and outputs.mask_filenames is not None:
            masks = {"object_mask_filenames": list(outputs.mask_filenames)}
            outputs = replace(outputs, mask_filenames=None, metadata={**outputs.metadata, **masks})
        if self._placed is None:
            self._placed = self._choose_sphere(outputs)
        return renormalized(outputs, self._placed, isinstance(self.config.dataparser, BlenderDataParserConfig))

    def setup_train(self) -> None:
        if not self.uses_pixel_store and self.train_dataset.metadata["has_masks"]:
            problem = "the host's patch sampling and partial caching draw pixels inside of masks only"
            raise InputError(problem, "Drop these options of the datamanager, or train without masks")
        super().setup_train()

    def _choose_sphere(self, outputs: DataparserOutputs) -> Similarity:
        """What becomes the unit sphere; in a training, says what was found."""
        unit, config = Similarity(np.zeros(3), 1.0), self.config
        if config.unit_sphere is not None:
            *center, radius = config.unit_sphere
            if not (np.isfinite(config.unit_sphere).all() and radius > 0):
                problem = f"--pipeline.datamanager.unit-sphere is {' '.join(f'{x:g}' for x in config.unit_sphere)}"
                raise InputError(problem, "Give x, y, z of its center and a radius above 0")
            return Similarity(np.array(center), radius)
        if config.scale_check == "off":
            return unit
        says = self.test_mode == "val" and distributed.rank() == 0
        extent = extent_of_outputs(outputs, refuse=config.mask_check == "refuse" and self.test_mode == "val")
        if extent is None:
            if says:
                problem = "neither masks nor SfM points nor the cameras' axes tell where the object is"
                CONSOLE.print(f"[yellow]Scene: {problem}; the unit sphere stays where the dataparser puts it.")
            return unit
        poses = outputs.cameras.camera_to_worlds.double().numpy()
        diagnosis = diagnose(extent, poses)
        if says:
            CONSOLE.print(diagnosis.summary())
        problem = diagnosis.problem()
        if problem is None:
            return unit
        if config.scale_check == "refuse":
            remedy = "Set --pipeline.datamanager.scale-check fix, or correct scale_mat with ns-idr-cameras"
            raise InputError(problem, remedy, config.data)
        if config.scale_check == "warn":
            if says:
                CONSOLE.print(f"[yellow]Badly scaled: {problem}.")
            return unit
        if says:
            CONSOLE.print(f"[yellow]Badly scaled: {problem}. The sphere that holds it becomes the unit sphere.")
            CONSOLE.print(diagnose(extent, poses, extent.sphere).summary())
        if self.test_mode == "val":
            x, y, z = (float(coordinate) for coordinate in extent.sphere.center)
            config.unit_sphere = (x, y, z, float(extent.sphere.radius))
            self.has_completed_config = True
        return extent.sphere


def extent_of_outputs(outputs: DataparserOutputs, refuse: bool = True) -> Extent | None:
    """Where the object is in the coordinates of a dataparser's outputs. Lens distortion is left out of account.

    Args:
        outputs: of the training views.
        refuse: whether bad masks are an error.
    Raises: InputError if masks are bad.
    """
    poses = outputs.cameras.camera_to_worlds.double().cpu().numpy()
    views = outputs.metadata.get("original_views") or views_of_outputs(outputs)
    inner, sizes = views.inner, views.sizes
    masks = mask_files_of(views.images, views.masks)
    if masks is not None:
        extent = checked_extent(masks, projection_matrices(inner, poses), sizes, poses, refuse)
        if extent is not None:
            return extent
    points = outputs.metadata.get("points3D_xyz")
    cloud = None if points is None else torch.as_tensor(points).double().cpu().numpy()
    return scene_extent(poses, half_angles(inner, sizes), points=cloud)


def views_of_outputs(outputs: DataparserOutputs) -> OriginalViews:
    """The views of a dataparser that tells no more than what is trained."""
    cameras = outputs.cameras
    fx, fy, cx, cy = (getattr(cameras, name).double().reshape(-1).cpu().numpy() for name in ("fx", "fy", "cx", "cy"))
    inner = np.zeros((len(fx), 3, 3))
    inner[:, 0, 0], inner[:, 1, 1], inner[:, 0, 2], inner[:, 1, 2], inner[:, 2, 2] = fx, fy, cx, cy, 1.0
    sizes = torch.cat([cameras.width, cameras.height], dim=-1).reshape(-1, 2).cpu().numpy()
    return OriginalViews(outputs.image_filenames, outputs.metadata.get("object_mask_filenames"), sizes, inner)


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
