"""How far a mesh is from a reference: accuracy, completeness, Chamfer distance, F-score, normal consistency.

Pure numpy and scipy. Lengths are in the unit of the files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from common_ns.errors import InputError
from hashnffb_sdf_ns.mesh_evaluation.surface_points import Geometry, Progress, SampledSurface

DEFAULT_SAMPLES = 200_000
THRESHOLD_SHARE = 0.01
"""Threshold of the F-score in the diagonal of the reference's bounding box."""


@dataclass(frozen=True)
class MeshMetrics:
    """Distances between a mesh and its reference."""

    accuracy: float
    """Mean distance from the mesh to the reference."""
    completeness: float
    """Mean distance from the reference to the mesh."""
    chamfer: float
    """Mean of both."""
    chamfer_relative: float
    """Chamfer distance in the diagonal of the reference's bounding box."""
    precision: float
    """Share of the mesh that is within the threshold of the reference."""
    recall: float
    """Share of the reference that is within the threshold of the mesh."""
    f_score: float
    """Harmonic mean of precision and recall."""
    threshold: float
    """Of precision and recall."""
    normal_consistency: float | None
    """Mean of |cosine| between the normals of a sample and of the nearest one on the other, both ways: 1 at best, ½ for
    normals without relation. None if the reference has no normals."""
    diagonal: float
    """Of the reference's bounding box."""
    samples: int
    """Points on each surface; fewer for a reference that is a smaller point cloud."""

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON."""
        return asdict(self)


def compare(
    prediction: Geometry,
    reference: Geometry,
    samples: int = DEFAULT_SAMPLES,
    threshold: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> MeshMetrics:
    """Measure a mesh against a reference.

    Args:
        prediction: mesh or point cloud.
        reference: mesh or point cloud; of a larger cloud, so many points are drawn for completeness as `samples` says.
        samples: points on each mesh, evenly by area; the same ones for the same seed.
        threshold: of the F-score, in the unit of the files; None: 1 % of the diagonal of the reference's bounding box.
        seed: of the samples.
        progress: told about stages.
    Raises: InputError if an option makes no sense or a surface has no area.
    """
    if samples < 1:
        raise InputError(f"the number of samples is {samples}", "Give 1 or more")
    diagonal = float(np.linalg.norm(np.ptp(reference.vertices, axis=0)))
    if diagonal == 0.0:
        raise InputError("the reference is a single point", "Give a surface")
    threshold = THRESHOLD_SHARE * diagonal if threshold is None else threshold
    if not 0.0 < threshold < np.inf:
        raise InputError(f"the threshold is {threshold}", "Give a distance above 0, in the unit of the files")
    mesh, goal = SampledSurface(prediction, samples, seed), SampledSurface(reference, samples, seed + 1)
    mesh_some, goal_some = (_some(surface, samples, seed) for surface in (mesh, goal))
    to_goal, on_goal = goal.query(mesh.points[mesh_some], progress, "To the reference")
    to_mesh, on_mesh = mesh.query(goal.points[goal_some], progress, "To the mesh")
    consistency = None
    if mesh.normals is not None and goal.normals is not None:
        forth = np.abs(np.einsum("ni,ni->n", mesh.normals[mesh_some], goal.normals[on_goal]))
        back = np.abs(np.einsum("ni,ni->n", goal.normals[goal_some], mesh.normals[on_mesh]))
        consistency = float(0.5 * (forth.mean() + back.mean()))
    precision, recall = float((to_goal < threshold).mean()), float((to_mesh < threshold).mean())
    chamfer = 0.5 * float(to_goal.mean() + to_mesh.mean())
    return MeshMetrics(
        accuracy=float(to_goal.mean()),
        completeness=float(to_mesh.mean()),
        chamfer=chamfer,
        chamfer_relative=chamfer / diagonal,
        precision=precision,
        recall=recall,
        f_score=2.0 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0,
        threshold=threshold,
        normal_consistency=consistency,
        diagonal=diagonal,
        samples=samples,
    )


def _some(surface: SampledSurface, samples: int, seed: int) -> np.ndarray:
    """Which points of a surface are measured from: all, or some of a larger cloud."""
    count = len(surface.points)
    if count <= samples:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, samples, replace=False))
