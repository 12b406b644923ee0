"""Images and volumes stand where the convention says, are seen whole by the cameras, and are read once, when needed."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
import tyro
import yaml
from PIL import Image

from common_ns.errors import InputError
from miner_ns import dataparser as dataparser_module
from miner_ns.dataparser import MinerImageDataParserConfig, MinerOccupancyDataParserConfig
from miner_ns.voxelize import VoxelizeOptions

RNG = np.random.default_rng(0)


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    Image.fromarray(RNG.integers(0, 256, (30, 50, 3), np.uint8)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


@pytest.fixture
def mesh_file(tmp_path: Path) -> Path:
    mesh = trimesh.creation.icosphere(subdivisions=2)
    mesh.vertices = mesh.vertices * (2.0, 1.0, 1.0) + (5.0, 0.0, -3.0)
    mesh.export(tmp_path / "body.ply")
    return tmp_path / "body.ply"


def affine(matrix: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    return points.double() @ matrix[:, :-1].T + matrix[:, -1]


def test_rays_of_the_camera_meet_the_pixels_of_the_image(image_file: Path) -> None:
    outputs = MinerImageDataParserConfig(data=image_file).setup().get_dataparser_outputs("train")
    cameras = outputs.cameras
    assert (int(cameras.width[0]), int(cameras.height[0])) == (50, 30) and cameras.metadata == {}
    rays = cameras.generate_rays(0)
    hits = rays.origins - rays.origins[..., 2:] / rays.directions[..., 2:] * rays.directions
    rows, columns = torch.meshgrid(torch.arange(30), torch.arange(50), indexing="ij")
    centers = affine(outputs.metadata["grid_to_world"], torch.stack([rows, columns], dim=-1) + 0.5)
    torch.testing.assert_close(hits.double(), centers, atol=1e-5, rtol=0)
    # x to the right, y up, the longer side from −1 to 1.
    corners = affine(outputs.metadata["grid_to_world"], torch.tensor([[0, 0], [30, 50]]))
    torch.testing.assert_close(corners, torch.tensor([[-1.0, 0.6, 0.0], [1.0, -0.6, 0.0]]).double())
    box = outputs.scene_box.aabb
    assert (corners >= box[0] - 1e-6).all() and (corners <= box[1] + 1e-6).all() and box[0, 2] < 0 < box[1, 2]
    assert outputs.image_filenames == [image_file]


@pytest.mark.parametrize(("shape", "size"), [((3000, 10), (3, 1024)), ((10, 3000), (1024, 3)), ((1, 1), (1, 1))])
def test_cameras_have_a_bounded_number_of_pixels(tmp_path: Path, shape: tuple, size: tuple) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    outputs = MinerImageDataParserConfig(data=tmp_path / "a.npy").setup().get_dataparser_outputs("val")
    assert (int(outputs.cameras.width[0]), int(outputs.cameras.height[0])) == size
    height = outputs.cameras.height[0] / outputs.cameras.fy[0]  # at unit distance
    width = outputs.cameras.width[0] / outputs.cameras.fx[0]
    assert max(float(width), float(height)) == pytest.approx(2.0 / dataparser_module.IMAGE_DISTANCE)


def test_an_image_is_read_once_and_only_when_needed(image_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr(dataparser_module, "read_image", lambda *args: reads.append(args) or "nothing")
    parser = MinerImageDataParserConfig(data=image_file).setup()
    splits = [parser.get_dataparser_outputs(split).metadata for split in ("train", "val", "test")]
    assert not reads
    loader = splits[0]["signal"]
    assert loader.spatial_shape == (30, 50) and loader.channels == 3
    assert all(copy.deepcopy(metadata)["signal"] is loader for metadata in splits)
    monkeypatch.undo()
    assert MinerImageDataParserConfig(data=image_file).setup().get_dataparser_outputs().metadata["signal"].load().nbytes


def test_a_volume_keeps_the_axes_of_its_mesh(mesh_file: Path) -> None:
    config = MinerOccupancyDataParserConfig(data=mesh_file, resolution=32, margin=0.1)
    outputs = config.setup().get_dataparser_outputs("train")
    metadata = outputs.metadata
    signal = metadata["signal"].load()
    assert signal.spatial_shape == (32, 32, 32) and (mesh_file.parent / "voxels").is_dir()
    inside = torch.from_numpy(np.argwhere(signal.read_stored((0, 0, 0), (32, 32, 32))[..., 0])) + 0.5
    world = affine(metadata["grid_to_world"], inside)
    mesh = affine(metadata["world_to_data"], world)
    # All occupied voxels' centers are inside of the ellipsoid in the coordinates of the file.
    assert (((mesh - torch.tensor([5.0, 0.0, -3.0])) / torch.tensor([2.0, 1.0, 1.0])).norm(dim=-1) < 1.0).all()
    assert float((mesh.max(dim=0).values - mesh.min(dim=0).values)[0]) == pytest.approx(4.0, abs=0.4)
    corners = affine(metadata["grid_to_world"], torch.tensor([[0, 0, 0], [32, 32, 32]]))
    torch.testing.assert_close(corners.float(), outputs.scene_box.aabb)
    torch.testing.assert_close(corners, torch.tensor([[-1.0] * 3, [1.0] * 3]).double())
    # nerfstudio's transform, by which ns-mesh goes back to the file's coordinates, is the same map.
    transform = outputs.dataparser_transform.double()
    again = outputs.dataparser_scale * affine(transform, mesh)
    torch.testing.assert_close(again, world, atol=1e-6, rtol=0)


def test_all_cameras_see_the_whole_volume(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", RNG.random((8, 20, 12)))
    config = MinerOccupancyDataParserConfig(data=tmp_path / "a.npy", view_size=64)
    outputs = config.setup().get_dataparser_outputs("test")
    cameras, box = outputs.cameras, outputs.scene_box.aabb
    torch.testing.assert_close(box, torch.tensor([[-0.4, -1.0, -0.6], [0.4, 1.0, 0.6]]))
    corners = torch.stack(torch.meshgrid(*box.T, indexing="ij"), dim=-1).reshape(-1, 3)
    assert len(cameras) == len(outputs.image_filenames) == len(set(outputs.image_filenames)) > 1
    for index in range(len(cameras)):
        pose = cameras.camera_to_worlds[index]
        torch.testing.assert_close(pose[:, :3].T @ pose[:, :3], torch.eye(3), atol=1e-6, rtol=0)
        local = (corners - pose[:, 3]) @ pose[:, :3]
        assert (local[:, 2] < 0).all()
        assert (cameras.fx[index] * local[:, :2] / -local[:, 2:]).abs().max() < 32
    # An array's own coordinates are its voxels.
    center = affine(outputs.metadata["world_to_data"], torch.zeros(1, 3))
    torch.testing.assert_close(center, torch.tensor([[4.0, 10.0, 6.0]]).double())
    assert outputs.metadata["signal"].load().packed


def test_volumes_written_by_the_command_keep_their_place(mesh_file: Path, tmp_path: Path) -> None:
    from miner_ns.volume_io import read_mesh, voxelize_file, write_volume

    options = VoxelizeOptions(resolution=16)
    write_volume(voxelize_file(read_mesh(mesh_file), mesh_file, options, use_cache=False), tmp_path / "a.npz")
    of_mesh = MinerOccupancyDataParserConfig(data=mesh_file, resolution=16).setup().get_dataparser_outputs()
    of_file = MinerOccupancyDataParserConfig(data=tmp_path / "a.npz").setup().get_dataparser_outputs()
    torch.testing.assert_close(of_mesh.metadata["world_to_data"], of_file.metadata["world_to_data"])
    np.testing.assert_array_equal(of_mesh.metadata["signal"].load().array, of_file.metadata["signal"].load().array)


def test_what_cannot_be_parsed(tmp_path: Path, image_file: Path) -> None:
    for config, message in (
        (MinerImageDataParserConfig(data=tmp_path / "missing.png"), "does not exist"),
        (MinerImageDataParserConfig(data=tmp_path), "folder"),
        (MinerOccupancyDataParserConfig(data=tmp_path / "missing.ply"), "does not exist"),
        (MinerOccupancyDataParserConfig(data=image_file), "neither of a mesh nor of a volume"),
        (MinerOccupancyDataParserConfig(data=image_file, votes=2), "--votes is 2"),
    ):
        with pytest.raises(InputError, match=message):
            config.setup().get_dataparser_outputs()


@pytest.mark.parametrize("config", [MinerImageDataParserConfig, MinerOccupancyDataParserConfig])
def test_configs_pass_the_command_line_and_the_config_file(config: type) -> None:
    parsed = tyro.cli(config, args=["--data", "thing"])
    assert parsed.data == Path("thing")
    assert yaml.load(yaml.dump(parsed), Loader=yaml.Loader) == parsed
