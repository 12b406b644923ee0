"""Arithmetic on arrays of vectors that are stored component first, [3, n].

Each component is contiguous, which keeps numpy's loops long: several times as fast as [n, 3].
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray


def dot(a: Float[ndarray, "3 *n"], b: Float[ndarray, "3 *n"]) -> Float[ndarray, "*n"]:
    """Inner product over the leading axis; written out because numpy's reduction over 3 rows is slower."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def norm(a: Float[ndarray, "3 *n"]) -> Float[ndarray, "*n"]:
    """Euclidean length over the leading axis."""
    return np.sqrt(dot(a, a))


def product(matrix: Float[ndarray, "k 3"], v: Float[ndarray, "3 n"]) -> Float[ndarray, "k n"]:
    """matrix @ v, without BLAS: its threads would compete with those that render."""
    out = matrix[:, :1] * v[0]
    out += matrix[:, 1:2] * v[1]
    out += matrix[:, 2:] * v[2]
    return out


def take(v: Float[ndarray, "3 n"], at: Int[ndarray, "m"]) -> Float[ndarray, "3 m"]:
    """Columns of v; several times as fast as v[:, at]."""
    return v.take(at, axis=1)


def put(v: Float[ndarray, "c n"], at: Int[ndarray, "m"], values: Float[ndarray, "c m"]) -> None:
    """Set columns of v; several times as fast as v[:, at] = values."""
    for row, value in zip(v, values):
        row[at] = value


def planar(x: Float[ndarray, "*n"], y: Float[ndarray, "*n"]) -> Float[ndarray, "*n"]:
    """√(x² + y²); np.hypot guards against overflow, which takes ten times as long."""
    return np.sqrt(x * x + y * y)


def rotation_to(axis: tuple[float, float, float], spin: float = 0.0) -> Float[ndarray, "3 3"]:
    """Rotation whose third column is `axis`, turned by `spin` radians about it."""
    z = np.asarray(axis, dtype=np.float64)
    z = z / np.linalg.norm(z)
    helper = np.array([1.0, 0.0, 0.0]) if abs(z[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    x = np.cross(helper, z)
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    c, s = np.cos(spin), np.sin(spin)
    return np.stack([c * x + s * y, c * y - s * x, z], axis=1)
