"""Colors that follow the view: which cameras see a point, and harmonics fitted to what they see of it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common_ns.splats.harmonics import C0, basis

RIDGE = 0.01
"""Weight of squared coefficients, beside the mean squared error of the colors; of the constant none."""
CELLS = 48
"""Side of the grid of cells over each picture by which hidden points are told."""
BEHIND = 1.1
"""Depth as a multiple of the least in a cell above which a point is hidden."""


def visible(
    points: Float[Tensor, "n 3"], viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], size: tuple[int, int]
) -> Bool[Tensor, "n"]:
    """Which points a pinhole camera sees: within the picture, and not much behind others of the same cell of it.

    Args:
        points: that together cover the surfaces.
        viewmat: world to camera, which looks along +z.
        K: intrinsics in pixels.
        size: width and height.
    """
    local = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    depth = local[:, 2]
    pixels = (local @ K.T)[:, :2] / depth.clamp_min(1e-9)[:, None]
    place = (pixels / pixels.new_tensor(size) * CELLS).floor()
    inside = (depth > 1e-9) & (place >= 0).all(dim=-1) & (place < CELLS).all(dim=-1)
    cell = (place[:, 1] * CELLS + place[:, 0]).long()[inside]
    nearest = torch.full((CELLS * CELLS,), torch.inf).to(points).scatter_reduce(0, cell, depth[inside], "amin")
    seen = torch.zeros_like(inside)
    seen[inside] = depth[inside] < BEHIND * nearest[cell]
    return seen


class Choice:
    """For each point some of the cameras that see it, drawn evenly while cameras pass one by one (reservoir sampling).

    Args:
        count: of points.
        size: most cameras of a point.
        generator: of random numbers, on the CPU.
    """

    def __init__(self, count: int, size: int, generator: torch.Generator) -> None:
        self.chosen: Int[Tensor, "n size"] = torch.full((count, size), -1)
        """Cameras; −1 where fewer see the point."""
        self._passed = torch.zeros(count, dtype=torch.long)
        self._generator = generator

    def offer(self, camera: int, seen: Bool[Tensor, "n"]) -> None:
        """Let a camera pass that sees some of the points."""
        rows = torch.nonzero(seen)[:, 0]
        self._passed[rows] += 1
        size = self.chosen.shape[1]
        random = torch.rand(len(rows), generator=self._generator, dtype=torch.float64)
        place = torch.where(
            self._passed[rows] <= size, self._passed[rows] - 1, (random * self._passed[rows]).floor().long()
        )
        kept = place < size
        self.chosen[rows[kept], place[kept]] = camera


def fitted_coefficients(
    directions: Float[Tensor, "n v 3"],
    colors: Float[Tensor, "n v 3"],
    weights: Float[Tensor, "n v"],
    degree: int,
    ridge: float = RIDGE,
) -> Float[Tensor, "n k 3"]:
    """Coefficients of harmonics by ridge regression: the least Σ w |Y(d) c + ½ − color|² / Σ w + ridge |c without c₀|².

    With few or similar directions the constant takes nearly all, and with none the coefficients are those of gray.

    Args:
        directions: unit vectors from the camera to the point.
        colors: in [0, 1], as seen along them.
        weights: of the views, 0 or more.
        degree: 0 to 3.
        ridge: weight of the squared coefficients above degree 0.
    """
    share = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
    rows = basis(directions, degree)
    number = rows.shape[-1]
    penalty = torch.full((number,), ridge).to(rows)
    penalty[0] = 1e-6 * C0**2
    normal = torch.einsum("nvi,nv,nvj->nij", rows, share, rows) + torch.diag(penalty)
    right = torch.einsum("nvi,nv,nvc->nic", rows, share, colors - 0.5)
    return torch.linalg.solve(normal, right)
