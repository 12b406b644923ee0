"""Gaussians as an .spz file: about a seventh of a PLY's size, which many public splat viewers open.

The file is one gzip stream: a header of 16 bytes (magic, version 3, number, degree of the harmonics, fractional bits of
positions, flags, 0), then of all Gaussians the positions (24-bit fixed point), opacities, constant colors, logarithms
of scales, rotations (the three smallest components of a quaternion, 10 bits each, and which is the largest) and the
other coefficients, a byte a number, of which those of degree 1 keep six bits and the others five, which is what makes
them small. Axes are right, up, back, where a PLY's are right, down, forward, so that a scene is turned by half a turn
about x. Source of these facts: the format's description, github.com/nianticlabs/spz.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from common_ns.data.files import written_whole
from common_ns.errors import InputError
from common_ns.splat_baking.gaussians import Gaussians
from common_ns.splats.harmonics import degree_of

MAGIC, VERSION, ANTIALIASED = 0x5053474E, 3, 1
COLOR_SCALE = 0.15
MOST_FRACTIONAL_BITS = 18
"""More would tell apart what is nearer than 4 millionths of a scene unit."""
HALF_TURN = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]])


def save_spz(gaussians: Gaussians, path: Path, antialiased: bool) -> Path:
    """Write Gaussians, whole or not at all.

    Args:
        gaussians: to write.
        path: of the file; its folder is made if need be.
        antialiased: viewers are told to draw Gaussians below a pixel's size fainter.
    Raises: InputError if it cannot be written, or places are not finite or beyond ±8,388,607.
    """
    each = gaussians.to("cpu").transformed(HALF_TURN)
    coefficients = each.coefficients.detach().numpy().astype(np.float64)
    means = each.means.detach().numpy().astype(np.float64)
    bits = _fractional_bits(means, path)
    degree = degree_of(coefficients.shape[1])
    header = struct.pack("<IIIBBBB", MAGIC, VERSION, len(means), degree, bits, ANTIALIASED * antialiased, 0)
    parts = [
        _fixed_point(means, bits),
        _byte(255.0 * each.opacities.detach().numpy()),
        _byte(255.0 * (COLOR_SCALE * coefficients[:, 0] + 0.5)),
        _byte(16.0 * (each.scales.log().detach().numpy() + 10.0)),
        _smallest_three(torch.nn.functional.normalize(each.quats.double(), dim=-1).detach().numpy()),
        *([_stepped(coefficients[:, 1:])] if degree else []),
    ]
    content = b"".join([header, *(part.tobytes() for part in parts)])
    with written_whole(path) as partial:
        partial.write_bytes(gzip.compress(content, compresslevel=6, mtime=0))  # the time would change the bytes
    return path


def _fractional_bits(means: NDArray, path: Path) -> int:
    """As many as leave room for the farthest of the means before the point."""
    farthest = float(np.abs(means).max(initial=1e-3))
    bits = 23 - math.ceil(math.log2(farthest * (1 + 1e-6))) if math.isfinite(farthest) else -1
    if bits < 0:
        problem = f"a Gaussian is {farthest:g} from the origin, too far for .spz"
        raise InputError(problem, "Write a .ply, or leave out --world-coordinates", path)
    return min(bits, MOST_FRACTIONAL_BITS)


def _byte(values: NDArray) -> NDArray[np.uint8]:
    """The nearest whole number of 0 to 255."""
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _fixed_point(means: NDArray, bits: int) -> NDArray[np.uint8]:
    """Three bytes a coordinate, the lowest first."""
    whole = np.clip(np.round(means * 2**bits), -(2**23), 2**23 - 1).astype("<i4")
    return whole[..., None].view(np.uint8)[..., :3]


def _smallest_three(quats: NDArray) -> NDArray:
    """Each quaternion w x y z in 32 bits: from the top which of x y z w is the largest, then sign and size of the
    others in that order. The largest is made positive."""
    components = np.roll(quats, -1, axis=1)
    largest = np.abs(components).argmax(axis=1)
    components = components * np.where(np.take_along_axis(components, largest[:, None], 1) < 0, -1.0, 1.0)
    packed = np.zeros(len(quats), dtype=np.uint32)
    for axis in range(4):
        value = components[:, axis]
        size = np.clip(np.round(511 * math.sqrt(2) * np.abs(value)), 0, 511).astype(np.uint32)
        packed = np.where(largest == axis, packed, packed << 10 | (value < 0).astype(np.uint32) << 9 | size)
    return (packed | largest.astype(np.uint32) << 30).astype("<u4")


def _stepped(coefficients: NDArray) -> NDArray[np.uint8]:
    """Bytes of which those of degree 1 are multiples of 4 and the others of 8. The format's authors take twice as much:
    that cost a capture 0.4 dB and this 0.1 dB, with files of an eighth and a seventh of the PLY's size."""
    steps = np.where(np.arange(coefficients.shape[1]) < 3, 4, 8)[:, None]
    return _byte(steps * np.round(128.0 * (coefficients + 1.0) / steps))
