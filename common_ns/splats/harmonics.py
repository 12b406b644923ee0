"""Real spherical harmonics up to degree 3, in the order and with the signs of 3D Gaussian Splatting's files.

Within a degree l the orders go from −l to l, and odd orders have the Condon-Shortley sign. Source: 3D Gaussian
Splatting (arXiv 2308.04079), section 4; P.-P. Sloan, Efficient Spherical Harmonic Evaluation, JCGT 2 (2), 2013.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

MAX_DEGREE = 3

C0 = math.sqrt(1 / (4 * math.pi))
C1 = math.sqrt(3 / (4 * math.pi))
C2 = (math.sqrt(15 / (4 * math.pi)), math.sqrt(5 / (16 * math.pi)), math.sqrt(15 / (16 * math.pi)))
"""Of degree 2: orders ±1 and −2, order 0, order 2."""
C3 = (
    math.sqrt(35 / (32 * math.pi)),
    math.sqrt(105 / (4 * math.pi)),
    math.sqrt(21 / (32 * math.pi)),
    math.sqrt(7 / (16 * math.pi)),
    math.sqrt(105 / (16 * math.pi)),
)
"""Of degree 3: orders ±3, order −2, orders ±1, order 0, order 2."""


def count(degree: int) -> int:
    """Number of harmonics up to a degree."""
    return (degree + 1) ** 2


def degree_of(number: int) -> int:
    """The degree up to which a number of coefficients goes.

    Raises: ValueError unless the number is 1, 4, 9 or 16.
    """
    degree = math.isqrt(number) - 1
    if not 0 <= degree <= MAX_DEGREE or count(degree) != number:
        raise ValueError(f"Colors have {number} coefficients, and up to a degree there are 1, 4, 9 or 16.")
    return degree


def basis(directions: Float[Tensor, "*n 3"], degree: int) -> Float[Tensor, "*n k"]:
    """All harmonics up to a degree.

    Args:
        directions: unit vectors.
        degree: 0 to 3.
    """
    x, y, z = directions.unbind(-1)
    found = [torch.full_like(x, C0)]
    if degree > 0:
        found += [-C1 * y, C1 * z, -C1 * x]
    if degree > 1:
        found += [C2[0] * x * y, -C2[0] * y * z, C2[1] * (3 * z * z - 1), -C2[0] * x * z, C2[2] * (x * x - y * y)]
    if degree > 2:
        found += [
            -C3[0] * y * (3 * x * x - y * y),
            C3[1] * x * y * z,
            -C3[2] * y * (5 * z * z - 1),
            C3[3] * z * (5 * z * z - 3),
            -C3[2] * x * (5 * z * z - 1),
            C3[4] * z * (x * x - y * y),
            -C3[0] * x * (x * x - 3 * y * y),
        ]
    return torch.stack(found, -1)


def colors(
    directions: Float[Tensor, "*n 3"], coefficients: Float[Tensor, "*n k 3"], degree: int
) -> Float[Tensor, "*n 3"]:
    """Colors as seen along directions: the harmonics' sum and ½, not below 0. They may exceed 1.

    Args:
        directions: from the camera to the Gaussian, in the world, of any length.
        coefficients: at least those up to the degree; further ones are not used.
        degree: 0 to 3.
    """
    weights = basis(normalize(directions, dim=-1), degree)
    return ((weights[..., None] * coefficients[..., : count(degree), :]).sum(-2) + 0.5).clamp(min=0)
