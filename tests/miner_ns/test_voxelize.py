"""Voxels are inside exactly where the mesh says, for closed meshes, and nearly so for meshes with holes."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from common_ns.errors import InputError
from miner_ns import voxelize as voxelize_module
from miner_ns.mending import check_closedness
from miner_ns.voxelize import VoxelizeOptions, bounding_grid, voxelize

RNG = np.random.default_rng(0)


def arrays(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def occupancy(vertices: np.ndarray, faces: np.ndarray, **options) -> np.ndarray:
    """The voxels as an array [n, n, n]: bool, or shares in [0, 1]."""
    signal = voxelize(vertices, faces, VoxelizeOptions(**options)).signal
    whole = (0, 0, 0), signal.spatial_shape
    return signal.read(*whole)[..., 0] if options.get("fractions") else signal.read_stored(*whole)[..., 0]


def winding_number(vertices: np.ndarray, faces: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The slow reference: solid angles of all triangles (van Oosterom & Strackee 1983), over 4π."""
    a, b, c = (vertices[faces[:, i]][None] - points[:, None] for i in range(3))
    la, lb, lc = (np.linalg.norm(x, axis=-1) for x in (a, b, c))
    numerator = (a * np.cross(b, c)).sum(-1)
    dots = [(x * y).sum(-1) for x, y in ((a, b), (b, c), (c, a))]
    denominator = la * lb * lc + dots[0] * lc + dots[1] * la + dots[2] * lb
    return (2.0 * np.arctan2(numerator, denominator)).sum(-1) / (4.0 * np.pi)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.fixture(scope="module")
def blob() -> trimesh.Trimesh:
    """A smooth closed body without symmetry, 5,120 triangles."""
    mesh = trimesh.creation.icosphere(subdivisions=4)
    x, y, z = mesh.vertices.T
    radius = 1.0 + 0.25 * np.sin(3 * x + 1) * np.cos(2 * y) + 0.2 * np.sin(4 * z + x)
    mesh.vertices *= radius[:, None]
    return mesh


@pytest.mark.parametrize("resolution", [31, 32])
def test_a_closed_body_equals_its_winding_number(blob: trimesh.Trimesh, resolution: int) -> None:
    options = VoxelizeOptions(resolution=resolution)
    grid = bounding_grid(blob.vertices, options)
    index = RNG.integers(0, resolution, (400, 3))
    expected = winding_number(*arrays(blob), np.array(grid.origin) + (index + 0.5) * grid.voxel_size) > 0.5
    voxels = occupancy(*arrays(blob), resolution=resolution)
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(voxels[tuple(index.T)], expected)


@pytest.mark.parametrize("options", [{"votes": 3}, {"fill": "parity"}, {"votes": 3, "fill": "parity"}])
def test_all_axes_and_rules_agree_on_a_closed_body(blob: trimesh.Trimesh, options: dict) -> None:
    np.testing.assert_array_equal(
        occupancy(*arrays(blob), resolution=40, **options), occupancy(*arrays(blob), resolution=40)
    )


@pytest.mark.parametrize("shift", [0.0, 0.5, 0.25])
@pytest.mark.parametrize("votes", [1, 3])
def test_a_box_aligned_with_the_voxels(shift: float, votes: int) -> None:
    """Faces, edges and diagonals of triangles that lie on voxel borders (shift 0) or run through the centers of voxels
    and columns (shift ½) leave no streaks: what is inside is one box of the right size."""
    box = trimesh.creation.box(extents=(10, 10, 10))
    # A far-away second box makes the grid: 32 voxels of side 1, the first from −16 to −15.
    frame = trimesh.creation.box(extents=(0.25, 0.25, 32.0))
    box.vertices += shift
    frame.vertices += (15.875, 15.875, 0.0)
    mesh = trimesh.util.concatenate([box, frame])
    grid = bounding_grid(mesh.vertices, VoxelizeOptions(resolution=32, margin=0.0))
    assert grid.voxel_size == 1.0
    voxels = occupancy(*arrays(mesh), resolution=32, margin=0.0, votes=votes)
    voxels = voxels[:28, :28]  # without the frame
    low, high = np.argwhere(voxels).min(axis=0), np.argwhere(voxels).max(axis=0) + 1
    assert (high - low).tolist() == [10, 10, 10] and voxels.sum() == 1000


def test_shares_measure_the_volume(blob: trimesh.Trimesh) -> None:
    options = {"resolution": 24, "fractions": True}
    voxel = bounding_grid(blob.vertices, VoxelizeOptions(resolution=24)).voxel_size
    errors = [
        abs(occupancy(*arrays(blob), subvoxel=m, **options).sum(dtype=float) * voxel**3 / blob.volume - 1.0)
        for m in (1, 4)
    ]
    assert errors[0] < 5e-3 and errors[1] < 3e-4


def test_subvoxels_give_the_majority_of_the_volume(blob: trimesh.Trimesh) -> None:
    shares = occupancy(*arrays(blob), resolution=24, subvoxel=4, fractions=True)
    inside = occupancy(*arrays(blob), resolution=24, subvoxel=4)
    clear = np.abs(shares - 0.5) > 0.01  # 8 bits
    np.testing.assert_array_equal(inside[clear], shares[clear] > 0.5)


@pytest.mark.parametrize("subvoxel", [1, 2, 3, 4])
@pytest.mark.parametrize("votes", [1, 3])
def test_no_number_of_columns_moves_the_surface(subvoxel: int, votes: int) -> None:
    """Ties of an even number of columns, frequent where the surface lies along them, do not all count as outside."""
    ball = trimesh.creation.icosphere(subdivisions=5)
    options = {"resolution": 64, "subvoxel": subvoxel, "votes": votes}
    voxel = bounding_grid(ball.vertices, VoxelizeOptions(resolution=64)).voxel_size
    volume = occupancy(*arrays(ball), **options).sum(dtype=float) * voxel**3
    outwards = (volume - ball.volume) / ball.area / voxel
    assert abs(outwards) < 4e-3  # of a voxel; with ties outside it is −2e-2 for 2 columns


def test_overlapping_parts_are_joined() -> None:
    ball = trimesh.creation.icosphere(subdivisions=3)
    other = ball.copy()
    other.vertices += (0.7, 0.0, 0.0)
    mesh = trimesh.util.concatenate([ball, other])
    together = occupancy(*arrays(mesh), resolution=32)
    apart = occupancy(*arrays(mesh), resolution=32, fill="parity")
    assert together[16, 16, 16] and not apart[16, 16, 16]
    np.testing.assert_array_equal(occupancy(mesh.vertices, mesh.faces[:, ::-1], resolution=32), together)


def test_triangles_that_face_anywhere_are_taken_by_parity(blob: trimesh.Trimesh) -> None:
    faces = np.array(blob.faces)
    turned = RNG.random(len(faces)) < 0.3
    faces[turned] = faces[turned, ::-1]
    np.testing.assert_array_equal(
        occupancy(blob.vertices, faces, resolution=32), occupancy(*arrays(blob), resolution=32)
    )


def test_votes_mend_holes(blob: trimesh.Trimesh) -> None:
    whole = occupancy(*arrays(blob), resolution=48)
    kept = blob.faces[RNG.random(len(blob.faces)) > 0.05]
    found = [iou(occupancy(blob.vertices, kept, resolution=48, votes=votes), whole) for votes in (1, 3, 9)]
    assert found[0] > 0.97 and found[1] > 0.995 and found[2] > 0.997, found
    assert voxelize(blob.vertices, kept, VoxelizeOptions(resolution=48)).undecided > 1000
    # One large hole: what is cut off is limited to its surroundings.
    cap = blob.triangles_center[:, 2] < 0.9
    assert iou(occupancy(blob.vertices, blob.faces[cap], resolution=48, votes=9), whole) > 0.97


@pytest.mark.parametrize("options", [{}, {"votes": 9, "subvoxel": 2}, {"votes": 3, "subvoxel": 2, "fractions": True}])
def test_slabs_do_not_show(blob: trimesh.Trimesh, options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = occupancy(*arrays(blob), resolution=30, **options)
    monkeypatch.setattr(voxelize_module, "SLAB_VOXELS", 1)
    monkeypatch.setattr(voxelize_module, "SLAB_ROWS", 7)
    monkeypatch.setattr(voxelize_module, "CHUNK_ROWS", 11)
    result = occupancy(*arrays(blob), resolution=30, **options)
    np.testing.assert_allclose(result.astype(float), expected.astype(float), atol=1.01 / 255)


def test_edges_tell_whether_a_mesh_is_closed(blob: trimesh.Trimesh) -> None:
    vertices, faces = arrays(blob)
    assert check_closedness(vertices, faces) == (0, 0)
    assert check_closedness(vertices, faces[1:]) == (3, 0)
    assert check_closedness(vertices, np.concatenate([faces[1:], faces[:1, ::-1]])) == (0, 3)
    soup = vertices[faces].reshape(-1, 3)  # corners of its own for each triangle, as in STL
    assert check_closedness(soup, np.arange(len(soup)).reshape(-1, 3)) == (0, 0)
    flat = np.concatenate([faces, [[0, 0, 1]]])
    assert check_closedness(vertices, flat) == (0, 0)


def test_the_grid_holds_the_mesh(blob: trimesh.Trimesh) -> None:
    grid = bounding_grid(blob.vertices, VoxelizeOptions(resolution=20, margin=0.25))
    side = 20 * grid.voxel_size
    assert side == pytest.approx(1.5 * blob.extents.max())
    np.testing.assert_allclose(np.array(grid.origin) + 0.5 * side, blob.bounds.mean(axis=0), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"), [("resolution", 1), ("resolution", 9000), ("margin", -0.1), ("subvoxel", 0), ("votes", 2)]
)
def test_options_that_cannot_work(blob: trimesh.Trimesh, name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--{name} is {value}"):
        voxelize(*arrays(blob), VoxelizeOptions(**{name: value}))


def test_a_point_has_no_extent() -> None:
    with pytest.raises(InputError, match="extent"):
        voxelize(np.ones((3, 3)), np.array([[0, 1, 2]]), VoxelizeOptions(resolution=8))


def test_more_than_the_memory_is_refused(blob: trimesh.Trimesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common_ns.data.memory.available_memory", lambda: 2**28)
    with pytest.raises(InputError, match=r"an occupancy of 4096³ voxels needs .* GiB of memory and 0.2 GiB"):
        voxelize(*arrays(blob), VoxelizeOptions(resolution=4096))
