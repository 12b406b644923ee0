"""Radiance fields whose samples are found by proposals: rounds of a density network, then one of color.

mip-NeRF 360 without its networks: a model of this kind says which two fields it has (`build_fields`).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.base_field import Field
from nerfstudio.model_components.losses import lossfun_distortion, lossfun_outer
from nerfstudio.model_components.scene_colliders import NearFarCollider
from nerfstudio.utils import colormaps
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer_elements import ViewerCheckbox, ViewerDropdown, ViewerSlider
from torch import Tensor
from torch.nn import Parameter

from common_ns.appearance import fit_code
from common_ns.base_model import RadianceModel, RadianceModelConfig
from common_ns.data.scene_bounds import RayBounds
from common_ns.errors import InputError
from common_ns.meshing.iso_field import IsoField
from common_ns.metrics import valid_pixels_of
from common_ns.option_ranges import check_ranges
from common_ns.rays.random_numbers import RayRandomness
from common_ns.rays.stepfun import schlick_bias
from common_ns.rays.transmittance import log_mean_distance
from mipnerf_ns.field import position_scale_for
from mipnerf_ns.isotropic_field import ColorField, isotropic_iso_field
from mipnerf_ns.normalized_space import NormalizedSpace, normalized_space
from mipnerf_ns.option_ranges import RANGES
from mipnerf_ns.proposal_sampler import Guide, ProposalSampler, RayField, Round, Spacing
from mipnerf_ns.scene_scale import diagnose_scene_scale

CAPTURE_NEAR_FAR = (0.2, 1000.0)
"""Near and far plane of captures in scene units: the paper's near plane; contracted, the far one is at 1.999 of 2. Of
methods that are the authors' the far plane is 10⁶ (`capture_far_plane`)."""

FIT_PIXELS = 2048
"""Pixels of the left half of a test image that its appearance code is fitted to."""


PROPOSAL_LOSSES = "proposal_losses"
"""The training output that holds `ProposalLosses`."""


@dataclass
class ProposalModelConfig(RadianceModelConfig):
    """Sampling and losses of mip-NeRF 360 (arXiv 2111.12077) with the paper's settings."""

    _target: type = field(default_factory=lambda: ProposalModel)
    """target class to instantiate"""
    num_proposal_samples: tuple[int, ...] = (64, 64)
    """Intervals per ray of each proposal round; all rounds use one network."""
    num_nerf_samples: int = 32
    """Intervals per ray of the last round, which renders color."""
    sampling: Literal["auto", "uniform", "disparity", "piecewise", "power"] = "auto"
    """Spacing of the first round: uniform in distance, uniform in disparity, piecewise (uniform up to distance 1,
    disparity beyond), or Zip-NeRF's power ladder (smooth between these). auto: uniform for objects seen from outside;
    for captures disparity, with Zip-NeRF power."""
    contraction: Literal["auto", "on", "off"] = "auto"
    """Squeeze what lies beyond contraction_radius into a shell. auto: for captures, not for objects seen from
    outside."""
    contraction_radius: float = 1.0
    """Radius in scene units of the ball about the origin that the contraction leaves as it is; cameras should lie in
    it. The run prints how many do."""
    forward_facing: bool = False
    """For captures whose cameras all face one way (to 60°): normalized device coordinates of their mean pose in place
    of the contraction, samples even in inverse depth along it. near_plane is then the depth of the near plane before
    the cameras' mean position; None: half of that of the nearest known points."""
    anneal_slope: float = 10.0
    """Steepness at the start of training with which proposals gain influence on where samples go; 0: at once."""
    anneal_steps: int | None = None
    """Steps over which they gain it; None: as many as the learning-rate schedule has."""
    dilation_multiplier: float = 0.5
    """Widening of proposal intervals before resampling, relative to the mean length that intervals should have."""
    dilation_bias: float = 0.0025
    """Widening of proposal intervals before resampling, in normalized ray distance."""
    dilation_drops_ends: bool = False
    """Leave out the first and the last of the widened intervals before resampling, as the authors' code does; nothing
    where dilation is 0."""
    resample_padding: float = 0.0
    """Added to the widened weights in proportion to length, so that empty stretches are still looked at."""
    near_anneal_rate: float | None = None
    """Fraction of the annealing steps over which the start of rays comes down to the near plane in training (0.1 is
    usual): against floaters before the cameras. None: rays start there at once."""
    near_anneal_init: float = 0.95
    """Where rays start at first, as normalized distance between the near plane (0) and the far plane (1); nothing
    without near-anneal-rate."""
    capture_near_plane: float = CAPTURE_NEAR_FAR[0]
    """Ray distance of the first sample of contracted captures in scene units, where near_plane is None; known points
    can bring it closer."""
    capture_far_plane: float = CAPTURE_NEAR_FAR[1]
    """Far plane of contracted captures in scene units, where far_plane is None (the authors': 10⁶). Sampled uniformly
    in distance, it is at most 1,000."""
    opaque_last_interval: Literal["auto", "on", "off"] = "off"
    """Make the last interval of every round opaque, so that all rays end in a color of the scene. auto: as the authors'
    code does for captures, unless the images have alpha or a background color is chosen."""
    charbonnier_padding: float = 0.001
    """Color errors below this count quadratically, those above linearly."""
    interlevel_loss_mult: float = 1.0
    """Weight of the loss that makes proposals enclose the last round's weights."""
    distortion_loss_mult: float = 0.01
    """Weight of the loss that gathers each ray's weights in one place: against floaters and fog."""
    appearance_dim: int = 0
    """Length of the appearance code that each training image gets, for captures with changing exposure (4 is usual);
    0: none. Evaluation follows appearance_eval."""
    appearance_eval: Literal["mean", "zero", "fit-left-half"] = "mean"
    """Code of test images: the mean of all codes; zero, as in the authors' code; or one fitted to the left half of the
    image, with metrics on the right half only. Novel views use zero if test images do, else the mean code."""
    appearance_std: float | None = 0.01
    """Standard deviation of a code's numbers at the start; None: such that a code's length is about 1, as in the
    authors' code."""
    camera_optimizer: CameraOptimizerConfig = field(default_factory=lambda: CameraOptimizerConfig(mode="off"))
    """Refine the training cameras' poses (mode SO3xR3), for captures with imprecise ones."""
    max_points_per_chunk: int | None = 2**19
    """Most samples (rays times samples of all rounds; multisamples count as one) that go through the networks at once,
    in training (gradients add up over chunks of the batch) and rendering. Bounds the memory, whatever the batch; None:
    no bound."""


class ProposalNumbers(NamedTuple):
    """Uniform random numbers in [0, 1) of training rays."""

    jitter: Float[Tensor, "n rounds"]
    """Shift of each round's samples along the ray."""
    background: Float[Tensor, "n 3"]
    """Color behind the ray, where it is random."""


class ProposalLosses(NamedTuple):
    """Losses of training rays on where their samples went, not weighted."""

    interlevel: Float[Tensor, "n proposals"]
    """How far each proposal round's weights fail to enclose the last round's (mip-NeRF 360, equation 13)."""
    distortion: Float[Tensor, "n 1"]
    """How far the last round's weights are from being in one place (mip-NeRF 360, equation 15)."""


class ProposalModel(RadianceModel):
    """One proposal network finds where density is, in several rounds; the color network renders from the last one.

    The proposal network learns from the color network's weights only, the color network from the images only.

    Args:
        config: the model's config.
    """

    config: ProposalModelConfig
    field: ColorField
    proposal: Field
    capture_spacing: Spacing = "disparity"

    def populate_modules(self) -> None:
        """Choose bounds, spacing, contraction and background for the data; build networks and controls."""
        config = self.config
        check_ranges(config, RANGES)
        far = min(config.capture_far_plane, CAPTURE_NEAR_FAR[1] if config.sampling == "uniform" else torch.inf)
        squeezed = config.contraction != "off" or config.forward_facing
        bounds = self.choose_bounds((config.capture_near_plane, far) if squeezed else None)
        finite = self.scene_is_finite()
        sampling = config.sampling
        self.space: NormalizedSpace | None = None
        if config.forward_facing:
            self.space, sampling = self._choose_space(finite), "disparity"
            bounds = self.ray_bounds
        if sampling == "auto":
            sampling = "uniform" if finite else self.capture_spacing
        if bounds.near == 0 and sampling == "disparity" and self.space is None:
            raise InputError("near 0 has no disparity", "Choose --pipeline.model.near-plane above 0")
        contracted = config.contraction == "on" or (config.contraction == "auto" and not finite)
        contracted = contracted and self.space is None
        self.ends_opaque = self._ends_opaque(finite)
        background = self.choose_background(captures="last_sample" if self.ends_opaque else "random")
        self._report(sampling, contracted, background)

        scale = 1.0 / config.contraction_radius if contracted else position_scale_for(bounds.extent)
        self.proposal, self.field = self.build_fields(contracted, scale)
        codes = self.field.appearance
        if codes is not None:
            codes.neutral_is_zero = config.appearance_eval == "zero"
        self.sampler = ProposalSampler(
            (*config.num_proposal_samples, config.num_nerf_samples),
            sampling,
            config.dilation_multiplier,
            config.dilation_bias,
            config.resample_padding,
            config.dilation_drops_ends,
            self.ends_opaque,
            None if self.space is None else self.space.distance_maps,
        )
        self.camera_optimizer: CameraOptimizer = config.camera_optimizer.setup(
            num_cameras=self.num_train_data, device="cpu"
        )
        # Not modules: the viewer finds its controls among the model's attributes.
        num_proposals = len(config.num_proposal_samples)
        self.set_up_viewer()
        self.shown_near = ViewerSlider("Near plane", bounds.near, 0.0, _slider_end(bounds.near, bounds.far), 0.01)
        self.shown_depth = ViewerDropdown("Depth", "median", ["median", "mean"])
        levels = ["nerf", *(f"proposal {index + 1}" for index in range(num_proposals))]
        self.shown_level = ViewerDropdown("Level of depth and weights", "nerf", levels)
        self.shown_weights = ViewerCheckbox("Output weights", False)
        self.train_fraction = 1.0
        self.randomness = self.declare_randomness(num_proposals + 1)

    def known_bounds(self) -> RayBounds | None:
        """As the base's; whoever says that cameras face one way knows more than a look at where they stand."""
        found = super().known_bounds()
        if found is not None and found.assumed and self.config.forward_facing:
            return replace(found, bounded=False)
        return found

    def declare_randomness(self, num_rounds: int) -> RayRandomness:
        """The random numbers of a training ray: fields `jitter` and `background` of `ProposalNumbers`, at least.

        Args:
            num_rounds: rounds of samples.
        """
        return RayRandomness(ProposalNumbers, jitter=num_rounds, background=3)

    def scene_is_finite(self) -> bool:
        """Whether all that is seen lies between the near and far planes: no contraction is needed."""
        return self.ray_bounds.bounded

    def _ends_opaque(self, finite: bool) -> bool:
        """Whether the last interval of rays is opaque, by `opaque_last_interval`."""
        config = self.config
        if config.opaque_last_interval != "auto":
            return config.opaque_last_interval == "on"
        chosen = config.background_color not in ("auto", "last_sample")
        return not (finite or chosen or self.metadata.get("images_have_alpha", False))

    def _choose_space(self, finite: bool) -> NormalizedSpace:
        """The normalized device coordinates of a forward-facing capture; rays then begin at their near plane.

        Raises: InputError if the data or other options do not go with them.
        """
        config, leave_out = self.config, "Leave out --pipeline.model.forward-facing"
        if finite:
            problem = f"forward-facing is for captures, and this is an object ({self.ray_bounds.reason})"
            raise InputError(problem, leave_out)
        if config.contraction == "on":
            remedy = "Leave --pipeline.model.contraction at auto"
            raise InputError("forward-facing takes the place of contraction, which is on", remedy)
        if config.sampling not in ("auto", "disparity"):
            remedy = "Leave --pipeline.model.sampling at auto"
            raise InputError(f"forward-facing samples in disparity, not with sampling {config.sampling}", remedy)
        if config.near_plane == 0:
            remedy = "Choose --pipeline.model.near-plane above 0, or None"
            raise InputError("forward-facing has no near plane at 0", remedy)
        cameras = self.metadata.get("cameras")
        if cameras is None:
            raise InputError("forward-facing needs the training cameras, and this datamanager names none", leave_out)
        assumed = config.capture_near_plane or CAPTURE_NEAR_FAR[0]
        choice = normalized_space(cameras, self.metadata.get("points3D_xyz"), config.near_plane, assumed)
        CONSOLE.print(choice.summary)
        self.ray_bounds = replace(self.ray_bounds, near=0.0)
        self.collider = NearFarCollider(0.0, self.ray_bounds.far, reset_near_plane=False)
        return choice.space

    @abstractmethod
    def build_fields(self, contracted: bool, position_scale: float) -> tuple[Field, ColorField]:
        """The proposal network, and the network of density and color.

        Args:
            contracted: squeeze what lies beyond distance 1 (after scaling) into the ball of radius 2.
            position_scale: factor on positions in scene units.
        """

    def _report(self, sampling: Spacing, contracted: bool, background: str) -> None:
        """Print what was chosen and how the scene fits the contraction."""
        bounds = self.ray_bounds
        radius = self.config.contraction_radius
        squeezed = f"contraction beyond {radius:g}" if contracted else "no contraction"
        squeezed = squeezed if self.space is None else "normalized device coordinates"
        CONSOLE.print(
            f"Rays from {bounds.near:.3g} to {bounds.far:.3g} scene units ({bounds.reason}), {sampling} sampling, "
            f"{squeezed}, background {background}"
            f"{', last interval opaque' if self.ends_opaque else ''}."
        )
        if contracted and "camera_to_worlds" in self.metadata:
            points = self.metadata.get("points3D_xyz")
            for line in diagnose_scene_scale(self.metadata["camera_to_worlds"], points, radius).lines():
                CONSOLE.print(line)

    @property
    def points_per_ray(self) -> int:
        """Samples of all rounds."""
        return sum(self.sampler.counts)

    @property
    def round_fields(self) -> list[RayField]:
        """The field of each round: the proposal network, and last the one with color."""
        return [*[self.proposal] * len(self.config.num_proposal_samples), self.field]

    def viewed_fields(self, rays: RayBundle, last: RayField | None = None) -> list[RayField]:
        """Those of `round_fields` for rays outside of training.

        Args:
            rays: in the form that `picture_rays` gives them, if they are a picture's.
            last: in place of the field of the last round.
        """
        del rays
        return self.round_fields if last is None else [*self.round_fields[:-1], last]

    def picture_rays(self, rays: RayBundle) -> RayBundle:
        """A picture's rays [h w] with what is to be known of the whole picture, for each."""
        return rays

    @torch.no_grad()
    def get_outputs_for_camera_ray_bundle(self, camera_ray_bundle: RayBundle) -> dict[str, Tensor]:
        """As nerfstudio's."""
        return super().get_outputs_for_camera_ray_bundle(self.picture_rays(camera_ray_bundle))

    def trained_fields(self, numbers: Any) -> list[RayField]:
        """Those of `round_fields` with the random numbers of training rays, for fields that need some."""
        del numbers
        return self.round_fields

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        groups = {"fields": [*self.proposal.parameters(), *self.field.parameters()]}
        self.camera_optimizer.get_param_groups(groups)
        return groups

    def networks(self) -> list[list[Parameter]]:
        """The proposal network, the one with color, and the appearance codes: the authors' `clip_gradients` bounds the
        gradient of each by itself."""
        codes = [] if self.field.appearance is None else list(self.field.appearance.parameters())
        own = {id(parameter) for parameter in codes}
        color = [parameter for parameter in self.field.parameters() if id(parameter) not in own]
        return [list(self.proposal.parameters()), color, codes]

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        trainer = training_callback_attributes.trainer
        steps = self.config.anneal_steps
        if steps is None and trainer is not None:
            scheduler = trainer.config.optimizers["fields"]["scheduler"]
            steps = getattr(scheduler, "max_steps", trainer.config.max_num_iterations)

        def set_train_fraction(step: int) -> None:
            self.train_fraction = min(step / steps, 1.0) if steps else 1.0

        return [TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], set_train_fraction)]

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Render rays [n].

        Returns: rgb, accumulation, depth (ray distance, of the chosen kind), depth_median, expected_depth, distortion;
            for each proposal round depth_proposal_N, accumulation_proposal_N and, outside of training,
            interlevel_proposal_N (how far its weights fail to enclose the last round's); normals in [0, 1] outside of
            training; weights, if asked for in the viewer. In training also what the losses need.
        """
        numbers = None
        if self.training:
            ray_bundle, numbers = self._training_rays(ray_bundle)
        else:
            ray_bundle = self._viewed_rays(ray_bundle)
        slope = self.config.anneal_slope
        self.sampler.set_anneal(schlick_bias(self.train_fraction, slope) if slope > 0 else 1.0)
        self.sampler.start = self._near_start()
        jitter = None if numbers is None else numbers.jitter
        fields = self.viewed_fields(ray_bundle) if numbers is None else self.trained_fields(numbers)
        rounds = self.sampler.rounds(ray_bundle, fields, jitter, self.guide_of(ray_bundle, numbers))
        last = rounds[-1]
        outputs = {
            "rgb": self.renderer_rgb(last.outputs[FieldHeadNames.RGB], last.weights),
            "accumulation": self.renderer_accumulation(last.weights),
        }
        if numbers is not None and self.renderer_rgb.background_color == "random":
            outputs["background"] = numbers.background
        losses = self._regularizers(rounds)
        outputs["distortion"] = losses.distortion
        if self.training:
            outputs[PROPOSAL_LOSSES] = losses  # type: ignore[assignment]
        else:
            columns = losses.interlevel.split(1, dim=-1)
            outputs |= {f"interlevel_proposal_{index}": column for index, column in enumerate(columns, start=1)}
        outputs |= self.further_outputs(rounds, ray_bundle)
        with torch.no_grad():
            outputs |= self._inspections(rounds)
            if self.config.compute_normals and not self.training:
                outputs["normals"] = self.render_normals(
                    last.weights, lambda where: self.field.normals_of(last.samples, where)
                )
        return outputs

    def _near_start(self) -> float:
        """Normalized distance at which training rays start at the present step."""
        rate = self.config.near_anneal_rate
        if rate is None:
            return 0.0
        return min(max(1.0 - self.train_fraction / rate, 0.0), self.config.near_anneal_init)

    def guide_of(self, rays: RayBundle, numbers: Any | None) -> Guide | None:
        """What moves the last round's samples; None: nothing. For models that know more of a ray than its color."""
        return None

    def further_outputs(self, rounds: list[Round], rays: RayBundle) -> dict[str, Tensor]:
        """Outputs [n, c] beyond those of `get_outputs`, with their graph in training."""
        return {}

    def _training_rays(self, rays: RayBundle) -> tuple[RayBundle, Any]:
        """Rays with refined cameras, and their random numbers: those that came with them, or fresh ones."""
        assert self.randomness is not None
        numbers = self.randomness.of(rays.metadata, len(rays), rays.origins.device)
        if self.config.camera_optimizer.mode != "off":
            rays = rays[...]  # a shallow copy: refinement replaces its origins and directions
            assert rays.camera_indices is not None
            # The optimizer's own apply_to_raybundle fails for a single ray.
            correction = self.camera_optimizer(rays.camera_indices[..., 0])
            rays.origins = rays.origins + correction[..., :3, 3]
            rays.directions = (correction[..., :3, :3] @ rays.directions[..., None])[..., 0]
        return rays, numbers

    def _viewed_rays(self, rays: RayBundle) -> RayBundle:
        """Rays that start at the viewer's near plane, if that was moved."""
        near = self.shown_near.value
        if near != self.ray_bounds.near and rays.nears is not None and rays.fars is not None:
            fars, rays = rays.fars, rays[...]
            rays.nears = torch.full_like(fars, near).minimum(0.99 * fars)
        return rays

    def _regularizers(self, rounds: list[Round]) -> ProposalLosses:
        """Losses of where samples went; the viewer shows them as images."""
        *proposals, last = rounds
        missed = [self._interlevel(last, proposal, index) for index, proposal in enumerate(proposals)]
        interlevel = torch.stack(missed, dim=-1) if missed else last.weights.new_zeros(len(last.weights), 0)
        return ProposalLosses(interlevel, self._distortion(last)[..., None])

    def _interlevel(self, last: Round, proposal: Round, index: int) -> Float[Tensor, "n"]:
        """How far a proposal round's weights fail to enclose the last round's.

        Args:
            last, proposal: the rounds.
            index: the proposal round's, from 0.
        """
        weights = last.weights[..., 0].detach()
        return lossfun_outer(last.bins, weights, proposal.bins, proposal.weights[..., 0]).mean(-1)

    def _distortion(self, last: Round) -> Float[Tensor, "n"]:
        """How far the last round's weights are from being in one place."""
        return lossfun_distortion(last.bins, last.weights[..., 0])

    def _inspections(self, rounds: list[Round]) -> dict[str, Tensor]:
        """Depth of all kinds and rounds, and the weights if they were asked for."""
        *proposals, last = rounds
        outputs = {
            "depth_median": self.renderer_depth(last.weights, last.samples),
            "expected_depth": self._expected_depth(last),
        }
        for index, proposal in enumerate(proposals, start=1):
            outputs[f"depth_proposal_{index}"] = self._depth(proposal)
            outputs[f"accumulation_proposal_{index}"] = self.renderer_accumulation(proposal.weights)
        shown = rounds[self.shown_level.options.index(self.shown_level.value) - 1]
        outputs["depth"] = self._depth(shown)
        if self.shown_weights.value and not self.training:
            outputs["weights"] = shown.weights[..., 0]
        return outputs

    def _depth(self, round_: Round) -> Float[Tensor, "n 1"]:
        if self.shown_depth.value == "median":
            return self.renderer_depth(round_.weights, round_.samples)
        return self._expected_depth(round_)

    def _expected_depth(self, round_: Round) -> Float[Tensor, "n 1"]:
        """Mean distance; where what is left of a ray's weight ends at the far plane, that of the logarithm."""
        if not self.ends_opaque:
            return self.mean_distance(round_.weights, round_.samples)
        return log_mean_distance(round_.distances, round_.weights[..., 0])

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor], metrics_dict: dict | None = None
    ) -> dict[str, Tensor]:
        prediction, target = self.blended(outputs, batch)
        padding = self.config.charbonnier_padding
        losses = {"rgb_loss": self.mean_over_rays(((prediction - target).square() + padding**2).sqrt(), batch)}
        if self.training:
            found: ProposalLosses = outputs[PROPOSAL_LOSSES]  # type: ignore[assignment]
            if self.config.num_proposal_samples and self.config.interlevel_loss_mult > 0:
                losses["interlevel_loss"] = self.config.interlevel_loss_mult * found.interlevel.sum(-1).mean()
            if self.config.distortion_loss_mult > 0:
                losses["distortion_loss"] = self.config.distortion_loss_mult * found.distortion.mean()
            self.camera_optimizer.get_loss_dict(losses)
        return losses

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        metrics = super().get_metrics_dict(outputs, batch)
        metrics["distortion"] = outputs["distortion"].mean()
        self.camera_optimizer.get_metrics_dict(metrics)
        return metrics

    def evaluate_image(self, camera: Cameras, batch: dict) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics and pictures of a test image, by the rule of `appearance_eval`."""
        codes = self.field.appearance
        if codes is None or self.config.appearance_eval != "fit-left-half":
            return self.get_image_metrics_and_images(self.outputs_for_test_image(camera, batch), batch)
        valid = valid_pixels_of(batch)
        codes.rendered_code = self._fit_appearance(camera, batch["image"], valid)
        try:
            outputs = self.outputs_for_test_image(camera, batch)
        finally:
            codes.rendered_code = None
        metrics, images = self.get_image_metrics_and_images(outputs, batch)
        target = self.renderer_rgb.blend_background(batch["image"].to(outputs["rgb"].device))
        half = target.shape[1] // 2
        valid = None if valid is None else valid[:, half:]
        metrics = self.metrics_of(outputs["rgb"][:, half:], target[:, half:], valid)
        return metrics, images

    def outputs_for_test_image(self, camera: Cameras, batch: dict) -> dict[str, Tensor]:
        """Render a test image; models that compare more than colors may use what else the batch has."""
        del batch
        return self.get_outputs_for_camera(camera)

    @torch.no_grad()
    def _fit_appearance(
        self, camera: Cameras, image: Float[Tensor, "h w c"], valid: Bool[Tensor, "h w 1"] | None = None
    ) -> Float[Tensor, " d"]:
        """Code fitted to an even selection of the valid pixels of the image's left half; the mean code if none is."""
        target = self.renderer_rgb.blend_background(image.to(self.device))
        left = target[:, : target.shape[1] // 2]
        rays = self.picture_rays(camera.generate_rays(camera_indices=0, keep_shape=True))
        rays = rays[:, : target.shape[1] // 2].flatten()
        codes = self.field.appearance
        assert self.collider is not None and codes is not None
        counts = torch.arange(len(rays))
        if valid is not None:
            counts = valid[:, : target.shape[1] // 2].reshape(-1).nonzero()[:, 0].cpu()
        if len(counts) == 0:
            return codes.weight.mean(0)
        chosen = counts[torch.linspace(0, len(counts) - 1, min(FIT_PIXELS, len(counts))).long()]
        rays = rays[chosen].to(self.device)
        parts: list[tuple[Tensor, ...]] = []
        chunk: list[Tensor] = []

        def keep_features(samples: RaySamples) -> dict[FieldHeadNames, Tensor]:
            density, hidden = self.field.get_density(samples)
            chunk[:] = [hidden, samples.frustums.directions[..., :1, :]]
            return {FieldHeadNames.DENSITY: density}

        # Geometry does not depend on the code: what enters the color head is computed once.
        for start in range(0, len(rays), self.eval_rays_per_chunk):
            seen = self._viewed_rays(self.collider(rays[start : start + self.eval_rays_per_chunk]))
            last = self.sampler.rounds(seen, self.viewed_fields(seen, keep_features))[-1]
            parts.append((*chunk, last.weights))
        hidden, directions, weights = (torch.cat(part) for part in zip(*parts))

        def render(code: Float[Tensor, " d"]) -> Float[Tensor, "n 3"]:
            codes.rendered_code = code
            return self.renderer_rgb(self.field.color(hidden, directions), weights)

        try:
            return fit_code(render, left.reshape(-1, 3)[chosen.to(left.device)], codes.weight.mean(0))
        finally:
            codes.rendered_code = None

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        target, metrics = self.image_target_and_metrics(outputs, batch)
        depths = [self.depth_picture(outputs["depth"], outputs["accumulation"])]
        for index in range(1, len(self.config.num_proposal_samples) + 1):
            accumulation = outputs[f"accumulation_proposal_{index}"]
            depths.insert(-1, self.depth_picture(outputs[f"depth_proposal_{index}"], accumulation))
        images = {
            "img": torch.cat([target, outputs["rgb"]], dim=1),
            "accumulation": colormaps.apply_colormap(outputs["accumulation"]),
            "depth": torch.cat(depths, dim=1),
            "distortion": colormaps.apply_float_colormap((outputs["distortion"] * 10.0).clamp(0, 1)),
        }
        if "normals" in outputs:
            images["normals"] = outputs["normals"]
        return metrics, images

    def iso_field(self, level: float | None = None, voxel_size: float | None = None) -> IsoField:
        """The density as ns-mesh reads it; arguments as those of `isotropic_iso_field`."""
        return isotropic_iso_field(self, self.field, level, voxel_size)


def _slider_end(near: float, far: float) -> float:
    """Upper end of the near-plane slider: what is worth cutting away lies around the cameras."""
    return min(far, max(2.0, 10.0 * near))
