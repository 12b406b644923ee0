"""The multi-resolution hash grid: features of positions, trained together with the network that reads them.

Space is covered by grids from coarse to fine with trainable features at their vertices. A position's features are the
interpolated ones of all grids. Fine grids have more vertices than rows in their table: vertices share rows, found by a
hash, and training sorts out which of them a row is for. Gradients of all vertices that share a row are summed.

    grid = HashGrid(HashGridOptions(num_levels=8, log2_table_size=15, max_resolution=192))
    features = grid(x)                               # [n, 16]; x in the unit cube
    features, jacobian = grid.with_jacobian(x)       # [n, 16], [n, 16, 3]
    features = grid.gaussian_features(points, std)   # [n, 16]; of k Gaussians each, [n, k, 3] and [n, k]

For a network f on top, the derivative of f(features(x)) by x is Jᵀ f', exact within a cell; losses on it train f and
the table. It takes one pass over the table. `autograd.grad(..., x, create_graph=True)` gives the same and takes more.

Source: Müller et al., Instant neural graphics primitives with a multiresolution hash encoding (arXiv 2201.05989).
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common_ns.hash_grid import functions, reference
from common_ns.hash_grid.dispatch import Implementation, Resolution, backend, resolve
from common_ns.hash_grid.levels import make_shape
from common_ns.hash_grid.weighting import mean_of_gaussians, weights_of_levels
from common_ns.nerfstudio_seam.renames import SuiteConfig


@dataclass(frozen=True)
class HashGridOptions(SuiteConfig):
    """Size of a hash grid, and how it is computed."""

    num_levels: int = 16
    """Grids, from the coarsest to the finest."""
    features_per_level: int = 2
    """Features at a vertex of each grid."""
    log2_table_size: int = 19
    """A grid with more than 2^this vertices hashes them into so many rows. On CPUs, 15 to 17 is quick: larger tables
    leave the cache, and the optimizer goes through all of them at every step. Let it be Adam with fused=True; torch's
    default takes eight times as long, and more than the grid itself."""
    base_resolution: int = 16
    """Vertices along an axis of the coarsest grid."""
    max_resolution: int = 2048
    """Vertices along an axis of the finest grid; those between grow by the same factor from each to the next."""
    interpolation: Literal["linear", "smoothstep"] = "linear"
    """Within a cell; with smoothstep, derivatives by the position are continuous, and 0 at the vertices."""
    implementation: Implementation = "auto"
    """What computes: auto takes numba on CPUs and triton on CUDA where they are installed, else torch. tinycudann must
    be asked for; it has first derivatives only."""

    def __post_init__(self) -> None:
        limits = {"num_levels": 64, "features_per_level": 64, "log2_table_size": 26, "base_resolution": 2**16}
        for name, limit in limits.items():
            if not 1 <= getattr(self, name) <= limit:
                raise ValueError(f"HashGridOptions: {name} is {getattr(self, name)}; it must be from 1 to {limit}.")
        if not self.base_resolution <= self.max_resolution <= 2**16:
            raise ValueError(
                f"HashGridOptions: max_resolution is {self.max_resolution}; it must be from base_resolution, "
                f"{self.base_resolution}, to {2**16}."
            )
        if self.interpolation not in ("linear", "smoothstep"):
            raise ValueError(f"HashGridOptions: interpolation '{self.interpolation}' is neither linear nor smoothstep.")


class HashGrid(nn.Module):
    """Features of positions in the unit cube.

    In place of nerfstudio's `HashEncoding`, which is slow without tinycudann and gives no Jacobian.
    """

    INIT_SCALE = 1e-4
    """Rows start uniformly within ± this (section 4)."""

    def __init__(self, options: HashGridOptions = HashGridOptions(), generator: torch.Generator | None = None) -> None:
        """
        Args:
            options: sizes and implementation.
            generator: source of the initial values; None: torch's own.
        """
        super().__init__()
        self.options = options
        self.shape = make_shape(
            options.num_levels,
            options.features_per_level,
            options.log2_table_size,
            options.base_resolution,
            options.max_resolution,
            smooth=options.interpolation == "smoothstep",
        )
        self.table = nn.Parameter(torch.empty(self.shape.rows, self.shape.features))
        """[rows of all levels, features]"""
        self.active_levels: float = options.num_levels
        """Levels in use, from the coarsest. 2.25 is two, and the third at a quarter of its features; those above are 0,
        get no gradient, and take no time. A schedule of the absolute step sets it; it is not part of the state."""
        self.reset(generator)

    @property
    def output_dim(self) -> int:
        """Features of a position, level by level."""
        return self.shape.output_dim

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Start again from small random features."""
        self.table.uniform_(-self.INIT_SCALE, self.INIT_SCALE, generator=generator)

    def resolution(self) -> Resolution:
        """Which implementation computes, and why.

        Raises: ValueError if the implementation asked for cannot; the message says why.
        """
        return resolve(self.options.implementation, self.shape, self.table.device, self.table.dtype)

    def forward(self, x: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n L*F"]:
        """Features, twice differentiable with respect to the table and to x (with tinycudann once).

        Args:
            x: positions. What is outside [0, 1]³ is moved to its surface, where derivatives across it are 0; NaN is
                moved to 0.
        """
        return self._features(self._points(x)).reshape(*x.shape[:-1], self.output_dim)

    def gaussian_features(
        self, points: Float[Tensor, "*n k 3"], std: Float[Tensor, "*n k"] | None
    ) -> Float[Tensor, "*n L*F"]:
        """Mean over k isotropic Gaussians of features, each level's weighted by `weighting.level_weights`.

        The same as `forward` at n · k points, weighted and averaged, but numba and triton write one row for all k.
        Twice differentiable with respect to the table and to the points (with tinycudann once). Second derivatives take
        the detour over the features of each point.

        Args:
            points: centers of the Gaussians, as the positions of `forward`.
            std: their standard deviations in units of the cube; they count as constants. None: all weights are 1.
        Source: Zip-NeRF (arXiv 2304.06706), section "Spatial Anti-Aliasing".
        """
        return self._gaussians(points, std, with_weights=False)[0]

    def gaussian_features_and_weights(
        self, points: Float[Tensor, "*n k 3"], std: Float[Tensor, "*n k"] | None
    ) -> tuple[Float[Tensor, "*n L*F"], Float[Tensor, "*n L"]]:
        """The same, and the mean over the k Gaussians of each level's weight, for `weighting.scale_features`.

        Weights are those of all levels, active or not, and constants.

        Args: as for `gaussian_features`.
        """
        features, weights = self._gaussians(points, std, with_weights=True)
        assert weights is not None
        return features, weights

    def with_jacobian(self, x: Float[Tensor, "*n 3"]) -> tuple[Float[Tensor, "*n L*F"], Float[Tensor, "*n L*F 3"]]:
        """Features, and their derivatives by the position, in one pass over the table.

        Both are differentiable with respect to the table and to x: once, with torch as often as one likes. Derivatives
        are those within a cell; at the borders between cells, those of linear interpolation jump.

        Args:
            x: positions, as for `forward`.
        Returns: features, and derivatives per unit of x. The latter's memory is ordered [3, n, L·F].
        """
        points = self._points(x)
        name = self.resolution().name
        if name == "torch":
            with _full_precision(points):
                features, jacobian = reference.interpolate_with_jacobian(
                    self.shape, self.table, points, self.active_levels
                )
        elif name == "tinycudann":
            raise ValueError("Hash grid 'tinycudann' has no Jacobian. Use implementation 'auto', 'triton' or 'torch'.")
        else:
            grid = functions.Grid(backend(name), self.shape, self.active_levels)
            features, jacobian = functions.features_and_jacobian(self.table, points, grid)
        batch = x.shape[:-1]
        jacobian = jacobian.permute(1, 2, 0)
        return features.reshape(*batch, self.output_dim), jacobian.reshape(*batch, self.output_dim, 3)

    def extra_repr(self) -> str:
        """What `print` shows beside the class."""
        return f"{self.options}, rows={self.shape.rows}"

    def _features(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n L*F"]:
        name = self.resolution().name
        if name == "torch":
            with _full_precision(points):
                return reference.interpolate(self.shape, self.table, points, self.active_levels)
        if name == "tinycudann":
            return backend(name).interpolate(self.shape, self.table, points, self.active_levels)
        grid = functions.Grid(backend(name), self.shape, self.active_levels)
        return functions.features(self.table, points, grid)

    def _gaussians(
        self, points: Float[Tensor, "*n k 3"], std: Float[Tensor, "*n k"] | None, with_weights: bool
    ) -> tuple[Float[Tensor, "*n L*F"], Float[Tensor, "*n L"] | None]:
        self._check(points)
        if points.ndim < 2 or points.shape[-2] == 0:
            raise ValueError(f"HashGrid: points have shape {list(points.shape)}; it must be [..., k, 3] with k ≥ 1.")
        *batch, k, _ = points.shape
        flat = points.reshape(math.prod(batch), k, 3).to(
            self.table.dtype
        )  # kernels want coordinates, then points first
        if std is not None:
            if std.shape != points.shape[:-1] or std.device != points.device:
                raise ValueError(
                    f"HashGrid: std is {list(std.shape)} on {std.device}; it must be {list(points.shape[:-1])} "
                    f"on {points.device}, as the points are."
                )
            std = std.detach().reshape(flat.shape[:-1]).to(flat.dtype)
        name = self.resolution().name
        if name in ("torch", "tinycudann"):
            with _full_precision(flat):
                features, weights = self._composed(flat, std)
        else:
            grid = functions.Grid(backend(name), self.shape, self.active_levels)
            features, weights = functions.gaussian_features(self.table, flat, std, grid, with_weights)
        features = features.reshape(*batch, self.output_dim)
        return features, None if weights is None else weights.reshape(*batch, len(self.shape.levels))

    def _composed(
        self, points: Float[Tensor, "n k 3"], std: Float[Tensor, "n k"] | None
    ) -> tuple[Float[Tensor, "n L*F"], Float[Tensor, "n L"]]:
        """The definition: features of each point, weighted, and their mean."""
        weights = None if std is None else weights_of_levels(self.shape, std)
        features = self._features(points.flatten(0, 1)).unflatten(0, points.shape[:-1])
        mean = points.new_ones(len(points), len(self.shape.levels)) if weights is None else weights.mean(1)
        return mean_of_gaussians(features, weights), mean

    def _points(self, x: Float[Tensor, "*n 3"]) -> Float[Tensor, "n 3"]:
        self._check(x)
        return x.reshape(-1, 3).to(self.table.dtype)

    def _check(self, x: Float[Tensor, "*n 3"]) -> None:
        """Shapes and devices that do not fit would be read out of bounds by compiled code."""
        if x.shape[-1:] != (3,):
            raise ValueError(f"HashGrid: positions have shape {list(x.shape)}; the last dimension must be 3.")
        if x.device != self.table.device:
            raise ValueError(f"HashGrid: positions are on {x.device}, the table is on {self.table.device}.")


def _full_precision(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Outside of autocast, which would round the weights of the corners."""
    return (
        torch.autocast(x.device.type, enabled=False) if x.device.type in ("cpu", "cuda") else contextlib.nullcontext()
    )
