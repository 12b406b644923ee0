"""Gaussians fitted to photographs by gradient descent, for a given time.

Adam on all numbers of all Gaussians, one photograph a step, in an order that visits each once before any twice. Means
move by fractions of the pixel that they were seen in, so that what is far moves as fast in pictures as what is near;
the other learning rates are those of 3D Gaussian Splatting (arXiv 2308.04079) times 1 to 16, as there are hundreds
of steps here instead of 30,000. All fall exponentially until the time is over. No Gaussians are added.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from common_ns.splat_baking.gaussians import Gaussians
from common_ns.splat_baking.photographs import Photograph
from common_ns.splats import rasterize

MEANS_RATE = 0.15
"""Of means at the start, in sides of the pixel that the Gaussian was seen in."""
RATES = {"quats": 4e-3, "scales": 2e-2, "opacities": 5e-2, "constant": 2e-2, "rest": 2e-3}
"""Of the other numbers at the start: quaternions, logarithms of scales, logits, coefficients."""
MEANS_DECAY, DECAY = 0.1, 0.1
"""Last learning rates as fractions of the first."""
EXPOSURE_RATE, EXPOSURE_WEIGHT = 2e-3, 1e-3
"""Learning rate of exposures, and weight of their squared distance from the identity."""
TRANSPARENT = 0.005
"""Opacity below which a Gaussian is removed."""
SSIM_WEIGHT = 0.2
"""Of 1 − SSIM beside the absolute error, as in 3D Gaussian Splatting."""


@dataclass
class RefineOptions:
    """How Gaussians are fitted."""

    seconds: float
    """Processor time of this process."""
    exposure: bool = False
    """Give each photograph an affine change of the colors, which is regularized to none; the mean one stays."""
    ssim: bool = False
    """Fit absolute error and SSIM instead of the squared error."""
    antialiased: bool = True
    """See `rasterize`."""


@dataclass(frozen=True)
class Refined:
    """What came of a fit."""

    gaussians: Gaussians
    """Those that are left."""
    steps: int
    """Photographs that were drawn."""
    removed: dict[str, int]
    """How many were removed, by reason."""


def draw(
    gaussians: Gaussians, photograph: Photograph, background: Float[Tensor, "3"], antialiased: bool = True
) -> Tensor:
    """The picture [h, w, 3] of Gaussians in a photograph's camera."""
    width, height = photograph.size
    device = gaussians.means.device
    return rasterize(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        gaussians.coefficients,
        photograph.viewmat.to(device),
        photograph.K.to(device),
        width,
        height,
        background=background.to(gaussians.means),
        antialiased=antialiased,
        geometry=False,
    ).color


def faults(gaussians: Gaussians, positions: Float[Tensor, "c 3"], bound: float) -> dict[str, Bool[Tensor, "n"]]:
    """Which Gaussians no picture needs, by reason; each is in one at most.

    Args:
        gaussians: all of them.
        positions: of the cameras.
        bound: largest distance from the cameras' mean, in scene units.
    """
    numbers = [gaussians.means, gaussians.quats, gaussians.scales, gaussians.coefficients.flatten(1)]
    finite = torch.isfinite(torch.cat([*numbers, gaussians.opacities[:, None]], dim=1)).all(dim=1)
    largest = gaussians.scales.amax(dim=1)
    # One that is larger than the way to the nearest camera covers most of that camera's view.
    nearest = torch.cat([torch.cdist(each, positions).amin(dim=1) for each in gaussians.means.split(65536)])
    gone = (gaussians.means - positions.mean(dim=0)).norm(dim=-1) > bound
    exploded = finite & ((largest > nearest) | gone)
    return {
        "not finite": ~finite,
        "exploded": exploded,
        "transparent": finite & ~exploded & (gaussians.opacities < TRANSPARENT),
    }


def without_faults(
    gaussians: Gaussians, positions: Float[Tensor, "c 3"], bound: float
) -> tuple[Gaussians, dict[str, int]]:
    """The Gaussians that pictures need, and how many others there were, by reason. Args: see `faults`."""
    found = faults(gaussians, positions, bound)
    kept = ~torch.stack(list(found.values())).any(dim=0)
    return gaussians[kept], {reason: int(each.sum()) for reason, each in found.items()}


class _Parameters(nn.Module):
    """Gaussians as numbers without bounds."""

    def __init__(self, gaussians: Gaussians, footprint: Float[Tensor, "n"]) -> None:
        super().__init__()
        self.footprint, self.start = footprint[:, None], gaussians.means
        self.moves = nn.Parameter(torch.zeros_like(gaussians.means))
        self.quats = nn.Parameter(gaussians.quats.clone())
        self.scales = nn.Parameter(gaussians.scales.log())
        self.opacities = nn.Parameter(torch.logit(gaussians.opacities))
        self.constant = nn.Parameter(gaussians.coefficients[:, :1].clone())
        self.rest = nn.Parameter(gaussians.coefficients[:, 1:].clone())

    def gaussians(self) -> Gaussians:
        return Gaussians(
            means=self.start + self.footprint * self.moves,
            quats=self.quats,
            scales=self.scales.exp(),
            opacities=self.opacities.sigmoid(),
            coefficients=torch.cat([self.constant, self.rest], dim=1),
        )


def _ssim(first: Float[Tensor, "h w 3"], second: Float[Tensor, "h w 3"]) -> Float[Tensor, "h w"]:
    """Structural similarity about each pixel (11×11 Gaussian window, σ 1.5)."""
    from torchmetrics.functional.image import structural_similarity_index_measure as similarity

    pictures = [image.movedim(-1, 0)[None] for image in (first, second)]
    return similarity(*pictures, data_range=1.0, return_full_image=True)[1][0].mean(dim=0)  # type: ignore[arg-type]


def picture_loss(
    picture: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"], valid: Bool[Tensor, "h w"], ssim: bool
) -> Float[Tensor, ""]:
    """Error over the pixels that count: squared, or 0.8 |difference| + 0.2 (1 − SSIM).

    SSIM's windows see the photograph in the place of pixels that do not count.
    """
    weights = valid.to(picture)[..., None]
    share = weights.sum().clamp_min(1.0) * 3.0
    if not ssim:
        return ((picture - target).square() * weights).sum() / share
    absolute = ((picture - target).abs() * weights).sum() / share
    similar = _ssim(torch.where(valid[..., None], picture, target), target)
    dissimilar = ((1.0 - similar) * weights[..., 0]).sum() / weights.sum().clamp_min(1.0)
    return (1.0 - SSIM_WEIGHT) * absolute + SSIM_WEIGHT * dissimilar


def refine(
    gaussians: Gaussians,
    footprint: Float[Tensor, "n"],
    photographs: Sequence[Photograph],
    background: Float[Tensor, "3"],
    options: RefineOptions,
    seed: int = 0,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Refined:
    """Fit Gaussians to photographs.

    Args:
        gaussians: to begin with.
        footprint: side of a pixel at each, in scene units.
        photographs: of the training cameras.
        background: behind all Gaussians.
        options: for how long, and how.
        seed: of the photographs' order. Results depend on how many steps the time allows, too.
        on_progress: called with the fraction of the time that is over.
    """
    device = gaussians.means.device
    numbers = _Parameters(gaussians, footprint.to(device))
    groups = [{"params": [numbers.moves], "lr": MEANS_RATE, "decay": MEANS_DECAY}]
    groups += [{"params": [getattr(numbers, name)], "lr": rate, "decay": DECAY} for name, rate in RATES.items()]
    exposures = torch.eye(3, 4, device=device).repeat(len(photographs), 1, 1).requires_grad_(options.exposure)
    if options.exposure:
        groups.append({"params": [exposures], "lr": EXPOSURE_RATE, "decay": DECAY})
    optimizer = torch.optim.Adam([group for group in groups if group["params"][0].numel()], eps=1e-15, fused=True)
    first = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(seed)
    # What is compiled or imported at first use counts for nothing.
    one = torch.zeros(len(gaussians), dtype=torch.bool, device=device)
    one[:2] = True
    picture = draw(numbers.gaussians()[one], photographs[0], background, options.antialiased)
    picture_loss(picture, torch.zeros_like(picture), photographs[0].valid.to(device), options.ssim).backward()
    started, steps, order = time.process_time(), 0, []
    while (fraction := (time.process_time() - started) / options.seconds) < 1.0:
        on_progress(fraction)
        for group, rate in zip(optimizer.param_groups, first):
            group["lr"] = rate * group["decay"] ** fraction
        order = order or torch.randperm(len(photographs), generator=generator).tolist()
        number = order.pop()
        photograph = photographs[number]
        picture = draw(numbers.gaussians(), photograph, background, options.antialiased)
        target, valid = photograph.colors.to(device), photograph.valid.to(device)
        change = exposures[number]
        if options.exposure:
            picture = picture @ change[:, :3].T + change[:, 3]
        loss = picture_loss(picture, target, valid, options.ssim)
        if options.exposure:
            loss = loss + EXPOSURE_WEIGHT * (change - torch.eye(3, 4, device=device)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            if parameter.grad is not None:
                torch.nan_to_num_(parameter.grad, nan=0.0, posinf=0.0, neginf=0.0)
        optimizer.step()
        steps += 1
    with torch.no_grad():
        result = numbers.gaussians()
        result = Gaussians(
            result.means,
            torch.nn.functional.normalize(result.quats, dim=-1),
            result.scales,
            result.opacities,
            result.coefficients,
        )
        if options.exposure:
            result = result.exposed(exposures.mean(dim=0))
    positions = torch.stack([each.viewmat[:3, :3].T @ -each.viewmat[:3, 3] for each in photographs]).to(device)
    farthest = float((gaussians.means - positions.mean(dim=0)).norm(dim=-1).max())
    kept, removed = without_faults(result, positions, 2.0 * farthest)
    return Refined(kept, steps, removed)


def psnr_of_mean(errors: Sequence[float]) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB, of mean squared errors of colors in [0, 1]."""
    return sum(-10.0 * math.log10(max(error, 1e-12)) for error in errors) / len(errors)


@torch.no_grad()
def splat_psnr(
    gaussians: Gaussians, photographs: Sequence[Photograph], background: Float[Tensor, "3"], antialiased: bool = True
) -> float:
    """Mean PSNR in dB of the Gaussians' pictures over the pixels that count."""
    errors = []
    for photograph in photographs:
        if bool(photograph.valid.any()):
            picture = draw(gaussians, photograph, background, antialiased).clamp(0.0, 1.0).cpu()
            errors.append(float((picture - photograph.colors)[photograph.valid].double().square().mean()))
    return psnr_of_mean(errors)
