"""Few Gaussians in place of many: those that count, and grown."""

from __future__ import annotations

import numpy as np
import pytest

from common_ns.viewer_preview.thinning import contributions, growth, largest, size_groups


def test_a_gaussian_weighs_as_its_picture_does_where_it_shows_its_face():
    """Against the sum over the pixels of the projection of each, seen along the axis in which it is thinnest."""
    rng = np.random.default_rng(0)
    scales, opacities = rng.uniform(0.3, 2.0, (20, 3)), rng.uniform(0.1, 1.0, 20)
    grid = np.stack(np.meshgrid(*2 * [np.arange(-10.0, 10.0, 0.1)]), axis=-1)
    sums = []
    for scale, opacity in zip(scales, opacities):
        x, y = np.delete(scale, scale.argmin())
        sums.append(opacity * np.exp(-0.5 * ((grid[..., 0] / x) ** 2 + (grid[..., 1] / y) ** 2)).sum() * 0.01)
    assert np.allclose(sums, 2.0 * np.pi * contributions(scales, opacities), rtol=1e-3)


@pytest.mark.parametrize("count", [1, 10, 99, 100, 500])
def test_the_largest_are_kept_in_order(count):
    weights = np.random.default_rng(1).uniform(size=100)
    assert largest(weights, count).tolist() == sorted(range(100), key=lambda i: -weights[i])[:count]


def test_those_that_are_kept_contribute_as_much_as_all():
    rng = np.random.default_rng(2)
    scales, opacities = rng.uniform(0.3, 2.0, (500, 3)), rng.uniform(0.1, 1.0, 500)
    weights = contributions(scales, opacities)
    kept = largest(weights, 50)
    grown = contributions(growth(weights, kept) * scales[kept], opacities[kept])
    assert grown.sum() == pytest.approx(weights.sum())
    same = np.ones(400)
    assert growth(same, np.arange(100)) == pytest.approx(2.0), "√(N / n), where all are alike"


def test_every_point_is_in_the_group_of_its_size():
    radii = np.exp(np.random.default_rng(3).normal(0.0, 2.0, 300))
    groups = size_groups(radii)
    assert sorted(np.concatenate(list(groups.values()))) == list(range(300))
    for radius, places in groups.items():
        assert (radii[places] <= radius * (1 + 1e-6)).all() and (radius <= radii[places] * 2**0.5 * (1 + 1e-6)).all()
