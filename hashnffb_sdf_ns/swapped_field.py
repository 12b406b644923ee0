"""The surface of one field with the colors of another."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from common_ns.checks import InputError
from hashnffb_sdf_ns.sdf_field import Geometry, SdfField

NEWTON_STEPS = 8
"""Steps from a point to the surface near it. Each is at most a tenth of the sphere long."""

FeatureSource = Literal["appearance", "geometry"]


class SwappedField(nn.Module):
    """Stands where a `SdfField` was, for rendering: distances are those of one, colors those of another.

    Both spheres are laid onto each other. A color network reads position, normal, direction and the features of the
    distance network that it was trained with; those of another network mean nothing to it. What it gets is decided by
    `features`:

    - "appearance": the point is moved to the nearest surface of the field that gives the colors, and features and
      position are that field's there: all that its color network knows. Normals and directions are those of the
      surface that is shown, and shade it.
    - "geometry": features are those of the shown surface, at its own position, as published code does it. They suit the
      color network only if both were trained from the same one.

    Args:
        geometry: gives the surface.
        appearance: gives the colors.
        features: see above.
    Raises: InputError if the features of the geometry do not fit into the color network.
    """

    def __init__(self, geometry: SdfField, appearance: SdfField, features: FeatureSource = "appearance") -> None:
        super().__init__()
        widths = geometry.options.feature_dim, appearance.options.feature_dim
        if features == "geometry" and widths[0] != widths[1]:
            problem = f"the geometry has {widths[0]} features, and the color network reads {widths[1]}"
            raise InputError(problem, "Choose --features appearance, or train both with the same feature-dim")
        self.shown, self.colors, self.features = geometry, appearance, features

    def sdf(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Distance of the shown surface, in its scene units."""
        return self.shown.sdf(x)

    def geometry(self, x: Float[Tensor, "n 3"]) -> Geometry:
        """The shown surface."""
        return self.shown.geometry(x)

    def forward_geonetwork(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n 1+F"]:
        """Distance of the shown surface, and its features."""
        return self.shown.forward_geonetwork(x)

    def encode_directions(self, directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n d"]:
        """As the color network wants them."""
        return self.colors.encode_directions(directions)

    def codes_of(self, camera_indices: Int[Tensor, "n 1"] | None, count: int) -> Float[Tensor, "n c"] | None:
        """The color network's mean appearance code: images of the other run are none of its own."""
        del camera_indices
        return self.colors.codes_of(None, count)

    def color(
        self,
        x: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n d"],
        normals: Float[Tensor, "n 3"],
        features: Float[Tensor, "n F"],
        codes: Float[Tensor, "n c"] | None = None,
    ) -> Float[Tensor, "n 3"]:
        """Colors of points of the shown surface; arguments as those of `SdfField.color`."""
        y = self.colors.center + self.colors.radius * self.shown.to_unit(x)
        if self.features == "appearance":
            y = onto_surface(self.colors, y)
            features = self.colors.forward_geonetwork(y)[:, 1:]
        return self.colors.color(y, directions, normals, features, codes)


@torch.no_grad()
def onto_surface(field: SdfField, x: Float[Tensor, "n 3"], steps: int = NEWTON_STEPS) -> Float[Tensor, "n 3"]:
    """Points of a field's surface near to given points: Newton steps along its gradient, within the field's sphere.

    Points that find no surface end where the last step has led them.
    """
    longest = 0.1 * field.radius
    for _ in range(steps):
        found = field.geometry(x)
        square = found.gradient.square().sum(-1, keepdim=True).clamp_min(1e-4)
        step = found.sdf[:, None] * found.gradient / square
        step = step * (longest / step.norm(dim=-1, keepdim=True).clamp_min(longest))
        u = field.to_unit(x - step.nan_to_num(0.0))
        # Beyond the sphere nothing has trained the field.
        x = field.center + field.radius * torch.where(u.norm(dim=-1, keepdim=True) > 1.0, F.normalize(u, dim=-1), u)
    return x
