"""NeuS as a nerfstudio model: rays end where the signed distance says, softly at first and ever more sharply."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor
from torch.nn import Parameter

from common_ns.errors import InputError
from common_ns.rays.random_numbers import RayRandomness
from common_ns.rays.transmittance import render_weights
from hashnffb_sdf_ns.background import BackgroundField, BackgroundOptions, background_sections
from hashnffb_sdf_ns.base_model import FIELD_LOSSES, FieldLosses, SurfaceModel, SurfaceModelConfig
from hashnffb_sdf_ns.neus import (
    annealed_slope,
    eikonal_error,
    median_depth,
    midpoint_optical_depth,
)
from hashnffb_sdf_ns.sampling import RaySections, SurfaceSampler, random_in_ball
from hashnffb_sdf_ns.sdf_networks import InverseVariance


@dataclass
class NeusModelConfig(SurfaceModelConfig):
    """NeuS (arXiv 2106.10689)."""

    _target: type = field(default_factory=lambda: NeusModel)
    """target class to instantiate"""
    num_samples: int = 64
    """Even intervals of each ray through the sphere."""
    num_upsamples: tuple[int, ...] = (16, 16, 16, 16)
    """Intervals that each further round adds around the surface; rounds look at distances only."""
    weight_threshold: float = 1e-4
    """Intervals whose weight, judged by the distances at their ends, is below this get neither gradient nor color: all
    that is far in front of a surface or behind it. 0: all get both."""
    cos_anneal_steps: int = 50000
    """Steps over which rays are gradually held to end where they enter the surface only (NeuS's cosine annealing)."""
    direction_noise: float = 0.0
    """Standard deviation of random turns, in radians, of the directions in which training rays see colors. Where
    shadows and light move with the camera, colors overfit to each photograph, and views between them suffer; 0.1
    then makes neighboring photographs share what they teach. It blurs reflections."""
    initial_inv_s: float = 20.0
    """Sharpness of the surface at the start, per radius of the sphere; it is learned."""
    inv_s_bounds: tuple[float, float] = (5.0, 5000.0)
    """Least and largest sharpness."""
    background_model: Literal["auto", "none", "contracted"] = "auto"
    """What is beyond the sphere. contracted: a small radiance field up to infinity; none: background_color. auto: none
    where masks or alpha tell the object from what is around it, else contracted."""
    background: BackgroundOptions = field(default_factory=BackgroundOptions)
    """Size of the background's field."""


class NeusNumbers(NamedTuple):
    """Uniform random numbers in [0, 1) of training rays."""

    sections: Float[Tensor, "n r"]
    """Shift of the even intervals, and of the bounds that each further round adds."""
    turn: Float[Tensor, "n 3"]
    """Turn of the direction in which colors are seen."""
    point: Float[Tensor, "n 3"]
    """A point in the sphere, at which the field's gradient is looked at."""
    behind: Float[Tensor, "n 1"]
    """Shift of the background's samples."""
    background: Float[Tensor, "n 3"]
    """Color behind the ray, where it is random."""


class Shading(NamedTuple):
    """The intervals of a batch of rays that count, as a flat list."""

    ray: Int[Tensor, " k"]
    """Of which ray each is."""
    column: Int[Tensor, " k"]
    """The how-manieth of its ray it is."""


class NeusModel(SurfaceModel):
    """Volume rendering of a signed distance field.

    Rounds of sampling find the surface by distances alone. Of the intervals, those that carry weight get gradient,
    features and color; the others keep the optical depth that the distances gave them. Late in training these are nine
    of ten.

    Args:
        config: the model's config.
    """

    config: NeusModelConfig
    randomness: RayRandomness[NeusNumbers]

    def populate_modules(self) -> None:
        """Build the sharpness and the background besides what surfaces have."""
        config = self.config
        low, high = config.inv_s_bounds
        if not 0 <= low < config.initial_inv_s <= high:
            problem = f"initial-inv-s {config.initial_inv_s:g} is not within {low:g} and {high:g}"
            raise InputError(problem, "Choose inv-s-bounds around it")
        if config.num_samples < 2 or any(count < 1 for count in config.num_upsamples):
            problem = f"num-samples is {config.num_samples}, num-upsamples {config.num_upsamples}"
            raise InputError(problem, "Choose at least 2 samples, and rounds of at least 1")
        self.anneal_fraction = 1.0
        super().populate_modules()
        self.sampler = SurfaceSampler(config.num_samples, config.num_upsamples, self.radius)
        self.inv_s = InverseVariance(config.initial_inv_s, low, high)
        kind = config.background_model
        if kind == "auto":
            kind = "none" if self.uses_masks or self.has_alpha else "contracted"
        self.background = None
        if kind == "contracted":
            direction_dim = self.field.encode_directions(torch.zeros(1, 3)).shape[-1]
            self.background = BackgroundField(config.background, direction_dim)
        if not 0.0 <= config.direction_noise < 1.0:
            problem = f"direction-noise is {config.direction_noise:g}"
            raise InputError(problem, "Choose it from 0 to 1, in radians; 0.1 is usual")
        self.randomness = RayRandomness(
            NeusNumbers, sections=1 + len(config.num_upsamples), turn=3, point=3, behind=1, background=3
        )
        self.report(f"background model {kind}")

    def set_step(self, step: int) -> None:
        super().set_step(step)
        steps = self.config.cos_anneal_steps
        self.anneal_fraction = min(step / steps, 1.0) if steps > 0 else 1.0

    def grid_tables(self) -> list[Parameter]:
        return [*super().grid_tables(), *([] if self.background is None else [self.background.grid.table])]

    @property
    def num_sections(self) -> int:
        """Intervals of a ray within the sphere."""
        return self.config.num_samples + sum(self.config.num_upsamples)

    @property
    def points_per_ray(self) -> int:
        """Points of all rounds, of shading, and of the background."""
        behind = 0 if self.background is None else self.config.background.num_samples
        return 2 * self.num_sections + 2 + behind

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Render rays [n].

        Returns: rgb, accumulation, depth (median, ray distance), foreground (opacity of the surface alone, where there
            is a background model); outside of training normals in [0, 1] and sdf_slice; in training `FieldLosses`.
        """
        numbers: NeusNumbers | None = None
        if self.training:
            ray_bundle = self.training_rays(ray_bundle)
            numbers = self.randomness.of(ray_bundle.metadata, len(ray_bundle), ray_bundle.origins.device)
        rays = ray_bundle
        sections = self.sampler(rays, self.field.sdf, None if numbers is None else numbers.sections)
        optical_depth, color, normals, losses = self._shade(rays, sections, numbers)
        outputs: dict[str, Any] = {} if losses is None else {FIELD_LOSSES: losses}
        starts, ends = sections.t[:, :-1], sections.t[:, 1:]
        if self.background is not None:
            behind_t, behind_depth, behind_color = self._behind(rays, numbers)
            optical_depth = torch.cat([optical_depth, behind_depth], dim=-1)
            color = torch.cat([color, behind_color], dim=1)
            starts, ends = torch.cat([starts, behind_t], dim=-1), torch.cat([ends, behind_t], dim=-1)
        weights = render_weights(optical_depth)
        outputs["rgb"] = self.renderer_rgb(color, weights[..., None])
        outputs["accumulation"] = weights.sum(-1, keepdim=True)
        if self.background is not None:
            outputs["foreground"] = weights[:, : self.num_sections].sum(-1, keepdim=True)
        if numbers is not None and self.renderer_rgb.background_color == "random":
            outputs["background"] = numbers.background
        with torch.no_grad():
            outputs["depth"] = median_depth(starts, ends, weights)
            if not self.training:
                if self.config.compute_normals:
                    of_surface = weights[:, : self.num_sections, None]
                    outputs["normals"] = self.render_normals(of_surface, lambda where: normals[where])
                outputs["sdf_slice"] = self.slice_output(rays)
        return outputs

    def _shade(
        self, rays: RayBundle, sections: RaySections, numbers: NeusNumbers | None
    ) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s 3"], Float[Tensor, "n s 3"], FieldLosses | None]:
        """Optical depth, color and unit normal of all intervals, and in training the losses of the field itself."""
        directions = F.normalize(rays.directions, dim=-1)
        speed = rays.directions.norm(dim=-1, keepdim=True)
        length = (sections.t[:, 1:] - sections.t[:, :-1]) * speed.detach()
        inv_s = self.inv_s() / self.radius
        with torch.no_grad():
            middle = 0.5 * (sections.sdf[:, 1:] + sections.sdf[:, :-1])
            slope = ((sections.sdf[:, 1:] - sections.sdf[:, :-1]) / length.clamp_min(1e-8)).clamp(-1.0, 1.0)
            estimate = midpoint_optical_depth(middle, annealed_slope(slope, self.anneal_fraction), length, inv_s)
            keep = render_weights(estimate) >= self.config.weight_threshold
            if not bool(keep.any()):
                keep[:1, :1] = True  # networks are given at least one point
            ray, column = keep.nonzero(as_tuple=True)
        where = Shading(ray, column)
        t = 0.5 * (sections.t[:, 1:] + sections.t[:, :-1])[where]
        points = torch.addcmul(rays.origins[ray], rays.directions[ray], t[:, None])
        count = len(points)
        if numbers is not None:
            center = points.new_tensor(self.center)
            at_random = random_in_ball(numbers.point, center, self.radius)
            points = torch.cat([points, at_random])
        geometry = self.field.geometry(points)
        gradient = geometry.gradient[:count]
        normals = F.normalize(gradient, dim=-1, eps=1e-6)
        slope = annealed_slope((gradient * directions[ray]).sum(-1), self.anneal_fraction)
        optical_depth = estimate.index_put(
            where, midpoint_optical_depth(geometry.sdf[:count], slope, length[where], inv_s)
        )
        seen_along = self.field.encode_directions(self._turned(directions, numbers))
        codes = self.field.codes_of(rays.camera_indices, len(directions))
        shown = self.field.color(
            points[:count],
            seen_along[ray],
            normals,
            geometry.features[:count],
            None if codes is None else codes[ray],
        )
        empty = shown.new_zeros(*keep.shape, 3)
        losses = None
        if numbers is not None:
            eikonal = self._per_ray(eikonal_error(geometry.gradient), where, keep.shape)
            curvature = None
            if self.config.curvature_loss_mult > 0 and geometry.laplacian is not None:
                curvature = self._per_ray(geometry.laplacian.abs(), where, keep.shape)
            losses = FieldLosses(eikonal, curvature)
        dense_normals = empty if self.training else empty.index_put(where, normals.detach())
        return optical_depth, empty.index_put(where, shown), dense_normals, losses

    def _turned(self, directions: Float[Tensor, "n 3"], numbers: NeusNumbers | None) -> Float[Tensor, "n 3"]:
        """Directions, in training turned at random."""
        if numbers is None or self.config.direction_noise == 0.0:
            return directions
        # Uniform in a cube, whose standard deviation along each axis is half of its side by the root of three.
        shift = (2.0 * numbers.turn - 1.0) * 3.0**0.5
        return F.normalize(directions + self.config.direction_noise * shift, dim=-1)

    def _per_ray(
        self, errors: Float[Tensor, " m"], where: Shading, shape: tuple[int, ...] | torch.Size
    ) -> Float[Tensor, "n 1"]:
        """Sum over a ray's shaded intervals, relative to all of its intervals, and the error at its random point.

        Losses are means over rays, so that they do not depend on how rays are divided into chunks.
        """
        rays, sections = shape
        shaded, at_random = errors.split([len(where.ray), rays])
        return (at_random + errors.new_zeros(rays).index_add(0, where.ray, shaded) / sections)[:, None]

    def _behind(
        self, rays: RayBundle, numbers: NeusNumbers | None
    ) -> tuple[Float[Tensor, "n b"], Float[Tensor, "n b"], Float[Tensor, "n b 3"]]:
        """Ray distance, optical depth and color of the samples beyond the sphere. The last one stands for infinity and
        is opaque."""
        assert self.background is not None and rays.fars is not None
        origins = self.field.to_unit(rays.origins)
        directions = rays.directions / self.radius
        jitter = None if numbers is None else numbers.behind
        count = self.config.background.num_samples
        t, length = background_sections(origins, directions, rays.fars, count, jitter)
        u = torch.addcmul(origins[:, None], directions[:, None], t[..., None]).reshape(-1, 3)
        seen_along = self.field.encode_directions(rays.directions)
        density, color = self.background(u, seen_along[:, None].expand(-1, count, -1).reshape(len(u), -1))
        depth = density.reshape(t.shape) * length
        opaque = torch.full_like(depth[:, -1:], 50.0)
        return t, torch.cat([depth[:, :-1], opaque], dim=-1), color.reshape(*t.shape, 3)

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        metrics = super().get_metrics_dict(outputs, batch)
        metrics["inv_s"] = self.inv_s().detach()
        return metrics
