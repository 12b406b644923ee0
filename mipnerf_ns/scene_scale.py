"""Whether the cameras and SfM points of a capture are scaled for mip-NeRF 360's contraction, and what to do if not.

The contraction leaves a ball about the origin as it is and squeezes everything beyond into a shell around it. A capture
that is far larger than the ball, or far smaller, trains without an error and comes out blurred: only counting tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

TOLERANCE = 2**0.5
"""Cameras up to this many radii from the origin are well placed: so far the contraction, whose slope along a ray from
the origin is (r / distance)², keeps half of the resolution or more. Dataparsers that scale cameras into the cube
[−1, 1]³, as nerfstudio's and mip-NeRF 360's do, leave the corners of a flat capture there."""
MAX_OUTSIDE = 0.1
"""Share of the cameras that may stand beyond it."""
MIN_POINTS_INSIDE = 0.1
"""Share of the SfM points that should lie inside the ball."""
SMALL_CAMERAS, SMALL_POINTS = 0.25, 0.5
"""Fractions of the radius within which 95 % of the cameras, and of the points, lie where the ball is far too large."""
MIN_POINTS = 10
"""With fewer SfM points, none of the rules looks at them."""
MARGIN = 1.05
"""Factor on a recommended radius. It also covers rounding to two digits."""

Problem = Literal["cameras outside", "ball too large", "points outside"]


@dataclass(frozen=True)
class SceneScale:
    """Where cameras and SfM points stand relative to the contraction's ball. Lengths are in scene units."""

    radius: float
    """Radius of the ball."""
    num_cameras: int
    """Cameras with finite positions."""
    cameras_inside: int
    """Cameras inside the ball."""
    cameras_beyond: int
    """Cameras farther than √2 radii from the origin."""
    num_points: int
    """SfM points with finite positions; 0 if none are known."""
    points_inside: int
    """SfM points inside the ball."""
    camera_median: float
    """Median distance of the cameras from the origin."""
    camera_q95: float
    """Smallest radius that holds 95 % of the cameras."""
    camera_q98: float
    """Smallest radius that holds 98 % of the cameras."""
    centroid_offset: float
    """Distance of the cameras' centroid from the origin."""
    off_center: bool
    """Whether the origin is away from the cameras, and is not what they look at either."""
    auto_scaled: bool
    """Whether the cameras just fill the cube [−1, 1]³, as the dataparsers' auto-scale-poses leaves them."""
    problem: Problem | None
    """Which rule the scale breaks; None if it is fine."""
    recommended_radius: float | None
    """Radius that the scale would be fine with, two significant digits; None if it is fine as it is."""

    def summary(self) -> str:
        """How many cameras and points are inside, in one line."""
        points = f"{self.points_inside:,} of {self.num_points:,}" if self.num_points else "none loaded"
        ball = f"the contraction's unit sphere (radius {self.radius:g})"
        return f"Cameras inside {ball}: {self.cameras_inside:,} of {self.num_cameras:,}; SfM points: {points}."

    def warning(self) -> str | None:
        """What is wrong with the scale and what to do, in one line; None if it is fine."""
        if self.problem is None or self.recommended_radius is None:
            return None
        if self.problem == "cameras outside":
            found = f"{self.cameras_beyond:,} of {self.num_cameras:,} cameras stand farther than "
            found += f"{TOLERANCE * self.radius:.2g} from the origin (the median at {self.camera_median:.2g}), "
            found += "where detail is squeezed"
        elif self.problem == "ball too large":
            found = f"95 % of the cameras stand within {self.camera_q95:.2g} of the origin, so that most of the "
            found += "sphere, and of the model's resolution, is empty"
        else:
            found = f"only {self.points_inside:,} of {self.num_points:,} SfM points lie inside the sphere, so that "
            found += "nearly all of the scene is squeezed"
        ways = [f"--pipeline.model.contraction-radius {self.recommended_radius:g}"]
        # The dataparsers' options, which follow the dataparser's name in the command and need no prefix.
        parser_options = []
        if self.off_center:
            parser_options.append("--center-method poses")
        # Scaled cameras fill a ball of radius 1 to 1.7.
        if self.problem != "points outside" and not self.auto_scaled and 0.75 <= self.radius <= 1.5:
            parser_options.append("--auto-scale-poses True --scale-factor 1")
        if parser_options:
            ways.append(f"{' '.join(parser_options)} after nerfstudio-data or colmap")
        return f"Badly scaled for the contraction: {found}. Use {', or '.join(ways)}."

    def lines(self) -> list[str]:
        """The summary, and the warning if there is one."""
        warning = self.warning()
        return [self.summary()] if warning is None else [self.summary(), warning]


def diagnose_scene_scale(
    camera_to_worlds: Float[Tensor, "n 3 4"] | Float[Tensor, "n 4 4"] | np.ndarray,
    points: Float[Tensor, "m 3"] | np.ndarray | None = None,
    radius: float = 1.0,
) -> SceneScale:
    """Say whether a capture is scaled for the contraction.

    It is badly scaled if more than 10 % of the cameras stand farther than √2 radii from the origin; if 95 % of the
    cameras are within a quarter of the radius and 95 % of the points, where known, within half of it; or if fewer than
    10 % of the points are inside. A few cameras just outside are as it should be: nerfstudio's dataparsers and the
    paper's scale cameras into the cube [−1, 1]³.

    The recommended radius holds 98 % of the cameras, or 95 % if that is still too large because of a few stray ones,
    and where the ball is too large, or would hold too few points, also half of the points.

    Args:
        camera_to_worlds: poses [n, 3 or 4, 4] in scene units, looking along −z (OpenGL axes).
        points: SfM points [m, 3] in scene units, if known. Those that are not finite are left out.
        radius: radius of the ball that the contraction leaves as it is, in scene units.
    """
    poses = _as_array(camera_to_worlds).reshape(-1, *np.shape(camera_to_worlds)[-2:])[:, :3]
    poses = poses[np.isfinite(poses).all(axis=(1, 2))]
    cloud = np.zeros((0, 3)) if points is None else _as_array(points).reshape(-1, 3)
    cloud = cloud[np.isfinite(cloud).all(axis=1)]
    positions, back = poses[:, :, 3], poses[:, :, 2]
    camera_distance, point_distance = np.linalg.norm(positions, axis=1), np.linalg.norm(cloud, axis=1)
    known = point_distance if len(point_distance) >= MIN_POINTS else point_distance[:0]

    # Cameras in a single spot say nothing about the size of a scene.
    center = positions.mean(axis=0) if len(positions) else np.zeros(3)
    spread = float(np.median(np.linalg.norm(positions - center, axis=1))) if len(positions) else 0.0
    problem = _problem(camera_distance, known, radius, spread)
    # An origin that the cameras look at is where it should be, however far they all are to one side of it.
    toward = np.sum(back * positions, axis=1) / np.maximum(camera_distance * np.linalg.norm(back, axis=1), 1e-12)
    looked_at = len(toward) > 0 and float(np.median(toward)) > np.cos(np.pi / 4)
    offset = float(np.linalg.norm(center))
    largest_coordinate = float(np.abs(positions).max(initial=0.0))
    return SceneScale(
        radius=radius,
        num_cameras=len(camera_distance),
        cameras_inside=int((camera_distance <= radius).sum()),
        cameras_beyond=int((camera_distance > TOLERANCE * radius).sum()),
        num_points=len(point_distance),
        points_inside=int((point_distance <= radius).sum()),
        camera_median=_holding(camera_distance, 0.5),
        camera_q95=_holding(camera_distance, 0.95),
        camera_q98=_holding(camera_distance, 0.98),
        centroid_offset=offset,
        off_center=offset > 0.5 * spread and not looked_at,
        # The training split may lack the outermost camera, which is at 1.
        auto_scaled=0.75 <= largest_coordinate <= 1.01,
        problem=problem,
        recommended_radius=None if problem is None else _recommend(problem, camera_distance, known, spread),
    )


def _problem(cameras: np.ndarray, points: np.ndarray, radius: float, spread: float) -> Problem | None:
    """Which rule a ball of `radius` breaks, from distances from the origin and the cameras' spread."""
    if len(cameras) and (cameras > TOLERANCE * radius).mean() > MAX_OUTSIDE:
        return "cameras outside"
    if len(points) and (points <= radius).mean() < MIN_POINTS_INSIDE:
        return "points outside"
    few_cameras = len(cameras) == 0 or _holding(cameras, 0.95) <= SMALL_CAMERAS * radius
    sizeable = len(points) > 0 or spread > 1e-6 * radius
    if few_cameras and sizeable and (len(points) == 0 or _holding(points, 0.95) <= SMALL_POINTS * radius):
        return "ball too large"
    return None


def _recommend(problem: Problem, cameras: np.ndarray, points: np.ndarray, spread: float) -> float | None:
    """The first of the candidate radii that breaks no rule, else the last of them; None if all are 0."""
    half_of_points = _holding(points, 0.5)
    candidates = []
    for share in (0.98, 0.95):
        holding_cameras = _holding(cameras, share)
        if problem == "cameras outside":
            candidates.append(holding_cameras)
        candidates.append(max(holding_cameras, half_of_points))
    rounded = [float(f"{MARGIN * candidate:.2g}") for candidate in candidates if candidate > 0.0]
    fine = [candidate for candidate in rounded if _problem(cameras, points, candidate, spread) is None]
    return (fine or rounded[-1:] or [None])[0]


def _holding(distances: np.ndarray, share: float) -> float:
    """The smallest radius that holds this share of the distances; 0 if there are none."""
    return float(np.quantile(distances, share, method="inverted_cdf")) if len(distances) else 0.0


def _as_array(values: Tensor | np.ndarray) -> np.ndarray:
    """Values as float64 in main memory."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
