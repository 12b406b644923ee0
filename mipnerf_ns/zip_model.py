"""Zip-NeRF as a nerfstudio model: proposals and color on hash grids that see cones, compared free of aliasing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.model_components.losses import lossfun_distortion
from torch import Tensor, nn
from torch.nn import Parameter

from common_ns.errors import InputError
from common_ns.hash_grid import HashGrid, HashGridOptions
from common_ns.hash_grid.decay import normalized_weight_decay
from common_ns.rays.cones import pixel_radius
from common_ns.rays.power_ladder import power_ladder
from common_ns.rays.random_numbers import RayRandomness
from mipnerf_ns.base_model import ProposalModel, ProposalModelConfig
from mipnerf_ns.blurred_steps import blurred_interlevel_loss
from mipnerf_ns.hash_field import POINTS, TURNS, HashDensityField, HashField, tables_apart
from mipnerf_ns.multisampling import NumPoints
from mipnerf_ns.proposal_sampler import RayField, Round

DISTORTION_LADDER = (-0.25, 1e4)
"""Power, and factor on scene units, of the curve of distances that the distortion loss is measured in (the authors' 360
settings): errors count by their share of the distance."""

WIDE = 2.8
"""See `ZipNerfModelConfig.num_wide_multisamples`; between a half and a quarter of the size."""

TABLE_DECAY = (5e-4, 5e-2)
"""The authors' weights of the tables' decay on captures and on objects."""

WIDEST = "widest_pixel_area"
"""Metadata of a picture's rays: pixel area [n 1] of its widest pixel."""


@dataclass
class ZipNerfModelConfig(ProposalModelConfig):
    """Zip-NeRF (arXiv 2304.06706) with the paper's settings."""

    _target: type = field(default_factory=lambda: ZipNerfModel)
    """target class to instantiate"""
    grid: HashGridOptions = field(
        default_factory=lambda: HashGridOptions(
            num_levels=10, features_per_level=4, log2_table_size=21, max_resolution=8192
        )
    )
    """Hash grid of the field with color."""
    proposal_grids: tuple[HashGridOptions, ...] = field(
        default_factory=lambda: (
            HashGridOptions(num_levels=6, features_per_level=1, log2_table_size=21, max_resolution=512),
            HashGridOptions(num_levels=8, features_per_level=1, log2_table_size=21, max_resolution=2048),
        )
    )
    """Hash grid of each proposal round; each round has a network of its own."""
    capture_near_plane: float = 0.0
    """Ray distance of a capture's first sample in scene units, where near_plane is None."""
    num_proposal_samples: tuple[int, ...] = (64, 64)
    """Intervals per ray of each proposal round."""
    dilation_multiplier: float = 0.0
    """Widening of proposal intervals before resampling, relative to the mean length that intervals should have. 0, as
    the authors': proposals learn blurred weights, which are wide enough."""
    dilation_bias: float = 0.0
    """Widening of proposal intervals before resampling, in normalized ray distance."""
    hidden_dim: int = 64
    """Width of the network on the features of the grid with color."""
    proposal_hidden_dim: int = 64
    """Width of the proposals' networks."""
    bottleneck_dim: int = 256
    """Channels from there to the color head."""
    num_color_layers: int = 3
    """Hidden layers of the color head."""
    color_hidden_dim: int = 256
    """Width of these layers."""
    color_skip: bool = True
    """Join what enters the color head again before its output."""
    num_direction_frequencies: int = 4
    """Octaves of the view direction's encoding."""
    density_bias: float = -1.0
    """Added to the raw density before the exponential."""
    num_multisamples: NumPoints = 6
    """Points on a spiral that stand for each interval of a cone. 6: the paper's, exact in mean and variance; 3: half as
    many lookups; 1: the interval's mean alone."""
    num_proposal_multisamples: NumPoints | None = None
    """The same for intervals of the proposal rounds, most of a step's lookups; None: as num_multisamples."""
    num_wide_multisamples: NumPoints = 3
    """Points of each interval, outside of training, of pictures whose pixels are more than 2.8 times as wide as any
    that was trained on: of a fraction of the size, or from afar. The field has learned what narrow cones show at few
    points; of wide ones they leave out more. Rounds that have as many points anyway keep theirs; 1: all do."""
    fade_levels: bool = True
    """Fade out grid levels that are finer than a sample (down-weighting)."""
    tell_fading: bool = True
    """Tell the networks how far each level is faded out (scale featurization); nothing without fade-levels."""
    blur_radii: tuple[float, ...] = (0.03, 0.003)
    """For each proposal round, half-width in normalized distance of the box that blurs the last round's weights before
    the two are compared; empty: mip-NeRF 360's comparison, without blur."""
    table_decay_mult: float | None = None
    """Weight of the mean squares of the tables' features, summed over levels; None: the authors', 0.0005 for captures
    and 0.05 for objects. (They store a tenth of a feature and take half of the weight that they state: 0.1 and 10.)"""
    interlevel_loss_mult: float = 0.01
    """Weight of the loss that makes proposals follow the last round's weights."""
    distortion_loss_mult: float = 0.01
    """Weight of the loss that gathers each ray's weights in one place: against floaters and fog."""


class ZipNerfNumbers(NamedTuple):
    """Uniform random numbers in [0, 1) of training rays."""

    jitter: Float[Tensor, "n rounds"]
    """Shift of each round's samples along the ray."""
    turns: Float[Tensor, "n 2*s"]
    """Turn and mirroring of each interval's points, round by round; no numbers where a point is all there is."""
    background: Float[Tensor, "n 3"]
    """Color behind the ray, where it is random."""


class ZipNerfModel(ProposalModel):
    """A network on a hash grid for each proposal round and for color, read at several points of each interval.

    Args:
        config: the model's config.
    """

    config: ZipNerfModelConfig
    field: HashField
    proposal: nn.ModuleList  # type: ignore[assignment]
    capture_spacing = "power"

    def build_fields(self, contracted: bool, position_scale: float) -> tuple[nn.ModuleList, HashField]:  # type: ignore[override]
        """The proposals' networks, and the one with color; arguments as the base's."""
        config = self.config
        for name, values in (("num-proposal-samples", config.num_proposal_samples), ("blur-radii", config.blur_radii)):
            number = len(config.proposal_grids)
            if len(values) != number and (values or name == "num-proposal-samples"):
                problem = f"{number} proposal rounds (proposal-grids), but {len(values)} in {name}"
                raise InputError(problem, f"Give {number} numbers to --pipeline.model.{name}")
        on_capture, on_object = TABLE_DECAY
        usual = on_object if self.ray_bounds.bounded else on_capture
        self.table_decay = usual if config.table_decay_mult is None else config.table_decay_mult
        if self.space is not None:
            position_scale = 1.0  # nor is the density's start: it is one in the space
        elif not contracted:
            position_scale = 1.0 / self.ray_bounds.extent
        shared: dict[str, Any] = {
            "contracted": contracted,
            "position_scale": position_scale,
            "density_bias": config.density_bias + math.log(position_scale),
            "fade_levels": config.fade_levels,
            "tell_fading": config.tell_fading,
            "space": self.space,
        }
        proposals = nn.ModuleList(
            HashDensityField(
                grid,
                config.proposal_hidden_dim,
                num_multisamples=config.num_proposal_multisamples or config.num_multisamples,
                **shared,
            )
            for grid in config.proposal_grids
        )
        colored = HashField(
            grid=config.grid,
            hidden_dim=config.hidden_dim,
            bottleneck_dim=config.bottleneck_dim,
            num_color_layers=config.num_color_layers,
            color_hidden_dim=config.color_hidden_dim,
            color_skip=config.color_skip,
            num_direction_frequencies=config.num_direction_frequencies,
            num_multisamples=config.num_multisamples,
            num_images=self.num_train_data,
            appearance_dim=config.appearance_dim,
            appearance_std=config.appearance_std,
            **shared,
        )
        return proposals, colored

    def declare_randomness(self, num_rounds: int) -> RayRandomness:
        return RayRandomness(ZipNerfNumbers, jitter=num_rounds, turns=sum(self._turn_counts), background=3)

    @property
    def _turn_counts(self) -> list[int]:
        """How many random numbers turn the points of each round's intervals."""
        fields = (*self.proposal, self.field)
        return [2 * count * (field.num_multisamples > 1) for count, field in zip(self.sampler.counts, fields)]  # type: ignore[operator]

    @property
    def round_fields(self) -> list[RayField]:
        """The field of each round."""
        return [*self.proposal, self.field]

    @property
    def grids(self) -> list[HashGrid]:
        """The grid of each round."""
        return [each.grid for each in (*self.proposal, self.field)]  # type: ignore[misc]

    @property
    def tables(self) -> list[Parameter]:
        """Features of all grids."""
        return [grid.table for grid in self.grids]

    def picture_rays(self, rays: RayBundle) -> RayBundle:
        """All pixels of a picture count as wide as its widest, or it would have a seam: those of a perspective camera
        narrow towards the corners."""
        rays = rays[...]  # a shallow copy
        rays.metadata = {**rays.metadata, WIDEST: rays.pixel_area.amax().expand_as(rays.pixel_area)}
        return rays

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        """As the base's; rays of wide pixels are asked at more points, each by its own width, in whichever chunk."""
        wide = self._wide(ray_bundle)
        if wide is None or bool(wide.all()) or not bool(wide.any()):
            return super().get_outputs(ray_bundle)
        parts = [(where, super(ZipNerfModel, self).get_outputs(ray_bundle[where])) for where in (wide, ~wide)]
        outputs: dict[str, Tensor] = {}
        for name, value in parts[0][1].items():
            outputs[name] = value.new_empty(*wide.shape, *value.shape[1:])
            for where, found in parts:
                outputs[name][where] = found[name]
        return outputs

    def _wide(self, rays: RayBundle) -> Bool[Tensor, "*n"] | None:
        """Which rays have wide pixels; None: it is not asked, or not known."""
        trained = self.metadata.get("widest_pixel")
        if self.training or trained is None or self.config.num_wide_multisamples <= self.config.num_multisamples:
            return None
        return (pixel_radius(rays.metadata.get(WIDEST, rays.pixel_area)) > WIDE * trained)[..., 0]

    def viewed_fields(self, rays: RayBundle, last: RayField | None = None) -> list[RayField]:
        fields, wide = super().viewed_fields(rays, last), self._wide(rays)
        if wide is None or not wide.numel() or not bool(wide.all()):
            return fields
        points, more = [each.num_multisamples for each in self.round_fields], self.config.num_wide_multisamples  # type: ignore[attr-defined]
        return [_told(field, {POINTS: more}) if more > fewer else field for field, fewer in zip(fields, points)]

    def trained_fields(self, numbers: ZipNerfNumbers) -> list[RayField]:
        """`round_fields` whose points are turned at random."""
        rounds = zip(self.round_fields, numbers.turns.split(self._turn_counts, dim=-1))
        return [
            _told(field, {TURNS: turns.unflatten(-1, (-1, 2))}) if turns.shape[-1] else field for field, turns in rounds
        ]

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        return tables_apart(super().get_param_groups(), self.grids)

    def networks(self) -> list[list[Parameter]]:
        """Those of each proposal round, and the base's."""
        proposals = {id(parameter) for parameter in self.proposal.parameters()}
        others = [[p for p in network if id(p) not in proposals] for network in super().networks()]
        return [*(list(proposal.parameters()) for proposal in self.proposal), *(other for other in others if other)]

    def _interlevel(self, last: Round, proposal: Round, index: int) -> Float[Tensor, "n"]:
        """With blur, where there is one."""
        if not self.config.blur_radii:
            return super()._interlevel(last, proposal, index)
        weights, bins = last.weights[..., 0].detach(), proposal.bins.detach()
        radius = self.config.blur_radii[index]
        return blurred_interlevel_loss(last.bins, weights, bins, proposal.weights[..., 0], radius)

    def _distortion(self, last: Round) -> Float[Tensor, "n"]:
        """On the curve of `DISTORTION_LADDER`, where rays are sampled on one."""
        if self.sampler.spacing != "power":
            return super()._distortion(last)
        return lossfun_distortion(power_ladder(last.distances, *DISTORTION_LADDER), last.weights[..., 0])

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor], metrics_dict: dict | None = None
    ) -> dict[str, Tensor]:
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if self.training and self.table_decay > 0:
            decay = [normalized_weight_decay(grid.table, grid.shape) for grid in self.grids]
            losses["table_decay"] = self.table_decay * torch.stack(decay).sum()
        return losses


def _told(field: RayField, said: dict[str, Any]) -> RayField:
    """A field whose samples say something more."""

    def at(samples: RaySamples) -> dict[FieldHeadNames, Tensor]:
        samples.metadata = {**(samples.metadata or {}), **said}
        return field(samples)

    return at
