"""The viewer's first view of a sphere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common_ns.camera_geometry import look_at
from common_ns.first_view import MARGIN, ViewOfSphere

CENTER = np.array([0.3, -0.2, 0.5])


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.4])
def test_the_sphere_just_fits_into_the_picture(aspect):
    view = ViewOfSphere(tuple(CENTER), 0.7).view(1.1, aspect)
    pose = look_at(view.position[None], view.target, view.up)[0]
    points = np.random.default_rng(0).normal(size=(20000, 3))
    points = CENTER + 0.7 * points / np.linalg.norm(points, axis=1, keepdims=True)
    local = (points - pose[:, 3]) @ pose[:, :3]
    assert (local[:, 2] < 0).all()
    share = np.abs(local[:, :2] / -local[:, 2:]) / (math.tan(0.55) * np.array([aspect, 1.0]))
    assert 0.9 / MARGIN < share.max() <= 1.0


def test_it_is_seen_as_the_photograph_in_the_middle_has_it():
    around = np.array([[3.0, y, 1.0] for y in (-2.0, -1.0, 0.1, 1.0, 2.0)])
    poses = look_at(CENTER + around, CENTER, np.array([0.0, 0.0, 1.0]))
    found = ViewOfSphere(tuple(CENTER), 0.7, poses).view(1.0, 1.5)
    away = found.position - CENTER
    assert np.allclose(away / np.linalg.norm(away), around[2] / np.linalg.norm(around[2]))
    assert np.allclose(found.up, poses[2, :, 1]) and np.allclose(found.target, CENTER)


def test_cameras_at_the_centre_do_not_matter():
    poses = np.concatenate([np.eye(3), CENTER[:, None]], axis=1)[None]
    found = ViewOfSphere(tuple(CENTER), 0.7, poses).view(1.0, 1.5)
    plain = ViewOfSphere(tuple(CENTER), 0.7).view(1.0, 1.5)
    assert np.allclose(found.position, plain.position) and np.isfinite(found.position).all()
