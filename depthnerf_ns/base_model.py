"""Radiance fields that are supervised by measured depth: the model with proposals, and losses on depth."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.model_components.scene_colliders import NearFarCollider
from nerfstudio.utils import colormaps
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from common_ns.data.scene_bounds import RayBounds
from common_ns.errors import InputError
from common_ns.metrics import depth_errors, valid_pixels_of
from common_ns.nerfstudio_seam import distributed
from common_ns.nerfstudio_seam.shown_outputs import is_shown
from common_ns.option_ranges import ABOVE_0, BELOW_1, FROM_0, Range, check_ranges
from common_ns.rays.random_numbers import RayRandomness
from depthnerf_ns import depth_losses
from depthnerf_ns.checks.guard import DepthGuard
from depthnerf_ns.dataparser import DepthReach
from depthnerf_ns.depth_cloud import DepthCloud
from depthnerf_ns.depth_losses import annealed, has_depth, widened_epsilon
from depthnerf_ns.depth_sampling import guide_samples
from mipnerf_ns.base_model import ProposalModel, ProposalModelConfig
from mipnerf_ns.proposal_sampler import Guide, Round

DepthLoss = Literal["weight-bounds", "bounds-likelihood", "likelihood", "rendered-l2", "urf", "ds-nerf", "none"]
LOSS_WEIGHTS: dict[str, float] = {
    "weight-bounds": 5.0,
    "bounds-likelihood": 5.0,
    "likelihood": 0.05,
    "rendered-l2": 0.5,
    "urf": 0.1,
    "ds-nerf": 0.07,
}
"""Weight of each loss against the color loss, the best of three to four that were tried on an RGB-D room. They are
larger than published ones, which stand beside squared color errors."""

ENCLOSED_FRACTION = 0.8
"""Fraction of the pictures with depth from which a scene is taken to be closed all around, as a room is."""
OBJECT_MARGIN = 1.2
"""Least distance of the cameras from an object, relative to its radius."""
NEAR_MARGIN, FAR_MARGIN = 0.5, 1.1
"""Near and far plane relative to the nearest and farthest depth."""
DEPTH_LOSSES = "depth_losses"
"""The training output that holds `DepthLosses`."""
DEPTH_RANGES: dict[str, Range] = {
    "depth_loss_mult": FROM_0,
    "depth_empty_mult": FROM_0,
    "depth_phi_mult": FROM_0,
    "depth_likelihood_mult": FROM_0,
    "depth_epsilon": ABOVE_0,
    "depth_beta": FROM_0,
    "depth_initial": ABOVE_0,
    "depth_epsilon_initial": ABOVE_0,
    "depth_anneal_fraction": FROM_0,
    "depth_sample_fraction": BELOW_1,
    "normal_loss_mult": FROM_0,
    "orientation_loss_mult": FROM_0,
}
"""Numbers that the options of supervision may have."""
BESIDE_MEASURED = ("depth_error", "opacity_at_depth", "depth_measured")
"""Outputs of a free view for which the depth maps' points are drawn into it."""


@dataclass
class DepthModelConfig(ProposalModelConfig):
    """Supervision by depth."""

    _target: type = field(default_factory=lambda: DepthModel)
    """target class to instantiate"""
    depth_loss: DepthLoss = "bounds-likelihood"
    """weight-bounds: opacity must rise between two Gaussian curves about the depth; bounds-likelihood: these and a weak
    likelihood, which takes away their bias towards the camera; likelihood: of the depth under the weights, with
    outliers; rendered-l2: squared error of the rendered depth; urf: Urban Radiance Fields; ds-nerf: DS-NeRF; none."""
    depth_loss_mult: float | None = None
    """Weight of the depth loss; None: what suits the loss (5 for the two with bounds, which have weights of their own
    for regions; 0.05 likelihood; 0.5 rendered-l2; 0.1 urf; 0.07 ds-nerf)."""
    depth_empty_mult: float = 1.0
    """Weight bounds: weight of the empty region in front of the depth."""
    depth_phi_mult: float = 0.1
    """Weight bounds: weight of the bounds about the depth."""
    depth_likelihood_mult: float = 0.005
    """bounds-likelihood: weight of the likelihood."""
    depth_epsilon: float = 0.03
    """Standard deviation of where a ray ends: how sharply surfaces are asked for. urf: half-width of its kernel."""
    depth_epsilon_unit: Literal["scene", "meters"] = "scene"
    """Unit of depth_epsilon: scene units, or meters (the unit of the poses)."""
    depth_beta: float = 2.0
    """Weight bounds: known error of depth and poses in units of depth_epsilon; 2 for sensors, 0 for exact depth."""
    depth_use_sigma: bool = True
    """Widen depth_epsilon by the uncertainty of each pixel's depth, where the data set has one."""
    depth_initial: float = 1.0
    """Factor on the weight of the depth loss at the start, falling to 1 by equal ratios. 10 empties the space in front
    of surfaces early: less error of depth where it is noisy, at the cost of color."""
    depth_epsilon_initial: float = 1.0
    """Factor on depth_epsilon at the start, falling to 1 likewise; 5 goes with 10 above."""
    depth_anneal_fraction: float = 0.5
    """Fraction of the learning-rate schedule over which both fall."""
    depth_guard: bool = True
    """Before training, see whether the images match each other where the depth says, and switch supervision by depth
    off, saying so, if they do not."""
    depth_sample_fraction: float = 0.0
    """Fraction of the last round's samples that are put around the measured depth in training (0.25 in the thesis)."""
    normal_loss_mult: float = 0.0
    """Weight of one minus the cosine between the density's normals and predicted ones, where the data set has them."""
    orientation_loss_mult: float = 0.0
    """Weight of the loss on visible normals that face away from the camera."""


class DepthNumbers(NamedTuple):
    """Uniform random numbers in [0, 1) of training rays: those of `ProposalNumbers`, and one more."""

    jitter: Float[Tensor, "n rounds"]
    """Shift of each round's samples along the ray."""
    around_depth: Float[Tensor, "n 1"]
    """Shift of the samples that are put around the measured depth."""
    background: Float[Tensor, "n 3"]
    """Color behind the ray, where it is random."""


class DepthLosses(NamedTuple):
    """Losses of training rays that know more than their color, not weighted; None: not asked for, or nothing known."""

    depth: Float[Tensor, "n 1"] | None
    """The chosen loss on depth; 0 for rays without depth."""
    normal: Float[Tensor, "n 1"] | None
    """One minus the cosine between the density's normals and predicted ones."""
    orientation: Float[Tensor, "n 1"] | None
    """Of visible normals that face away from the camera."""


class DepthModel(ProposalModel):
    """Adds depth to the losses, and what depth says of a rendered ray to the outputs.

    Rays carry their measured depth (ray distance in scene units, 0: none) as `ray_bundle.metadata["depth"]`, and its
    standard deviation as "depth_sigma", where they have one. Losses average over the rays that have depth.

    Args:
        config: the model's config.
    """

    config: DepthModelConfig

    def populate_modules(self) -> None:
        """Check the options of supervision, besides what the base does."""
        config = self.config
        if config.forward_facing:
            problem = "methods with depth have no normalized device coordinates"
            raise InputError(problem, "Leave out --pipeline.model.forward-facing")
        check_ranges(config, DEPTH_RANGES)
        super().populate_modules()
        # How many scene units a meter (the unit of the poses) has.
        self.scale = float(self.metadata.get("scene_units_per_meter", 1.0))
        self.epsilon = config.depth_epsilon * (self.scale if config.depth_epsilon_unit == "meters" else 1.0)
        self.depth_mult = LOSS_WEIGHTS.get(config.depth_loss, 0.0)
        if config.depth_loss_mult is not None and config.depth_loss != "none":
            self.depth_mult = config.depth_loss_mult
        self.guard = DepthGuard() if config.depth_guard and self.depth_mult > 0 else None
        self.step = 0
        self.schedule_steps: int | None = None
        if config.normal_loss_mult > 0 and self.metadata.get("normal_filenames") is None:
            remedy = "Name normal maps as normal_file_path in transforms.json, or leave it 0"
            raise InputError(
                f"normal-loss-mult is {config.normal_loss_mult:g}, and the data set has no normals", remedy
            )

    def choose_bounds(self, contracted_captures: tuple[float, float] | None = None) -> RayBounds:
        """As the base's; where depth sees all of the scene, from that depth."""
        reach: DepthReach | None = self.metadata.get("depth_reach")
        is_object = reach is not None and self._is_object()
        # What has no depth is a hole in a room, or nothing around an object.
        self._enclosed = reach is not None and (is_object or reach.fraction >= ENCLOSED_FRACTION)
        if reach is None or not self._enclosed:
            return super().choose_bounds(contracted_captures)
        near, far = self.config.near_plane, self.config.far_plane
        bounds = super().choose_bounds(None)
        near = NEAR_MARGIN * reach.near if near is None else near
        far = FAR_MARGIN * reach.far if far is None else far
        reason = "given" if bounds.reason == "given" else "from depth"
        self.ray_bounds = replace(bounds, near=near, far=far, bounded=is_object, reason=reason)
        self.collider = NearFarCollider(near, far, reset_near_plane=False)
        return self.ray_bounds

    def _is_object(self) -> bool:
        """Whether what has depth is seen from outside, by all cameras."""
        if self.metadata.get("images_have_alpha", False):
            return True
        points = torch.as_tensor(self.metadata["points3D_xyz"]).float()
        cameras = self.metadata["camera_to_worlds"][:, :3, 3].float().cpu()
        center = 0.5 * (points.amin(0) + points.amax(0))
        return bool((cameras - center).norm(dim=-1).min() > OBJECT_MARGIN * (points - center).norm(dim=-1).max())

    def scene_is_finite(self) -> bool:
        return self._enclosed or super().scene_is_finite()

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        trainer = training_callback_attributes.trainer
        if trainer is not None:
            scheduler: Any = trainer.config.optimizers["fields"]["scheduler"]
            self.schedule_steps = getattr(scheduler, "max_steps", trainer.config.max_num_iterations)
            cloud: DepthCloud | None = self.metadata.get("depth_cloud")
            if self.guard is not None and not self.guard.decided and cloud is not None:
                message = self.guard.decide(cloud.outputs)
                if message is not None and distributed.rank() == 0:
                    CONSOLE.print(f"[yellow]{message}")

        def set_step(step: int) -> None:
            self.step = step

        before = TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], set_step)
        return [before, *super().get_training_callbacks(training_callback_attributes)]

    def count_rays(self, batch: dict[str, Any]) -> dict[str, int]:
        """How many of a batch's rays have depth, and normals: their losses are averaged over these."""
        return {name: int(valid.sum()) for name, valid in self._valid(batch).items()}

    def _valid(self, batch: dict[str, Any]) -> dict[str, Bool[Tensor, " n"]]:
        found = {}
        if "depth_image" in batch:
            found["with_depth"] = has_depth(batch["depth_image"][..., 0])
        if "normal_image" in batch and self.config.normal_loss_mult > 0:
            found["with_normals"] = (batch["normal_image"] != 0).any(-1)
        return found

    def depth_weight(self) -> float:
        """Weight of the depth loss at the present step."""
        config = self.config
        guard = 1.0 if self.guard is None else self.guard.multiplier
        return self.depth_mult * self._annealed(config.depth_initial) * guard

    def _annealed(self, initial: float) -> float:
        """A factor that falls from `initial` to 1; 1 where there is no schedule."""
        steps = round(self.config.depth_anneal_fraction * (self.schedule_steps or 0))
        return annealed(self.step, initial, 1.0, steps, "exponential")

    def declare_randomness(self, num_rounds: int) -> RayRandomness:
        return RayRandomness(DepthNumbers, jitter=num_rounds, around_depth=1, background=3)

    def guide_of(self, rays: RayBundle, numbers: DepthNumbers | None) -> Guide | None:
        fraction = self.config.depth_sample_fraction
        depth = rays.metadata.get("depth")
        if numbers is None or depth is None or fraction == 0.0 or self.depth_weight() == 0.0:
            return None
        return lambda t: guide_samples(t, depth[..., 0], self._epsilon_of(rays), fraction, numbers.around_depth)

    def _epsilon_of(self, rays: RayBundle) -> float | Float[Tensor, " n"]:
        """Standard deviation of where each ray ends at the present step, in scene units."""
        epsilon = self.epsilon * self._annealed(self.config.depth_epsilon_initial)
        sigma = rays.metadata.get("depth_sigma")
        if sigma is None or not self.config.depth_use_sigma:
            return epsilon
        return widened_epsilon(epsilon, sigma[..., 0])

    def further_outputs(self, rounds: list[Round], rays: RayBundle) -> dict[str, Tensor]:
        """Outputs of rays that carry depth: in training the loss of each, elsewhere how far the depth is missed."""
        last = rounds[-1]
        t, weights = last.distances, last.weights[..., 0]
        outputs: dict[str, Tensor] = {}
        depth = rays.metadata.get("depth")
        if self.training:
            loss = None
            if depth is not None and self.depth_mult > 0:
                loss = self._depth_loss(t, weights, depth[..., 0], self._epsilon_of(rays))[..., None]
            outputs[DEPTH_LOSSES] = DepthLosses(loss, *self._normal_losses(last, rays))  # type: ignore[assignment]
        elif depth is not None:
            with torch.no_grad():
                valid = has_depth(depth)
                expected = depth_losses.expected_depth(t, weights)[..., None]
                outputs["depth_error"] = torch.where(valid, expected - depth, 0.0)
                outputs["opacity_at_depth"] = torch.where(valid, opacity_at(t, weights, depth[..., 0])[..., None], 0.0)
        return outputs

    def _depth_loss(
        self,
        t: Float[Tensor, "n s+1"],
        weights: Float[Tensor, "n s"],
        depth: Float[Tensor, " n"],
        epsilon: float | Float[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        """The chosen loss of each ray, not weighted; 0 for rays without depth."""
        config = self.config
        match config.depth_loss:
            case "weight-bounds":
                return depth_losses.weight_bounds_loss(
                    t, weights, depth, epsilon, config.depth_beta, config.depth_empty_mult, config.depth_phi_mult
                )
            case "bounds-likelihood":
                return depth_losses.bounds_likelihood_loss(
                    t,
                    weights,
                    depth,
                    epsilon,
                    config.depth_beta,
                    config.depth_empty_mult,
                    config.depth_phi_mult,
                    config.depth_likelihood_mult,
                )
            case "likelihood":
                return depth_losses.mixture_likelihood_loss(t, weights, depth, epsilon)
            case "rendered-l2":
                return depth_losses.rendered_l2_loss(t, weights, depth)
            case "urf":
                return depth_losses.urf_loss(t, weights, depth, epsilon)
            case "ds-nerf":
                return depth_losses.ds_nerf_loss(t, weights, depth, epsilon)
            case _:
                return torch.zeros_like(depth)

    def _normal_losses(
        self, last: Round, rays: RayBundle
    ) -> tuple[Float[Tensor, "n 1"] | None, Float[Tensor, "n 1"] | None]:
        """Losses of each ray on the density's normals and on their orientation, where they are asked for."""
        config = self.config
        if config.normal_loss_mult == 0 and config.orientation_loss_mult == 0:
            return None, None
        weights = last.weights[..., 0]
        where = weights > 1e-3
        normals = weights.new_zeros((*where.shape, 3))
        if where.any():
            normals[where] = self.field.normals_of(last.samples, where, differentiable=True)
        orientation = cosine = None
        if config.orientation_loss_mult > 0:
            # The weights say where a normal is seen; that loss must not move them.
            directions = torch.nn.functional.normalize(rays.directions, dim=-1)
            orientation = depth_losses.orientation_loss(weights.detach(), normals, directions)[..., None]
        target = rays.metadata.get("normal")
        if config.normal_loss_mult > 0 and target is not None:
            cosine = depth_losses.normal_cosine_loss(weights.detach(), normals, target)[..., None]
        return cosine, orientation

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor], metrics_dict: dict | None = None
    ) -> dict[str, Tensor]:
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if not self.training:
            return losses
        config = self.config
        found: DepthLosses = outputs[DEPTH_LOSSES]  # type: ignore[assignment]
        if found.depth is not None:
            losses["depth_loss"] = self.depth_weight() * self._mean(found.depth, batch, "with_depth")
        if found.normal is not None:
            losses["normal_loss"] = config.normal_loss_mult * self._mean(found.normal, batch, "with_normals")
        if found.orientation is not None:
            losses["orientation_loss"] = config.orientation_loss_mult * found.orientation.mean()
        return losses

    def _mean(self, loss: Float[Tensor, "n 1"], batch: dict[str, Any], name: str) -> Float[Tensor, ""]:
        """Mean over those rays of the whole batch, of all chunks and devices, that have what a loss needs."""
        fraction = batch.get(f"fraction_{name}")
        if fraction is None:  # not from the suite's pipeline: the batch is all there is
            fraction = float(self._valid(batch)[name].float().mean())
        return loss.mean() / max(fraction, 1e-12)

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        metrics = super().get_metrics_dict(outputs, batch)
        if self.training and "depth_image" in batch:
            prediction, target = self.blended(outputs, batch)
            error = (prediction.detach() - target).square().mean(-1)
            valid = has_depth(batch["depth_image"].to(error.device)[..., 0])
            for name, rays in (("with_depth", valid), ("without_depth", ~valid)):
                if bool(rays.any()):
                    metrics[f"rgb_error_{name}"] = error[rays].mean()
                else:
                    metrics[f"rgb_error_{name}"] = error.new_zeros(())
            metrics["depth_weight"] = error.new_tensor(self.depth_weight())
        return metrics

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """Render a free view; what the capture's depth maps see of it stands for its measured depth."""
        rays = camera.generate_rays(camera_indices=0, keep_shape=True, obb_box=obb_box)
        cloud: DepthCloud | None = self.metadata.get("depth_cloud")
        measured = None
        if cloud is not None and not any(is_shown(name) for name in BESIDE_MEASURED):
            measured = rays.origins.new_zeros(*rays.shape, 1)
        elif cloud is not None:
            measured = cloud.seen_by(camera)
        if measured is None:
            return self.get_outputs_for_camera_ray_bundle(rays)  # type: ignore[return-value]
        rays.metadata["depth"] = measured.to(rays.origins)
        outputs = self.get_outputs_for_camera_ray_bundle(rays)
        outputs["depth_error"] = self._error_picture(outputs["depth_error"])
        return {**outputs, "depth_measured": rays.metadata["depth"]}  # type: ignore[dict-item]

    def _error_picture(self, error: Float[Tensor, "h w 1"]) -> Float[Tensor, "h w 3"]:
        """Errors of depth in colors: the middle is right, to both sides within three standard deviations."""
        return colormaps.apply_float_colormap((error / (6.0 * self.epsilon) + 0.5).clamp(0.0, 1.0))

    def outputs_for_test_image(self, camera: Cameras, batch: dict) -> dict[str, Tensor]:
        if "depth_image" not in batch:
            return super().outputs_for_test_image(camera, batch)
        rays = camera.generate_rays(camera_indices=0, keep_shape=True)
        rays.metadata["depth"] = batch["depth_image"].to(rays.origins)
        return self.get_outputs_for_camera_ray_bundle(rays.to(self.device))

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        if "depth_image" in batch:
            measured = batch["depth_image"].to(outputs["depth"].device)
            valid = valid_pixels_of(batch)
            counted = measured if valid is None else measured * valid.to(measured.device)  # 0 is no depth
            metrics |= depth_errors(outputs["depth"] / self.scale, counted / self.scale)
            known = has_depth(measured)
            if bool(known.any()):
                images["depth_measured"] = self.depth_picture(measured, known.float())
        if "depth_error" in outputs:
            images["depth_error"] = self._error_picture(outputs["depth_error"])
            images["opacity_at_depth"] = colormaps.apply_colormap(outputs["opacity_at_depth"])
        return metrics, images


def opacity_at(
    t: Float[Tensor, "n s+1"], weights: Float[Tensor, "n s"], depth: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Opacity that rays have reached at a distance; an interval's weight counts by the part before it."""
    part = ((depth[..., None] - t[..., :-1]) / (t[..., 1:] - t[..., :-1]).clamp_min(1e-9)).clamp(0.0, 1.0)
    return (weights * part).sum(-1)
