"""`ns-zoom-path`: from the whole image to a place on it, at constant relative speed, as ns-render reads it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from nerfstudio.cameras.camera_paths import get_path_from_json
from PIL import Image

from common_ns.checks import InputError
from method_configs.miner import miner_image, miner_occupancy
from miner_ns.scripts.zoom_path import ZoomPath, entrypoint


@pytest.fixture
def picture(tmp_path) -> Path:
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def run_of(folder: Path, data: Path, method=miner_image) -> Path:
    method.config.pipeline.datamanager.data = data
    try:
        (folder / "config.yml").write_text(yaml.dump(method.config))
    finally:
        method.config.pipeline.datamanager.data = None
    return folder / "config.yml"


def projected(camera, points: np.ndarray) -> np.ndarray:
    """Pixels (column, row) at which a camera sees points [n, 2] of the plane z = 0."""
    pose = camera.camera_to_worlds.numpy().astype(float)
    local = (np.concatenate([points, np.zeros((len(points), 1))], axis=1) - pose[:, 3]) @ pose[:, :3]
    x, y = local[:, 0] / -local[:, 2], local[:, 1] / local[:, 2]
    return np.stack([x * float(camera.fx) + float(camera.cx), y * float(camera.fy) + float(camera.cy)], axis=-1)


@pytest.mark.parametrize("resolution", [None, (64, 64), (100, 30)])
def test_the_zoom_begins_with_the_whole_image_and_ends_at_the_target(picture, tmp_path, resolution, capsys):
    command = ZoomPath(
        data=picture, target=(12.0, 55.0), zoom_factor=10.0, seconds=2.0, fps=10.0, resolution=resolution,
        output_path=tmp_path / "zoom.json",
    )  # fmt: skip
    content = json.loads(command.main().read_text())
    assert content["seconds"] == 2.0 and content["fps"] == 10.0 and not content["is_cycle"]
    assert (content["render_width"], content["render_height"]) == (resolution or (80, 60))
    cameras = get_path_from_json(content)
    width, height = content["render_width"], content["render_height"]
    assert len(cameras) == 20

    corners = np.array([[-1.0, 0.75], [1.0, -0.75]])
    (left, top), (right, bottom) = projected(cameras[0], corners)
    assert np.allclose([left + right, top + bottom], [width, height], atol=1e-3)
    assert min(left, top) == pytest.approx(0.0, abs=1e-3) and max(left, top) >= -1e-3

    pixel = 2.0 / 80
    target = np.array([[-1.0 + pixel * 55.5, 0.75 - pixel * 12.5]])
    assert np.allclose(projected(cameras[-1], target), [[width / 2, height / 2]], atol=1e-2)
    widths = [np.ptp(projected(camera, corners)[:, 0]) for camera in cameras]
    assert widths[-1] / widths[0] == pytest.approx(10.0, rel=1e-4)
    assert np.allclose(np.diff(np.log(widths)), np.log(10.0) / 19, atol=1e-4)
    assert "ns-render camera-path --load-config RUN/config.yml" in capsys.readouterr().out


def test_one_point_stays_and_the_others_flow_away_from_it(picture, tmp_path):
    path = ZoomPath(data=picture, target=(50.0, 70.0), seconds=1.0, output_path=tmp_path / "zoom.json").main()
    cameras = get_path_from_json(json.loads(path.read_text()))
    first, last = cameras[0], cameras[-1]
    centers = [camera.camera_to_worlds[:2, 3].numpy().astype(float) for camera in (first, last)]
    fixed = (centers[1] - centers[0] / 16.0) / (1.0 - 1.0 / 16.0)
    points = np.stack([fixed, fixed + 0.01, fixed + np.array([0.02, -0.03])])
    seen = np.stack([projected(camera, points) for camera in cameras])
    assert np.abs(seen[:, 0] - seen[0, 0]).max() < 0.05
    distance = np.linalg.norm(seen[:, 1:] - seen[:, :1], axis=-1)
    assert (np.diff(distance, axis=0) > 0).all()


def test_a_run_says_where_its_image_is(picture, tmp_path):
    config = run_of(tmp_path, picture)
    path = ZoomPath(load_config=config, seconds=0.1).main()
    assert path == tmp_path / "camera_paths" / "zoom.json"
    cameras = get_path_from_json(json.loads(path.read_text()))
    assert len(cameras) == 3 and np.allclose(cameras.camera_to_worlds[:, :2, 3], 0.0)  # to the middle
    moved = picture.rename(tmp_path / "moved.png")
    with pytest.raises(InputError, match=r"does not exist.*--data"):
        ZoomPath(load_config=config).main()
    ZoomPath(load_config=config, data=moved, seconds=0.1).main()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": None}, "neither a run nor an image"),
        ({"zoom_factor": 1.0}, "--zoom-factor is 1.0"),
        ({"zoom_factor": float("nan")}, "--zoom-factor is nan"),
        ({"seconds": 0.0}, "--seconds is 0.0"),
        ({"fps": -1.0}, "--fps is -1.0"),
        ({"resolution": (0, 10)}, "--resolution is"),
        ({"target": (60.0, 3.0)}, "row 60 and column 3 are not on the image of 60 rows and 80 columns"),
        ({"data": Path("nowhere.png")}, "does not exist"),
    ],
)
def test_wrong_options_are_named(picture, options, message):
    with pytest.raises(InputError, match=message):
        ZoomPath(**{"data": picture, **options}).main()


def test_a_run_of_a_volume_is_refused_in_one_line(picture, tmp_path, monkeypatch, capsys):
    config = run_of(tmp_path, picture, miner_occupancy)
    monkeypatch.setattr(sys, "argv", ["ns-zoom-path", "--load-config", str(config)])
    with pytest.raises(InputError, match="the run is not of an image"):
        entrypoint()
