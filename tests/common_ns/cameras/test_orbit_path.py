"""The orbit: geometry of its poses, where it is placed, and that ns-render reads what is written."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.cameras.camera_paths import get_path_from_json
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig

from common_ns.cameras.geometry import (
    azimuth_coverage,
    look_at,
    nearest_point_to_axes,
    orbit_center,
    orbit_poses,
    positions,
    spherical_coordinates,
    up_axis,
    view_directions,
)
from common_ns.errors import InputError
from common_ns.scripts.orbit_path import OrbitPath, camera_path_json, entrypoint, even, fit_orbit

BOX = np.array([[-1.0] * 3, [1.0] * 3])
Z = np.array([0.0, 0.0, 1.0])
TILTED = np.array([2.0, -1.0, 3.0]) / math.sqrt(14.0)


def hemisphere(count: int, radius: float, center: np.ndarray, seed: int = 0) -> np.ndarray:
    """Cameras at random places of the upper half of a sphere, looking at its center with a level horizon."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(count, 3))
    direction[:, 2] = np.abs(direction[:, 2])
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    return look_at(center + radius * direction, center, Z)


@pytest.mark.parametrize("up", [Z, -Z, np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]), TILTED])
@pytest.mark.parametrize("swing", [0.0, 0.3])
def test_orbit_poses_are_rigid_level_and_look_at_the_center(up, swing):
    center, radius, elevation = np.array([0.3, -2.0, 1.0]), 2.5, 0.4
    poses = orbit_poses(center, radius, elevation, 40, up, start_azimuth=1.0, elevation_swing=swing)
    rotation = poses[:, :, :3]
    np.testing.assert_allclose(
        rotation.transpose(0, 2, 1) @ rotation, np.broadcast_to(np.eye(3), (40, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(positions(poses) - center, axis=-1), radius)
    np.testing.assert_allclose(positions(poses) + radius * view_directions(poses), np.tile(center, (40, 1)), atol=1e-12)
    np.testing.assert_allclose(rotation[:, :, 0] @ up, 0.0, atol=1e-12)  # a level horizon
    assert (rotation[:, :, 1] @ up > 0).all()  # and not upside down
    _, elevations, azimuths = spherical_coordinates(positions(poses), center, up)
    np.testing.assert_allclose(elevations.mean(), elevation)
    np.testing.assert_allclose(np.ptp(elevations), 2 * swing, atol=1e-12)
    assert math.isclose(azimuths[0], 1.0)


def test_orbit_closes_without_a_repeated_frame():
    poses = orbit_poses(np.zeros(3), 1.0, 0.2, 24, TILTED)
    steps = np.linalg.norm(positions(poses) - np.roll(positions(poses), 1, axis=0), axis=-1)
    np.testing.assert_allclose(steps, steps[0])  # the step from last to first is one like the others
    assert steps[0] > 0.1


def test_orbit_turns_counter_clockwise_seen_from_above():
    first, second = positions(orbit_poses(np.zeros(3), 1.0, 0.0, 8, Z))[:2]
    assert np.cross(first, second)[2] > 0


def test_nearest_point_has_least_squared_distance_to_the_axes():
    rng = np.random.default_rng(1)
    c2w = hemisphere(12, 3.0, np.array([1.0, 2.0, 0.0]))
    c2w[:, :, 3] += 0.2 * rng.normal(size=(12, 3))  # the axes no longer meet

    def cost(point: np.ndarray) -> float:
        total = 0.0
        for pose in c2w:
            total += np.linalg.norm(np.cross(point - pose[:, 3], -pose[:, 2])) ** 2
        return total

    point, spread = nearest_point_to_axes(c2w)
    assert spread > 0.1
    assert all(cost(point) < cost(point + 0.01 * step) for step in [*np.eye(3), *-np.eye(3)])


def test_fit_recovers_the_sphere_that_the_cameras_stand_on():
    center = np.array([0.5, -1.0, 0.25])
    c2w = hemisphere(60, 4.0, center)
    orbit = fit_orbit(c2w, BOX)
    np.testing.assert_allclose(orbit.center, center, atol=1e-9)
    np.testing.assert_allclose(orbit.up, Z, atol=1e-9)  # although the mean camera up is not z
    assert math.isclose(orbit.radius, 4.0)
    assert math.isclose(orbit.elevation, np.median(np.arcsin((positions(c2w) - center)[:, 2] / 4.0)))
    assert orbit.coverage > math.radians(300)


def test_an_arc_is_extended_to_a_circle_that_starts_at_its_middle():
    angles = np.radians(np.linspace(20.0, 80.0, 13))
    places = 2.0 * np.stack([np.cos(angles), np.sin(angles), 0.8 * np.ones(13)], axis=-1)
    orbit = fit_orbit(look_at(places, np.zeros(3), Z), BOX)
    np.testing.assert_allclose(orbit.center, 0.0, atol=1e-9)
    np.testing.assert_allclose(orbit.up, Z, atol=1e-9)  # the mean camera up leans by 30° or so here
    assert math.isclose(orbit.coverage, math.radians(60.0))
    assert math.isclose(orbit.start_azimuth, math.radians(50.0))


@pytest.mark.parametrize(
    ("azimuths", "coverage"), [([0.0], 0.0), ([350.0, 10.0], 20.0), ([0.0, 90.0, 180.0, 270.0], 270.0)]
)
def test_azimuth_coverage_is_the_smallest_arc(azimuths, coverage):
    assert math.isclose(azimuth_coverage(np.radians(azimuths)), math.radians(coverage), abs_tol=1e-9)


def test_cameras_with_parallel_axes_look_at_the_scene_box():
    places = np.stack([np.linspace(-1, 1, 9), np.full(9, -4.0), np.zeros(9)], axis=-1)
    c2w = look_at(places, np.array([0.0, 1e6, 0.0]), Z)
    point, spread = nearest_point_to_axes(c2w)
    assert spread < 1e-6
    assert np.isfinite(point).all()
    center, source = orbit_center(c2w, BOX)
    np.testing.assert_allclose(center, 0.0)
    assert "scene box" in source
    # Forward-facing cameras around which the data parser centered the scene: the circle has to lie before them.
    ahead, _ = orbit_center(c2w + np.array([0, 4.0, 0])[:, None] * np.eye(4)[3], BOX)
    np.testing.assert_allclose(ahead, [0.0, 1.0, 0.0], atol=1e-5)


def test_cameras_that_look_outward_circle_the_scene_box():
    angles = np.linspace(0, 2 * math.pi, 12, endpoint=False)
    ring = 0.3 * np.stack([np.cos(angles), np.sin(angles), np.zeros(12)], axis=-1)
    outward = np.stack([look_at(place[None], 2 * place, Z)[0] for place in ring])
    orbit = fit_orbit(outward, BOX)
    assert "outward" in orbit.center_source
    np.testing.assert_allclose(orbit.center, 0.0)
    assert math.isclose(orbit.radius, 0.3)


def test_up_axis_of_rolled_cameras_is_their_mean_up():
    c2w = np.tile(look_at(np.array([[0.0, -3.0, 0.0]]), np.zeros(3), Z), (6, 1, 1))
    np.testing.assert_allclose(up_axis(c2w), Z, atol=1e-12)
    single = look_at(np.array([[0.0, -3.0, 3.0]]), np.zeros(3), Z)
    np.testing.assert_allclose(up_axis(single), single[0, :, 1])


@pytest.mark.parametrize(("width", "height"), [(640, 480), (270, 480), (800, 800)])
def test_json_gives_nerfstudio_the_same_poses_and_focal_lengths(width, height, tmp_path):
    focal = 1.3 * height
    poses = orbit_poses(np.array([0.1, 0.2, 0.3]), 3.0, 0.5, 10, TILTED)
    fov = math.degrees(2 * math.atan(0.5 * height / focal))
    file = tmp_path / "path.json"
    file.write_text(json.dumps(camera_path_json(poses, fov, width, height, seconds=2.0)))
    cameras = get_path_from_json(json.loads(file.read_text()))
    np.testing.assert_allclose(cameras.camera_to_worlds.numpy(), poses, atol=1e-5)
    np.testing.assert_allclose(cameras.fx.numpy(), focal, rtol=1e-5)
    np.testing.assert_allclose(cameras.fy.numpy(), focal, rtol=1e-5)
    assert (int(cameras.width[0]), int(cameras.height[0])) == (width, height)


def write_run(folder: Path, data: Path) -> Path:
    """A run's config.yml as ns-train writes it, without weights."""
    datamanager = VanillaDataManagerConfig(dataparser=BlenderDataParserConfig(), data=data)
    config = TrainerConfig(method_name="some-method", pipeline=VanillaPipelineConfig(datamanager=datamanager))
    folder.mkdir(parents=True)
    file = folder / "config.yml"
    file.write_text(yaml.dump(config))
    return file


def test_command_writes_a_path_and_says_how_to_render_it(tiny_blender, tmp_path, capsys):
    config = write_run(tmp_path / "my run", tiny_blender)
    output = OrbitPath(load_config=config, frames=12, seconds=3.0, radius_scale=0.5, elevation_degrees=20.0).main()
    assert output == tmp_path / "my run" / "camera_paths" / "orbit.json"
    content = json.loads(output.read_text())
    assert (content["render_width"], content["render_height"], content["seconds"]) == (16, 16, 3.0)
    cameras = get_path_from_json(content)
    places = cameras.camera_to_worlds[:, :, 3].double()
    expected = 0.5 * 4.0 * math.sqrt(1.09)  # the fixture's cameras stand at 4 · |(cos, sin, 0.3)|
    torch.testing.assert_close(places.norm(dim=-1), torch.full((12,), expected).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(places[:, 2], torch.full((12,), expected * math.sin(math.radians(20))).double())
    np.testing.assert_allclose(cameras.fx.numpy(), 8.0 / math.tan(0.35), rtol=1e-5)  # camera_angle_x is 0.7

    printed = capsys.readouterr().out
    assert "20.0°" in printed
    command = shlex.split(printed.strip().splitlines()[-1])
    assert command[:2] == ["ns-render", "camera-path"]
    options = dict(zip(command[2::2], command[3::2]))
    assert Path(options["--load-config"]) == config
    assert Path(options["--camera-path-filename"]) == output


def test_image_sides_are_even_and_keep_their_proportion():
    assert [even(x) for x in (1, 7.2, 480, 101)] == [2, 8, 480, 100]
    assert OrbitPath(Path("c"), width=100).image_size(640, 480) == (100, 76)
    assert OrbitPath(Path("c"), height=240).image_size(640, 480) == (320, 240)
    assert OrbitPath(Path("c"), width=30, height=50).image_size(640, 480) == (30, 50)
    assert OrbitPath(Path("c")).image_size(271, 481) == (272, 480)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "--frames is 0"),
        ({"radius_scale": -1.0}, "--radius-scale is -1"),
        ({"fov": 180.0}, "--fov is 180"),
        ({"elevation_degrees": 80.0, "elevation_swing_degrees": 10.0}, "reaches the pole"),
    ],
)
def test_impossible_options_are_refused(options, message, tiny_blender, tmp_path):
    with pytest.raises(InputError, match=message):
        OrbitPath(load_config=write_run(tmp_path / "run", tiny_blender), **options).main()


def test_a_bad_option_ends_in_one_line_and_not_in_a_usage_box(tiny_blender, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    config = write_run(tmp_path / "run", tiny_blender)
    monkeypatch.setattr(sys, "argv", ["ns-orbit-path", "--load-config", str(config), "--frames", "-3"])
    with pytest.raises(InputError) as caught:
        entrypoint()
    sys.excepthook(caught.type, caught.value, None)  # what the process would do with it
    assert capsys.readouterr().err == "Error: --frames is -3. Give a number above 0.\n"


def test_a_missing_config_or_data_set_is_explained_in_one_line(tmp_path):
    def message(file: Path) -> str:
        with pytest.raises(InputError) as error:
            OrbitPath(load_config=file).main()
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "no such file" in message(tmp_path / "none.yml")
    moved = write_run(tmp_path / "moved", tmp_path / "gone")
    assert "does not exist" in message(moved)
    assert "--data" in message(moved)
