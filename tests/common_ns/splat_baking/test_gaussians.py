"""Gaussians in other coordinates, and their files."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from common_ns.errors import InputError
from common_ns.splat_baking.gaussians import Gaussians, facing, multiplied, quaternion_of, turned_coefficients
from common_ns.splat_baking.ply import read_ply, save_ply
from common_ns.splats import rasterize
from common_ns.splats.covariance import covariances, rotations
from common_ns.splats.harmonics import colors

K = torch.tensor([[40.0, 0.0, 24.0], [0.0, 40.0, 16.0], [0.0, 0.0, 1.0]])
VIEWMAT = torch.eye(4)


def cloud(count: int = 200, degree: int = 2) -> Gaussians:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Gaussians(
        means=normal(count, 3) + torch.tensor([0.0, 0.0, 4.0]),
        quats=torch.nn.functional.normalize(normal(count, 4), dim=-1),
        scales=(0.5 * normal(count, 3) - 2.0).exp(),
        opacities=(2.0 * normal(count)).sigmoid(),
        coefficients=0.4 * normal(count, (degree + 1) ** 2, 3),
    )


def picture(gaussians: Gaussians, viewmat: torch.Tensor = VIEWMAT) -> torch.Tensor:
    each = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.coefficients)
    return rasterize(*each, viewmat, K, 48, 32).color


def similarity() -> np.ndarray:
    return np.concatenate([2.5 * Rotation.random(random_state=1).as_matrix(), [[1.0], [-2.0], [0.5]]], axis=1)


def test_a_moved_camera_sees_the_same_of_moved_gaussians():
    gaussians, matrix = cloud(degree=3), similarity()
    rotation, factor = torch.from_numpy(matrix[:, :3] / 2.5), 2.5
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = rotation.T
    viewmat[:3, 3] = -rotation.T @ torch.from_numpy(matrix[:, 3])
    moved = gaussians.transformed(matrix)
    torch.testing.assert_close(moved.scales, factor * gaussians.scales)
    torch.testing.assert_close(picture(moved, viewmat.float()), picture(gaussians), atol=3e-4, rtol=0)
    assert picture(gaussians).std() > 0.05


def test_covariances_move_as_matrices_do():
    gaussians, matrix = cloud(), similarity()
    linear = torch.from_numpy(matrix[:, :3]).float()
    moved = gaussians.transformed(matrix)
    expected = linear @ covariances(gaussians.quats, gaussians.scales) @ linear.T
    torch.testing.assert_close(covariances(moved.quats, moved.scales), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("matrix", [np.diag([1.0, 1.0, -1.0]), np.diag([1.0, 2.0, 1.0])])
def test_mirrors_and_shears_are_refused(matrix):
    with pytest.raises(ValueError, match="mirrors or shears"):
        cloud().transformed(np.concatenate([matrix, np.zeros((3, 1))], axis=1))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_turned_coefficients_show_turned_directions_the_same_colors(degree):
    coefficients = cloud(degree=degree).coefficients.double() * 0.2
    rotation = torch.from_numpy(Rotation.random(random_state=3).as_matrix())
    directions = torch.randn(200, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    turned = turned_coefficients(coefficients, rotation)
    torch.testing.assert_close(
        colors(directions @ rotation.T, turned, degree), colors(directions, coefficients, degree)
    )


def test_an_exposure_changes_the_picture_as_it_changes_colors():
    gaussians = cloud()
    gaussians.coefficients[:, 1:] *= 0.05
    gaussians.coefficients[:, 0] = gaussians.coefficients[:, 0].clamp(-1.0, 1.0)
    affine = torch.tensor([[0.9, 0.05, 0.0, 0.03], [0.0, 1.1, 0.0, 0.02], [0.02, 0.0, 0.8, 0.05]])
    directions = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    before = colors(directions, gaussians.coefficients, 2)
    assert before.min() > 0
    after = colors(directions, gaussians.exposed(affine).coefficients, 2)
    torch.testing.assert_close(after, before @ affine[:, :3].T + affine[:, 3])


def test_quaternions_follow_matrices():
    first, second = (torch.from_numpy(Rotation.random(random_state=seed).as_matrix()) for seed in (1, 2))
    product = multiplied(quaternion_of(first), quaternion_of(second))
    torch.testing.assert_close(rotations(product), first @ second)


def test_discs_face_their_normals():
    normals = torch.randn(100, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    normals = torch.cat([normals, torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)])
    normals = torch.nn.functional.normalize(normals, dim=-1)
    torch.testing.assert_close(rotations(facing(normals))[..., 2], normals, atol=1e-6, rtol=0)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_what_is_written_is_read_again(tmp_path, degree):
    gaussians = cloud(degree=degree)
    again = read_ply(save_ply(gaussians, tmp_path / "out" / "scene.ply"))
    assert again.coefficients.shape == gaussians.coefficients.shape
    torch.testing.assert_close(again.coefficients, gaussians.coefficients)
    assert (picture(again) - picture(gaussians)).abs().max() < 1 / 255


def test_columns_are_those_of_gaussian_splatting(tmp_path):
    """Read without this suite's reader: with plyfile's meaning of the format, column by column."""
    gaussians = cloud(3, degree=1)
    content = save_ply(gaussians, tmp_path / "a.ply").read_bytes()
    header, _, body = content.partition(b"end_header\n")
    lines = header.decode().split("\n")
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 3"]
    names = [line.split()[2] for line in lines[3:-1]]
    assert [line.split()[:2] for line in lines[3:-1]] == [["property", "float"]] * len(names)
    row = dict(zip(names, struct.unpack_from(f"<{len(names)}f", body, 4 * len(names))))  # the second Gaussian
    assert len(body) == 3 * 4 * len(names)
    expected = {f"f_dc_{c}": gaussians.coefficients[1, 0, c] for c in range(3)}
    # All of red, then all of green, then all of blue.
    expected |= {f"f_rest_{3 * c + k}": gaussians.coefficients[1, 1 + k, c] for c in range(3) for k in range(3)}
    expected |= {f"rot_{i}": gaussians.quats[1, i] for i in range(4)}
    expected |= {f"scale_{i}": gaussians.scales[1, i].log() for i in range(3)}
    expected |= dict(zip("xyz", gaussians.means[1])) | {"opacity": torch.logit(gaussians.opacities[1])}
    assert set(names) == set(expected) | {"nx", "ny", "nz"}
    assert all(row[name] == pytest.approx(float(value), abs=1e-5) for name, value in expected.items())


def test_opacities_of_0_and_1_stay_finite(tmp_path):
    gaussians = cloud(2)
    gaussians.opacities[:] = torch.tensor([0.0, 1.0])
    again = read_ply(save_ply(gaussians, tmp_path / "a.ply"))
    torch.testing.assert_close(again.opacities, gaussians.opacities, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-5], "cut off"),
        (lambda content: content.replace(b"opacity", b"opaqueness", 1), "it lacks opacity"),
        (lambda content: content.replace(b"binary_little_endian", b"ascii", 1), "not a binary little-endian PLY"),
        (lambda content: content.replace(b"property float x", b"property list uchar int x", 1), "have lists"),
        (lambda content: content.replace(b"f_rest_0", b"g_rest_0", 1), "it lacks f_rest_0|23 columns"),
        (lambda content: b"", "not a binary"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, change, message):
    file = save_ply(cloud(5), tmp_path / "a.ply")
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(InputError, match=message) as error:
        read_ply(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)
