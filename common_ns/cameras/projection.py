"""Pinhole cameras as projection matrices K [R | t]: made from poses, taken apart again, and applied to points.

Pixels count from the upper left corner, so that the first one's center is at 0.5. Poses are camera-to-world matrices in
OpenGL axes; projections look along +z with y down. Pure numpy.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

AXES = np.array([1.0, -1.0, -1.0])
"""Signs that turn x right, y down, z forward (OpenCV) into x right, y up, z back (OpenGL), and back again."""


def projection_matrices(intrinsics: Float[NDArray, "n 3 3"], c2w: Float[NDArray, "n 3 4"]) -> Float[NDArray, "n 3 4"]:
    """Projections from the world to pixels: K diag(1, −1, −1) Rᵀ [I | −position].

    Args:
        intrinsics: K, intrinsics in pixels.
        c2w: camera-to-world matrices.
    """
    part = intrinsics @ (AXES[:, None] * np.swapaxes(c2w[:, :, :3], 1, 2))
    return np.concatenate([part, part @ (-1.0 * c2w[:, :, 3:])], axis=2)


def decompose_projection(matrix: Float[NDArray, "3 4"]) -> tuple[Float[NDArray, "3 3"], Float[NDArray, "3 4"]]:
    """The camera behind a projection, by RQ decomposition.

    Args:
        matrix: K [R | t] times any factor, a negative one too: a projection and its negative are the same camera.
    Returns: K, upper triangular with a positive diagonal and K₂₂ = 1, and the camera-to-world matrix.
    """
    part = matrix[:, :3] * np.sign(np.linalg.det(matrix[:, :3]))
    flip = np.eye(3)[::-1]
    q, r = np.linalg.qr((flip @ part).T)
    intrinsics, rotation = flip @ r.T @ flip, flip @ q.T
    signs = np.sign(np.diag(intrinsics))
    intrinsics, rotation = intrinsics * signs, signs[:, None] * rotation
    position = -np.linalg.solve(matrix[:, :3], matrix[:, 3])
    return intrinsics / intrinsics[2, 2], np.concatenate([rotation.T * AXES, position[:, None]], axis=1)


def project(
    matrix: Float[NDArray, "3 4"], points: Float[NDArray, "n 3"], size: tuple[int, int] | Float[NDArray, " 2"]
) -> tuple[Float[NDArray, "n 2"], Bool[NDArray, " n"]]:
    """Where points are seen.

    Args:
        matrix: projection to pixels, times a positive factor.
        points: in the world.
        size: width and height of the image in pixels.
    Returns: (x, y) in pixels, and which points are in front of the camera and within the image. Places of points that
        are not in front mean nothing, and may be infinite.
    """
    place = points @ matrix[:, :3].T + matrix[:, 3]
    ahead = place[:, 2] > 1e-9 * np.linalg.norm(matrix[2, :3])
    with np.errstate(over="ignore"):
        pixels = place[:, :2] / np.where(ahead, place[:, 2], 1.0)[:, None]
    return pixels, ahead & (pixels >= 0.0).all(axis=1) & (pixels < np.asarray(size)).all(axis=1)
