"""Directions that cover the sphere evenly: vertices of a subdivided icosahedron, one of each antipodal pair."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

BasisName = Literal["icosahedron-21", "icosahedron-6", "axes"]


def basis_directions(name: BasisName) -> Float[Tensor, "3 k"]:
    """Unit vectors as columns.

    Args:
        name: "icosahedron-21": vertices and edge midpoints of an icosahedron, as mip-NeRF 360 encodes along;
            "icosahedron-6": its vertices only, a quarter of the features; "axes": x, y and z, as mip-NeRF.
    Source: mip-NeRF 360, section 2 and supplement ("off-axis positional encoding").
    """
    if name == "axes":
        return torch.eye(3)
    golden = (1.0 + math.sqrt(5.0)) / 2.0
    corners = [
        (0.0, sign, other * golden) for sign, other in itertools.product((-1.0, 1.0), repeat=2)
    ]  # a golden rectangle in the yz plane; the other eight corners are its cyclic permutations
    vertices = torch.tensor(
        [corner[shift:] + corner[:shift] for shift in range(3) for corner in corners], dtype=torch.float64
    )
    points = vertices
    if name == "icosahedron-21":
        first, second = torch.triu_indices(12, 12, 1)
        edges = (vertices[first] - vertices[second]).norm(dim=-1) < 2.0 + 1e-6  # an edge has length 2
        points = torch.cat([vertices, (vertices[first] + vertices[second])[edges]])
    points = torch.nn.functional.normalize(points, dim=-1)
    opposite = points @ points.T < -1.0 + 1e-9
    first_of_pair = opposite.int().argmax(-1) > torch.arange(len(points))
    return points[first_of_pair].T.float().contiguous()
