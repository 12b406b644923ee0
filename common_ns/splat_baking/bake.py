"""Gaussians at what the rays of a trained field see.

Rays of the training cameras at drawn pixels are rendered. Each that is more than half opaque gives a Gaussian at its
median depth, of the ray's color; sizes follow from the distances between them (`shapes`). What is nearly at infinity
goes onto a far shell. How the color depends on the view is asked of the field at the Gaussian's place, for some of the
training cameras that see it: differences to the color along its own ray are fitted (`view_colors`), so that seen along
that ray it stays what the whole ray has shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from common_ns.errors import InputError
from common_ns.meshing.iso_field import IsoField, iso_field_of
from common_ns.splat_baking.gaussians import Gaussians
from common_ns.splat_baking.photographs import viewmat_of
from common_ns.splat_baking.shapes import SURE, shapes, spacings, standard_deviations
from common_ns.splat_baking.view_colors import Choice, fitted_coefficients, visible

OPACITY = 0.9
"""Of all Gaussians: several overlap at each place."""
RAYS_PER_BATCH = 4096
"""Rays that are rendered at once."""
MOST_RAYS = 12
"""Rays for each Gaussian that was asked for, after which no more are drawn: the others saw nothing."""
VIEWS = 5
"""Cameras, beside its own, that a Gaussian's color is asked for."""
SHELL = 100.0
"""Distance of the far shell, as a multiple of the capture's size."""
POINTS_PER_BATCH = 32768
"""Points at which the field is asked for colors at once."""


@dataclass(frozen=True)
class Samples:
    """What rays of the training cameras have met."""

    points: Float[Tensor, "n 3"]
    """In scene units."""
    colors: Float[Tensor, "n 3"]
    """In [0, 1], as the ray shows them."""
    directions: Float[Tensor, "n 3"]
    """Unit vectors from the camera to the point."""
    footprint: Float[Tensor, "n"]
    """Side of the ray's pixel at the point, in scene units."""
    normals: Float[Tensor, "n 3"] | None
    """Outward, of length 0 to 1 by how sure they are; None: not known."""
    far: Bool[Tensor, "n"]
    """Which are on the far shell."""
    pixels: float
    """Of all photographs that show something, for each point."""


def is_surface(model: Any) -> bool:
    """Whether a model's field is a distance, whose gradients are good normals.

    Raises: InputError if the model has no field with colors.
    """
    try:
        field = iso_field_of(model)
    except InputError:
        field = None
    if field is None or field.color is None:
        problem = f"the run is of {type(model).__name__}, which has no colors that photographs were taken of"
        raise InputError(problem, "Give a run of a radiance or surface method")
    return not field.inside_above


def camera_extent(camera_to_worlds: Float[Tensor, "c 3 4"]) -> float:
    """1.1 times the largest distance of a camera from their mean, in scene units, as in 3D Gaussian Splatting."""
    positions = camera_to_worlds[:, :3, 3].double().cpu()
    return 1.1 * float((positions - positions.mean(dim=0)).norm(dim=-1).max())


@torch.no_grad()
def sample_rays(pipeline: Any, count: int, on_progress: Callable[[float], None] = lambda fraction: None) -> Samples:
    """Render rays of training cameras until so many have met something.

    Args:
        pipeline: of a trained run, in evaluation mode. Random numbers are torch's global ones.
        count: of points; fewer come back if nearly all rays meet nothing.
        on_progress: called with the fraction that is done.
    Raises: InputError if no ray has met anything.
    """
    model, datamanager = pipeline.model, pipeline.datamanager
    surface = is_surface(model)
    config = model.config
    had_normals = getattr(config, "compute_normals", None)
    if had_normals is not None:
        config.compute_normals = surface  # gradients of a density take long, and are no good normals
    bounds = getattr(model, "ray_bounds", None)
    open_scene = not (bounds.bounded if bounds is not None else True)
    extent = camera_extent(datamanager.train_dataset.cameras.camera_to_worlds)
    datamanager.train_pixel_sampler.num_rays_per_batch = RAYS_PER_BATCH
    parts: list[dict[str, Tensor]] = []
    found = drawn = 0
    while found < count and drawn < MOST_RAYS * count + RAYS_PER_BATCH:
        rays, _ = datamanager.next_train(0)
        drawn += len(rays)
        # Sides of pixels before the collider and the model change anything.
        side = rays.pixel_area[:, 0].sqrt()
        outputs = model(rays)
        depth = outputs.get("depth_median", outputs["depth"])[:, 0]
        opaque = outputs["accumulation"][:, 0] > 0.5
        kept = opaque | open_scene
        length = rays.directions.norm(dim=-1)
        part = {
            "origins": rays.origins,
            "directions": rays.directions / length[:, None],
            "depth": torch.where(opaque, depth * length, torch.inf),
            "colors": outputs["rgb"].clamp(0.0, 1.0),
            "side": side,
        }
        if surface and "normals" in outputs:
            part["normals"] = 2.0 * outputs["normals"] - 1.0
        kept &= torch.isfinite(part["colors"]).all(dim=-1) & ~torch.isnan(part["depth"])
        parts.append({name: value[kept].float().cpu() for name, value in part.items()})
        found += int(kept.sum())
        on_progress(min(found / count, 1.0))
    if had_normals is not None:
        config.compute_normals = had_normals
    if found < 2:
        raise InputError(f"none of {drawn:,} rays of the training cameras meets anything", "Train the run longer")
    joined = {name: torch.cat([part[name] for part in parts])[:count] for name in parts[0]}
    depth = joined["depth"]
    cameras = datamanager.train_dataset.cameras
    pixels = float((cameras.width.double() * cameras.height.double()).sum())
    finite = depth[torch.isfinite(depth)]
    size = max(extent, float(finite.median()) if len(finite) else 1.0)
    far = depth > SHELL * size
    depth = depth.clamp_max(SHELL * size)
    return Samples(
        points=joined["origins"] + joined["directions"] * depth[:, None],
        colors=joined["colors"],
        directions=joined["directions"],
        footprint=joined["side"] * depth,
        normals=joined.get("normals"),
        far=far,
        pixels=pixels * found / drawn / len(depth),
    )


@torch.no_grad()
def follow_views(
    field: IsoField, samples: Samples, cameras: Cameras, degree: int, generator: torch.Generator
) -> Float[Tensor, "n k 3"]:
    """Coefficients of the colors' harmonics.

    Args:
        field: the trained field, with colors.
        samples: the points.
        cameras: of the training photographs; they count as pinhole cameras here.
        degree: of the harmonics, 1 to 3.
        generator: of random numbers.
    """
    assert field.color is not None
    color, color_along = field.color, field.color_along
    along = color_along if color_along is not None else lambda points, directions: color(points, -directions)
    cameras = cameras.to("cpu")
    poses = cameras.camera_to_worlds
    choice = Choice(len(samples.points), VIEWS, generator)
    for index in range(len(poses)):
        fx, fy, cx, cy = (float(getattr(cameras, name)[index]) for name in ("fx", "fy", "cx", "cy"))
        K = torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
        size = (int(cameras.width[index]), int(cameras.height[index]))
        choice.offer(index, visible(samples.points, viewmat_of(poses[index].double()).float(), K, size))
    chosen = choice.chosen
    towards = samples.points[:, None] - poses[chosen.clamp_min(0), :3, 3]
    directions = torch.cat([samples.directions[:, None], torch.nn.functional.normalize(towards, dim=-1)], dim=1)
    # What is on the far shell looks the same from everywhere.
    asked = torch.cat([torch.ones(len(chosen), 1, dtype=torch.bool), chosen >= 0], dim=1) & ~samples.far[:, None]
    if samples.normals is not None:  # a surface's field knows nothing of what is behind it
        asked &= (samples.normals.norm(dim=-1) > SURE)[:, None]
    seen = torch.zeros_like(directions)
    places = samples.points[:, None].expand_as(directions)[asked]
    wanted = directions[asked]
    answers = [
        along(places[i : i + POINTS_PER_BATCH].to(field.device), wanted[i : i + POINTS_PER_BATCH].to(field.device))
        for i in range(0, len(places), POINTS_PER_BATCH)
    ]
    if answers:
        seen[asked] = torch.cat(answers).float().cpu()
    seen = (seen - seen[:, :1] + samples.colors[:, None]).clamp(0.0, 1.0)
    weights = asked.float()
    weights[:, 0] = 1.0
    return fitted_coefficients(directions, seen, weights, degree)


def bake(
    pipeline: Any, count: int, degree: int, seed: int = 0, on_progress: Callable[[float], None] = lambda fraction: None
) -> tuple[Gaussians, Samples]:
    """Gaussians of a trained field, and the points that they stand for. The same seed gives the same ones.

    Args:
        pipeline: of a trained run, in evaluation mode.
        count: of Gaussians.
        degree: of the harmonics of their colors, 0 to 3.
        seed: of the drawing.
        on_progress: called with the fraction of the rays that is rendered.
    Raises: InputError if the run has no such field, or no ray meets anything.
    """
    torch.manual_seed(seed)
    samples = sample_rays(pipeline, count, on_progress)
    spacing = torch.from_numpy(spacings(samples.points.numpy().astype(np.float64))).float()
    deviations = standard_deviations(spacing, samples.footprint, samples.pixels)
    scales, quats, _ = shapes(deviations, samples.normals)
    if degree == 0:
        none = torch.ones(len(samples.points), 1)
        coefficients = fitted_coefficients(samples.directions[:, None], samples.colors[:, None], none, 0)
    else:
        # Colors of a field that can be filtered are asked for as large as the Gaussians are.
        near = samples.footprint[~samples.far]
        field = iso_field_of(pipeline.model, voxel_size=float(near.median()) if len(near) else None)
        cameras, generator = pipeline.datamanager.train_dataset.cameras, torch.Generator().manual_seed(seed)
        coefficients = follow_views(field, samples, cameras, degree, generator)
    opacities = torch.full((len(samples.points),), OPACITY)
    return Gaussians(samples.points, quats, scales, opacities, coefficients), samples
