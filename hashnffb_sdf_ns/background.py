"""What is beyond the sphere of the scene: a small radiance field on a hash grid, in contracted space.

The surface's field ends at the sphere. In captures without masks, pixels also show what is beyond it, up to the
horizon: rays go on with samples at even steps of the inverse distance from the center, as NeRF++ places them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from nerfstudio.field_components.activations import trunc_exp
from torch import Tensor, nn

from common_ns.hash_grid import HashGrid, HashGridOptions
from common_ns.nerfstudio_seam.renames import SuiteConfig
from common_ns.rays.contraction import contract


@dataclass
class BackgroundOptions(SuiteConfig):
    """Size of the background's field."""

    grid: HashGridOptions = field(
        default_factory=lambda: HashGridOptions(num_levels=8, log2_table_size=17, max_resolution=256)
    )
    """Its hash grid, over the contracted space."""
    hidden_dim: int = 32
    """Width of its network."""
    num_samples: int = 16
    """Samples of a ray beyond the sphere."""


class BackgroundField(nn.Module):
    """Density and color beyond the unit sphere.

    Args:
        options: sizes.
        direction_dim: channels of the encoded view direction.
    """

    def __init__(self, options: BackgroundOptions, direction_dim: int) -> None:
        super().__init__()
        self.grid = HashGrid(options.grid)
        width = options.hidden_dim
        self.trunk = nn.Linear(self.grid.output_dim, width)
        self.density_head = nn.Linear(width, 1)
        sizes = [width + direction_dim, width, 3]
        self.color_layers = nn.ModuleList(nn.Linear(*sides) for sides in pairwise(sizes))

    def forward(
        self, u: Float[Tensor, "m 3"], directions: Float[Tensor, "m d"]
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, "m 3"]]:
        """Density per unit of inverse distance, and color in (0, 1).

        Args:
            u: points in units of the sphere, outside of it.
            directions: encoded view directions.
        """
        hidden = F.relu(self.trunk(self.grid(0.25 * contract(u) + 0.5)))
        density = trunc_exp(self.density_head(hidden)[:, 0])
        color = torch.cat([hidden, directions], dim=-1)
        color = F.relu(self.color_layers[0](color))
        return density, torch.sigmoid(self.color_layers[1](color))


def inverse_bounds(
    start: Float[Tensor, "n 1"], count: int, jitter: Float[Tensor, "n 1"] | None = None
) -> Float[Tensor, "n count+1"]:
    """Bounds of intervals of inverse distance from the center, decreasing from where a ray starts to 0 (infinity).

    Args:
        start: inverse distance at the ray's start, in (0, 1].
        count: number of intervals.
        jitter: shift of the inner bounds in [0, 1) of an interval; None: 0.5, which is none.
    """
    steps = 1.0 - torch.arange(count + 1, device=start.device, dtype=start.dtype) / count
    bounds = steps.expand(len(start), count + 1).clone()
    if jitter is not None:
        bounds[:, 1:-1] += (jitter - 0.5) / count
    return start * bounds


def distance_at(
    inverse: Float[Tensor, "n s"], origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]
) -> Float[Tensor, "n s"]:
    """Ray distance at which a ray leaves the ball of radius 1 / inverse about the origin for the last time.

    Rays that miss the ball get the point nearest to the origin.

    Args:
        inverse: inverse radii.
        origins, directions: rays, directions of any length, in units of the sphere.
    """
    a = directions.square().sum(-1, keepdim=True).clamp_min(1e-20)
    nearest = -(origins * directions).sum(-1, keepdim=True) / a
    miss = (origins + nearest * directions).square().sum(-1, keepdim=True)
    radius2 = inverse.clamp_min(1e-6).reciprocal().square()
    return nearest + ((radius2 - miss).clamp_min(0.0) / a).sqrt()


def background_sections(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    far: Float[Tensor, "n 1"],
    count: int,
    jitter: Float[Tensor, "n 1"] | None = None,
) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s"]]:
    """Samples of rays from where they leave the sphere to infinity.

    Args:
        origins, directions: rays in units of the sphere.
        far: ray distance where the sphere's part ends.
        count: number of samples.
        jitter: one number in [0, 1) for each ray; None: centered.
    Returns: ray distances of the samples, and their intervals' lengths in inverse distance.
    """
    # Where the ray is beyond the sphere already (a camera outside that looks away), it starts there. Rays that pass
    # by the sphere start where they are nearest to it, so that inverse distances decrease.
    a = directions.square().sum(-1, keepdim=True).clamp_min(1e-20)
    nearest = -(origins * directions).sum(-1, keepdim=True) / a
    first = torch.maximum(far, nearest.clamp_min(0.0))
    start = 1.0 / torch.addcmul(origins, directions, first).norm(dim=-1, keepdim=True).clamp_min(1.0)
    bounds = inverse_bounds(start, count, jitter)
    middle = 0.5 * (bounds[:, 1:] + bounds[:, :-1])
    return distance_at(middle, origins, directions), bounds[:, :-1] - bounds[:, 1:]
