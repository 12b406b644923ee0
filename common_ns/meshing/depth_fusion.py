"""A surface from pictures of depth: the truncated signed distance that they agree on, at any point.

For models that draw pictures and have no field of their own. A point's distance in one picture is the depth that its
pixel shows, less the point's own; far behind what is shown the picture knows nothing, and far before it knows no more
than that there is nothing. The mean over the pictures is the field (Curless and Levoy, SIGGRAPH 1996), asked at points
instead of kept in voxels. What is hidden in every picture counts as inside, so that there is no second wall behind the
first; what lies beside all of them counts as outside. Where these two meet there is no surface: see `FusedDepth.shown`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class DepthPicture:
    """What a pinhole camera sees."""

    depth: Float[Tensor, "h w"]
    """Along the optical axis, in scene units; 0: nothing."""
    color: Float[Tensor, "h w 3"]
    """In [0, 1]."""
    viewmat: Float[Tensor, "4 4"]
    """World to camera, which looks along +z with y downward (OpenCV)."""
    intrinsics: tuple[float, float, float, float]
    """fx, fy, cx, cy in pixels, the first pixel's center at (½, ½)."""


@dataclass(frozen=True)
class FusedDepth:
    """The field of several pictures."""

    pictures: Sequence[DepthPicture]
    truncation: float
    """Distance in scene units beyond which a picture says no more than before or behind."""

    @torch.no_grad()
    def value(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Signed distance in scene units, within ± `truncation`, negative inside."""
        total, seen, hidden = (points.new_zeros(len(points)) for _ in range(3))
        for picture in self.pictures:
            where, pixels, z = _seen(picture, points)
            distance = _distances(picture.depth, pixels, z, self.truncation) / self.truncation
            known = distance > -1.0
            total.index_add_(0, where[known], distance[known].clamp_max(1.0).to(total))
            seen[where[known]] += 1.0
            hidden[where[~known]] = 1.0
        return self.truncation * torch.where(seen > 0, total / seen.clamp_min(1.0), 1.0 - 2.0 * hidden)

    @torch.no_grad()
    def shown(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, "n"]:
        """Which points some picture shows a surface at, within half of `truncation`."""
        found = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        for picture in self.pictures:
            where, pixels, z = _seen(picture, points)
            near = _distances(picture.depth, pixels, z, self.truncation).abs() < 0.5 * self.truncation
            found[where[near]] = True
        return found

    @torch.no_grad()
    def color(self, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Mean color in the pictures that show a point, by how much it faces them; gray where none does."""
        total, weights = points.new_zeros(len(points), 3), points.new_zeros(len(points))
        for picture in self.pictures:
            where, pixels, z = _seen(picture, points)
            shown = _distances(picture.depth, pixels, z, self.truncation).abs() < self.truncation
            where, pixels = where[shown], pixels[shown]
            origin = -picture.viewmat[:3, :3].T @ picture.viewmat[:3, 3]
            toward = torch.nn.functional.normalize(origin.to(points) - points[where], dim=-1)
            facing = (toward * normals[where]).sum(dim=-1).clamp_min(0.01)
            row, column = _cells(pixels, picture.depth)
            total.index_add_(0, where, facing[:, None] * picture.color[row, column].to(total))
            weights.index_add_(0, where, facing)
        return torch.where(weights[:, None] > 0, total / weights.clamp_min(1e-9)[:, None], 0.5)


def _seen(
    picture: DepthPicture, points: Float[Tensor, "n 3"]
) -> tuple[Int[Tensor, "m"], Float[Tensor, "m 2"], Float[Tensor, "m"]]:
    """Which points are before the camera and within the picture, where in it (x, y), and at which depth."""
    viewmat, (fx, fy, cx, cy) = picture.viewmat.to(points), picture.intrinsics
    x, y, z = (points @ viewmat[:3, :3].T + viewmat[:3, 3]).unbind(dim=-1)
    safe = torch.where(z > 1e-6, z, 1.0)
    pixels = torch.stack([fx * x / safe + cx, fy * y / safe + cy], dim=-1)
    height, width = picture.depth.shape
    inside: Bool[Tensor, "n"] = (pixels >= 0).all(dim=-1) & (pixels < pixels.new_tensor([width, height])).all(dim=-1)
    where = torch.nonzero(inside & (z > 1e-6))[:, 0]
    return where, pixels[where], z[where]


def _cells(pixels: Float[Tensor, "m 2"], depth: Float[Tensor, "h w"]) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"]]:
    """Row and column of the pixel that each place is in."""
    height, width = depth.shape
    column, row = pixels.floor().long().unbind(dim=-1)
    return row.clamp(0, height - 1), column.clamp(0, width - 1)


def _distances(
    depth: Float[Tensor, "h w"], pixels: Float[Tensor, "m 2"], z: Float[Tensor, "m"], truncation: float
) -> Float[Tensor, "m"]:
    """Depth at places less z; infinite where there is nothing. Depth is interpolated within four pixels of a surface,
    else the nearest counts: there is nothing between two."""
    height, width = depth.shape
    depth = torch.where(depth > 0, depth, torch.inf).to(pixels)
    distance = depth[_cells(pixels, depth)] - z
    # Elsewhere a picture says the same from one end of the pixel to the other.
    close = torch.nonzero(distance.abs() < 2.0 * truncation)[:, 0]
    places = pixels[close] - 0.5
    left, top = places.floor().long().unbind(dim=-1)
    rows = [top.clamp(0, height - 1), (top + 1).clamp(0, height - 1)]
    columns = [left.clamp(0, width - 1), (left + 1).clamp(0, width - 1)]
    corners = torch.stack([depth[r, c] for r in rows for c in columns], dim=-1)
    x, y = (places - torch.stack([left, top], dim=-1)).unbind(dim=-1)
    parts = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], dim=-1)
    one_surface = corners.amax(dim=-1) - corners.amin(dim=-1) < truncation  # NaN, of two infinite ones, is not below
    between = (torch.where(one_surface[:, None], corners, 0.0) * parts).sum(dim=-1) - z[close]
    distance[close] = torch.where(one_surface, between, distance[close])
    return distance
