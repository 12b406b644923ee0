"""Mesh metrics: known distances between simple shapes, and every part against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from common_ns.errors import InputError
from hashnffb_sdf_ns.mesh_evaluation import surface_points
from hashnffb_sdf_ns.mesh_evaluation.mesh_metrics import compare
from hashnffb_sdf_ns.mesh_evaluation.surface_points import (
    Geometry,
    SampledSurface,
    point_triangle_distance,
    read_geometry,
    sample_surface,
)


def ball(radius: float, subdivisions: int = 4) -> Geometry:
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Geometry(np.array(mesh.vertices), np.array(mesh.faces))


def plane(height: float, side: float = 1.0, n: int = 1) -> Geometry:
    axis = np.linspace(0.0, side, n + 1)
    vertices = np.array([[x, y, height] for x in axis for y in axis])
    index = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    return Geometry(vertices, np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))]))


def test_a_surface_is_no_distance_from_itself():
    metrics = compare(ball(1.0), ball(1.0), samples=3000)
    assert metrics.chamfer < 1e-3 and metrics.f_score == 1.0 and metrics.normal_consistency > 0.999


def test_shells_are_as_far_apart_as_their_radii():
    metrics = compare(ball(1.1, 5), ball(1.0, 5), samples=4000)
    assert metrics.accuracy == pytest.approx(0.1, abs=1e-3)
    assert metrics.completeness == pytest.approx(0.1, abs=1e-3)
    assert metrics.chamfer == 0.5 * (metrics.accuracy + metrics.completeness)
    assert metrics.chamfer_relative == pytest.approx(metrics.chamfer / np.sqrt(12.0), rel=1e-3)
    assert metrics.f_score == 0.0  # 1 % of the diagonal is 0.035
    assert compare(ball(1.1), ball(1.0), samples=500, threshold=0.12).f_score == 1.0


def test_what_is_missing_costs_completeness_only():
    """Half of a square: of the other half, distances are from 0 to ½."""
    half = plane(0.0, n=2)
    half = Geometry(half.vertices, half.faces[(half.vertices[half.faces][:, :, 0] <= 0.5).all(axis=1)])
    metrics = compare(half, plane(0.0), samples=20_000, threshold=0.05)
    assert metrics.accuracy < 1e-4 and metrics.precision == 1.0
    assert metrics.completeness == pytest.approx(0.125, rel=0.03)
    assert metrics.recall == pytest.approx(0.55, abs=0.01)
    assert metrics.f_score == pytest.approx(2 * metrics.recall / (1 + metrics.recall))


def test_normals_of_tilted_planes():
    tilted = plane(0.0)
    turn = trimesh.transformations.rotation_matrix(np.radians(60.0), [1, 0, 0])[:3, :3]
    metrics = compare(Geometry(tilted.vertices @ turn.T, tilted.faces), plane(0.0), samples=1000)
    assert metrics.normal_consistency == pytest.approx(0.5)
    flipped = Geometry(tilted.vertices, tilted.faces[:, ::-1])
    assert compare(flipped, plane(0.0), samples=1000).normal_consistency == pytest.approx(1.0)


def test_a_cloud_serves_as_reference():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    metrics = compare(ball(1.0, 5), Geometry(points, np.zeros((0, 3), int)), samples=2000)
    assert metrics.normal_consistency is None
    assert metrics.completeness < 2e-3 and 0.01 < metrics.accuracy < 0.05  # the cloud's own spacing
    with_normals = Geometry(points, np.zeros((0, 3), int), points)
    assert compare(ball(1.0, 5), with_normals, samples=2000).normal_consistency > 0.99


def test_samples_are_even_by_area_and_the_same_for_a_seed():
    corners = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 0, 1], [3, 0, 1], [0, 3, 1]]], dtype=float)
    points, triangle = sample_surface(corners, 10_000)
    assert abs((triangle == 0).sum() - 1000) <= 1
    np.testing.assert_allclose(points[triangle == 1].mean(axis=0), [1.0, 1.0, 1.0], atol=0.03)
    assert (points[:, :2].sum(axis=1) <= np.where(triangle == 0, 1.0, 3.0) + 1e-12).all()
    np.testing.assert_array_equal(points, sample_surface(corners, 10_000)[0])
    assert (points != sample_surface(corners, 10_000, seed=1)[0]).any()
    with pytest.raises(InputError, match=r"no area"):
        sample_surface(np.zeros((2, 3, 3)), 10)


def test_distance_to_a_triangle_is_that_of_its_nearest_point():
    """Against a dense grid of barycentric coordinates; and a triangle without area is its edges."""
    rng = np.random.default_rng(0)
    points, corners = 2.0 * rng.normal(size=(40, 3)), rng.normal(size=(40, 3, 3))
    corners[3, 2] = 0.5 * (corners[3, 0] + corners[3, 1])
    u, v = np.meshgrid(np.linspace(0, 1, 201), np.linspace(0, 1, 201))
    keep = u + v <= 1.0 + 1e-9
    weights = np.stack([1 - u[keep] - v[keep], u[keep], v[keep]], axis=-1)
    slow = [np.linalg.norm(weights @ c - p, axis=1).min() for p, c in zip(points, corners)]
    found = point_triangle_distance(points, corners)
    np.testing.assert_allclose(found, slow, atol=5e-3)
    assert (found <= np.array(slow) + 1e-12).all()


def test_distances_to_a_mesh_do_not_see_its_samples(monkeypatch):
    """Few samples of a plane: their spacing of 0.03 would add as much to a distance of 0.01. Chunks change nothing."""
    surface = SampledSurface(plane(0.0, n=3), 1000)
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.random((300, 2)), np.full(300, 0.01)])
    distance, _ = surface.query(points)
    assert (np.abs(distance - 0.01) < 1e-9).mean() > 0.98 and distance.mean() == pytest.approx(0.01, rel=0.01)
    monkeypatch.setattr(surface_points, "QUERY_CHUNK", 7)
    stages = []
    np.testing.assert_array_equal(surface.query(points, lambda *a: stages.append(a), "x")[0], distance)
    assert sum(share for _, share in stages) == pytest.approx(1.0)


def test_files_of_meshes_and_clouds(tmp_path):
    mesh = trimesh.creation.icosphere(subdivisions=1)
    for suffix in ("ply", "obj", "stl", "off", "glb"):
        mesh.export(tmp_path / f"m.{suffix}")
        geometry = read_geometry(tmp_path / f"m.{suffix}")
        assert len(geometry.faces) == len(mesh.faces) and geometry.normals is None
    rows = "\n".join(f"{x} {y} {z} 0 0 2" for x, y, z in mesh.vertices)
    header = f"ply\nformat ascii 1.0\nelement vertex {len(mesh.vertices)}\n"
    fields = "".join(f"property float {name}\n" for name in ("x", "y", "z", "nx", "ny", "nz"))
    (tmp_path / "c.ply").write_text(f"{header}{fields}end_header\n{rows}\n")
    cloud = read_geometry(tmp_path / "c.ply")
    assert len(cloud.faces) == 0 and cloud.normals is not None
    np.testing.assert_allclose(cloud.vertices, mesh.vertices, atol=1e-6)
    np.testing.assert_array_equal(cloud.normals, np.tile([0.0, 0.0, 1.0], (len(mesh.vertices), 1)))


@pytest.mark.parametrize("content", [b"ply\nbroken", b""])
def test_bad_files_are_explained(tmp_path, content):
    (tmp_path / "m.ply").write_bytes(content)
    with pytest.raises(InputError, match="the mesh or point cloud cannot be read"):
        read_geometry(tmp_path / "m.ply")
    with pytest.raises(InputError, match=r"the mesh or point cloud does not exist"):
        read_geometry(tmp_path / "missing.ply")


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match=r"samples is 0"):
        compare(ball(1.0, 1), ball(1.0, 1), samples=0)
    with pytest.raises(InputError, match=r"threshold is -1"):
        compare(ball(1.0, 1), ball(1.0, 1), samples=10, threshold=-1.0)
