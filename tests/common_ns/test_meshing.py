"""Meshes of analytic, random and awkward fields: closed, seamless, in the right place, within the memory bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh

from common_ns.checks import InputError
from common_ns.iso_field import IsoField, default_density_level, iso_field_of
from common_ns.marching_cubes import Surface
from common_ns.mesh_io import Mesh
from common_ns.meshing import extract_mesh

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
RADIUS = 0.7


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # the queries here are too small to share out


def sphere(points: torch.Tensor) -> torch.Tensor:
    return points.norm(dim=-1) - RADIUS


def torus(points: torch.Tensor) -> torch.Tensor:
    ring = points[:, :2].norm(dim=-1) - 0.6
    return torch.hypot(ring, points[:, 2]) - 0.25


def sdf(value, aabb=BOX, **extra) -> IsoField:
    return IsoField(value, 0.0, inside_above=False, aabb=aabb, **extra)


def lattice_field(values: np.ndarray, **extra) -> IsoField:
    """The field that has the given values [n, n, n] at the grid points of resolution n − 1, nearest in between."""
    n = len(values)
    table = torch.from_numpy(values.astype(np.float32))

    def value(points: torch.Tensor) -> torch.Tensor:
        index = ((points + 1.0) * 0.5 * (n - 1)).round().long().clamp(0, n - 1)
        return table[index[:, 0], index[:, 1], index[:, 2]]

    return IsoField(value, 0.0, inside_above=True, aabb=BOX, **extra)


def assert_closed_manifold(mesh: Mesh) -> None:
    """Every edge has one triangle on each side, with agreeing orientation, and every vertex has one disc around it."""
    faces = mesh.faces
    assert (np.sort(faces, axis=1)[:, :-1] != np.sort(faces, axis=1)[:, 1:]).all()
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    key = directed[:, 0] * len(mesh.vertices) + directed[:, 1]
    reverse = directed[:, 1] * len(mesh.vertices) + directed[:, 0]
    assert len(np.unique(key)) == len(key)
    assert np.array_equal(np.sort(key), np.sort(reverse))
    # Walk around each vertex: from the triangle (v, a, b) to the one that has (v, b). One walk must visit them all.
    corners = np.concatenate([faces, faces[:, [1, 2, 0]], faces[:, [2, 0, 1]]])
    order = np.lexsort((corners[:, 1], corners[:, 0]))
    corners = corners[order]
    follow = {(v, a): b for v, a, b in corners.tolist()}
    first = np.flatnonzero(np.diff(corners[:, 0], prepend=-1))
    degree = np.diff(np.append(first, len(corners)))
    assert len(first) == len(mesh.vertices)
    for (v, start, _), count in zip(corners[first].tolist(), degree.tolist()):
        at, steps = follow[v, start], 1
        while at != start:
            at, steps = follow[v, at], steps + 1
        assert steps == count


def sorted_rows(array: np.ndarray) -> np.ndarray:
    rounded = np.round(array, 5)
    return array[np.lexsort(rounded.T)]


@pytest.mark.parametrize("chunk_size", [500, 4096, 20_000, 10**6])
def test_sphere_is_closed_and_exact_for_any_chunk_size(chunk_size):
    mesh = extract_mesh(sdf(sphere), 45, chunk_size)
    assert_closed_manifold(mesh)
    solid = mesh.to_trimesh()
    assert solid.is_watertight and solid.euler_number == 2
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - RADIUS).max() < 1e-4
    assert solid.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=5e-3)
    assert solid.area == pytest.approx(4 * math.pi * RADIUS**2, rel=5e-3)


def test_linear_interpolation_alone_is_second_order():
    for resolution in (16, 32, 64):
        mesh = extract_mesh(sdf(sphere), resolution, refine=0, with_normals=False)
        assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - RADIUS).max() < 0.5 * (2 / resolution) ** 2


def test_torus_has_one_hole_in_a_box_that_is_not_a_cube():
    box = torch.tensor([[-0.9, -1.0, -0.3], [0.95, 1.1, 0.31]])
    mesh = extract_mesh(sdf(torus, box), 61, 3000)
    solid = mesh.to_trimesh()
    assert solid.is_watertight and solid.euler_number == 0
    assert solid.volume == pytest.approx(2 * math.pi**2 * 0.6 * 0.25**2, rel=1e-2)
    assert solid.area == pytest.approx(4 * math.pi**2 * 0.6 * 0.25, rel=1e-2)
    assert torus(torch.from_numpy(mesh.vertices)).abs().max() < 1e-4


def test_the_mesh_does_not_depend_on_the_chunk_size():
    meshes = [extract_mesh(sdf(torus), 37, chunk) for chunk in (100, 1444, 5000, 10**6)]
    for mesh in meshes[1:]:
        np.testing.assert_array_equal(mesh.faces.shape, meshes[0].faces.shape)
        np.testing.assert_allclose(sorted_rows(mesh.vertices), sorted_rows(meshes[0].vertices), atol=1e-6)
        assert mesh.to_trimesh().volume == pytest.approx(meshes[0].to_trimesh().volume, abs=1e-7)


@pytest.mark.parametrize("kind", ["white", "sparse", "smooth", "saturated", "three values"])
@pytest.mark.parametrize("chunk_size", [150, 10**5])
def test_random_fields_give_closed_manifolds(kind, chunk_size):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((18, 18, 18))
    if kind == "sparse":
        values -= 1.5
    elif kind == "smooth":
        from scipy.ndimage import gaussian_filter

        values = gaussian_filter(values, 1.5)
    elif kind == "saturated":
        values = np.where(values > 0, 1.0, -1.0)
    elif kind == "three values":  # many values equal the level exactly
        values = rng.integers(-1, 2, (18, 18, 18))
    mesh = extract_mesh(lattice_field(values), 17, chunk_size, refine=0, with_normals=False)
    assert_closed_manifold(mesh)
    assert mesh.to_trimesh().is_watertight and mesh.to_trimesh().volume > 0
    assert (np.abs(mesh.vertices) <= 1 + 1e-9).all()
    # No two vertices coincide, even in 32 bits, so that files are as watertight as the mesh.
    assert len(np.unique(mesh.vertices.astype(np.float32), axis=0)) == len(mesh.vertices)


def test_a_last_bit_that_depends_on_the_query_leaves_no_seam():
    calls = []

    def value(points: torch.Tensor) -> torch.Tensor:
        calls.append(len(points))
        # On flat walls that coincide with grid planes, noise of either sign decides on which side a point is.
        wall = (points.abs().max(dim=-1).values - 0.5).float()
        return wall + (1e-7 if len(calls) % 2 else -1e-7) * (len(points) % 7 - 3)

    for chunk_size in (200, 777, 4000):
        mesh = extract_mesh(sdf(value), 24, chunk_size, close=False, with_normals=False)
        assert_closed_manifold(mesh)


def test_each_grid_point_is_asked_once_and_memory_is_bounded(monkeypatch):
    sizes, planes = [], []
    add = Surface.add

    def counted(points: torch.Tensor) -> torch.Tensor:
        sizes.append(len(points))
        return sphere(points)

    def watched(self, first, slab):
        planes.append(slab.shape)
        add(self, first, slab)

    monkeypatch.setattr(Surface, "add", watched)
    for resolution, chunk_size in ((40, 1000), (40, 9000), (20, 10**5)):
        sizes.clear()
        planes.clear()
        extract_mesh(sdf(counted), resolution, chunk_size, close=False, refine=0, with_normals=False)
        assert max(sizes) <= chunk_size
        assert sum(sizes) == (resolution + 1) ** 3
        plane = (resolution + 1) ** 2
        assert max(np.prod(shape) for shape in planes) <= max(chunk_size, plane) + plane
    sizes.clear()
    extract_mesh(sdf(counted, color=lambda p, n: 0.5 + 0.5 * n), 40, 1000)
    assert max(sizes) <= 1000


def test_a_cut_solid_is_capped_at_the_crop_box():
    crop = torch.tensor([[0.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    mesh = extract_mesh(sdf(sphere), 50, 3000, aabb=crop)
    assert_closed_manifold(mesh)
    assert mesh.to_trimesh().volume == pytest.approx(2 / 3 * math.pi * RADIUS**3, rel=5e-3)
    assert mesh.vertices[:, 0].min() == pytest.approx(0.0, abs=1e-9)
    cap = mesh.vertices[:, 0] < 1e-6
    assert mesh.normals is not None
    np.testing.assert_allclose(mesh.normals[cap], np.broadcast_to([-1.0, 0.0, 0.0], (cap.sum(), 3)))

    open_mesh = extract_mesh(sdf(sphere), 50, 3000, aabb=crop, close=False)
    assert not open_mesh.to_trimesh().is_watertight
    rim = trimesh.grouping.group_rows(np.sort(open_mesh.to_trimesh().edges, axis=1), require_count=1)
    ends = open_mesh.vertices[open_mesh.to_trimesh().edges[rim].reshape(-1)]
    assert np.abs(ends[:, 0]).max() < 1e-9


def test_a_box_inside_the_solid_keeps_sharp_corners():
    """A slab of the sphere cut on four sides: caps, their edges and corners are where the box is."""
    crop = torch.tensor([[-0.2, -0.3, -1.0], [0.2, 0.3, 1.0]])
    mesh = extract_mesh(sdf(sphere), 40, 3000, aabb=crop)
    assert_closed_manifold(mesh)
    np.testing.assert_allclose(mesh.to_trimesh().bounds[:, :2], crop[:, :2].numpy(), atol=1e-6)


def test_density_and_occupancy_levels():
    def density(points: torch.Tensor) -> torch.Tensor:
        return 200.0 * torch.sigmoid(-40.0 * sphere(points))

    level = default_density_level(BOX)
    assert math.exp(-level * 0.025 * 2 * math.sqrt(3)) == pytest.approx(0.5)
    at = RADIUS + math.log(200.0 / level - 1.0) / 40.0
    mesh = extract_mesh(IsoField(density, level, inside_above=True, aabb=BOX), 40)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), at, atol=1e-3)
    assert mesh.to_trimesh().is_watertight and mesh.to_trimesh().volume > 0

    # Hard occupancy: no gradient anywhere, refinement is bisection, normals by differences are coarse.
    field = IsoField(lambda p: (sphere(p) < 0).float(), 0.5, inside_above=True, aabb=BOX)
    mesh = extract_mesh(field, 40)
    assert mesh.to_trimesh().is_watertight
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), RADIUS, atol=2 / 40 / 2**4)
    assert mesh.normals is not None
    assert (np.sum(mesh.normals * mesh.vertices, axis=1) > 0.5 * RADIUS).all()

    # A gradient that is zero everywhere: the normals are those of the triangles.
    field = IsoField(lambda p: (sphere(p) < 0).float() + 0.0 * p.sum(-1), 0.5, inside_above=True, aabb=BOX)
    mesh = extract_mesh(field, 40)
    assert mesh.normals is not None
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-5)
    assert (np.sum(mesh.normals * mesh.vertices, axis=1) > 0.5 * RADIUS).all()


@pytest.mark.parametrize("how", ["autograd", "differences", "field"])
@pytest.mark.parametrize("inside_above", [False, True])
def test_normals_and_orientation_point_outward(how, inside_above):
    sign = -1.0 if inside_above else 1.0

    def value(points: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(how != "differences" and torch.is_grad_enabled()):
            return sign * sphere(points)

    normal = (lambda points: points) if how == "field" else None
    mesh = extract_mesh(IsoField(value, 0.0, inside_above, BOX, normal=normal), 30, 2000)
    outward = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    assert mesh.normals is not None
    assert np.sum(mesh.normals * outward, axis=1).min() > 0.999
    assert (np.sum(mesh.to_trimesh().face_normals * mesh.to_trimesh().triangles_center, axis=1) > 0).all()


def test_a_known_bound_skips_space_and_changes_nothing():
    asked = []

    def value(points: torch.Tensor) -> torch.Tensor:
        asked.append(len(points))
        return torus(points)

    full = extract_mesh(sdf(value), 57, with_normals=False)
    everything = sum(asked)
    asked.clear()
    quick = extract_mesh(sdf(value), 57, with_normals=False, lipschitz=1.0)
    assert sum(asked) < 0.6 * everything
    np.testing.assert_allclose(sorted_rows(quick.vertices), sorted_rows(full.vertices), atol=1e-6)
    assert len(quick.faces) == len(full.faces)
    # A bound that does not hold may lose parts of the surface, but never tears it.
    wrong = extract_mesh(sdf(lambda p: 5.0 * torus(p) + torch.sin(37.0 * p).sum(-1)), 57, 4000, lipschitz=0.5)
    assert_closed_manifold(wrong)


def test_floaters_can_be_dropped():
    def value(points: torch.Tensor) -> torch.Tensor:
        centers = torch.tensor([[0.0, 0.0, 0.0], [0.8, 0.8, 0.8], [-0.8, 0.8, 0.8]])
        radii = torch.tensor([0.5, 0.1, 0.15])
        return ((points[:, None] - centers).norm(dim=-1) - radii).min(dim=1).values

    def pieces(mesh: Mesh) -> int:
        assert_closed_manifold(mesh)
        return mesh.to_trimesh().body_count

    assert pieces(extract_mesh(sdf(value), 32)) == 3
    assert pieces(extract_mesh(sdf(value), 32, keep_largest=1)) == 1
    assert pieces(extract_mesh(sdf(value), 32, keep_largest=2)) == 2
    assert pieces(extract_mesh(sdf(value), 32, min_component_faces=300)) == 1
    with pytest.raises(InputError, match="no connected component has 100000 triangles"):
        extract_mesh(sdf(value), 32, min_component_faces=100_000)


def test_mistakes_are_named():
    with pytest.raises(InputError, match=r"level 9 .* from -0\.7 to 1\.03.* Choose --level between"):
        extract_mesh(IsoField(sphere, 9.0, False, BOX, None), 16, close=False)
    with pytest.raises(InputError, match=r"never crosses the level 5 .*constant"):
        extract_mesh(IsoField(lambda p: torch.ones(len(p)), 5.0, True, BOX), 8)
    with pytest.raises(InputError, match="never crosses"):  # all inside: nothing but caps
        extract_mesh(IsoField(sphere, -2.0, True, BOX), 8)
    with pytest.raises(InputError, match=r"box from \(0, 0, 0\) to \(1, -1, 1\) is empty or inverted"):
        extract_mesh(sdf(sphere), 8, aabb=torch.tensor([[0.0, 0, 0], [1, -1, 1]]))
    with pytest.raises(InputError, match="resolution is 0"):
        extract_mesh(sdf(sphere), 0)
    with pytest.raises(InputError, match="level is nan"):
        extract_mesh(IsoField(sphere, math.nan, False, BOX), 8)
    with pytest.raises(InputError, match=r"not a number at \(0\.\d+, "):
        extract_mesh(sdf(lambda p: torch.where(p[:, 0] > 0.3, math.nan, sphere(p))), 8)


class _Box:
    aabb = BOX


class _Model:
    scene_box = _Box()
    device = torch.device("cpu")

    def __init__(self, **parts):
        self.__dict__.update(parts)


def test_fields_of_host_models_are_recognized():
    class Density:
        def density_fn(self, positions):
            return 12.0 * (sphere(positions) < 0)[..., None].float()

    class Distance(Density):
        def forward_geonetwork(self, inputs):
            return torch.cat([sphere(inputs)[:, None], inputs], dim=-1)

    density = iso_field_of(_Model(field_coarse=Density(), field_fine=Density()))
    assert density.inside_above and density.level == pytest.approx(default_density_level(BOX))
    distance = iso_field_of(_Model(field=Distance()), level=0.1)
    assert not distance.inside_above and distance.level == 0.1
    for field, radius in ((density, RADIUS), (distance, RADIUS + 0.1)):
        mesh = extract_mesh(field, 30, with_colors=False)
        np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), radius, atol=5e-3)

    own = sdf(sphere)
    assert iso_field_of(_Model(iso_field=lambda level, voxel_size: own), voxel_size=0.1) is own
    with pytest.raises(InputError, match="_Model has no density"):
        iso_field_of(_Model(field=torch.nn.Identity()))
