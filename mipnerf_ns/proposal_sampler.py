"""The proposal loop: rounds of samples, each drawn where the round before found density.

Any callable that maps ray samples to a density can serve as a round's field. It sees nerfstudio's `RaySamples`, whose
frustums carry the pixel's area, so that it can work with Gaussians; nerfstudio's own proposal sampler passes positions
only. The samples' normalized bounds (`spacing_starts`, `spacing_ends`) are what nerfstudio's `interlevel_loss` and
`distortion_loss` work on.

The samplers are not nerfstudio's: those draw their own random numbers, so that the samples of a ray would depend on how
rays are spread over devices and chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from torch import Tensor

from common_ns.rays.stepfun import anneal_weights, max_dilate, render_weights, sample_intervals

Spacing = Literal["uniform", "disparity", "piecewise"]
RayField = Callable[[RaySamples], dict[FieldHeadNames, Tensor]]
Guide = Callable[[Float[Tensor, "n s+1"]], Float[Tensor, "n s+1"]]
"""Moves interval bounds (ray distance, increasing), keeping their number."""
SpacingMap = Callable[[Float[Tensor, "n s"]], Float[Tensor, "n s"]]

_SMALLEST_NEAR = 1e-4
"""Near plane over far plane that stands in for a near plane of 0: texture baking sends rays that start there."""


@dataclass
class Round:
    """What one round of sampling gave."""

    samples: RaySamples
    """Intervals along the rays [n, s]."""
    weights: Float[Tensor, "n s 1"]
    """Their rendering weights."""
    outputs: dict[FieldHeadNames, Tensor]
    """Everything the round's field returned."""

    @property
    def bins(self) -> Float[Tensor, "n s+1"]:
        """Interval bounds in normalized distance [0, 1]."""
        starts, ends = self.samples.spacing_starts, self.samples.spacing_ends
        assert starts is not None and ends is not None
        return torch.cat([starts[..., 0], ends[..., -1:, 0]], dim=-1)


@dataclass(frozen=True)
class ProposalLoop:
    """Samples rays in rounds.

    Source: mip-NeRF 360, section 3 and supplement.
    """

    num_samples: tuple[int, ...] = (64, 64, 32)
    """Intervals per ray of each round."""
    spacing: Spacing = "disparity"
    """Which distance the first round divides evenly: distance itself, its inverse, or distance up to 1 and inverse
    distance beyond."""
    dilation_multiplier: float = 0.5
    """Dilation before resampling, in units of the mean interval that the rounds so far would give."""
    dilation_bias: float = 0.0025
    """Dilation before resampling in normalized distance, added to it."""
    resample_padding: float = 0.0
    """Added to the dilated weights, spread by length, so that empty stretches are still looked at."""

    def __call__(
        self,
        rays: RayBundle,
        fields: Sequence[RayField],
        anneal: float = 1.0,
        jitter: Float[Tensor, "n rounds"] | None = None,
        guide: Guide | None = None,
    ) -> list[Round]:
        """Run all rounds.

        Args:
            rays: rays [n] with near and far planes.
            fields: one for each round; the same one may serve several.
            anneal: exponent on the weights that samples are drawn from, 0 to 1.
            jitter: shift of each ray's samples in each round, in [0, 1) of their spacing; None: centerd.
            guide: moves the last round's interval bounds.
        Returns: the rounds in order. No gradient passes from a round's samples to the round before.
        """
        assert rays.nears is not None and rays.fars is not None
        to_distance, to_spacing = spacing_maps(self.spacing, rays.nears, rays.fars)
        t = torch.cat([torch.zeros_like(rays.nears), torch.ones_like(rays.fars)], dim=-1)
        weights = torch.ones_like(rays.nears)
        rounds: list[Round] = []
        intervals = 1
        for index, (count, field) in enumerate(zip(self.num_samples, fields, strict=True)):
            with torch.no_grad():
                if index > 0:
                    t, weights = max_dilate(t, weights, self.dilation_bias + self.dilation_multiplier / intervals)
                    weights = weights + self.resample_padding * (t[..., 1:] - t[..., :-1])
                shift = None if jitter is None else jitter[:, index : index + 1]
                t = sample_intervals(t, anneal_weights(weights, t, anneal), count, shift)
                distance = to_distance(t)
                if guide is not None and index == len(fields) - 1:
                    distance = guide(distance)
                    t = to_spacing(distance).clamp(0.0, 1.0)
            intervals *= count
            samples = rays.get_ray_samples(
                bin_starts=distance[..., :-1, None],
                bin_ends=distance[..., 1:, None],
                spacing_starts=t[..., :-1, None],
                spacing_ends=t[..., 1:, None],
                spacing_to_euclidean_fn=to_distance,
            )
            outputs = field(samples)
            assert samples.deltas is not None
            rendered = render_weights(outputs[FieldHeadNames.DENSITY][..., 0], samples.deltas[..., 0])
            rounds.append(Round(samples, rendered[..., None], outputs))
            weights = rendered.detach()
        return rounds


def spacing_maps(
    spacing: Spacing, near: Float[Tensor, "n 1"], far: Float[Tensor, "n 1"]
) -> tuple[SpacingMap, SpacingMap]:
    """The map from normalized distance in [0, 1] to ray distance in [near, far], and its inverse.

    Args:
        spacing: what even steps in normalized distance are even in.
        near, far: planes in ray distance, scene units.
    Source: mip-NeRF 360, equation 11.
    """
    near = torch.where(near > 0, near, _SMALLEST_NEAR * far) if spacing == "disparity" else near
    warp, unwarp = _WARPS[spacing]
    low, high = warp(near), warp(far)
    return lambda s: unwarp(low * (1.0 - s) + high * s), lambda t: (warp(t) - low) / (high - low)


_WARPS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "uniform": (lambda t: t, lambda y: y),
    "disparity": (lambda t: 1.0 / t, lambda y: 1.0 / y),
    "piecewise": (
        lambda t: torch.where(t < 1.0, 0.5 * t, 1.0 - 0.5 / t.clamp_min(1e-6)),
        lambda y: torch.where(y < 0.5, 2.0 * y, 0.5 / (1.0 - y).clamp_min(1e-12)),
    ),
}
"""Spacing functions and their inverses."""
