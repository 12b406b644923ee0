"""Image metrics that never download anything.

PSNR and SSIM are pure functions. LPIPS needs a pretrained AlexNet: it is built at the first evaluation that can use it,
from a local file, and left out of the results with one warning when there is none.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

from common_ns.color_correction import color_corrected
from common_ns.errors import InputError

LPIPS_MIN_SIZE = 64
"""Shorter image side in pixels below which AlexNet's feature maps are too small for LPIPS to mean anything."""

SSIM_WINDOW = 11
"""Side of the window of SSIM in pixels."""

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
"""Name under which torchvision publishes the AlexNet weights that LPIPS is defined on."""


def psnr_of_mse(mse: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio in dB from the mean squared error of values in [0, 1]: −10 log₁₀ of it."""
    return -10.0 * torch.log10(mse)


def psnr(prediction: Float[Tensor, "*n"], target: Float[Tensor, "*n"]) -> float:
    """Peak signal-to-noise ratio in dB of values in [0, 1]; identical inputs give infinity."""
    return float(psnr_of_mse(torch.mean((prediction.double() - target.double()) ** 2)))


def ssim(prediction: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"]) -> float:
    """Structural similarity of two images in [0, 1] (Wang et al. 2004; 11×11 Gaussian window, σ 1.5)."""
    return float(_ssim_map(prediction, target).mean())


def ssim_inside(
    prediction: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"], valid: Bool[Tensor, "h w 1"]
) -> float | None:
    """Structural similarity over the windows that hold valid pixels only; None if there is no such window."""
    others = torch.nn.functional.max_pool2d(_nchw(~valid), SSIM_WINDOW, stride=1, padding=SSIM_WINDOW // 2)
    inside = others[0, 0] == 0
    return float(_ssim_map(prediction, target)[0][:, inside].mean()) if bool(inside.any()) else None


def _ssim_map(prediction: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"]) -> Float[Tensor, "1 3 h w"]:
    """Structural similarity of the window about each pixel."""
    from torchmetrics.functional.image import structural_similarity_index_measure as similarity

    return similarity(_nchw(prediction), _nchw(target), data_range=1.0, return_full_image=True)[1]  # type: ignore[return-value]


def depth_errors(depth: Float[Tensor, "*n"], measured: Float[Tensor, "*n"]) -> dict[str, float]:
    """How far depth is from measured depth, over the pixels that have one (finite and above 0).

    Args:
        depth: depth of the same kind and unit.
        measured: depth to compare with.
    Returns: depth_rmse (in that unit), depth_abs_rel (mean of |error| / measured) and depth_delta1 (share of pixels
        within a factor of 1.25); empty if no pixel has a depth.
    Source: Eigen et al. 2014 (arXiv 1406.2283), section 4.
    """
    valid = torch.isfinite(measured) & (measured > 0)
    depth, measured = depth[valid].double(), measured[valid].double()
    if len(measured) == 0:
        return {}
    ratio = torch.maximum(depth / measured, measured / depth.clamp_min(1e-12))
    return {
        "depth_rmse": float((depth - measured).square().mean().sqrt()),
        "depth_abs_rel": float(((depth - measured).abs() / measured).mean()),
        "depth_delta1": float((ratio < 1.25).double().mean()),
    }


def lpips(
    prediction: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"], weights: Path | None = None
) -> float | None:
    """Learned perceptual distance (Zhang et al. 2018, AlexNet) of two images in [0, 1].

    Args:
        prediction, target: images of equal size.
        weights: the AlexNet weights file of torchvision; None looks in torch's hub cache.
    Returns: the distance, or None when no weights are at hand or the image is smaller than `LPIPS_MIN_SIZE`.
    Raises: InputError if `weights` is given and cannot be used.
    """
    if min(prediction.shape[:2]) < LPIPS_MIN_SIZE:
        return None
    network = _lpips_network(weights)
    if network is None:
        return None
    network = network.to(prediction.device)
    with torch.no_grad():
        distance = network(_nchw(prediction).clamp(0, 1), _nchw(target).clamp(0, 1), normalize=True)
    return float(distance)


def image_metrics(
    prediction: Float[Tensor, "h w 3"],
    target: Float[Tensor, "h w 3"],
    lpips_weights: Path | None = None,
    valid: Bool[Tensor, "h w 1"] | None = None,
    corrected_too: bool = False,
) -> dict[str, float]:
    """PSNR, SSIM and, where its weights are at hand, LPIPS, under the names that ns-eval reports.

    Args:
        prediction, target: images in [0, 1] of equal size.
        lpips_weights: see `lpips`.
        valid: pixels that count, of a mask; None: all. PSNR is then over these pixels, SSIM over the windows inside of
            them. LPIPS compares the target with itself outside of them, where the distance is then 0 but for what
            reaches over the edge, and is divided by their share of the picture: the mean over the valid pixels.
        corrected_too: also those of the prediction in the target's colors, under the same names with `_cc`.
    Returns: the metrics that can be had, and with a mask `valid_fraction`, the share of the pixels that count. Without
        a valid pixel there are no others.
    """
    prediction = prediction.clamp(0, 1)
    if corrected_too:
        metrics = image_metrics(prediction, target, lpips_weights, valid)
        if "psnr" not in metrics:  # no pixel is valid
            return metrics
        corrected = image_metrics(color_corrected(prediction, target, valid), target, lpips_weights, valid)
        corrected.pop("valid_fraction", None)
        return metrics | {f"{name}_cc": value for name, value in corrected.items()}
    if valid is None:
        metrics = {"psnr": psnr(prediction, target)}
        if min(prediction.shape[:2]) >= SSIM_WINDOW:
            metrics["ssim"] = ssim(prediction, target)
        distance = lpips(prediction, target, lpips_weights)
        return metrics if distance is None else {**metrics, "lpips": distance}
    valid = valid.to(prediction.device)
    fraction = float(valid.double().mean())
    metrics = {"valid_fraction": fraction}
    if fraction == 0.0:
        return metrics
    metrics["psnr"] = psnr(prediction[valid[..., 0]], target[valid[..., 0]])
    similarity = ssim_inside(prediction, target, valid) if min(prediction.shape[:2]) >= SSIM_WINDOW else None
    if similarity is not None:
        metrics["ssim"] = similarity
    distance = lpips(torch.where(valid, prediction, target), target, lpips_weights)
    return metrics if distance is None else {**metrics, "lpips": distance / fraction}


def valid_pixels_of(batch: dict[str, Any]) -> Bool[Tensor, "h w 1"] | None:
    """Which pixels of an evaluation image count; None: all.

    They are the bool "mask" that nerfstudio's dataparsers know. Where an object's mask, the share of the pixel that it
    covers, has taken that name, they are called "valid_pixels".
    """
    valid = batch.get("valid_pixels", batch.get("mask"))
    return valid if valid is not None and valid.dtype == torch.bool else None


def _nchw(image: Float[Tensor, "h w c"]) -> Float[Tensor, "1 c h w"]:
    return image.movedim(-1, 0)[None].float()


@lru_cache(maxsize=2)
def _lpips_network(weights: Path | None) -> nn.Module | None:
    """LPIPS with torchmetrics' bundled linear layers on AlexNet weights from a local file."""
    from torchmetrics.functional.image.lpips import _LPIPS
    from torchvision.models import alexnet

    path = weights if weights is not None else Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET_FILE
    if weights is None and not path.exists():
        CONSOLE.print(
            f"[yellow]lpips is not reported: no {ALEXNET_FILE} in {path.parent}; "
            "give its path by --pipeline.model.lpips-weights."
        )
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        backbone = alexnet(weights=None)
        backbone.load_state_dict(state)
    except Exception as error:
        problem = f"cannot be read as torchvision's AlexNet weights ({type(error).__name__})"
        raise InputError(problem, f"Give the file {ALEXNET_FILE}", file=path) from error

    network = _LPIPS(pretrained=True, net="alex", pnet_rand=True)
    # torchmetrics cuts AlexNet's feature layers into five slices and keeps their original indices as names.
    for name, module in network.net.named_modules():
        index = name.rsplit(".", 1)[-1]
        if isinstance(module, nn.Conv2d):
            module.load_state_dict(backbone.features[int(index)].state_dict())
    return network.eval()
