"""Pixels as nerfstudio's exporters want them: with the background taken out, so that they see which hit something."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from common_ns.errors import InputError

EMPTY_BATCHES_BEFORE_GIVING_UP = 50
"""Batches of rays without a single opaque one after which a point-cloud export ends: there is no surface."""


class ExportedPixels:
    """Straight-alpha RGBA of one model's outputs."""

    def __init__(self) -> None:
        self._empty_batches = 0

    def rgba(
        self, rgb: Float[Tensor, "*n 3"], alpha: Float[Tensor, "*n 1"], background: Tensor | None
    ) -> Float[Tensor, "*n 4"]:
        """Colors in [0, 1] beside their opacity.

        Args:
            rgb: blended over the background.
            alpha: opacity in [0, 1].
            background: color [3], or of each pixel; None: the colors are blended over nothing.

        Raises: InputError when a point-cloud export asks for rays again and again and none is opaque: nerfstudio would
            go on for ever.
        """
        if rgb.dim() == 2:  # batches of rays come from the exporters, images from ns-render
            self._empty_batches = 0 if bool((alpha > 0.5).any()) else self._empty_batches + 1
            if self._empty_batches >= EMPTY_BATCHES_BEFORE_GIVING_UP:
                raise InputError(
                    f"no ray of {self._empty_batches} batches is opaque: the model has no surface",
                    "Train longer, or check near, far and the background color",
                )
        if background is not None:
            rgb = rgb - background.to(rgb) * (1.0 - alpha)
        return torch.cat([(rgb / alpha.clamp_min(1e-4)).clamp(0.0, 1.0), alpha], dim=-1)
