"""Meshes and volumes of every kind are read, occupancy is cached by content and options, damage is said in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh
import tyro

from common_ns.errors import InputError
from miner_ns import volume_io
from miner_ns.scripts.voxelize import VoxelizeCommand
from miner_ns.volume_io import cache_file, read_grid, read_mesh, read_volume, voxelize_file, write_volume
from miner_ns.voxelize import VoxelizeOptions

RNG = np.random.default_rng(0)
OPTIONS = VoxelizeOptions(resolution=20)


@pytest.fixture
def mesh_file(tmp_path: Path) -> Path:
    """An ellipsoid away from the origin."""
    mesh = trimesh.creation.icosphere(subdivisions=2)
    mesh.vertices = mesh.vertices * (1.0, 0.8, 0.6) + (5.0, 0.0, -3.0)
    mesh.export(tmp_path / "body.ply")
    return tmp_path / "body.ply"


def whole(signal) -> np.ndarray:
    return signal.read_stored((0, 0, 0), signal.spatial_shape)[..., 0]


def no_voxelizing(*args) -> None:
    pytest.fail("voxelized")


@pytest.mark.parametrize("suffix", [".obj", ".off", ".ply", ".stl", ".glb"])
def test_mesh_formats(tmp_path: Path, suffix: str) -> None:
    ball = trimesh.creation.icosphere(subdivisions=2)
    ball.export(tmp_path / f"ball{suffix}")
    mesh = read_mesh(tmp_path / f"ball{suffix}")
    assert len(mesh[1]) == 320 and mesh[0].dtype == np.float64
    expected = whole(volume_io.voxelize(np.asarray(ball.vertices), np.asarray(ball.faces), OPTIONS).signal)
    # Text formats round; no voxel center is that close to the surface.
    np.testing.assert_array_equal(whole(volume_io.voxelize(*mesh, OPTIONS).signal), expected)


def test_scenes_are_put_together_as_they_are_placed(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box(), transform=trimesh.transformations.translation_matrix((3.0, 0.0, 0.0)))
    scene.add_geometry(trimesh.creation.box())
    scene.export(tmp_path / "scene.glb")
    vertices, faces = read_mesh(tmp_path / "scene.glb")
    assert len(faces) == 24
    np.testing.assert_allclose([vertices.min(axis=0), vertices.max(axis=0)], [[-0.5] * 3, [3.5, 0.5, 0.5]])


def test_polygons_are_triangulated(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n")
    assert len(read_mesh(tmp_path / "a.obj")[1]) == 2


def test_meshes_that_cannot_be_read(tmp_path: Path, mesh_file: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "empty.obj").touch()
    (tmp_path / "points.obj").write_text("v 0 0 0\nv 1 0 0\n")
    (tmp_path / "nan.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 nan\n0 1 0\n3 0 1 2\n")
    (tmp_path / "beyond.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n")
    (tmp_path / "cut.ply").write_bytes(mesh_file.read_bytes()[:2000])
    for name, message in (
        ("missing.obj", "does not exist"),
        ("a.txt", "no mesh format"),
        ("empty.obj", "cannot be read|no triangles"),
        ("points.obj", "cannot be read|no triangles"),
        ("nan.off", "vertex 1 is at"),
        ("beyond.off", "cannot be read|vertex 7 of 3"),
        ("cut.ply", "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            read_mesh(tmp_path / name)


def test_the_cache_is_found_by_content_and_options(
    mesh_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = read_mesh(mesh_file)
    first = voxelize_file(mesh, mesh_file, OPTIONS)
    file = cache_file(mesh, mesh_file, OPTIONS)
    assert [path.name for path in (tmp_path / "voxels").iterdir()] == [file.name]
    names = {
        cache_file(mesh, mesh_file, VoxelizeOptions(resolution=20, votes=3)),
        cache_file(mesh, mesh_file, VoxelizeOptions(resolution=20, margin=0.1)),
        cache_file((mesh[0] + 1.0, mesh[1]), mesh_file, OPTIONS),
        cache_file((mesh[0], mesh[1][:, ::-1]), mesh_file, OPTIONS),
        file,
    }
    assert len(names) == 5
    # The same mesh from another kind of file.
    trimesh.load(mesh_file, process=False).export(tmp_path / "body.stl")
    monkeypatch.setattr(volume_io, "voxelize", no_voxelizing)
    again = voxelize_file(read_mesh(mesh_file), mesh_file, OPTIONS)
    np.testing.assert_array_equal(again.signal.array, first.signal.array)
    assert again.grid == first.grid and again.signal.packed


def test_shares_are_cached_as_well(mesh_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = VoxelizeOptions(resolution=16, fractions=True, subvoxel=2)
    mesh = read_mesh(mesh_file)
    first = voxelize_file(mesh, mesh_file, options)
    monkeypatch.setattr(volume_io, "voxelize", no_voxelizing)
    np.testing.assert_array_equal(voxelize_file(mesh, mesh_file, options).signal.array, first.signal.array)
    assert len(np.unique(first.signal.array)) > 10


def test_the_cache_goes_where_it_can_be_written(
    mesh_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = read_mesh(mesh_file)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_file(mesh, mesh_file, OPTIONS, tmp_path / "mine").parent == tmp_path / "mine"
    monkeypatch.setattr(volume_io.os, "access", lambda path, mode: False)
    assert cache_file(mesh, mesh_file, OPTIONS).parent == tmp_path / "user" / "fieldsuite" / "voxels"
    voxelize_file(mesh, mesh_file, OPTIONS)
    assert not (tmp_path / "voxels").exists() and len(list((tmp_path / "user").rglob("*.npz"))) == 1


def test_a_cache_that_fails_costs_only_time(mesh_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    mesh = read_mesh(mesh_file)
    expected = voxelize_file(mesh, mesh_file, OPTIONS, use_cache=False)
    assert not (tmp_path / "voxels").exists()
    # The place is a file.
    (tmp_path / "file").touch()
    voxels = voxelize_file(mesh, mesh_file, OPTIONS, cache_dir=tmp_path / "file")
    assert "Not cached" in capsys.readouterr().out
    np.testing.assert_array_equal(voxels.signal.array, expected.signal.array)
    # What is there is damaged.
    voxelize_file(mesh, mesh_file, OPTIONS)
    file = cache_file(mesh, mesh_file, OPTIONS)
    file.write_bytes(file.read_bytes()[:-40])
    voxels = voxelize_file(mesh, mesh_file, OPTIONS)
    assert "Voxelizing again" in capsys.readouterr().out
    np.testing.assert_array_equal(voxels.signal.array, expected.signal.array)
    assert read_volume(file).grid == expected.grid


def test_an_open_mesh_is_reported_with_what_helps(mesh_file: Path, capsys: pytest.CaptureFixture) -> None:
    vertices, faces = read_mesh(mesh_file)
    voxelize_file((vertices, faces), mesh_file, OPTIONS, use_cache=False)
    assert "closed" not in capsys.readouterr().out
    voxelize_file((vertices, faces[5:]), mesh_file, OPTIONS, use_cache=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert "is not closed" in printed and "--votes 9" in printed and "follow their neighbors" in printed
    voxelize_file((vertices, faces[5:]), mesh_file, VoxelizeOptions(resolution=20, votes=9), use_cache=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert "is not closed" in printed and "--votes" not in printed


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_volumes_are_written_and_read(mesh_file: Path, tmp_path: Path, suffix: str) -> None:
    voxels = voxelize_file(read_mesh(mesh_file), mesh_file, VoxelizeOptions(resolution=21), use_cache=False)
    file = write_volume(voxels, tmp_path / "new" / f"body{suffix}")
    read = read_volume(file)
    np.testing.assert_array_equal(whole(read.signal), whole(voxels.signal))
    assert read_grid(file) == read.grid and read.signal.packed
    if suffix == ".npz":
        assert read.grid == voxels.grid
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32"])
def test_volumes_of_numbers_become_occupancy(tmp_path: Path, dtype: str) -> None:
    truth = RNG.random((5, 6, 11)) < 0.5
    values = truth if dtype == "bool" else np.where(truth, 9, 3).astype(dtype)
    np.save(tmp_path / "a.npy", values[..., None])
    np.savez_compressed(tmp_path / "a.npz", density=values)
    for name in ("a.npy", "a.npz"):
        signal = read_volume(tmp_path / name).signal
        np.testing.assert_array_equal(whole(signal), truth)
        assert signal.packed and read_grid(tmp_path / name).shape == (5, 6, 11)
    if dtype != "bool":
        assert not whole(read_volume(tmp_path / "a.npy", threshold=9).signal).any()
        kept = read_volume(tmp_path / "a.npy", keep_values=True).signal
        np.testing.assert_array_equal(whole(kept), values)


def test_constant_volumes(tmp_path: Path) -> None:
    for value, inside in ((0.0, False), (1.0, True)):
        np.save(tmp_path / "a.npy", np.full((4, 4, 4), value))
        assert (whole(read_volume(tmp_path / "a.npy").signal) == inside).all()


def test_volumes_that_cannot_be_read(tmp_path: Path) -> None:
    with_nan = np.zeros((4, 5, 6))
    with_nan[1, 2, 3] = np.nan
    for name, array, message in (
        ("flat", np.zeros((4, 5)), r"shape \(4, 5\)"),
        ("colors", np.zeros((4, 5, 6, 3)), r"shape \(4, 5, 6, 3\)"),
        ("empty", np.zeros((4, 0, 6)), r"shape \(4, 0, 6\)"),
        ("nan", with_nan, r"sample \(1, 2, 3\)"),
        ("complex", np.zeros((2, 2, 2), complex), "complex128"),
        ("object", np.full((2, 2, 2), None), "cannot be read"),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(InputError, match=message):
            read_volume(tmp_path / f"{name}.npy")
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 2, 2)), b=np.zeros(3))
    np.savez(tmp_path / "odd.npz", bits=np.zeros((4, 4, 4), np.uint8), shape=(4, 4, 99), origin=(0, 0, 0), voxel_size=1)
    np.savez(tmp_path / "place.npz", bits=np.zeros((8, 8, 1), np.uint8), shape=(8,) * 3, origin=(0, 0, 0), voxel_size=0)
    content = (tmp_path / "flat.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(content[:-10])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "odd.npz").read_bytes()[:-10])
    (tmp_path / "a.raw").touch()
    for name in ("two.npz", "odd.npz", "place.npz", "cut.npy", "cut.npz", "a.raw", "missing.npz"):
        with pytest.raises(InputError, match=name):
            read_volume(tmp_path / name)


def test_a_volume_larger_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", np.zeros((64, 64, 64)))
    monkeypatch.setattr("common_ns.data.memory.available_memory", lambda: 2**20)
    with pytest.raises(InputError, match=r"Store it as \.npy"):
        read_volume(tmp_path / "a.npz")


def test_the_command(mesh_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [str(mesh_file), "--output-path", str(tmp_path / "out.npz"), "--resolution", "24", "--subvoxel", "2"]
    command = tyro.cli(VoxelizeCommand, args=arguments)
    assert command.main() == tmp_path / "out.npz"
    printed = capsys.readouterr().out
    assert "24×24×24 voxels" in printed and str(tmp_path / "out.npz") in printed
    expected = volume_io.voxelize(*read_mesh(mesh_file), VoxelizeOptions(resolution=24, subvoxel=2))
    np.testing.assert_array_equal(read_volume(tmp_path / "out.npz").signal.array, expected.signal.array)
    assert not (tmp_path / "voxels").exists()


def test_the_command_refuses_before_it_starts(mesh_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no volume format"):
        VoxelizeCommand(mesh=mesh_file, output_path=tmp_path / "a.txt").main()
    with pytest.raises(InputError, match="--resolution"):
        VoxelizeCommand(mesh=tmp_path / "missing.ply", resolution=0).main()
