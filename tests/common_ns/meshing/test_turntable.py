"""Pictures and films of meshes: what is drawn is the mesh, from where it was asked, and bad input is one line."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import trimesh
from PIL import Image

from common_ns.errors import InputError
from common_ns.meshing.pictures import CLAY, LIGHT, MeshPictures
from common_ns.scripts.turntable import Turntable


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A box whose +x side is red and whose other sides are blue; its faces share no vertices."""
    mesh = trimesh.creation.box((1.0, 1.0, 1.0))
    mesh = trimesh.Trimesh(mesh.triangles.reshape(-1, 3), np.arange(36).reshape(-1, 3), process=False)
    colors = np.where((mesh.face_normals[:, 0] > 0.5)[:, None], [255, 0, 0, 255], [0, 0, 255, 255])
    mesh.visual.vertex_colors = np.repeat(colors, 3, axis=0).astype(np.uint8)
    mesh.export(tmp_path / "box.ply")
    return tmp_path / "box.ply"


def test_sides_are_seen_from_where_they_are(box):
    """The azimuth turns from one axis to the next about z: each of the box's four sides faces the camera once."""
    pictures = MeshPictures(box, size=64)
    middle = [pictures.view(azimuth, 0.0)[1][32, 32] for azimuth in (0.0, 90.0, 180.0, 270.0)]
    red = [index for index, color in enumerate(middle) if color[0] > 0.9 and color[2] < 0.1]
    blue = [index for index, color in enumerate(middle) if color[2] > 0.9 and color[0] < 0.1]
    assert len(red) == 1 and len(blue) == 3
    clay, colors = pictures.view(90.0 * red[0], 0.0)
    # Head-on the light falls with the cosine of its angle to the camera, and the corners are white.
    np.testing.assert_allclose(clay[32, 32], CLAY * (0.35 + 0.65 * LIGHT[2]), atol=1e-6)
    assert (clay[0, 0] == 1.0).all() and (colors[0, 0] == 1.0).all()
    # The box is 1 wide, the picture 2 * 1.03 * sqrt(3) / 2.
    width = (colors[32] < 0.99).any(axis=-1).sum() / 64 * 2 * pictures.radius
    assert width == pytest.approx(1.0, abs=2 * 2 * pictures.radius / 64)


def test_from_above_the_top_is_seen(tmp_path):
    mesh = trimesh.creation.cone(radius=1.0, height=1.0)
    mesh.export(tmp_path / "cone.obj")
    pictures = MeshPictures(tmp_path / "cone.obj", up=(0.0, 0.0, 1.0), size=64)
    side, top = (pictures.view(0.0, elevation)[0] for elevation in (0.0, 89.0))
    # A circle fills more of the picture than a triangle.
    filled = [(picture < 0.99).any(axis=-1).mean() for picture in (side, top)]
    assert filled[1] > 1.5 * filled[0]
    assert pictures.colors is None and pictures.pair(0.0).shape == (64, 64, 3)


def test_command_writes_film_and_picture(box, tmp_path, capsys):
    Turntable(box, tmp_path / "a" / "box.mp4", frames=4, fps=4, size=64).main()
    frames = imageio_ffmpeg.read_frames(str(tmp_path / "a" / "box.mp4"))
    assert next(frames)["size"] == (128, 64)
    shown = [np.frombuffer(frame, np.uint8).reshape(64, 128, 3).astype(float) for frame in frames]
    assert len(shown) == 4 and max(np.abs(frame - shown[0]).mean() for frame in shown) > 3  # it turns
    Turntable(box, tmp_path / "box.png", frames=3, size=32).main()
    assert Image.open(tmp_path / "box.png").size == (96, 64)
    assert "3 views of 12 faces" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_path": Path("film.avi")}, "--output-path ends in '.avi'"),
        ({"frames": 0}, "--frames is 0"),
        ({"size": 33}, "--size is 33"),
        ({"fps": 0}, "--fps is 0"),
        ({"up": (0.0, 0.0, 0.0)}, "--up has no length"),
        ({"mesh": Path("missing.ply")}, "missing.ply"),
    ],
)
def test_bad_options_are_refused(options, message, box):
    with pytest.raises(InputError, match=message):
        Turntable(**{"mesh": box, **options}).main()


@pytest.mark.parametrize("text", ["", "no mesh at all", "ply\nformat ascii 1.0\nelement vertex 0\nend_header\n"])
def test_a_file_that_is_no_mesh_is_named(text, tmp_path):
    (tmp_path / "bad.ply").write_text(text)
    with pytest.raises(InputError, match=r"bad\.ply"):
        Turntable(tmp_path / "bad.ply", tmp_path / "bad.png").main()
