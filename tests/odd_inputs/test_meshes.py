"""Meshes as they are found: the voxels of the clean mesh, or one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from common_ns.meshing.pictures import MeshPictures
from hashnffb_sdf_ns.mesh_evaluation.surface_points import read_geometry
from hashnffb_sdf_ns.object_sphere.scene_sources import read_points
from miner_ns.volume_io import read_mesh, read_volume, voxelize_file
from miner_ns.voxelize import VoxelizeOptions, Voxels
from tests.odd_inputs.kit import DENIED, Row, assert_ends_as_it_should, ids, link_loop, lock

Arrays = tuple[np.ndarray, np.ndarray]
RESOLUTION = 32


def blob() -> Arrays:
    """A smooth closed body without symmetry."""
    mesh = trimesh.creation.icosphere(subdivisions=3)
    vertices = np.asarray(mesh.vertices)
    a, b, c = vertices.T
    return vertices * (1.0 + 0.2 * np.sin(3 * a + 1) * np.cos(2 * b) + 0.1 * np.sin(4 * c + a))[:, None], mesh.faces


def ball(radius: float = 1.0, center: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Arrays:
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    return np.asarray(mesh.vertices) + center, np.asarray(mesh.faces)


def box(low: tuple[float, ...], high: tuple[float, ...]) -> Arrays:
    mesh = trimesh.creation.box(bounds=(low, high))
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def together(*meshes: Arrays) -> Arrays:
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in meshes)])
    faces = np.concatenate([faces + start for (_, faces), start in zip(meshes, starts)])
    return np.concatenate([vertices for vertices, _ in meshes]), faces


def turned(mesh: Arrays, which: Any = slice(None)) -> Arrays:
    """Some triangles face the other way."""
    faces = np.array(mesh[1])
    faces[which] = faces[which, ::-1]
    return mesh[0], faces


def with_faces(mesh: Arrays, *more: np.ndarray) -> Arrays:
    return mesh[0], np.concatenate([mesh[1], *more])


def voxels_of(mesh: Arrays, **options: Any) -> np.ndarray:
    """The reference: inside of any of the closed, rightly oriented parts of a mesh, each filled alone."""
    from miner_ns.voxelize import voxelize

    signal = voxelize(*mesh, VoxelizeOptions(resolution=RESOLUTION, **options)).signal
    return signal.read_stored((0, 0, 0), signal.spatial_shape)[..., 0]


BLOB = blob()
PAIR = together(ball(), ball(center=(0.7, 0.1, 0.0)))
SHELL = together(ball(), turned(ball(0.5)))
"""A ball with a hollow."""
LONG = box((-1.0, -0.5, -0.4), (1.0, 0.5, 0.4))
HALVES = together(box((-1.0, -0.5, -0.4), (0.1, 0.5, 0.4)), box((0.1, -0.5, -0.4), (1.0, 0.5, 0.4)))
LEAF = np.array([[-0.5, 0.1, 0.05], [0.6, 0.1, 0.05], [0.6, 0.7, 0.05], [-0.5, 0.7, 0.05]])
PLANE = (LEAF, np.array([[0, 1, 2], [0, 2, 3]]))


def klein_bottle(n: int = 24) -> Arrays:
    """A closed surface without an inside, which no turning orients."""
    u, v = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    angle, around = 2 * np.pi * u / n, 2 * np.pi * (v + 0.5) / n  # no vertex where it passes through itself
    radius = 2 + np.cos(angle / 2) * np.sin(around) - np.sin(angle / 2) * np.sin(2 * around)
    height = np.sin(angle / 2) * np.sin(around) + np.cos(angle / 2) * np.sin(2 * around)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=-1).reshape(-1, 3)

    def number(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return (i % n) * n + np.where(i == n, -j - 1, j) % n

    a, b, c, d = number(u, v), number(u + 1, v), number(u + 1, v + 1), number(u, v + 1)
    corners = [np.stack([a, b, c], axis=-1), np.stack([a, c, d], axis=-1)]
    return points, np.concatenate([corner.reshape(-1, 3) for corner in corners])


def file(mesh: Arrays, name: str = "mesh.ply") -> Callable[[Path], Path]:
    """A `Row.make` that writes a mesh and returns where it is."""

    def make(folder: Path) -> Path:
        path = folder / name
        kind = path.suffix.lower()[1:]
        content = trimesh.Trimesh(*mesh, process=False).export(file_type=kind)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def text(content: str, name: str = "mesh.obj") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return make


def spoilt(spoil: Callable[[Path], Any], name: str = "mesh.ply") -> Callable[[Path], Path]:
    """A `Row.make` that writes a mesh and does something to the file."""

    def make(folder: Path) -> Path:
        path = file(BLOB, name)(folder)
        spoil(path)
        return path

    return make


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fills(mesh: Arrays, tolerance: float = 0.0) -> Callable[[Voxels], None]:
    """The same voxels as of a clean mesh, up to a share of those that are inside of either."""

    def right(voxels: Voxels) -> None:
        found = voxels.signal.read_stored((0, 0, 0), voxels.signal.spatial_shape)[..., 0]
        expected = voxels_of(mesh)
        assert 500 < expected.sum() < 0.9 * expected.size
        assert (found ^ expected).sum() <= tolerance * (found | expected).sum()

    return right


def fills_union(*parts: Arrays) -> Callable[[Voxels], None]:
    """What is inside of any part; the parts as they are, in the grid of all of them."""

    def right(voxels: Voxels) -> None:
        grid, n = voxels.grid, RESOLUTION
        centers = np.stack(np.meshgrid(*[np.arange(n) + 0.5] * 3, indexing="ij"), axis=-1) * grid.voxel_size
        points = (centers + grid.origin).reshape(-1, 3)
        expected = np.zeros(len(points), dtype=bool)
        for part in parts:  # convex
            corners = part[0][part[1]]
            normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            expected |= (np.einsum("fk,nk->nf", normals, points) < np.einsum("fk,fk->f", normals, corners[:, 0])).all(1)
        found = voxels.signal.read_stored((0, 0, 0), (n, n, n))[..., 0].reshape(-1)
        assert expected.sum() > 500 and (found == expected).all(), (found.sum(), expected.sum())

    return right


def is_hollow(voxels: Voxels) -> None:
    """The ball's inner half is free."""
    found = voxels.signal.read_stored((0, 0, 0), voxels.signal.spatial_shape)[..., 0]
    n = RESOLUTION // 2
    assert not found[n, n, n] and found.sum() < 0.9 * voxels_of(ball()).sum()
    np.testing.assert_array_equal(found, voxels_of(SHELL))


def is_parity(voxels: Voxels) -> None:
    assert voxels.mending is not None and voxels.mending.twisted_edges > 0 and voxels.mending.open_edges == 0


VERTICES = "v 0 0 0\nv 2 0 0\nv 2 1 0\nv 0 1 0\nv 0 0 1\nv 2 0 1\nv 2 1 1\nv 0 1 1\n"
QUADS = "f 4 3 2 1\nf 5 6 7 8\nf 1 2 6 5\nf 2 3 7 6\nf 3 4 8 7\nf 4 1 5 8\n"
BRICK = box((0.0, 0.0, 0.0), (2.0, 1.0, 1.0))
SOME = np.arange(0, len(BLOB[1]), 3)
NOT_READ = r"the mesh cannot be read \(.*\). Write it again; it may be cut off"

ROWS = [
    # As it should be
    Row("clean", file(BLOB), right=fills(BLOB)),
    Row("binary STL", file(BLOB, "mesh.stl"), right=fills(BLOB)),
    Row("text STL", lambda folder: text_stl(folder), right=fills(BLOB)),
    Row("GLB", file(BLOB, "mesh.glb"), right=fills(BLOB)),
    Row("capital suffix", file(BLOB, "MESH.OBJ"), right=fills(BLOB)),
    Row("quads", text(VERTICES + QUADS), right=fills(BRICK)),
    Row(
        "groups and a lost material",
        text("mtllib gone.mtl\ng a\n" + VERTICES + "usemtl x\n" + QUADS),
        right=fills(BRICK),
    ),
    Row("unit of 1e-9", file((BLOB[0] * 1e-9, BLOB[1]), "mesh.glb"), right=fills(BLOB)),
    Row("unit of 1e9", file((BLOB[0] * 1e9, BLOB[1])), right=fills(BLOB)),
    Row("overlapping parts", file(PAIR), right=fills_union(ball(), ball(center=(0.7, 0.1, 0.0)))),
    Row("a hollow", file(SHELL), right=is_hollow),
    Row("a part in a part", file(together(ball(), ball(0.5))), right=fills(ball())),
    # Twice
    Row(
        "two-sided",
        file(with_faces(BLOB, BLOB[1][:, ::-1])),
        right=fills(BLOB),
        warns="mesh.ply: 1,280 triangles that are there more than once were left out",
    ),
    Row(
        "two-sided STL",
        file(with_faces(BLOB, BLOB[1][:, ::-1]), "mesh.stl"),
        right=fills(BLOB),
        warns="1,280 triangles",
    ),
    Row("the back first", file(with_faces(turned(BLOB), BLOB[1])), right=fills(BLOB), warns="1,280 triangles"),
    Row("other corner first", file(with_faces(BLOB, np.roll(BLOB[1][:, ::-1], 1, axis=1))), right=fills(BLOB)),
    Row("each face twice", file(with_faces(BLOB, BLOB[1])), right=fills(BLOB), warns="1,280 triangles"),
    Row("each face thrice", file(with_faces(BLOB, BLOB[1], BLOB[1])), right=fills(BLOB), warns="2,560 triangles"),
    Row("one face twice", file(with_faces(BLOB, BLOB[1][7:8])), right=fills(BLOB), warns=" 1 triangles that are there"),
    Row("some faces two-sided", file(with_faces(BLOB, BLOB[1][SOME][:, ::-1])), right=fills(BLOB)),
    Row(
        "each face twice, filled by parity",
        file(with_faces(BLOB, BLOB[1])),
        right=fills(BLOB),
        options={"fill": "parity"},
    ),
    Row(
        "two-sided parts that overlap",
        file(with_faces(PAIR, PAIR[1][:, ::-1])),
        right=fills_union(ball(), ball(center=(0.7, 0.1, 0.0))),
    ),
    Row("an inner wall", file(HALVES), right=fills(LONG)),
    Row("a leaf without thickness", file(together(BLOB, PLANE, turned(PLANE))), right=fills(BLOB)),
    # Turned
    Row(
        "one triangle turned",
        file(turned(PAIR, slice(100, 101))),
        right=fills_union(ball(), ball(center=(0.7, 0.1, 0.0))),
        warns="mesh.ply: 1 triangles that faced another way than their part, or inwards, were turned",
    ),
    Row(
        "a third of the triangles turned",
        file(turned(PAIR, slice(None, None, 3))),
        right=fills_union(ball(), ball(center=(0.7, 0.1, 0.0))),
        warns="triangles that faced another way",
    ),
    Row("all turned", file(turned(PAIR)), right=fills_union(ball(), ball(center=(0.7, 0.1, 0.0)))),
    Row(
        "one of two parts turned",
        file(together(ball(), turned(ball(center=(0.7, 0.1, 0.0))))),
        right=fills_union(ball(), ball(center=(0.7, 0.1, 0.0))),
        warns="1,280 triangles that faced another way than their part, or inwards",
    ),
    Row("a hollow, all turned", file(turned(SHELL)), right=is_hollow),
    Row("a hollow, one triangle turned", file(turned(SHELL, slice(1500, 1501))), right=is_hollow, warns=" 1 triangles"),
    Row(
        "a hollow turned, beside a larger body",
        file(together(turned(SHELL), ball(2.0, (4.0, 0.0, 0.0)))),
        right=fills(together(SHELL, ball(2.0, (4.0, 0.0, 0.0)))),
    ),
    Row(
        "bodies that share an edge",
        file(together(box((0, 0, 0), (1, 1, 1)), box((1, 1, 0), (2, 2, 1)))),
        right=fills_union(box((0, 0, 0), (1, 1, 1)), box((1, 1, 0), (2, 2, 1))),
    ),
    Row(
        "a Klein bottle",
        file(klein_bottle()),
        right=is_parity,
        warns=r"at \d+ edges, triangles face opposite ways: parts that overlap become hollow there",
    ),
    # Open, thin or broken surfaces
    Row("triangles without area", file(with_faces(BLOB, np.array([[3, 3, 9], [5, 5, 5]]))), right=fills(BLOB)),
    Row(
        "a face missing",
        file((BLOB[0], BLOB[1][1:])),
        right=fills(BLOB, 0.01),
        warns="not closed: it has 3 open edges; --votes 9",
    ),
    Row(
        "a plane", file(PLANE), refused="mesh.ply: no voxel of 32³ is inside of the mesh: it has 4 open edges. Close it"
    ),
    Row("a two-sided plane", file(together(PLANE, turned(PLANE))), refused="mesh.ply: .*no (voxel|triangle)"),
    Row(
        "thinner than a voxel",
        file(box((-1.0, -1.0, -1e-4), (1.0, 1.0, 1e-4))),
        refused="no voxel of 32³ is inside of the mesh: it is closed, but too thin. Raise --resolution",
    ),
    Row("one point", text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n"), refused="mesh.obj: the mesh has an extent of 0.0"),
    Row(
        "a vertex that is no number",
        text(VERTICES.replace("2 1 1", "2 nan 1") + QUADS),
        refused=r"vertex 6 is at .2.0, nan",
    ),
    Row(
        "a vertex at infinity", text(VERTICES.replace("2 1 1", "2 inf 1") + QUADS), refused=r"vertex 6 is at .2.0, inf"
    ),
    Row(
        "too far away",
        text(VERTICES.replace("2 1 1", "2 1.5e308 1").replace("0 1 1", "0 -1.5e308 1") + QUADS),
        refused="mesh.obj: the mesh has an extent of inf",
    ),
    Row(
        "a vertex too many",
        text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "mesh.off"),
        refused="mesh.off: .*(7 of 3|read)",
    ),
    # No meshes
    Row("no faces", text(VERTICES), refused="mesh.obj: the mesh (has no triangles|cannot be read)"),
    Row("a point cloud", lambda folder: cloud(folder), refused="mesh.ply: the mesh has no triangles. Give a surface"),
    Row("empty", text("", "mesh.ply"), refused=NOT_READ),
    Row("text", text("hello", "mesh.stl"), refused="mesh.stl: the mesh"),
    Row(
        "vertices of two numbers",
        text("v 0 0\nv 1 0\nv 1 1\nf 1 2 3\n"),
        refused="mesh.obj: (the mesh cannot|a triangle)",
    ),
    Row("cut PLY", spoilt(cut), refused=NOT_READ),
    Row("cut STL", spoilt(cut, "mesh.stl"), refused="mesh.stl: the mesh .* cut off"),
    Row("cut GLB", spoilt(cut, "mesh.glb"), refused=NOT_READ),
    Row("cut OFF", spoilt(cut, "mesh.off"), refused=NOT_READ),
    Row(
        "PLY named GLB",
        spoilt(lambda path: path.write_bytes(file(BLOB)(path.parent).read_bytes()), "mesh.glb"),
        refused=NOT_READ,
    ),
    Row("another suffix", text("", "mesh.fbx"), refused=r"mesh.fbx: the suffix '.fbx' is no mesh format. Use .obj"),
    Row("missing", lambda folder: folder / "mesh.ply", refused="mesh.ply: the mesh does not exist"),
    Row("a folder", spoilt(folder), refused="mesh.ply: is a folder. Name one mesh file"),
    Row("a pipe", spoilt(pipe), refused="mesh.ply: the mesh is a named pipe"),
    Row("locked", spoilt(lock), refused=f"mesh.ply: the mesh {DENIED}read it"),
    Row(
        "in a locked folder", spoilt(lambda path: lock(path.parent)), refused=f"the mesh {DENIED}enter the folder DATA "
    ),
    Row("a loop of links", spoilt(link_loop), refused="mesh.ply: the mesh"),
]


def text_stl(folder: Path) -> Path:
    content = trimesh.Trimesh(*BLOB, process=False).export(file_type="stl_ascii")
    return text(str(content), "mesh.stl")(folder)


def cloud(folder: Path) -> Path:
    path = folder / "mesh.ply"
    content = trimesh.PointCloud(BLOB[0]).export(file_type="ply")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
def test_meshes(row: Row, tmp_path: Path, capfd) -> None:
    path = row.make(tmp_path)

    def product() -> Voxels:
        options = VoxelizeOptions(resolution=RESOLUTION, **row.options)
        return voxelize_file(read_mesh(path), path, options, use_cache=False)

    assert_ends_as_it_should(row, product, capfd, tmp_path)


@pytest.mark.parametrize("read", [read_geometry, MeshPictures, read_points], ids=["eval", "pictures", "points"])
@pytest.mark.parametrize("spoil", [cut, pipe, folder, link_loop, lock, Path.unlink], ids=lambda spoil: spoil.__name__)
def test_other_readers_of_meshes(
    read: Callable[[Path], Any], spoil: Callable[[Path], Any], tmp_path: Path, capfd
) -> None:
    row = Row("damaged", spoilt(spoil), refused=f"mesh.ply: .*{DENIED}" if spoil is lock else "mesh.ply: ")
    path = row.make(tmp_path)
    assert_ends_as_it_should(row, lambda: read(path), capfd, tmp_path)


@pytest.mark.parametrize("name", ["volume.npz", "volume.npy"])
@pytest.mark.parametrize("spoil", [cut, pipe, folder, link_loop, lock, Path.unlink], ids=lambda spoil: spoil.__name__)
def test_volumes(name: str, spoil: Callable[[Path], Any], tmp_path: Path, capfd) -> None:
    path = tmp_path / name
    (np.savez if name.endswith("z") else np.save)(path, np.ones((4, 4, 4), bool))
    spoil(path)
    row = Row("damaged", spoil, refused=f"{name}: the volume {DENIED}read it" if spoil is lock else f"{name}: ")
    assert_ends_as_it_should(row, lambda: read_volume(path), capfd, tmp_path)
