"""What a model hands to whoever meshes it: a scalar field, the level of its surface, and how the surface looks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common_ns.errors import InputError


@dataclass(frozen=True)
class IsoField:
    """A scalar field with a surface in it: all that is needed to mesh it, whatever the method behind it."""

    value: Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]
    """The field at points in model coordinates."""
    level: float
    """Value at the surface, in the unit of `value`."""
    inside_above: bool
    """Whether larger values are inside (density, occupancy) rather than smaller ones (SDF)."""
    aabb: Float[Tensor, "2 3"]
    """Lower and upper corner of the region that the field describes, in model coordinates."""
    color: Callable[[Float[Tensor, "n 3"], Float[Tensor, "n 3"]], Float[Tensor, "n 3"]] | None = None
    """Color in [0, 1] at surface points with outward unit normals; in the space of the training images (sRGB)."""
    normal: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]] | None = None
    """Outward unit normals; None: the gradient of `value`, by autograd or, where it has none, by differences."""
    color_along: Callable[[Float[Tensor, "n 3"], Float[Tensor, "n 3"]], Float[Tensor, "n 3"]] | None = None
    """Color in [0, 1] at points as seen along unit directions; None: `color`, with normals opposite to them."""
    shown: Callable[[Float[Tensor, "n 3"]], Bool[Tensor, " n"]] | None = None
    """Which surface points are known to be some, where the field closes what nobody has seen; None: all. The mesh is
    open beside them."""
    device: torch.device | str = "cpu"
    """Where `value`, `color` and `normal` expect their points."""


def default_density_level(aabb: Float[Tensor, "2 3"]) -> float:
    """Density at which a path of 2.5 % of the box diagonal absorbs half of the light: ln 2 / (0.025 · diagonal).

    Low enough for a field after minutes of training; a converged one is so much denser that the surface hardly moves.

    Args:
        aabb: lower and upper corner of the scene box, in scene units.
    Returns: density per scene unit.
    """
    return math.log(2.0) / (0.025 * float(torch.linalg.norm((aabb[1] - aabb[0]).double())))


def iso_field_of(model: Any, level: float | None = None, voxel_size: float | None = None) -> IsoField:
    """The field of a model whose surface is to be meshed.

    Models of this suite have a method `iso_field`. Of other nerfstudio models the SDF (`field.forward_geonetwork`) or
    the density (`field.density_fn`) is taken, and the color that the field shows when seen head-on.

    Args:
        model: a nerfstudio model.
        level: value at the surface; None: 0 for an SDF, `default_density_level` for a density.
        voxel_size: side of the voxels in scene units, for fields that can be filtered to it.
    Raises: InputError if the model has no such field.
    """
    if hasattr(model, "iso_field"):
        return model.iso_field(level=level, voxel_size=voxel_size)
    field = next((f for name in ("field", "field_fine") if (f := getattr(model, name, None)) is not None), None)
    is_sdf = hasattr(field, "forward_geonetwork")
    if field is None or not (is_sdf or hasattr(field, "density_fn")):
        problem = f"the model {type(model).__name__} has no density, SDF or occupancy field that can be meshed"
        raise InputError(problem, "Choose a method with a radiance or distance field")
    aabb = model.scene_box.aabb.detach().float().cpu()

    def value(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        return field.forward_geonetwork(points)[:, 0] if is_sdf else field.density_fn(points)[..., 0]

    def color(points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        from nerfstudio.cameras.rays import Frustums, RaySamples
        from nerfstudio.field_components.field_heads import FieldHeadNames

        zero = torch.zeros_like(points[:, :1])
        frustums = Frustums(origins=points, directions=-normals, starts=zero, ends=zero, pixel_area=zero + 1e-6)
        return field(RaySamples(frustums=frustums, camera_indices=zero.long()))[FieldHeadNames.RGB]

    if level is None:
        level = 0.0 if is_sdf else default_density_level(aabb)
    return IsoField(value, level, inside_above=not is_sdf, aabb=aabb, color=color, device=model.device)
