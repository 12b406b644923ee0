"""Where NeuS looks along a ray: through the sphere of the scene, and ever more closely around its surface.

Only distances are needed to find the surface, and no gradients: rounds of sampling are cheap. Random numbers come with
the rays, so that samples do not depend on how rays are divided into chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.model_components.ray_samplers import Sampler
from torch import Tensor

from common_ns.rays.stepfun import sample_points
from common_ns.rays.transmittance import render_weights
from hashnffb_sdf_ns.neus import guarded_slope, midpoint_optical_depth

FIRST_INV_S, LAST_INV_S = 64.0, 512.0
"""Sharpness of the first and of the last round, per radius of the sphere; between them it grows by equal ratios (NeuS,
supplement: four rounds, each twice as sharp)."""


class RaySections(NamedTuple):
    """Intervals along rays."""

    t: Float[Tensor, "n s+1"]
    """Their bounds in ray distance, increasing."""
    sdf: Float[Tensor, "n s+1"]
    """Signed distances at the bounds, without a graph."""


def sphere_interval(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    center: Float[Tensor, " 3"],
    radius: float,
) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """Ray distances at which rays enter and leave a sphere, in units of their directions' length; at least 0.

    Rays that miss it get an empty interval at the point nearest to it.

    Args:
        origins, directions: of the rays, in scene units; directions of any length.
        center, radius: of the sphere in scene units.
    """
    offset = origins - center
    a = directions.square().sum(-1, keepdim=True).clamp_min(1e-20)
    nearest = -(offset * directions).sum(-1, keepdim=True) / a
    # From the foot of the perpendicular: b² − 4ac would lose far cameras' digits.
    miss = (offset + nearest * directions).square().sum(-1, keepdim=True)
    half = ((radius**2 - miss).clamp_min(0.0) / a).sqrt()
    return (nearest - half).clamp_min(0.0), (nearest + half).clamp_min(0.0)


def even_bounds(
    near: Float[Tensor, "n 1"], far: Float[Tensor, "n 1"], count: int, jitter: Float[Tensor, "n 1"] | None = None
) -> Float[Tensor, "n count+1"]:
    """Bounds of `count` intervals of even length; the inner ones are shifted together.

    Args:
        near, far: first and last bound.
        count: number of intervals.
        jitter: shift in [0, 1) of an interval's length, one for each ray; None: 0.5, which is none.
    """
    steps = torch.arange(count + 1, device=near.device, dtype=near.dtype) / count
    t = near + (far - near) * steps
    if jitter is not None:
        shift = (jitter - 0.5) * (far - near) / count
        t[:, 1:-1] = t[:, 1:-1] + shift
    return t


def seen_everywhere(t: Float[Tensor, "n s+1"], weights: Float[Tensor, "n s"]) -> Float[Tensor, "n s"]:
    """Weights with a little more, spread by length: what no round has seen yet stays visible.

    Args:
        t: bounds of the intervals.
        weights: their weights, also all 0.
    """
    length = t[:, 1:] - t[:, :-1]
    total = length.sum(-1, keepdim=True)
    # Rays that miss the sphere have no length.
    return weights + 1e-4 * torch.where(total > 0, length / total.clamp_min(1e-20), 1.0)


class SurfaceSampler(Sampler):
    """Even intervals of rays, then more of them where rounds of NeuS weights say that the surface is.

    In place of nerfstudio's `NeuSSampler`, which draws random numbers of its own and takes all that is far inside for
    opaque (see `hashnffb_sdf_ns.neus`).

    Args:
        num_samples: even intervals.
        num_upsamples: bounds that each round adds.
        radius: of the scene's sphere, the unit of the rounds' sharpness.
    Source: NeuS, section 3.3 and supplement ("hierarchical sampling").
    """

    def __init__(self, num_samples: int, num_upsamples: tuple[int, ...], radius: float) -> None:
        super().__init__(num_samples)
        self.num_upsamples, self.radius = num_upsamples, radius

    @torch.no_grad()
    def generate_ray_samples(
        self,
        ray_bundle: RayBundle,
        sdf: Callable[[Float[Tensor, "m 3"]], Float[Tensor, " m"]],
        jitter: Float[Tensor, "n rounds+1"] | None = None,
    ) -> RaySections:
        """
        Args:
            ray_bundle: rays [n] with near and far planes.
            sdf: signed distance at points.
            jitter: random numbers in [0, 1): one of each ray for the even intervals, and one for each round; None: 0.5.
        Returns: the intervals, in all num_samples plus the sum of num_upsamples.
        """
        rays = ray_bundle
        assert rays.nears is not None and rays.fars is not None and self.num_samples is not None
        speed = rays.directions.norm(dim=-1, keepdim=True)

        def along(t: Float[Tensor, "n s"]) -> Float[Tensor, "n s"]:
            points = torch.addcmul(rays.origins[:, None], rays.directions[:, None], t[..., None])
            return sdf(points.reshape(-1, 3)).reshape(t.shape)

        def column(index: int) -> Tensor | None:
            return None if jitter is None else jitter[:, index : index + 1]

        growth = (LAST_INV_S / FIRST_INV_S) ** (1.0 / max(len(self.num_upsamples) - 1, 1))
        t = even_bounds(rays.nears, rays.fars, self.num_samples, column(0))
        values = along(t)
        for index, added in enumerate(self.num_upsamples):
            slope, length = guarded_slope(t * speed, values)
            middle = 0.5 * (values[:, 1:] + values[:, :-1])
            sharpness = FIRST_INV_S * growth**index / self.radius
            weights = render_weights(midpoint_optical_depth(middle, slope, length, sharpness))
            new = sample_points(t, seen_everywhere(t, weights), added, column(1 + index))
            t, order = torch.cat([t, new], dim=-1).sort(dim=-1)
            values = torch.cat([values, along(new)], dim=-1).gather(-1, order)
        return RaySections(t, values)


def random_in_ball(noise: Float[Tensor, "n 3"], center: Float[Tensor, " 3"], radius: float) -> Float[Tensor, "n 3"]:
    """Uniform points in a ball, in scene units.

    Args:
        noise: uniform numbers in [0, 1).
        center, radius: of the ball in scene units.
    """
    height = 2.0 * noise[:, :1] - 1.0
    angle = 2.0 * torch.pi * noise[:, 1:2]
    across = (1.0 - height.square()).clamp_min(0.0).sqrt()
    direction = torch.cat([across * angle.cos(), across * angle.sin(), height], dim=-1)
    return center + radius * noise[:, 2:].pow(1.0 / 3.0) * direction
