"""Gaussian splats that are supervised by depth: Mip-Splatting with depth and normals in its losses and its start."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from common_ns.data.notes import note
from common_ns.errors import InputError
from common_ns.metrics import depth_errors, valid_pixels_of
from common_ns.nerfstudio_seam.image_datamanager import ImageDataManager
from common_ns.option_ranges import check_ranges
from depthnerf_ns.base_model import DEPTH_RANGES
from depthnerf_ns.checks.guard import DepthGuard
from depthnerf_ns.depth_cloud import DepthCloud
from depthnerf_ns.depth_losses import has_depth, widened_epsilon
from depthnerf_ns.splat_depth import SplatDepthLoss, View, depth_loss, normal_loss, points_of, ray_per_depth
from mipnerf_ns.splat_cameras import intrinsics_of
from mipnerf_ns.splat_config import MipSplatOptions
from mipnerf_ns.splat_first import FirstGaussians, over
from mipnerf_ns.splat_model import MipSplatModel
from mipnerf_ns.splat_start import gaussians_at


@dataclass
class DepthSplatModelConfig(MipSplatOptions):
    """Mip-Splatting supervised by depth."""

    _target: type = dataclasses.field(default_factory=lambda: DepthSplatModel)
    """target class to instantiate"""
    start_from: Literal["auto", "depth", "points", "field", "photographs", "random"] = "auto"
    """Where the first Gaussians are: where depth maps see surfaces; at the data's known points; where a field sees
    surfaces that is fitted first; at points that several photographs agree on; or at random places. auto: depth."""
    depth_loss: SplatDepthLoss = "huber"
    """Of the drawn depth's error in units of depth_epsilon: huber, squared up to 1 and absolute above; l1, absolute;
    log-l1, its logarithm, which takes outliers lightly; none."""
    depth_loss_mult: float = 0.01
    """Weight of the depth loss."""
    depth_epsilon: float = 0.03
    """How well depth is known: errors below count little."""
    depth_epsilon_unit: Literal["scene", "meters"] = "scene"
    """Unit of depth_epsilon: scene units, or meters (the unit of the poses)."""
    depth_use_sigma: bool = True
    """Widen depth_epsilon by the uncertainty of each pixel's depth, where the data set has one."""
    depth_guard: bool = True
    """Before training, see whether the images match each other where the depth says, and switch supervision by depth
    off, saying so, if they do not. Gaussians then begin without it, too."""
    normal_loss_mult: float = 0.0
    """Weight of one minus the cosine between drawn normals, of the Gaussians' shortest axes, and predicted ones, where
    the data set has them."""


class FirstAtDepth(FirstGaussians):
    """Begins where depth maps see surfaces, unless something else is asked for."""

    def _choose(self) -> Any:
        if self.config.init_from is None and self.config.start_from in ("auto", "depth"):
            self.known = None
            return "depth"
        return super()._choose()

    @property
    def needs_photographs(self) -> bool:
        return self.kind == "depth" or super().needs_photographs

    def without_depth(self) -> None:
        """Begin with a field instead, if it was to be with depth: the depth is wrong."""
        if self.kind == "depth":
            self.kind = "field"

    def placed_by_photographs(self, datamanager: ImageDataManager, background: Float[Tensor, "3"]) -> dict[str, Tensor]:
        if self.kind != "depth":
            return super().placed_by_photographs(datamanager, background)
        found = points_of(_views(datamanager, background), self.number, self._generator())
        if len(found.places) < 2:
            problem = f"the depth maps have {len(found.places)} pixels with depth: there is nothing to begin with"
            raise InputError(problem, "Give another --pipeline.model.start-from, such as field")
        note(f"{len(found.places):,} Gaussians begin where depth maps see surfaces.")
        return gaussians_at(found.places, found.colors, self.config.sh_degree, found.footprints)


def _views(datamanager: ImageDataManager, background: Float[Tensor, "3"]) -> Iterator[View]:
    """The training photographs with their depth, as they are without distortion."""
    images = datamanager.train_photographs()
    cameras = datamanager.train_dataset.cameras.to("cpu")
    intrinsics = intrinsics_of(cameras).tolist()
    for index, (image, data) in enumerate(zip(images, datamanager.cached_train)):
        picture, valid = over(image.cpu(), background), valid_pixels_of(data)
        pose = cameras.camera_to_worlds[index]
        yield View(picture, data["depth_image"], valid, pose, tuple(intrinsics[index]))


class DepthSplatModel(MipSplatModel):
    """Adds depth to the losses and to the start; the output `depth` is ray distance, as of other methods with depth.

    Args: those of `MipSplatModel`.
    """

    config: DepthSplatModelConfig  # type: ignore[assignment]
    first_gaussians = FirstAtDepth
    depth_along_axis = False
    capture_background = "mean"

    def populate_modules(self) -> None:
        """Check the options of supervision, besides what the base does."""
        config = self.config
        check_ranges(config, DEPTH_RANGES)
        super().populate_modules()
        if config.normal_loss_mult > 0 and self.metadata.get("normal_filenames") is None:
            problem = f"normal-loss-mult is {config.normal_loss_mult:g}, and the data set has no normals"
            raise InputError(problem, "Name normal maps as normal_file_path in transforms.json, or leave it 0")
        # How many scene units a meter (the unit of the poses) has.
        self.scale = float(self.metadata.get("scene_units_per_meter", 1.0))
        self.epsilon = config.depth_epsilon * (self.scale if config.depth_epsilon_unit == "meters" else 1.0)
        supervised = config.depth_loss != "none" and config.depth_loss_mult > 0
        self.guard = DepthGuard() if config.depth_guard and supervised else None

    @property
    def trains_geometry(self) -> bool:
        return self.depth_weight() > 0 or self.config.normal_loss_mult > 0

    def depth_weight(self) -> float:
        """Weight of the depth loss: 0 where the images speak against the depth."""
        guard = 1.0 if self.guard is None else self.guard.multiplier
        return 0.0 if self.config.depth_loss == "none" else self.config.depth_loss_mult * guard

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        cloud: DepthCloud | None = self.metadata.get("depth_cloud")
        if self.guard is not None and not self.guard.decided and cloud is not None:
            message = self.guard.decide(cloud.outputs)
            if message is not None:
                CONSOLE.print(f"[yellow]{message}")
                assert isinstance(self.first, FirstAtDepth)
                self.first.without_depth()
        return super().get_training_callbacks(training_callback_attributes)

    def get_outputs(self, camera: Cameras) -> dict[str, Tensor]:  # type: ignore[override]
        outputs = super().get_outputs(camera)
        name = "mean_depth" if self.training else "depth"
        if name in outputs:
            height, width = outputs[name].shape[:2]
            along = ray_per_depth(tuple(intrinsics_of(camera)[0].tolist()), height, width)
            outputs[name] = outputs[name] * along.to(outputs[name])
        return outputs

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if not self.training or "depth_image" not in batch:
            return losses
        if self.depth_weight() > 0:
            measured = self._measured(batch)
            epsilon: float | Tensor = self.epsilon
            if "depth_sigma" in batch and self.config.depth_use_sigma:
                epsilon = widened_epsilon(epsilon, batch["depth_sigma"].to(self.device))
            error = depth_loss(outputs["mean_depth"], measured, epsilon, self.config.depth_loss)
            losses["depth_loss"] = self.depth_weight() * error
        if self.config.normal_loss_mult > 0:
            target, valid = batch["normal_image"].to(self.device), valid_pixels_of(batch)
            target = target if valid is None else target * valid.to(target)
            losses["normal_loss"] = self.config.normal_loss_mult * normal_loss(outputs["normals"], target)
        return losses

    def _measured(self, batch: dict[str, Any]) -> Float[Tensor, "h w 1"]:
        """Depth of the pixels that count; 0 is none."""
        measured, valid = batch["depth_image"].to(self.device), valid_pixels_of(batch)
        return measured if valid is None else torch.where(valid.to(self.device), measured, torch.zeros_like(measured))

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        if "depth_image" in batch:
            metrics |= depth_errors(outputs["depth"] / self.scale, self._measured(batch) / self.scale)
            measured = batch["depth_image"].to(self.device)
            known = has_depth(measured)
            if bool(known.any()):
                images["depth_measured"] = self.depth_picture(measured, known.float())
        return metrics, images
