"""Columns cross closed meshes an even number of times, wherever they pass, at the right heights."""

from __future__ import annotations

import numpy as np
import pytest

from miner_ns.columns import ONE, Crossings, add_fractions, add_points, fill_undecided, find_changes, find_crossings

RNG = np.random.default_rng(0)
SIZE = 12
TETRAHEDRON = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])


def outward(corners: np.ndarray) -> np.ndarray:
    """The faces [4, 3, 3] of a tetrahedron, counter-clockwise from outside."""
    volume = np.linalg.det((corners[1:] - corners[0]).astype(float))
    return corners[TETRAHEDRON if volume > 0 else TETRAHEDRON[:, ::-1]]


def is_strictly_inside(faces: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By the sides of all faces' planes: inside, and on a plane."""
    normal = np.cross(faces[:, 1] - faces[:, 0], faces[:, 2] - faces[:, 0])
    side = np.einsum("fc,pfc->pf", normal.astype(float), points[:, None] - faces[:, 0].astype(float))
    return (side < 0).all(axis=1), (side == 0).any(axis=1)


@pytest.mark.parametrize("grain", [1, 2, 1000])
def test_tetrahedra_with_corners_on_the_grid(grain: int) -> None:
    """Corners, edges and faces that lie exactly on columns (grain 1: all of them) leave no stray crossing, and every
    voxel center that is not on the surface is on the right side."""
    centers = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), axis=-1)
    for _ in range(100):
        corners = RNG.integers(-grain, (SIZE + 1) * grain, (4, 3)) * (ONE // grain)
        faces = outward(corners)
        crossings = find_crossings(faces, range(SIZE), SIZE)
        assert (np.bincount(crossings.column, weights=crossings.sign, minlength=1) == 0).all()
        changes, closed = find_changes(crossings, SIZE * SIZE, winding=True)
        assert closed.all()
        sums = np.zeros((SIZE * SIZE, SIZE + 2), dtype=np.int8)
        add_points(changes, sums)
        inside = np.cumsum(sums, axis=1)[:, :SIZE].reshape(SIZE, SIZE, SIZE)
        assert set(np.unique(inside)) <= {0, 1}
        expected, on_plane = is_strictly_inside(faces, centers.reshape(-1, 3) * ONE)
        # Rounding of heights may decide either way within 1e-9 voxels of a face; none of these are.
        differs = (inside.reshape(-1) == 1) != expected
        assert not (differs & ~on_plane).any()


def test_rows_can_be_followed_in_parts() -> None:
    faces = outward(RNG.integers(0, SIZE * ONE, (4, 3)))
    whole = find_crossings(faces, range(SIZE), SIZE)
    parts = [find_crossings(faces, range(start, start + 3), SIZE) for start in range(0, SIZE, 3)]
    columns = np.concatenate([part.column + 3 * SIZE * i for i, part in enumerate(parts)])
    heights = np.concatenate([part.height for part in parts])
    order, other = np.lexsort((whole.height, whole.column)), np.lexsort((heights, columns))
    np.testing.assert_array_equal(whole.column[order], columns[other])
    np.testing.assert_array_equal(whole.height[order], heights[other])


def test_slivers_keep_their_heights() -> None:
    """The slope of a triangle that is seen almost edge-on has few right digits; its crossings stay on the triangle."""
    sliver = np.array([[[0, 0, 0], [8 * ONE, 8 * ONE, 7 * ONE], [4 * ONE, 4 * ONE + 1, 3 * ONE]]])
    crossings = find_crossings(sliver, range(SIZE), SIZE)
    assert len(crossings.height) == 7 and (crossings.height >= 0).all() and (crossings.height <= 7).all()


def changes_of(heights: list[float], signs: list[int], winding: bool) -> tuple[list[tuple[float, int]], bool]:
    """Changes of one column."""
    column = Crossings(np.zeros(len(heights), np.int64), np.array(heights), np.array(signs, np.int8))
    changes, closed = find_changes(column, 1, winding)
    return list(zip(changes.height.tolist(), changes.sign.tolist())), bool(closed[0])


def test_overlapping_parts() -> None:
    """Two solids that overlap are one by their winding; by parity their common part is outside."""
    heights, signs = [3.0, 1.0, 4.0, 2.0], [-1, 1, -1, 1]  # of any order
    assert changes_of(heights, signs, winding=True) == ([(1.0, 1), (4.0, -1)], True)
    assert changes_of(heights, signs, winding=False) == ([(1.0, 1), (2.0, -1), (3.0, 1), (4.0, -1)], True)


def test_a_mesh_turned_inside_out_has_the_same_inside() -> None:
    assert changes_of([1.0, 4.0], [-1, 1], winding=True) == ([(1.0, 1), (4.0, -1)], True)


def test_columns_that_do_not_come_out_abstain() -> None:
    for winding in (True, False):
        assert changes_of([1.0], [1], winding) == ([], False)
        assert changes_of([], [], winding) == ([], True)
    assert changes_of([1.0, 2.0], [1, 1], winding=True) == ([], False)


def test_points_and_shares_of_a_column() -> None:
    """From 0.75 to 3.25 with voxels around their centers 0, 1, 2, …: centers 1, 2 and 3 are inside, and of voxel 1 the
    part above 0.75, of voxel 3 that below 3.25."""
    changes = Crossings(np.zeros(2, np.int64), np.array([0.75, 3.25]), np.array([1, -1], np.int8))
    sums = np.zeros((1, 7), dtype=np.float32)
    add_points(changes, sums, weight=2.0)
    np.testing.assert_allclose(np.cumsum(sums, axis=1)[0, :5], [0, 2, 2, 2, 0])
    sums = np.zeros((1, 7), dtype=np.float32)
    add_fractions(changes, sums)
    np.testing.assert_allclose(np.cumsum(sums, axis=1)[0, :5], [0, 0.75, 1, 0.75, 0])


def test_changes_below_and_above_the_voxels() -> None:
    for add, inside in ((add_points, [1, 1, 0]), (add_fractions, [1, 0.75, 0])):
        changes = Crossings(np.zeros(4, np.int64), np.array([-9.0, 1.25, 7.0, 9.0]), np.array([1, -1, 1, -1], np.int8))
        sums = np.zeros((1, 5), dtype=np.float32)
        add(changes, sums)
        np.testing.assert_allclose(np.cumsum(sums, axis=1)[0, :3], inside)


def test_undecided_voxels_follow_their_neighbors() -> None:
    truth = np.zeros((12, 12, 12), dtype=bool)
    truth[2:9, 3:10, 1:8] = True
    undecided = np.zeros_like(truth)
    undecided[5, 5, :] = True  # a column
    undecided[10:, 10:, 10:] = True
    undecided[4:7, 4:6, 2:5] = True
    inside = truth & ~undecided
    fill_undecided(inside, undecided)
    assert (inside != truth).sum() <= 1
    nothing = np.zeros((3, 3, 3), dtype=bool)
    fill_undecided(nothing, np.ones_like(nothing))
    assert not nothing.any()
