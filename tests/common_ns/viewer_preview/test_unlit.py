"""Meshes of the preview have on the page the colors that they are given."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import trimesh

from common_ns.viewer_preview.proxies import MeshProxy
from common_ns.viewer_preview.unlit import curve, curve_inverse, filmed, light_for, linear_from_srgb, unlit_glb


def srgb_of(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_the_way_back_through_the_curve():
    y = np.linspace(0.0, 0.99, 50)
    assert np.allclose(curve(curve_inverse(y)), y, atol=1e-12)


def test_colors_survive_the_curve_for_film():
    levels = np.linspace(0.0, 1.0, 12)
    colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    shown = srgb_of(filmed(light_for(linear_from_srgb(colors))))
    error = 255.0 * np.abs(shown - colors).max(axis=1)
    calm = (np.ptp(colors, axis=1) < 0.6) & (colors.max(axis=1) < 0.81)
    assert calm.sum() > 500 and error[calm].max() < 2.0, "what is not glaring is shown to two gray levels"
    white = 255.0 * srgb_of(filmed(light_for(np.ones(3))))
    assert white.min() > 252.0, "white is nearly white; unchanged, it is 80 % of it"
    assert 255.0 * srgb_of(filmed(np.ones(3))).max() < 235.0


def test_the_file_holds_the_mesh_and_is_read_by_others():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
    faces, colors = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1]]), np.full((4, 3), 0.5)
    content = unlit_glb(MeshProxy(vertices, faces, colors))
    read: Any = trimesh.load(io.BytesIO(content), file_type="glb", force="mesh", process=False)
    assert np.allclose(read.vertices, vertices) and (read.faces == faces).all()
    assert b"KHR_materials_unlit" in content and len(content) % 4 == 0
