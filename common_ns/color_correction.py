"""A rendering in the colors of the photograph it is compared with.

Where exposure and white balance change from photograph to photograph, a color error says little of the geometry.
Metrics of the corrected rendering leave out what one smooth change of all colors explains.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ITERATIONS = 5
"""Fits one after the other: which pixels are saturated changes with each."""

SATURATION = 0.5 / 255
"""Colors nearer than this to 0 or 1 were cut off, and do not say which color there was."""


def color_corrected(
    image: Float[Tensor, "h w c"],
    reference: Float[Tensor, "h w c"],
    valid: Bool[Tensor, "h w 1"] | None = None,
    iterations: int = ITERATIONS,
    saturation: float = SATURATION,
) -> Float[Tensor, "h w c"]:
    """The image with its colors mapped by the quadratic polynomial that comes closest to the reference's.

    Each output channel is a sum of all products of two channels, the channels, and a constant, by least squares over
    the pixels at which this channel is saturated neither in the image, nor in the reference, nor in the image as
    corrected so far. A channel without such a pixel stays as it is.

    Args:
        image, reference: colors in [0, 1].
        valid: pixels that count for the fit; None: all. All are corrected.
        iterations: how often to fit, each time to what came out before.
        saturation: distance from 0 and 1 below which a color counts as saturated.
    Source: multinerf (github.com/google-research/multinerf), internal/image.py, color_correct.
    """
    channels = image.shape[-1]
    colors, wanted = (each.reshape(-1, channels).double() for each in (image, reference))
    usable = _unsaturated(colors, saturation) & _unsaturated(wanted, saturation)
    if valid is not None:
        usable &= valid.reshape(-1, 1).to(usable.device)
    for _ in range(iterations):
        terms = _quadratic(colors)
        now = usable & _unsaturated(colors, saturation)
        columns = []
        for channel in range(channels):
            rows = now[:, channel]
            if bool(rows.any()):
                fitted = terms @ _least_squares(terms[rows], wanted[rows, channel])
                columns.append(fitted.clamp(0.0, 1.0))
            else:
                columns.append(colors[:, channel])
        colors = torch.stack(columns, dim=-1)
    return colors.reshape(image.shape).to(image.dtype)


def _unsaturated(colors: Float[Tensor, "n c"], margin: float) -> Bool[Tensor, "n c"]:
    return (colors >= margin) & (colors <= 1.0 - margin)


def _quadratic(colors: Float[Tensor, "n c"]) -> Float[Tensor, "n k"]:
    """Products of two channels, the channels, and 1: ten numbers of three channels."""
    products = [colors[:, i : i + 1] * colors[:, i:] for i in range(colors.shape[-1])]
    return torch.cat([*products, colors, torch.ones_like(colors[:, :1])], dim=-1)


def _least_squares(terms: Float[Tensor, "n k"], wanted: Float[Tensor, " n"]) -> Float[Tensor, " k"]:
    """Shortest of the solutions: of a gray picture, many colors' polynomials are the same."""
    # The triangle has the solutions of the whole system, and fits where the solver is that knows missing ranks.
    triangle = torch.linalg.qr(torch.cat([terms, wanted[:, None]], dim=-1), mode="r")[1].cpu()
    solution = torch.linalg.lstsq(triangle[:, :-1], triangle[:, -1:], rcond=1e-12, driver="gelsd").solution
    return solution[:, 0].to(terms.device)
