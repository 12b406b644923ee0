"""Training cameras that are refined with the field: six numbers each, and what evaluation says about them.

A small turn of a camera about itself and a small shift sideways move the picture alike; a turn against a shift, about
the middle of the scene, moves it twenty times less. Adam weighs each number by its own gradients, so that each should
be one of these ways to move: noise of what pictures show best would else drown what they show least. The numbers are
therefore principal axes of what a camera's picture of the scene's sphere shows. All are equally long, in turns and in
shifts relative to the distance: cameras are as wrong along one as along another.

nerfstudio's optimizer of cameras gives the interface, so that its metrics and commands work.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from common_ns.data.scene_metadata import SceneMetadata
from common_ns.nerfstudio_seam.renames import SuiteConfig
from hashnffb_sdf_ns.camera_errors import Alignment, align_poses, pose_errors

NUM_PARALLAX = 2
"""Ways to move that pictures show by parallax only, and least: about two axes across the line of sight."""

SPHERE_SHARE = 0.7
"""The points whose pictures are looked at fill so much of the scene's sphere."""


@dataclass
class CameraRefinementConfig(SuiteConfig, CameraOptimizerConfig):
    """Refine the training cameras' poses."""

    _target: type = field(default_factory=lambda: CameraRefinement)
    """target class to instantiate"""
    mode: Literal["off", "SO3xR3"] = "off"  # pyright: ignore[reportIncompatibleVariableOverride]
    """off: poses are as the data says. SO3xR3: each training camera is turned about itself and shifted; the learning
    rate is that of the group camera_opt."""
    start_step: int = 100
    """Steps for which cameras stay where the data has them: while there is no surface yet, any camera is as good as
    another, and steps lead astray."""
    parallax_start_step: int = 500
    """Steps for which cameras do not move in the two ways that only parallax shows (turning about the middle of the
    scene): outlines and colors settle the other four first, parallax takes a surface that is nearly right."""
    coarse_to_fine_steps: int = 1500
    """Steps over which the encoding goes from its coarsest level to all of them while cameras are refined, if the
    model's own way is not longer: fine levels overfit to wrong poses."""
    trans_l2_penalty: float = 0.0
    """Weight of the mean length of the shifts: above 0, cameras are drawn to where the data has them."""
    rot_l2_penalty: float = 0.0
    """The same for the turns, in radians."""


class CameraRefinement(CameraOptimizer):
    """A turn and a shift of each training camera, in numbers along principal axes (`picture_axes`).

    Args:
        config: its config.
        num_cameras: training cameras.
        device: where the numbers are.
        camera_to_worlds: poses as the data has them; None: the numbers are the shift and the turn themselves, and
            all are refined from the start.
        radius: of the scene's sphere about the origin.
    """

    config: CameraRefinementConfig
    axes: Tensor

    def __init__(
        self,
        config: CameraRefinementConfig,
        num_cameras: int,
        device: torch.device | str,
        camera_to_worlds: Float[Tensor, "n 3 4"] | None = None,
        radius: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(config, num_cameras, device, **kwargs)
        self.step = config.start_step
        """Absolute step of the training."""
        if config.mode == "off":
            return
        matrix = torch.eye(6, device=device).expand(num_cameras, -1, -1).clone()
        self.num_parallax = 0 if camera_to_worlds is None else NUM_PARALLAX
        if camera_to_worlds is not None:
            matrix = picture_axes(camera_to_worlds[:, :3].double(), radius).to(matrix)
        # Of the state: the numbers mean nothing without the axes that they were trained with.
        self.register_buffer("axes", matrix)

    def deltas(self, indices: Int[Tensor, " k"] | slice = slice(None)) -> Float[Tensor, "k 6"]:
        """Shift in scene units and turn in radians (twice the tangent of half of the angle)."""
        numbers = self.pose_adjustment[indices]
        if self.step < self.config.parallax_start_step:
            # Without a gradient, Adam leaves them where they are.
            held, free = numbers.split([self.num_parallax, 6 - self.num_parallax], dim=-1)
            numbers = torch.cat([held.detach(), free], dim=-1)
        return (self.axes[indices] @ numbers[..., None])[..., 0]

    def forward(self, indices: Int[Tensor, " k"]) -> Float[Tensor, "k 3 4"]:
        """Turn, to be applied to directions, and shift of origins, both in the scene's axes."""
        if self.config.mode == "off":
            return super().forward(indices)
        delta = self.deltas(indices)
        return torch.cat([rotation_matrix(delta[:, 3:]), delta[:, :3, None]], dim=-1)

    def refined_poses(self, camera_to_worlds: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
        """Poses of all training cameras, refined."""
        if self.config.mode == "off":
            return camera_to_worlds
        correction = self(torch.arange(self.num_cameras, device=self.pose_adjustment.device)).to(camera_to_worlds)
        rotation = correction[:, :, :3] @ camera_to_worlds[:, :3, :3]
        return torch.cat([rotation, camera_to_worlds[:, :3, 3:] + correction[:, :, 3:]], dim=-1)

    def refine(self, rays: RayBundle) -> RayBundle:
        """Rays of refined cameras, from which gradients flow to their poses once refinement has started."""
        if self.config.mode == "off" or self.step < self.config.start_step:
            return rays
        rays = rays[...]  # a shallow copy: refinement replaces its origins and directions
        assert rays.camera_indices is not None
        correction = self(rays.camera_indices[..., 0])
        rays.origins = rays.origins + correction[..., :3, 3]
        rays.directions = (correction[..., :3, :3] @ rays.directions[..., None])[..., 0]
        return rays

    def _lengths(self) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        delta = self.deltas()
        return delta[:, :3].norm(dim=-1), delta[:, 3:].norm(dim=-1)

    def get_loss_dict(self, loss_dict: dict) -> None:
        """Adds the penalties, if there are any."""
        shift_weight, turn_weight = self.config.trans_l2_penalty, self.config.rot_l2_penalty
        if self.config.mode == "off" or (shift_weight == 0 and turn_weight == 0):
            return
        shift, turn = self._lengths()
        loss_dict["camera_opt_regularizer"] = shift_weight * shift.mean() + turn_weight * turn.mean()

    @torch.no_grad()
    def get_metrics_dict(self, metrics_dict: dict) -> None:
        """Adds how far cameras have moved, in scene units and degrees."""
        if self.config.mode == "off":
            return
        shift, turn = self._lengths()
        angle = torch.rad2deg(2.0 * torch.atan(0.5 * turn))
        for name, value in (("translation", shift), ("rotation", angle)):
            metrics_dict[f"camera_opt_{name}_max"] = value.max()
            metrics_dict[f"camera_opt_{name}_mean"] = value.mean()


def rotation_matrix(turn: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """Rotations of the quaternions (1, turn / 2), normalized: by |turn| about turn, for small ones.

    Unlike the exponential map, it has no fraction that is undefined at 0, where all refinements begin.
    """
    q = F.normalize(torch.cat([torch.ones_like(turn[:, :1]), 0.5 * turn], dim=-1), dim=-1)
    w, v = q[:, :1, None], q[:, 1:]
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    cross = torch.stack([o, -z, y, z, o, -x, -y, x, o], dim=-1).reshape(-1, 3, 3)
    return torch.eye(3).to(turn) + 2.0 * (w * cross + cross @ cross)


def picture_axes(poses: Float[Tensor, "n 3 4"], radius: float, num_points: int = 64) -> Float[Tensor, "n 6 6"]:
    """Six ways to move each camera, as columns of a shift and a turn, from what its picture shows least to what it
    shows best.

    They are orthogonal, and of length 1, with shifts relative to the camera's distance from the origin. To first order,
    each moves the picture of points in a sphere independently of the others: they are eigenvectors of JᵀJ, with J the
    derivatives of the pictures by relative shift and turn. Seen from outside of the sphere, the first two are turns
    about its middle, and the last two turns of the camera with shifts that move the picture the same way.

    Args:
        poses: camera-to-world matrices, OpenGL axes.
        radius: of the sphere about the origin. Cameras that are nearer than it to the origin count as so far.
        num_points: in it. Those that are nearer to a camera's plane than a tenth of the radius are not used; a camera
            that sees none of them looks at a sphere straight ahead instead.
    Source: Park et al., CamP: camera preconditioning for neural radiance fields (arXiv 2308.10902), section 4, for J.
        Its numbers are scaled to move the picture by as much; noise then moves cameras farthest where pictures say
        least.
    """
    points = SPHERE_SHARE * radius * ball_points(num_points).to(poses)
    axes, position = poses[:, :, :3], poses[:, :, 3]
    offset = points - position[:, None]
    ahead = points - 2.0 * radius * axes[:, None, :, 2]
    visible = (offset * -axes[:, None, :, 2]).sum(-1) > 0.1 * radius
    offset = torch.where(visible.any(-1)[:, None, None], offset, ahead)
    visible = visible | ~visible.any(-1, keepdim=True)
    seen = offset @ axes  # in the camera's axes; it looks along −z
    depth = torch.where(visible, -seen[..., 2], 1.0)
    picture = seen[..., :2] / depth[..., None]
    # x_cam = Aᵀ (X − c) moves by dx = −Aᵀ (shift + turn × (X − c)), its picture by (dx − picture · d depth) / depth.
    unit = torch.eye(3).to(poses)
    by_shift = (-axes.transpose(1, 2))[:, None].expand(*offset.shape, 3)
    crosses = torch.linalg.cross(unit.expand(*offset.shape, 3), offset[..., None, :].expand(*offset.shape, 3))
    by_turn = -(crosses @ axes[:, None]).transpose(-1, -2)
    moved = torch.cat([by_shift, by_turn], dim=-1)  # [n, points, 3 coordinates, 6]
    jacobian = (moved[..., :2, :] + picture[..., None] * moved[..., 2:, :]) / depth[..., None, None]
    distance = position.norm(dim=-1).clamp_min(radius)
    lengths = torch.cat([distance[:, None].expand(-1, 3), torch.ones_like(position)], dim=-1)
    jacobian = jacobian * lengths[:, None, None] * visible[..., None, None]
    _, axes_of_picture = torch.linalg.eigh(torch.einsum("npci,npcj->nij", jacobian, jacobian))
    return lengths[..., None] * axes_of_picture


def ball_points(count: int) -> Float[Tensor, "count 3"]:
    """Points that fill the unit ball evenly, the same ones every time (a golden spiral on growing spheres)."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    height, angle = 1.0 - 2.0 * index / count, index * torch.pi * (5.0**0.5 - 1.0)
    across = (1.0 - height.square()).sqrt()
    directions = torch.stack([across * angle.cos(), across * angle.sin(), height], dim=-1)
    # Radii are spread over the spiral by another irrational step.
    return directions * (index * 2.0**0.5 % 1.0).pow(1.0 / 3.0)[:, None]


def camera_metrics(refinement: CameraRefinement, metadata: SceneMetadata) -> dict[str, float]:
    """Errors of the training cameras against reference poses, after alignment; empty where the data has none.

    Args:
        refinement: of these cameras.
        metadata: the training data set's: `camera_to_worlds`, and `reference_camera_to_worlds` where there are any.
    """
    reference = metadata.get("reference_camera_to_worlds")
    if reference is None or "camera_to_worlds" not in metadata:
        return {}
    return pose_errors(_refined(refinement, metadata), _stacked(reference)).metrics()


def alignment_to_refined(refinement: CameraRefinement, metadata: SceneMetadata) -> Alignment | None:
    """The similarity from the frame of test views to that of the refined cameras, which may have drifted together.

    Test views are in the frame of the reference poses, where there are any, else in that of the training cameras as
    the data has them. None if there is no difference.
    """
    reference = metadata.get("reference_camera_to_worlds")
    if "camera_to_worlds" not in metadata or (reference is None and refinement.config.mode == "off"):
        return None
    source = metadata["camera_to_worlds"] if reference is None else reference
    return align_poses(_stacked(source), _refined(refinement, metadata))


def aligned_camera(camera: Cameras, pose: Float[Tensor, "3 4"] | None, alignment: Alignment) -> Cameras:
    """A test camera in the frame of the refined cameras.

    Args:
        camera: one camera.
        pose: its reference pose; None: its own.
        alignment: from `alignment_to_refined`.
    """
    own = camera.camera_to_worlds.reshape(1, 3, 4)
    moved = alignment.poses(_stacked(own if pose is None else pose.reshape(1, 3, 4)))
    camera = copy.copy(camera)
    camera.camera_to_worlds = torch.from_numpy(moved).to(own).reshape(camera.camera_to_worlds.shape)
    return camera


def _refined(refinement: CameraRefinement, metadata: SceneMetadata) -> Float[np.ndarray, "n 3 4"]:
    with torch.no_grad():
        return refinement.refined_poses(metadata["camera_to_worlds"].double()).cpu().numpy()


def _stacked(poses: Any) -> Float[np.ndarray, "n 3 4"]:
    return torch.stack([torch.as_tensor(pose) for pose in poses]).double().cpu().numpy()[:, :3]
