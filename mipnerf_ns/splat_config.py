"""The options of Mip-Splatting."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.models.base_model import ModelConfig

from common_ns.depth_colors import DepthColors
from common_ns.nerfstudio_seam.renames import SuiteConfig
from common_ns.option_ranges import ABOVE_0, FROM_0, FROM_1, Range
from common_ns.splats import Implementation
from mipnerf_ns.zip_model import ZipNerfModelConfig
from mipnerf_ns.zip_small import small_model


@dataclass
class MipSplatOptions(SuiteConfig, ModelConfig):
    """Mip-Splatting with the paper's settings."""

    enable_collider: tyro.conf.Suppress[bool] = False
    """Unused: there are no rays."""
    collider_params: tyro.conf.Suppress[dict[str, float] | None] = None
    """Unused: there are no rays."""
    loss_coefficients: tyro.conf.Suppress[dict[str, float]] = dataclasses.field(default_factory=dict)
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
    rasterize_mode: Literal["antialiased", "classic"] = "antialiased"
    """Whether opacities make up for what the 2D filter widens; classic, with filter-2d 0.3 and filter-3d 0, draws as 3D
    Gaussian Splatting and viewers that know no other way."""
    filter_every: int = 100
    """Steps after which the 3D filter's sizes are found anew; they also are when Gaussians were added or removed."""
    sh_degree: int = 3
    """Degree of the spherical harmonics that colors have by direction, 0 to 3."""
    sh_degree_interval: int = 1000
    """Steps after which a degree more counts, from degree 0 on."""
    background_color: Literal["auto", "white", "black", "mean", "random"] = "auto"
    """Color behind all Gaussians. mean: that of the training photographs, which all has that no photograph shows. auto:
    white for objects and for images with alpha; for captures black, or mean with methods for few photographs and depth.
    random trains on a new color for each photograph and so asks for opacity; it is black outside of training."""
    color_error: Literal["absolute", "squared"] = "absolute"
    """How colors of pictures and photographs are compared, beside SSIM."""
    ssim_weight: float = 0.2
    """Weight of 1 − SSIM in the loss; the error of colors has the rest."""
    means_unit: Literal["extent", "pixel"] = "extent"
    """Of the learning rate of means: the cameras' extent, the same for all; or, for each, the side of the pixel of the
    nearest photograph that sees it, so that what is far moves as fast in pictures as what is near."""
    exposure: bool = False
    """Give each photograph an affine change of the colors, for captures with changing exposure or white balance. New
    views get the mean one."""
    exposure_weight: float = 1e-3
    """Weight of the squared distance of these changes from none."""
    init_from: Path | None = None
    """config.yml of a trained run on the same data, of any radiance or surface method: num-start Gaussians begin where
    it sees surfaces, with its colors."""
    start_from: Literal["auto", "points", "field", "photographs", "random"] = "auto"
    """Where the first Gaussians are: at the data's known points; where a field sees surfaces that is fitted first,
    within the run (RadSplat's idea); at points that several photographs agree on; or at random places. auto: known
    points if there are any, else field."""
    num_start: int = 100000
    """Gaussians to begin with where they do not begin at known points; no more than max-gaussians."""
    field_steps: int = 2000
    """Steps for which the field of start-from field is fitted, as zip-nerf-small is. They are none of the run's steps,
    and their time is part of its first step."""
    field: tyro.conf.Suppress[ZipNerfModelConfig] = dataclasses.field(default_factory=small_model)
    """Settings of that field."""
    strategy: Literal["default", "mcmc"] = "default"
    """How Gaussians are added and removed: those whose places have large gradients are doubled or split, and
    transparent ones removed (default); or transparent ones move to where opaque ones are, a twentieth is added each
    time, and all wander at random (mcmc), for which max-gaussians is the number to be had."""
    max_gaussians: int | None = None
    """Largest number of Gaussians that training adds up to; None: as many as it asks for, or 1,000,000 with mcmc."""
    mcmc_noise: float = 5e5
    """With mcmc, how far means wander: factor on their learning rate times the covariance in extents of the cameras."""
    mcmc_opacity_weight: float = 0.01
    """With mcmc, weight of the mean opacity in the loss."""
    mcmc_scale_weight: float = 0.01
    """With mcmc, weight of the mean standard deviation, in extents of the cameras, in the loss."""
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
    camera_optimizer: CameraOptimizerConfig = dataclasses.field(
        default_factory=lambda: CameraOptimizerConfig(mode="off")
    )
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


RANGES: dict[str, Range] = {
    "filter_3d": FROM_0,
    "filter_2d": FROM_0,
    "filter_every": FROM_1,
    "sh_degree": Range("0 to 3", lambda value: 0 <= value <= 3),
    "sh_degree_interval": FROM_0,
    "ssim_weight": Range("0 to 1", lambda value: 0 <= value <= 1),
    "exposure_weight": FROM_0,
    "num_start": FROM_1,
    "field_steps": FROM_1,
    "max_gaussians": FROM_1,
    "mcmc_noise": FROM_0,
    "mcmc_opacity_weight": FROM_0,
    "mcmc_scale_weight": FROM_0,
    "grow_from": FROM_0,
    "grow_until": FROM_0,
    "grow_every": FROM_1,
    "grow_gradient": FROM_0,
    "grow_scale": ABOVE_0,
    "prune_opacity": FROM_0,
    "prune_scale": ABOVE_0,
    "reset_every": FROM_1,
    "near_plane": ABOVE_0,
}
"""Numbers that options may have."""
