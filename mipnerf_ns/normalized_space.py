"""Normalized device coordinates of a forward-facing capture: which cameras they suit, and the field's map into them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor, nn

from common_ns.errors import InputError
from common_ns.rays.contraction import project_onto
from common_ns.rays.forward_facing import (
    DistanceMap,
    lift_frustum_ndc,
    mean_pose,
    ndc_distance_maps,
    ndc_isotropic,
    to_ndc,
)

MAX_ANGLE = 60.0
"""Degrees between a camera's viewing direction and the mean of all, beyond which cameras do not face one way."""
MAX_RAY_ANGLE = 85.0
"""Degrees between a ray and that mean, beyond which a ray has no place in normalized device coordinates."""
NEAR_MARGIN = 0.5
"""Depth of the near plane over that of the nearest known points, of which plain things have none."""
MIN_POINTS = 10
"""With fewer known points, their depths are not used."""
REACH_MARGIN = 1.05
"""Half side of the cube that a field covers across the view, over what the training cameras need; cameras move."""
MAX_REACH = 4.0
"""Most of it, in halves of a training camera's view: a near plane that is far too near does not shrink the scene."""

_FRAME = torch.tensor([[0.0, 0.0], [0.0, 0.5], [0.0, 1.0], [0.5, 0.0], [0.5, 1.0], [1.0, 0.0], [1.0, 0.5], [1.0, 1.0]])
"""Corners and middles of the sides of an image, (y, x) over its size."""
_LEAVE_OUT = "Leave out --pipeline.model.forward-facing"


class NormalizedSpace(nn.Module):
    """The cube [−1, 1]³ that holds what the training cameras see, from the near plane to infinity.

    Normalized device coordinates of a camera in the mean pose, whose view is as wide as all training cameras' together.
    Pose and factors are part of checkpoints: other commands see what training saw.

    Args:
        pose: of the reference camera, OpenGL axes, scene units.
        factors: as of `common_ns.rays.forward_facing`.
    """

    pose: Tensor
    factors: Tensor

    def __init__(self, pose: Float[Tensor, "3 4"], factors: Float[Tensor, "3"]) -> None:
        super().__init__()
        self.register_buffer("pose", pose.clone())
        self.register_buffer("factors", factors.clone())

    def local_points(self, x: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Points in the reference frame."""
        return self.local_directions(x - self.pose[:, 3])

    def local_directions(self, d: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Directions in the reference frame."""
        return project_onto(d, self.pose[:, :3])

    def forward(self, x: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Points of the scene in the cube; those before the near plane are moved onto it."""
        return to_ndc(self.local_points(x), self.factors)

    def isotropic(
        self, mean: Float[Tensor, "*n 3"], std: Float[Tensor, "*n 1"]
    ) -> tuple[Float[Tensor, "*n 3"], Float[Tensor, "*n 1"]]:
        """Isotropic Gaussians of the scene in the cube; see `ndc_isotropic`."""
        return ndc_isotropic(self.local_points(mean), std, self.factors)

    def lift(
        self,
        mean: Float[Tensor, "*n 3"],
        direction: Float[Tensor, "*r 3"],
        t_var: Float[Tensor, "*n 1"],
        r_var: Float[Tensor, "*n 1"],
        basis: Float[Tensor, "3 k"],
    ) -> tuple[Float[Tensor, "*n k"], Float[Tensor, "*n k"]]:
        """Gaussians of frustums in the scene along directions in the cube; see `lift_frustum_ndc`."""
        local = self.local_points(mean), self.local_directions(direction)
        return lift_frustum_ndc(*local, t_var, r_var, basis, self.factors)

    @property
    def density_scale(self) -> Float[Tensor, ""]:
        """Factor on a network's densities: what a scene unit is in the middle of the cube, at depth 2 n.

        It is one for all depths. Densities per length of the cube would be 2 / n at the near plane: fog before every
        camera, where no other camera sees it.
        """
        return 0.5 / self.factors[2]

    def distance_maps(self, rays: RayBundle) -> tuple[DistanceMap, DistanceMap]:
        """From normalized to ray distance, whose even steps are even in the cube, and back; see `ndc_distance_maps`."""
        assert rays.nears is not None and rays.fars is not None
        depth = -self.local_points(rays.origins)[..., 2:]
        cosine = -self.local_directions(rays.directions)[..., 2:]
        return ndc_distance_maps(depth, cosine, rays.nears, rays.fars, self.factors[2])


class SpaceChoice(NamedTuple):
    """A space, and how it was found."""

    space: NormalizedSpace
    """The space."""
    summary: str
    """What it is made of, in one line."""


def normalized_space(
    cameras: Cameras, points: Float[Tensor, "m 3"] | None, near: float | None, fallback_near: float
) -> SpaceChoice:
    """The normalized device coordinates that suit the training cameras.

    Args:
        cameras: the training cameras.
        points: known points of the scene.
        near: depth of the near plane before the cameras' mean position in scene units, above 0; None: by the points.
        fallback_near: that depth, where neither it nor points are known.
    Raises: InputError if the cameras are of a kind without a view ahead, or do not face one way.
    """
    kinds = {int(kind) for kind in cameras.camera_type.reshape(-1).unique()}
    flat_kinds = {CameraType.PERSPECTIVE.value, CameraType.FISHEYE.value, CameraType.FISHEYE624.value}
    if not kinds <= flat_kinds:
        names = ", ".join(CameraType(kind).name.lower() for kind in sorted(kinds - flat_kinds))
        raise InputError(f"forward-facing is for perspective and fisheye cameras, and some are {names}", _LEAVE_OUT)
    c2w = cameras.camera_to_worlds.reshape(-1, *cameras.camera_to_worlds.shape[-2:])[:, :3].detach().cpu().double()
    angle = _largest_angle(c2w)
    if angle > MAX_ANGLE:
        problem = f"the cameras do not face one way: their viewing directions lie up to {angle:.0f}° from the mean"
        raise InputError(f"{problem}, and forward-facing is for {MAX_ANGLE:.0f}°", _LEAVE_OUT)
    unit = NormalizedSpace(mean_pose(c2w), torch.ones(3, dtype=torch.float64))
    origins, directions = _border_rays(cameras)
    origins, directions = unit.local_points(origins), unit.local_directions(directions)
    ray_angle = float(torch.rad2deg((-directions[:, 2]).clamp(-1.0, 1.0).arccos().max()))
    if ray_angle > MAX_RAY_ANGLE:
        problem = f"pixels look up to {ray_angle:.0f}° away from the cameras' mean direction, and forward-facing is for"
        raise InputError(f"{problem} {MAX_RAY_ANGLE:.0f}°", _LEAVE_OUT)

    sizes = torch.stack([cameras.width, cameras.height], dim=-1).reshape(-1, 2).cpu().double()
    focal = torch.stack([cameras.fx, cameras.fy], dim=-1).reshape(-1, 2).cpu().double()
    view = (2.0 * focal / sizes).median(dim=0).values
    known = None if points is None else _nearest_depth(unit.local_points(torch.as_tensor(points).cpu().double()), view)
    if near is not None:
        nearest, reason = near, "given"
    elif known is not None:
        near, nearest, reason = NEAR_MARGIN * known, known, "known points"
    else:
        near = nearest = fallback_near
        reason = "assumed; --pipeline.model.near-plane sets it"
    reach = (REACH_MARGIN * _reach(origins, directions, nearest) * view).clamp_max(MAX_REACH)
    summary = (
        f"Normalized device coordinates: cameras face one way to {angle:.0f}°, near plane {near:.3g} scene units "
        f"before their mean position ({reason}), {reach[0]:.2f} × {reach[1]:.2f} views across."
    )
    factors = torch.cat([view / reach, torch.tensor([near], dtype=torch.float64)])
    return SpaceChoice(NormalizedSpace(unit.pose.float(), factors.float()), summary)


def _largest_angle(c2w: Float[Tensor, "n 3 4"]) -> float:
    """Degrees between a viewing direction and the mean of all, where it is largest; 180 if they cancel."""
    mean = c2w[:, :, 2].mean(0)
    if mean.norm() < 1e-3:
        return 180.0
    return float(torch.rad2deg((c2w[:, :, 2] @ (mean / mean.norm())).clamp(-1.0, 1.0).arccos().max()))


def _border_rays(cameras: Cameras) -> tuple[Float[Tensor, "k 3"], Float[Tensor, "k 3"]]:
    """Origins and unit directions of rays at the border of each image; of fisheyes, whose corners may be black, through
    the middles of the sides."""
    cameras = cameras.flatten().to("cpu")
    origins, directions = [], []
    index = torch.arange(len(cameras))[:, None]
    fisheye = cameras.camera_type.reshape(-1) != CameraType.PERSPECTIVE.value
    sizes = torch.stack([cameras.height, cameras.width], dim=-1).reshape(-1, 2).float()
    for place in _FRAME:
        chosen = ~(fisheye & bool((place != 0.5).all()))
        if chosen.any():
            rays = cameras.generate_rays(camera_indices=index[chosen], coords=place * sizes[chosen])
            origins.append(rays.origins.detach().double())
            directions.append(rays.directions.detach().double())
    joined = torch.nn.functional.normalize(torch.cat(directions), dim=-1)
    return torch.cat(origins), joined


def _nearest_depth(points: Float[Tensor, "m 3"], view: Float[Tensor, "2"]) -> float | None:
    """Depth of the nearest hundredth of those points in the reference frame that can be in view; None if few are."""
    depth = -points[:, 2]
    ahead = torch.isfinite(points).all(-1) & (depth > 0)
    ahead &= (view * points[:, :2].abs() <= MAX_REACH * depth[:, None]).all(-1)
    if int(ahead.sum()) < MIN_POINTS:
        return None
    step = max(1, int(ahead.sum()) // 100_000)
    return max(float(depth[ahead][::step].quantile(0.01)), 1e-3)


def _reach(origins: Float[Tensor, "k 3"], directions: Float[Tensor, "k 3"], nearest: float) -> Float[Tensor, "2"]:
    """Largest |x| / depth and |y| / depth along rays in the reference frame, from depth `nearest` to infinity. A ray is
    straight in NDC, so that they are largest at one of its ends."""
    depth, cosine = -origins[:, 2:], -directions[:, 2:]
    first = depth.clamp_min(nearest)
    near_end = (origins[:, :2] + (first - depth) / cosine * directions[:, :2]) / first
    return torch.maximum(near_end.abs(), (directions[:, :2] / cosine).abs()).amax(0)
