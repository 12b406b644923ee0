"""One field's surface with another's colors: which points and features the color network reads, and the command."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nerfstudio.data.scene_box import SceneBox

import common_ns.scripts.mesh
from common_ns.camera_geometry import look_at
from common_ns.camera_path import camera_path_json
from common_ns.checks import InputError
from common_ns.hash_grid import HashGridOptions
from hashnffb_sdf_ns.encodings import EncodingConfig, make_encoding
from hashnffb_sdf_ns.idr_model import IdrModelConfig
from hashnffb_sdf_ns.model import SdfFieldConfig
from hashnffb_sdf_ns.scripts.swap_appearance import SwapAppearance, read_camera_path
from hashnffb_sdf_ns.sdf_field import NetworkOptions, SdfField
from hashnffb_sdf_ns.swapped_field import SwappedField, onto_surface

GRID = HashGridOptions(num_levels=3, log2_table_size=9, base_resolution=4, max_resolution=12)


def field(seed: int, feature_dim: int = 4, center=(0.0, 0.0, 0.0), radius: float = 1.0, **options) -> SdfField:
    torch.manual_seed(seed)
    sizes = NetworkOptions(hidden_dim=32, feature_dim=feature_dim, color_hidden_dim=16, **options)
    found = SdfField(make_encoding("hash", EncodingConfig(hash=GRID)), sizes, center, radius, num_images=2)
    with torch.no_grad():
        for table in found.encoding.tables():
            table.uniform_(-0.05, 0.05)
        for layer in found.network.layers:
            layer.weight += 0.02 * torch.randn_like(layer.weight)  # type: ignore[operator]
    return found.eval()


def surface_points(of: SdfField, count: int = 64) -> torch.Tensor:
    directions = torch.nn.functional.normalize(
        torch.randn(count, 3, generator=torch.Generator().manual_seed(5)), dim=-1
    )
    return onto_surface(of, of.center + 0.5 * of.radius * directions, steps=30)


def colors(of: SdfField | SwappedField, points: torch.Tensor) -> torch.Tensor:
    geometry = of.geometry(points)
    normals = torch.nn.functional.normalize(geometry.gradient, dim=-1)
    codes = of.codes_of(None, len(points))
    return of.color(points, of.encode_directions(-points), normals, geometry.features, codes)


def test_points_are_brought_onto_the_surface_nearby():
    of = field(0, center=(0.3, 0.0, -0.2), radius=2.0)
    around = of.center + 2.0 * torch.nn.functional.normalize(torch.randn(200, 3), dim=-1) * torch.rand(200, 1)
    found = onto_surface(of, around, steps=30)
    assert float(of.sdf(found).abs().quantile(0.95)) < 1e-3
    assert float((found - of.center).norm(dim=-1).max()) <= 2.0 + 1e-5
    on_it = surface_points(of)
    assert torch.allclose(onto_surface(of, on_it), on_it, atol=1e-4)


@pytest.mark.parametrize("features", ["appearance", "geometry"])
def test_a_field_swapped_with_itself_keeps_its_colors(features):
    of = field(0, appearance_dim=2)
    points = surface_points(of)
    assert torch.allclose(colors(SwappedField(of, of, features), points), colors(of, points), atol=1e-3)


def test_the_surface_is_the_first_fields_and_the_colors_are_the_seconds():
    shown, painted = field(0), field(1)
    points = surface_points(shown)
    swapped = SwappedField(shown, painted)
    assert torch.equal(swapped.sdf(points), shown.sdf(points))
    assert torch.equal(swapped.forward_geonetwork(points), shown.forward_geonetwork(points))
    normals = torch.nn.functional.normalize(shown.geometry(points).gradient, dim=-1)
    near = onto_surface(painted, points)
    features = painted.forward_geonetwork(near)[:, 1:]
    expected = painted.color(near, painted.encode_directions(-points), normals, features)
    assert torch.allclose(colors(swapped, points), expected, atol=1e-6)
    assert not torch.allclose(colors(swapped, points), colors(shown, points), atol=1e-2)
    # Published code's way: features of the shown surface, where it is.
    plain = painted.color(points, painted.encode_directions(-points), normals, shown.geometry(points).features)
    assert torch.allclose(colors(SwappedField(shown, painted, "geometry"), points), plain, atol=1e-6)


def test_the_scenes_spheres_are_laid_onto_each_other():
    """The same field in another place and size gives the colors that it gives here."""
    small, large = field(0), field(0, center=(2.0, -1.0, 0.5), radius=3.0)
    points = surface_points(small)
    normals = torch.nn.functional.normalize(small.geometry(points).gradient, dim=-1)
    seen_along = small.encode_directions(-points)
    here = small.color(points, seen_along, normals, small.geometry(points).features)
    there = SwappedField(small, large).color(points, seen_along, normals, torch.zeros(len(points), 4))
    assert torch.allclose(here, there, atol=1e-3)


def test_features_that_do_not_fit_are_refused_where_they_are_read():
    with pytest.raises(InputError, match="4 features, and the color network reads 6"):
        SwappedField(field(0), field(1, feature_dim=6), "geometry")
    swapped = SwappedField(field(0), field(1, feature_dim=6), "appearance")
    assert torch.isfinite(colors(swapped, surface_points(field(0)))).all()


def model(seed: int, feature_dim: int = 4):
    torch.manual_seed(seed)
    options = SdfFieldConfig(
        hidden_dim=32, feature_dim=feature_dim, color_hidden_dim=16, options=EncodingConfig(hash=GRID)
    )
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    config = IdrModelConfig(sdf_field=options)
    return config.setup(scene_box=box, num_train_data=2, metadata={"has_masks": True}).eval()


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs, without what ns-train would write, and a camera path."""
    found = {name: model(seed) for seed, name in enumerate(("a", "b"))} | {"wide": model(2, 6), "other": object()}

    def load(load_config):
        return SimpleNamespace(model=found[load_config.parent.name], device="cpu", datamanager=None)

    monkeypatch.setattr(common_ns.scripts.mesh, "load_pipeline", load)
    places = np.array([[2.5, 0.0, 0.8], [1.3, 2.1, 0.8]])
    poses = look_at(places, np.zeros(3), np.array([0.0, 0.0, 1.0]))
    path = tmp_path / "path.json"
    path.write_text(json.dumps(camera_path_json(poses, 40.0, 32, 24, seconds=1.0)))
    return tmp_path, path


def command(runs, first: str = "a", second: str = "b", **options) -> SwapAppearance:
    folder, path = runs
    files = {"geometry": folder / first / "config.yml", "appearance": folder / second / "config.yml"}
    output = folder / "out" / "frames.mp4"
    return SwapAppearance(**files, **{"camera_path": path, "output_path": output, **options})


def test_frames_show_the_swapped_field(runs):
    from PIL import Image

    folder = command(runs, output_format="images", rendered_output_names=("rgb", "normals")).main()
    frames = sorted(folder.iterdir())
    assert [frame.name for frame in frames] == ["00000.png", "00001.png"]
    assert Image.open(frames[0]).size == (64, 24)


def test_a_video_is_written(runs):
    assert command(runs).main().stat().st_size > 500


def test_what_cannot_be_is_said(runs, tmp_path):
    with pytest.raises(InputError, match="color network reads 6"):
        command(runs, "a", "wide", features="geometry").main()
    with pytest.raises(InputError, match="no distance field"):
        command(runs, "a", "other").main()
    with pytest.raises(InputError, match="does not exist"):
        command(runs, camera_path=tmp_path / "none.json").main()
    with pytest.raises(InputError, match="downscale-factor"):
        command(runs, downscale_factor=0.0).main()
    with pytest.raises(InputError, match="mp4"):
        command(runs, output_path=tmp_path / "a.png").main()


@pytest.mark.parametrize("content", ["{}", '{"camera_path": [], "render_width": 4, "render_height": 4, "seconds": 1}'])
def test_a_file_that_is_no_camera_path_is_named(tmp_path, content):
    file = tmp_path / "path.json"
    file.write_text(content)
    with pytest.raises(InputError, match=r"path\.json"):
        read_camera_path(file)


def test_a_damaged_frame_is_named(tmp_path):
    file = tmp_path / "path.json"
    frames = {"camera_path": [{"fov": 40}], "render_width": 4, "render_height": 4, "seconds": 1}
    file.write_text(json.dumps(frames))
    with pytest.raises(InputError, match="camera_to_world"):
        read_camera_path(file)
