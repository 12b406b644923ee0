"""What a ray sees of a fitted signal: an image as a plane in space, a volume by marching to its surface."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_cdt
from torch import Tensor

from miner_ns.hierarchy import Hierarchy

BISECTIONS = 6
"""Halvings of the last marching step to find the surface; what is left is interpolated."""
MAX_STRETCH = 1.5
"""A pixel that covers an ellipse longer than this times its width is split along it."""
MAX_PARTS = 8
"""Most parts that a pixel is split into."""


class PlaneHits(NamedTuple):
    """Where rays meet an image. A pixel covers an ellipse there, longer the more the image is seen at a slant."""

    distance: Float[Tensor, " n"]
    """Ray distance; 0 where the image is missed."""
    points: Float[Tensor, "n 2"]
    """Place on the image in its samples, the ellipse's center."""
    level: Float[Tensor, " n"]
    """Level of detail whose samples are as wide as the ellipse, or as a part of it."""
    coverage: Float[Tensor, " n"]
    """Share of the pixel that the image covers, from 0 to 1."""
    extent: Float[Tensor, "n 2"]
    """Height and width of the ellipse in samples."""
    along: Float[Tensor, "n 2"]
    """Long axis of the ellipse, from end to end in the image's samples."""
    parts: Int[Tensor, " n"]
    """Parts that the ellipse is split into along this axis, so that each is about as long as wide."""

    @property
    def inside(self) -> Bool[Tensor, " n"]:
        """Whether the pixel has a part of the image in it."""
        return self.coverage > 0

    def query(self, hierarchy: Hierarchy, which: Int[Tensor, " m"], level: Float[Tensor, " m"]) -> Float[Tensor, "m C"]:
        """The image as some of the pixels see it: the mean over their parts.

        Args:
            hierarchy: the fitted image.
            which: numbers of the pixels.
            level: level of detail for each.
        """
        parts = self.parts[which]
        of = torch.repeat_interleave(parts)
        number = torch.arange(len(of), device=of.device) - (parts.cumsum(0) - parts)[of]
        shift = (number + 0.5) / parts[of] - 0.5
        values = hierarchy.query(self.points[which][of] + shift[:, None] * self.along[which][of], level[of])
        return values.new_zeros(len(which), values.shape[-1]).index_add_(0, of, values / parts[of, None])


def hit_plane(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    pixel_area: Float[Tensor, "n 1"],
    grid_to_world: Float[Tensor, "3 3"],
    shape: tuple[int, int],
) -> PlaneHits:
    """Intersect rays with an image.

    Args:
        origins, directions: of the rays.
        pixel_area: area of the pixel at distance 1, as nerfstudio's cameras give it.
        grid_to_world: from the image's samples (row, column, 1) to the world.
        shape: rows and columns of the image.
    """
    axes, corner = grid_to_world[:, :2], grid_to_world[:, 2]
    # The axes are at right angles: their pseudo-inverse is their transpose over squared lengths.
    to_grid = axes / (axes * axes).sum(0)
    sample = float((axes * axes).sum(0).prod() ** 0.25)
    normal = torch.nn.functional.normalize(torch.linalg.cross(axes[:, 0], axes[:, 1]), dim=0)
    slope = directions @ normal
    distance = ((corner - origins) @ normal) / torch.where(slope.abs() < 1e-9, 1e-9, slope)
    points = (origins + distance[:, None] * directions - corner) @ to_grid

    length = directions.norm(dim=-1).clamp_min(1e-9)
    stretch = length / slope.abs().clamp_min(1e-3 * length)
    width = pixel_area[:, 0].clamp_min(0.0).sqrt() * distance.abs() * length / sample
    ahead = directions - slope[:, None] * normal
    # Seen straight on, the ellipse is a circle, and any axis is its long one.
    ahead = torch.where(ahead.norm(dim=-1, keepdim=True) > 1e-4 * length[:, None], ahead, axes[:, 0])
    ahead = torch.nn.functional.normalize(ahead, dim=-1)
    along = (sample * width * stretch)[:, None] * (ahead @ to_grid)
    across = (sample * width)[:, None] * (torch.linalg.cross(normal.expand_as(ahead), ahead) @ to_grid)

    extent = (along.square() + across.square()).sqrt().clamp_min(1e-6)
    limits = points.new_tensor(shape)
    overlap = torch.minimum(points + 0.5 * extent, limits) - (points - 0.5 * extent).clamp_min(0.0)
    coverage = torch.where(distance > 0, (overlap / extent).clamp(0.0, 1.0).prod(-1), 0.0)

    parts = torch.minimum(stretch / MAX_STRETCH, width * stretch).ceil().clamp(1, MAX_PARTS)
    part = stretch.clamp_max(MAX_STRETCH).sqrt() * (stretch / (MAX_STRETCH * parts)).clamp_min(1.0)
    level = torch.log2((width * part).clamp_min(1.0))
    return PlaneHits(torch.where(coverage > 0, distance, 0.0), points, level, coverage, extent, along, parts.long())


class SurfaceHits(NamedTuple):
    """Where rays meet the surface of a volume."""

    distance: Float[Tensor, " n"]
    """Ray distance; 0 where nothing is hit."""
    normals: Float[Tensor, "n 3"]
    """Outward unit normals in the world; 0 where nothing is hit."""
    inside: Bool[Tensor, " n"]
    """Whether the surface is hit."""


class VolumeSamples:
    """The samples of one level of an occupancy, interpolated linearly between their centers.

    Args:
        hierarchy: the fitted occupancy.
        level: which of its levels.
    """

    def __init__(self, hierarchy: Hierarchy, level: int) -> None:
        self.step = 2.0**level
        self.values = hierarchy.reconstruct(level)[..., 0]
        self.free = _free_space(self.values)

    def occupancy(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Interpolated occupancy at positions in the volume's samples; 0 outside of the volume."""
        covered = points.new_tensor(self.values.shape) * self.step
        place = (2.0 * points / covered - 1.0).flip(-1).reshape(1, 1, 1, -1, 3)
        values = self.values[None, None].to(points)
        return torch.nn.functional.grid_sample(values, place, padding_mode="zeros", align_corners=False).reshape(-1)

    def normals(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Unit vectors in which the occupancy falls, along the axes of the samples."""
        offsets = self.step * torch.eye(3, device=points.device)
        slope = torch.stack([self.occupancy(points + o) - self.occupancy(points - o) for o in offsets], dim=-1)
        return -torch.nn.functional.normalize(slope, dim=-1, eps=1e-9)

    def free_space(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """How far one can go from a position along any axis, in the volume's samples, and stay outside."""
        limits = torch.tensor(self.values.shape, device=points.device) - 1
        cell = torch.minimum((points / self.step).long().clamp_min(0), limits)
        return self.free[cell[:, 0], cell[:, 1], cell[:, 2]] * self.step


class VolumeMarcher:
    """Finds the surface of an occupancy, where its interpolated samples are 0.5.

    Rays march through the samples of a level, and the step in which they enter is halved. A level whose samples do not
    fit into memory is replaced by a coarser one while marching, and then by the networks themselves.

    Args:
        hierarchy: the fitted occupancy.
        grid_to_world: from the volume's samples (three indices, 1) to the world; axes at right angles, cubic samples.
        max_side: most samples along a side of what rays march through.
    """

    def __init__(self, hierarchy: Hierarchy, grid_to_world: Float[Tensor, "3 4"], max_side: int = 128) -> None:
        self.hierarchy = hierarchy
        self.grid_to_world = grid_to_world
        level = hierarchy.finest
        while level + 1 < len(hierarchy.grids) and max(hierarchy.grids[level].shape) > max_side:
            level += 1
        self.finest = level
        self._samples: dict[int, VolumeSamples] = {}

    def samples(self, level: float) -> VolumeSamples:
        """The samples that rays to the surface of a level march through."""
        chosen = min(max(int(level), self.finest), len(self.hierarchy.grids) - 1)
        if chosen not in self._samples:
            self._samples[chosen] = VolumeSamples(self.hierarchy, chosen)
        return self._samples[chosen]

    def occupancy(self, points: Float[Tensor, "n 3"], level: float) -> Float[Tensor, " n"]:
        """Occupancy of a level at positions in the volume's samples."""
        if level < self.finest:
            return self.hierarchy.query(points, level)[:, 0]
        value = self.samples(level).occupancy(points)
        share = level - int(level)
        return value if share == 0.0 else torch.lerp(value, self.samples(level + 1.0).occupancy(points), share)

    def __call__(self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], level: float) -> SurfaceHits:
        """March rays to the surface.

        Args:
            origins, directions: of the rays, in the world.
            level: level of detail of the surface.
        """
        level = max(level, float(self.hierarchy.finest))
        axes, corner = self.grid_to_world[:, :3], self.grid_to_world[:, 3]
        squared = (axes * axes).sum(0)
        start = (origins - corner) @ axes / squared
        along = directions @ axes / squared
        size = start.new_tensor(self.hierarchy.grids[0].signal_shape)
        # Entry into and exit from the box.
        safe = torch.where(along.abs() < 1e-9, 1e-9, along)
        first, second = -start / safe, (size - start) / safe
        near = torch.minimum(first, second).amax(-1).clamp_min(0.0)
        far = torch.maximum(first, second).amin(-1)
        samples = self.samples(level)
        stride = 0.5 * samples.step / along.norm(dim=-1).clamp_min(1e-9)
        hit = _march(samples, start, along, near, far, stride)
        found = torch.nonzero(hit >= 0)[:, 0]
        normals = torch.zeros_like(origins)
        if len(found) > 0:
            high = hit[found]
            low = (high - 2.0 * stride[found]).clamp_min(0.0)
            high = high + stride[found]  # a finer level's surface may lie a little behind the coarse one's
            outside, inside = torch.zeros_like(low), torch.ones_like(high)
            for _ in range(BISECTIONS):
                middle = 0.5 * (low + high)
                value = self.occupancy(start[found] + middle[:, None] * along[found], level)
                entered = value > 0.5
                low, outside = torch.where(entered, low, middle), torch.where(entered, outside, value)
                high, inside = torch.where(entered, middle, high), torch.where(entered, value, inside)
            hit[found] = torch.lerp(low, high, (0.5 - outside) / (inside - outside))
            # Samples are all but 0 and 1. Those of the next coarser level, their means, have a slope to go by.
            points = start[found] + hit[found, None] * along[found]
            normals[found] = self.samples(level + 1.0).normals(points) @ (axes / squared.sqrt()).T
        return SurfaceHits(hit.clamp_min(0.0), normals, hit >= 0)


def _march(
    samples: VolumeSamples,
    start: Float[Tensor, "n 3"],
    along: Float[Tensor, "n 3"],
    near: Float[Tensor, " n"],
    far: Float[Tensor, " n"],
    stride: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """Ray distance of the first step inside; −1 if there is none. Steps are multiples of the stride, and those that
    cannot be inside are left out.

    Args:
        samples: what to march through.
        start, along: rays in the volume's samples.
        near, far: ray distances at which they enter and leave the volume.
        stride: length of a step in ray distance.
    """
    hit = torch.full_like(near, -1.0)
    active = torch.nonzero(far > near)[:, 0]
    t = near[active]
    # How many steps a sample takes along the axis in which the ray is fastest.
    per_sample = 1.0 / (along.abs().amax(-1).clamp_min(1e-9) * stride)
    while len(active) > 0:
        points = start[active] + t[:, None] * along[active]
        free = samples.free_space(points)
        close = torch.nonzero(free <= 0)[:, 0]
        entered = close[samples.occupancy(points[close]) > 0.5]
        hit[active[entered]] = t[entered]
        t = t + (free * per_sample[active]).floor().clamp_min(1.0) * stride[active]
        left = t < far[active]
        left[entered] = False
        active, t = active[left], t[left]
    return hit


def _free_space(values: Float[Tensor, "a b c"]) -> Float[Tensor, "a b c"]:
    """How far one can go from anywhere in a sample, along any axis and in samples, and find nothing inside; not above 0
    where something may be inside.

    Args:
        values: samples of an occupancy.
    """
    outside = (values <= 0.5).cpu().numpy()
    if outside.all():
        return torch.full_like(values, float(max(values.shape)))
    # Interpolated values exceed 0.5 up to a sample away from a sample that does, and a place in a sample is up to half
    # a sample away from its center.
    distance = torch.from_numpy(distance_transform_cdt(outside, metric="chessboard")).to(values)
    return distance - 1.5
