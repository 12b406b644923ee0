"""Densities of isotropic Gaussians, and the surface of such a density at the resolution of a mesh."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from torch import Tensor
from torch.nn import Parameter

from common_ns.appearance import AppearanceCodes
from common_ns.base_model import RadianceModel
from common_ns.meshing.iso_field import IsoField, default_density_level


class IsotropicField(Protocol):
    """What is asked of a field: isotropic Gaussians, given by their means and variance in scene units."""

    def features_of_isotropic(
        self, center: Float[Tensor, "*n 3"], variance: float, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*n hidden"]: ...

    def density_of_isotropic(
        self, center: Float[Tensor, "*n 3"], variance: float, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "*n 1"]: ...

    def color(self, hidden: Float[Tensor, "*n hidden"], directions: Float[Tensor, "*m 3"]) -> Float[Tensor, "*n 3"]: ...


class ColorField(IsotropicField, Protocol):
    """What a field of density and color can be asked for."""

    appearance: AppearanceCodes | None
    """Codes of the training images."""

    def __call__(self, ray_samples: RaySamples) -> dict[FieldHeadNames, Tensor]: ...

    def parameters(self) -> Iterator[Parameter]: ...

    def get_density(self, ray_samples: RaySamples) -> tuple[Float[Tensor, "*n 1"], Float[Tensor, "*n hidden"]]: ...

    def color(
        self,
        hidden: Float[Tensor, "*n hidden"],
        directions: Float[Tensor, "*m 3"],
        camera_indices: Tensor | None = None,
    ) -> Float[Tensor, "*n 3"]: ...

    def normals_of(
        self, ray_samples: RaySamples, where: Bool[Tensor, "n s"], differentiable: bool = False
    ) -> Float[Tensor, "k 3"]: ...


def isotropic_iso_field(
    model: RadianceModel, field: IsotropicField, level: float | None = None, voxel_size: float | None = None
) -> IsoField:
    """The density in a model's scene box as ns-mesh reads it, filtered with a Gaussian of the voxel's extent.

    Args:
        model: has the scene box.
        field: density and color.
        level: density of the surface per scene unit; None: `default_density_level`.
        voxel_size: side of the voxels that the surface is extracted on, in scene units; None: points.
    """
    # A uniform cube of side v has variance v²/12 along each axis.
    variance = (voxel_size or 0.0) ** 2 / 12.0

    def density(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        return field.density_of_isotropic(points, variance, torch.float32)[..., 0]

    def color(points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        hidden = field.features_of_isotropic(points, variance, torch.float32)
        # Seen head-on: the view direction is opposite to the normal.
        return field.color(hidden, -normals).clamp(0.0, 1.0)

    aabb = model.scene_box.aabb.detach().float().cpu()
    return IsoField(
        value=density,
        level=level if level is not None else default_density_level(aabb),
        inside_above=True,
        aabb=aabb,
        color=color,
        device=model.device,
    )
