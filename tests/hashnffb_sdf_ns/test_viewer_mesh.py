"""The mesh in the viewer's scene: where the surface is, in its colors, made and taken away by buttons."""

from __future__ import annotations

import io
import json
import socket
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
import viser
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerElement

from common_ns.hash_grid import HashGridOptions
from common_ns.meshing.iso_field import IsoField
from common_ns.meshing.mesh_io import Mesh
from hashnffb_sdf_ns.base_model import SdfFieldConfig, SurfaceModel
from hashnffb_sdf_ns.encodings import EncodingConfig
from hashnffb_sdf_ns.neus_model import NeusModelConfig
from hashnffb_sdf_ns.viewer_mesh import MeshSnapshot, glb_of, linear_from_srgb

CENTER = torch.tensor([0.2, 0.0, -0.1])


def ball(radius: float) -> IsoField:
    """A ball, red above its middle and blue below."""

    def color(points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        above = (points[:, 2:] > CENTER[2]).float()
        return torch.cat([above, torch.zeros_like(above), 1.0 - above], dim=-1)

    def value(points: torch.Tensor) -> torch.Tensor:
        return (points - CENTER).norm(dim=-1) - radius

    box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    return IsoField(value=value, level=0.0, inside_above=False, aabb=box, color=color)


def surface_model() -> SurfaceModel:
    torch.manual_seed(0)
    grid = HashGridOptions(num_levels=3, log2_table_size=10, base_resolution=4, max_resolution=16)
    field = SdfFieldConfig(options=EncodingConfig(hash=grid), hidden_dim=16, feature_dim=4, color_hidden_dim=16)
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    return NeusModelConfig(sdf_field=field).setup(scene_box=box, num_train_data=3, metadata={"has_masks": True})


@pytest.fixture
def server():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = viser.ViserServer(host="127.0.0.1", port=port, verbose=False)
    yield server
    server.stop()


@pytest.fixture
def sent(server, monkeypatch) -> list[dict[str, Any]]:
    """What is put into the scene, as (name, bytes, scale)."""
    nodes: list[dict[str, Any]] = []
    original = server.scene.add_glb

    def recording(name: str, glb_data: bytes, **options: Any) -> Any:
        nodes.append({"name": name, "data": glb_data, **options})
        return original(name, glb_data, **options)

    monkeypatch.setattr(server.scene, "add_glb", recording)
    return nodes


def loaded(data: bytes) -> trimesh.Trimesh:
    mesh = trimesh.load(io.BytesIO(data), file_type="glb", force="mesh")
    assert isinstance(mesh, trimesh.Trimesh)
    return mesh


def test_the_button_shows_the_present_surface_and_a_second_one_hides_it(server, sent, monkeypatch):
    radius = [0.5]
    button = MeshSnapshot(lambda: ball(radius[0]), resolution=32)
    button.install(server)
    hide = button._hide_button
    assert not hide.visible
    button.cb_hook(button)
    assert hide.visible and not button.gui_handle.disabled
    assert sent[0]["scale"] == 10.0  # of nerfstudio's viewer
    mesh = loaded(sent[0]["data"])
    distance = np.linalg.norm(mesh.vertices - CENTER.numpy(), axis=1)
    assert np.abs(distance - 0.5).max() < 1e-3
    assert mesh.is_watertight and mesh.volume > 0

    radius[0] = 0.7
    button.cb_hook(button)
    assert [node["name"] for node in sent] == ["/surface", "/surface"]  # the second in place of the first
    distance = np.linalg.norm(loaded(sent[1]["data"]).vertices - CENTER.numpy(), axis=1)
    assert np.abs(distance - 0.7).max() < 1e-3
    removed: list[str] = []
    monkeypatch.setattr(type(button._shown), "remove", lambda handle: removed.append(handle._impl.name))
    hide._impl.update_cb[0](SimpleNamespace())
    assert removed == ["/surface"] and not hide.visible
    hide._impl.update_cb[0](SimpleNamespace())  # of another browser, a moment later
    assert removed == ["/surface"]


def test_the_slider_decides_how_fine_the_mesh_is(server, sent):
    button = MeshSnapshot(lambda: ball(0.5), resolution=32)
    button.install(server)
    button.cb_hook(button)
    button._slider.value = 64
    button.cb_hook(button)
    coarse, fine = (len(loaded(node["data"]).faces) for node in sent)
    assert 3.5 < fine / coarse < 4.5


def test_where_there_is_no_surface_the_browser_is_told_and_nothing_is_shown(server, sent, monkeypatch):
    told: list[str] = []
    client = SimpleNamespace(add_notification=lambda title, body, **_: told.append(f"{title}: {body}"))
    monkeypatch.setattr(server, "get_clients", lambda: {0: client})
    button = MeshSnapshot(lambda: ball(-1.0))
    button.install(server)
    button.cb_hook(button)
    assert not sent and not button._hide_button.visible and not button.gui_handle.disabled
    assert len(told) == 1 and told[0].startswith("No mesh: ")


def test_a_surface_model_has_the_button_and_showing_its_mesh_leaves_training_alone(server, sent):
    model = surface_model().train()
    found = parse_object(model, ViewerElement, "model")
    names = ["Show all", "Show mesh", "Real-time preview", "Depth colors", "SDF slice: axis", "SDF slice: height"]
    assert [element.name for _, element in found] == names
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    model.mesh_snapshot.resolution = 32
    model.mesh_snapshot.install(server)
    model.mesh_snapshot.cb_hook(model.mesh_snapshot)
    vertices = torch.from_numpy(loaded(sent[0]["data"]).vertices).float()
    assert float(model.field.sdf(vertices).abs().max()) < 1e-2  # in the model's coordinates; the scale is nerfstudio's
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_without_a_viewer_the_button_does_nothing():
    def never() -> IsoField:
        raise AssertionError("the field is asked for")

    button = MeshSnapshot(never)
    button.cb_hook(button)


def test_the_file_is_matte_and_has_linear_colors():
    corners = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    colors = np.array([[0.0, 0.5, 1.0]] * 3)
    data = glb_of(Mesh(corners, np.array([[0, 1, 2]]), np.tile([0.0, 0.0, 1.0], (3, 1)), colors))
    length = int.from_bytes(data[12:16], "little")
    tree, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    (material,) = tree["materials"]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0.0 and material["doubleSided"]
    (primitive,) = tree["meshes"][0]["primitives"]
    assert primitive["material"] == 0 and "NORMAL" in primitive["attributes"]
    place = tree["bufferViews"][tree["accessors"][primitive["attributes"]["COLOR_0"]]["bufferView"]]
    stored = np.frombuffer(binary, np.uint8, 3, place["byteOffset"])
    assert np.abs(stored.astype(int) - [0, 55, 255]).max() <= 1


def test_srgb_becomes_linear():
    srgb = np.array([0.0, 0.02, 0.04045, 0.5, 1.0])
    assert np.allclose(linear_from_srgb(srgb), [0.0, 0.02 / 12.92, 0.0031308, 0.21404, 1.0], atol=1e-5)
