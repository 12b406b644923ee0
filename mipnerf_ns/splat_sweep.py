"""Points of a scene from its photographs alone: along rays, the depth at which other photographs show the same colors.

A plane sweep on single rays (Collins 1996, A Space-Sweep Approach to True Multi-Image Matching). Where nothing stands
out, as in the sky or on plain walls, the farthest depth counts at which colors are alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

NEIGHBORS = 6
"""Photographs that a ray is compared with: those of the nearest cameras that look a similar way."""
DEPTHS = 64
"""Depths along a ray, even in their inverse."""
BLURS = (1, 3)
"""Radii in pixels of the squares over whose means colors are compared."""
CHUNK = 2**15
"""Rays that are compared at once."""
ALIKE = 0.005
"""Differences of colors below this tell nothing: a gray level of 8-bit photographs is 0.004."""
MOST_PIXELS = 2**17
"""Pixels of a photograph that colors are compared in."""


class Photographs(NamedTuple):
    """What pinhole cameras saw."""

    images: list[Float[Tensor, "h w 3"]]
    """In [0, 1]."""
    viewmats: Float[Tensor, "c 4 4"]
    """World to camera, which looks along +z with y downward (OpenCV)."""
    intrinsics: Float[Tensor, "c 4"]
    """fx, fy, cx, cy in pixels."""


class Swept(NamedTuple):
    """Points that photographs agree on."""

    points: Float[Tensor, "n 3"]
    """In scene units."""
    colors: Float[Tensor, "n 3"]
    """In [0, 1], of the photographs that the rays are of."""
    footprints: Float[Tensor, "n"]
    """Side of a pixel there, in scene units."""


def small_photographs(
    images: Iterable[Float[Tensor, "h w 3"]], viewmats: Float[Tensor, "c 4 4"], intrinsics: Float[Tensor, "c 4"]
) -> Photographs:
    """Photographs of at most `MOST_PIXELS`: means over squares of pixels. Arguments are as those of `Photographs`."""
    small, factors = [], []
    for image in images:
        height, width = image.shape[:2]
        factor = min(max(1, math.ceil(math.sqrt(height * width / MOST_PIXELS))), height, width)
        small.append(F.avg_pool2d(image.movedim(-1, 0)[None], factor)[0].movedim(0, -1))
        factors.append(factor)
    return Photographs(small, viewmats, intrinsics / torch.tensor(factors)[:, None])


def neighbors_of(viewmats: Float[Tensor, "c 4 4"], number: int = NEIGHBORS) -> Int[Tensor, "c k"]:
    """The cameras nearest to each by place and direction; in the same place there is nothing to see depth by.

    Returns: k ≤ number indices for each.
    """
    origins = -(viewmats[:, :3, :3].mT @ viewmats[:, :3, 3:])[..., 0]
    forward = viewmats[:, 2, :3]
    distance = torch.cdist(origins, origins)
    unit = distance.max().clamp_min(1e-9)
    # Half of the greatest distance counts as much as 60° between directions.
    cost = 2.0 * distance / unit + 2.0 * (1.0 - forward @ forward.T)
    cost = torch.where(distance > 1e-3 * unit, cost, torch.inf)
    count = min(number, int(torch.isfinite(cost).sum(dim=1).min()))
    return cost.topk(count, largest=False).indices


def _features(image: Float[Tensor, "h w 3"]) -> Float[Tensor, "1 f h w"]:
    channels = image.movedim(-1, 0)[None]
    blurred = []
    for radius in BLURS:
        padded = F.pad(channels, (radius,) * 4, mode="replicate")
        blurred.append(F.avg_pool2d(padded, 2 * radius + 1, stride=1))
    return torch.cat(blurred, dim=1)


def _looked_up(features: Float[Tensor, "1 f h w"], place: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n f"]:
    """Features at (x, y) in pixels, the first pixel's center being at (½, ½)."""
    height, width = features.shape[-2:]
    grid = 2.0 * place.reshape(1, 1, -1, 2) / place.new_tensor([width, height]) - 1.0
    found = F.grid_sample(features, grid, align_corners=False, padding_mode="border")
    return found[0, :, 0].T.reshape(*place.shape[:-1], -1)


@torch.no_grad()
def swept_points(photographs: Photographs, near: float, far: float, number: int, generator: torch.Generator) -> Swept:
    """Points at random pixels of all photographs, at the depths at which other photographs agree best.

    A depth costs the mean difference of colors to the half of the neighboring photographs that agree best: the others
    may not see the point. Of depths that cost the same, to `ALIKE`, the farthest counts. Rays that fewer than two
    photographs see anywhere have a random depth.

    Args:
        photographs: two at least in different places, else all depths are random.
        near, far: least and greatest depth along the optical axis, in scene units.
        number: of points, which is split evenly over the photographs.
        generator: of random numbers.
    """
    images, viewmats = photographs.images, photographs.viewmats
    features = [_features(image) for image in images]
    neighbors, parts = neighbors_of(viewmats), []
    for index, image in enumerate(images):
        count = number * (index + 1) // len(images) - number * index // len(images)
        height, width = image.shape[:2]
        place = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
        shift = torch.rand(count, 1, generator=generator)
        for start in range(0, count, CHUNK):
            chunk = slice(start, start + CHUNK)
            parts.append(_sweep(photographs, features, index, neighbors[index], place[chunk], shift[chunk], near, far))
    return Swept(*(torch.cat(values) for values in zip(*parts)))


def _sweep(
    photographs: Photographs,
    features: list[Tensor],
    index: int,
    neighbors: Int[Tensor, "k"],
    place: Float[Tensor, "n 2"],
    shift: Float[Tensor, "n 1"],
    near: float,
    far: float,
) -> Swept:
    """The points of some pixels (x, y) of one photograph. `shift` in [0, 1) moves a ray's depths between each other."""
    fx, fy, cx, cy = photographs.intrinsics[index].tolist()
    viewmat = photographs.viewmats[index]
    inverse = (torch.arange(DEPTHS) + shift) / DEPTHS
    depth = 1.0 / (inverse / near + (1.0 - inverse) / far)
    local = torch.stack([(place[:, 0] - cx) / fx, (place[:, 1] - cy) / fy, torch.ones(len(place))], dim=-1)
    points = (local[:, None] * depth[..., None] - viewmat[:3, 3]) @ viewmat[:3, :3]
    own, costs = _looked_up(features[index], place), []
    for other in neighbors.tolist():
        moved = photographs.viewmats[other]
        x, y, z = (points @ moved[:3, :3].T + moved[:3, 3]).unbind(-1)
        focal_x, focal_y, middle_x, middle_y = photographs.intrinsics[other].tolist()
        safe = z.clamp_min(1e-6)
        seen = torch.stack([focal_x * x / safe + middle_x, focal_y * y / safe + middle_y], dim=-1)
        height, width = features[other].shape[-2:]
        inside = (z > 0) & (seen >= 0).all(-1) & (seen[..., 0] <= width) & (seen[..., 1] <= height)
        difference = (_looked_up(features[other], seen) - own[:, None]).abs().mean(dim=-1)
        costs.append(torch.where(inside, difference, torch.inf))
    best = torch.randint(DEPTHS, (len(place),), generator=torch.Generator().manual_seed(index))
    if costs:
        sorted_costs = torch.stack(costs, dim=-1).sort(dim=-1).values
        number = torch.isfinite(sorted_costs).sum(dim=-1)
        counted = torch.arange(len(costs)) < ((number + 1) // 2).clamp_min(1)[..., None]
        total = torch.where(counted & torch.isfinite(sorted_costs), sorted_costs, 0.0).sum(dim=-1) / counted.sum(dim=-1)
        total = torch.where(number >= 2, total, torch.inf)
        known = torch.isfinite(total).any(dim=-1)
        # Depths go from far to near: of those that differ by less than can be told, the farthest.
        alike = total <= total.amin(dim=-1, keepdim=True) + ALIKE
        best = torch.where(known, alike.float().argmax(dim=-1), best)
    chosen = depth.gather(1, best[:, None])[:, 0]
    at = points.gather(1, best[:, None, None].expand(-1, 1, 3))[:, 0]
    image = photographs.images[index].movedim(-1, 0)[None]
    return Swept(at, _looked_up(image, place), chosen / max(fx, fy))
