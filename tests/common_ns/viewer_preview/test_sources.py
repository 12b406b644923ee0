"""Proxies of surfaces, images and Gaussians."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from scipy.spatial.transform import Rotation

from common_ns.meshing.iso_field import IsoField
from common_ns.viewer_preview.gaussians import GaussianSource
from common_ns.viewer_preview.proxies import MeshProxy, PictureProxy, PointProxy, SplatProxy, Tile, TileProxy
from common_ns.viewer_preview.scene import ProxyNode
from common_ns.viewer_preview.source import Rung
from common_ns.viewer_preview.surfaces import SurfaceSource
from common_ns.viewer_preview.tiles import MOST, SIDE, TileSource
from tests.common_ns.viewer_preview.test_rays import Ball, look


def ball_field(radius: float, colored: bool) -> IsoField:
    return IsoField(
        value=lambda points: points.norm(dim=-1) - radius,
        level=0.0,
        inside_above=False,
        aabb=torch.tensor([[-1.5] * 3, [1.5] * 3]),
        color=(lambda points, normals: 0.5 + 0.4 * points) if colored else None,
    )


def test_a_surface_is_a_mesh_that_makes_place_for_the_last_picture():
    model = Ball()
    source = SurfaceSource(model, lambda: ball_field(1.0, colored=True))
    assert source.proxy(source.rungs[1]) == ()
    assert not source.work() and source.version == 1
    (mesh,) = source.proxy(source.rungs[1])
    assert isinstance(mesh, MeshProxy)
    assert np.allclose(np.linalg.norm(mesh.vertices, axis=1), 1.0, atol=0.01)
    assert np.allclose(mesh.colors, 0.5 + 0.4 * mesh.vertices, atol=0.01)
    look(source, model, (3.0, 0.0, 0.0))
    picture, rest = source.proxy(source.rungs[1])
    assert isinstance(picture, PictureProxy) and isinstance(rest, MeshProxy)
    assert picture.vertices[:, 0].min() > 0.2
    places = rest.vertices[rest.faces].mean(axis=1)[:, 0]
    assert places.max() < 0.95, "in the middle they would shimmer through each other"
    assert ((places > 0.3) & (places < 0.5)).any(), "at the rim the picture is torn"


def test_a_mesh_that_is_as_good_needs_no_picture():
    model = Ball()
    source = SurfaceSource(model, lambda: ball_field(1.0, colored=True), with_picture=False)
    source.work()
    look(source, model, (3.0, 0.0, 0.0))
    (mesh,) = source.proxy(source.rungs[1])
    assert isinstance(mesh, MeshProxy) and mesh.vertices[mesh.faces].mean(axis=1)[:, 0].max() > 0.97


def test_a_surface_without_colors_is_shaded_as_from_where_it_was_seen():
    model = Ball()
    source = SurfaceSource(
        model, lambda: ball_field(1.0, colored=False), lambda normals, towards: -(normals * towards).sum(1)[:, None]
    )
    source.work()
    look(source, model, (0.0, 3.5, 0.0))
    rest = source._rest(None, source.rungs[0]), source._rest(source._view, source.rungs[0])
    assert isinstance(rest[0], MeshProxy) and isinstance(rest[1], MeshProxy)
    towards = rest[1].vertices - (0.0, 3.5, 0.0)
    facing = -(rest[1].vertices * towards).sum(axis=1) / np.linalg.norm(towards, axis=1)
    assert np.allclose(rest[1].colors[:, 0], facing, atol=0.06)


def test_no_surface_yet_is_no_failure():
    source = SurfaceSource(Ball(), lambda: ball_field(-1.0, colored=True))
    assert not source.work() and source.version == 0 and source.proxy(source.rungs[0]) == ()


def test_meshes_take_the_time_that_they_may(monkeypatch):
    """Twice the cells take twice the time, until a second is reached."""
    from common_ns.viewer_preview import surfaces

    now, asked = [0.0], []

    def extract(field: Any, resolution: int, **_: Any) -> Any:
        asked.append(resolution)
        now[0] += resolution**3 / 500_000
        return SimpleNamespace(vertices=np.zeros((3, 3)), faces=np.zeros((1, 3), int), normals=None, colors=None)

    monkeypatch.setattr(surfaces, "extract_mesh", extract)
    monkeypatch.setattr(surfaces.time, "perf_counter", lambda: now[0])
    source = SurfaceSource(Ball(), lambda: ball_field(1.0, colored=True))
    for _ in range(8):
        source.work()
    assert asked[-1] ** 3 / 500_000 == pytest.approx(surfaces.MESH_SECONDS, rel=0.05)


class Slide:
    """A model of an image in the plane z = 0, 3 wide and 2 high, whose color is its place."""

    device, training = torch.device("cpu"), True

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool) -> None:
        self.training = mode

    def get_outputs_for_camera(self, camera: Cameras) -> dict[str, torch.Tensor]:
        assert not self.training
        rays = camera.generate_rays(camera_indices=0)
        points = rays.origins - rays.directions * rays.origins[..., 2:] / rays.directions[..., 2:]
        x, y = points[..., 0] / 3.0 + 0.5, points[..., 1] / 2.0 + 0.5
        return {"rgb": torch.stack([x, y, torch.zeros_like(x)], dim=-1)}


@pytest.mark.parametrize("pixels", [(60, 40), (1500, 1000), (90000, 60000)])
def test_tiles_are_the_image_without_seams(pixels, monkeypatch):
    model = Slide()
    source = TileSource(model, (3.0, 2.0), pixels)
    more = 0
    while source.work():
        assert source.version == 0, "no half of an image is shown"
        more += 1
        assert more < MOST**2
    (proxy,) = source.proxy(source.rungs[0])
    assert isinstance(proxy, TileProxy) and len(proxy.tiles) == more + 1 and model.training
    area = 0.0
    for tile in proxy.tiles:
        height, width = tile.picture.shape[:2]
        assert max(height, width) <= SIDE
        for row, column in ((0, 0), (height - 1, width - 1), (height // 2, 0)):
            place = tile.center + tile.right * ((column + 0.5) / width - 0.5) - tile.up * ((row + 0.5) / height - 0.5)
            wanted = 255.0 * (place[:2] / (3.0, 2.0) + 0.5)
            assert np.abs(tile.picture[row, column, :2] - wanted).max() < 1.0
        area += float(np.linalg.norm(tile.right) * np.linalg.norm(tile.up))
    assert area == pytest.approx(6.0)


class Splats:
    """A model of Gaussians, as far as the preview needs one."""

    device = torch.device("cpu")

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.means = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
        self.quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1)
        scales = 0.02 + 0.05 * torch.rand(count, 3, generator=generator)
        self.smoothed = (scales, 0.2 + 0.7 * torch.rand(count, generator=generator))
        self.colors = 0.5 + 0.4 * self.means
        self.background_color = torch.tensor([0.0, 0.0, 1.0])
        self.ray_bounds = SimpleNamespace(bounded=True)


def test_gaussians_are_the_models_own():
    model = Splats(300)
    source = GaussianSource(model)
    source.work()
    (splats,) = source.proxy(Rung("splats", 1000))
    assert isinstance(splats, SplatProxy) and len(splats.means) == 300
    order = np.array([np.linalg.norm(model.means.numpy() - mean, axis=1).argmin() for mean in splats.means])
    turns = Rotation.from_quat(model.quats.numpy()[order][:, [1, 2, 3, 0]]).as_matrix()
    wanted = turns @ (np.square(model.smoothed[0].numpy()[order])[:, :, None] * turns.transpose(0, 2, 1))
    assert np.allclose(splats.covariances, wanted, atol=1e-7)
    assert np.allclose(source.background, (0.0, 0.0, 1.0))
    (few,) = source.proxy(Rung("splats", 50))
    assert isinstance(few, SplatProxy)
    same = [int(np.linalg.norm(splats.means - mean, axis=1).argmin()) for mean in few.means]
    factor = few.covariances[:, 0, 0] / splats.covariances[same, 0, 0]
    assert same == list(range(50)) and np.ptp(factor) < 1e-9 and factor[0] > 2.0, "the largest, grown alike"


def test_pictures_of_gaussians_may_have_ray_distance():
    """Of a sphere about the camera all pixels have the same."""
    model = Splats(10)
    source = GaussianSource(model, depth_along_axis=False)
    camera = Cameras(torch.eye(4)[:3][None], 20.0, 20.0, 15.0, 10.0, width=30, height=20)
    ones = torch.ones(20, 30, 1)
    source.saw(camera, {"rgb": ones.expand(20, 30, 3), "depth": 2.0 * ones, "accumulation": ones})
    (mesh,) = source.proxy(Rung("points", 5, 10000))
    assert isinstance(mesh, PictureProxy) and np.allclose(np.linalg.norm(mesh.vertices, axis=1), 2.0, atol=1e-5)


def test_pictures_of_gaussians_have_depth_along_the_axis():
    """Of a plane before the camera all pixels have the same."""
    model = Splats(10)
    source = GaussianSource(model)
    pose = torch.eye(4)[:3]
    camera = Cameras(pose[None], 20.0, 20.0, 15.0, 10.0, width=30, height=20)
    ones = torch.ones(20, 30, 1)
    source.saw(camera, {"rgb": ones.expand(20, 30, 3), "depth": 2.0 * ones, "accumulation": ones})
    (mesh,) = source.proxy(Rung("points", 5, 10000))
    assert isinstance(mesh, PictureProxy) and np.allclose(mesh.vertices[:, 2], -2.0, atol=1e-5)
    source.work()
    assert np.allclose(source.background, 1.0), "gaps show what the picture shows, not the model's own background"


class Scene:
    """viser's scene, which keeps what it is given."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}

    def _keep(self, name: str, *arguments: Any, **options: Any) -> Any:
        def remove() -> None:
            for each in [each for each in self.nodes if each.startswith(name)]:
                del self.nodes[each]

        self.nodes[name] = SimpleNamespace(arguments=arguments, remove=remove, **options)
        return self.nodes[name]

    add_frame = add_point_cloud = add_glb = add_image = _add_gaussian_splats = _keep

    def set_background_image(self, picture: np.ndarray, format: str) -> None:
        self.background = picture


def test_the_scene_gets_all_layers_in_the_viewers_units_and_loses_those_before():
    scene = Scene()
    node = ProxyNode(scene, 10.0)
    points = PointProxy(np.ones((4, 3)), np.full((4, 3), 0.5), np.array([0.1, 0.1, 0.8, 0.8]))
    mesh = MeshProxy(np.eye(3), np.array([[0, 1, 2]]), np.full((3, 3), 0.5))
    node.put((mesh, mesh, points), visible=False)
    assert not scene.nodes["/preview"].visible
    meshes = [node for node in scene.nodes.values() if getattr(node, "scale", None) == 10.0]
    assert len(meshes) == 2, "none takes the place of another"
    sizes = [value.point_size for name, value in scene.nodes.items() if "points" in name]
    assert len(sizes) == 2 and min(sizes) == pytest.approx(1.0, rel=0.42)
    node.show(np.array([[[1.0, 0.0, 2.0]]]))
    assert scene.nodes["/preview"].visible and scene.background.tolist() == [[[255, 0, 255]]]
    picture = np.zeros((2, 3, 3), dtype=np.uint8)
    node.put((TileProxy((Tile(picture, np.ones(3), np.array([3.0, 0, 0]), np.array([0, 2.0, 0])),)),), visible=True)
    tile = scene.nodes["/preview/0/tile0"]
    assert set(scene.nodes) == {"/preview", "/preview/0/tile0"}
    assert (tile.render_width, tile.render_height) == (30.0, 20.0) and np.allclose(tile.position, 10.0)
    assert np.allclose(Rotation.from_quat(np.roll(tile.wxyz, -1)).as_matrix(), np.diag([1.0, -1.0, -1.0]))
