"""Meshes in files and under affine maps: geometry, colors, normals and orientation are kept."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from common_ns.errors import InputError
from common_ns.meshing.extraction import extract_mesh
from common_ns.meshing.iso_field import IsoField
from common_ns.meshing.mesh_io import check_mesh_path


def ball(**extra) -> IsoField:
    """The signed distance of a ball, to have a mesh of."""
    box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    return IsoField(lambda points: points.norm(dim=-1) - 0.7, 0.0, inside_above=False, aabb=box, **extra)


def sorted_rows(array: np.ndarray) -> np.ndarray:
    rounded = np.round(array, 5)
    return array[np.lexsort(rounded.T)]


def read_mesh(path: Path) -> tuple[trimesh.Trimesh, bool]:
    """The mesh in a file, and whether its normals come from the file."""
    read = trimesh.load(path, process=False)
    if isinstance(read, trimesh.Scene):
        (read,) = read.geometry.values()
    assert isinstance(read, trimesh.Trimesh)
    return read, "vertex_normals" in read._cache.cache


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb"])
def test_files_hold_geometry_colors_and_normals(tmp_path: Path, suffix: str):
    stretch = torch.tensor([1.0, 2.0, 3.0])  # normals that no triangle would have
    field = ball(color=lambda points, _: 0.5 + 0.5 * points, normal=lambda points: points * stretch)
    mesh = extract_mesh(field, 24)
    path = mesh.save(tmp_path / "new" / f"mesh{suffix}")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    read, has_normals = read_mesh(path)
    assert has_normals
    expected = read.vertices * stretch.numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(read.vertex_normals, expected, atol=1e-4)
    assert read.visual is not None and read.visual.kind == "vertex"
    colors = read.visual.vertex_colors[:, :3] / 255.0  # type: ignore
    np.testing.assert_allclose(colors, 0.5 + 0.5 * read.vertices, atol=3e-3)
    assert read.is_watertight and len(read.faces) == len(mesh.faces) and read.volume > 0
    np.testing.assert_allclose(sorted_rows(read.vertices), sorted_rows(mesh.vertices), atol=1e-5)

    extract_mesh(field, 24, with_normals=False, with_colors=False).save(path)
    read, has_normals = read_mesh(path)
    assert not has_normals
    assert read.visual is None or read.visual.kind != "vertex"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch):
    mesh = extract_mesh(ball(), 8)
    path = mesh.save(tmp_path / "mesh.ply")
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="disk full"):
        extract_mesh(ball(), 16).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_hold_the_file_is_named(tmp_path: Path):
    """Not hidden by what goes wrong when the unfinished file is to be removed."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/mesh\.ply: cannot be written .* Choose another file or folder"):
        extract_mesh(ball(), 8).save(tmp_path / "file" / "mesh.ply")
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(InputError, match=r"folder\.ply: cannot be written"):
        extract_mesh(ball(), 8).save(tmp_path / "folder.ply")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.ply"]


def test_another_suffix_is_refused():
    with pytest.raises(InputError, match=r"\.stl.*\.ply, \.obj, \.glb"):
        extract_mesh(ball(), 8).save("mesh.stl")
    assert check_mesh_path("mesh.GLB") == Path("mesh.GLB")


def test_transforming_keeps_normals_and_orientation_outward():
    mesh = extract_mesh(ball(), 24)
    for matrix in ([[2, 0, 0, 5], [0, 2, 0, 0], [0, 0, 2, 0]], [[-1, 0, 0, 1], [0, 3, 1, 0], [0, 0, 2, 0]]):
        moved = mesh.transformed(np.array(matrix, dtype=float))
        solid = moved.to_trimesh()
        determinant = abs(np.linalg.det(np.array(matrix, dtype=float)[:, :3]))
        assert solid.volume == pytest.approx(determinant * mesh.to_trimesh().volume)
        geometric = trimesh.Trimesh(moved.vertices, moved.faces, process=False).vertex_normals
        assert moved.normals is not None
        assert np.sum(moved.normals * geometric, axis=1).min() > 0.9
