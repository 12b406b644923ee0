"""What cameras see of a mesh, and what masks leave of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from nerfstudio.cameras.cameras import Cameras, CameraType

from common_ns.meshing.culling import Views, keep_vertices, seen_vertices, within_masks
from common_ns.meshing.mesh_io import Mesh


def looking_at_origin(*positions: tuple[float, float, float]) -> torch.Tensor:
    """Camera-to-world matrices, OpenGL axes."""
    poses = []
    for position in positions:
        back = np.array(position) / np.linalg.norm(position)
        right = np.cross([0.1, 0.2, 1.0], back)
        right /= np.linalg.norm(right)
        poses.append(np.column_stack([right, np.cross(back, right), back, position]))
    return torch.tensor(np.stack(poses), dtype=torch.float32)


def cameras(*positions: tuple[float, float, float], focal: float = 60.0) -> Cameras:
    return Cameras(
        looking_at_origin(*positions), focal, 1.2 * focal, 31.0, 26.0, 64, 48, camera_type=CameraType.PERSPECTIVE
    )


def ball(radius: float = 1.0, center: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    vertices = np.asarray(sphere.vertices) + np.array(center)
    return Mesh(vertices, np.asarray(sphere.faces), np.asarray(sphere.vertices) / radius, np.abs(vertices) % 1.0)


def both(first: Mesh, second: Mesh) -> Mesh:
    faces = np.concatenate([first.faces, second.faces + len(first.vertices)])
    return Mesh(np.concatenate([first.vertices, second.vertices]), faces)


def test_projection_is_the_inverse_of_nerfstudios_rays():
    some = cameras((2.0, 1.0, 3.0), (-1.0, 2.0, 0.5))
    coords = torch.tensor([[3.5, 10.5], [40.5, 60.5], [24.25, 31.75]])  # row, column
    for index in range(2):
        rays = some.generate_rays(torch.tensor([[index]]).expand(3, 1), coords=coords)
        points = (rays.origins + 2.3 * rays.directions).double().numpy()
        pixels, inside = Views.of(some).project(index, points)
        assert np.allclose(pixels[:, ::-1], coords.numpy(), atol=1e-4) and inside.all()
        behind = (rays.origins - 2.3 * rays.directions).double().numpy()
        assert not Views.of(some).project(index, behind)[1].any()


def test_of_a_ball_the_cap_towards_the_camera_is_seen():
    """From distance d, the cap of a unit sphere within x · direction > 1 / d."""
    distance = 3.0
    seen = seen_vertices(ball(), Views.of(cameras((distance, 0.0, 0.0), focal=20.0)))
    height = ball().vertices[:, 0]
    border = np.abs(height - 1.0 / distance) < 0.03
    assert (seen == (height > 1.0 / distance))[~border].all() and 0.2 < seen.mean() < 0.4


def test_cameras_add_up_and_their_images_have_borders():
    positions = ((3.0, 0.0, 0.0), (-3.0, 0.0, 0.0))
    one, other = (seen_vertices(ball(), Views.of(cameras(p, focal=20.0))) for p in positions)
    assert np.array_equal(seen_vertices(ball(), Views.of(cameras(*positions, focal=20.0))), one | other)
    near = seen_vertices(ball(), Views.of(cameras(positions[0], focal=200.0)))
    assert near.sum() < 0.2 * one.sum() and not (near & ~one).any()


def test_what_stands_in_front_hides():
    small, large = ball(0.5), ball(0.3, (1.5, 0.0, 0.0))
    views = Views.of(cameras((2.5, 0.0, 0.0), focal=20.0))
    alone, behind = seen_vertices(small, views), seen_vertices(both(small, large), views)[: len(small.vertices)]
    assert alone.any() and not behind.any()


def test_masks_carve_the_visual_hull():
    views = Views.of(cameras((3.0, 0.0, 0.0), (0.0, 3.0, 0.0), focal=20.0))
    masks = [np.zeros((48, 64), dtype=bool) for _ in range(2)]
    masks[0][:, 20:42], masks[1][16:36] = True, True
    generator = np.random.default_rng(0)
    points = generator.uniform(-1.5, 1.5, (4000, 3))
    expected = np.ones(len(points), dtype=bool)
    for number, point in enumerate(points):
        for index, mask in enumerate(masks):
            pixels, inside = views.project(index, point[None])
            if inside[0]:
                column, row = np.floor(pixels[0]).astype(int)
                expected[number] &= mask[row, column]
    assert np.array_equal(within_masks(points, views, masks.__getitem__), expected)
    assert 0.05 < expected.mean() < 0.9
    wider = within_masks(points, views, masks.__getitem__, margin=3)
    assert wider.sum() > expected.sum() and not (expected & ~wider).any()
    assert within_masks(points, views, lambda index: None).all()


@pytest.mark.parametrize("how_many", [1, 3])
def test_kept_vertices_keep_what_belongs_to_them(how_many):
    mesh = ball()
    kept = mesh.vertices[:, 2] > 0.1
    part = keep_vertices(mesh, kept, how_many)
    assert len(part.faces) == (kept[mesh.faces].sum(axis=1) >= how_many).sum() > 0
    assert np.allclose(part.vertices, part.normals, atol=1e-6)
    assert np.allclose(np.abs(part.vertices) % 1.0, part.colors)
    assert (part.vertices[part.faces].max(axis=1)[:, 2] > 0.1).all()
    assert (part.vertices[:, 2] > 0.1).all() == (how_many == 3)
    assert len(keep_vertices(mesh, np.zeros_like(kept)).faces) == 0
