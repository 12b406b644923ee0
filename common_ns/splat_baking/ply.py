"""Gaussians as a PLY file in the layout of 3D Gaussian Splatting, which public splat viewers open.

All numbers are float32, little endian, a row for each Gaussian: x y z, nx ny nz (the direction of the shortest axis),
f_dc_0…2 and f_rest_… (coefficients of the color's harmonics: those of red, then of green, then of blue), opacity (its
logit), scale_0…2 (logarithms), rot_0…3 (quaternion w, x, y, z). Source: the files of arXiv 2308.04079.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from common_ns.data.files import require_file, written_whole
from common_ns.errors import InputError
from common_ns.splat_baking.gaussians import Gaussians
from common_ns.splats.covariance import shortest_axes
from common_ns.splats.harmonics import count

LEAST = 1e-6
"""Distance of opacities from 0 and 1, whose logits are infinite."""
MOST_HEADER = 1 << 16
"""Bytes after which a header must have ended."""
_TYPES = {"float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8", "uchar": "u1", "uint8": "u1"}
_TYPES |= {"char": "i1", "int8": "i1", "short": "<i2", "int16": "<i2", "ushort": "<u2", "uint16": "<u2"}
_TYPES |= {"int": "<i4", "int32": "<i4", "uint": "<u4", "uint32": "<u4"}


def _names(coefficients: int) -> list[str]:
    """The columns of a file, in order."""
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3))]
    names += [f"f_rest_{i}" for i in range(3 * (coefficients - 1))]
    return [*names, "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]


def save_ply(gaussians: Gaussians, path: Path) -> Path:
    """Write Gaussians, whole or not at all.

    Args:
        gaussians: to write.
        path: of the file; its folder is made if need be.
    Raises: InputError if it cannot be written.
    """
    each = gaussians.to("cpu")
    normals = shortest_axes(each.quats, each.scales)
    # Channels outermost, as the files have it.
    rest = each.coefficients[:, 1:].transpose(1, 2).flatten(1)
    opacity = torch.logit(each.opacities.clamp(LEAST, 1.0 - LEAST))[:, None]
    columns = [each.means, normals, each.coefficients[:, 0], rest, opacity, each.scales.log(), each.quats]
    rows = torch.cat(columns, dim=1).detach().numpy().astype("<f4")
    names = _names(each.coefficients.shape[1])
    assert rows.shape[1] == len(names)
    properties = "".join(f"property float {name}\n" for name in names)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n{properties}end_header\n"
    with written_whole(path) as partial, partial.open("wb") as file:
        file.write(header.encode("ascii"))
        file.write(rows.tobytes())
    return path


def read_ply(path: Path | str) -> Gaussians:
    """Read Gaussians of any degree, with further columns in any order.

    Raises: InputError if the file is not such a PLY.
    """
    path = require_file(path, "file of Gaussians")
    content = path.read_bytes()
    table = _table(content, path)
    names = table.dtype.names or ()
    number = sum(bool(re.fullmatch(r"f_rest_\d+", name)) for name in names)
    coefficients = 1 + number // 3
    missing = [name for name in _names(coefficients) if name not in names and not re.fullmatch("n[xyz]", name)]
    if missing or number % 3 or coefficients not in [count(degree) for degree in range(4)]:
        problem = f"it lacks {missing[0]}" if missing else f"it has {number} columns f_rest_…, and not 0, 9, 24 or 45"
        raise InputError(f"the PLY holds no Gaussians ({problem})", "Give one of 3D Gaussian Splatting's layout", path)

    def columns(*wanted: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([table[name].astype(np.float32) for name in wanted], axis=1))

    rest = torch.zeros(len(table), 0, 3)
    if number:
        rest = columns(*(f"f_rest_{i}" for i in range(number))).unflatten(1, (3, -1)).transpose(1, 2)
    return Gaussians(
        means=columns("x", "y", "z"),
        quats=torch.nn.functional.normalize(columns("rot_0", "rot_1", "rot_2", "rot_3"), dim=-1),
        scales=columns("scale_0", "scale_1", "scale_2").exp(),
        opacities=columns("opacity")[:, 0].sigmoid(),
        coefficients=torch.cat([columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None], rest], dim=1),
    )


def _table(content: bytes, path: Path) -> NDArray:
    """The rows of the element "vertex", which must come first, as a structured array."""
    end = content.find(b"end_header\n", 0, MOST_HEADER)
    remedy = "Give a binary little-endian PLY of Gaussians"
    lines = content[: max(end, 0)].decode("ascii", "replace").split("\n")
    if end < 0 or lines[:2] != ["ply", "format binary_little_endian 1.0"]:
        raise InputError("is not a binary little-endian PLY", remedy, path)
    lines = [line.split() for line in lines[2:] if line and not line.startswith(("comment", "obj_info"))]
    if not lines or lines[0][:2] != ["element", "vertex"] or len(lines[0]) != 3 or not lines[0][2].isdecimal():
        raise InputError("the PLY does not begin with vertices", remedy, path)
    stop = next((i for i, line in enumerate(lines[1:], 1) if line[0] == "element"), len(lines))
    columns = lines[1:stop]
    if not columns or any(len(line) != 3 or line[0] != "property" or line[1] not in _TYPES for line in columns):
        raise InputError("the PLY's vertices have lists, or properties of an unknown type", remedy, path)
    kind, number = np.dtype([(name, _TYPES[type_]) for _, type_, name in columns]), int(lines[0][2])
    start = end + len(b"end_header\n")
    if len(content) < start + number * kind.itemsize:
        raise InputError("the PLY is cut off", "Write or copy it again", path)
    return np.frombuffer(content, kind, number, start)
