"""Gaussians as one value, and what moves them into other coordinates or gives their colors another exposure."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from common_ns.splats.harmonics import C0, basis, count, degree_of


@dataclass(frozen=True)
class Gaussians:
    """What `common_ns.splats.rasterize` draws."""

    means: Float[Tensor, "n 3"]
    """In scene units."""
    quats: Float[Tensor, "n 4"]
    """Rotations as unit quaternions w, x, y, z."""
    scales: Float[Tensor, "n 3"]
    """Standard deviations along the axes, in scene units."""
    opacities: Float[Tensor, "n"]
    """0 to 1."""
    coefficients: Float[Tensor, "n k 3"]
    """Of the color's spherical harmonics, in the order of `common_ns.splats.harmonics`."""

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, kept: Bool[Tensor, "n"]) -> Gaussians:
        return Gaussians(**{each.name: getattr(self, each.name)[kept] for each in fields(self)})

    def to(self, device: torch.device | str) -> Gaussians:
        """The same on another device."""
        return Gaussians(**{each.name: getattr(self, each.name).to(device) for each in fields(self)})

    def transformed(self, matrix: Float[NDArray, "3 4"]) -> Gaussians:
        """The Gaussians under the map x ↦ A x + b, given as [A | b]: colors turn with them.

        Args:
            matrix: A is a rotation times a positive factor.
        Raises: ValueError if A is anything else.
        """
        linear = np.asarray(matrix[:, :3], dtype=np.float64)
        factor = float(np.cbrt(np.linalg.det(linear)))
        if factor <= 0 or not np.allclose(linear @ linear.T, factor**2 * np.eye(3), atol=1e-5 * factor**2):
            raise ValueError("Gaussians are moved by rotations and scaling only; the matrix mirrors or shears.")
        moved = torch.from_numpy(linear), torch.from_numpy(np.asarray(matrix[:, 3], dtype=np.float64))
        rotation = moved[0] / factor
        means = self.means.double().cpu() @ moved[0].T + moved[1]
        quats = multiplied(quaternion_of(rotation), self.quats.double().cpu())
        turned = turned_coefficients(self.coefficients.double().cpu(), rotation)
        kind, device = self.means.dtype, self.means.device
        return Gaussians(
            means.to(device, kind),
            quats.to(device, kind),
            self.scales * factor,
            self.opacities,
            turned.to(device, kind),
        )

    def exposed(self, affine: Float[Tensor, "3 4"]) -> Gaussians:
        """The Gaussians with all colors c replaced by A c + b, given as [A | b]; exact where colors are above 0."""
        coefficients = exposed_coefficients(self.coefficients, affine)
        return Gaussians(self.means, self.quats, self.scales, self.opacities, coefficients)


def exposed_coefficients(coefficients: Float[Tensor, "n k 3"], affine: Float[Tensor, "3 4"]) -> Float[Tensor, "n k 3"]:
    """Coefficients of harmonics with all colors c replaced by A c + b, given as [A | b]."""
    linear, shift = affine[:, :3], affine[:, 3]
    changed = coefficients @ linear.T
    # Harmonics give a color less ½.
    changed[:, 0] += (linear.sum(dim=1) * 0.5 + shift - 0.5) / C0
    return changed


def multiplied(left: Float[Tensor, "*n 4"], right: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """The quaternion of the rotation `right` followed by `left`; both w, x, y, z."""
    a, u = left[..., :1], left[..., 1:]
    b, v = right[..., :1], right[..., 1:]
    u, v = torch.broadcast_tensors(u, v)
    real = a * b - (u * v).sum(-1, keepdim=True)
    return torch.cat([real, a * v + b * u + torch.linalg.cross(u, v)], dim=-1)


def quaternion_of(rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "4"]:
    """The unit quaternion w, x, y, z of a rotation matrix."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation.double().cpu().numpy()).as_quat()
    return torch.tensor([w, x, y, z], dtype=rotation.dtype)


def facing(normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 4"]:
    """Quaternions w, x, y, z of the shortest rotations that take the z axis to unit vectors."""
    x, y, z = normals.unbind(-1)
    # Half way between both axes; opposite ones are turned about x.
    quats = torch.stack([1.0 + z, -y, x, torch.zeros_like(z)], dim=-1)
    opposite = torch.tensor([0.0, 1.0, 0.0, 0.0]).to(normals)
    quats = torch.where((1.0 + z < 1e-6)[:, None], opposite, quats)
    return torch.nn.functional.normalize(quats, dim=-1)


def turned_coefficients(coefficients: Float[Tensor, "n k 3"], rotation: Float[Tensor, "3 3"]) -> Tensor:
    """Coefficients of the same colors in turned coordinates: what was seen along d is seen along R d.

    Harmonics of a degree turn among themselves. Their matrix is found from more directions than there are harmonics:
    of the function f(Rᵀ d), from values that these determine exactly.
    """
    degree = degree_of(coefficients.shape[1])
    directions = np.random.default_rng(0).standard_normal((64, 3))
    seen = torch.from_numpy(directions / np.linalg.norm(directions, axis=1, keepdims=True)).to(rotation)
    before, after = basis(seen @ rotation, degree), basis(seen, degree)
    result = coefficients.clone()
    for order in range(1, degree + 1):
        part = slice(count(order - 1), count(order))
        matrix = torch.linalg.lstsq(after[:, part], before[:, part]).solution
        result[:, part] = matrix @ coefficients[:, part]
    return result
