"""What a ray sees of a fitted signal: an image as a plane in space, a volume by marching to its surface."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from miner_ns.hierarchy import Hierarchy

BISECTIONS = 8
"""Halvings of the last marching step to find the surface."""


class PlaneHits(NamedTuple):
    """Where rays meet an image."""

    distance: Float[Tensor, " n"]
    """Ray distance; 0 where the image is missed."""
    points: Float[Tensor, "n 2"]
    """Place on the image in its samples."""
    level: Float[Tensor, " n"]
    """Level of detail whose samples are as wide as the ray's pixel there."""
    inside: Bool[Tensor, " n"]
    """Whether the image is hit."""


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
        pixel_area: area of the pixel at distance 1, as the host's cameras give it.
        grid_to_world: from the image's samples (row, column, 1) to the world.
        shape: rows and columns of the image.
    """
    axes, corner = grid_to_world[:, :2], grid_to_world[:, 2]
    normal = torch.linalg.cross(axes[:, 0], axes[:, 1])
    normal = normal / normal.norm()
    slope = directions @ normal
    distance = ((corner - origins) @ normal) / torch.where(slope.abs() < 1e-9, 1e-9, slope)
    world = origins + distance[:, None] * directions
    # The axes are at right angles: their pseudo-inverse is their transpose over squared lengths.
    squared = (axes * axes).sum(0)
    points = (world - corner) @ axes / squared
    limits = points.new_tensor(shape)
    inside = (distance > 0) & (points >= 0).all(-1) & (points <= limits).all(-1)
    # Seen at a slant a pixel covers an ellipse; its area counts.
    length = directions.norm(dim=-1)
    cosine = (slope.abs() / length.clamp_min(1e-9)).clamp_min(1e-3)
    footprint = pixel_area[:, 0].clamp_min(0.0).sqrt() * distance.abs() * length / cosine.sqrt()
    level = torch.log2((footprint / squared.prod() ** 0.25).clamp_min(1.0))
    return PlaneHits(torch.where(inside, distance, 0.0), points, level, inside)


class SurfaceHits(NamedTuple):
    """Where rays meet the surface of a volume."""

    distance: Float[Tensor, " n"]
    """Ray distance; 0 where nothing is hit."""
    normals: Float[Tensor, "n 3"]
    """Outward unit normals in the world; 0 where nothing is hit."""
    inside: Bool[Tensor, " n"]
    """Whether the surface is hit."""


class VolumeMarcher:
    """Finds the surface of an occupancy.

    Rays march through samples of a level that fits into memory, and the step in which they enter is refined in the
    networks themselves.

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
        self.step = 2.0**level
        self.values = hierarchy.reconstruct(level)[..., 0]

    def __call__(self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], level: float) -> SurfaceHits:
        """March rays to the surface.

        Args:
            origins, directions: of the rays, in the world.
            level: level of detail of the surface.
        """
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
        speed = along.norm(dim=-1).clamp_min(1e-9)
        stride = 0.5 * self.step / speed
        steps = int(((far - near).clamp_min(0.0) / stride).max().ceil()) + 1 if len(near) else 0
        hit = torch.full_like(near, -1.0)
        active = torch.nonzero(far > near)[:, 0]
        for index in range(steps):
            t = near[active] + index * stride[active]
            value = self._coarse(start[active] + t[:, None] * along[active])
            entered = value > 0.5
            hit[active[entered]] = t[entered]
            active = active[~entered & (t < far[active])]
            if len(active) == 0:
                break
        found = torch.nonzero(hit >= 0)[:, 0]
        normals = torch.zeros_like(origins)
        if len(found) > 0:
            high = hit[found]
            low = (high - 2.0 * stride[found]).clamp_min(0.0)
            high = high + stride[found]  # the finest level's surface may lie a little behind the coarse one's
            for _ in range(BISECTIONS):
                middle = 0.5 * (low + high)
                value = self.hierarchy.query(start[found] + middle[:, None] * along[found], level)[:, 0]
                low, high = torch.where(value > 0.5, low, middle), torch.where(value > 0.5, middle, high)
            hit[found] = high
            normals[found] = self._normals(start[found] + high[:, None] * along[found]) @ (axes / squared.sqrt()).T
        return SurfaceHits(hit.clamp_min(0.0), normals, hit >= 0)

    def _coarse(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Interpolated occupancy of the level that rays march through."""
        covered = points.new_tensor(self.values.shape) * self.step
        place = (2.0 * points / covered - 1.0).flip(-1).reshape(1, 1, 1, -1, 3)
        values = self.values[None, None].to(points)
        return torch.nn.functional.grid_sample(values, place, padding_mode="zeros", align_corners=False).reshape(-1)

    def _normals(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Downhill direction of the interpolated occupancy, which is smoother than the networks' own."""
        offsets = self.step * torch.eye(3, device=points.device)
        slope = torch.stack([self._coarse(points + o) - self._coarse(points - o) for o in offsets], dim=-1)
        return -torch.nn.functional.normalize(slope, dim=-1, eps=1e-9)
