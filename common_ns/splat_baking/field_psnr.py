"""How well the field itself shows the held-out photographs, at a part of their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras

from common_ns.splat_baking.photographs import Photograph
from common_ns.splat_baking.refine import psnr_of_mean

PIXELS = 8192
"""Pixels that are rendered, of all photographs together."""


@torch.no_grad()
def field_psnr(model: Any, cameras: Cameras, photographs: Sequence[Photograph], pixels: int = PIXELS) -> float:
    """Mean PSNR in dB over drawn pixels of each photograph, along the rays that its pinhole picture is seen on.

    Args:
        model: in evaluation mode.
        cameras: of the photographs' data set.
        photographs: with some pixel that counts each.
        pixels: that are drawn, of all photographs together.
    """
    generator, errors = torch.Generator().manual_seed(0), []
    cameras = cameras.to(model.device)
    for photograph in photographs:
        rows, columns = torch.nonzero(photograph.valid, as_tuple=True)
        if not len(rows):
            continue
        drawn = torch.randperm(len(rows), generator=generator)[: max(pixels // len(photographs), 64)]
        rows, columns = rows[drawn], columns[drawn]
        if photograph.source is None:
            place = torch.stack([rows, columns], dim=-1) + 0.5
        else:
            place = photograph.source[rows, columns].flip(-1)
        index = torch.full((len(rows), 1), photograph.index)
        rays = cameras.generate_rays(index.to(model.device), place.float().to(model.device))
        colors = model(rays)["rgb"].clamp(0.0, 1.0).cpu()
        errors.append(float((colors - photograph.colors[rows, columns]).double().square().mean()))
    return psnr_of_mean(errors)
