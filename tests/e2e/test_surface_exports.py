"""Meshes and point clouds of surface methods: our commands' and nerfstudio's exports, on the sample scene."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from nerfstudio.exporter import marching_cubes
from nerfstudio.scripts import exporter
from PIL import Image

from common_ns.scripts.mesh import MeshCommand
from hashnffb_sdf_ns.scripts.eval_mesh import EvalMeshCommand
from tests.e2e.running import train
from tests.e2e.surface_runs import surface_config, write_scene

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene"), layouts=("idr",))


@pytest.fixture(scope="module")
def run(scene, tmp_path_factory) -> Path:
    return train(surface_config(scene / "idr", tmp_path_factory.mktemp("runs"), 200))


@pytest.fixture(scope="module")
def idr_run(scene, tmp_path_factory) -> Path:
    return train(surface_config(scene / "idr", tmp_path_factory.mktemp("runs"), 200, "hash-idr-small"))


@pytest.mark.parametrize(
    ("which", "chamfer"),
    [pytest.param("run", 0.08, id="neus"), pytest.param("idr_run", 0.05, id="idr")],
)
def test_mesh_is_watertight_colored_and_near_the_truth(which, chamfer, scene, tmp_path, request):
    """For so short a run; what full ones reach is measured by the benchmarks."""
    options = {"resolution": 64, "world_coordinates": True}
    file = MeshCommand(request.getfixturevalue(which), tmp_path / "mesh.ply", **options).main()
    mesh = trimesh.load(file)
    assert mesh.is_watertight and len(mesh.faces) > 1000
    assert mesh.visual.vertex_colors[:, :3].std() > 10
    figures = EvalMeshCommand(file, scene / "mesh.ply", samples=5000, output_path=tmp_path / "figures.json").main()
    assert figures.chamfer_relative < chamfer and figures.f_score > 0.08
    assert json.loads((tmp_path / "figures.json").read_text())["chamfer"] == figures.chamfer


def test_what_no_camera_sees_is_cut_away(run, tmp_path, capsys):
    """Cameras stand around the scene and above it: its underside goes, and nearly nothing else."""
    whole = trimesh.load(MeshCommand(run, tmp_path / "whole.ply", resolution=64, world_coordinates=True).main())
    options = {"resolution": 64, "world_coordinates": True, "cull_unseen": True}
    seen = trimesh.load(MeshCommand(run, tmp_path / "seen.ply", **options).main())
    assert "triangles that no training image shows" in capsys.readouterr().out
    assert whole.is_watertight and not seen.is_watertight
    downwards = [float(mesh.area_faces[mesh.face_normals[:, 2] < -0.8].sum()) for mesh in (whole, seen)]
    upwards = [float(mesh.area_faces[mesh.face_normals[:, 2] > 0.8].sum()) for mesh in (whole, seen)]
    assert downwards[1] < 0.5 * downwards[0] and upwards[1] > 0.8 * upwards[0]
    inside = trimesh.load(MeshCommand(run, tmp_path / "inside.ply", resolution=64, cull_masks=2).main())
    assert 0.1 * len(whole.faces) < len(inside.faces) < len(whole.faces)  # so short a run has not carved all away


def test_export_pointcloud(run, tmp_path):
    exporter.ExportPointCloud(run, tmp_path, num_points=2000, num_rays_per_batch=2048).main()
    cloud = trimesh.load(tmp_path / "point_cloud.ply")
    assert len(cloud.vertices) >= 1500
    assert np.linalg.norm(cloud.vertices, axis=1).max() < 1.75  # nerfstudio's box is a cube about the sphere


def coarse_marching_cubes(geometry_callable_field, resolution, **box) -> trimesh.Trimesh:
    """nerfstudio's own, on a grid of 64 on the CPU: its grids are multiples of 512, on CUDA."""
    low, high = np.array(box["bounding_box_min"]), np.array(box["bounding_box_max"])
    assert resolution == 512
    axes = [torch.linspace(*ends, 64) for ends in zip(low, high)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    with torch.no_grad():
        sdf = marching_cubes.evaluate_multiresolution_sdf(
            lambda x: marching_cubes.evaluate_sdf(geometry_callable_field, x),
            marching_cubes.create_point_pyramid(points),
            None,
            float(high[0]),
            float(low[0]),
            64,
        )
    vertices, faces, normals, _ = marching_cubes.measure.marching_cubes(
        sdf.reshape(64, 64, 64).numpy(), level=box["isosurface_threshold"], spacing=tuple((high - low) / 63)
    )
    return trimesh.Trimesh(vertices + low, faces, vertex_normals=normals)


def test_export_marching_cubes(run, tmp_path, monkeypatch):
    """What nerfstudio's exporter asks of the model; with its own grid where there is CUDA."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(exporter, "generate_mesh_with_multires_marching_cubes", coarse_marching_cubes)
    exporter.ExportMarchingCubesMesh(run, tmp_path, resolution=512, target_num_faces=400, num_pixels_per_side=64).main()
    mesh = trimesh.load(tmp_path / "sdf_marching_cubes_mesh.ply")
    assert mesh.is_watertight
    assert np.asarray(Image.open(tmp_path / "material_0.png")).std() > 5
