"""Triangles face one way afterwards where that is possible; the voxels that follow are in tests/odd_inputs."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from miner_ns import mending
from miner_ns.mending import _is_inside, mend


def shells() -> tuple[np.ndarray, np.ndarray]:
    """A ball, and a smaller one in it that faces inwards."""
    outer, inner = trimesh.creation.icosphere(subdivisions=2), trimesh.creation.icosphere(subdivisions=1, radius=0.5)
    faces = np.concatenate([outer.faces, inner.faces[:, ::-1] + len(outer.vertices)])
    return np.concatenate([outer.vertices, inner.vertices]), faces


def test_a_mesh_without_faults_is_returned_as_it_is() -> None:
    vertices, faces = shells()
    mended = mend(vertices, faces, orient=True)
    assert mended.faces is faces and tuple(mended[1:]) == (0, 0, 0, 0, True)


def test_without_orienting_only_duplicates_go() -> None:
    vertices, faces = shells()
    spoilt = np.concatenate([faces, faces[:5]])
    spoilt[30] = spoilt[30, ::-1]
    mended = mend(vertices, spoilt, orient=False)
    assert tuple(mended[1:]) == (5, 0, 0, 3, True)
    np.testing.assert_array_equal(mended.faces, spoilt[: len(faces)])


def test_few_triangles_are_turned_to_face_as_most_do() -> None:
    vertices, faces = shells()
    spoilt = faces.copy()
    which = np.array([3, 4, 50, 330])
    spoilt[which] = spoilt[which][:, ::-1]
    mended = mend(vertices, spoilt, orient=True)
    assert mended.turned == 4
    np.testing.assert_array_equal(mended.faces, faces)


def test_a_one_sided_strip_keeps_its_twist() -> None:
    around = np.arange(20)
    angle = 2 * np.pi * around / 20
    arm = 0.3 * np.stack([np.cos(angle / 2) * np.cos(angle), np.cos(angle / 2) * np.sin(angle), np.sin(angle / 2)], -1)
    middle = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=-1)
    upper, lower, after = around, around + 20, (around + 1) % 20
    last = around == 19
    after_upper, after_lower = np.where(last, after + 20, after), np.where(last, after, after + 20)
    faces = np.concatenate([np.stack([upper, lower, after_lower], -1), np.stack([upper, after_lower, after_upper], -1)])
    mended = mend(np.concatenate([middle + arm, middle - arm]), faces, orient=True)
    assert mended.twisted_edges == 1 and mended.turned == 0 and mended.open_edges == 40


def test_points_on_the_grid_of_a_box() -> None:
    """Rays through its edges and diagonals."""
    box = np.asarray(trimesh.creation.box().triangles)
    points = np.stack(np.meshgrid(*[np.arange(-6, 7) / 8] * 3), axis=-1).reshape(-1, 3)
    inside = np.array([_is_inside(point[None], box) for point in points])
    assert inside[(np.abs(points) < 0.5).all(axis=1)].all() and not inside[(np.abs(points) > 0.5).any(axis=1)].any()


def test_too_many_parts_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "MOST_COMPARISONS", 10)
    vertices, faces = shells()
    mended = mend(vertices, faces, orient=True)
    assert not mended.is_settled and mended.turned == 0
