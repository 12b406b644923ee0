"""Projection and harmonics against gsplat's own torch functions, against finite differences and by Monte Carlo."""

from __future__ import annotations

import pytest
import torch

from common_ns.splats import covariance, harmonics
from common_ns.splats.projection import CONIC, DEPTH, OPACITY, Frame, camera_center, project
from tests.common_ns.splats.scenes import camera, cloud

gsplat = pytest.importorskip("gsplat.cuda._torch_impl")


def frame_of(view, **options):
    k = view["K"].double()
    intrinsics = (float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]))
    given = {"sh_degree": 3, "antialiased": False, "eps2d": 0.3, "near": 0.01, "far": 1e10} | options
    return Frame(view["width"], view["height"], intrinsics, **given)


@pytest.mark.parametrize("focal", [40.0, 12.0])
@pytest.mark.parametrize("antialiased", [False, True])
def test_projection_is_gsplats(antialiased, focal):
    view, scene = camera(focal=focal), {name: value.double() for name, value in cloud(300, 0.3).items()}
    viewmat = view["viewmat"].double()
    found = project(*scene.values(), viewmat, frame_of(view, antialiased=antialiased, near=0.2, far=4.5))
    covars, _ = gsplat._quat_scale_to_covar_preci(scene["quats"], scene["scales"], True, False)
    radii, means2d, depths, conics, compensations = gsplat._fully_fused_projection(
        scene["means"],
        covars,
        viewmat[None],
        view["K"].double()[None],
        view["width"],
        view["height"],
        near_plane=0.2,
        far_plane=4.5,
        calc_compensations=antialiased,
    )
    seen = torch.nonzero(radii[0])[:, 0]
    assert 50 < len(seen) < 290
    torch.testing.assert_close(found.ids, seen)
    torch.testing.assert_close(found.radii, radii[0, seen])
    torch.testing.assert_close(found.means2d, means2d[0, seen])
    torch.testing.assert_close(found.splats[:, DEPTH.start], depths[0, seen])
    torch.testing.assert_close(found.splats[:, CONIC], conics[0, seen])
    share = compensations[0, seen] if antialiased else 1
    torch.testing.assert_close(found.splats[:, OPACITY.start], scene["opacities"][seen] * share)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_colors_are_gsplats(degree):
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    coefficients = torch.randn(50, 16, 3, generator=generator, dtype=torch.float64)
    expected = (gsplat._spherical_harmonics(degree, directions, coefficients) + 0.5).clamp(min=0)
    torch.testing.assert_close(harmonics.colors(directions, coefficients, degree), expected)


def test_harmonics_are_orthonormal():
    """Over the sphere, here Fibonacci's lattice, each squared has the mean 1/4π, and products of two have mean 0."""
    count = 20000
    z = 1 - (2 * torch.arange(count, dtype=torch.float64) + 1) / count
    angle = torch.arange(count, dtype=torch.float64) * torch.pi * (1 + 5**0.5)
    ring = (1 - z * z).sqrt()
    values = harmonics.basis(torch.stack([ring * angle.cos(), ring * angle.sin(), z], -1), 3)
    product = 4 * torch.pi * values.T @ values / count
    torch.testing.assert_close(product, torch.eye(16, dtype=torch.float64), atol=1e-4, rtol=0)


def test_covariance_is_that_of_points_drawn_from_the_gaussian():
    quat, scale = torch.tensor([0.9, -0.3, 0.5, 0.2]).double(), torch.tensor([0.5, 2.0, 1.0]).double()
    points = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = (points * scale) @ covariance.rotations(quat).T
    expected = covariance.covariances(quat, scale)
    torch.testing.assert_close(torch.cov(points.T), expected, atol=0.04, rtol=0)
    axis = covariance.shortest_axes(quat, scale)
    torch.testing.assert_close(expected @ axis, 0.25 * axis)


def test_the_ellipse_is_the_image_of_points_of_a_small_gaussian():
    """A Gaussian that is small beside its distance: its points' images have the covariance that is claimed."""
    view, frame = camera(), frame_of(camera(), eps2d=0.0)
    scene = {name: value[:1].double() for name, value in cloud().items()}
    scene["means"], scene["scales"] = torch.tensor([[0.2, 0.1, -0.3]]).double(), scene["scales"] * 0.02
    viewmat, noise = view["viewmat"].double(), torch.randn(200_000, 3, generator=torch.Generator().manual_seed(1))
    root = covariance.square_roots(scene["quats"], scene["scales"])[0]
    points = (scene["means"] + noise.double() @ root.T) @ viewmat[:3, :3].T + viewmat[:3, 3]
    images = points[:, :2] / points[:, 2:] * torch.tensor(frame.intrinsics[:2])
    a, b, c = torch.linalg.inv(torch.cov(images.T)).flatten()[[0, 1, 3]]
    conic = project(*scene.values(), viewmat, frame).splats[0, CONIC]
    torch.testing.assert_close(conic, torch.stack([a, b, c]), rtol=0.02, atol=0)


def test_normals_face_the_camera_along_the_shortest_axis():
    view, scene = camera(), {name: value.double() for name, value in cloud().items()}
    viewmat = view["viewmat"].double()
    found = project(*scene.values(), viewmat, frame_of(view))
    normals = found.splats[:, 8:]
    toward = scene["means"][found.ids] - camera_center(viewmat)
    assert ((normals * toward).sum(-1) <= 0).all()
    root = covariance.square_roots(scene["quats"], scene["scales"])[found.ids]
    spread = (root.mT @ normals[..., None])[..., 0].norm(dim=-1)
    torch.testing.assert_close(spread, scene["scales"][found.ids].min(-1).values)
