"""Small scenes of Gaussians, and all that can be asked of their pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common_ns.splats import Rendering, rasterize

GAUSSIANS = ("means", "quats", "scales", "opacities", "coefficients")
PICTURES = ("color", "accumulation", "depth", "normals")
"""Those with derivatives."""


def camera(width: int = 45, height: int = 37, focal: float = 40.0) -> dict[str, Any]:
    """A camera 3 units before the origin, turned a little, whose optical axis is beside the picture's center."""
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, 0.1, -0.2], [-0.1, 0.0, 0.15], [0.2, -0.15, 0.0]]))
    viewmat = torch.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = turn, torch.tensor([0.1, -0.2, 3.0])
    K = torch.tensor([[focal, 0, 0.48 * width], [0, 1.05 * focal, 0.51 * height], [0, 0, 1]])
    return {"viewmat": viewmat, "K": K, "width": width, "height": height}


def cloud(count: int = 80, size: float = 0.12, seed: int = 0, degree: int = 3) -> dict[str, Tensor]:
    """Ellipsoids of all forms around the origin: some reach out of the picture, few are before the camera."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "means": normal(count, 3),
        "quats": normal(count, 4) * 2,
        "scales": torch.exp(0.8 * normal(count, 3)) * size,
        "opacities": torch.rand(count, generator=generator),
        "coefficients": 0.4 * normal(count, (degree + 1) ** 2, 3),
    }


def draw(
    scene: dict[str, Tensor], view: dict[str, Any], implementation: Any, dtype: torch.dtype, **options: Any
) -> tuple[Rendering, dict[str, Tensor]]:
    """A picture, and the derivatives of a random sum of all in it with respect to whatever there is."""
    leaves = {name: value.to(dtype, copy=True).requires_grad_() for name, value in scene.items()}
    pose = view["viewmat"].to(dtype, copy=True).requires_grad_()
    background = torch.tensor([0.2, 0.5, 0.9], dtype=dtype).requires_grad_()
    given = {**view, "viewmat": pose, "K": view["K"].to(dtype), "background": background, **options}
    found = rasterize(**leaves, **given, implementation=implementation)
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=dtype)
    for name in PICTURES:
        picture = getattr(found, name)
        if picture is not None:
            total = total + (picture * torch.randn(picture.shape, generator=generator).to(dtype)).sum()
    if not total.requires_grad:
        return found, {}
    found.info["means2d"].retain_grad()
    total.backward()
    derivatives = {**leaves, "viewmat": pose, "background": background, "means2d": found.info["means2d"]}
    return found, {name: value.grad for name, value in derivatives.items() if value.grad is not None}
