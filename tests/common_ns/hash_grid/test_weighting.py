"""Weights of levels against Monte Carlo, the authors' numbers and loops."""

import torch

from common_ns.hash_grid.levels import make_shape
from common_ns.hash_grid.weighting import cells_per_unit, level_weights, scale_features, weight_features
from tests.zip_nerf_numbers import numbers_of


def test_a_weight_is_the_share_of_a_gaussian_within_a_cell_about_it():
    std, cells = torch.tensor([[0.01], [0.1]]), torch.tensor([4.0, 64.0])
    draws = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    shares = torch.stack([((draws * std[i] * cells[j]).abs() < 0.5).float().mean() for i in (0, 1) for j in (0, 1)])
    torch.testing.assert_close(level_weights(std, cells).flatten(), shares, atol=4e-3, rtol=0)


def test_the_authors_approximation():
    known = numbers_of("weighting")
    std, cells = torch.tensor(known["std"])[:, None], torch.tensor(known["cells"])
    rough = level_weights(std, cells, approximate=True)
    torch.testing.assert_close(rough, torch.tensor(known["weights"]), atol=3e-4, rtol=1e-3)  # theirs rounds 1 − exp
    exact = level_weights(std, cells)
    torch.testing.assert_close(rough, exact, atol=0.007, rtol=0)
    assert not torch.equal(rough, exact)


def test_points_have_weight_1_and_huge_gaussians_nearly_none():
    weights = level_weights(torch.tensor([[0.0], [1e4]]), torch.tensor([16.0, 2048.0]))
    assert (weights[0] == 1).all() and (weights[1] < 1e-4).all() and (weights[1] >= 0).all()


def test_cells_are_those_of_the_grid():
    shape = make_shape(3, 2, 12, 16, 64, smooth=False)
    assert cells_per_unit(shape).tolist() == [15.0, 31.0, 63.0]


def test_features_are_multiplied_level_by_level():
    generator = torch.Generator().manual_seed(0)
    features, weights = torch.rand(2, 4, 6, generator=generator), torch.rand(2, 4, 3, generator=generator)
    found = weight_features(features, weights)
    for level in range(3):
        part = slice(2 * level, 2 * level + 2)
        torch.testing.assert_close(found[..., part], features[..., part] * weights[..., level : level + 1])


def test_scale_features_are_as_large_as_the_features_and_do_not_train_them():
    mean_squares = torch.tensor([0.0, 9e-8], requires_grad=True)
    weights = torch.tensor([[1.0, 1.0], [0.5, 0.0]], requires_grad=True)
    found = scale_features(weights, mean_squares, init_scale=4e-4)
    torch.testing.assert_close(found, torch.tensor([[4e-4, 5e-4], [0.0, -5e-4]]))
    gradients = torch.autograd.grad(found.sum(), (weights, mean_squares), allow_unused=True)
    assert gradients[0] is not None and gradients[1] is None
