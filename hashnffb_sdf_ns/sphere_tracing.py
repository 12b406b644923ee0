"""Where rays meet a surface that is given by a signed distance: the points only, without derivatives.

Each ray is walked from both of its ends, as far at once as the distance says is empty. What ten steps do not settle
(distances that are not exact, rays along a surface) is sampled evenly, and the first change of sign is narrowed down.

Positions stay finite whatever the distance is: networks go astray, and grids are indexed by positions.

Source: Yariv et al., Multiview neural surface reconstruction (IDR, arXiv 2003.09852), supplement 1.2. An overshoot is
not taken back as there: with the step before it, it encloses the surface, and is narrowed down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common_ns.nerfstudio_seam.renames import SuiteConfig

Distance = Callable[[Float[Tensor, "m 3"]], Float[Tensor, " m"]]
"""Signed distance at points, positive outside."""


@dataclass
class TracingOptions(SuiteConfig):
    """How thoroughly surfaces are searched along rays."""

    num_steps: int = 10
    """Steps of sphere tracing from each end of a ray."""
    num_bracket_samples: int = 100
    """Even samples on what is left of rays that these steps have not settled."""
    num_secant_steps: int = 8
    """Steps that narrow down a change of sign."""
    tolerance: float = 5e-5
    """Distance at which a ray has arrived, relative to the scene's sphere."""
    num_mask_samples: int = 100
    """Samples among which the least distance is looked for, along rays that see no surface or should not see it."""

    def problem(self) -> str | None:
        """What cannot be, in words; None if all is well."""
        least = {"num_steps": 0, "num_bracket_samples": 2, "num_secant_steps": 0, "num_mask_samples": 3}
        for name, value in least.items():
            if getattr(self, name) < value:
                return f"{name.replace('_', '-')} is {getattr(self, name)}, less than {value}"
        return None if self.tolerance > 0 else f"tolerance is {self.tolerance:g}, not above 0"


class Hits(NamedTuple):
    """What rays meet."""

    t: Float[Tensor, " n"]
    """Ray distance of the first surface that is met from outside; where there is none, of the ray's end."""
    hit: Bool[Tensor, " n"]
    """Whether there is one."""


class Rays(NamedTuple):
    """Rays and the distance along them; `t` is in units of the directions' length."""

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    speed: Float[Tensor, " n"]
    """Length of the directions."""
    sdf: Distance
    limit: float
    """Distances are cut to ±limit; what is not a number counts as so far from everything."""

    def at(self, rows: Tensor, t: Float[Tensor, "k *s"]) -> Float[Tensor, "k *s"]:
        """Distances of rays `rows` at `t`."""
        shape = (len(rows), *[1] * (t.dim() - 1), 3)
        points = self.origins[rows].reshape(shape) + self.directions[rows].reshape(shape) * t[..., None]
        values = self.sdf(points.reshape(-1, 3)).reshape(t.shape)
        return values.nan_to_num(nan=self.limit).clamp(-self.limit, self.limit)


class Brackets(NamedTuple):
    """Intervals of rays with a surface within: the distance is above 0 at the start, and at most 0 at the end."""

    rows: Tensor
    """Which ray each is of."""
    start: Float[Tensor, " k"]
    end: Float[Tensor, " k"]
    start_sdf: Float[Tensor, " k"]
    end_sdf: Float[Tensor, " k"]


@torch.no_grad()
def sphere_trace(
    sdf: Distance,
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    near: Float[Tensor, "n 1"],
    far: Float[Tensor, "n 1"],
    options: TracingOptions | None = None,
    radius: float = 1.0,
) -> Hits:
    """The first surface of each ray.

    Args:
        sdf: signed distance.
        origins, directions: rays; directions may have any length.
        near, far: where rays begin and end, in units of their directions' length; nothing is met where far ≤ near.
        options: thoroughness.
        radius: of the scene's sphere, which the tolerance is relative to.
    Returns: first places where the distance falls to 0 from above. A ray that begins inside a surface leaves it first.
    """
    options = TracingOptions() if options is None else options
    tolerance = options.tolerance * radius
    rays = Rays(origins, directions, directions.norm(dim=-1).clamp_min(1e-20), sdf, 2.0 * radius)
    t, back = near[:, 0].clone(), far[:, 0].clone()
    end = back.clone()
    hit = torch.zeros_like(t, dtype=torch.bool)
    rows = (back > t).nonzero()[:, 0]
    both = rays.at(torch.cat([rows, rows]), torch.cat([t[rows], back[rows]]))
    value, back_value = torch.zeros_like(t), torch.zeros_like(t)
    value[rows], back_value[rows] = both.chunk(2)
    inside = rows[value[rows] < -tolerance]
    rows = _arrived(rows, value, hit, tolerance)
    crossed: list[Brackets] = []
    for _ in range(options.num_steps):
        if len(rows) == 0:
            break
        # The far end waits where it has met something: there the ray ends.
        walks = rows[back_value[rows] > tolerance]
        back[walks] = torch.maximum(back[walks] - back_value[walks] / rays.speed[walks], t[walks])
        before, before_value = t[rows], value[rows]
        after = torch.minimum(before + before_value / rays.speed[rows], back[rows])
        both = rays.at(torch.cat([rows, walks]), torch.cat([after, back[walks]]))
        after_value, back_value[walks] = both[: len(rows)], both[len(rows) :]
        over = after_value < -tolerance
        crossed.append(Brackets(rows[over], before[over], after[over], before_value[over], after_value[over]))
        t[rows], value[rows] = after, after_value
        met = after >= back[rows]
        rows = rows[~over & ~(met & (after_value > tolerance))]
        rows = _arrived(rows, value, hit, tolerance)
    # Where the ends have met there is nothing in between; the rest is not settled.
    rows = torch.cat([rows[back[rows] > t[rows]], inside])
    crossed.append(_first_crossing(rays, rows, t, back, value, options.num_bracket_samples))
    brackets = Brackets(*(torch.cat(parts) for parts in zip(*crossed)))
    t[brackets.rows] = narrow_down(rays, brackets, options.num_secant_steps)
    hit[brackets.rows] = True
    return Hits(torch.where(hit, t, end), hit)


def _arrived(rows: Tensor, value: Tensor, hit: Tensor, tolerance: float) -> Tensor:
    """Mark the rays that are at a surface, and return those that are outside of it still."""
    there = value[rows].abs() <= tolerance
    hit[rows[there]] = True
    return rows[value[rows] > tolerance]


def _first_crossing(rays: Rays, rows: Tensor, start: Tensor, end: Tensor, start_sdf: Tensor, count: int) -> Brackets:
    """The first of even intervals of each ray at which the distance falls below 0; rays without one are left out."""
    share = torch.arange(1, count + 1, device=start.device, dtype=start.dtype) / count
    t = torch.lerp(start[rows, None], end[rows, None], share)
    values = torch.cat([start_sdf[rows, None], rays.at(rows, t)], dim=-1)
    t = torch.cat([start[rows, None], t], dim=-1)
    falls = (values[:, :-1] > 0) & (values[:, 1:] <= 0)
    found = falls.any(dim=-1)
    index = falls[found].to(torch.int8).argmax(dim=-1, keepdim=True)
    picked = (part[found].gather(-1, index + shift)[:, 0] for part in (t, values) for shift in (0, 1))
    return Brackets(rows[found], *picked)


def narrow_down(rays: Rays, brackets: Brackets, steps: int) -> Float[Tensor, " k"]:
    """Where the distance is 0 within brackets, by the secant that keeps enclosing it.

    If one end stays twice, its value is halved (the Illinois rule): the plain rule would creep up from one side.
    """
    rows, start, end, start_sdf, end_sdf = brackets
    kept = torch.zeros_like(start)  # +1: the end was kept last, −1: the start

    def crossing() -> Tensor:
        share = (start_sdf / (start_sdf - end_sdf).clamp_min(1e-20)).clamp(0.0, 1.0)
        return torch.lerp(start, end, share)

    for _ in range(steps):
        t = crossing()
        value = rays.at(rows, t)
        outside = value > 0
        start, end = torch.where(outside, t, start), torch.where(outside, end, t)
        end_sdf = torch.where(outside, torch.where(kept > 0, 0.5 * end_sdf, end_sdf), value)
        start_sdf = torch.where(outside, value, torch.where(kept < 0, 0.5 * start_sdf, start_sdf))
        kept = torch.where(outside, 1.0, -1.0)
    return crossing()


@torch.no_grad()
def nearest_on_rays(
    sdf: Distance,
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    near: Float[Tensor, "n 1"],
    far: Float[Tensor, "n 1"],
    count: int = 100,
    jitter: Float[Tensor, "n 1"] | None = None,
    radius: float = 1.0,
) -> Float[Tensor, " n"]:
    """Ray distances at which the signed distance is least: among even samples, and then between them by a parabola.

    Without the parabola, rays that touch the surface would seem to pass it by up to half of the samples' spacing.

    Args:
        sdf: signed distance.
        origins, directions: rays; directions may have any length.
        near, far: where rays begin and end.
        count: samples, at least 3.
        jitter: shift of each ray's samples in [0, 1) of their spacing; None: 0.5.
        radius: of the scene's sphere.
    """
    rays = Rays(origins, directions, directions.norm(dim=-1), sdf, 2.0 * radius)
    rows = torch.arange(len(origins), device=origins.device)
    shift = 0.5 if jitter is None else jitter
    share = (torch.arange(count, device=near.device, dtype=near.dtype) + shift) / count
    t = torch.lerp(near, far, share.expand(len(near), count))
    values = rays.at(rows, t)
    index = values.argmin(dim=-1, keepdim=True)
    middle = index.clamp(1, count - 2)
    a, b, c = (values.gather(-1, middle + offset)[:, 0] for offset in (-1, 0, 1))
    spacing = (far - near)[:, 0] / count
    bend = a - 2.0 * b + c
    vertex = t.gather(-1, middle)[:, 0] + spacing * (0.5 * (a - c) / bend.clamp_min(1e-12)).clamp(-1.0, 1.0)
    best, best_value = t.gather(-1, index)[:, 0], values.gather(-1, index)[:, 0]
    lower = (bend > 0) & (rays.at(rows, vertex) < best_value)
    return torch.where(lower, vertex, best)
