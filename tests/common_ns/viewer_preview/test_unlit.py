"""Meshes of the preview have on the page the colors that they are given."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import trimesh

from common_ns.viewer_preview.proxies import MeshProxy, PictureProxy
from common_ns.viewer_preview.unlit import (
    curve,
    curve_inverse,
    filmed,
    light_for,
    linear_from_srgb,
    srgb_from_linear,
    unlit_glb,
)


def test_the_way_back_through_the_curve():
    y = np.linspace(0.0, 0.99, 50)
    assert np.allclose(curve(curve_inverse(y)), y, atol=1e-12)


def test_colors_survive_the_curve_for_film():
    levels = np.linspace(0.0, 1.0, 12)
    colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    shown = srgb_from_linear(filmed(light_for(linear_from_srgb(colors))))
    error = 255.0 * np.abs(shown - colors).max(axis=1)
    calm = (np.ptp(colors, axis=1) < 0.6) & (colors.max(axis=1) < 0.81)
    assert calm.sum() > 500 and error[calm].max() < 2.0, "what is not glaring is shown to two gray levels"
    white = 255.0 * srgb_from_linear(filmed(light_for(np.ones(3))))
    assert white.min() > 252.0, "white is nearly white; unchanged, it is 80 % of it"
    assert 255.0 * srgb_from_linear(filmed(np.ones(3))).max() < 235.0


def test_the_file_holds_the_mesh_and_is_read_by_others():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
    faces, colors = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1]]), np.full((4, 3), 0.5)
    content = unlit_glb(MeshProxy(vertices, faces, colors))
    read: Any = trimesh.load(io.BytesIO(content), file_type="glb", force="mesh", process=False)
    assert np.allclose(read.vertices, vertices) and (read.faces == faces).all()
    assert b"KHR_materials_unlit" in content and len(content) % 4 == 0


def test_a_picture_on_triangles_has_its_colors_but_for_rounding():
    vertices, faces = np.eye(3), np.array([[0, 1, 2]])
    places = np.array([[0.1, 0.2], [0.9, 0.2], [0.5, 0.8]])
    picture = np.random.default_rng(0).uniform(0.1, 0.4, (5, 7, 3)) + np.linspace(0.0, 0.4, 5)[:, None, None]
    content = unlit_glb(PictureProxy(vertices, faces, places, picture))
    read: Any = trimesh.load(io.BytesIO(content), file_type="glb", force="mesh", process=False)
    assert np.allclose(read.vertices, vertices) and (read.faces == faces).all()
    # trimesh counts from below.
    assert np.allclose(read.visual.uv, places * [1.0, -1.0] + [0.0, 1.0])
    words = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    factor = words["materials"][0]["pbrMetallicRoughness"]["baseColorFactor"]
    coded = np.asarray(read.visual.material.baseColorTexture.convert("RGB")) / 255.0
    shown = srgb_from_linear(filmed(linear_from_srgb(coded) * factor[:3]))
    assert 255.0 * np.abs(shown - picture).max() < 3.0
