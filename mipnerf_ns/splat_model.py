"""Mip-Splatting: 3D Gaussians trained from photographs, with filters that keep them sharp near and calm far away.

Source: Mip-Splatting (arXiv 2311.16493) on 3D Gaussian Splatting (arXiv 2308.04079).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import tyro
from jaxtyping import Float
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.viewer.viewer_elements import ViewerDropdown
from torch import Tensor
from torch.nn import Parameter

from common_ns.cameras.first_view import FirstView, ViewOfPhotograph, ViewOfSphere
from common_ns.data.notes import note
from common_ns.data.scene_bounds import RayBounds
from common_ns.data.scene_metadata import SceneMetadata
from common_ns.depth_colors import DepthColors, depth_levels, depth_picture
from common_ns.errors import InputError
from common_ns.metrics import image_metrics, psnr_of_mse, valid_pixels_of
from common_ns.nerfstudio_seam.model_hooks import ModelHooks
from common_ns.nerfstudio_seam.preview import RealTimePreview
from common_ns.nerfstudio_seam.renames import SuiteConfig
from common_ns.nerfstudio_seam.viewer import ViewerAdapter
from common_ns.splats import Implementation, Rendering, rasterize
from common_ns.splats.harmonics import C0
from common_ns.viewer_preview.gaussians import GaussianSource
from mipnerf_ns.splat_filter import sampling_intervals, smoothed
from mipnerf_ns.splat_growth import BoundedStrategy, faulty
from mipnerf_ns.splat_losses import picture_loss
from mipnerf_ns.splat_start import camera_extent, gaussians_at, random_points_in_box, random_points_in_views
from mipnerf_ns.splat_sweep import small_photographs, swept_points

FARTHEST = 1000.0
"""Distance of a Gaussian, in extents of the cameras, beyond which it has left the scene."""
NEAREST_VIEW, FARTHEST_VIEW = 0.2, 50.0
"""Depths between which random Gaussians of captures are, in extents of the cameras."""
NAMES = ("means", "scales", "quats", "features_dc", "features_rest", "opacities")
"""Of what is trained, as in nerfstudio's splatfacto."""
CPU_RESOLUTION = 512
""""Max res" of the viewer on a CPU to begin with."""


@dataclass
class MipSplatModelConfig(SuiteConfig, ModelConfig):
    """Mip-Splatting with the paper's settings."""

    _target: type = field(default_factory=lambda: MipSplatModel)
    """target class to instantiate"""
    enable_collider: tyro.conf.Suppress[bool] = False
    """Unused: there are no rays."""
    collider_params: tyro.conf.Suppress[dict[str, float] | None] = None
    """Unused: there are no rays."""
    loss_coefficients: tyro.conf.Suppress[dict[str, float]] = field(default_factory=dict)
    """Unused: losses have weights with names of their own."""
    prompt: tyro.conf.Suppress[str | None] = None
    """Unused by this model."""
    eval_num_rays_per_chunk: tyro.conf.Suppress[int] = 4096
    """Unused: there are no rays."""
    filter_3d: float = 0.2
    """Variance of the 3D smoothing filter, in squared pixels of the photograph that sees a Gaussian from nearest; 0: no
    filter. It keeps Gaussians from becoming thinner than photographs tell, which shows when the camera comes nearer."""
    filter_2d: float = 0.1
    """Variance of the 2D filter in squared pixels of the picture, which stands for a pixel's area: opacities make up
    for what it widens, so that pictures of any size have the same brightness."""
    filter_every: int = 100
    """Steps after which the 3D filter's sizes are found anew; they also are when Gaussians were added or removed."""
    sh_degree: int = 3
    """Degree of the spherical harmonics that colors have by direction, 0 to 3."""
    sh_degree_interval: int = 1000
    """Steps after which a degree more counts, from degree 0 on."""
    background_color: Literal["auto", "white", "black", "random"] = "auto"
    """Color behind all Gaussians. auto: white for objects and for images with alpha, black for captures. random trains
    on a new color for each photograph and so asks for opacity; it is black outside of training."""
    ssim_weight: float = 0.2
    """Weight of 1 − SSIM in the loss; the absolute error has the rest."""
    start_from: Literal["auto", "points", "photographs", "random"] = "auto"
    """Where the first Gaussians are: at the data's known points, at points that several photographs agree on (found at
    the start), or at random places. auto: known points if there are any, else random places in the scene box for
    objects, and photographs for captures."""
    num_start: int = 100000
    """Gaussians to begin with where they do not begin at known points."""
    max_gaussians: int | None = None
    """Largest number of Gaussians that training adds up to; None: as many as it asks for."""
    grow_from: int = 500
    """Step from which on Gaussians are added and removed."""
    grow_until: int = 15000
    """Step until which they are."""
    grow_every: int = 100
    """Steps between."""
    grow_gradient: float = 0.0002
    """Mean length of the loss's gradient with respect to a Gaussian's place in pictures, in half pictures, above which
    it is doubled or split."""
    grow_scale: float = 0.01
    """Standard deviation above which it is split instead of doubled, in extents of the cameras."""
    prune_opacity: float = 0.005
    """Opacity below which a Gaussian is removed."""
    prune_scale: float = 0.1
    """Standard deviation above which it is removed, in extents of the cameras, after the first reset of opacities; of
    objects only, as surroundings have large ones, far away."""
    reset_every: int = 3000
    """Steps after which opacities are brought down to twice prune_opacity, while Gaussians are added: what is needed
    recovers."""
    camera_optimizer: CameraOptimizerConfig = field(default_factory=lambda: CameraOptimizerConfig(mode="off"))
    """Refine the training cameras' poses (mode SO3xR3), for captures with imprecise ones."""
    depth_colors: DepthColors = "log"
    """Depth in pictures and in the viewer: even in the logarithm of distance, or in distance between the percentiles 2
    and 98 of what is opaque (percentile), both up to ten times the distance of the nearest quarter; or in distance
    from the nearest to the farthest (linear)."""
    color_corrected_metrics: bool = False
    """In evaluation, also report psnr_cc, ssim_cc and lpips_cc: of the rendering after the quadratic change of its
    colors that brings it closest to the photograph, for captures with changing exposure or white balance."""
    lpips_weights: Path | None = None
    """AlexNet weights file (alexnet-owt-7be5be79.pth) for LPIPS; None: torch's hub cache, or LPIPS is left out."""
    near_plane: float = 0.01
    """Depth in scene units before which Gaussians are not drawn."""
    implementation: Implementation = "auto"
    """What draws: gsplat (CUDA), numba (CPU), torch (anything, slowly); auto: the fastest that works here."""


class MipSplatModel(SplatfactoModel, ModelHooks):
    """nerfstudio's splatfacto, so that its viewer and ns-export know it, with everything that it computes replaced.

    Args: those of splatfacto.
    """

    config: MipSplatModelConfig  # type: ignore[assignment]
    intervals: Float[Tensor, "n"]
    """Each Gaussian's sampling interval in scene units (`sampling_intervals`)."""

    def populate_modules(self) -> None:
        """Place the first Gaussians; build the strategy.

        Raises: InputError if options do not go together, or there is nothing to begin with.
        """
        config = self.config
        _check_options(config)
        self.metadata: SceneMetadata = self.kwargs.get("metadata") or {}
        self.ray_bounds: RayBounds | None = self.metadata.get("ray_bounds")
        self.is_object = self.ray_bounds is not None and self.ray_bounds.bounded
        poses = self.metadata.get("camera_to_worlds")
        if poses is None or len(poses) == 0:
            raise InputError("there are no training cameras", "Give data with photographs and their poses")
        self.extent = camera_extent(poses.cpu())
        self.start = self._choose_start()
        first = self._first_gaussians()
        self.gauss_params = torch.nn.ParameterDict({name: Parameter(first[name]) for name in NAMES})
        self.register_buffer("intervals", torch.zeros(len(first["means"])))
        self.camera_optimizer: CameraOptimizer = config.camera_optimizer.setup(
            num_cameras=self.num_train_data, device="cpu"
        )
        self.step, self.crop_box = 0, None
        self.removed = {"not finite": 0, "exploded": 0}
        self.info: dict[str, Any] | None = None
        self.background = config.background_color
        if self.background == "auto":
            has_alpha = bool(self.metadata.get("images_have_alpha", False))
            self.background = "white" if self.is_object or has_alpha else "black"
        self.background_color = torch.full((3,), 1.0 if self.background == "white" else 0.0)
        self.strategy = BoundedStrategy(  # type: ignore[assignment]
            prune_opa=config.prune_opacity,
            grow_grad2d=config.grow_gradient,
            grow_scale3d=config.grow_scale,
            prune_scale3d=config.prune_scale if self.is_object else torch.inf,
            refine_start_iter=config.grow_from,
            refine_stop_iter=config.grow_until,
            reset_every=config.reset_every,
            refine_every=config.grow_every,
            most=config.max_gaussians,
        )
        self.strategy_state = self.strategy.initialize_state(scene_scale=self.extent)
        # Not modules: the viewer finds them among the model's attributes.
        self.first_view = self._choose_first_view()
        self.realtime_preview = RealTimePreview(GaussianSource(self))
        self.viewer_adapter = ViewerAdapter(CPU_RESOLUTION, self.realtime_preview)
        ways: list[DepthColors] = list(get_args(DepthColors))
        self.shown_depth_colors = ViewerDropdown("Depth colors", config.depth_colors, ways)

    def _known_points(self) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]] | None:
        """Known points of the scene and their colors in [0, 1], those that are finite; None: there are none."""
        if self.seed_points is None:
            return None
        points, colors = (torch.as_tensor(value).detach().float().cpu() for value in self.seed_points)
        colors = colors / 255.0 if len(colors) == len(points) else torch.full_like(points, 0.5)
        finite = torch.isfinite(torch.cat([points, colors], dim=1)).all(dim=1)
        if not bool(finite.all()):
            note(f"Left out {int((~finite).sum())} of {len(finite)} points: not finite.")
        return (points[finite], colors[finite]) if bool(finite.any()) else None

    def _choose_start(self) -> str:
        """What the first Gaussians are to be made of.

        Raises: InputError if there is nothing.
        """
        start, number = self.config.start_from, self.config.num_start
        known = self._known_points() if start in ("auto", "points") else None
        if start == "points" and known is None:
            problem = "start-from is points, and the data has none"
            raise InputError(problem, "Leave --pipeline.model.start-from at auto, or give data with points")
        if known is None and number < 1:
            problem = f"no points of the scene are given, and num-start is {number}: there is nothing to begin with"
            raise InputError(problem, "Give a positive number to --pipeline.model.num-start, or data with points")
        if start == "auto":
            start = "points" if known is not None else "random" if self.is_object else "photographs"
        return start

    def _first_gaussians(self) -> dict[str, Tensor]:
        """Those at known points, or at random places: photographs are not read yet (`begin_with`)."""
        known = self._known_points() if self.start == "points" else None
        if known is not None:
            return gaussians_at(*known, self.config.sh_degree)
        number = self.config.num_start if self.start == "random" else 4
        generator = self._generator()
        if self.is_object:
            points = random_points_in_box(self.scene_box.aabb.float().cpu(), number, generator)
        else:
            cameras = self._cameras.to("cpu")
            views = (cameras.camera_to_worlds, _intrinsics(cameras), _sizes(cameras))
            points = random_points_in_views(*views, *self._depths, number, generator)
        return gaussians_at(points, torch.rand(number, 3, generator=generator), self.config.sh_degree)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(torch.initial_seed() % 2**63)

    @property
    def _depths(self) -> tuple[float, float]:
        """Between which depths Gaussians begin, in scene units."""
        return NEAREST_VIEW * self.extent, FARTHEST_VIEW * self.extent

    @torch.no_grad()
    def begin_with(self, photographs: Iterable[Tensor]) -> None:
        """Place the first Gaussians where photographs agree, if that is what the config asks for.

        Args:
            photographs: of the training cameras, [h w 3 or 4] in [0, 1].
        """
        if self.start != "photographs":
            return
        white = torch.full((3,), 1.0 if self.background == "white" else 0.0, device=self.device)
        images = (self.target({"image": image}, white).cpu() for image in photographs)
        cameras = self._cameras.to("cpu")
        viewmats = torch.stack([viewmat_of(pose) for pose in cameras.camera_to_worlds])
        seen = small_photographs(images, viewmats, _intrinsics(cameras))
        found = swept_points(seen, *self._depths, self.config.num_start, self._generator())
        first = gaussians_at(found.points, found.colors, self.config.sh_degree, found.footprints)
        for name, parameter in self.gauss_params.items():
            parameter.data = first[name].to(parameter.device)
        self.intervals = self.intervals.new_zeros(len(found.points))
        note(f"No points of the scene are known: {len(found.points):,} Gaussians begin where photographs agree.")

    @property
    def _cameras(self) -> Cameras:
        """The training cameras, as the photographs in memory have them."""
        return self.metadata["cameras"]

    def _choose_first_view(self) -> FirstView:
        """An object as photographs see it, or what a photograph shows of surroundings."""
        poses = self.metadata["camera_to_worlds"][:, :3].double().cpu().numpy()
        if not self.is_object:
            return ViewOfPhotograph(poses)
        box = self.scene_box.aabb.double().cpu()
        return ViewOfSphere(tuple(box.mean(dim=0).tolist()), 0.5 * float((box[1] - box[0]).max()), poses)

    # What nerfstudio's exporter writes: the Gaussians as they are drawn, with the 3D filter in them.

    @property
    def smoothed(self) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]]:
        """Standard deviations along the axes in scene units, and opacities in [0, 1], after the 3D filter."""
        opacities = self.gauss_params["opacities"][:, 0].sigmoid()
        return smoothed(self.gauss_params["scales"].exp(), opacities, self.intervals, self.config.filter_3d)

    @property
    def scales(self) -> Float[Tensor, "n 3"]:  # type: ignore[override]
        """Logarithms of the standard deviations after the 3D filter."""
        return self.smoothed[0].log()

    @property
    def opacities(self) -> Float[Tensor, "n 1"]:  # type: ignore[override]
        """Logits of the opacities after the 3D filter."""
        return torch.logit(self.smoothed[1][:, None], eps=1e-6)

    @property
    def colors(self) -> Float[Tensor, "n 3"]:  # type: ignore[override]
        """Colors of degree 0."""
        return self.features_dc * C0 + 0.5

    @property
    def shs_0(self) -> Float[Tensor, "n 3"]:  # type: ignore[override]
        return self.features_dc

    @property
    def active_sh_degree(self) -> int:
        """Degree up to which harmonics count at this step."""
        return sh_degree_at(self.step, self.config.sh_degree_interval, self.config.sh_degree)

    def set_background(self, background_color: Tensor) -> None:
        """Nothing: the viewer would have its own color behind Gaussians, in training too."""

    # Training

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        groups = {name: [self.gauss_params[name]] for name in NAMES}
        self.camera_optimizer.get_param_groups(groups)
        return groups

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        optimizers = training_callback_attributes.optimizers
        assert optimizers is not None
        self.optimizers = {name: optimizers.optimizers[name] for name in NAMES}
        self._scale_learning_rate(optimizers)
        before, after = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION
        return [TrainingCallback([before], self.before_step), TrainingCallback([after], self.after_step)]

    def _scale_learning_rate(self, optimizers: Any) -> None:
        """Means move by fractions of the cameras' extent: the option's learning rate is for an extent of 1."""
        rate = optimizers.config["means"]["optimizer"].lr * self.extent
        for group in self.optimizers["means"].param_groups:
            group["lr"] = group["initial_lr"] = rate
        scheduler = optimizers.schedulers.get("means")
        if scheduler is not None:
            scheduler.base_lrs = [rate] * len(scheduler.base_lrs)
            for group, decay in zip(self.optimizers["means"].param_groups, scheduler.lr_lambdas):
                group["lr"] = rate * decay(scheduler.last_epoch)

    def before_step(self, step: int) -> None:
        """Note the step, and find the filter's sizes where they are due."""
        self.step = step
        if step % self.config.filter_every == 0 or (self.intervals == 0).all():
            self.find_intervals()

    @torch.no_grad()
    def find_intervals(self) -> None:
        """Find each Gaussian's sampling interval."""
        if self.config.filter_3d == 0.0:
            self.intervals = self.means.new_zeros(len(self.means))
            return
        cameras = self._cameras.to(self.means.device)
        viewmats = torch.stack([viewmat_of(pose) for pose in cameras.camera_to_worlds])
        self.intervals = sampling_intervals(
            self.means.detach(), viewmats, _intrinsics(cameras), _sizes(cameras), self.config.near_plane
        )

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Add and remove Gaussians."""
        before, config = self.means, self.config
        info, self.info = self.info, None
        # A step that was left out has gradients that are not finite.
        if info is not None and len(info["means2d"]) and bool(torch.isfinite(info["means2d"].grad).all()):
            self.strategy.step_post_backward(
                self.gauss_params, self.optimizers, self.strategy_state, step, info, packed=True
            )
        if step % config.grow_every == 0:
            self.remove_faulty()
        if self.means is not before:
            self.find_intervals()

    @torch.no_grad()
    def remove_faulty(self) -> None:
        """Remove Gaussians that are broken, and say how many there were.

        Raises: InputError if none is left.
        """
        from gsplat.strategy.ops import remove

        origins = self._cameras.camera_to_worlds[:, :3, 3].to(self.means.device)
        found = dict(zip(self.removed, faulty(self.gauss_params, origins, FARTHEST * self.extent)))
        mask = torch.stack(list(found.values())).any(dim=0)
        if bool(mask.all()):
            problem = f"no Gaussian is left at step {self.step}: all are transparent, have exploded or are not finite"
            raise InputError(problem, "Lower the learning rates (--optimizers.GROUP.optimizer.lr)")
        if not bool(mask.any()):
            return
        remove(params=self.gauss_params, optimizers=self.optimizers, state=self.strategy_state, mask=mask)
        for name, each in found.items():
            self.removed[name] += int(each.sum())
        if bool(found["not finite"].any()):
            number = int(found["not finite"].sum())
            note(f"Step {self.step}: removed {number} Gaussians whose numbers are not finite.")

    # Pictures

    def draw(self, camera: Cameras, pose: Float[Tensor, "3 4"], background: Tensor, geometry: bool) -> Rendering:
        """What a camera sees from a pose, of the Gaussians within the crop box if there is one."""
        scales, opacities = self.smoothed
        coefficients = torch.cat([self.features_dc[:, None], self.features_rest], dim=1)
        means, quats = self.means, self.quats
        if self.crop_box is not None and not self.training:
            kept = self.crop_box.within(means).reshape(-1)
            means, quats, scales, opacities = means[kept], quats[kept], scales[kept], opacities[kept]
            coefficients = coefficients[kept]
        fx, fy, cx, cy = _intrinsics(camera)[0].tolist()
        return rasterize(
            means,
            quats,
            scales,
            opacities,
            coefficients,
            viewmat_of(pose),
            torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], device=pose.device),
            int(camera.width.item()),
            int(camera.height.item()),
            sh_degree=self.active_sh_degree,
            background=background,
            antialiased=True,
            geometry=geometry,
            eps2d=self.config.filter_2d,
            near=self.config.near_plane,
            implementation=self.config.implementation,
        )

    def get_outputs(self, camera: Cameras) -> dict[str, Tensor]:  # type: ignore[override]
        """Draw a camera of shape [1].

        Returns: rgb [h w 3], accumulation [h w 1] and background [3]; outside of training also depth [h w 1], which is
            the median along the optical axis in scene units, and normals [h w 3], in [0, 1].
        Raises: InputError if it is not a camera: nerfstudio's exporters ask for rays.
        """
        if not isinstance(camera, Cameras):
            problem = "the run is of Gaussians, which are drawn as whole pictures, not along rays"
            raise InputError(problem, "Use ns-export gaussian-splat")
        self.background_color = self.background_color.to(self.device)
        background = self.background_color
        if self.training and self.background == "random":
            background = torch.rand(3).to(self.device)
        poses = self.camera_optimizer.apply_to_camera(camera) if self.training else camera.camera_to_worlds
        drawn = self.draw(camera, poses.reshape(-1, *poses.shape[-2:])[0], background, geometry=not self.training)
        outputs = {"rgb": drawn.color, "accumulation": drawn.accumulation}
        if self.training:
            if drawn.info["means2d"].requires_grad:
                drawn.info["means2d"].retain_grad()
                self.info = drawn.info
        else:
            assert drawn.normals is not None
            depth = drawn.median_depth if drawn.median_depth is not None else drawn.depth
            assert depth is not None
            # The viewer spreads what it shows between the extremes: what is empty is as far as the farthest.
            outputs["rgb"] = drawn.color.clamp(0.0, 1.0)
            outputs["depth"] = torch.where(depth > 0, depth, depth.max() if bool((depth > 0).any()) else 1.0)
            outputs["normals"] = (0.5 * drawn.normals + 0.5).clamp(0.0, 1.0)
        return {**outputs, "background": background}

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        self.set_crop(obb_box)
        outputs = self.get_outputs(camera.reshape((1,)).to(self.device))
        height, width = outputs["rgb"].shape[:2]
        return {**outputs, "background": outputs["background"].expand(height, width, 3)}

    def target(self, batch: dict[str, Any], background: Tensor) -> Float[Tensor, "h w 3"]:
        """The photograph, over the background where it has alpha."""
        image = batch["image"].to(self.device)
        if image.shape[-1] == 4:
            image = image[..., :3] * image[..., 3:] + background * (1.0 - image[..., 3:])
        return image

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        target, valid = self.target(batch, outputs["background"]), valid_pixels_of(batch)
        errors = (outputs["rgb"].detach() - target).square().mean(dim=-1, keepdim=True)
        if valid is not None:
            errors = errors[valid.to(errors.device)]
        number = torch.tensor(float(len(self.means)), device=target.device)
        metrics = {"psnr": psnr_of_mse(errors.mean()), "gaussians": number}
        self.camera_optimizer.get_metrics_dict(metrics)
        if any(self.removed.values()):
            metrics["removed"] = torch.full_like(number, sum(self.removed.values()))
        return metrics

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        valid = valid_pixels_of(batch)
        valid = None if valid is None else valid.to(self.device)
        target = self.target(batch, outputs["background"])
        losses = {"rgb_loss": picture_loss(outputs["rgb"], target, valid, self.config.ssim_weight)}
        if self.training:
            self.camera_optimizer.get_loss_dict(losses)
        return losses

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        target, config = self.target(batch, outputs["background"]), self.config
        metrics = image_metrics(
            outputs["rgb"], target, config.lpips_weights, valid_pixels_of(batch), config.color_corrected_metrics
        )
        images = {
            "img": torch.cat([target, outputs["rgb"]], dim=1),
            "depth": depth_picture(outputs["depth"], outputs["accumulation"], config.depth_colors),
            "normals": outputs["normals"],
        }
        return metrics, images

    def shown_in_viewer(self, name: str, outputs: dict[str, Tensor]) -> Tensor:
        """What the viewer is to show for an output: itself, or of depth the position in the chosen colors."""
        if name != "depth":
            return outputs[name]
        return depth_levels(outputs[name], outputs["accumulation"], self.shown_depth_colors.value)

    # Checkpoints

    def update_to_step(self, step: int) -> None:
        """The step of a checkpoint that is loaded."""
        self.step = step

    def get_extra_state(self) -> dict[str, Any]:
        """What gsplat's strategy has gathered: a resumed run adds and removes what an uninterrupted one would have."""
        kept = {name: value for name, value in self.strategy_state.items() if isinstance(value, Tensor)}
        return {"growth": kept, "removed": dict(self.removed)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, value in state["growth"].items():
            self.strategy_state[name] = value.to(self.device)
        self.removed = {**self.removed, **state["removed"]}

    def load_state_dict(self, state_dict: Mapping[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Load any number of Gaussians. The parameters stay the same objects, which optimizers hold."""
        if "gauss_params.means" in state_dict:
            number = len(state_dict["gauss_params.means"])
            for parameter in self.gauss_params.values():
                parameter.data = parameter.data.new_zeros((number, *parameter.shape[1:]))
                parameter.grad = None
            self.intervals = self.intervals.new_zeros(number)
        return torch.nn.Module.load_state_dict(self, state_dict, **kwargs)


def sh_degree_at(step: int, interval: int, degree: int) -> int:
    """Degree up to which harmonics count: one more after each interval, up to the last.

    Args:
        step: from 0.
        interval: steps for each degree; 0: all count at once.
        degree: the last.
    """
    return degree if interval == 0 else min(step // interval, degree)


def viewmat_of(pose: Float[Tensor, "3 4"]) -> Float[Tensor, "4 4"]:
    """World to camera in OpenCV's axes, of a camera's pose in nerfstudio's."""
    rotation = pose[:3, :3] * pose.new_tensor([1.0, -1.0, -1.0])
    moved = -(rotation.T @ pose[:3, 3:])
    return torch.cat([torch.cat([rotation.T, moved], dim=1), pose.new_tensor([[0.0, 0.0, 0.0, 1.0]])])


def _intrinsics(cameras: Cameras) -> Float[Tensor, "c 4"]:
    parts = [getattr(cameras, name).reshape(-1, 1).float() for name in ("fx", "fy", "cx", "cy")]
    return torch.cat(parts, dim=1)


def _sizes(cameras: Cameras) -> Float[Tensor, "c 2"]:
    return torch.cat([cameras.width.reshape(-1, 1), cameras.height.reshape(-1, 1)], dim=1).float()


def _check_options(config: MipSplatModelConfig) -> None:
    """Raises: InputError for numbers that mean nothing."""
    if not 0 <= config.sh_degree <= 3:
        raise InputError(f"sh-degree is {config.sh_degree}", "Give 0 to 3 to --pipeline.model.sh-degree")
    for name in ("filter_3d", "filter_2d", "sh_degree_interval"):
        if getattr(config, name) < 0:
            option = name.replace("_", "-")
            raise InputError(f"{option} is {getattr(config, name)}", f"Give 0 or more to --pipeline.model.{option}")
    if not 0.0 <= config.ssim_weight <= 1.0:
        raise InputError(f"ssim-weight is {config.ssim_weight}", "Give 0 to 1 to --pipeline.model.ssim-weight")
    for name in ("filter_every", "grow_every", "reset_every"):
        if getattr(config, name) < 1:
            option = name.replace("_", "-")
            raise InputError(f"{option} is {getattr(config, name)}", f"Give 1 or more to --pipeline.model.{option}")
