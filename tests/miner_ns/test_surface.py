"""The surface of an occupancy lies where its samples say, whatever its networks do between them."""

from __future__ import annotations

import inspect
import types

import numpy as np
import pytest
import torch
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.exporter import marching_cubes
from torch import Tensor

from common_ns.errors import InputError
from common_ns.meshing.extraction import extract_mesh
from miner_ns.hierarchy import Hierarchy, Level
from miner_ns.model import MinerModelConfig
from miner_ns.networks import BlockNetwork
from miner_ns.signal import Signal
from miner_ns.surface import OccupancyGeometry, SampledLevel, occupancy_field, to_grid

SHAPE = (21, 13, 18)
CENTER, RADIUS = torch.tensor([10.3, 6.1, 8.7]), 5.0
STEP = 0.1
GRID_TO_WORLD = torch.tensor([[STEP, 0, 0, -1.0], [0, STEP, 0, 2.0], [0, 0, STEP, 0.5]], dtype=torch.float64)


class Ball(Hierarchy):
    """A fit that never was: at each level's samples, how far inside of a ball they are; counts what it evaluates."""

    def __init__(self, shape: tuple[int, ...] = SHAPE, num_levels: int = 3, sharpness: float = 0.5) -> None:
        super().__init__(shape, 1, num_levels, block_size=4, num_frequencies=0)
        none, network = torch.zeros(0), BlockNetwork(3, 1)
        for j, grid in enumerate(self.grids):
            self.levels[j] = Level(grid, network, none.long(), none.reshape(0, network.num_parameters), none)
        self.inv_s = sharpness
        self.evaluated: list[int] = []

    def exact(self, points: Tensor) -> Tensor:
        return 0.5 + self.inv_s * (RADIUS - (points - CENTER).norm(dim=-1))

    def evaluate_blocks(self, level: int, index: Tensor) -> Tensor:
        self.evaluated += index.tolist()
        grid = self.grids[level]
        first = torch.from_numpy(grid.coordinates(index.numpy()) * grid.block_size)
        centers = torch.from_numpy((grid.local_centers() + 1.0) / 2.0 * grid.block_size)
        return self.exact((first[:, None] + centers).float() * 2.0**level)[:, None]


def points_in(shape: tuple[int, ...], count: int = 2000) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, generator=generator) * torch.tensor(shape)


class Slope(Ball):
    """As Ball, but linear along all axes."""

    def exact(self, points: Tensor) -> Tensor:
        return points @ torch.tensor([0.02, 0.015, 0.01]) + 0.05


@pytest.mark.parametrize("level", [0, 1, 2])
def test_samples_lie_at_the_centers_of_what_they_cover(level: int) -> None:
    hierarchy = Slope()
    points = points_in(SHAPE)
    last = torch.tensor(hierarchy.grids[level].shape) - 0.5
    # A linear function is reproduced between the first and the last center; beyond, the border continues.
    inner = torch.minimum((points / 2**level).clamp_min(0.5), last) * 2**level
    torch.testing.assert_close(SampledLevel(hierarchy, level)(points), hierarchy.exact(inner))


@pytest.mark.parametrize("max_samples", [1, 3 * 4 * 13 * 18])
def test_few_layers_in_memory_give_the_same(max_samples: int) -> None:
    hierarchy = Ball()
    points = torch.cat([points_in(SHAPE), points_in((1, 1, 1), 5) - 3.0, points_in((1, 1, 1), 5) + 30.0])
    expected = SampledLevel(hierarchy, 0)(points)
    assert float(expected.min()) == 0.0 and float(expected.max()) == 1.0  # clipped: an occupancy is a share
    sampled = SampledLevel(hierarchy, 0, max_samples)
    assert len(sampled.layers) < hierarchy.grids[0].blocks[0]
    torch.testing.assert_close(sampled(points), expected, rtol=0, atol=0)
    torch.testing.assert_close(sampled(points.flip(0)), expected.flip(0), rtol=0, atol=0)
    assert sampled(points[:0]).shape == (0,)


def test_sweeping_along_the_first_axis_evaluates_each_block_once() -> None:
    hierarchy = Ball()
    sampled = SampledLevel(hierarchy, 0, 1)
    points = points_in(SHAPE)
    for some in points[points[:, 0].argsort()].split(50):
        sampled(some)
    assert sorted(hierarchy.evaluated) == list(range(hierarchy.grids[0].num_blocks))


def test_the_mesh_is_where_the_ball_is() -> None:
    hierarchy = Ball()
    field = occupancy_field(hierarchy, GRID_TO_WORLD)
    size = torch.tensor(SHAPE) * STEP
    torch.testing.assert_close(
        field.aabb, torch.stack([torch.tensor([-1.0, 2.0, 0.5])] * 2) + torch.stack([0 * size, size])
    )
    mesh = extract_mesh(field, 42)
    assert mesh.to_trimesh().is_watertight
    away = to_grid(torch.from_numpy(mesh.vertices), GRID_TO_WORLD) - CENTER
    radius = away.norm(dim=-1)
    assert float((radius - RADIUS).abs().max()) < 0.06  # of a sample
    assert mesh.normals is not None
    assert float((torch.from_numpy(mesh.normals) * away / radius[:, None]).sum(-1).min()) > 0.98


@pytest.mark.parametrize(
    ("voxel", "level"), [(None, 0.0), (0.5, 0.0), (1.0, 0.0), (2.0, 1.0), (2.01, 1.0), (3.0, 1.585), (9.0, 2.0)]
)
def test_the_size_of_voxels_decides_the_level(voxel: float | None, level: float) -> None:
    hierarchy = Ball(sharpness=0.05)
    field = occupancy_field(hierarchy, GRID_TO_WORLD, voxel_size=None if voxel is None else voxel * STEP)
    places = points_in(SHAPE)
    values = field.value(places * STEP + GRID_TO_WORLD[:, 3].float())
    fine, blend = int(level), level % 1
    expected = SampledLevel(hierarchy, fine)(places)
    if blend:
        expected = torch.lerp(expected, SampledLevel(hierarchy, fine + 1)(places), blend)
    torch.testing.assert_close(values, expected, atol=1e-4, rtol=0)


def test_an_untrained_occupancy_has_no_surface() -> None:
    hierarchy = Ball()
    hierarchy.levels = {}
    with pytest.raises(InputError, match="no level of the occupancy has been trained"):
        occupancy_field(hierarchy, GRID_TO_WORLD)


def test_an_image_has_no_surface() -> None:
    metadata = {"signal": Signal(np.zeros((8, 8, 3), np.uint8), 2), "grid_to_world": torch.eye(3)}
    scene_box = SceneBox(aabb=torch.tensor([[-1.0, -1.0, -0.1], [1.0, 1.0, 0.1]]))
    model = MinerModelConfig().setup(scene_box=scene_box, num_train_data=1, metadata=metadata)
    for surface in (model.iso_field, lambda: model.field.forward_geonetwork(torch.zeros(1, 3))):
        with pytest.raises(InputError, match=r"an image has no surface\. Use a model of miner-occupancy") as caught:
            surface()
        assert "\n" not in str(caught.value)


def test_the_distance_is_negative_inside_and_never_too_long() -> None:
    """The exporter leaves out what is farther away than a cell is wide along all axes together."""
    hierarchy = Ball(sharpness=0.5)
    geometry = OccupancyGeometry(lambda: occupancy_field(hierarchy, GRID_TO_WORLD), STEP)
    world = points_in(SHAPE) * STEP + GRID_TO_WORLD[:, 3].float()
    distance = geometry.forward_geonetwork(world)
    assert distance.shape == (2000, 1)
    away = to_grid(world, GRID_TO_WORLD) - CENTER
    assert ((distance[:, 0] < 0) == (away.norm(dim=-1) < RADIUS)).float().mean() > 0.99
    assert float(distance.abs().max()) <= 0.5 * STEP + 1e-6
    true = STEP * (away.norm(dim=-1) - RADIUS).abs()
    assert bool((distance[:, 0].abs() <= true + 0.05 * STEP).all())


def host_marching_cubes(side: int) -> types.ModuleType:
    """nerfstudio's module with crops of `side`³ points instead of 512³, on the CPU."""
    source = inspect.getsource(marching_cubes)
    assert source.count("crop_n = 512") == 1
    module = types.ModuleType("small_marching_cubes")
    exec(source.replace("512", str(side)).replace(".cuda()", ""), module.__dict__)
    return module


@pytest.mark.parametrize(("side", "resolution"), [(64, 64), (32, 64), (128, 128)])
def test_nerfstudios_marching_cubes_finds_the_surface(side: int, resolution: int) -> None:
    """Its pyramid of points leaves out what the distance says is far away; nothing of the surface may be lost."""
    hierarchy = Ball(sharpness=2.0)  # saturated but for a thin shell, as trained networks are
    field = occupancy_field(hierarchy, GRID_TO_WORLD)
    geometry = OccupancyGeometry(lambda: field, STEP)
    asked = []

    def distance(points: Tensor) -> Tensor:
        asked.append(len(points))
        return geometry.forward_geonetwork(points)[:, 0].contiguous()

    center = CENTER * STEP + GRID_TO_WORLD[:, 3].float()
    box = torch.stack([center - 0.58, center + 0.61])
    low, high = (tuple(corner.tolist()) for corner in box)
    mesh = host_marching_cubes(side).generate_mesh_with_multires_marching_cubes(distance, resolution, low, high)
    ours = extract_mesh(field, resolution, aabb=box).to_trimesh()
    found = field.value(torch.from_numpy(np.asarray(mesh.vertices)).float())
    assert float((found - 0.5).abs().mean()) < 0.02
    if side == resolution:  # else nerfstudio's crops have seams
        assert mesh.is_watertight
    assert abs(mesh.volume) == pytest.approx(ours.volume, rel=0.02)
    assert mesh.area == pytest.approx(ours.area, rel=0.02)
    np.testing.assert_allclose(mesh.bounds, ours.bounds, atol=1.2 / resolution)
    if side == 128:  # voxels much finer than samples: most points are left out
        assert sum(asked) < 0.7 * side**3
