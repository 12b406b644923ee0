"""A mesh whose colors the page shows as they are.

viser's page draws meshes through a curve for film ("ACES filmic", three.js), which light colors do not come out of
light. Here colors are taken backwards through it; the brightest come to within a gray level or two of white.
"""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from common_ns.viewer_preview.proxies import MeshProxy, PictureProxy

EXPOSURE = 1.0 / 0.6
"""Factor before the curve."""
INPUT = np.array([[0.59719, 0.35458, 0.04823], [0.076, 0.90834, 0.01566], [0.0284, 0.13383, 0.83777]])
OUTPUT = np.array([[1.60475, -0.53108, -0.07367], [-0.10208, 1.10813, -0.00605], [-0.00327, -0.07276, 1.07602]])
"""Colors before and after the curve, in and out of the space in which it is applied (Stephen Hill's fit of ACES)."""
BRIGHTEST = 0.995
"""Values on the curve above which there is no way back: it ends at 1.0166, where light is infinite."""


def curve(x: Float[NDArray, "*n"]) -> Float[NDArray, "*n"]:
    """The curve itself: reference rendering and output device transform."""
    return (x * (x + 0.0245786) - 0.000090537) / (x * (0.983729 * x + 0.4329510) + 0.238081)


def curve_inverse(y: Float[NDArray, "*n"]) -> Float[NDArray, "*n"]:
    """What `curve` has the value `y` at; y from 0 to `BRIGHTEST`."""
    a, b, c = 1.0 - 0.983729 * y, 0.0245786 - 0.4329510 * y, -0.000090537 - 0.238081 * y
    return (-b + np.sqrt(b * b - 4.0 * a * c)) / (2.0 * a)


def filmed(light: Float[NDArray, "*n 3"]) -> Float[NDArray, "*n 3"]:
    """What the page makes of light: linear intensities from 0 to 1 on the screen."""
    return np.clip(curve(light * EXPOSURE @ INPUT.T) @ OUTPUT.T, 0.0, 1.0)


def light_for(linear: Float[NDArray, "*n 3"]) -> Float[NDArray, "*n 3"]:
    """The light from which the page makes linear intensities; those that it cannot come out as near as may be."""
    on_curve = np.clip(linear @ np.linalg.inv(OUTPUT).T, 0.0, BRIGHTEST)
    return np.clip(curve_inverse(on_curve) @ np.linalg.inv(INPUT).T / EXPOSURE, 0.0, None)


def linear_from_srgb(color: Float[NDArray, "*n 3"]) -> Float[NDArray, "*n 3"]:
    """Linear intensities of sRGB values, both in [0, 1] (IEC 61966-2-1)."""
    return np.where(color <= 0.04045, color / 12.92, ((np.maximum(color, 0.04045) + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(light: Float[NDArray, "*n 3"]) -> Float[NDArray, "*n 3"]:
    """The other way round."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1.0 / 2.4) - 0.055)


def unlit_glb(mesh: MeshProxy | PictureProxy) -> bytes:
    """The mesh as a binary glTF file whose material knows no light (KHR_materials_unlit).

    A picture is an 8-bit image of the light over its maximum, by which the material multiplies it.

    Source: glTF 2.0, sections 3.6 to 3.9 and 4.
    """
    real, whole, vertices = 5126, 5125, np.ascontiguousarray(mesh.vertices, dtype="<f4")
    parts: list[tuple[bytes, int | None]] = [(vertices.tobytes(), 34962)]
    material: dict[str, Any] = {"doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}
    tree: dict[str, Any] = {"asset": {"version": "2.0"}, "extensionsUsed": ["KHR_materials_unlit"], "scene": 0}
    if isinstance(mesh, PictureProxy):
        light = light_for(linear_from_srgb(mesh.picture))
        most = max(float(light.max()), 1e-3)
        pixels = np.round(255.0 * srgb_from_linear(light / most)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png", compress_level=1)
        parts += [(_bytes(mesh.places), 34962), (_bytes(mesh.faces, "<u4"), 34963), (file.getvalue(), None)]
        name, kind = "TEXCOORD_0", "VEC2"
        color = {"baseColorTexture": {"index": 0}, "baseColorFactor": [most, most, most, 1.0]}
        tree["images"] = [{"bufferView": 3, "mimeType": "image/png"}]
        clamped, linear = 33071, 9729
        tree["samplers"] = [{"magFilter": linear, "minFilter": linear, "wrapS": clamped, "wrapT": clamped}]
        tree["textures"] = [{"source": 0, "sampler": 0}]
    else:
        parts += [(_bytes(light_for(linear_from_srgb(mesh.colors))), 34962), (_bytes(mesh.faces, "<u4"), 34963)]
        name, kind, color = "COLOR_0", "VEC3", {}
    views, content = [], b""
    for part, target in parts:
        view = {"buffer": 0, "byteOffset": len(content), "byteLength": len(part)}
        views.append(view if target is None else {**view, "target": target})
        content += part + bytes(-len(part) % 4)
    places = {"bufferView": 0, "componentType": real, "count": len(vertices), "type": "VEC3"}
    places |= {"min": vertices.min(axis=0).tolist(), "max": vertices.max(axis=0).tolist()}
    tree |= {
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "materials": [{"pbrMetallicRoughness": color, **material}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, name: 1}, "indices": 2, "material": 0}]}],
        "accessors": [
            places,
            {"bufferView": 1, "componentType": real, "count": len(vertices), "type": kind},
            {"bufferView": 2, "componentType": whole, "count": mesh.faces.size, "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": len(content)}],
    }
    words = json.dumps(tree, separators=(",", ":")).encode()
    words += b" " * (-len(words) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(words) + 8 + len(content))
    return (
        head + struct.pack("<I4s", len(words), b"JSON") + words + struct.pack("<I4s", len(content), b"BIN\0") + content
    )


def _bytes(numbers: NDArray, kind: str = "<f4") -> bytes:
    return np.ascontiguousarray(numbers, dtype=kind).tobytes()
