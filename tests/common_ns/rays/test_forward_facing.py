"""Normalized device coordinates against autograd's Jacobian, Monte Carlo, straight lines and the authors' rays.

`data/authors_ndc.json` was made by running `camera_utils.convert_to_ndc` of github.com/google-research/multinerf,
commit 5b4d4f64608ec8077222c52fdf814d40acc10bc1, with numpy in float64: focal length 300, image 400 × 320, near 0.75.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common_ns.rays.forward_facing import (
    lift_frustum_ndc,
    mean_pose,
    ndc_distance_maps,
    ndc_isotropic,
    to_ndc,
)
from common_ns.rays.icosahedron import basis_directions

DOUBLE = torch.float64
FACTORS = torch.tensor([1.5, 1.875, 0.75], dtype=DOUBLE)
AUTHORS = Path(__file__).parent / "data/authors_ndc.json"


def points(count: int = 12, lowest: float = 0.8, highest: float = 300.0) -> Tensor:
    """Points [n, 3] of the reference frame in view, at depths that grow by equal ratios."""
    generator = torch.Generator().manual_seed(0)
    depth = torch.logspace(*torch.tensor([lowest, highest]).log10().tolist(), count, dtype=DOUBLE)[:, None]
    across = 2.0 * torch.rand(count, 2, generator=generator, dtype=DOUBLE) - 1.0
    return torch.cat([across * depth, -depth], dim=-1)


def jacobians(x: Tensor) -> Tensor:
    """By central differences."""
    step = 1e-6 * x.norm(dim=-1)[:, None]
    columns = [(to_ndc(x + step * e, FACTORS) - to_ndc(x - step * e, FACTORS)) / (2 * step) for e in torch.eye(3)]
    return torch.stack(columns, dim=-1)


def frustum_covariance(direction: Tensor, t_var: Tensor, r_var: Tensor) -> Tensor:
    outer = direction[..., :, None] * direction[..., None, :]
    across = torch.eye(3, dtype=direction.dtype) - outer / direction.square().sum(-1)[..., None, None]
    return t_var[..., None] * outer + r_var[..., None] * across


def test_rays_are_those_of_the_authors():
    """A point of a ray goes where their mapped ray has a point, and the horizon where it ends."""
    numbers = {name: torch.tensor(value, dtype=DOUBLE) for name, value in json.loads(AUTHORS.read_text()).items()}
    for t in (1.2, 1.7, 30.0, 1e9):
        ours = to_ndc(numbers["origins"] + t * numbers["directions"], numbers["factors"])
        fraction = (ours[:, 2:] - numbers["origins_ndc"][:, 2:]) / numbers["directions_ndc"][:, 2:]
        theirs = numbers["origins_ndc"] + fraction * numbers["directions_ndc"]
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        assert fraction.min() > 0 and (fraction.min() > 1 - 1e-8) == (t == 1e9)


def test_the_cameras_view_fills_the_cube():
    corner = torch.tensor([1 / 1.5, 1 / 1.875, -1.0], dtype=DOUBLE)
    for depth, z in ((0.75, -1.0), (1.5, 0.0), (7.5, 0.8), (1e9, 1.0)):
        torch.testing.assert_close(to_ndc(depth * corner, FACTORS), torch.tensor([1.0, 1.0, z], dtype=DOUBLE))


def test_what_is_before_the_near_plane_goes_onto_it_with_finite_gradients():
    behind = torch.tensor(
        [[0.1, 0.2, -0.75], [0.1, 0.2, -0.3], [0.1, 0.2, 0.0], [0.1, 0.2, 5.0], [0.0, 0.0, 0.0]], requires_grad=True
    )
    factors = FACTORS.float()
    one = torch.ones(5, 1)
    mapped, std = ndc_isotropic(behind, one, factors)
    lifted, variance = lift_frustum_ndc(behind, one * torch.tensor([0.0, 0.3, -1.0]), one, one, torch.eye(3), factors)
    torch.testing.assert_close(mapped[:4], torch.tensor([0.2, 0.5, -1.0]).expand(4, 3))
    assert torch.allclose(lifted, mapped) and std.min() > 0 and torch.allclose(std, std[:1].expand(5, 1))
    assert not variance[1:, 2].any() and variance[:, :2].min() > 0
    (gradient,) = torch.autograd.grad((mapped.sum() + std.sum() + variance.sum()), behind)
    assert torch.isfinite(gradient).all() and not gradient[1:, 2].any()


def test_far_and_wide_stays_finite_in_float32():
    far = torch.tensor([[0.3, 0.1, -1.0], [1.0, -1.0, 0.2]]) * torch.tensor([1e6, 1e9])[:, None, None]
    one = torch.ones(1, 1)
    mapped, std = ndc_isotropic(far, 1e5 * one, FACTORS.float())
    lifted, variance = lift_frustum_ndc(far, far, one, 1e4 * one, basis_directions("icosahedron-21"), FACTORS.float())
    assert all(torch.isfinite(value).all() for value in (mapped, std, lifted, variance))
    assert std[:, 0].min() > 0


def test_isotropic_gaussians_keep_their_volumes_change():
    x = points()
    mapped, std = ndc_isotropic(x, torch.full((len(x), 1), 0.3, dtype=DOUBLE), FACTORS)
    assert torch.equal(mapped, to_ndc(x, FACTORS))
    torch.testing.assert_close(std[:, 0], 0.3 * jacobians(x).det().abs() ** (1 / 3), rtol=1e-6, atol=0)


def test_variances_are_those_of_the_full_covariance():
    x, basis = points(), basis_directions("icosahedron-21").double()
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(len(x), 3, generator=generator, dtype=DOUBLE)
    t_var, r_var = torch.rand(2, len(x), 1, generator=generator, dtype=DOUBLE)
    lifted, variance = lift_frustum_ndc(x, direction, t_var, r_var, basis, FACTORS)
    jacobian = jacobians(x)
    covariance = jacobian @ frustum_covariance(direction, t_var, r_var) @ jacobian.mT
    torch.testing.assert_close(lifted, to_ndc(x, FACTORS) @ basis)
    expected = torch.einsum("ik,nij,jk->nk", basis, covariance, basis)
    torch.testing.assert_close(variance, expected, rtol=1e-5, atol=1e-12)


def test_small_gaussians_have_the_moments_of_mapped_samples():
    """Monte Carlo through the exact map."""
    generator = torch.Generator().manual_seed(3)
    x = points(4, 1.0, 40.0)
    direction = torch.nn.functional.normalize(x, dim=-1)
    t_var, r_var = (0.03 * x[:, 2:]).square(), (0.01 * x[:, 2:]).square()
    root = torch.linalg.cholesky(frustum_covariance(direction, t_var, r_var))
    normal = torch.randn(200_000, 1, 3, 1, generator=generator, dtype=DOUBLE)
    samples = to_ndc(x + (root @ normal)[..., 0], FACTORS)
    lifted, variance = lift_frustum_ndc(x, direction, t_var, r_var, torch.eye(3, dtype=DOUBLE), FACTORS)
    torch.testing.assert_close(samples.var(dim=0), variance, rtol=0.02, atol=0)
    assert ((samples.mean(dim=0) - lifted).abs() < 0.1 * variance.sqrt()).all()


def rays() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rays before, on and behind the near plane: origins, directions of any length, near and far planes."""
    origins = torch.tensor([[0.2, 0.1, 0.4], [0.0, -0.3, 0.0], [0.1, 0.0, -1.3]], dtype=DOUBLE)
    directions = torch.tensor([[0.3, 0.1, -1.0], [-0.4, 0.2, -0.7], [0.1, -0.5, -0.9]], dtype=DOUBLE)
    return origins, directions, torch.zeros(3, 1, dtype=DOUBLE), torch.full((3, 1), 100.0, dtype=DOUBLE)


def test_even_steps_along_a_ray_are_even_steps_on_a_line():
    origins, directions, near, far = rays()
    to_distance, to_spacing = ndc_distance_maps(-origins[:, 2:], -directions[:, 2:], near, far, FACTORS[2])
    s = torch.linspace(0.0, 1.0, 9, dtype=DOUBLE).expand(3, 9)
    t = to_distance(s)
    steps = to_ndc(origins[:, None] + t[..., None] * directions[:, None], FACTORS).diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(to_spacing(t), s)
    depth = -origins[:, 2:] - t[:, :1] * directions[:, 2:]
    torch.testing.assert_close(depth[:, 0], torch.tensor([0.75, 0.75, 1.3], dtype=DOUBLE))
    torch.testing.assert_close(t[:, -1], far[:, 0])


def test_rays_begin_at_their_own_near_plane_if_that_is_farther():
    origins, directions, near, far = rays()
    to_distance, _ = ndc_distance_maps(-origins[:, 2:], -directions[:, 2:], near + 5.0, far, FACTORS[2])
    torch.testing.assert_close(to_distance(torch.zeros(3, 1, dtype=DOUBLE)), near + 5.0)


@pytest.mark.parametrize(("depth", "cosine", "far"), [(1.0, -0.8, 50.0), (1.0, 0.0, 50.0), (-3.0, 0.9, 2.0)])
def test_other_rays_are_divided_by_their_own_disparity(depth, cosine, far):
    """Backward, sideways, and ending before the near plane."""
    numbers = (torch.full((1, 1), value, dtype=DOUBLE) for value in (depth, cosine, 0.5, far))
    to_distance, to_spacing = ndc_distance_maps(*numbers, FACTORS[2])
    s = torch.linspace(0.0, 1.0, 6, dtype=DOUBLE)[None]
    t = to_distance(s)
    torch.testing.assert_close(1.0 / t, 2.0 + (1.0 / far - 2.0) * s)
    torch.testing.assert_close(to_spacing(t), s)


def test_a_ray_without_a_near_plane_is_divided_all_the_same():
    zero, far = torch.zeros(1, 1), torch.ones(1, 1)
    t = ndc_distance_maps(zero, -far, zero, far, FACTORS[2].float())[0](torch.linspace(0.0, 1.0, 6)[None])
    assert torch.isfinite(t).all() and (t.diff(dim=-1) > 0).all() and t[0, 0] < 1e-3


def test_mean_pose_is_between_poses():
    def turned(angle: float) -> Tensor:
        c, s = torch.tensor(angle, dtype=DOUBLE).cos(), torch.tensor(angle, dtype=DOUBLE).sin()
        pose = torch.eye(3, 4, dtype=DOUBLE)
        pose[0, 0], pose[0, 2], pose[2, 0], pose[2, 2] = c, s, -s, c
        pose[:, 3] = torch.tensor([angle, 1.0, 2.0])
        return pose

    pose = mean_pose(torch.stack([turned(0.1), turned(0.5)]))
    torch.testing.assert_close(pose, turned(0.3))
    rolled = turned(0.3)
    rolled[:, :2] *= -1  # head down: the pictures' tops cancel
    pose = mean_pose(torch.stack([turned(0.3), rolled]))
    torch.testing.assert_close(pose[:, :3].T @ pose[:, :3], torch.eye(3, dtype=DOUBLE))
    torch.testing.assert_close(pose[:, 2], turned(0.3)[:, 2])
    assert pose[:, :3].det() == pytest.approx(1.0)


def test_isotropic_gaussians_have_exact_gradients():
    """Before the near plane, where depth does not move a point, and behind it."""
    mean = torch.cat([points(6, highest=20.0), torch.tensor([[0.1, 0.2, -0.4], [0.3, 0.1, 0.5]], dtype=DOUBLE)])
    std = torch.linspace(0.1, 2.0, len(mean), dtype=DOUBLE)[:, None]
    inputs = [each.requires_grad_() for each in (mean, std)]
    assert torch.autograd.gradcheck(lambda *x: ndc_isotropic(*x, FACTORS), inputs)
