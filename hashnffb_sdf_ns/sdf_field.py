"""A signed distance field with color, in scene units: what renderers, meshing and exporters ask.

The field fills a sphere, in which encodings see positions as [−1, 1]. How rays are rendered is not its concern.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from common_ns.appearance import AppearanceCodes
from common_ns.nerfstudio_seam.renames import SuiteConfig
from hashnffb_sdf_ns.sdf_networks import ColorNetwork, SdfNetwork

SPHERE_EDGE = 0.999
"""Where the surface ends at the latest, relative to the sphere."""


class PositionEncoding(Protocol):
    """What the field needs of an encoding; see `hashnffb_sdf_ns.encodings`."""

    output_dim: int

    def __call__(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n e"]: ...

    def stage(self, x: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n g"], Float[Tensor, "n g 3"]] | None: ...

    def finish(self, x: Float[Tensor, "n 3"], z: Float[Tensor, "n g"] | None) -> Float[Tensor, "n e"]: ...

    def set_progress(self, share: float) -> None: ...

    def tables(self) -> list[nn.Parameter]: ...


@dataclass
class NetworkOptions(SuiteConfig):
    """Sizes of the networks and how they start."""

    hidden_dim: int = 64
    """Width of the distance network."""
    num_layers: int = 2
    """Hidden layers of the distance network."""
    skip_layers: tuple[int, ...] = ()
    """Hidden layers, counted from 0 and not the first, that get position and encoding once more."""
    feature_dim: int = 15
    """Features that the distance network hands to the color network."""
    weight_norm: bool = False
    """Train directions and lengths of the distance network's weights apart."""
    initial_radius: float = 0.5
    """Radius of the sphere that training starts from, relative to the scene's sphere."""
    inside_out: bool = False
    """Start from a sphere seen from inside: for rooms."""
    color_hidden_dim: int = 64
    """Width of the color network."""
    num_color_layers: int = 2
    """Hidden layers of the color network."""
    num_direction_frequencies: int = 4
    """Octaves of the view direction's encoding."""
    appearance_dim: int = 0
    """Length of the appearance code that each training image gets, for captures with changing exposure (4 is usual);
    0: none. Novel views use the mean code."""
    gradient: Literal["analytic", "numerical"] = "analytic"
    """Of the distance: its derivative, or central differences, which also reach the neighboring cells of a grid
    (Neuralangelo) and take seven evaluations."""
    numerical_step: float = 0.005
    """Half of the distance between the points of a difference at the end of training, relative to the sphere."""
    numerical_initial_step: float = 0.06
    """The same at the start; it shrinks by equal ratios while the encoding goes from coarse to fine."""


class Geometry(NamedTuple):
    """The field at points."""

    sdf: Float[Tensor, " n"]
    """Signed distance in scene units, negative inside."""
    gradient: Float[Tensor, "n 3"]
    """Of the distance by the position; its length is 1 in a distance field."""
    features: Float[Tensor, "n F"]
    """For the color."""
    laplacian: Float[Tensor, " n"] | None
    """Sum of the second derivatives, per scene unit; with numerical gradients only."""


class SdfField(nn.Module):
    """Distance and color in a sphere of the scene.

    In place of nerfstudio's `SDFField`, which cannot be built without tinycudann, whatever its encoding.

    Args:
        encoding: of positions in [−1, 1]³.
        options: sizes.
        center: center of the sphere in scene units.
        radius: radius of the sphere in scene units.
        num_images: training images, each with an appearance code if there are any.
    Raises: ValueError if the sphere has no radius.
    """

    center: Tensor

    def __init__(
        self,
        encoding: PositionEncoding,
        options: NetworkOptions,
        center: tuple[float, float, float] = (0.0, 0.0, 0.0),
        radius: float = 1.0,
        num_images: int = 0,
    ) -> None:
        super().__init__()
        if not radius > 0:
            raise ValueError(f"SdfField: the sphere's radius is {radius}.")
        self.options, self.radius = options, radius
        self.register_buffer("center", torch.tensor(center, dtype=torch.get_default_dtype()), persistent=False)
        self.encoding = encoding
        self.network = SdfNetwork(
            encoding.output_dim,
            options.hidden_dim,
            options.num_layers,
            options.feature_dim,
            options.initial_radius,
            options.inside_out,
            options.skip_layers,
            options.weight_norm,
        )
        self.color_network = ColorNetwork(
            options.feature_dim,
            options.color_hidden_dim,
            options.num_color_layers,
            options.num_direction_frequencies,
            options.appearance_dim,
        )
        self.appearance = AppearanceCodes(num_images, options.appearance_dim) if options.appearance_dim > 0 else None
        self.numerical_step = options.numerical_step
        """Present step of the differences, relative to the sphere."""

    def set_progress(self, share: float) -> None:
        """Go from coarse to fine.

        Args:
            share: of the way, from 0 to 1, where everything is in use. A schedule of the absolute step sets it.
        """
        self.encoding.set_progress(share)
        first, last = self.options.numerical_initial_step, self.options.numerical_step
        self.numerical_step = first ** (1.0 - share) * last**share

    def to_unit(self, x: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Scene units → units of the sphere."""
        return (x - self.center) / self.radius

    def sdf(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Signed distance only, in scene units; what is cheapest."""
        return self.radius * self._unit_sdf(self.to_unit(x))

    def _unit_sdf(self, u: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        return self.network.distance(torch.cat([u, self.encoding(u)], dim=-1))

    def forward_geonetwork(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n 1+F"]:
        """Signed distance in scene units, and features, as nerfstudio's exporters ask for them.

        What is beyond the sphere is outside of the surface, as nothing has trained the field there.
        """
        u = self.to_unit(x)
        outputs = self.network(torch.cat([u, self.encoding(u)], dim=-1))
        distance = torch.maximum(outputs[:, :1], u.norm(dim=-1, keepdim=True) - SPHERE_EDGE)
        return torch.cat([self.radius * distance, outputs[:, 1:]], dim=-1)

    def geometry(self, x: Float[Tensor, "n 3"]) -> Geometry:
        """Distance, gradient and features; once differentiable by parameters and by x."""
        u = self.to_unit(x)
        if self.options.gradient == "numerical":
            return self._numerical(u)
        outputs, gradient = self._analytic(u)
        return Geometry(self.radius * outputs[:, 0], gradient, outputs[:, 1:], None)

    def _analytic(self, u: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n 1+F"], Float[Tensor, "n 3"]]:
        """Outputs of the distance network and the distance's gradient, in units of the sphere.

        With grid features z(u), the distance is a function f(u, z). Its gradient is ∂f/∂u + (dz/du)ᵀ ∂f/∂z: the grid
        gives its derivatives with its features, and only ∂f is left to be differentiated.
        """
        keep = torch.is_grad_enabled()
        # A node of its own: derivatives by it are partial ones, at fixed z.
        direct = u.view_as(u) if keep and u.requires_grad else u.detach().requires_grad_(True)
        staged = self.encoding.stage(u)
        z, jacobian = (None, None) if staged is None else staged
        if z is not None and not keep:
            z = z.detach().requires_grad_(True)
        with torch.enable_grad():
            encoded = self.encoding.finish(direct, z)
        outputs, by_inputs = self.network.with_gradient(torch.cat([direct, encoded], dim=-1))
        gradient, by_encoded = by_inputs[:, :3], by_inputs[:, 3:]
        if encoded is z:
            by_z = by_encoded
        else:
            inputs = [direct] if z is None else [direct, z]
            with torch.enable_grad():
                by_direct, *rest = torch.autograd.grad(
                    encoded, inputs, by_encoded, create_graph=keep, allow_unused=True
                )
            by_z = rest[0] if rest else None
            gradient = gradient if by_direct is None else gradient + by_direct
        if jacobian is not None and by_z is not None:
            gradient = gradient + (jacobian * by_z[..., None]).sum(1)
        return (outputs, gradient) if keep else (outputs.detach(), gradient.detach())

    def _numerical(self, u: Float[Tensor, "n 3"]) -> Geometry:
        """The same by central differences.

        Source: Neuralangelo (arXiv 2306.03092), section 3.2; its curvature is the Laplacian.
        """
        step = self.numerical_step
        shifts = step * torch.cat([torch.eye(3), -torch.eye(3)]).to(u)
        outputs = self.network(torch.cat([u, self.encoding(u)], dim=-1))
        sdf = outputs[:, 0]
        around = self._unit_sdf((u[:, None] + shifts).reshape(-1, 3)).reshape(-1, 2, 3)
        gradient = (around[:, 0] - around[:, 1]) / (2.0 * step)
        laplacian = (around.sum((1, 2)) - 6.0 * sdf) / (step * step * self.radius)
        return Geometry(self.radius * sdf, gradient, outputs[:, 1:], laplacian)

    def color(
        self,
        x: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n d"],
        normals: Float[Tensor, "n 3"],
        features: Float[Tensor, "n F"],
        codes: Float[Tensor, "n c"] | None = None,
    ) -> Float[Tensor, "n 3"]:
        """Colors of points.

        Args:
            x: points in scene units.
            directions: encoded directions in which they are seen (`encode_directions`).
            normals: unit normals.
            features: from `geometry`.
            codes: appearance codes (`codes_of`), if the field has any.
        """
        return self.color_network(self.to_unit(x), directions, normals, features, codes)

    def encode_directions(self, directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n d"]:
        """Encoding of directions of any length."""
        return self.color_network.encode_directions(F.normalize(directions, dim=-1))

    def codes_of(self, camera_indices: Int[Tensor, "n 1"] | None, count: int) -> Float[Tensor, "n c"] | None:
        """Appearance codes of rays: in training their images', elsewhere the mean code; None if there are none."""
        return None if self.appearance is None else self.appearance(camera_indices, (count,))
