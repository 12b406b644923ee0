"""mip-NeRF as a nerfstudio model: coarse and fine cone samples through one network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import tyro
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.configs.config_utils import to_immutable_dict
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.model_components.ray_samplers import (
    LinearDisparitySampler,
    PDFSampler,
    UniformLinDispPiecewiseSampler,
    UniformSampler,
)
from nerfstudio.model_components.renderers import AccumulationRenderer, DepthRenderer, RGBRenderer
from nerfstudio.model_components.scene_colliders import NearFarCollider
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils import colormaps, misc
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter

from common_ns.checks import InputError
from common_ns.metrics import image_metrics, psnr
from common_ns.scene_bounds import RayBounds
from mipnerf_ns.field import MipNerfField, Precision, position_scale_for
from mipnerf_ns.stepfun import blur_weights

if TYPE_CHECKING:
    from common_ns.meshing import IsoField

NORMAL_MIN_WEIGHT = 1e-3
"""Samples below this rendering weight do not count for rendered normals: they would change them by less than a grey
level, and leaving them out saves most of the cost."""

SAMPLERS = {
    "uniform": UniformSampler,
    "disparity": LinearDisparitySampler,
    "piecewise": UniformLinDispPiecewiseSampler,
}

EMPTY_BATCHES_BEFORE_GIVING_UP = 50
"""Batches of rays without a single opaque one after which a point-cloud export is told that there is no surface."""


@dataclass
class MipNerfModelConfig(ModelConfig):
    """mip-NeRF (arXiv 2103.13415) with the paper's settings."""

    _target: type = field(default_factory=lambda: MipNerfModel)
    """target class to instantiate"""
    enable_collider: tyro.conf.Suppress[bool] = True
    """Rays always get near and far planes from this model."""
    collider_params: tyro.conf.Suppress[dict[str, float] | None] = None
    """Replaced by near_plane and far_plane."""
    prompt: tyro.conf.Suppress[str | None] = None
    """Unused by this model."""
    loss_coefficients: dict[str, float] = to_immutable_dict({"rgb_loss_coarse": 0.1, "rgb_loss_fine": 1.0})
    """Weights of the coarse and the fine level's colour loss."""
    num_coarse_samples: int = 128
    """Intervals per ray of the coarse level."""
    num_importance_samples: int = 128
    """Intervals per ray of the fine level, drawn from the coarse level's dilated weights."""
    near_plane: float | None = None
    """Ray distance in scene units where sampling starts; None: from the data (printed at the start)."""
    far_plane: float | None = None
    """Ray distance in scene units where sampling ends; None: from the data (printed at the start)."""
    sampling: Literal["auto", "uniform", "disparity", "piecewise"] = "auto"
    """Spacing of the coarse intervals: uniform in distance, uniform in disparity, or piecewise (uniform up to distance
    1, disparity beyond). auto: uniform for objects seen from outside, piecewise for captures."""
    background_color: Literal["auto", "white", "black", "random", "last_sample"] = "auto"
    """Colour behind the far plane. auto: white for objects and for images with alpha, the last sample's for captures.
    random needs images with alpha and trains on a new random colour for every ray."""
    resample_padding: float = 0.01
    """Added to the dilated weights before fine intervals are drawn, so that empty regions are still looked at."""
    loss_by_footprint: bool = True
    """Weight each ray's loss by the area of its pixel, so that images of all scales count alike (multi-scale data)."""
    num_frequencies: int = 16
    """Octaves of the integrated positional encoding."""
    num_direction_frequencies: int = 4
    """Octaves of the view direction's encoding."""
    num_layers: int = 8
    """Layers of the network up to the density."""
    hidden_dim: int = 256
    """Width of these layers."""
    skip_layer: int = 4
    """The encoding is joined again after every so many layers."""
    num_color_layers: int = 1
    """Hidden layers of the colour head."""
    color_hidden_dim: int = 128
    """Width of the colour head."""
    density_bias: float = -1.0
    """Added to the raw density before the softplus."""
    density_noise: float = 0.0
    """Standard deviation of noise on the raw density while training (1.0 helps some real captures)."""
    rgb_padding: float = 0.001
    """How far colours may reach beyond [0, 1]."""
    ray_shape: Literal["cone", "cylinder"] = "cone"
    """Shape cast by a pixel: cone, or cylinder for orthographic cameras."""
    precision: Precision = "auto"
    """Number format of the hidden layers. auto: bfloat16 where the hardware is faster with it, else float32."""
    compute_normals: bool = True
    """Render normals (density gradient) outside of training; off saves a part of the rendering time."""
    lpips_weights: Path | None = None
    """AlexNet weights file (alexnet-owt-7be5be79.pth) for LPIPS; None: torch's hub cache, or LPIPS is left out."""
    eval_num_rays_per_chunk: int = 2048
    """Rays per chunk when rendering images."""


class MipNerfModel(Model):
    """Coarse and fine level share one network. The loss of the coarse level is down-weighted by 0.1, so that the
    network learns what the fine level renders.

    Args:
        config: the model's config.
    """

    config: MipNerfModelConfig
    field: MipNerfField

    def populate_modules(self) -> None:
        """Choose bounds, sampling and background for the data; build field, samplers and renderers."""
        config = self.config
        metadata = self.kwargs.get("metadata") or {}
        bounds = self._bounds(metadata.get("ray_bounds"))
        self.ray_bounds = bounds
        self.collider = NearFarCollider(bounds.near, bounds.far, reset_near_plane=False)

        sampling = config.sampling
        if sampling == "auto":
            sampling = "uniform" if bounds.bounded else "piecewise"
        has_alpha = bool(metadata.get("images_have_alpha", False))
        background = config.background_color
        if background == "auto":
            background = "white" if bounds.bounded or has_alpha else "last_sample"
        elif background == "last_sample" and has_alpha and bounds.bounded is False:
            raise InputError(
                "the images have an alpha channel, which background-color last_sample has no colour to blend with",
                "Choose --pipeline.model.background-color white, black or random, or remove the alpha channel",
            )
        scale = position_scale_for(bounds.extent)
        CONSOLE.print(
            f"Rays from {bounds.near:.3g} to {bounds.far:.3g} scene units ({bounds.reason}), {sampling} sampling, "
            f"background {background}, positions × {scale:.3g}."
        )

        self.field = MipNerfField(
            num_frequencies=config.num_frequencies,
            num_direction_frequencies=config.num_direction_frequencies,
            num_layers=config.num_layers,
            hidden_dim=config.hidden_dim,
            skip_layer=config.skip_layer,
            num_color_layers=config.num_color_layers,
            color_hidden_dim=config.color_hidden_dim,
            density_bias=config.density_bias,
            rgb_padding=config.rgb_padding,
            density_noise=config.density_noise,
            ray_shape=config.ray_shape,
            position_scale=scale,
            precision=config.precision,
        )
        self.sampler_coarse = SAMPLERS[sampling](num_samples=config.num_coarse_samples)
        self.sampler_fine = PDFSampler(
            num_samples=config.num_importance_samples,
            include_original=False,
            histogram_padding=config.resample_padding,
        )
        self.renderer_rgb = RGBRenderer(background_color=background)
        self.renderer_accumulation = AccumulationRenderer()
        self.renderer_depth = DepthRenderer(method="median")
        self.renderer_expected_depth = DepthRenderer(method="expected")
        self._empty_batches = 0

    def _bounds(self, found: RayBounds | None) -> RayBounds:
        """The data's bounds with the user's near and far in their place."""
        near, far = self.config.near_plane, self.config.far_plane
        if found is None:
            if near is None or far is None:
                raise InputError(
                    "near and far are not known for this datamanager",
                    "Give --pipeline.model.near-plane and --pipeline.model.far-plane in scene units",
                )
            found = RayBounds(near, far, bounded=True, extent=far, reason="given")
        if near is not None or far is not None:
            new_near, new_far = near if near is not None else found.near, far if far is not None else found.far
            extent = max(found.extent + new_far - found.far, 1e-3)
            found = RayBounds(new_near, new_far, found.bounded, extent, "given")
        if not 0 <= found.near < found.far:
            raise InputError(
                f"near {found.near:g} and far {found.far:g} do not enclose an interval",
                "Choose 0 ≤ near-plane < far-plane, in scene units",
            )
        if found.near == 0 and self.config.sampling == "disparity":
            raise InputError("near 0 has no disparity", "Choose --pipeline.model.near-plane above 0")
        return found

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        return {"fields": list(self.field.parameters())}

    def forward(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Render rays, in evaluation by chunks: the exporters send 32,768 at once, whatever the memory."""
        chunk = self.config.eval_num_rays_per_chunk
        if self.training or len(ray_bundle) <= chunk:
            return super().forward(ray_bundle)  # type: ignore[return-value]
        shape, flat = ray_bundle.shape, ray_bundle.flatten()
        parts = [super(MipNerfModel, self).forward(flat[i : i + chunk]) for i in range(0, len(flat), chunk)]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}  # type: ignore[arg-type]
        return {name: value.reshape(*shape, -1) for name, value in joined.items()}

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Render rays [n].

        Returns: rgb, accumulation, depth (median, ray distance), expected_depth and normals (in [0, 1], outside of
        training) of the fine level; rgb_coarse, accumulation_coarse, depth_coarse of the coarse level.
        """
        coarse = self.sampler_coarse(ray_bundle)
        weights_coarse, rgb_coarse = self._render(coarse)
        dilated = blur_weights(weights_coarse.detach()[..., 0])[..., None]
        fine = self.sampler_fine(ray_bundle, coarse, dilated)
        weights, rgb = self._render(fine)
        outputs = {
            "rgb": rgb,
            "accumulation": self.renderer_accumulation(weights),
            "rgb_coarse": rgb_coarse,
            "accumulation_coarse": self.renderer_accumulation(weights_coarse),
        }
        with torch.no_grad():
            outputs["depth"] = self.renderer_depth(weights, fine)
            outputs["depth_coarse"] = self.renderer_depth(weights_coarse, coarse)
            outputs["expected_depth"] = self.renderer_expected_depth(weights, fine)
            if self.config.compute_normals and not self.training:
                outputs["normals"] = self._render_normals(weights, fine)
        return outputs

    def _render(self, samples: RaySamples) -> tuple[Float[Tensor, "n s 1"], Float[Tensor, "n 3"]]:
        outputs = self.field(samples)
        weights = samples.get_weights(outputs[FieldHeadNames.DENSITY])
        return weights, self.renderer_rgb(outputs[FieldHeadNames.RGB], weights)

    def _render_normals(self, weights: Float[Tensor, "n s 1"], samples: RaySamples) -> Float[Tensor, "n 3"]:
        """Normals of the samples that count, averaged by weight, mapped from [−1, 1] to [0, 1]; empty rays get 0.5."""
        counts = weights[..., 0] > NORMAL_MIN_WEIGHT
        normals = weights.new_zeros((*counts.shape, 3))
        if counts.any():
            mean, var = self.field.gaussians(samples)
            normals[counts] = self.field.normals(mean[counts], var[counts])
        mean_normal = torch.nn.functional.normalize((weights * normals).sum(-2), dim=-1, eps=1e-6)
        # Nearly empty rays have a direction, but no surface: fade them to grey.
        mean_normal = mean_normal * (2.0 * weights.sum(-2)).clamp_max(1.0)
        return (mean_normal * 0.5 + 0.5).clamp(0.0, 1.0)

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        prediction, target = self._blended(outputs, batch, "")
        mse = torch.mean((prediction.detach() - target) ** 2)
        return {"psnr": -10.0 * torch.log10(mse)}

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor], metrics_dict: dict | None = None
    ) -> dict[str, Tensor]:
        losses = {}
        for level, name in (("_coarse", "rgb_loss_coarse"), ("", "rgb_loss_fine")):
            prediction, target = self._blended(outputs, batch, level)
            error = (prediction - target).square().mean(-1, keepdim=True)
            if self.config.loss_by_footprint and "footprint" in batch:
                weight = batch["footprint"].to(error)
                losses[name] = (weight * error).sum() / weight.sum()
            else:
                losses[name] = error.mean()
        return misc.scale_dict(losses, self.config.loss_coefficients)

    def _blended(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], level: str) -> tuple[Tensor, Tensor]:
        """Prediction and target over the same background."""
        return self.renderer_rgb.blend_background_for_loss_computation(
            pred_image=outputs[f"rgb{level}"],
            pred_accumulation=outputs[f"accumulation{level}"],
            gt_image=batch["image"].to(self.device),
        )

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        target = self.renderer_rgb.blend_background(batch["image"].to(outputs["rgb"].device))
        metrics = image_metrics(outputs["rgb"], target, self.config.lpips_weights)
        metrics["coarse_psnr"] = psnr(outputs["rgb_coarse"].clamp(0, 1), target)
        depth = [
            colormaps.apply_depth_colormap(
                outputs[f"depth{level}"],
                accumulation=outputs[f"accumulation{level}"],
                near_plane=self.ray_bounds.near,
                far_plane=self.ray_bounds.far,
            )
            for level in ("_coarse", "")
        ]
        accumulation = [colormaps.apply_colormap(outputs[f"accumulation{level}"]) for level in ("_coarse", "")]
        images = {
            "img": torch.cat([target, outputs["rgb_coarse"], outputs["rgb"]], dim=1),
            "accumulation": torch.cat(accumulation, dim=1),
            "depth": torch.cat(depth, dim=1),
        }
        if "normals" in outputs:
            images["normals"] = outputs["normals"]
        return metrics, images

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """Straight-alpha RGBA with the background taken out again, so that exporters see which rays hit something.

        Raises: InputError when a point-cloud export asks for rays again and again and none is opaque: the host would
            go on for ever.
        """
        rgb = outputs[output_name]
        alpha = outputs[output_name.replace("rgb", "accumulation")]
        if rgb.dim() == 2:  # batches of rays come from the exporters, images from ns-render
            self._empty_batches = 0 if bool((alpha > 0.5).any()) else self._empty_batches + 1
            if self._empty_batches >= EMPTY_BATCHES_BEFORE_GIVING_UP:
                raise InputError(
                    f"no ray of {self._empty_batches} batches is opaque: the model has no surface",
                    "Train longer, or check near, far and the background colour",
                )
        background = self.renderer_rgb.background_color
        if background in ("white", "black"):
            color = self.renderer_rgb.get_background_color(background, shape=rgb.shape, device=rgb.device)
            rgb = rgb - color * (1.0 - alpha)
        elif background == "last_sample":
            return torch.cat([rgb, alpha], dim=-1)
        return torch.cat([(rgb / alpha.clamp_min(1e-4)).clamp(0.0, 1.0), alpha], dim=-1)

    def iso_field(self, level: float | None = None, voxel_size: float | None = None) -> IsoField:
        """The density as ns-mesh reads it, filtered with a Gaussian of the voxel's extent.

        Args:
            level: density of the surface per scene unit; None: the default of `common_ns.meshing`.
            voxel_size: side of the voxels that the surface is extracted on, in scene units.
        """
        from common_ns.meshing import IsoField, default_density_level

        aabb = self.scene_box.aabb.detach().float().cpu()
        # A uniform cube of side v has variance v²/12 along each axis.
        variance = (voxel_size or 0.0) ** 2 / 12.0

        def density(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
            return self.field.density_of_gaussians(points, torch.full_like(points, variance), torch.float32)[..., 0]

        def color(points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
            # Seen head-on: the view direction is opposite to the normal.
            hidden = self.field.trunk(points, torch.full_like(points, variance), torch.float32)
            return self.field.color(hidden, -normals).clamp(0.0, 1.0)

        return IsoField(
            value=density,
            level=level if level is not None else default_density_level(aabb),
            inside_above=True,
            aabb=aabb,
            color=color,
            device=self.device,
        )
