"""Where rays start and end, decided from the data when the user does not say.

nerfstudio's mip-NeRF has Blender's near 2 and far 6 built in and so works on Blender data only. Here every data set
gets bounds that fit it, in ray distance and scene units, and the run prints which and why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

BLENDER_NEAR_FAR = (2.0, 6.0)
"""Near and far of NeRF's synthetic scenes: cameras at distance 4, the object within 2 of the origin."""

CAPTURE_NEAR, CAPTURE_FAR = 0.05, 6.0
"""Near and far of a capture whose cameras were scaled into [−1, 1]³ and whose SfM points are not known."""


@dataclass(frozen=True)
class RayBounds:
    """Interval of a ray that is sampled."""

    near: float
    """Ray distance of the first sample in scene units."""
    far: float
    """Ray distance of the last sample in scene units."""
    bounded: bool
    """Whether the scene is an object seen from outside (sampled uniformly, in front of a plain background) rather than
    surroundings seen from inside (sampled more sparsely with distance, with content up to the far plane)."""
    extent: float
    """Radius in scene units of a ball about the origin that holds all samples."""
    reason: str
    """How the bounds were found, for the user."""
    from_points: bool = False
    """Whether they are distances of known points, hence seen rather than assumed."""
    assumed: bool = False
    """Whether it is an object by the look of where the cameras stand, and nothing says so."""


def ray_bounds(outputs: DataparserOutputs, config: DataParserConfig | None = None) -> RayBounds:
    """Choose near and far for a data set.

    In this order: what the dataparser states (metadata "near_far"); Blender's convention; the distances of SfM points
    (metadata "points3D_xyz"; "points3D_source" says what else they are) from the cameras; for cameras outside the scene
    box, the ball around that box; else the fixed interval of a capture that was scaled into the unit cube.

    Args:
        outputs: the dataparser's outputs of the training split.
        config: the dataparser's config, to recognize Blender data.
    """
    origins = outputs.cameras.camera_to_worlds[:, :3, 3].double().cpu().numpy()
    camera_radius = float(np.linalg.norm(origins, axis=1).max())

    def bounds(near: float, far: float, bounded: bool, reason: str) -> RayBounds:
        # Objects lie within far − |camera| of the origin; surroundings reach out to the far plane in all directions.
        extent = far - float(np.linalg.norm(origins, axis=1).mean()) if bounded else camera_radius + far
        return RayBounds(float(near), float(far), bounded, max(extent, 1e-3), reason)

    metadata = outputs.metadata or {}
    if "near_far" in metadata:
        near, far = (float(value) for value in metadata["near_far"])
        return bounds(near, far, True, "stated by the data set")
    if isinstance(config, BlenderDataParserConfig):
        near, far = (plane * config.scale_factor for plane in BLENDER_NEAR_FAR)
        return bounds(near, far, True, "Blender convention")
    points = metadata.get("points3D_xyz")
    if points is not None and len(points) >= 10:
        near, far = point_distance_range(origins, np.asarray(torch.as_tensor(points).double().cpu()))
        return replace(bounds(near, far, False, metadata.get("points3D_source", "SfM points")), from_points=True)

    aabb = outputs.scene_box.aabb.double().cpu().numpy()
    center, radius = aabb.mean(0), 0.5 * float(np.linalg.norm(aabb[1] - aabb[0]))
    distance = np.linalg.norm(origins - center, axis=1)
    if len(distance) and distance.min() > radius:
        found = bounds(distance.min() - radius, distance.max() + radius, True, "cameras outside the scene box")
        return replace(found, assumed=True)
    return bounds(CAPTURE_NEAR, CAPTURE_FAR, False, "cameras inside the scene box")


def point_distance_range(origins: np.ndarray, points: np.ndarray, margin: float = 0.5) -> tuple[float, float]:
    """Near and far that enclose SfM points as seen from the cameras.

    SfM leaves outliers on both sides, so the 1st and 99th percentile of distances count, moved outward by `margin`:
    points are sparse where the scene is plain, and what is nearest or farthest may have none.

    Args:
        origins: camera centers [n, 3].
        points: SfM points [m, 3].
        margin: fraction by which near shrinks and far grows.
    Returns: near and far in scene units.
    """
    # 200 cameras and 2,000 points settle a percentile to well under a per cent.
    origins = origins[:: max(1, len(origins) // 200)]
    points = points[:: max(1, len(points) // 2000)]
    distance = np.linalg.norm(points[None] - origins[:, None], axis=-1)
    low, high = np.percentile(distance, [1, 99])
    return max(low * (1.0 - margin), 1e-3), high * (1.0 + margin)
