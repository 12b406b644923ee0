"""Mip-Splatting: 3D Gaussians trained from photographs, with filters that keep them sharp near and calm far away.

Source: Mip-Splatting (arXiv 2311.16493) on 3D Gaussian Splatting (arXiv 2308.04079).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
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
from common_ns.meshing.depth_fusion import DepthPicture, FusedDepth
from common_ns.meshing.iso_field import IsoField
from common_ns.metrics import image_metrics, psnr_of_mse, valid_pixels_of
from common_ns.nerfstudio_seam.exported_pixels import ExportedPixels
from common_ns.nerfstudio_seam.image_datamanager import ImageDataManager
from common_ns.nerfstudio_seam.model_hooks import ModelHooks
from common_ns.nerfstudio_seam.preview import RealTimePreview
from common_ns.nerfstudio_seam.viewer import ViewerAdapter
from common_ns.option_ranges import check_ranges
from common_ns.splat_baking.gaussians import exposed_coefficients
from common_ns.splat_baking.photographs import viewmat_of
from common_ns.splats import Rendering, rasterize
from common_ns.splats.harmonics import C0
from common_ns.splats.sampling import sampling_intervals
from common_ns.viewer_preview.gaussians import GaussianSource
from mipnerf_ns.splat_cameras import intrinsics_of, sizes_of, viewmats_of
from mipnerf_ns.splat_config import RANGES, MipSplatOptions
from mipnerf_ns.splat_exposure import distance_from_none, exposed, no_change
from mipnerf_ns.splat_filter import smoothed
from mipnerf_ns.splat_first import FirstGaussians, over
from mipnerf_ns.splat_growth import BoundedStrategy, faulty
from mipnerf_ns.splat_losses import picture_loss
from mipnerf_ns.splat_mcmc import MCMCStrategy, regularizers
from mipnerf_ns.splat_rays import outputs_along
from mipnerf_ns.splat_start import camera_extent

FARTHEST = 1000.0
"""Distance of a Gaussian, in extents of the cameras, beyond which it has left the scene."""
NAMES = ("means", "scales", "quats", "features_dc", "features_rest", "opacities")
"""Of what is trained, as in nerfstudio's splatfacto."""
VOXELS_OF_DEPTH = 4.0
"""Of a mesh: pictures of depth that differ by more voxels are of two surfaces."""
CPU_RESOLUTION = 512
""""Max res" of the viewer on a CPU to begin with."""


@dataclass
class MipSplatModelConfig(MipSplatOptions):
    """Mip-Splatting with the paper's settings."""

    _target: type = field(default_factory=lambda: MipSplatModel)
    """target class to instantiate"""


class MipSplatModel(SplatfactoModel, ModelHooks):
    """nerfstudio's splatfacto, so that its viewer and ns-export know it, with everything that it computes replaced.

    Args: those of splatfacto.
    """

    config: MipSplatModelConfig  # type: ignore[assignment]
    intervals: Float[Tensor, "n"]
    """Each Gaussian's sampling interval in scene units (`sampling_intervals`)."""
    first_gaussians: type[FirstGaussians] = FirstGaussians
    """Chooses what the first ones are made of."""
    depth_along_axis: bool = True
    """Whether the output `depth` is along the optical axis; else it is ray distance."""
    capture_background: str = "black"
    """What background-color auto is for captures."""
    trains_geometry: bool = False
    """Whether losses ask for depth and normals: `mean_depth` [h w 1], along the optical axis, and `normals` [h w 3],
    sums by weight, are then outputs in training."""

    def populate_modules(self) -> None:
        """Place the first Gaussians; build the strategy.

        Raises: InputError if options do not go together, or there is nothing to begin with.
        """
        config = self.config
        check_ranges(config, RANGES)
        self.metadata: SceneMetadata = self.kwargs.get("metadata") or {}
        self.ray_bounds: RayBounds | None = self.metadata.get("ray_bounds")
        self.is_object = self.ray_bounds is not None and self.ray_bounds.bounded
        poses = self.metadata.get("camera_to_worlds")
        if poses is None or len(poses) == 0:
            raise InputError("there are no training cameras", "Give data with photographs and their poses")
        self.extent = camera_extent(poses.cpu())
        seed = torch.initial_seed() % 2**63
        self.first = self.first_gaussians(config, self.seed_points, self.scene_box, self.is_object, self.extent, seed)
        self.placed = not self.first.needs_photographs
        self.start_core_seconds = 0.0
        first = self.first.at_once(self._cameras)
        self.gauss_params = torch.nn.ParameterDict({name: Parameter(first[name]) for name in NAMES})
        self.register_buffer("intervals", torch.zeros(len(first["means"])))
        self.camera_optimizer: CameraOptimizer = config.camera_optimizer.setup(
            num_cameras=self.num_train_data, device="cpu"
        )
        if config.exposure:
            self.exposures = Parameter(no_change(self.num_train_data))
        self.step, self.crop_box = 0, None
        self.means_before: Tensor | None = None
        self.removed = {"not finite": 0, "exploded": 0}
        self.info: dict[str, Any] | None = None
        self.background = config.background_color
        if self.background == "auto":
            has_alpha = bool(self.metadata.get("images_have_alpha", False))
            self.background = "white" if self.is_object or has_alpha else self.capture_background
        self.background_color = torch.full((3,), 1.0 if self.background == "white" else 0.0)
        self.background_known = self.background != "mean"  # that is found in the photographs
        self.mcmc = self._mcmc() if config.strategy == "mcmc" else None
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
        self._exported = ExportedPixels()
        self.realtime_preview = RealTimePreview(GaussianSource(self, self.depth_along_axis))
        self.viewer_adapter = ViewerAdapter(CPU_RESOLUTION, self.realtime_preview)
        ways: list[DepthColors] = list(get_args(DepthColors))
        self.shown_depth_colors = ViewerDropdown("Depth colors", config.depth_colors, ways)

    def _mcmc(self) -> MCMCStrategy:
        config = self.config
        return MCMCStrategy(
            self.extent,
            1_000_000 if config.max_gaussians is None else config.max_gaussians,
            config.mcmc_noise,
            config.prune_opacity,
            config.grow_from,
            config.grow_until,
            config.grow_every,
        )

    def begin_with(self, datamanager: ImageDataManager) -> None:
        """Place the first Gaussians, if that takes photographs.

        Args:
            datamanager: with the training photographs.
        """
        if self.placed:
            return
        started = time.process_time()
        first = self.first.placed_by_photographs(datamanager, self.background_color.cpu())
        for name, parameter in self.gauss_params.items():
            parameter.data = first[name].to(parameter.device)
        self.intervals = self.intervals.new_zeros(len(first["means"]))
        self.placed, self.start_core_seconds = True, time.process_time() - started

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
    def mean_exposure(self) -> Float[Tensor, "3 4"] | None:
        """What changes colors in new views; None: nothing."""
        return self.exposures.detach().mean(dim=0) if self.config.exposure else None

    @property
    def coefficients(self) -> Float[Tensor, "n k 3"]:
        """Of the colors' harmonics, as new views show them."""
        mean, found = self.mean_exposure, torch.cat([self.features_dc[:, None], self.features_rest], dim=1)
        return found if mean is None else exposed_coefficients(found, mean)

    @property
    def colors(self) -> Float[Tensor, "n 3"]:  # type: ignore[override]
        """Colors of degree 0."""
        return self.shs_0 * C0 + 0.5

    @property
    def shs_0(self) -> Float[Tensor, "n 3"]:  # type: ignore[override]
        return self.coefficients[:, 0]

    @property
    def shs_rest(self) -> Float[Tensor, "n k 3"]:  # type: ignore[override]
        return self.coefficients[:, 1:]

    @property
    def active_sh_degree(self) -> int:
        """Degree up to which harmonics count at this step: all where Gaussians begin with colors by direction."""
        if self.first.kind in ("field", "run"):
            return self.config.sh_degree
        return sh_degree_at(self.step, self.config.sh_degree_interval, self.config.sh_degree)

    def set_background(self, background_color: Tensor) -> None:
        """Nothing: the viewer would have its own color behind Gaussians, in training too."""

    # Training

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        groups = {name: [self.gauss_params[name]] for name in NAMES}
        self.camera_optimizer.get_param_groups(groups)
        if self.config.exposure:
            groups["exposure"] = [self.exposures]
        return groups

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        optimizers, pipeline = training_callback_attributes.optimizers, training_callback_attributes.pipeline
        assert optimizers is not None
        self.optimizers = {name: optimizers.optimizers[name] for name in NAMES}
        self._scale_learning_rate(optimizers)
        before, after = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION

        def place(step: int) -> None:
            assert pipeline is not None and isinstance(pipeline.datamanager, ImageDataManager)
            if not self.background_known:
                self.background_color, self.background_known = pipeline.datamanager.mean_color(), True
            if not self.placed:
                self.begin_with(pipeline.datamanager)

        steps = [TrainingCallback([before], each) for each in (place, self.before_step)]
        return [*steps, TrainingCallback([after], self.after_step)]

    def _scale_learning_rate(self, optimizers: Any) -> None:
        """Means move by fractions of the cameras' extent: the option's learning rate is for an extent of 1."""
        if self.config.means_unit == "pixel":
            return  # see `_move_by_pixels`
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
        if self.config.means_unit == "pixel":
            self.means_before = self.means.detach().clone()

    @torch.no_grad()
    def find_intervals(self) -> None:
        """Find each Gaussian's sampling interval."""
        if self.config.filter_3d == 0.0 and self.config.means_unit == "extent":
            self.intervals = self.means.new_zeros(len(self.means))
            return
        cameras = self._cameras.to(self.means.device)
        self.intervals = sampling_intervals(
            self.means.detach(), viewmats_of(cameras), intrinsics_of(cameras), sizes_of(cameras), self.config.near_plane
        )

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Add and remove Gaussians."""
        if self.means_before is not None:
            self._move_by_pixels(self.means_before)
        before, config = self.means, self.config
        info, self.info = self.info, None
        # A step that was left out has gradients that are not finite.
        if info is not None and not (len(info["means2d"]) and bool(torch.isfinite(info["means2d"].grad).all())):
            info = None
        if info is not None and self.mcmc is not None:
            self.mcmc.after_step(self.gauss_params, self.optimizers, step, self._rate_of_means())
        elif info is not None:
            self.strategy.step_post_backward(
                self.gauss_params, self.optimizers, self.strategy_state, step, info, packed=True
            )
        if step % config.grow_every == 0:
            self.remove_faulty()
        if self.means is not before:
            self.find_intervals()

    def _move_by_pixels(self, before: Float[Tensor, "n 3"]) -> None:
        """Shorten the step that Adam has just taken, which is one in scene units, by the sides of pixels. Adam's steps
        do not depend on the unit that gradients are for."""
        means = self.means
        means.data = before + (means.data - before) * self.intervals[:, None]

    def _rate_of_means(self) -> float | Tensor:
        """Learning rate of means in scene units: of all, or of each."""
        rate = self.optimizers["means"].param_groups[0]["lr"]
        return rate * self.intervals if self.config.means_unit == "pixel" else rate

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

    def forward(self, ray_bundle: Cameras | RayBundle) -> dict[str, Tensor]:  # type: ignore[override]
        """`get_outputs` of a camera, or of rays of training pixels, of which nerfstudio makes point clouds.

        Returns: as there; of rays of shape [n d], with depth as ray distance.

        Raises: InputError if rays are of no training pixels.
        """
        if isinstance(ray_bundle, Cameras):
            return self.get_outputs(ray_bundle)
        return outputs_along(ray_bundle, self._cameras, self.extent, self.get_outputs_for_camera, self.depth_along_axis)

    def draw(self, camera: Cameras, pose: Float[Tensor, "3 4"], background: Tensor, geometry: bool) -> Rendering:
        """What a camera sees from a pose, of the Gaussians within the crop box if there is one."""
        scales, opacities = self.smoothed
        coefficients = torch.cat([self.features_dc[:, None], self.features_rest], dim=1)
        means, quats = self.means, self.quats
        if self.crop_box is not None and not self.training:
            kept = self.crop_box.within(means).reshape(-1)
            means, quats, scales, opacities = means[kept], quats[kept], scales[kept], opacities[kept]
            coefficients = coefficients[kept]
        fx, fy, cx, cy = intrinsics_of(camera)[0].tolist()
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
            antialiased=self.config.rasterize_mode == "antialiased",
            geometry=geometry,
            eps2d=self.config.filter_2d,
            near=self.config.near_plane,
            implementation=self.config.implementation,
        )

    def get_outputs(self, camera: Cameras) -> dict[str, Tensor]:  # type: ignore[override]
        """Draw a camera of shape [1].

        Returns: rgb [h w 3], accumulation [h w 1] and background [3]; outside of training also depth [h w 1], which is
            the median along the optical axis in scene units, and normals [h w 3], in [0, 1].
        """
        self.background_color = self.background_color.to(self.device)
        background = self.background_color
        if self.training and self.background == "random":
            background = torch.rand(3).to(self.device)
        poses = self.camera_optimizer.apply_to_camera(camera) if self.training else camera.camera_to_worlds
        geometry = not self.training or self.trains_geometry
        drawn = self.draw(camera, poses.reshape(-1, *poses.shape[-2:])[0], background, geometry)
        outputs = {"rgb": drawn.color, "accumulation": drawn.accumulation}
        change = self.mean_exposure
        if self.config.exposure and self.training:
            change = outputs["exposure"] = self.exposures[(camera.metadata or {})["cam_idx"]]
        if change is not None:
            color = outputs["rgb"] = exposed(drawn.color, drawn.accumulation, background, change)
        else:
            color = drawn.color
        if self.training:
            if drawn.info["means2d"].requires_grad:
                drawn.info["means2d"].retain_grad()
                self.info = drawn.info
            if geometry:
                assert drawn.depth is not None and drawn.normals is not None
                outputs |= {"mean_depth": drawn.depth, "normals": drawn.normals}
        else:
            assert drawn.normals is not None
            depth = drawn.median_depth if drawn.median_depth is not None else drawn.depth
            assert depth is not None
            # The viewer spreads what it shows between the extremes: what is empty is as far as the farthest.
            outputs["rgb"] = color.clamp(0.0, 1.0)
            outputs["depth"] = torch.where(depth > 0, depth, depth.max() if bool((depth > 0).any()) else 1.0)
            outputs["normals"] = (0.5 * drawn.normals + 0.5).clamp(0.0, 1.0)
        return {**outputs, "background": background}

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """With the background taken out again; of a test image, or of rays.

        Raises: InputError when a point-cloud export asks for rays again and again and none is opaque.
        """
        alpha = outputs[output_name.replace("rgb", "accumulation")]
        return self._exported.rgba(outputs[output_name], alpha, self.background_color)

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        self.set_crop(obb_box)
        outputs = self.get_outputs(camera.reshape((1,)).to(self.device))
        height, width = outputs["rgb"].shape[:2]
        return {**outputs, "background": outputs["background"].expand(height, width, 3)}

    def iso_field(self, level: float | None = None, voxel_size: float | None = None) -> IsoField:
        """The distance that pictures of the training cameras agree on.

        Args:
            level: signed distance of the surface, in scene units; None: 0.
            voxel_size: side of the voxels in scene units, which says how near pictures have to agree; None: a 256th of
                the scene box.
        """
        aabb = self.scene_box.aabb.detach().float().cpu()
        voxel = float((aabb[1] - aabb[0]).max()) / 256 if voxel_size is None else voxel_size

        @functools.cache  # drawn when a point is first asked for: who wants the box alone asks for none
        def fused() -> FusedDepth:
            return FusedDepth(self._depth_pictures(), VOXELS_OF_DEPTH * voxel)

        return IsoField(
            lambda points: fused().value(points),
            level or 0.0,
            inside_above=False,
            aabb=aabb,
            color=lambda points, normals: fused().color(points, normals),
            shown=lambda points: fused().shown(points),
            device=self.device,
        )

    @torch.no_grad()
    def _depth_pictures(self) -> list[DepthPicture]:
        """What the training cameras see."""
        pictures, black = [], torch.zeros(3, device=self.device)
        for index in range(len(self._cameras)):
            camera = self._cameras[index : index + 1].to(self.device)
            drawn = self.draw(camera, camera.camera_to_worlds[0], black, geometry=True)
            assert drawn.median_depth is not None
            color = (drawn.color / drawn.accumulation.clamp_min(0.5)).clamp(0.0, 1.0)
            place = viewmat_of(camera.camera_to_worlds[0]), tuple(intrinsics_of(camera)[0].tolist())
            pictures.append(DepthPicture(drawn.median_depth[..., 0], color, *place))
        return pictures

    def target(self, batch: dict[str, Any], background: Tensor) -> Float[Tensor, "h w 3"]:
        """The photograph, over the background where it has alpha."""
        return over(batch["image"].to(self.device), background)

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
        config, squared = self.config, self.config.color_error == "squared"
        losses = {"rgb_loss": picture_loss(outputs["rgb"], target, valid, config.ssim_weight, squared)}
        if "exposure" in outputs:
            losses["exposure_loss"] = config.exposure_weight * distance_from_none(outputs["exposure"])
        if self.training and self.mcmc is not None:
            opacities, scales = self.gauss_params["opacities"].sigmoid(), self.gauss_params["scales"].exp()
            opacity, size = regularizers(opacities[:, 0], scales, self.extent)
            losses["opacity_loss"] = config.mcmc_opacity_weight * opacity
            losses["scale_loss"] = config.mcmc_scale_weight * size
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
            "depth": self.depth_picture(outputs["depth"], outputs["accumulation"]),
            "normals": outputs["normals"],
        }
        return metrics, images

    def depth_picture(self, depth: Float[Tensor, "h w 1"], opacity: Float[Tensor, "h w 1"]) -> Float[Tensor, "h w 3"]:
        """Depth in colors, over what is opaque."""
        return depth_picture(depth, opacity, self.config.depth_colors)

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
        return {"growth": kept, "removed": dict(self.removed), "background": self.background_color.cpu()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, value in state["growth"].items():
            self.strategy_state[name] = value.to(self.device)
        self.removed = {**self.removed, **state["removed"]}
        if self.background == "mean" and "background" in state:
            self.background_color, self.background_known = state["background"].to(self.device), True

    def load_state_dict(self, state_dict: Mapping[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Load any number of Gaussians. The parameters stay the same objects, which optimizers hold."""
        if "gauss_params.means" in state_dict:
            number = len(state_dict["gauss_params.means"])
            for parameter in self.gauss_params.values():
                parameter.data = parameter.data.new_zeros((number, *parameter.shape[1:]))
                parameter.grad = None
            self.intervals = self.intervals.new_zeros(number)
            self.placed = True
        return torch.nn.Module.load_state_dict(self, state_dict, **kwargs)


def sh_degree_at(step: int, interval: int, degree: int) -> int:
    """Degree up to which harmonics count: one more after each interval, up to the last.

    Args:
        step: from 0.
        interval: steps for each degree; 0: all count at once.
        degree: the last.
    """
    return degree if interval == 0 else min(step // interval, degree)
