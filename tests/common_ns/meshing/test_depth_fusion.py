"""The field of depth pictures, against a sphere whose pictures and distance are known."""

from __future__ import annotations

import math

import pytest
import torch

from common_ns.meshing.depth_fusion import DepthPicture, FusedDepth
from common_ns.meshing.extraction import extract_mesh
from common_ns.meshing.iso_field import IsoField

RADIUS, FAR = 0.6, 2.0
INTRINSICS = (110.0, 110.0, 48.0, 48.0)


def picture(direction: torch.Tensor) -> DepthPicture:
    """Of the sphere about the origin, red where x > 0 and blue elsewhere, from a camera that looks at it."""
    back = torch.nn.functional.normalize(direction, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.3, 0.2, 0.9]), back), dim=0)
    rotation = torch.stack([right, -torch.linalg.cross(back, right), -back])  # rows: x right, y down, z forward
    viewmat = torch.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ (FAR * back)
    fx, fy, cx, cy = INTRINSICS
    steps = torch.arange(96) + 0.5
    x, y = torch.meshgrid((steps - cx) / fx, (steps - cy) / fy, indexing="xy")
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ rotation  # of depth 1, in the world
    origin = FAR * back
    a, b, c = (rays * rays).sum(-1), (rays @ origin), float(origin @ origin) - RADIUS**2
    root = b * b - a * c
    depth = torch.where(root > 0, (-b - root.clamp_min(0).sqrt()) / a, 0.0)
    hit = origin + depth[..., None] * rays
    color = torch.where(hit[..., :1] > 0, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    return DepthPicture(depth, color, viewmat, INTRINSICS)


@pytest.fixture(scope="module")
def fused() -> FusedDepth:
    generator = torch.Generator().manual_seed(0)
    return FusedDepth([picture(torch.randn(3, generator=generator)) for _ in range(24)], truncation=0.1)


def test_near_the_surface_it_is_the_distance(fused):
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(2000, 3, generator=generator), dim=-1)
    offsets = 0.04 * (2 * torch.rand(2000, generator=generator) - 1)
    found = fused.value(directions * (RADIUS + offsets)[:, None])
    assert float((found.sign() == offsets.sign())[offsets.abs() > 0.005].float().mean()) > 0.995
    one = FusedDepth([picture(torch.tensor([0.0, 0.0, 1.0]))], truncation=0.1)
    along = torch.tensor([[0.0, 0.0, RADIUS + offset] for offset in (-0.08, -0.03, 0.0, 0.05, 0.09)])
    assert one.value(along).tolist() == pytest.approx([-0.08, -0.03, 0.0, 0.05, 0.09], abs=2e-4)


def test_far_from_it_only_the_side_counts(fused):
    points = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.3, 0.0], [0.0, 0.9, 0.0], [0.85, 0.0, 0.1]])
    assert fused.value(points).tolist() == pytest.approx([-0.1, -0.1, 0.1, 0.1])
    behind_all = FusedDepth([picture(torch.tensor([1.0, 0.0, 0.0]))], 0.1)
    places = torch.tensor([[-0.9, 0.0, 0.0], [0.9, 0.0, 0.0], [1.9, 1.9, 0.0]])  # hidden, before it, beside the picture
    assert behind_all.value(places).tolist() == pytest.approx([-0.1, 0.1, 0.1])


def test_its_mesh_is_the_sphere_in_its_colors(fused):
    aabb = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    field = IsoField(fused.value, 0.0, False, aabb, color=fused.color, shown=fused.shown)
    mesh = extract_mesh(field, resolution=48)
    radii = torch.from_numpy(mesh.vertices).norm(dim=-1)
    assert float((radii - RADIUS).abs().max()) < 0.02 and float((radii - RADIUS).abs().mean()) < 0.003
    assert mesh.to_trimesh().is_watertight  # it was seen from all sides: what was taken away was elsewhere
    assert mesh.to_trimesh().area == pytest.approx(4 * math.pi * RADIUS**2, rel=0.02)
    aside = abs(mesh.vertices[:, 0]) > 0.05
    red = mesh.colors[aside, 0] > mesh.colors[aside, 2]
    assert (red == (mesh.vertices[aside, 0] > 0)).all()


def test_nothing_is_between_two_surfaces():
    """An edge in depth has no slope: halfway between its pixels, the nearer one counts."""
    depth = torch.ones(8, 8)
    depth[:, 4:] = 3.0
    looked_at = FusedDepth([DepthPicture(depth, torch.zeros(8, 8, 3), torch.eye(4), (8.0, 8.0, 4.0, 4.0))], 0.2)
    # Just left and right of the edge, at depth 1 and at 2.
    points = torch.tensor([[-0.01, 0.0, 1.0], [0.01, 0.0, 1.0], [-0.02, 0.0, 2.0], [0.02, 0.0, 2.0]])
    assert looked_at.value(points).tolist() == pytest.approx([0.0, 0.2, -0.2, 0.2], abs=1e-6)
