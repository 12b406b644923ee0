"""IDR as a nerfstudio model: a ray has the color of the point where it meets the surface; masks shape the outline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from torch import Tensor

from common_ns.checks import InputError
from hashnffb_sdf_ns.idr import differentiable_intersection, mask_alpha, mask_error
from hashnffb_sdf_ns.model import SurfaceModel, SurfaceModelConfig
from hashnffb_sdf_ns.neus import eikonal_error
from hashnffb_sdf_ns.sampling import random_in_ball
from hashnffb_sdf_ns.sdf_field import Geometry
from hashnffb_sdf_ns.sphere_tracing import Hits, TracingOptions, nearest_on_rays, sphere_trace


@dataclass
class IdrModelConfig(SurfaceModelConfig):
    """IDR (arXiv 2003.09852)."""

    _target: type = field(default_factory=lambda: IdrModel)
    """target class to instantiate"""
    mask_loss_mult: float = 100.0
    """Weight of the masks' loss. They alone move the outline, so that it cannot be 0."""
    charbonnier_padding: float = 0.0
    """Color errors below this count quadratically, those above linearly; 0: absolute errors."""
    mask_alpha: float = 50.0
    """Sharpness α of the masks' loss at the start, per radius of the sphere."""
    mask_alpha_factor: float = 2.0
    """What α is multiplied by at each milestone."""
    mask_alpha_milestones: tuple[int, ...] = (2500, 5000, 7500, 10000, 12500)
    """Steps at which α grows. IDR has them at 1/8, 2/8, … 5/8 of the run."""
    tracing: TracingOptions = field(default_factory=TracingOptions)
    """How thoroughly surfaces are searched along rays."""


class Seen(NamedTuple):
    """Which of a batch's rays teach what."""

    surface: Int[Tensor, " a"]
    """Rays that meet the surface, and should: their colors count."""
    outline: Int[Tensor, " b"]
    """Other rays through the sphere: they miss the surface, or should. Their least distance counts."""
    outline_t: Float[Tensor, " b"]
    """Where on these the distance is least."""


class IdrModel(SurfaceModel):
    """A signed distance field whose surface is found by sphere tracing. It needs masks.

    A ray that meets the surface, and whose pixel is the object's, is compared in color. All others are held to their
    masks by the least distance along them. Points of both kinds move with the surface and with refined cameras.

    Args:
        config: the model's config.
    """

    config: IdrModelConfig

    def populate_modules(self) -> None:
        config = self.config
        if (problem := config.tracing.problem()) is not None:
            raise InputError(problem, "Correct --pipeline.model.tracing")
        if not config.mask_alpha > 0 or not config.mask_alpha_factor >= 1:
            problem = f"mask-alpha is {config.mask_alpha:g}, mask-alpha-factor {config.mask_alpha_factor:g}"
            raise InputError(problem, "Choose the first above 0 and the second at least 1")
        self.alpha = config.mask_alpha
        super().populate_modules()
        self.noise_per_ray = 1 + 3 + 3
        self.report("rendered by sphere tracing")

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Called when a training is set up.

        Raises: InputError without masks. Renderings and exports of a trained run need none.
        """
        self._require_masks()
        return super().get_training_callbacks(training_callback_attributes)

    def _require_masks(self) -> None:
        if self.uses_masks:
            return
        if not self.config.mask_loss_mult > 0:
            problem = f"mask-loss-mult is {self.config.mask_loss_mult:g}, and IDR learns outlines from masks only"
            raise InputError(problem, "Choose it above 0 (100 is usual), or train with hash-neus")
        problem = "the images have neither masks nor alpha, and IDR learns outlines from masks only"
        raise InputError(problem, "Add a mask folder beside the images, or train with hash-neus, which needs none")

    def set_step(self, step: int) -> None:
        super().set_step(step)
        config = self.config
        alpha = mask_alpha(step, config.mask_alpha, config.mask_alpha_milestones, config.mask_alpha_factor)
        self.alpha = alpha / self.radius
        """Present sharpness of the masks' loss, per scene unit."""

    @property
    def points_per_ray(self) -> int:
        """Most points of a ray that are looked at together."""
        return max(self.config.tracing.num_bracket_samples, self.config.tracing.num_mask_samples) + 3

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Render rays [n].

        Returns: rgb, accumulation (0 or 1), depth (ray distance; of rays that meet nothing, that of the sphere's far
            side); outside of training normals in [0, 1] and sdf_slice; in training surface (whether the ray's color
            counts), least_sdf (along all others), eikonal, and curvature if it is asked for.
        """
        rays = self.training_rays(ray_bundle) if self.training else ray_bundle
        assert rays.nears is not None and rays.fars is not None
        hits = sphere_trace(
            self.field.sdf,
            rays.origins.detach(),
            rays.directions.detach(),
            rays.nears,
            rays.fars,
            self.config.tracing,
            self.radius,
        )
        outputs = self._learn(rays, hits) if self.training else self._show(rays, hits)
        outputs["depth"] = hits.t[:, None]
        return outputs

    def _composite(self, color: Float[Tensor, "n 3"], opacity: Float[Tensor, "n 1"]) -> dict[str, Tensor]:
        rgb = self.renderer_rgb(color[:, None], opacity[:, None])
        return {"rgb": rgb, "accumulation": opacity}

    def _color(
        self, rays: RayBundle, rows: Int[Tensor, " k"], points: Float[Tensor, "k 3"], geometry: Geometry
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "k 3"]]:
        """Colors of all rays, 0 for those that are not among `rows`, and the unit normals of these."""
        normals = F.normalize(geometry.gradient, dim=-1, eps=1e-6)
        seen_along = self.field.encode_directions(rays.directions[rows])
        codes = self.field.codes_of(rays.camera_indices, len(rays.directions))
        codes = None if codes is None else codes[rows]
        color = self.field.color(points, seen_along, normals, geometry.features, codes)
        return color.new_zeros(len(rays.directions), 3).index_put((rows,), color), normals

    @torch.no_grad()
    def _show(self, rays: RayBundle, hits: Hits) -> dict[str, Tensor]:
        """What rays see, outside of training."""
        color = normals = torch.zeros_like(rays.directions)
        rows = hits.hit.nonzero()[:, 0]
        if len(rows) > 0:
            points = torch.addcmul(rays.origins[rows], rays.directions[rows], hits.t[rows, None])
            color, found = self._color(rays, rows, points, self.field.geometry(points))
            normals = normals.index_put((rows,), found)
        opacity = hits.hit[:, None].to(color)
        outputs = self._composite(color, opacity)
        if self.config.compute_normals:
            outputs["normals"] = self.render_normals(opacity[..., None], lambda where: normals[:, None][where])
        outputs["sdf_slice"] = self.slice_output(rays)
        return outputs

    def _learn(self, rays: RayBundle, hits: Hits) -> dict[str, Tensor]:
        """What rays see in training, with derivatives, and what the losses need."""
        noise = rays.metadata.get("noise")
        if noise is None:
            noise = torch.rand(len(rays), self.noise_per_ray, device=rays.origins.device)
        seen = self._sort(rays, hits, noise)
        surface = self._intersections(rays, seen.surface, hits.t[seen.surface])
        outline = torch.addcmul(rays.origins[seen.outline], rays.directions[seen.outline], seen.outline_t[:, None])
        at_random = random_in_ball(noise[:, 1:4], noise.new_tensor(self.center), self.radius)
        geometry = self.field.geometry(torch.cat([surface, outline, at_random]))
        counts = [len(surface), len(outline), len(at_random)]
        on_surface = Geometry(*(None if part is None else part[: counts[0]] for part in geometry))  # type: ignore[arg-type]
        color, _ = self._color(rays, seen.surface, surface, on_surface)
        outputs = self._composite(color, hits.hit[:, None].to(color))
        flag = torch.zeros_like(outputs["accumulation"])
        outputs["surface"] = flag.index_fill(0, seen.surface, 1.0)
        least = geometry.sdf[counts[0] : counts[0] + counts[1]]
        outputs["least_sdf"] = flag.index_put((seen.outline,), least[:, None])
        outputs["outline"] = flag.index_fill(0, seen.outline, 1.0)
        rows = torch.cat([seen.surface, seen.outline])
        outputs["eikonal"] = _per_ray(eikonal_error(geometry.gradient), rows)
        if self.config.curvature_loss_mult > 0 and geometry.laplacian is not None:
            outputs["curvature"] = _per_ray(geometry.laplacian.abs(), rows)
        if self.renderer_rgb.background_color == "random":
            outputs["background"] = noise[:, -3:]
        return outputs

    @torch.no_grad()
    def _sort(self, rays: RayBundle, hits: Hits, noise: Float[Tensor, "n k"]) -> Seen:
        """Which rays are compared in color, which by their masks, and the latter's nearest points."""
        assert rays.nears is not None and rays.fars is not None
        surface, crosses = hits.hit, (rays.fars > rays.nears)[:, 0]
        mask: Bool[Tensor, " n"] | None = None
        if "object_mask" in rays.metadata:
            mask = rays.metadata["object_mask"][:, 0] > 0.5
            surface = surface & mask
        # Without masks at hand, all rays may turn out to be none of the object's.
        rows = (crosses if mask is None else crosses & ~surface).nonzero()[:, 0]
        t = nearest_on_rays(
            self.field.sdf,
            rays.origins[rows],
            rays.directions[rows],
            rays.nears[rows],
            rays.fars[rows],
            self.config.tracing.num_mask_samples,
            noise[rows, :1],
            self.radius,
        )
        return Seen(surface.nonzero()[:, 0], rows, t)

    def _intersections(self, rays: RayBundle, rows: Int[Tensor, " k"], t: Float[Tensor, " k"]) -> Float[Tensor, "k 3"]:
        """Points of the surface that follow its parameters, and the cameras' if these are refined."""
        origins, directions = rays.origins[rows], rays.directions[rows]
        points = torch.addcmul(origins, directions, t[:, None])
        with torch.no_grad():
            gradient = self.field.geometry(points.detach()).gradient
        return differentiable_intersection(origins, directions, t, self.field.sdf(points), gradient)

    def surface_and_mask(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[Bool[Tensor, "n 1"], Float[Tensor, "n 1"]]:
        """Which rays' colors count, and the masks.

        Raises: InputError without masks.
        """
        mask = self.mask_of(batch)
        if mask is None:
            self._require_masks()
            raise InputError("the batch has no masks", "Use a datamanager of this package")
        surface = outputs.get("surface", outputs["accumulation"])
        return (surface > 0.5) & (mask > 0.5), mask

    def color_loss(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> Float[Tensor, ""]:
        """Error of the colors, summed over channels, over rays that meet the surface where it should be; relative to
        the number of all rays (IDR, equation 6)."""
        prediction, target = self.blended(outputs, batch)
        error, padding = prediction - target, self.config.charbonnier_padding
        loss = (error.square() + padding**2).sqrt() if padding > 0 else error.abs()
        surface, _ = self.surface_and_mask(outputs, batch)
        return 3.0 * self.mean_over_rays(torch.where(surface, loss, 0.0), batch)

    def mask_loss(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> Float[Tensor, ""] | None:
        """Cross entropy over the other rays, relative to the number of all rays (IDR, equation 7); None outside of
        training, where no ray has looked for its least distance."""
        if "least_sdf" not in outputs:
            return None
        surface, mask = self.surface_and_mask(outputs, batch)
        counts = (outputs["outline"] > 0.5) & ~surface
        return torch.where(counts, mask_error(outputs["least_sdf"], mask, self.alpha), 0.0).mean()

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        metrics = super().get_metrics_dict(outputs, batch)
        if (mask := self.mask_of(batch)) is not None:
            agrees = (outputs["accumulation"] > 0.5) == (mask > 0.5)
            metrics["mask_accuracy"] = agrees.float().mean()
        return metrics


def _per_ray(errors: Float[Tensor, " m"], rows: Int[Tensor, " k"]) -> Float[Tensor, "n 1"]:
    """Mean of a ray's errors at its own point, if it has one, and at its random point, which come last.

    Losses are means over rays, so that they do not depend on how rays are divided into chunks.
    """
    own, at_random = errors[: len(rows)], errors[len(rows) :]
    return 0.5 * (at_random + torch.zeros_like(at_random).index_put((rows,), own, accumulate=True))[:, None]
