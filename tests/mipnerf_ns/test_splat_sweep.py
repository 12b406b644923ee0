"""Points from photographs alone, on a wall whose pictures are known."""

from __future__ import annotations

import math

import torch

from mipnerf_ns.splat_sweep import Photographs, neighbors_of, small_photographs, swept_points

WALL, FOCAL, SIZE = 4.0, 60.0, 48


def wall_seen_from(shifts: list[tuple[float, float]]) -> Photographs:
    """Cameras that look along +z, beside each other, at a colored wall at the depth WALL."""
    viewmats, images = torch.eye(4).repeat(len(shifts), 1, 1), []
    rows, columns = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    for index, (x, y) in enumerate(shifts):
        viewmats[index, :2, 3] = -torch.tensor([x, y])
        u, v = ((axis - SIZE / 2) * WALL / FOCAL + start for axis, start in ((columns, x), (rows, y)))
        images.append(0.5 + 0.5 * torch.stack([torch.sin(7 * u + 3 * v), torch.sin(9 * v), torch.cos(5 * u - v)], -1))
    intrinsics = torch.tensor([[FOCAL, FOCAL, SIZE / 2, SIZE / 2]]).repeat(len(shifts), 1)
    return Photographs(images, viewmats, intrinsics)


def test_points_lie_on_the_wall_with_its_colors():
    photographs = wall_seen_from([(0, 0), (0.5, 0), (0, 0.5), (-0.5, 0.2), (0.3, -0.4)])
    found = swept_points(photographs, 1.0, 50.0, 600, torch.Generator().manual_seed(0))
    assert len(found.points) == 600
    right = (found.points[:, 2] - WALL).abs() < 0.1 * WALL
    # Neighbors are 64 to one depth in four; at the pictures' edges few photographs see the same.
    assert float(right.float().mean()) > 0.7
    u, v = found.points[right, 0], found.points[right, 1]
    colors = 0.5 + 0.5 * torch.stack([torch.sin(7 * u + 3 * v), torch.sin(9 * v), torch.cos(5 * u - v)], -1)
    assert float((colors - found.colors[right]).abs().mean()) < 0.1
    assert torch.allclose(found.footprints, found.points[:, 2] / FOCAL, rtol=1e-5)


def test_large_photographs_are_averaged_with_their_cameras():
    image = torch.rand(600, 900, 3, generator=torch.Generator().manual_seed(0))
    intrinsics = torch.tensor([[300.0, 330.0, 450.0, 300.0], [60.0, 60.0, 24.0, 24.0]])
    small = small_photographs(iter([image, image[:48, :48]]), torch.eye(4).repeat(2, 1, 1), intrinsics)
    assert [tuple(each.shape) for each in small.images] == [(200, 300, 3), (48, 48, 3)]
    assert torch.allclose(small.images[0][7, 5], image[21:24, 15:18].mean(dim=(0, 1)), atol=1e-6)
    assert torch.equal(small.intrinsics, intrinsics / torch.tensor([[3.0], [1.0]]))


def test_what_has_one_color_is_far_away():
    photographs = wall_seen_from([(0, 0), (0.2, 0), (0, 0.2)])
    plain = [torch.full_like(image, 0.3) for image in photographs.images]
    found = swept_points(photographs._replace(images=plain), 1.0, 50.0, 90, torch.Generator().manual_seed(0))
    # The first of 64 depths that are even in the inverse is at least at 1 / (1/50 + 1/64).
    assert float(found.points[:, 2].quantile(0.1)) > 25.0


def test_the_same_numbers_give_the_same_points():
    photographs = wall_seen_from([(0, 0), (0.5, 0), (0, 0.5)])
    first, second = (swept_points(photographs, 1.0, 50.0, 50, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.points, second.points)


def test_cameras_in_one_place_see_no_depth():
    photographs = wall_seen_from([(0, 0), (0, 0)])
    assert neighbors_of(photographs.viewmats).shape == (2, 0)
    found = swept_points(photographs, 1.0, 50.0, 40, torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(found.points).all()) and float(found.points[:, 2].std()) > 0.1


def test_neighbors_are_near_and_look_the_same_way():
    viewmats = wall_seen_from([(0, 0), (0.1, 0), (3, 0), (0.1, 0.1)]).viewmats
    turned = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    viewmats[3, :3, :3], viewmats[3, :3, 3] = turned, turned @ viewmats[3, :3, 3]
    assert neighbors_of(viewmats, 2)[0].tolist()[0] == 1 and 3 in neighbors_of(viewmats, 3)[0].tolist()
    assert math.isclose(float(viewmats[3, 2, 2]), -1.0)
