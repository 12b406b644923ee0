"""Where cameras stand, what they look at, and paths around it: pure numpy, nerfstudio's camera convention.

Poses are camera-to-world matrices in the OpenGL convention that nerfstudio uses: the columns are the camera's right
(+x), up (+y) and back (+z) axes and its position, so that a camera looks along its −z axis. Lengths are scene units.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray


def positions(c2w: Float[NDArray, "n 3 4"]) -> Float[NDArray, "n 3"]:
    """Camera centers in world coordinates."""
    return c2w[:, :3, 3]


def view_directions(c2w: Float[NDArray, "n 3 4"]) -> Float[NDArray, "n 3"]:
    """Unit directions of the optical axes, pointing into the scene."""
    return normalize(-c2w[:, :3, 2])


def normalize(vector: ArrayLike) -> NDArray:
    """Scale vectors (last axis) to length 1; a zero vector stays zero instead of becoming NaN."""
    v = np.asarray(vector, dtype=np.float64)
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12)


def nearest_point_to_axes(c2w: Float[NDArray, "n 3 4"]) -> tuple[Float[NDArray, " 3"], float]:
    """The point with the least sum of squared distances to all optical axes.

    Each axis (o, d) contributes |(I − ddᵀ)(x − o)|², so x solves Σ(I − ddᵀ) x = Σ(I − ddᵀ) o.

    Args:
        c2w: camera-to-world matrices.
    Returns: the point, and how well the axes determine it: the smallest eigenvalue of the mean of (I − ddᵀ), which is
        the mean squared sine of the angle between the axes and their common direction. It is 0 for parallel axes, for
        which the point of least norm among the equally good ones is returned.
    """
    d = view_directions(c2w)
    projections = np.eye(3) - d[:, :, None] * d[:, None, :]
    normal_matrix = projections.mean(axis=0)
    rhs = np.einsum("nij,nj->i", projections, positions(c2w)) / len(c2w)
    point = np.linalg.lstsq(normal_matrix, rhs, rcond=1e-9)[0]
    return point, float(max(np.linalg.eigvalsh(normal_matrix)[0], 0.0))


def fraction_in_front(c2w: Float[NDArray, "n 3 4"], point: Float[NDArray, " 3"], margin: float = 0.0) -> float:
    """Share of the cameras, 0 to 1, that have the point in front of them by more than a margin in scene units."""
    return float(np.mean(np.sum((point - positions(c2w)) * view_directions(c2w), axis=-1) > margin))


def orbit_center(
    c2w: Float[NDArray, "n 3 4"], box: Float[NDArray, "2 3"], least_spread: float = 1e-3
) -> tuple[Float[NDArray, " 3"], str]:
    """The point to circle around: what the cameras look at, where that is defined.

    Args:
        c2w: camera-to-world matrices.
        box: lower and upper corner of the scene box.
        least_spread: mean squared sine below which the axes count as parallel; 1e-3 is a spread of about 2°.
    Returns: the point and, in words, where it comes from.
    """
    focus, spread = nearest_point_to_axes(c2w)
    # Axes that meet behind the cameras belong to cameras looking outward: nothing is in view at that point.
    if spread >= least_spread and fraction_in_front(c2w, focus) > 0.5:
        return focus, "point nearest to the optical axes of the train cameras"
    center = box.mean(axis=0)
    side = float(np.max(box[1] - box[0]))
    # Data parsers put the mean camera position into the box center, which is then among the cameras, not before them.
    if fraction_in_front(c2w, center, margin=0.1 * side) > 0.5:
        return center, "center of the scene box, as the optical axes do not meet in front of the cameras"
    mean_view = view_directions(c2w).mean(axis=0)
    if np.linalg.norm(mean_view) > 0.5:
        ahead = positions(c2w).mean(axis=0) + 0.5 * side * normalize(mean_view)
        return ahead, "half a scene box ahead of the cameras, which all look the same way"
    return center, "center of the scene box, as the cameras look outward"


def up_axis(c2w: Float[NDArray, "n 3 4"]) -> Float[NDArray, " 3"]:
    """The direction that is up for the cameras as a group, of unit length.

    Whoever takes pictures keeps the horizon level, so the image x axes lie in the horizontal plane, whatever the
    elevation: up is the direction most perpendicular to all of them, with the sign of the mean camera up. For Blender
    scenes this is z exactly, where the mean camera up depends on which views were drawn. When the x axes do not single
    out a plane (all cameras face the same way, or are rolled), the mean camera up decides.
    """
    mean_up = c2w[:, :3, 1].mean(axis=0)
    if np.linalg.norm(mean_up) < 1e-3:
        return np.array([0.0, 0.0, 1.0])
    _, singular_values, axes = np.linalg.svd(normalize(c2w[:, :3, 0]), full_matrices=True)
    if len(c2w) >= 3:
        # Root mean square components of the x axes: along the plane's minor direction, and out of the plane.
        minor, off_plane = singular_values[1:] / math.sqrt(len(c2w))
        if minor > max(0.17, 2.0 * off_plane):
            return axes[2] if axes[2] @ mean_up > 0 else -axes[2]
    return normalize(mean_up)


def horizontal_axes(up: Float[NDArray, " 3"]) -> tuple[Float[NDArray, " 3"], Float[NDArray, " 3"]]:
    """Two unit vectors that span the plane perpendicular to `up`, right-handed with it (x, y for up = z)."""
    helper = np.eye(3)[0 if abs(up[0]) < 0.7 else 1]
    first = normalize(helper - (helper @ up) * up)
    return first, np.cross(up, first)


def spherical_coordinates(
    points: Float[NDArray, "n 3"], center: Float[NDArray, " 3"], up: Float[NDArray, " 3"]
) -> tuple[Float[NDArray, " n"], Float[NDArray, " n"], Float[NDArray, " n"]]:
    """Distance to the center (scene units), elevation above the horizontal plane and azimuth (radians) of points.

    Args:
        points, center: in scene units.
        up: unit vector; azimuth counts from the first of `horizontal_axes`.
    """
    first, second = horizontal_axes(up)
    offset = points - center
    distance = np.linalg.norm(offset, axis=-1)
    elevation = np.arcsin(np.clip(offset @ up / np.maximum(distance, 1e-12), -1.0, 1.0))
    azimuth = np.arctan2(offset @ second, offset @ first)
    return distance, elevation, azimuth


def azimuth_coverage(azimuth: Float[NDArray, " n"]) -> float:
    """Angle in radians of the smallest arc that contains all azimuths, up to 2π."""
    ordered = np.sort(np.mod(azimuth, 2 * math.pi))
    gaps = np.diff(ordered, append=ordered[0] + 2 * math.pi)
    return float(2 * math.pi - gaps.max())


def look_at(
    position: Float[NDArray, "n 3"], target: Float[NDArray, " 3"], up: Float[NDArray, " 3"]
) -> Float[NDArray, "n 3 4"]:
    """Rigid poses at the given positions that look at the target with a level horizon.

    Args:
        position: camera centers, none of them straight above or below the target.
        target: the point that appears in the middle of every image.
        up: unit vector that points upwards in every image.
    Returns: camera-to-world matrices.
    """
    back = normalize(position - target)
    right = normalize(np.cross(np.broadcast_to(up, back.shape), back))
    return np.stack([right, np.cross(back, right), back, position], axis=-1)


def orbit_poses(
    center: Float[NDArray, " 3"],
    radius: float,
    elevation: float,
    frames: int,
    up: Float[NDArray, " 3"],
    start_azimuth: float = 0.0,
    elevation_swing: float = 0.0,
) -> Float[NDArray, "frames 3 4"]:
    """Poses on a sphere around a center, once around, counter-clockwise seen from above.

    The path is closed without repeating its first pose, so that the video loops without a stutter.

    Args:
        center: the point that every pose looks at.
        radius: distance to the center, in scene units.
        elevation: angle above the horizontal plane in radians, inside (−π/2, π/2) together with the swing.
        frames: number of poses.
        up: unit vector of the orbit's axis.
        start_azimuth: azimuth of the first pose in radians.
        elevation_swing: amplitude in radians by which the elevation rises and sinks once per turn.
    Returns: camera-to-world matrices.
    """
    first, second = horizontal_axes(up)
    turn = 2 * math.pi * np.arange(frames) / frames
    height = (elevation + elevation_swing * np.sin(turn))[:, None]
    azimuth = (start_azimuth + turn)[:, None]
    direction = np.cos(height) * (np.cos(azimuth) * first + np.sin(azimuth) * second) + np.sin(height) * up
    return look_at(center + radius * direction, center, up)


def frustum_corners(
    c2w: Float[NDArray, "n 3 4"],
    sizes: Float[NDArray, "n 2"],
    focals: Float[NDArray, "n 2"],
    principal_points: Float[NDArray, "n 2"],
    depth: float,
) -> Float[NDArray, "n 4 3"]:
    """World positions of the image corners at a given depth, without lens distortion.

    Args:
        c2w: camera-to-world matrices.
        sizes: width and height in pixels.
        focals: fx and fy in pixels.
        principal_points: cx and cy in pixels.
        depth: distance of the drawn image plane from the camera center along the optical axis, in scene units.
    Returns: the corners in the order top left, top right, bottom right, bottom left.
    """
    unit = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    image_plane = (unit * sizes[:, None] - principal_points[:, None]) / focals[:, None]
    # Image y runs down, camera y runs up, and the camera looks along −z.
    local = depth * np.stack([image_plane[..., 0], -image_plane[..., 1], -np.ones(image_plane.shape[:2])], axis=-1)
    return np.einsum("nij,nkj->nki", c2w[:, :3, :3], local) + c2w[:, None, :3, 3]


def box_edges(box: Float[NDArray, "2 3"]) -> Float[NDArray, "12 2 3"]:
    """The edges of an axis-aligned box as pairs of end points."""
    corners = np.array([[box[i, 0], box[j, 1], box[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    pairs = [(a, a | bit) for a in range(8) for bit in (1, 2, 4) if not a & bit]
    return corners[np.array(pairs)]


def in_words(vector: Float[NDArray, " 3"]) -> str:
    """A point or direction for people, to three decimal places."""
    # Adding 0 turns −0 into 0.
    return "(" + ", ".join(f"{x:.3f}".rstrip("0").rstrip(".") for x in np.round(vector, 3) + 0.0) + ")"
