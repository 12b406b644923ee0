"""mip-NeRF as a nerfstudio model: coarse and fine cone samples through one network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.configs.config_utils import to_immutable_dict
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.model_components.ray_samplers import PDFSampler
from nerfstudio.utils import colormaps, misc
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter

from common_ns.base_model import RadianceModel, RadianceModelConfig
from common_ns.errors import InputError
from common_ns.meshing.iso_field import IsoField
from common_ns.metrics import psnr, valid_pixels_of
from common_ns.nerfstudio_seam.given_noise import GivenNoise
from common_ns.option_ranges import check_ranges
from common_ns.rays.random_numbers import RayRandomness, standard_normal
from common_ns.rays.stepfun import blur_weights
from mipnerf_ns.field import MipNerfField, position_scale_for
from mipnerf_ns.isotropic_field import isotropic_iso_field
from mipnerf_ns.networks import Precision
from mipnerf_ns.option_ranges import RANGES
from mipnerf_ns.proposal_sampler import SPACED_SAMPLERS


@dataclass
class MipNerfModelConfig(RadianceModelConfig):
    """mip-NeRF (arXiv 2103.13415) with the paper's settings."""

    _target: type = field(default_factory=lambda: MipNerfModel)
    """target class to instantiate"""
    loss_coefficients: dict[str, float] = to_immutable_dict({"rgb_loss_coarse": 0.1, "rgb_loss_fine": 1.0})
    """Weights of the coarse and the fine level's color loss."""
    num_coarse_samples: int = 128
    """Intervals per ray of the coarse level."""
    num_importance_samples: int = 128
    """Intervals per ray of the fine level, drawn from the coarse level's dilated weights."""
    sampling: Literal["auto", "uniform", "disparity", "piecewise"] = "auto"
    """Spacing of the coarse intervals: uniform in distance, uniform in disparity, or piecewise (uniform up to distance
    1, disparity beyond). auto: uniform for objects seen from outside, piecewise for captures."""
    resample_padding: float = 0.01
    """Added to the dilated weights before fine intervals are drawn, so that empty regions are still looked at."""
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
    """Hidden layers of the color head."""
    color_hidden_dim: int = 128
    """Width of the color head."""
    density_bias: float = -1.0
    """Added to the raw density before the softplus."""
    density_noise: float = 0.0
    """Standard deviation of noise on the raw density while training (1.0 helps some real captures)."""
    rgb_padding: float = 0.001
    """How far colors may reach beyond [0, 1]."""
    ray_shape: Literal["cone", "cylinder"] = "cone"
    """Shape cast by a pixel: cone, or cylinder for orthographic cameras."""
    disable_integration: bool = False
    """Encode the mean of each interval's Gaussian alone: NeRF's positional encoding, which aliases."""
    precision: Precision = "auto"
    """Number format of the hidden layers. auto: bfloat16 where the hardware is faster with it, else float32."""


class MipNerfNumbers(NamedTuple):
    """Uniform random numbers in [0, 1) of training rays."""

    coarse: Float[Tensor, "n c+1"]
    """Where each coarse interval's bound lies between its neighbors'."""
    fine: Float[Tensor, "n f+1"]
    """At which quantile each fine interval's bound is drawn."""
    background: Float[Tensor, "n b"]
    """Color behind the ray; no numbers where it is not random."""
    density_coarse: Float[Tensor, "n c"]
    """Noise on the density of each coarse interval; no numbers where there is none."""
    density_fine: Float[Tensor, "n f"]
    """Noise on the density of each fine interval; no numbers where there is none."""


class MipNerfModel(RadianceModel):
    """Coarse and fine level share one network. The loss of the coarse level is down-weighted by 0.1, so that the
    network learns what the fine level renders.

    Args:
        config: the model's config.
    """

    config: MipNerfModelConfig
    field: MipNerfField
    randomness: RayRandomness[MipNerfNumbers]

    def populate_modules(self) -> None:
        """Choose bounds, sampling and background for the data; build field, samplers and renderers."""
        config = self.config
        check_ranges(config, RANGES)
        bounds = self.choose_bounds()
        if bounds.near == 0 and config.sampling == "disparity":
            raise InputError("near 0 has no disparity", "Choose --pipeline.model.near-plane above 0")
        sampling = config.sampling
        if sampling == "auto":
            sampling = "uniform" if bounds.bounded else "piecewise"
        background = self.choose_background(captures="last_sample")
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
            disable_integration=config.disable_integration,
        )
        self.set_up_viewer()
        self.sampler_coarse = SPACED_SAMPLERS[sampling](num_samples=config.num_coarse_samples)
        self.randomness = RayRandomness(
            MipNerfNumbers,
            one_draw_each=True,
            coarse=config.num_coarse_samples + 1,
            fine=config.num_importance_samples + 1,
            background=3 if background == "random" else 0,
            density_coarse=config.num_coarse_samples if config.density_noise > 0 else 0,
            density_fine=config.num_importance_samples if config.density_noise > 0 else 0,
        )
        self.sampler_fine = PDFSampler(
            num_samples=config.num_importance_samples,
            include_original=False,
            histogram_padding=config.resample_padding,
        )

    @property
    def points_per_ray(self) -> int:
        """Samples of both levels."""
        return self.config.num_coarse_samples + self.config.num_importance_samples

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        return {"fields": list(self.field.parameters())}

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Render rays [n].

        Returns: rgb, accumulation, depth (median, ray distance), expected_depth and normals (in [0, 1], outside of
        training) of the fine level; rgb_coarse, accumulation_coarse, depth_coarse of the coarse level.
        """
        numbers: MipNerfNumbers | None = None
        if self.training:
            numbers = self.randomness.of(ray_bundle.metadata, len(ray_bundle), ray_bundle.origins.device)
        with GivenNoise(None if numbers is None else numbers.coarse):
            coarse = self.sampler_coarse(ray_bundle)
        weights_coarse, rgb_coarse = self._render(coarse, None if numbers is None else numbers.density_coarse)
        dilated = blur_weights(weights_coarse.detach()[..., 0])[..., None]
        with GivenNoise(None if numbers is None else numbers.fine):
            fine = self.sampler_fine(ray_bundle, coarse, dilated)
        weights, rgb = self._render(fine, None if numbers is None else numbers.density_fine)
        outputs = {
            "rgb": rgb,
            "accumulation": self.renderer_accumulation(weights),
            "rgb_coarse": rgb_coarse,
            "accumulation_coarse": self.renderer_accumulation(weights_coarse),
        }
        if numbers is not None and self.renderer_rgb.background_color == "random":
            outputs["background"] = numbers.background
        with torch.no_grad():
            outputs["depth"] = self.renderer_depth(weights, fine)
            outputs["depth_coarse"] = self.renderer_depth(weights_coarse, coarse)
            outputs["expected_depth"] = self.mean_distance(weights, fine)
            if self.config.compute_normals and not self.training:
                outputs["normals"] = self.render_normals(weights, lambda where: self._normals_of(fine, where))
        return outputs

    def _render(
        self, samples: RaySamples, uniform: Float[Tensor, "n s"] | None
    ) -> tuple[Float[Tensor, "n s 1"], Float[Tensor, "n 3"]]:
        """Weights and colors; `uniform` are the numbers that noise on the density follows from, if there is any."""
        noise = standard_normal(uniform)[..., None] if uniform is not None and uniform.shape[-1] else None
        density, hidden = self.field.get_density(samples, noise)
        weights = samples.get_weights(density)
        return weights, self.renderer_rgb(self.field.get_outputs(samples, hidden)[FieldHeadNames.RGB], weights)

    def _normals_of(self, samples: RaySamples, where: Tensor) -> Float[Tensor, "k 3"]:
        mean, var = self.field.gaussians(samples)
        return self.field.normals(mean[where], var[where])

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor], metrics_dict: dict | None = None
    ) -> dict[str, Tensor]:
        losses = {}
        for level, name in (("_coarse", "rgb_loss_coarse"), ("", "rgb_loss_fine")):
            prediction, target = self.blended(outputs, batch, level)
            losses[name] = self.mean_over_rays((prediction - target).square(), batch)
        return misc.scale_dict(losses, self.config.loss_coefficients)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        target, metrics = self.image_target_and_metrics(outputs, batch)
        if "psnr" in metrics:  # no mask has left out all pixels
            valid = valid_pixels_of(batch)
            inside = slice(None) if valid is None else valid[..., 0].to(target.device)
            metrics["coarse_psnr"] = psnr(outputs["rgb_coarse"].clamp(0, 1)[inside], target[inside])
        depth = [
            self.depth_picture(outputs[f"depth{level}"], outputs[f"accumulation{level}"]) for level in ("_coarse", "")
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

    def iso_field(self, level: float | None = None, voxel_size: float | None = None) -> IsoField:
        """The density as ns-mesh reads it; arguments as those of `isotropic_iso_field`."""
        return isotropic_iso_field(self, self.field, level, voxel_size)
