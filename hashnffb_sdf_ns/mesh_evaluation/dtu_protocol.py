"""The evaluation of the DTU multi-view stereo data set: mean accuracy and completeness in millimeters.

1. The mesh becomes points: its vertices, and a grid of 0.2 mm on each triangle. They are thinned out until no two are
   closer than 0.2 mm.
2. Accuracy: the mean distance to the scanned reference of those points that are in a voxel which the scanner observed
   (ObsMask). Completeness: the mean distance from reference points above the ground plane to the points of the mesh.
   Only points within the observed box, widened by 60 mm below and by 120 mm above, take part.
3. Distances of 20 mm and more are left out of both means. "Overall" is the mean of the two.

Pure numpy and scipy.

Source: Jensen et al., "Large scale multi-view stereopsis evaluation" (CVPR 2014) and its evaluation code, as restated
for meshes by DTUeval-python, whose figures IDR, NeuS and their successors report.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from common_ns.data.files import require_file
from common_ns.errors import InputError
from hashnffb_sdf_ns.mesh_evaluation.surface_points import Geometry, Progress, corners_of

DENSITY = 0.2
"""Spacing of the points on the mesh, in mm."""
MAX_DISTANCE = 20.0
"""Distances from here on are outliers, in mm."""
PATCH = 60.0
"""Margin about the observed box, in mm."""
GRID_CHUNK = 2_000_000
"""Points on triangles that are made at once."""
FIRST_CHUNK, LARGEST_CHUNK = 50_000, 1_000_000
"""Points that are thinned out at once: few at first, as their neighbors are many."""
QUERY_CHUNK = 200_000


@dataclass(frozen=True)
class Observability:
    """What the scanner could see: the content of ObsMask<scan>_10.mat and Plane<scan>.mat."""

    mask: Bool[NDArray, "x y z"]
    """Observed voxels."""
    box: Float[NDArray, "2 3"]
    """Center of the first voxel and the box's other corner, in mm."""
    resolution: float
    """Side of a voxel in mm."""
    plane: Float[NDArray, "4"]
    """Points x with plane · (x, 1) > 0 are above the ground."""

    @staticmethod
    def read(obs_mask: Path, plane: Path) -> Observability:
        """Raises: InputError if a file cannot be read or lacks what it should hold."""
        content, ground = _read_mat(obs_mask, ("ObsMask", "BB", "Res")), _read_mat(plane, ("P",))
        mask, box = content["ObsMask"].astype(bool), content["BB"].astype(np.float64)
        if mask.ndim != 3 or box.shape != (2, 3) or ground["P"].size != 4 or content["Res"].size != 1:
            shapes = f"ObsMask {mask.shape}, BB {box.shape}, Res {content['Res'].shape}, P {ground['P'].shape}"
            problem = f"the shapes are {shapes} instead of [x, y, z], [2, 3], 1 and 4 numbers"
            raise InputError(problem, "Give the files of DTU's SampleSet", obs_mask)
        return Observability(mask, box, float(content["Res"].item()), ground["P"].astype(np.float64).reshape(4))

    def in_box(self, points: Float[NDArray, "n 3"], margin: float = 0.0) -> Bool[NDArray, " n"]:
        """Which points are in the widened box, with a further margin in mm."""
        low, high = self.box[0] - PATCH - margin, self.box[1] + 2.0 * PATCH + margin
        return ((points >= low) & (points < high)).all(axis=1)

    def observed(self, points: Float[NDArray, "n 3"]) -> Bool[NDArray, " n"]:
        """Which points are in an observed voxel."""
        voxel = np.around((points - self.box[0]) / self.resolution).astype(np.int64)
        inside = ((voxel >= 0) & (voxel < self.mask.shape)).all(axis=1)
        voxel[~inside] = 0
        return inside & self.mask[tuple(voxel.T)]

    def above_ground(self, points: Float[NDArray, "n 3"]) -> Bool[NDArray, " n"]:
        """Which points are above the ground plane."""
        return points @ self.plane[:3] + self.plane[3] > 0


@dataclass(frozen=True)
class DtuMetrics:
    """The result, in millimeters."""

    accuracy: float
    completeness: float
    overall: float
    """Mean of the two; what papers call the Chamfer distance on DTU."""
    accuracy_points: int
    """Observed points of the mesh."""
    completeness_points: int
    """Reference points above the ground."""
    accuracy_outliers: float
    """Share of the observed points that are 20 mm or more from the reference, and do not count."""
    completeness_outliers: float
    """Share of the reference points that are 20 mm or more from the mesh, and do not count."""

    def as_dict(self) -> dict[str, float | int]:
        """For JSON."""
        return asdict(self)


def evaluate(
    prediction: Geometry,
    reference: Float[NDArray, "n 3"],
    observability: Observability,
    seed: int = 0,
    progress: Progress | None = None,
) -> DtuMetrics:
    """Evaluate a mesh or point cloud by the protocol.

    Args:
        prediction: in DTU's coordinates, in mm.
        reference: points of stl<scan>_total.ply.
        observability: of the scan.
        seed: of the order in which points are thinned out.
        progress: told about stages.
    Raises: InputError if nothing of the mesh is where the scanner looked.
    """
    cells = [prediction.vertices]
    cells.extend(triangle_grids(corners_of(prediction), DENSITY) if len(prediction.faces) else ())
    # What is outside anyway is left out before it takes memory; but its neighbors within the box lose to it first.
    points = np.concatenate([cell[observability.in_box(cell, margin=DENSITY)] for cell in cells])
    points = thin_out(points, DENSITY, seed, progress)
    points = points[observability.in_box(points)]
    observed = points[observability.observed(points)]
    if len(observed) == 0:
        low, high = (f"({', '.join(f'{x:.4g}' for x in corner)})" for corner in observability.box)
        problem = f"no point of the mesh is where the scanner looked, from {low} to {high} mm"
        raise InputError(problem, "Write the mesh in millimeters, with ns-mesh --world-coordinates")
    above = reference[observability.above_ground(reference)]
    if len(above) == 0:
        raise InputError("no point of the reference is above the ground plane", "Check that the files are of one scan")
    accuracy, lost = _mean_near(observed, reference, "To the scan", progress)
    completeness, missed = _mean_near(above, points, "To the mesh", progress)
    overall = 0.5 * (accuracy + completeness)
    return DtuMetrics(accuracy, completeness, overall, len(observed), len(above), lost, missed)


def triangle_grids(corners: Float[NDArray, "f 3 3"], spacing: float) -> Iterator[Float[NDArray, "n 3"]]:
    """Points on triangles, in chunks.

    Along two edges of each triangle there are steps of such a length that a point has the area spacing². Points are in
    the middle of their cells; triangles smaller than a cell have none.
    """
    v1, v2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    l1, l2 = np.linalg.norm(v1, axis=1), np.linalg.norm(v2, axis=1)
    area = np.linalg.norm(np.cross(v1, v2), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        step = spacing * np.sqrt(l1 * l2 / area)
        steps1, steps2 = (np.where(area > 0, np.floor(length / step), 0).astype(np.int64) for length in (l1, l2))
    filled = np.flatnonzero((steps1 > 0) & (steps2 > 0))
    rows = np.repeat(filled, steps1[filled])  # one row of cells of a triangle each
    first = np.repeat(np.cumsum(steps1[filled]) - steps1[filled], steps1[filled])
    u = (np.arange(len(rows)) - first + 0.5) / np.maximum(steps1[rows], 1)
    ends = np.cumsum(steps2[rows])
    start = 0
    while start < len(rows):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + GRID_CHUNK, side="right")))
        some, counts = rows[start:stop], steps2[rows[start:stop]]
        row = np.repeat(np.arange(len(some)), counts)
        column = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        v = (column + 0.5) / counts[row]
        keep = u[start:stop][row] + v < 1.0
        triangle, a, b = some[row[keep]], u[start:stop][row[keep], None], v[keep, None]
        yield corners[triangle, 0] + a * v1[triangle] + b * v2[triangle]
        start = stop


def thin_out(
    points: Float[NDArray, "n 3"], spacing: float, seed: int = 0, progress: Progress | None = None
) -> Float[NDArray, "k 3"]:
    """Keep points, in random order, that are farther than `spacing` from all that were kept before.

    The same as taking one point after the other, but chunk by chunk: points near to those kept from earlier chunks go
    first; among the others, a point is decided once all its neighbors of lower number are.
    """
    from scipy.spatial import KDTree

    points = points[np.random.default_rng(seed).permutation(len(points))]
    kept = np.zeros((0, 3))
    start, size = 0, FIRST_CHUNK
    while start < len(points):
        chunk = points[start : start + size]
        if len(kept):
            tree = KDTree(kept)
            for first in range(0, len(chunk), QUERY_CHUNK):
                part = chunk[first : first + QUERY_CHUNK]
                # The bound is exclusive, and a distance of just the spacing is too near.
                distance, _ = tree.query(part, distance_upper_bound=np.nextafter(spacing, np.inf), workers=-1)
                chunk[first : first + QUERY_CHUNK][np.isfinite(distance)] = np.nan
            chunk = chunk[~np.isnan(chunk[:, 0])]
        pairs = KDTree(chunk).query_pairs(spacing, output_type="ndarray") if len(chunk) else np.zeros((0, 2), dtype=int)
        kept = np.concatenate([kept, chunk[_first_kept(len(chunk), pairs)]])
        if progress is not None:
            progress("Thinning out", min(size, len(points) - start) / len(points))
        start, size = start + size, min(2 * size, LARGEST_CHUNK)
    return kept


def _first_kept(count: int, pairs: NDArray) -> Bool[NDArray, " n"]:
    """Which of `count` points are kept if one after the other is, unless a neighbor of lower number was.

    Args:
        pairs: neighbors [p, 2], the lower number first.
    """
    undecided, kept = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
    while len(pairs):
        waiting = np.zeros(count, dtype=bool)
        waiting[pairs[:, 1]] = True  # a neighbor of lower number is not decided yet
        kept |= undecided & ~waiting
        undecided &= waiting
        undecided[pairs[kept[pairs[:, 0]], 1]] = False
        pairs = pairs[undecided[pairs[:, 0]] & undecided[pairs[:, 1]]]
    return kept | undecided


def _mean_near(
    points: Float[NDArray, "n 3"], goal: Float[NDArray, "m 3"], stage: str, progress: Progress | None
) -> tuple[float, float]:
    """Mean distance to the nearest goal of those points that are nearer than MAX_DISTANCE; the share of the others."""
    from scipy.spatial import KDTree

    tree, total, near = KDTree(goal), 0.0, 0
    for start in range(0, len(points), QUERY_CHUNK):
        part = points[start : start + QUERY_CHUNK]
        distance, _ = tree.query(part, distance_upper_bound=MAX_DISTANCE, workers=-1)
        counts = distance < MAX_DISTANCE
        total, near = total + float(distance[counts].sum()), near + int(counts.sum())
        if progress is not None:
            progress(stage, len(part) / len(points))
    if near == 0:
        problem = f"{stage.lower()}, all distances are {MAX_DISTANCE:g} mm or more"
        raise InputError(problem, "Check that mesh, reference and masks are of one scan, in millimeters")
    return total / near, 1.0 - near / len(points)


def _read_mat(path: Path, names: tuple[str, ...]) -> dict[str, NDArray]:
    """Arrays of a MATLAB file (up to version 7.2)."""
    from scipy.io import loadmat

    require_file(path, "file of the scan")
    try:
        content = loadmat(path, appendmat=False)
    except Exception as error:  # its reader raises whatever comes up
        problem = f"cannot be read as a MATLAB file ({type(error).__name__})"
        raise InputError(problem, "Give the files of DTU's SampleSet", path) from error
    for name in names:
        if name not in content:
            raise InputError(f"it lacks the array {name}", "Give the files of DTU's SampleSet", path)
    return {name: content[name] for name in names}
