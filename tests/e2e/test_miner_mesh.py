"""Meshes of MINER's occupancies: in the coordinates of their source, and through nerfstudio's own exporters."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.scripts import exporter
from PIL import Image

from common_ns.scripts.mesh import MeshCommand
from miner_ns.fitting import FitOptions
from tests.e2e.commands import coarse_poisson
from tests.e2e.running import run_config, train
from tests.miner_ns.test_surface import host_marching_cubes

CENTER, RADIUS = np.array([1.0, 2.0, 3.0]), 0.3
MODEL_RADIUS = 1.0 / 1.1
"""Of the ball in the model's coordinates: its bounding cube with 5 % on each side goes from −1 to 1."""
FIT = FitOptions(
    num_levels=2, block_size=8, epochs=(50, 75), implementation="torch", num_frequencies=3, hidden_dim=16,
    num_layers=2, loss="bce", threshold=1e-3,
)  # fmt: skip


def train_occupancy(data: Path, output: Path, **dataparser) -> Path:
    config = run_config("miner-occupancy", data, output, 10**6, fit=FIT)
    config.pipeline.datamanager.dataparser = copy.deepcopy(all_dataparsers["miner-occupancy-data"])
    config.pipeline.datamanager.dataparser.data = data
    for name, value in dataparser.items():
        setattr(config.pipeline.datamanager.dataparser, name, value)
    return train(config)


def mesh_of(run: Path, output: Path, **options) -> trimesh.Trimesh:
    MeshCommand(load_config=run, output_path=output, **options).main()
    mesh = trimesh.load(output, process=False)
    assert isinstance(mesh, trimesh.Trimesh)
    return mesh


@pytest.fixture(scope="module")
def ball_run(tmp_path_factory) -> Path:
    """A small ball away from the origin."""
    folder = tmp_path_factory.mktemp("ball")
    ball = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS)
    ball.apply_translation(CENTER)
    ball.export(folder / "ball.obj")
    return train_occupancy(folder / "ball.obj", folder, resolution=32)


@pytest.mark.parametrize("resolution", [32, 16, 50])
def test_world_coordinates_are_those_of_the_source_mesh(ball_run, tmp_path, resolution):
    mesh = mesh_of(ball_run, tmp_path / "mesh.ply", resolution=resolution, world_coordinates=True)
    voxel = 2 * RADIUS * 1.1 / min(resolution, 32)  # the grid is the ball's bounding cube with 5 % on each side
    assert mesh.is_watertight and len(mesh.split()) == 1
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.03)
    away = np.linalg.norm(mesh.vertices - CENTER, axis=1) - RADIUS
    assert np.abs(away).max() < 0.5 * voxel
    np.testing.assert_allclose(mesh.center_mass, CENTER, atol=0.02 * voxel)
    outward = ((mesh.vertices - CENTER) * mesh.vertex_normals).sum(axis=1) / RADIUS
    assert outward.min() > 0.7


def test_an_arrays_coordinates_are_its_voxels(tmp_path):
    """Voxel (i, j, k) covers [i, i + 1) × [j, j + 1) × [k, k + 1)."""
    center, radius = np.array([8.0, 13.0, 10.5]), 6.0
    places = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in (18, 24, 20)), indexing="ij"), axis=-1)
    np.save(tmp_path / "ball.npy", np.linalg.norm(places - center, axis=-1) < radius)
    run = train_occupancy(tmp_path / "ball.npy", tmp_path)
    mesh = mesh_of(run, tmp_path / "mesh.ply", resolution=24, world_coordinates=True)
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.08)
    assert np.abs(np.linalg.norm(mesh.vertices - center, axis=1) - radius).max() < 0.6
    np.testing.assert_allclose(mesh.center_mass, center, atol=0.05)


def away(mesh: trimesh.Trimesh | trimesh.PointCloud) -> np.ndarray:
    """Distance of vertices to the ball's surface, in voxels of the model."""
    return (np.linalg.norm(mesh.vertices, axis=1) - MODEL_RADIUS) * 16


def test_nerfstudios_marching_cubes_gives_the_same_mesh(ball_run, tmp_path, monkeypatch):
    small = host_marching_cubes(64).generate_mesh_with_multires_marching_cubes
    monkeypatch.setattr(
        exporter, "generate_mesh_with_multires_marching_cubes", lambda **given: small(**{**given, "resolution": 64})
    )
    exporter.ExportMarchingCubesMesh(
        ball_run, tmp_path, resolution=512, num_pixels_per_side=64, target_num_faces=500
    ).main()
    theirs = trimesh.load(tmp_path / "sdf_marching_cubes_mesh.ply", process=False)
    assert isinstance(theirs, trimesh.Trimesh)
    ours = mesh_of(ball_run, tmp_path / "ours.ply", resolution=64)
    assert theirs.is_watertight and np.abs(away(theirs)).max() < 0.5
    assert theirs.volume == pytest.approx(ours.volume, rel=0.01)  # above 0: faces look outwards
    np.testing.assert_allclose(theirs.bounds, ours.bounds, atol=0.01)
    assert np.asarray(Image.open(tmp_path / "material_0.png")).mean() > 50


def test_nerfstudios_other_exporters(ball_run, tmp_path):
    with coarse_poisson():
        exporter.ExportPoissonMesh(
            ball_run, tmp_path, num_points=3000, num_rays_per_batch=2048, texture_method="point_cloud"
        ).main()
    assert np.abs(away(trimesh.load(tmp_path / "poisson_mesh.ply"))).max() < 1.0
    exporter.ExportTSDFMesh(
        ball_run, tmp_path, downscale_factor=4, resolution=[48, 48, 48], texture_method="tsdf"
    ).main()
    assert np.median(np.abs(away(trimesh.load(tmp_path / "tsdf_mesh.ply")))) < 1.0
    exporter.ExportCameraPoses(ball_run, tmp_path).main()
    assert len(json.loads((tmp_path / "transforms_train.json").read_text())) == 24
