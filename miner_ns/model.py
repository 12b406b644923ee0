"""MINER as a nerfstudio model: an image as a plane to fly over, a volume as a surface."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.model_components.renderers import RGBRenderer
from nerfstudio.model_components.scene_colliders import NearFarCollider
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.viewer.viewer_elements import ViewerCheckbox, ViewerDropdown, ViewerSlider
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter

from common_ns.errors import InputError
from common_ns.meshing.iso_field import IsoField
from common_ns.nerfstudio_seam import distributed
from common_ns.nerfstudio_seam.preview import RealTimePreview
from common_ns.nerfstudio_seam.renames import SuiteConfig
from common_ns.nerfstudio_seam.viewer import ViewerAdapter
from common_ns.viewer_preview.source import Source
from common_ns.viewer_preview.surfaces import SurfaceSource
from common_ns.viewer_preview.tiles import TileSource
from miner_ns.fitting import Fitting, Progress
from miner_ns.kernels import resolve
from miner_ns.options import FitOptions
from miner_ns.rendering import VolumeMarcher, hit_plane
from miner_ns.surface import OccupancyGeometry, occupancy_field, to_grid
from miner_ns.whole_view import WholeView

LEVEL_COLORS = ((0.9, 0.2, 0.2), (0.95, 0.6, 0.1), (0.3, 0.7, 0.2), (0.1, 0.6, 0.8), (0.5, 0.3, 0.9), (0.8, 0.2, 0.6))
"""Frames of blocks, by level from fine to coarse; repeated if there are more levels."""
FRAME_WIDTH = 1.0
"""Width of these frames in pixels, on each side of a border."""
VOLUME_DIAMETER = 3.5
"""More than the diameter of a volume, whose longest side is 2 in world units."""
WATCHED_SECONDS = 0.5
"""How long a portion of training may take about while a viewer is watched."""
SURFACE_COLOR = 0.8
"""Gray of a volume's surface where it faces the camera."""


@dataclass
class MinerModelConfig(SuiteConfig, ModelConfig):
    """MINER (arXiv 2202.03532): blocks of tiny networks at several resolutions."""

    _target: type = field(default_factory=lambda: MinerModel)
    """target class to instantiate"""
    enable_collider: tyro.conf.Suppress[bool] = True
    """Unused by this model."""
    collider_params: tyro.conf.Suppress[dict[str, float] | None] = None
    """Unused by this model."""
    loss_coefficients: tyro.conf.Suppress[dict[str, float]] = field(default_factory=dict)
    """Unused by this model."""
    prompt: tyro.conf.Suppress[str | None] = None
    """Unused by this model."""
    fit: FitOptions = field(default_factory=FitOptions)
    """How the signal is fitted."""
    eval_num_rays_per_chunk: int = 65536
    """Rays per chunk when rendering."""
    sdf_field: tyro.conf.Suppress[None] = None
    """Nothing to choose: `ns-export marching-cubes` takes models whose config has this name, see `MinerModel.field`."""


class MinerModel(Model):
    """Trains by `train_portion`, not by gradients of nerfstudio's: networks have optimizers of their own.

    Args:
        config: the model's config.
    """

    config: MinerModelConfig

    def populate_modules(self) -> None:
        """Prepare the fit; the signal's samples are not read yet."""
        metadata = self.kwargs.get("metadata") or {}
        if "signal" not in metadata:
            remedy = "Use the dataparser miner-image-data or miner-occupancy-data"
            raise InputError("the data set holds no signal that MINER could be fitted to", remedy)
        self.signal = metadata["signal"]
        self.grid_to_world: Tensor = metadata["grid_to_world"]
        self.is_image = len(self.signal.spatial_shape) == 2
        self.renderer_rgb = RGBRenderer(background_color="white")
        self.collider = NearFarCollider(0.0, 1e6, reset_near_plane=False)
        self.fitting: Fitting | None = None
        self._restored: dict[str, Any] | None = None
        self._marcher: tuple[int, VolumeMarcher] | None = None
        self._iso_field: tuple[int, IsoField] | None = None
        self._portions = 0
        self._epoch_seconds = 0.0
        levels = ["auto", *(str(level) for level in range(self.config.fit.num_levels))]
        finest = "as fine as a pixel" if self.is_image else "the finest"
        # The viewer shows its elements in the alphabetical order of these attributes.
        self.detail_level = ViewerDropdown(
            "Level of detail", "auto", levels, hint=f"auto: {finest}. 0: all samples; each further level halves them."
        )
        self.level_bias = ViewerSlider(
            "Level bias", 0.0, -2.0, 4.0, 0.25, hint="Added to the level: above 0 is coarser, below 0 finer."
        )
        self.show_blocks = ViewerCheckbox(
            "Show blocks", False, hint="Frames of the blocks whose networks are seen, in a color for each level."
        )
        width, height, depth = (0.5 * (self.scene_box.aabb[1] - self.scene_box.aabb[0])).tolist()
        self.whole_view = WholeView((width, height, 0.0 if self.is_image else depth))
        self.realtime_preview = RealTimePreview(self._preview_source(width, height))
        self.viewer_adapter = ViewerAdapter(preview=self.realtime_preview)

    def _preview_source(self, half_width: float, half_height: float) -> Source:
        """What the viewer's real-time preview is made of.

        Args:
            half_width, half_height: of the signal's box, in scene units.
        """

        def suits() -> bool:
            return self.detail_level.value == "auto" and self.level_bias.value == 0.0 and not self.show_blocks.value

        if self.is_image:
            rows, columns = self.signal.spatial_shape
            return TileSource(self, (2.0 * half_width, 2.0 * half_height), (columns, rows), suits)

        def shade(normals: Float[NDArray, "n 3"], directions: Float[NDArray, "n 3"]) -> Float[NDArray, "n 3"]:
            facing = np.abs((normals * directions).sum(axis=1, keepdims=True))
            return np.repeat(SURFACE_COLOR * (0.25 + 0.75 * facing), 3, axis=1)

        return SurfaceSource(self, self._surface, shade, suits, with_picture=False)

    @property
    def fit(self) -> Fitting:
        """The fit, on the model's device."""
        if self.fitting is None:
            self.fitting = Fitting(self.signal, self.config.fit, self.device)
            if self._restored is not None:
                self.fitting.restore(self._restored)
        return self.fitting

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        return {}

    def get_extra_state(self) -> dict[str, Any]:
        """The networks, for checkpoints: their number changes while training, so that they are no parameters."""
        return self.fit.state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._restored, self.fitting = state, None
        self._portions += 1

    def train_portion(self) -> Progress | None:
        """Train until the next look at the threshold, or for less while a browser, which waits for it, is connected:
        the fit is the same. None if it is finished."""
        self._portions += 1
        epochs = self.config.fit.check_every
        # On several devices all do the same number of steps.
        if self.viewer_adapter.watched and self._epoch_seconds > 0.0 and distributed.world_size() == 1:
            epochs = max(1, min(epochs, int(WATCHED_SECONDS / self._epoch_seconds)))
        start = time.perf_counter()
        progress = self.fit.advance(epochs)
        self._epoch_seconds = (time.perf_counter() - start) / epochs
        return progress

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        trainer = training_callback_attributes.trainer

        def stop_when_finished(step: int) -> None:
            if trainer is not None and self.fit.finished:
                trainer.stop_training = True

        def show_result(step: int) -> None:
            """The viewer redraws every so many steps, and knows of no last one."""
            viewer = getattr(trainer, "viewer_state", None)
            if viewer is not None and hasattr(viewer, "update_step"):
                viewer.update_step(step)
            self.show_blocks.cb_hook(self.show_blocks)  # what a viewer does when a control of the model is used

        return [
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], stop_when_finished),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], show_result),
        ]

    def describe_implementation(self) -> str:
        """Which implementation trains, and why, for the log."""
        chosen = resolve(self.config.fit.implementation, self.device, self.fit.network_of(0))
        return f"{chosen.name} ({chosen.reason})"

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Render rays [n].

        Returns: rgb, accumulation, depth (ray distance), normals in [0, 1], and level (the level of detail shown, over
            the number of levels).
        """
        shape, rays = ray_bundle.shape, ray_bundle.flatten()
        with torch.no_grad():
            outputs = self._image(rays) if self.is_image else self._volume(rays)
        return {name: value.reshape(*shape, -1) for name, value in outputs.items()}

    def _chosen_level(self, automatic: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        chosen = self.detail_level.value
        level = automatic if chosen == "auto" else torch.full_like(automatic, float(chosen))
        return (level + self.level_bias.value).clamp_min(0.0)

    def _image(self, rays: RayBundle) -> dict[str, Tensor]:
        hierarchy = self.fit.show()
        height, width = self.signal.spatial_shape
        to_world = self.grid_to_world.to(rays.origins)
        hits = hit_plane(rays.origins, rays.directions, rays.pixel_area, to_world, (height, width))
        level = self._chosen_level(hits.level)
        count = len(rays)
        rgb, alpha = rays.origins.new_ones(count, 3), hits.coverage[:, None].clone()
        where = torch.nonzero(hits.inside)[:, 0]
        if len(where) > 0 and hierarchy.levels:
            color, opacity = _as_rgba(hits.query(hierarchy, where, level[where]).clamp(0.0, 1.0))
            color = color * opacity + (1.0 - opacity)
            if self.show_blocks.value:
                color = self._framed(color, hits.points[where], level[where], hits.extent[where])
            rgb[where] = color * alpha[where] + (1.0 - alpha[where])
            alpha[where] = opacity * alpha[where]
        normal = torch.nn.functional.normalize(torch.linalg.cross(to_world[:, 1], to_world[:, 0]), dim=0)
        normals = torch.where(hits.inside[:, None], normal * 0.5 + 0.5, 0.5)
        shown = ((level + 1.0) / self.config.fit.num_levels).clamp_max(1.0) * hits.inside
        return {
            "rgb": rgb,
            "accumulation": alpha,
            "depth": hits.distance[:, None],
            "normals": normals,
            "level": shown[:, None],
        }

    def _framed(
        self,
        rgb: Float[Tensor, "n 3"],
        points: Float[Tensor, "n d"],
        level: Float[Tensor, " n"],
        pixel: Float[Tensor, "n d"] | Float[Tensor, "n 1"],
    ) -> Float[Tensor, "n 3"]:
        """Colors with the frames of the blocks drawn over them; `pixel` is a pixel's size in samples, by axis."""
        shown = level.floor().long().clamp(self.fit.hierarchy.finest, self.config.fit.num_levels - 1)
        owner, local = self.fit.hierarchy.owner_at(points, shown)
        extent = self.config.fit.block_size * 2.0 ** owner.clamp_min(0)
        width = 2.0 * FRAME_WIDTH * pixel / extent[:, None]
        on_frame = (local.abs() > 1.0 - width).any(-1) & (owner >= 0)
        colors = rgb.new_tensor(LEVEL_COLORS)
        return torch.where(on_frame[:, None], colors[owner.clamp_min(0) % len(colors)], rgb)

    def _volume(self, rays: RayBundle) -> dict[str, Tensor]:
        hierarchy = self.fit.show()
        count = len(rays)
        if not hierarchy.levels:
            empty = rays.origins.new_zeros(count, 1)
            gray = rays.origins.new_full((count, 3), 0.5)
            return {"rgb": gray + 0.5, "accumulation": empty, "depth": empty, "normals": gray, "level": empty}
        if self._marcher is None or self._marcher[0] != self._portions:
            self._marcher = (self._portions, VolumeMarcher(hierarchy, self.grid_to_world.to(rays.origins)))
        chosen = self.detail_level.value
        level = float(hierarchy.finest if chosen == "auto" else chosen)
        level = max(0.0, level + self.level_bias.value)
        hits = self._marcher[1](rays.origins, rays.directions, level)
        facing = (hits.normals * torch.nn.functional.normalize(rays.directions, dim=-1)).sum(-1, keepdim=True).abs()
        rgb = torch.where(hits.inside[:, None], SURFACE_COLOR * (0.25 + 0.75 * facing), 1.0).expand(-1, 3).clone()
        if self.show_blocks.value and hits.inside.any():
            where = torch.nonzero(hits.inside)[:, 0]
            world = rays.origins[where] + hits.distance[where, None] * rays.directions[where]
            points = self._to_grid(world)
            step = float(self.grid_to_world[:, 0].norm())
            pixel = rays.pixel_area[where, 0].clamp_min(0.0).sqrt() * hits.distance[where] / step
            rgb[where] = self._framed(rgb[where], points, torch.full_like(pixel, level), pixel[:, None])
        return {
            "rgb": rgb,
            "accumulation": hits.inside.float()[:, None],
            # Rays that miss end behind the volume: ns-export tsdf carves what lies before the depth, and nothing else.
            "depth": torch.where(hits.inside, hits.distance, rays.origins.norm(dim=-1) + VOLUME_DIAMETER)[:, None],
            "normals": hits.normals * 0.5 + 0.5,
            "level": torch.where(hits.inside[:, None], (level + 1.0) / self.config.fit.num_levels, 0.0),
        }

    def _to_grid(self, world: Float[Tensor, "n 3"]) -> Float[Tensor, "n d"]:
        """From world coordinates to the signal's samples."""
        return to_grid(world, self.grid_to_world)

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor], metrics_dict: dict | None = None
    ) -> dict[str, Tensor]:
        return {}

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        return {}, {"img": outputs["rgb"], "normals": outputs["normals"]}

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """RGBA with the white background taken out again."""
        alpha = outputs["accumulation"]
        rgb = outputs[output_name] - (1.0 - alpha)
        return torch.cat([(rgb / alpha.clamp_min(1e-4)).clamp(0.0, 1.0), alpha], dim=-1)

    def iso_field(self, level: float | None = None, voxel_size: float | None = None) -> IsoField:
        """The occupancy as ns-mesh reads it.

        Args:
            level: value at the surface; None: 0.5.
            voxel_size: side of the surface's voxels in scene units, which decides the level of detail.
        Raises: InputError for an image.
        """
        if self.is_image:
            raise InputError("an image has no surface", "Use a model of miner-occupancy")
        return occupancy_field(self.fit.show(), self.grid_to_world, level, voxel_size)

    @property
    def field(self) -> OccupancyGeometry:
        """The occupancy as the SDF field that `ns-export marching-cubes` looks for.

        It is made when it is asked for values, and not before: the viewer reads all attributes of a model, of an image
        too and of one that has not been trained.
        """
        return OccupancyGeometry(self._surface, float(self.grid_to_world[:, 0].norm()))

    def _surface(self) -> IsoField:
        """The surface of what has been trained, kept until more is.

        Raises: InputError for an image.
        """
        if self._iso_field is None or self._iso_field[0] != self._portions:
            self._iso_field = (self._portions, self.iso_field())
        return self._iso_field[1]


def _as_rgba(values: Float[Tensor, "n c"]) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 1"]]:
    """Color and opacity of gray, gray with alpha, RGB or RGBA values."""
    channels = values.shape[-1]
    opacity = values[:, -1:] if channels in (2, 4) else torch.ones_like(values[:, :1])
    color = values[:, :1].expand(-1, 3) if channels <= 2 else values[:, :3]
    return color, opacity
