"""The check of what dataparsers return: lenses and positions, against what is known of them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.scene_box import SceneBox

from common_ns.data.gate import check_outputs, check_positions, distorted, folded_share
from common_ns.errors import InputError
from tests.conftest import look_at_pose


def outputs(count: int = 6, **changes) -> DataparserOutputs:
    poses = torch.tensor(np.array([look_at_pose(angle) for angle in np.linspace(0, 6, count)])).reshape(-1, 4, 4)[:, :3]
    fields = {
        "fx": 100.0,
        "fy": 100.0,
        "cx": 50.0,
        "cy": 40.0,
        "width": 100,
        "height": 80,
        "camera_to_worlds": poses.float(),
    }
    others = {name: changes.pop(name) for name in ("mask_filenames", "metadata") if name in changes}
    return DataparserOutputs(
        image_filenames=[f"{index:02d}.png" for index in range(count)],
        cameras=Cameras(**{**fields, **changes}),
        scene_box=SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3])),
        **others,
    )


def column(count: int, index: int, usual: float, odd: float) -> torch.Tensor:
    values = torch.full((count, 1), usual)
    values[index] = odd
    return values


def test_nothing_is_said_of_what_is_right():
    assert check_outputs(outputs(), "data") == []
    assert check_outputs(outputs(count=1), "data") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fx": column(6, 2, 100.0, float("inf"))}, r"^data: fx of 02\.png is inf\. "),
        (
            {"fy": column(6, 2, 100.0, -3.0)},
            r"^data: fy of 02\.png is -3\. It must be the focal length in pixels",
        ),
        ({"cx": column(6, 4, 50.0, 151.0)}, r"^data: cx of 04\.png is 151, and the image 100 pixels"),
        ({"fx": 3.0}, r"^data: the angle of view of 00\.png is 173\.\d° \(fx 3, width 100 pixels\)"),
        ({"mask_filenames": ["a.png"]}, r"has 6 images and 1 masks"),
        ({"metadata": {"depth_filenames": ["a.png"] * 5}}, r"has 6 images and 5 depth files"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        check_outputs(outputs(**changes), "data")


def test_a_split_without_images():
    with pytest.raises(InputError, match="the split 'test' has no images"):
        check_outputs(outputs(count=0), "data", "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cx": 80.0}, r"far from the middle: cx is 80 in an image of 100 pixels \(00\.png and 5 others\)"),
        ({"fy": 170.0}, "pixels are not square"),
        ({"fx": 15.0, "fy": 15.0}, r"The angle of view of 00\.png is 146"),
        ({"fx": 2e4, "fy": 2e4}, r"The angle of view of 00\.png is 0\.28"),
    ],
)
def test_what_is_unusual_is_said(changes, message):
    warnings = check_outputs(outputs(**changes), "data")
    assert len(warnings) == 1 and re.search(message, warnings[0]), warnings


def lens(**values: float) -> torch.Tensor:
    return torch.tensor([values.get(name, 0.0) for name in ("k1", "k2", "k3", "k4", "p1", "p2")], dtype=torch.float64)


def test_distortion_is_opencvs():
    cv2 = pytest.importorskip("cv2")
    points = torch.tensor(np.random.default_rng(0).uniform(-0.6, 0.6, (50, 2)))
    k1, k2, p1, p2, k3 = 0.1, -0.05, 0.01, -0.02, 0.03
    homogeneous = np.concatenate([points.numpy(), np.ones((50, 1))], axis=1)
    seen, _ = cv2.projectPoints(homogeneous, np.zeros(3), np.zeros(3), np.eye(3), np.array([k1, k2, p1, p2, k3]))
    ours = distorted(points, lens(k1=k1, k2=k2, k3=k3, p1=p1, p2=p2))
    assert np.allclose(ours.numpy(), seen[:, 0], atol=1e-12)


def test_a_picture_is_folded_beyond_the_turning_point():
    """r (1 + k r²) with k < 0 turns back at r = 1/√(−3k), where it is 2/3 r: nothing is seen beyond."""
    for k1, focal in ((-0.1, 100.0), (-0.5, 60.0), (-1.0, 100.0), (-3.0, 100.0)):
        turning = 2.0 / 3.0 / np.sqrt(-3.0 * k1)
        x, y = np.meshgrid((np.linspace(0, 100, 15) - 50) / focal, (np.linspace(0, 80, 15) - 40) / focal)
        expected = float((np.hypot(x, y) > turning).mean())
        found = folded_share(focal, focal, 50, 40, 100, 80, lens(k1=k1), fisheye=False)
        assert found == pytest.approx(expected, abs=0.03), (k1, focal)
    assert folded_share(60, 60, 50, 40, 100, 80, lens(k1=0.3, k2=0.1), fisheye=False) == 0.0


def test_one_camera_far_away():
    rng = np.random.default_rng(0)
    where = rng.normal(size=(20, 3))
    names = [f"{index}.png" for index in range(20)]
    assert list(check_positions(where, names, "data")) == []
    where[7] = (200.0, 0.0, 0.0)
    (warning,) = check_positions(where, names, "data")
    assert "1 cameras stand far from the others" in warning and "7.png (" in warning
    where[7] = (1e7, 0.0, 0.0)
    with pytest.raises(InputError, match=r"the position of 7\.png is .* times as far from the middle as the others'"):
        list(check_positions(where, names, "data"))
