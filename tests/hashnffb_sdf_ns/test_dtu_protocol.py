"""DTU's evaluation, on a small made-up scan, against a plain loop over all points."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from common_ns.checks import InputError
from hashnffb_sdf_ns import dtu_protocol
from hashnffb_sdf_ns.dtu_protocol import Observability, evaluate, thin_out, triangle_grids
from hashnffb_sdf_ns.surface_points import Geometry

LOW = np.array([10.0, 20.0, 30.0])


@pytest.fixture
def files(tmp_path):
    """An observed box of 8 × 8 × 6 mm in voxels of 1 mm, with a corner that was not observed."""
    mask = np.ones((8, 8, 6), dtype=np.uint8)
    mask[:3, :3] = 0
    box = np.stack([LOW, LOW + np.array([7.0, 7.0, 5.0])])
    savemat(tmp_path / "ObsMask1_10.mat", {"ObsMask": mask, "BB": box, "Res": np.array([[1.0]])})
    savemat(tmp_path / "Plane1.mat", {"P": np.array([[0.0], [0.0], [2.0], [-2.0 * 31.0]])})  # above z = 31
    return tmp_path / "ObsMask1_10.mat", tmp_path / "Plane1.mat"


def scan() -> np.ndarray:
    """Reference points on a wavy sheet, some of them below the ground, and some 30 mm and more away from everything."""
    rng = np.random.default_rng(0)
    xy = LOW[:2] + 8.0 * rng.random((400, 2))
    points = np.column_stack([xy, 32.0 + np.sin(xy[:, 0])])
    far = points[:20] + np.array([0.0, 0.0, 65.0])
    return np.concatenate([points, points[:50] - [0.0, 0.0, 2.0], far])


def prediction() -> Geometry:
    """Two triangles across the box, and one that is far outside."""
    a, b, c, d = (LOW + np.array(p) for p in ([-0.3, 0, 2.2], [7, -0.2, 2.0], [7, 7, 2.4], [0, 7, 1.9]))
    far = [LOW + 500.0, LOW + np.array([501.0, 500, 500]), LOW + np.array([500.0, 501, 500])]
    near = [
        LOW + np.array([3.0, 3, 30]),
        LOW + np.array([3.5, 3, 30]),
        LOW + np.array([3.0, 3.5, 30]),
    ]  # in the box, not observed
    return Geometry(np.array([a, b, c, d, *far, *near]), np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [7, 8, 9]]))


def brute_force(geometry: Geometry, reference: np.ndarray, seed: int) -> tuple[float, float]:
    """The protocol, one point after the other."""
    points = [*geometry.vertices]
    for face in geometry.faces:
        a, b, c = geometry.vertices[face]
        e1, e2 = b - a, c - a
        l1, l2 = np.linalg.norm(e1), np.linalg.norm(e2)
        step = 0.2 * np.sqrt(l1 * l2 / np.linalg.norm(np.cross(e1, e2)))
        n1, n2 = int(l1 // step), int(l2 // step)
        for i in range(n1):
            for j in range(n2):
                if (i + 0.5) / n1 + (j + 0.5) / n2 < 1:
                    points.append(a + (i + 0.5) / n1 * e1 + (j + 0.5) / n2 * e2)
    high = LOW + np.array([7.0, 7.0, 5.0])
    points = np.array([p for p in points if (p >= LOW - 60.2).all() and (p < high + 120.2).all()])
    kept: list[np.ndarray] = []
    for p in points[np.random.default_rng(seed).permutation(len(points))]:
        if not kept or np.linalg.norm(np.array(kept) - p, axis=1).min() > 0.2:
            kept.append(p)
    inside = [p for p in kept if (p >= LOW - 60).all() and (p < high + 120).all()]
    observed = []
    for p in inside:
        x, y, z = (round(v) for v in p - LOW)
        if 0 <= x < 8 and 0 <= y < 8 and 0 <= z < 6 and not (x < 3 and y < 3):
            observed.append(p)
    forth = [min(np.linalg.norm(reference - p, axis=1)) for p in observed]
    back = [min(np.linalg.norm(np.array(inside) - q, axis=1)) for q in reference if q[2] > 31.0]
    return np.mean([d for d in forth if d < 20]), np.mean([d for d in back if d < 20])


def test_the_protocol_against_a_plain_loop(files, monkeypatch):
    monkeypatch.setattr(dtu_protocol, "FIRST_CHUNK", 100)  # several chunks of each kind
    monkeypatch.setattr(dtu_protocol, "QUERY_CHUNK", 64)
    monkeypatch.setattr(dtu_protocol, "GRID_CHUNK", 300)
    stages: dict[str, float] = {}

    def progress(stage: str, share: float) -> None:
        stages[stage] = stages.get(stage, 0.0) + share

    result = evaluate(prediction(), scan(), Observability.read(*files), seed=3, progress=progress)
    monkeypatch.undo()
    accuracy, completeness = brute_force(prediction(), scan(), seed=3)
    assert result.accuracy == pytest.approx(accuracy, rel=1e-9)
    assert result.completeness == pytest.approx(completeness, rel=1e-9)
    assert result.overall == pytest.approx(0.5 * (accuracy + completeness))
    assert result.completeness_outliers > 0.02 and result.accuracy_outliers == 0.0
    assert all(total == pytest.approx(1.0) for total in stages.values()) and len(stages) == 3
    whole = evaluate(prediction(), scan(), Observability.read(*files), seed=3)
    assert whole.overall == pytest.approx(result.overall, rel=1e-12)  # chunks change nothing
    assert whole.accuracy_points == result.accuracy_points
    other = evaluate(prediction(), scan(), Observability.read(*files), seed=4)
    assert other.overall == pytest.approx(result.overall, rel=0.02)


def test_thinning_out_keeps_a_spacing_and_leaves_no_hole():
    points = np.random.default_rng(0).random((2000, 3)) * [1.0, 1.0, 0.1]
    kept = thin_out(points, 0.05)
    gaps = np.linalg.norm(kept[:, None] - kept[None], axis=-1) + np.eye(len(kept))
    assert gaps.min() > 0.05
    assert np.linalg.norm(points[:, None] - kept[None], axis=-1).min(axis=1).max() <= 0.05


def test_grids_on_triangles_have_the_density_and_stay_on_them(monkeypatch):
    corners = np.array([[[0, 0, 0], [3, 0, 0], [1, 2, 0]], [[0, 0, 0], [0.01, 0, 0], [0, 0.01, 0]], np.zeros((3, 3))])
    points = np.concatenate([*triangle_grids(corners, 0.05)])
    assert len(points) == pytest.approx(3.0 / 0.05**2, rel=0.03)  # an area of 3; the others are too small
    x, y = points[:, 0], points[:, 1]
    assert (y > 0).all() and (y < 2 * x).all() and (y < 3 - x).all()
    monkeypatch.setattr(dtu_protocol, "GRID_CHUNK", 50)
    chunks = list(triangle_grids(corners, 0.05))
    assert max(map(len, chunks)) <= 2 * 60 and len(chunks) > 10
    np.testing.assert_array_equal(np.concatenate(chunks), points)


def test_meshes_that_are_not_in_millimeters_are_refused(files):
    unit = Geometry(0.01 * prediction().vertices, prediction().faces)
    with pytest.raises(InputError, match=r"no point of the mesh is where the scanner looked.*--world-coordinates"):
        evaluate(unit, scan(), Observability.read(*files))
    with pytest.raises(InputError, match=r"all distances are 20 mm or more"):
        evaluate(prediction(), scan() + np.array([0, 0, 100.0]), Observability.read(*files))


def test_bad_files_are_explained(files, tmp_path):
    with pytest.raises(InputError, match=r"it lacks the array ObsMask"):
        Observability.read(files[1], files[1])
    with pytest.raises(InputError, match=r"the file of the scan does not exist"):
        Observability.read(tmp_path / "none.mat", files[1])
    (tmp_path / "bad.mat").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"cannot be read as a MATLAB file"):
        Observability.read(files[0], tmp_path / "bad.mat")
