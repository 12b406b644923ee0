"""What is shown of a radiance field while the camera moves: its last picture, and what other rays have met."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle

from common_ns.cameras.geometry import normalize
from common_ns.viewer_preview import rays as rays_module
from common_ns.viewer_preview.proxies import PictureProxy, PointProxy, SplatProxy
from common_ns.viewer_preview.rays import HIDDEN, RaySource, less_where_hidden
from common_ns.viewer_preview.source import Rung

SIDE = 40


def posed(position: tuple[float, float, float]) -> torch.Tensor:
    """Of a camera that looks at the origin, OpenGL axes."""
    back = normalize(position)
    right = normalize(np.cross((0.0, 0.0, 1.0), back))
    return torch.from_numpy(np.stack([right, np.cross(back, right), back, np.array(position)], axis=1)).float()


def cameras(*positions: tuple[float, float, float]) -> Cameras:
    poses = torch.stack([posed(each) for each in positions])
    return Cameras(poses, fx=50.0, fy=50.0, cx=0.5 * SIDE, cy=0.5 * SIDE, width=SIDE, height=SIDE)


class Ball:
    """A model of a ball of radius 1 at the origin before white, whose color is its normal's."""

    device, training = torch.device("cpu"), True

    def __init__(self) -> None:
        self.ray_bounds = SimpleNamespace(bounded=True)
        self.metadata = {"camera_to_worlds": cameras((3.0, 0.0, 0.0), (0.0, 3.0, 0.0)).camera_to_worlds}
        self.states: list[bool] = []

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool) -> None:
        self.training = mode

    def __call__(self, rays: RayBundle) -> dict[str, torch.Tensor]:
        self.states.append(self.training)
        half = (rays.origins * rays.directions).sum(-1, keepdim=True)
        under = half**2 - (rays.origins.square().sum(-1, keepdim=True) - 1.0)
        hit = under > 0
        depth = torch.where(hit, -half - under.clamp_min(0.0).sqrt(), 10.0)
        color = 0.5 + 0.4 * (rays.origins + depth * rays.directions)
        return {"rgb": torch.where(hit, color, 1.0), "depth": depth, "accumulation": hit.float()}


def source_of(model: Any) -> RaySource:
    source = RaySource(model)
    views = cameras((3.0, 0.0, 0.0), (0.0, 3.0, 0.0), (-3.0, 0.0, 1.0))
    source.attach(SimpleNamespace(datamanager=SimpleNamespace(train_dataset=SimpleNamespace(cameras=views))))
    return source


def look(source: RaySource, model: Ball, position: tuple[float, float, float]) -> Cameras:
    camera = cameras(position)
    rays = camera.generate_rays(camera_indices=0)
    flat = model(rays.flatten())
    source.saw(camera, {name: value.reshape(SIDE, SIDE, -1) for name, value in flat.items()})
    return camera


def right_colors(points: np.ndarray) -> np.ndarray:
    return 0.5 + 0.4 * points


def test_points_are_where_rays_meet_something_and_have_its_color():
    model = Ball()
    source, random = source_of(model), torch.get_rng_state()
    assert source.version == 0 and source.proxy(Rung("points", 100)) == ()
    for _ in range(3):
        source.work()
    assert torch.equal(torch.get_rng_state(), random), "training would draw other numbers"
    assert model.states == [False] * 3 and model.training, "rendered as for evaluation, then as it was"
    (points,) = source.proxy(Rung("points", 500))
    assert isinstance(points, PointProxy) and len(points.points) == 500 and source.version == 3
    assert np.allclose(np.linalg.norm(points.points, axis=1), 1.0, atol=1e-4)
    assert np.allclose(points.colors, right_colors(points.points), atol=1e-4)
    assert np.allclose(source.background, 1.0), "what is behind is what rays show that meet nothing"
    (splats,) = source.proxy(Rung("splats", 500))
    assert isinstance(splats, SplatProxy) and np.allclose(splats.means, points.points)


def test_discs_cover_the_surface():
    model = Ball()
    source = source_of(model)
    for _ in range(3):
        source.work()
    (points,) = source.proxy(Rung("points", 1500))
    assert isinstance(points, PointProxy)
    # Of the ball that cameras have seen, how much lies within a disc.
    towards = normalize(np.random.default_rng(0).standard_normal((2000, 3)) * 0.3 + (1.0, 1.0, 0.0))
    near = np.linalg.norm(towards[:, None] - points.points, axis=-1) <= points.radii
    assert near.any(axis=1).mean() > 0.9
    assert np.median(points.radii) < 0.15, "and they are not simply large"


def test_the_last_picture_is_a_mesh_through_its_pixels():
    model = Ball()
    source = source_of(model)
    camera = look(source, model, (3.0, 0.0, 0.0))
    (mesh,) = source.proxy(Rung("points", 500, SIDE * SIDE))
    assert isinstance(mesh, PictureProxy)
    assert np.allclose(np.linalg.norm(mesh.vertices, axis=1), 1.0, atol=1e-4)
    column, row = (mesh.places * SIDE).astype(int).T
    assert np.allclose(mesh.picture[row, column], right_colors(mesh.vertices), atol=1e-4)
    # Seen from there, each vertex is in the middle of a pixel.
    pose = camera.camera_to_worlds[0].double().numpy()
    local = (mesh.vertices - pose[:, 3]) @ pose[:, :3]
    pixels = 50.0 * local[:, :2] / np.negative(local[:, 2:]) + 0.5 * SIDE
    assert np.allclose(pixels % 1.0, 0.5, atol=1e-2)
    coarse = source.proxy(Rung("points", 500, 200))[0]
    assert isinstance(coarse, PictureProxy) and 50 < len(coarse.vertices) <= 200 < len(mesh.vertices)
    assert np.array_equal(coarse.picture, mesh.picture), "it has the colors of all pixels even so"


def test_points_fill_in_what_the_picture_does_not_show_and_nothing_else():
    model = Ball()
    source = source_of(model)
    for _ in range(4):
        source.work()
    look(source, model, (3.0, 0.0, 0.0))
    _, points = source.proxy(Rung("points", 1000, SIDE * SIDE))
    assert isinstance(points, PointProxy) and len(points.points) > 100
    assert points.points[:, 0].max() < 0.55, "the side that it shows, but for its rim"
    assert points.points[:, 0].min() < -0.8


def test_discs_that_the_picture_hides_are_small():
    model = Ball()
    source = source_of(model)
    look(source, model, (3.0, 0.0, 0.0))
    assert source._view is not None
    hidden, beside, behind_the_camera = (-1.0, 0.0, 0.0), (0.0, 5.0, 0.0), (6.0, 0.0, 0.0)
    radii = less_where_hidden(np.ones(3), np.array([hidden, beside, behind_the_camera]), source._view)
    assert radii.tolist() == [HIDDEN, 1.0, 1.0]


def area(mesh: PictureProxy) -> float:
    """Of all triangles, as a fraction of the picture."""
    first, second = (mesh.places[mesh.faces[:, corner]] - mesh.places[mesh.faces[:, 0]] for corner in (1, 2))
    return float(0.5 * np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]).sum())


def test_a_mesh_is_torn_where_depth_jumps_and_not_where_it_is_far():
    model = Ball()
    model.ray_bounds = SimpleNamespace(bounded=False)  # what is behind is shown too, on a far shell
    source = source_of(model)
    look(source, model, (3.0, 0.0, 0.0))
    mesh = source.proxy(Rung("points", 10, SIDE * SIDE))[0]
    assert isinstance(mesh, PictureProxy)
    distance = np.linalg.norm(mesh.vertices - np.array([3.0, 0.0, 0.0]), axis=1)[mesh.faces]
    assert distance.max() > 20.0 and (distance.max(axis=1) < 1.3 * distance.min(axis=1)).all()
    # A sky whose depth is not known.
    view = source._view
    assert view is not None
    noise = np.random.default_rng(0).uniform(1.0, 3.0, view.depth.shape)
    sky = replace(view, depth=np.where(view.depth > 20.0, view.depth * noise, view.depth)).mesh(SIDE * SIDE)
    assert sky is not None and area(sky) == pytest.approx(area(mesh), rel=0.01)


def test_behind_everything_is_what_the_last_picture_shows_roughly_or_what_is_empty():
    model = Ball()
    source = source_of(model)
    look(source, model, (3.0, 0.0, 0.0))
    assert source.background.shape == (1, 1, 3) and np.allclose(source.background, 1.0)
    model.ray_bounds = SimpleNamespace(bounded=False)
    look(source, model, (3.0, 0.0, 0.0))
    assert source._view is not None
    colors = source._view.seen.colors.reshape(SIDE, SIDE, 3)
    wanted = [[colors[i : i + 5, j : j + 5].mean(axis=(0, 1)) for j in range(0, SIDE, 5)] for i in range(0, SIDE, 5)]
    assert np.allclose(source.background, wanted)


def test_old_points_make_place_for_new_ones(monkeypatch):
    monkeypatch.setattr(rays_module, "CAPACITY", 2000)
    model = Ball()
    source = source_of(model)
    more = [source.work() for _ in range(12)]
    assert more[0] and not more[-1], "it becomes complete"
    kept = sum(len(part) for part in source._parts)
    assert 2000 <= kept <= 2000 + max(len(part) for part in source._parts)


@pytest.mark.parametrize("missing", ["depth", "accumulation"])
def test_pictures_without_depth_are_left_out(missing):
    model = Ball()
    source = source_of(model)
    camera = cameras((3.0, 0.0, 0.0))
    outputs = {name: torch.zeros(SIDE, SIDE, 1) for name in ("rgb", "depth", "accumulation") if name != missing}
    source.saw(camera, outputs)
    assert source.version == 0
