"""What dataparsers, data sets and datamanagers say of a scene, and what rays carry: every key, once.

nerfstudio passes both as plain dictionaries. `SceneMetadata` travels in `DataparserOutputs.metadata`, goes on as
`InputDataset.metadata`, and reaches models as `kwargs["metadata"]`; `RayMetadata` is `RayBundle.metadata`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from torch import Tensor

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras

    from common_ns.data.depth.contract import DepthContract
    from common_ns.data.depth.normals import NormalContract
    from common_ns.data.scene_bounds import RayBounds


class SceneMetadata(TypedDict, total=False):
    """A scene. All lengths are in scene units, after the dataparser has scaled, and lists have an entry per image."""

    # Of nerfstudio's own dataparsers, too.
    points3D_xyz: Tensor
    """Known points of the scene [n, 3]: of structure from motion, or of depth maps."""
    points3D_rgb: Tensor
    """Their colors [n, 3], 8-bit."""
    depth_filenames: list[Path]
    """Depth maps."""
    depth_unit_scale_factor: float
    """Length of a stored step of the depth maps in the unit of the poses; `depth_contract` says more."""

    # Of this suite's dataparsers.
    points3D_source: str
    """Where the points are from, in words; absent: SfM points."""
    near_far: tuple[float, float]
    """Ray distances between which the scene is."""
    image_scale: list[int]
    """Factor by which each image of a multi-scale data set was made smaller: 1, 2, 4 or 8."""
    fisheye_crop_radius: float
    """Radius in pixels, of the images that the dataparser names, of the circle that a fisheye's pictures are in."""
    depth_contract: DepthContract
    """What the numbers in the depth maps mean."""
    depth_assumed: str
    """What of the contract was assumed because nothing states it, in words; empty: nothing."""
    depth_sigma_filenames: list[Path] | None
    """Maps of the depth's standard deviation."""
    depth_reach: Any
    """Nearest and farthest depth, and the fraction of the pictures that has depth (`depthnerf_ns.dataparser`)."""
    normal_filenames: list[Path] | None
    """Maps of surface normals."""
    normal_contract: NormalContract
    """What their numbers mean."""
    object_mask_filenames: list[Path] | None
    """Masks of the object: where it is, not which pixels are valid."""
    original_views: Any
    """The views as they are on disk, at any resolution (`hashnffb_sdf_ns.object_sphere.scene_sources`)."""
    reference_camera_to_worlds: list[Tensor]
    """Poses [3, 4] to compare refined cameras with."""
    signal: Any
    """What MINER is fitted to (`miner_ns.signal`)."""
    grid_to_world: Tensor
    """Map from the signal's grid to the viewer's world [4, 4]."""

    # Added by data sets and datamanagers, for models.
    ray_bounds: RayBounds
    """Where rays start and end."""
    camera_to_worlds: Tensor
    """Poses of the training cameras [n, 3, 4], OpenGL axes."""
    cameras: Cameras
    """The training cameras."""
    widest_pixel: float
    """Largest radius at distance 1 of the cones of training rays, in the middle of their images."""
    images_have_alpha: bool
    """Whether images say what is seen beside the object."""
    has_masks: bool
    """Whether batches have masks of the object."""
    scene_units_per_meter: float
    """Scene units of the unit of the poses."""
    depth_cloud: Any
    """Draws the depth maps into any view (`depthnerf_ns.depth_cloud`)."""


class RayMetadata(TypedDict, total=False):
    """Rays [n]."""

    random_numbers: Tensor
    """Uniform random numbers of a training ray [n, k] (`common_ns.rays.random_numbers`)."""
    depth: Tensor
    """Measured ray distance in scene units [n, 1]; 0: none."""
    depth_sigma: Tensor
    """Its standard deviation [n, 1]."""
    normal: Tensor
    """Predicted unit normal in the scene's axes [n, 3]; 0: none."""
    object_mask: Tensor
    """Fraction of the ray's pixel that the object covers [n, 1]."""
