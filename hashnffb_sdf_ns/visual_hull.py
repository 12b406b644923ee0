"""Where an object is, from its masks: the visual hull on a coarse grid, robust to some bad masks. Pure numpy.

A point belongs to the object if the masks of nearly all views that see it say so. What is found is larger than the
object (concavities, and whatever lies behind it where cameras stand on one side only), never smaller but for the
views that may disagree.

Source: Laurentini, "The visual hull concept for silhouette-based image understanding" (1994); carving of voxels as in
space carving with votes instead of a veto.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from common_ns.projection import project

COARSE, FINE = 40, 64
"""Voxels along a side of the region in the first and the last pass."""
TOLERATED = 0.04
"""Share of the views, but at least one, whose masks may leave out a point of the object. One bad mask is tolerated
from four views on."""
EXPLAINED = 0.97
"""Share of every mask that a hull without any tolerance has to explain, to be taken where there are few views."""
LEAST_SEEN = 0.25
"""Share of the views, at least, whose masks hold a point of the object."""
SPECK = 0.01
"""Share of the hull's voxels below which a piece of it is left out."""
ENLARGE, TRIES = 1.6, 5
"""Factor on the region where the hull reaches its border, and how often it is tried."""


@dataclass(frozen=True)
class View:
    """A view of the object."""

    projection: Float[NDArray, "3 4"]
    """From the world to the mask's pixels; the first pixel's center is at 0.5."""
    mask: Bool[NDArray, "h w"]
    """Where the object is."""


@dataclass(frozen=True)
class Hull:
    """Voxels that the masks say are the object."""

    points: Float[NDArray, "n 3"]
    """Their centers in world coordinates; none if the masks contradict each other."""
    voxel_size: float
    """Their side."""
    agreement: Float[NDArray, " v"]
    """For each view, the share of these voxels in view that are in its mask: 1 for a good mask. NaN if none is in
    view."""
    coverage: Float[NDArray, " v"]
    """For each view, the share of its mask that these voxels explain: 1 for a good mask, 0 for an empty one."""


def pixels_of(
    view: View, points: Float[NDArray, "n 3"]
) -> tuple[Int[NDArray, " n"], Int[NDArray, " n"], Bool[NDArray, " n"]]:
    """Row and column of points in a view's mask, and which of them are in view; the others get pixel 0."""
    height, width = view.mask.shape
    places, seen = project(view.projection, points, (width, height))
    column, row = np.where(seen[:, None], places, 0.0).astype(np.int64).T
    return row, column, seen


def carve(views: Sequence[View], center: Float[NDArray, "3"], half: float) -> Hull:
    """The visual hull, looked for first in a cube and then in a closer one.

    Args:
        views: at least one.
        center: of a cube that holds the object, roughly.
        half: half of its side. It is enlarged where the hull reaches its border.
    """
    tolerated = 0 if len(views) < 4 else max(1, round(TOLERATED * len(views)))
    if tolerated > TOLERATED * len(views):
        # One of few views is a large share: leaving any one of them out, as the tolerance does, can make the hull of
        # cameras on one side several times as long.
        hull = _carved(views, center, half, 0)
        if len(hull.points) and hull.coverage.min() >= EXPLAINED:
            return hull
    return _carved(views, center, half, tolerated)


def _carved(views: Sequence[View], center: Float[NDArray, "3"], half: float, tolerated: int) -> Hull:
    """The visual hull, whose points so many views at most may leave out; other arguments as `carve`."""
    low, high = center - half, center + half
    kept, step = np.zeros((0, 3)), 2.0 * half / COARSE
    for _ in range(TRIES):
        kept, step = _kept(views, low, high, COARSE, tolerated)
        if len(kept) == 0:
            break
        inside = ((kept > low + 1.01 * step) & (kept < high - 1.01 * step)).all(axis=1)
        if inside.mean() > 0.99:
            break
        middle, reach = 0.5 * (low + high), 0.5 * ENLARGE * (high - low)
        low, high = middle - reach, middle + reach
    if len(kept):
        low, high = kept.min(axis=0) - 1.5 * step, kept.max(axis=0) + 1.5 * step
        kept, step = _kept(views, low, high, FINE, tolerated)
        kept = _without_specks(kept, low, step)
    return Hull(kept, step, *_judge(views, kept, step))


def _kept(
    views: Sequence[View], low: Float[NDArray, "3"], high: Float[NDArray, "3"], resolution: int, tolerated: int
) -> tuple[Float[NDArray, "n 3"], float]:
    """Centers of the voxels of a box that all but `tolerated` views keep, and the side of the voxels."""
    step = float((high - low).max()) / resolution
    axes = [np.arange(a + 0.5 * step, b, step) for a, b in zip(low, high)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    inside, outside = np.zeros((2, len(points)), dtype=np.int32)
    # Neighbors see much the same: in strides over the views, most points are out after a few.
    stride = max(1, round(math.sqrt(len(views))))
    for index in (i for start in range(stride) for i in range(start, len(views), stride)):
        row, column, seen = pixels_of(views[index], points)
        hit = views[index].mask[row, column] & seen
        inside += hit
        outside += seen & ~hit
        alive = outside <= tolerated
        if alive.sum() < 0.8 * len(alive):
            points, inside, outside = points[alive], inside[alive], outside[alive]
    # Some views see a part only; but where hardly any looks, masks say nothing.
    enough = max(min(2, len(views)), math.ceil(max(0.5 * inside.max(initial=0), LEAST_SEEN * len(views))))
    return points[(outside <= tolerated) & (inside >= enough)], step


def _without_specks(points: Float[NDArray, "n 3"], low: Float[NDArray, "3"], step: float) -> Float[NDArray, "m 3"]:
    """Voxels without pieces of less than `SPECK` of them all. At the borders of many pictures there are such, which few
    views see."""
    from scipy.ndimage import label

    if len(points) == 0:
        return points
    cells = np.round((points - low) / step - 0.5).astype(np.int64)
    grid = np.zeros(cells.max(axis=0) + 1, dtype=bool)
    grid[tuple(cells.T)] = True
    labels = np.zeros(grid.shape, dtype=np.int32)
    label(grid, structure=np.ones((3, 3, 3)), output=labels)
    piece = labels[tuple(cells.T)]
    return points[np.bincount(piece)[piece] >= SPECK * len(points)]


def _judge(
    views: Sequence[View], points: Float[NDArray, "n 3"], step: float
) -> tuple[Float[NDArray, " v"], Float[NDArray, " v"]]:
    """How well each mask agrees with the voxels; see `Hull`."""
    agreement, coverage = np.full(len(views), np.nan), np.zeros(len(views))
    for index, view in enumerate(views):
        if len(points) == 0:
            continue
        row, column, seen = pixels_of(view, points)
        if not seen.any():
            continue
        agreement[index] = view.mask[row[seen], column[seen]].mean()
        # Cells of the picture so large that the voxels of a filled region leave none of them out.
        scale = np.sqrt(np.abs(np.linalg.det(view.projection[:, :3])) / np.linalg.norm(view.projection[2, :3]))
        depth = points @ view.projection[2, :3] + view.projection[2, 3]
        footprint = scale * step / max(float(np.median(depth[seen])), 1e-12)
        cell = max(1, math.ceil(1.5 * footprint))
        height, width = (-(-side // cell) for side in view.mask.shape)
        filled = np.zeros((height, width), dtype=bool)
        filled[row[seen] // cell, column[seen] // cell] = True
        rows, columns = np.nonzero(view.mask)
        if len(rows):
            coverage[index] = filled[rows // cell, columns // cell].mean()
    return agreement, coverage


def likely_region(views: Sequence[View], axes_point: Float[NDArray, "3"]) -> tuple[Float[NDArray, "3"], float]:
    """A cube to look for the object in: center and half of the side.

    The center is the point nearest to the rays through the middles of the masks, the size follows from the masks' own.
    Both are medians or nearly so: single bad masks do not matter.

    Args:
        views: empty masks do not count.
        axes_point: where the object is if the rays do not tell: all parallel, or no mask has a pixel.
    """
    origins, directions, angles = [], [], []
    for view in views:
        rows, columns = np.nonzero(view.mask)
        if len(rows) == 0:
            continue
        inverse = np.linalg.inv(view.projection[:, :3])
        center = np.array([columns.mean() + 0.5, rows.mean() + 0.5, 1.0])
        some = slice(None, None, max(1, len(rows) // 500))
        pixels = np.stack([columns[some] + 0.5, rows[some] + 0.5, np.ones(len(rows[some]))], axis=-1)
        axis, rays = inverse @ center, pixels @ inverse.T
        axis /= np.linalg.norm(axis)
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        cosine = np.clip(rays @ axis, -1.0, 1.0)
        origins.append(-inverse @ view.projection[:, 3])
        directions.append(axis * np.sign(np.linalg.det(view.projection[:, :3])))
        angles.append(np.arccos(np.quantile(np.abs(cosine), 0.02)))
    point = np.asarray(axes_point, dtype=np.float64)
    if len(origins) >= 2:
        o, d = np.array(origins), np.array(directions)
        weights = np.ones(len(o))
        projections = np.eye(3) - d[:, :, None] * d[:, None, :]
        for _ in range(10):  # weights 1 / distance: the sum of distances, not of their squares
            normal = np.einsum("n,nij->ij", weights, projections)
            if np.linalg.eigvalsh(normal)[0] < 1e-6 * weights.sum():
                break
            point = np.linalg.solve(normal, np.einsum("n,nij,nj->i", weights, projections, o))
            distance = np.linalg.norm(np.einsum("nij,nj->ni", projections, point - o), axis=1)
            weights = 1.0 / np.maximum(distance, 1e-3 * np.linalg.norm(point - o, axis=1).mean())
    if not origins:
        return point, 1.0
    reach = np.linalg.norm(point - np.array(origins), axis=1) * np.sin(np.minimum(angles, 1.4))
    return point, 1.3 * float(np.quantile(reach, 0.75))
