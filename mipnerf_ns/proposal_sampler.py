"""Proposal sampling: rounds of samples, each drawn where the round before found density.

`ProposalSampler` takes the place of nerfstudio's in any of its models, whose proposal networks see positions. In models
of this suite a round's field sees nerfstudio's `RaySamples`, whose frustums carry the pixel's area, so that it can work
with Gaussians (`rounds`). Either way, `interlevel_loss` and `distortion_loss` of nerfstudio work on what it gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.model_components.ray_samplers import (
    DensityFn,
    LinearDisparitySampler,
    ProposalNetworkSampler,
    Sampler,
    SpacedSampler,
    UniformLinDispPiecewiseSampler,
    UniformSampler,
)
from torch import Tensor

from common_ns.rays.power_ladder import inverse_power_ladder, power_ladder
from common_ns.rays.stepfun import anneal_weights, max_dilate, sample_intervals
from common_ns.rays.transmittance import render_weights

Spacing = Literal["uniform", "disparity", "piecewise", "power"]
RayField = Callable[[RaySamples], dict[FieldHeadNames, Tensor]]
Guide = Callable[[Float[Tensor, "n s+1"]], Float[Tensor, "n s+1"]]
"""Moves interval bounds (ray distance, increasing), keeping their number."""
SpacingMap = Callable[[Float[Tensor, "n s"]], Float[Tensor, "n s"]]
RaySpacing = Callable[[RayBundle], tuple[SpacingMap, SpacingMap]]
"""Map from normalized distance in [0, 1] to ray distance of rays with near and far planes, and its inverse."""

SPACING_LADDER = (-1.5, 2.0)
"""Power, and factor on scene units, of Zip-NeRF's spacing (the authors' 360 settings)."""


class PowerLadderSampler(SpacedSampler):
    """Even steps on the power ladder: even in distance up to 1 or so, beyond in a power of it.

    Source: Zip-NeRF, arXiv 2304.06706, supplement.
    """

    def __init__(self) -> None:
        power, factor = SPACING_LADDER
        super().__init__(
            spacing_fn=lambda t: power_ladder(t, power, factor),
            spacing_fn_inv=lambda s: inverse_power_ladder(s, power, factor),
        )


SPACED_SAMPLERS: dict[str, Callable[..., SpacedSampler]] = {
    "uniform": UniformSampler,
    "disparity": LinearDisparitySampler,
    "piecewise": UniformLinDispPiecewiseSampler,
    "power": PowerLadderSampler,
}
"""Samplers by what even steps in normalized distance are even in."""

JITTER = "sample_jitter"
"""Name in a ray bundle's metadata of the random numbers [n, rounds] that shift each ray's samples, in [0, 1)."""

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

    @property
    def distances(self) -> Float[Tensor, "n s+1"]:
        """Interval bounds in ray distance."""
        frustums = self.samples.frustums
        return torch.cat([frustums.starts[..., 0], frustums.ends[..., -1:, 0]], dim=-1)


class ProposalSampler(ProposalNetworkSampler):
    """Draws rounds of intervals from dilated step functions, each round's from the weights of the one before.

    In place of the sampling of nerfstudio's `ProposalNetworkSampler` and `PDFSampler`, which show densities positions
    only and draw random numbers of their own, so that a ray's samples would depend on the chunk that it is in.

    Random numbers belong to rays: those in their metadata (`JITTER`); without, training draws them. Outside of training
    samples are centered, and proposals are not annealed.

    Args:
        num_samples: intervals per ray of each round; all but the last are proposals.
        spacing: which distance the first round divides evenly: distance itself, its inverse, distance up to 1 and
            inverse distance beyond, or a power ladder.
        dilation_multiplier: dilation before resampling, in units of the mean interval that rounds so far would give.
        dilation_bias: dilation before resampling in normalized distance, added to it. Both 0: none.
        resample_padding: added to the dilated weights, spread by length, so that empty stretches are still looked at.
        drop_dilated_ends: leave out the first and the last dilated interval, as the authors' code does.
        opaque_end: the last interval of every round stops the ray.
        ray_spacing: takes the place of `spacing`, for distances that depend on more of a ray than its planes.
        update_sched: steps between those in which `generate_ray_samples` gives densities a gradient, as a function of
            the step; by default all calls give it.
    Source: mip-NeRF 360, section 3 and supplement.
    """

    def __init__(
        self,
        num_samples: tuple[int, ...] = (64, 64, 32),
        spacing: Spacing = "disparity",
        dilation_multiplier: float = 0.5,
        dilation_bias: float = 0.0025,
        resample_padding: float = 0.0,
        drop_dilated_ends: bool = False,
        opaque_end: bool = False,
        ray_spacing: RaySpacing | None = None,
        update_sched: Callable[[int], float] = lambda step: -1.0,
    ) -> None:
        super().__init__(
            num_proposal_samples_per_ray=num_samples[:-1],
            num_nerf_samples_per_ray=num_samples[-1],
            update_sched=update_sched,
            initial_sampler=SPACED_SAMPLERS[spacing](),
        )
        del self.pdf_sampler  # `sample_intervals` draws all rounds; the first one's sampler says how rays are warped
        self.num_proposal_network_iterations = len(num_samples) - 1
        self.spacing: Spacing = spacing
        self.dilation_multiplier, self.dilation_bias = dilation_multiplier, dilation_bias
        self.resample_padding = resample_padding
        self.drop_dilated_ends, self.opaque_end = drop_dilated_ends, opaque_end
        self.ray_spacing = ray_spacing
        self.start = 0.0
        """Normalized distance in [0, 1) at which rays begin in training."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Intervals per ray of each round."""
        return (*self.num_proposal_samples_per_ray, self.num_nerf_samples_per_ray)

    def generate_ray_samples(
        self, ray_bundle: RayBundle | None = None, density_fns: Sequence[DensityFn] | None = None
    ) -> tuple[RaySamples, list[Float[Tensor, "n s 1"]], list[RaySamples]]:
        """What models of nerfstudio call.

        Args:
            ray_bundle: rays [n] with near and far planes.
            density_fns: density at positions, one function for each proposal round.
        Returns: samples of the last round; weights and samples of the proposal rounds.
        """
        assert ray_bundle is not None and density_fns is not None

        # Nerfstudio's schedule: proposals that have settled need a gradient now and then only.
        updated = self._steps_since_update > self.update_sched(self._step) or self._step < 10

        def at_positions(density_fn: DensityFn) -> RayField:
            def field(samples: RaySamples) -> dict[FieldHeadNames, Tensor]:
                with torch.set_grad_enabled(updated and torch.is_grad_enabled()):
                    return {FieldHeadNames.DENSITY: density_fn(samples.frustums.get_positions())}

            return field

        last, proposals = self._propose(ray_bundle, [at_positions(density_fn) for density_fn in density_fns])
        if updated:
            self._steps_since_update = 0
        return last, [proposal.weights for proposal in proposals], [proposal.samples for proposal in proposals]

    def rounds(
        self,
        rays: RayBundle,
        fields: Sequence[RayField],
        jitter: Float[Tensor, "n rounds"] | None = None,
        guide: Guide | None = None,
    ) -> list[Round]:
        """All rounds, of fields that see whole samples.

        Args:
            rays: rays [n] with near and far planes.
            fields: one for each round; the same one may serve several.
            jitter: shift of each ray's samples in each round, in [0, 1) of their spacing; None: as the class says.
            guide: moves the last round's interval bounds.
        Returns: the rounds in order. No gradient passes from a round's samples to the round before.
        """
        last, proposals = self._propose(rays, fields[:-1], jitter, guide)
        return [*proposals, _evaluated(last, fields[-1], self.opaque_end)]

    def _propose(
        self,
        rays: RayBundle,
        fields: Sequence[RayField],
        jitter: Float[Tensor, "n rounds"] | None = None,
        guide: Guide | None = None,
    ) -> tuple[RaySamples, list[Round]]:
        """Samples of the last round, and the proposal rounds; arguments as `rounds`, with the proposals' fields."""
        if len(fields) != self.num_proposal_network_iterations:
            raise ValueError(f"{self.num_proposal_network_iterations} proposal rounds, but {len(fields)} densities.")
        assert rays.nears is not None and rays.fars is not None
        if jitter is None:
            jitter = rays.metadata.get(JITTER)
        if jitter is None and self.training:
            jitter = torch.rand(*rays.shape, len(self.counts), device=rays.origins.device)
        if self.ray_spacing is not None:
            to_distance, to_spacing = self.ray_spacing(rays)
        else:
            to_distance, to_spacing = spacing_maps(self.initial_sampler, rays.nears, rays.fars)
        anneal = self._anneal if self.training else 1.0
        start = self.start if self.training else 0.0
        t = torch.cat([torch.full_like(rays.nears, start), torch.ones_like(rays.fars)], dim=-1)
        weights = torch.ones_like(rays.nears)
        proposals: list[Round] = []
        intervals = 1
        for index, count in enumerate(self.counts):
            with torch.no_grad():
                if index > 0:
                    dilation = self.dilation_bias + self.dilation_multiplier * (1.0 - start) / intervals
                    if dilation > 0:
                        t, weights = max_dilate(t, weights, dilation, start)
                        if self.drop_dilated_ends:
                            t, weights = t[..., 1:-1], weights[..., 1:-1]
                    weights = weights + self.resample_padding * (t[..., 1:] - t[..., :-1])
                shift = None if jitter is None else jitter[..., index : index + 1]
                t = sample_intervals(t, anneal_weights(weights, t, anneal), count, shift, start)
                distance = to_distance(t)
                if guide is not None and index == len(fields):
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
            if index < len(fields):
                proposals.append(_evaluated(samples, fields[index], self.opaque_end))
                weights = proposals[-1].weights[..., 0].detach()
        return samples, proposals


def _evaluated(samples: RaySamples, field: RayField, opaque_end: bool) -> Round:
    """A field at samples, and what is rendered of them."""
    outputs = field(samples)
    assert samples.deltas is not None
    weights = render_weights(outputs[FieldHeadNames.DENSITY][..., 0] * samples.deltas[..., 0], opaque_end)
    return Round(samples, weights[..., None], outputs)


def spacing_maps(
    sampler: Sampler, near: Float[Tensor, "n 1"], far: Float[Tensor, "n 1"]
) -> tuple[SpacingMap, SpacingMap]:
    """The map from normalized distance in [0, 1] to ray distance in [near, far], and its inverse.

    1 goes to the far plane itself and nothing beyond it: the curves that level out have no digits left there. In
    float32, the power ladder would end at 81,919 in place of a million, and at 10,128 in place of 10,000.

    Args:
        sampler: one of `SPACED_SAMPLERS`, whose spacing function says what even steps are even in.
        near, far: planes in ray distance, scene units.
    Source: mip-NeRF 360, equation 11.
    """
    assert isinstance(sampler, SpacedSampler)
    near = torch.where(near > 0, near, _SMALLEST_NEAR * far) if isinstance(sampler, LinearDisparitySampler) else near
    warp, unwarp = sampler.spacing_fn, sampler.spacing_fn_inv
    low, high = warp(near), warp(far)

    def to_distance(s: Float[Tensor, "n s"]) -> Float[Tensor, "n s"]:
        return torch.where(s >= 1, far, unwarp(low * (1.0 - s) + high * s).minimum(far))

    return to_distance, lambda t: (warp(t) - low) / (high - low)
