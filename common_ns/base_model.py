"""What all models that render density and color along rays have in common: where rays start and end, what lies behind
them, chunks that bound the memory, and what nerfstudio's exporters and evaluation ask of a model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import torch
import tyro
from jaxtyping import Bool, Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.model_components.renderers import AccumulationRenderer, DepthRenderer, RGBRenderer
from nerfstudio.model_components.scene_colliders import NearFarCollider
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer_elements import ViewerDropdown
from torch import Tensor

from common_ns.cameras.first_view import FirstView, ViewOfPhotograph, ViewOfSphere
from common_ns.data.scene_bounds import RayBounds
from common_ns.data.scene_metadata import SceneMetadata
from common_ns.depth_colors import DepthColors, depth_levels, depth_picture
from common_ns.errors import InputError
from common_ns.metrics import image_metrics, psnr_of_mse, valid_pixels_of
from common_ns.nerfstudio_seam.exported_pixels import ExportedPixels
from common_ns.nerfstudio_seam.model_hooks import ModelHooks
from common_ns.nerfstudio_seam.preview import RealTimePreview
from common_ns.nerfstudio_seam.renames import SuiteConfig
from common_ns.nerfstudio_seam.shown_outputs import is_shown, only
from common_ns.nerfstudio_seam.viewer import CPU_RESOLUTION, ViewerAdapter
from common_ns.viewer_preview.rays import RaySource
from common_ns.viewer_preview.source import Source

NORMAL_MIN_WEIGHT = 1e-3
"""Samples below this rendering weight do not count for rendered normals: they would change them by less than a gray
level, and leaving them out saves most of the cost."""

BackgroundName = Literal["auto", "white", "black", "random", "last_sample"]


@dataclass
class RadianceModelConfig(SuiteConfig, ModelConfig):
    """Options of all radiance-field models."""

    _target: type = field(default_factory=lambda: RadianceModel)
    """target class to instantiate"""
    enable_collider: tyro.conf.Suppress[bool] = True
    """Rays always get near and far planes from this model."""
    collider_params: tyro.conf.Suppress[dict[str, float] | None] = None
    """Replaced by near_plane and far_plane."""
    loss_coefficients: tyro.conf.Suppress[dict[str, float]] = field(default_factory=dict)
    """Unused: losses have weights with names of their own."""
    prompt: tyro.conf.Suppress[str | None] = None
    """Unused by this model."""
    near_plane: float | None = None
    """Ray distance in scene units where sampling starts; None: from the data (printed at the start)."""
    far_plane: float | None = None
    """Ray distance in scene units where sampling ends; None: from the data (printed at the start)."""
    background_color: BackgroundName = "auto"
    """Color behind the far plane. auto: white for objects and for images with alpha, the last sample's for captures.
    random trains on a new random color for every ray and so asks for opacity; it is black outside of training."""
    loss_by_footprint: bool = True
    """Weight each ray's loss by the area of its pixel, so that images of all scales count alike (multi-scale data)."""
    compute_normals: bool = True
    """Render normals (density gradient) outside of training; off saves a part of the rendering time."""
    depth_colors: DepthColors = "log"
    """Depth in pictures and in the viewer: even in the logarithm of distance, or in distance between the percentiles 2
    and 98 of what is opaque (percentile), both up to ten times the distance of the nearest quarter; or in distance
    from near to far (linear)."""
    color_corrected_metrics: bool = False
    """In evaluation, also report psnr_cc, ssim_cc and lpips_cc: of the rendering after the quadratic change of its
    colors that brings it closest to the photograph, for captures with changing exposure or white balance."""
    lpips_weights: Path | None = None
    """AlexNet weights file (alexnet-owt-7be5be79.pth) for LPIPS; None: torch's hub cache, or LPIPS is left out."""
    eval_num_rays_per_chunk: int = 2048
    """Rays per chunk when rendering images."""
    max_points_per_chunk: int | None = None
    """Most samples (rays times samples of all rounds) that go through the networks at once, in training (gradients add
    up over chunks of the batch) and rendering. Bounds the memory, whatever the batch; None: no bound."""


class RadianceModel(Model, ModelHooks):
    """Base of the suite's radiance fields: subclasses set `field` and implement `get_outputs` and `points_per_ray`.

    Args:
        config: the model's config.
    """

    config: RadianceModelConfig
    max_eval_rays: int | None = None
    """Most rays that there is memory for in rendering; None: no bound was met yet."""

    def choose_bounds(self, contracted_captures: tuple[float, float] | None = None) -> RayBounds:
        """The data's bounds with the user's near and far in their place; sets `ray_bounds` and the collider.

        Args:
            contracted_captures: near and far for surroundings seen from inside, for models to which far away is not
                expensive; SfM points can bring near closer. None: as the data says.
        Raises: InputError if near and far are not known or do not enclose an interval.
        """
        near, far = self.config.near_plane, self.config.far_plane
        found = self.known_bounds()
        if found is None:
            if near is None or far is None:
                raise InputError(
                    "near and far are not known for this datamanager",
                    "Give --pipeline.model.near-plane and --pipeline.model.far-plane in scene units",
                )
            found = RayBounds(near, far, bounded=True, extent=far, reason="given")
        if contracted_captures is not None and not found.bounded:
            nearest = min(contracted_captures[0], found.near) if found.from_points else contracted_captures[0]
            reason = f"{found.reason}, contracted"
            found = replace(found, near=nearest, far=contracted_captures[1], reason=reason)
        if near is not None or far is not None:
            new_near, new_far = near if near is not None else found.near, far if far is not None else found.far
            extent = max(found.extent + new_far - found.far, 1e-3)
            found = RayBounds(new_near, new_far, found.bounded, extent, "given")
        if not 0 <= found.near < found.far:
            raise InputError(
                f"near {found.near:g} and far {found.far:g} do not enclose an interval",
                "Choose 0 ≤ near-plane < far-plane, in scene units",
            )
        self.ray_bounds = found
        # nerfstudio's collider would reset the near plane in evaluation.
        self.collider = NearFarCollider(found.near, found.far, reset_near_plane=False)
        return found

    def known_bounds(self) -> RayBounds | None:
        """What the data says of where rays start and end; None: nothing."""
        return self.metadata.get("ray_bounds")

    def choose_background(self, captures: BackgroundName) -> str:
        """The background's name; sets the renderers.

        Args:
            captures: what "auto" means for surroundings seen from inside.
        Raises: InputError if the images' alpha has nothing to be blended with.
        """
        has_alpha = bool(self.metadata.get("images_have_alpha", False))
        background = self.config.background_color
        if background == "auto":
            background = "white" if self.ray_bounds.bounded or has_alpha else captures
        elif background == "last_sample" and has_alpha and self.ray_bounds.bounded is False:
            raise InputError(
                "the images have an alpha channel, which background-color last_sample has no color to blend with",
                "Choose --pipeline.model.background-color white, black or random, or remove the alpha channel",
            )
        self.renderer_rgb = RGBRenderer(background_color=background)  # type: ignore[arg-type]
        self.renderer_accumulation = AccumulationRenderer()
        self.renderer_depth = DepthRenderer(method="median")
        self.renderer_expected_depth = DepthRenderer(method="expected")
        self._exported = ExportedPixels()
        return background

    def set_up_viewer(self, first_view: FirstView | None = None) -> None:
        """What the viewer finds in every model of this kind, besides the controls of its own.

        Args:
            first_view: where it begins; None: what suits the bounds, which are to be chosen before.
        """
        # Not modules: the viewer looks among the model's attributes.
        self.first_view = first_view if first_view is not None else self._choose_first_view()
        self.realtime_preview = RealTimePreview(self.preview_source())
        self.viewer_adapter = ViewerAdapter(CPU_RESOLUTION, self.realtime_preview)
        ways: list[DepthColors] = list(get_args(DepthColors))
        self.shown_depth_colors = ViewerDropdown("Depth colors", self.config.depth_colors, ways)

    def preview_source(self) -> Source:
        """What the viewer's real-time preview is made of."""
        return RaySource(self, lambda: only({"rgb"}))

    def _choose_first_view(self) -> FirstView:
        """An object as photographs see it, or what a photograph shows of surroundings."""
        poses = self.metadata.get("camera_to_worlds")
        poses = None if poses is None else poses[:, :3].double().cpu().numpy()
        if poses is not None and len(poses) and not self.ray_bounds.bounded:
            return ViewOfPhotograph(poses)
        points = self.metadata.get("points3D_xyz")
        box = self.scene_box.aabb.double().cpu()
        # The ball in the box: objects seldom reach into its corners.
        center, radius = box.mean(dim=0), 0.5 * float((box[1] - box[0]).max())
        if points is not None and len(points) >= 10:
            # A scene box about the cameras as well says little of where the object is.
            points = torch.as_tensor(points).double().cpu()
            center = points.quantile(torch.tensor([0.01, 0.99], dtype=torch.float64), dim=0).mean(dim=0)
            radius = float((points - center).norm(dim=-1).quantile(0.99))
        return ViewOfSphere(tuple(center.tolist()), radius, poses)

    @property
    def metadata(self) -> SceneMetadata:
        """What is known of the training data set's scene."""
        return self.kwargs.get("metadata") or {}

    @property
    @abstractmethod
    def points_per_ray(self) -> int:
        """Samples of all rounds that a ray sends through the networks."""

    @property
    def train_rays_per_chunk(self) -> int | None:
        """Most rays whose activations are kept at once in training; None: the whole batch."""
        bound = self.config.max_points_per_chunk
        return None if bound is None else max(1, bound // self.points_per_ray)

    @property
    def eval_rays_per_chunk(self) -> int:
        """Most rays that are rendered at once."""
        return min(
            self.config.eval_num_rays_per_chunk, self.train_rays_per_chunk or self.config.eval_num_rays_per_chunk
        )

    def forward(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Render rays, in evaluation by chunks: the exporters send 32,768 at once, whatever the memory. Where the GPU's
        does not suffice, chunks are halved until it does."""
        if self.training:
            return super().forward(ray_bundle)  # type: ignore[return-value]
        while True:
            chunk = min(self.eval_rays_per_chunk, self.max_eval_rays or self.eval_rays_per_chunk)
            try:
                return self._forward_in_chunks(ray_bundle, chunk)
            except torch.cuda.OutOfMemoryError:
                if chunk <= 1:
                    raise
            # Outside of the handler, which holds what has to be freed.
            self.max_eval_rays = (chunk + 1) // 2
            torch.cuda.empty_cache()
            CONSOLE.print(f"[yellow]Out of GPU memory: {self.max_eval_rays} rays are rendered at once from now on.")

    def _forward_in_chunks(self, ray_bundle: RayBundle, chunk: int) -> dict[str, Tensor]:
        if len(ray_bundle) <= chunk:
            return super().forward(ray_bundle)  # type: ignore[return-value]
        shape, flat = ray_bundle.shape, ray_bundle.flatten()
        parts = [super(RadianceModel, self).forward(flat[i : i + chunk]) for i in range(0, len(flat), chunk)]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}  # type: ignore[arg-type]
        return {name: value.reshape(*shape, -1) for name, value in joined.items()}

    def mean_distance(self, weights: Float[Tensor, "n s 1"], samples: RaySamples) -> Float[Tensor, "n 1"]:
        """Mean ray distance of samples under their rendering weights; rays may be none, over which nerfstudio's
        renderer, which looks for the nearest and the farthest sample of all, would fail."""
        return self.renderer_expected_depth(weights, samples) if len(weights) else weights.new_zeros(0, 1)

    def render_normals(
        self, weights: Float[Tensor, "n s 1"], normals_where: Callable[[Bool[Tensor, "n s"]], Float[Tensor, "k 3"]]
    ) -> Float[Tensor, "n 3"]:
        """Normals of the samples that count, averaged by weight, mapped from [−1, 1] to [0, 1]; empty rays get 0.5, and
        so do all where the viewer shows another output.

        Args:
            weights: rendering weights.
            normals_where: gives the normals of the samples that a mask selects.
        """
        if not is_shown("normals"):
            return weights.new_full((len(weights), 3), 0.5)
        counts = weights[..., 0] > NORMAL_MIN_WEIGHT
        normals = weights.new_zeros((*counts.shape, 3))
        if counts.any():
            normals[counts] = normals_where(counts)
        mean_normal = torch.nn.functional.normalize((weights * normals).sum(-2), dim=-1, eps=1e-6)
        # Nearly empty rays have a direction, but no surface: fade them to gray.
        mean_normal = mean_normal * (2.0 * weights.sum(-2)).clamp_max(1.0)
        return (mean_normal * 0.5 + 0.5).clamp(0.0, 1.0)

    def blended(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], level: str = "") -> tuple[Tensor, Tensor]:
        """Prediction and target over the same background.

        A random background is the one that comes with the rays (output "background"), if one does.
        """
        target = batch["image"].to(self.device)
        background = outputs.get("background")
        if background is None:
            return self.renderer_rgb.blend_background_for_loss_computation(
                pred_image=outputs[f"rgb{level}"], pred_accumulation=outputs[f"accumulation{level}"], gt_image=target
            )
        prediction = outputs[f"rgb{level}"] + background * (1.0 - outputs[f"accumulation{level}"])
        return prediction, self.renderer_rgb.blend_background(target, background)

    def mean_over_rays(self, loss: Float[Tensor, "n c"], batch: dict[str, Tensor]) -> Float[Tensor, ""]:
        """Mean of a loss over channels and rays, rays weighted by their pixels' area if the config says so."""
        per_ray = loss.mean(-1, keepdim=True)
        if self.config.loss_by_footprint and "footprint" in batch:
            per_ray = per_ray * batch["footprint"].to(per_ray)
        return per_ray.mean()

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        prediction, target = self.blended(outputs, batch)
        mse = torch.mean((prediction.detach() - target) ** 2)
        return {"psnr": psnr_of_mse(mse)}

    def image_target_and_metrics(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, float]]:
        """The image to compare with, over the background, and the metrics against it, inside of a mask of valid pixels
        where the batch has one."""
        target = self.renderer_rgb.blend_background(batch["image"].to(outputs["rgb"].device))
        return target, self.metrics_of(outputs["rgb"], target, valid_pixels_of(batch))

    def metrics_of(
        self, prediction: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"], valid: Bool[Tensor, "h w 1"] | None
    ) -> dict[str, float]:
        """The metrics that the config asks for; arguments as those of `image_metrics`."""
        config = self.config
        return image_metrics(prediction, target, config.lpips_weights, valid, config.color_corrected_metrics)

    def depth_picture(self, depth: Float[Tensor, "h w 1"], accumulation: Float[Tensor, "h w 1"]) -> Tensor:
        """Depth in colors, by the config's `depth_colors`; `linear` is between the near and far planes, or for
        captures, between the image's own extremes."""
        planes = (self.ray_bounds.near, self.ray_bounds.far) if self.ray_bounds.bounded else None
        return depth_picture(depth, accumulation, self.config.depth_colors, planes)

    def shown_in_viewer(self, name: str, outputs: dict[str, Tensor]) -> Tensor:
        """What the viewer is to show for an output: itself, or of depth the position in the chosen colors. The viewer
        puts whatever has one channel between its extremes and into colors."""
        value = outputs[name]
        is_depth = name.split("_")[0] == "depth" or name == "expected_depth"
        if not is_depth or name == "depth_error" or value.shape[-1] != 1:
            return value
        opacity = outputs.get(name.replace("depth", "accumulation"), outputs.get("accumulation"))
        if name == "depth_measured":
            opacity = (value > 0).to(value)
        return depth_levels(value, opacity, self.shown_depth_colors.value)

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """Straight-alpha RGBA with the background taken out again, so that exporters see which rays hit something.

        Raises: InputError when a point-cloud export asks for rays again and again and none is opaque.
        """
        rgb = outputs[output_name]
        alpha = outputs[output_name.replace("rgb", "accumulation")]
        name, color = self.renderer_rgb.background_color, None
        if name in ("white", "black"):
            color = self.renderer_rgb.get_background_color(name, shape=rgb.shape, device=rgb.device)
        rgba = self._exported.rgba(rgb, alpha, color)
        return torch.cat([rgb, alpha], dim=-1) if name == "last_sample" else rgba
