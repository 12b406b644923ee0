"""The contraction and its closed forms against autograd's Jacobian, full matrices and Monte Carlo."""

import math

import pytest
import torch
from torch import Tensor

from common_ns.rays.cones import frustum_moments
from common_ns.rays.contraction import contract, contract_isotropic, contraction_scales, lift_frustum
from common_ns.rays.icosahedron import BasisName, basis_directions
from tests.common_ns.rays.full_covariance import contract_gaussian
from tests.zip_nerf_numbers import numbers_of

DOUBLE = torch.float64


def points_at(*distances: float, each: int = 4) -> Tensor:
    """Points [n, 3] in random directions, `each` at every distance from the origin."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(
        torch.randn(len(distances), each, 3, generator=generator, dtype=DOUBLE), dim=-1
    )
    return (directions * torch.tensor(distances, dtype=DOUBLE)[:, None, None]).reshape(-1, 3)


EVERYWHERE = points_at(0.01, 0.4, 0.999, 1.001, 1.5, 4.0, 300.0)


def exact_basis(name: BasisName) -> Tensor:
    return torch.nn.functional.normalize(basis_directions(name).double(), dim=0)


def jacobians(x: Tensor) -> Tensor:
    return torch.stack([torch.autograd.functional.jacobian(contract, point) for point in x])  # type: ignore[arg-type]


def covariances(count: int) -> Tensor:
    """Random positive definite matrices [count, 3, 3]."""
    root = torch.randn(count, 3, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    return root @ root.mT


def frustum_covariance(direction: Tensor, t_var: Tensor, r_var: Tensor) -> Tensor:
    outer = direction[..., :, None] * direction[..., None, :]
    across = torch.eye(3, dtype=direction.dtype) - outer / direction.square().sum(-1)[..., None, None]
    return t_var[..., None] * outer + r_var[..., None] * across


def random_frustums(rays: int, samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means [R, S, 3] inside and outside, directions [R, 1, 3] of lengths other than 1, variances [R, S, 1]."""
    generator = torch.Generator().manual_seed(2)
    mean = torch.randn(rays, samples, 3, generator=generator, dtype=DOUBLE)
    mean = mean * 10 ** torch.linspace(-1.5, 2, samples, dtype=DOUBLE)[:, None]
    direction = 2.0 * torch.randn(rays, 1, 3, generator=generator, dtype=DOUBLE)
    t_var, r_var = torch.rand(2, rays, samples, 1, generator=generator, dtype=DOUBLE)
    return mean, direction, t_var, 0.1 * r_var


def test_unit_ball_stays_and_the_rest_goes_into_radius_2():
    inside, outside = points_at(0.0, 0.3, 1.0), points_at(1.0, 1.7, 50.0, 1e6)
    assert torch.equal(contract(inside), inside)
    distance = outside.norm(dim=-1, keepdim=True)
    assert torch.allclose(contract(outside), (2.0 - 1.0 / distance) * outside / distance, rtol=1e-12)
    far = contract(points_at(1e3, 1e9).float())
    assert torch.isfinite(far).all() and far.norm(dim=-1).max() <= 2.0 + 1e-6


def test_scales_are_the_eigenvalues_of_the_jacobian():
    along, across, inverse = contraction_scales(EVERYWHERE)
    distance = EVERYWHERE.norm(dim=-1, keepdim=True)
    unit = EVERYWHERE / distance
    outer = unit[:, :, None] * unit[:, None, :]
    expected = along[..., None] * outer + across[..., None] * (torch.eye(3, dtype=DOUBLE) - outer)
    assert torch.allclose(jacobians(EVERYWHERE), expected, rtol=1e-9, atol=1e-15)
    assert torch.allclose(inverse, 1.0 / distance.clamp_min(1.0))


def test_value_and_jacobian_are_continuous_at_the_unit_sphere():
    sphere = points_at(1.0, each=10)
    inside, outside = sphere * (1.0 - 1e-9), sphere * (1.0 + 1e-9)
    assert torch.allclose(contract(inside), contract(outside), atol=1e-8)
    assert torch.allclose(jacobians(inside), jacobians(outside), atol=1e-8)


@pytest.mark.parametrize("point", [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [1e-25, 0.0, 0.0]])
def test_gradients_are_finite_at_the_origin_and_on_the_unit_sphere(point):
    """nerfstudio's contraction has a NaN gradient at the origin."""
    x = torch.tensor([point], requires_grad=True)
    mean, cov = contract_gaussian(x, torch.eye(3)[None])
    lifted, var = lift_frustum(
        x, torch.tensor([[0.0, 1.0, 1.0]]), torch.ones(1, 1), torch.ones(1, 1), torch.eye(3), True
    )
    total = contract(x).sum() + mean.sum() + cov.sum() + lifted.sum() + var.sum()
    (gradient,) = torch.autograd.grad(total, x)
    assert torch.isfinite(gradient).all()


def test_contracted_gaussian_is_linearized_at_its_mean():
    cov = covariances(len(EVERYWHERE))
    mean, contracted = contract_gaussian(EVERYWHERE, cov)
    jacobian = jacobians(EVERYWHERE)
    assert torch.allclose(mean, contract(EVERYWHERE))
    assert torch.allclose(contracted, jacobian @ cov @ jacobian.mT, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("distance", [0.5, 1.3, 6.0])
def test_contracted_gaussian_matches_monte_carlo(distance):
    (center,) = points_at(distance, each=1)
    cov = (0.01 * distance) ** 2 * covariances(1)[0]
    noise = torch.randn(100_000, 3, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    samples = contract(center + noise @ torch.linalg.cholesky(cov).mT)
    mean, contracted = contract_gaussian(center, cov)
    assert torch.allclose(mean, samples.mean(0), atol=1e-3)
    assert torch.allclose(contracted, samples.T.cov(), atol=0.03 * float(contracted.diagonal().max()))


@pytest.mark.parametrize("contracted", [True, False])
@pytest.mark.parametrize("name", ["icosahedron-21", "axes"])
def test_lifted_frustum_equals_the_full_covariance(contracted, name):
    basis = exact_basis(name)
    mean, direction, t_var, r_var = random_frustums(rays=5, samples=9)
    cov = frustum_covariance(direction.expand_as(mean), t_var, r_var)
    full_mean, full_cov = contract_gaussian(mean, cov) if contracted else (mean, cov)
    lifted, variance = lift_frustum(mean, direction, t_var, r_var, basis, contracted)
    assert torch.allclose(lifted, full_mean @ basis, rtol=1e-10)
    expected = torch.einsum("ik,...ij,jk->...k", basis, full_cov, basis)
    # Outside, what two large numbers leave of each other is small: compare against the largest along any direction.
    assert ((variance - expected).abs() <= 1e-9 * expected.amax(-1, keepdim=True)).all()


def test_lifting_one_ray_at_a_time_gives_the_same():
    mean, direction, t_var, r_var = random_frustums(rays=3, samples=4)
    basis = exact_basis("icosahedron-6")
    together = lift_frustum(mean, direction, t_var, r_var, basis, True)
    for ray in range(3):
        alone = lift_frustum(mean[ray], direction[ray], t_var[ray], r_var[ray], basis, True)
        assert all(torch.allclose(part[ray], other) for part, other in zip(together, alone))


@pytest.mark.parametrize("contracted", [True, False])
@pytest.mark.parametrize(("along", "across"), [(1.0, 1.0), (1e4, 1e-6), (0.0, 1e-3), (1e-3, 0.0)])
def test_variances_are_finite_and_not_negative_in_float32(contracted, along, across):
    mean, direction, t_var, r_var = (value.float() for value in random_frustums(rays=50, samples=20))
    for spread in (1e-6, 1.0, 100.0):
        variance = lift_frustum(
            mean * spread, direction, along * t_var, across * r_var, basis_directions("icosahedron-21"), contracted
        )[1]
        assert torch.isfinite(variance).all() and (variance >= 0).all()


def test_float32_is_accurate_for_distant_samples_of_an_outward_ray():
    """Along such a ray all but 1/r² of the direction cancels in the contraction."""
    distance = torch.tensor([2.0, 20.0, 900.0], dtype=DOUBLE)[:, None]
    direction = torch.nn.functional.normalize(torch.tensor([[0.3, -0.5, 0.8]], dtype=DOUBLE), dim=-1)
    mean = torch.tensor([0.2, 0.1, -0.1], dtype=DOUBLE) + distance * direction
    arguments = mean, direction, (0.2 * distance) ** 2, (1e-3 * distance) ** 2, exact_basis("axes")
    exact = lift_frustum(*arguments, True)[1]
    rough = lift_frustum(*(value.float() for value in arguments), True)[1]
    assert torch.allclose(rough.double(), exact, rtol=1e-2)


def test_isotropic_gaussian_does_not_depend_on_the_direction():
    basis = exact_basis("icosahedron-21")
    r_var = torch.full((len(EVERYWHERE), 1), 0.02, dtype=DOUBLE)
    results = [
        # t is measured in units of the direction's length.
        lift_frustum(EVERYWHERE, direction, r_var / direction.square().sum(), r_var, basis, True)[1]
        for direction in torch.tensor([[1.0, 0, 0], [0, 0, 3.0], [0.2, -0.5, 0.1]], dtype=DOUBLE)
    ]
    assert torch.allclose(results[0], results[1]) and torch.allclose(results[0], results[2])
    expected = contract_gaussian(EVERYWHERE, r_var[..., None] * torch.eye(3, dtype=DOUBLE))[1]
    assert torch.allclose(results[0], torch.einsum("ik,nij,jk->nk", basis, expected, basis))


def test_points_have_no_extent():
    zero = torch.zeros(len(EVERYWHERE), 1, dtype=DOUBLE)
    basis = exact_basis("axes")
    lifted, variance = lift_frustum(EVERYWHERE, EVERYWHERE.flip(-1), zero, zero, basis, True)
    assert torch.equal(variance, torch.zeros_like(variance))
    assert torch.allclose(lifted, contract(EVERYWHERE))


@pytest.mark.parametrize("near", [0.3, 2.5])
def test_conical_frustum_matches_monte_carlo(near):
    """Samples of the frustum itself, contracted one by one, against the Gaussian that stands for it."""
    far, radius = 1.04 * near, 0.01
    origin = torch.tensor([0.1, -0.2, 0.05], dtype=DOUBLE)
    axis = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, -1.0], dtype=DOUBLE), dim=-1)
    side = torch.nn.functional.normalize(torch.linalg.cross(axis, torch.tensor([0.0, 0, 1], dtype=DOUBLE)), dim=-1)
    up = torch.linalg.cross(axis, side)
    u, v, w = torch.rand(3, 200_000, 1, generator=torch.Generator().manual_seed(4), dtype=DOUBLE)
    t = (near**3 + u * (far**3 - near**3)) ** (1 / 3)  # uniform in volume: slices grow with t²
    offset, angle = radius * t * v.sqrt(), 2 * math.pi * w
    samples = contract(origin + t * axis + offset * (angle.cos() * side + angle.sin() * up))

    basis = exact_basis("icosahedron-21")
    ends = (torch.full((1,), value, dtype=DOUBLE) for value in (near, far, radius))
    t_mean, t_var, r_var = frustum_moments(*ends)
    lifted, variance = lift_frustum(origin + t_mean * axis, axis, t_var, r_var, basis, True)
    projected = samples @ basis
    assert torch.allclose(lifted, projected.mean(0), atol=1e-3)
    assert torch.allclose(variance, projected.var(0), rtol=0.03)


@pytest.mark.parametrize("contracted", [True, False])
def test_lifting_has_exact_gradients(contracted):
    """Rendered normals are the density's gradient through this function."""
    mean, direction, t_var, r_var = random_frustums(rays=2, samples=3)
    inputs = [value.requires_grad_() for value in (mean, direction, t_var, r_var)]
    basis = exact_basis("icosahedron-6")
    assert torch.autograd.gradcheck(lambda *x: lift_frustum(*x, basis, contracted), inputs)


def test_isotropic_gaussians_grow_by_the_cube_root_of_the_volume():
    std = torch.linspace(0.1, 2.0, len(EVERYWHERE), dtype=DOUBLE)[:, None]
    mean, contracted = contract_isotropic(EVERYWHERE, std)
    torch.testing.assert_close(mean, contract(EVERYWHERE))
    volume = jacobians(EVERYWHERE).det().abs()[:, None]
    torch.testing.assert_close(contracted, std * volume.pow(1 / 3))


def test_isotropic_gaussians_of_the_zip_nerf_authors():
    known = {name: torch.tensor(values) for name, values in numbers_of("contraction").items()}
    mean, std = contract_isotropic(known["mean"], known["std"][:, None])
    torch.testing.assert_close(mean, known["contracted"], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(std[:, 0], known["contracted_std"], atol=0, rtol=2e-4)  # from a float32 determinant
    torch.testing.assert_close(std[:, 0], known["std"] * known["isoscale"], atol=0, rtol=1e-5)


def test_contracting_isotropic_gaussians_has_exact_gradients():
    """Inside of the unit ball and outside; on it the derivative jumps."""
    mean = torch.tensor([[0.1, -0.2, 0.3], [0.5, 0.6, -0.4], [0.9, -0.8, 0.2], [-7.0, 3.0, 50.0]], dtype=DOUBLE)
    std = torch.tensor([[0.1], [0.2], [0.5], [4.0]], dtype=DOUBLE)
    inputs = [each.requires_grad_() for each in (mean, std)]
    assert torch.autograd.gradcheck(contract_isotropic, inputs)
