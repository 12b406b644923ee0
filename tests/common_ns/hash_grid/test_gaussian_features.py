"""Features of several Gaussians at once: against a loop, finite differences, and torch in double precision."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from common_ns.hash_grid import HashGrid, HashGridOptions
from common_ns.hash_grid.levels import level_weight
from common_ns.hash_grid.weighting import cells_per_unit, level_weights

OPTIONS = HashGridOptions(num_levels=4, log2_table_size=7, base_resolution=4, max_resolution=20, implementation="torch")


def make_grid(dtype: torch.dtype = torch.float64, **changes) -> HashGrid:
    """A small grid with features between −1 and 1."""
    grid = HashGrid(replace(OPTIONS, **changes))
    with torch.no_grad():
        grid.table.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
    return grid.to(dtype)


def make_points(grid: HashGrid, n: int, k: int) -> Tensor:
    """Positions in the cube and beyond, not so close to the border of a cell that rounding could decide which it is."""
    x = 1.2 * torch.rand(3 * n * k + 100, 3, generator=torch.Generator().manual_seed(2)) - 0.1
    for level in grid.shape.levels:
        place = x.clamp(0, 1) * level.scale + 0.5
        x = x[((place - place.round()).abs() > 1e-3).all(1)]
    return x[: n * k].reshape(n, k, 3)


def make_std(n: int, k: int) -> Tensor:
    """From points to Gaussians much larger than the cube."""
    std = 10 ** (6 * torch.rand(n, k, generator=torch.Generator().manual_seed(3)) - 4)
    std[:: max(n // 3, 1), 0] = 0
    return std


def interpolated(grid: HashGrid, point: list[float], index: int) -> Tensor:
    """A level's features of one position, vertex by vertex."""
    level, total = grid.shape.levels[index], torch.zeros(grid.shape.features, dtype=torch.float64)
    place = [min(max(p, 0.0), 1.0) * level.scale + 0.5 for p in point]
    cell = [math.floor(p) for p in place]
    for corner in range(8):
        bits = [corner >> axis & 1 for axis in range(3)]
        share = math.prod(p - c if bit else 1 - p + c for p, c, bit in zip(place, cell, bits))
        i, j, k = (c + bit for c, bit in zip(cell, bits))
        row = i + level.vertices * (j + level.vertices * k)
        if level.hashed:
            row = (i ^ (j * 2654435761) ^ (k * 805459861)) % level.size
        total += share * grid.table.detach()[level.offset + row].double()
    return total


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("active_levels", [4.0, 2.25])
def test_features_are_the_mean_of_each_points_weighted_ones(k, active_levels):
    grid = make_grid()
    grid.active_levels = active_levels
    points, std = make_points(grid, 5, k).double(), make_std(5, k).double()
    features, weights = grid.gaussian_features_and_weights(points, std)
    for n in range(5):
        for index, level in enumerate(grid.shape.levels):
            total, mass = torch.zeros(2, dtype=torch.float64), 0.0
            for point, s in zip(points[n].tolist(), std[n].tolist()):
                weight = math.erf(1 / (math.sqrt(8) * s * level.scale)) if s > 0 else 1.0
                total += weight * interpolated(grid, point, index) / k
                mass += weight / k
            found = features[n, 2 * index : 2 * index + 2]
            torch.testing.assert_close(found, level_weight(active_levels, index) * total, atol=1e-9, rtol=0)
            assert weights[n, index].item() == pytest.approx(mass, abs=1e-9)
    torch.testing.assert_close(grid.gaussian_features(points, std), features, atol=0, rtol=0)


def test_without_std_all_weigh_1():
    grid = make_grid()
    points = make_points(grid, 5, 3).double()
    features, weights = grid.gaussian_features_and_weights(points, None)
    torch.testing.assert_close(features, grid(points).mean(1))
    assert weights.shape == (5, 4) and (weights == 1).all()
    torch.testing.assert_close(grid.gaussian_features(points, torch.zeros(5, 3)), features)


class Gaussians(nn.Module):
    """A grid whose forward is that of Gaussians, for `functional_call`."""

    def __init__(self, grid: HashGrid, std: Tensor) -> None:
        super().__init__()
        self.grid, self.std = grid, std

    def forward(self, points: Tensor) -> Tensor:
        return self.grid.gaussian_features(points, self.std)


def test_derivatives_are_those_of_finite_differences():
    grid = make_grid(num_levels=2, log2_table_size=4, base_resolution=2, max_resolution=4)
    module = Gaussians(grid, make_std(2, 3).double().clamp(max=1))

    def features(table: Tensor, points: Tensor) -> Tensor:
        return torch.func.functional_call(module, {"grid.table": table}, (points,))

    inputs = (grid.table.detach().requires_grad_(), make_points(grid, 2, 3).double().requires_grad_())
    assert torch.autograd.gradcheck(features, inputs) and torch.autograd.gradgradcheck(features, inputs)


def quantities(grid: HashGrid, points: Tensor, std: Tensor | None) -> dict[str, Tensor]:
    """All that can be asked of a grid's features of Gaussians."""
    points = points.to(grid.table).requires_grad_()
    std = None if std is None else std.to(grid.table)
    features, weights = grid.gaussian_features_and_weights(points, std)
    generator = torch.Generator().manual_seed(4)
    cotangent = torch.randn(features.shape, generator=generator).to(features)
    inputs = (grid.table, points)
    by_table, by_points = torch.autograd.grad((features * cotangent).sum(), inputs, retain_graph=True)
    alone = grid.gaussian_features(points, std)
    (normals,) = torch.autograd.grad((alone * cotangent).sum(), points, create_graph=True)
    loss = (normals.square().sum(-1) - 1).square().mean() + alone.square().mean()
    return {
        "features": features,
        "features without weights": alone,
        "weights": weights,
        "table gradient": by_table,
        "points gradient": by_points,
        "points gradient with graph": normals,
        "loss on normals by table": torch.autograd.grad(loss, grid.table, retain_graph=True)[0],
        "loss on normals by points": torch.autograd.grad(loss, points)[0],
    }


def compare(
    implementation: str, n: int = 150, k: int = 3, weighted: bool = True, active_levels: float = 64.0, **changes
) -> None:
    """An implementation in float32 with torch in double precision."""
    grid = make_grid(torch.float32, implementation=implementation, **changes)
    exact = make_grid(torch.float64, **changes)
    grid.active_levels = exact.active_levels = active_levels
    points, std = make_points(grid, n, k), make_std(n, k) if weighted else None
    found, expected = quantities(grid, points, std), quantities(exact, points, std)
    for name, value in expected.items():
        error = (found[name].double() - value).abs().max() / value.abs().max()
        assert error < 2e-5, f"{name} is off by {error:.2g}"


CASES = [
    dict(k=1),
    dict(k=3, weighted=False),
    dict(k=6, n=700),
    dict(k=6, interpolation="smoothstep"),
    dict(k=3, active_levels=2.25),
    dict(k=2, active_levels=0.0, n=10),
    dict(k=6, features_per_level=1, interpolation="smoothstep"),
    dict(k=3, features_per_level=4, weighted=False),
]


@pytest.mark.parametrize("implementation", ["torch", "auto"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_implementations_compute_what_torch_computes_in_double_precision(implementation, case):
    if case.get("active_levels") == 0.0:
        grid = make_grid(torch.float32, implementation=implementation)
        grid.active_levels = 0.0
        for name, value in quantities(grid, make_points(grid, 10, 2), make_std(10, 2)).items():
            assert value.any() == (name == "weights"), name
    else:
        compare(implementation, **case)


@pytest.mark.parametrize("implementation", ["torch", "auto"])
def test_small_weights_have_as_many_digits_as_large_ones(implementation):
    """A sum 1 − (1 − erf) would lose them; a level's weight falls off slowly, as the inverse of std."""
    grid = make_grid(torch.float32, implementation=implementation)
    std = torch.logspace(-4, 5, 400)[:, None]
    _, weights = grid.gaussian_features_and_weights(torch.rand(400, 1, 3), std)
    exact = level_weights(std.double(), cells_per_unit(grid.shape).double())
    torch.testing.assert_close(weights.double(), exact, rtol=2e-6, atol=0)
    infinite = grid.gaussian_features(torch.rand(3, 2, 3), torch.full((3, 2), math.inf))
    assert (infinite == 0).all()


@pytest.mark.parametrize("implementation", ["torch", "auto"])
def test_shapes_stay_and_nothing_gives_nothing(implementation):
    grid = make_grid(torch.float32, implementation=implementation)
    for batch in ((), (4,), (2, 3), (0,), (2, 0)):
        points, std = torch.rand(*batch, 3, 3, requires_grad=True), torch.rand(*batch, 3)
        features, weights = grid.gaussian_features_and_weights(points, std)
        assert features.shape == (*batch, 8) and weights.shape == (*batch, 4)
        found = torch.autograd.grad(features.sum(), (grid.table, points))
        assert found[0].any() == (features.numel() > 0) and found[1].shape == points.shape


@pytest.mark.parametrize("implementation", ["torch", "auto"])
def test_points_that_are_not_finite_are_moved_and_std_has_no_gradient(implementation):
    grid = make_grid(torch.float32, implementation=implementation)
    points = torch.tensor([[[math.nan, 0.3, 0.4], [math.inf, -math.inf, 0.5]]], requires_grad=True)
    moved = torch.tensor([[[0.0, 0.3, 0.4], [1.0, 0.0, 0.5]]])
    std = torch.full((1, 2), 0.1, requires_grad=True)
    features, weights = grid.gaussian_features_and_weights(points, std)
    torch.testing.assert_close(features, grid.gaussian_features(moved, std))
    assert not weights.requires_grad
    by_points, by_std = torch.autograd.grad(features.sum(), (points, std), allow_unused=True)
    assert by_std is None and not by_points[points != moved].any() and by_points[points == moved].all()


def test_half_precision_and_autocast_give_float32_features():
    grid = make_grid(torch.float32)
    points, std = torch.rand(5, 2, 3), torch.rand(5, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = grid.gaussian_features(points, std)
    assert torch.equal(found, grid.gaussian_features(points, std)) and found.dtype == torch.float32
    halves = grid.gaussian_features(points.bfloat16(), std.bfloat16())
    assert torch.equal(halves, grid.gaussian_features(points.bfloat16().float(), std.bfloat16().float()))


def test_what_does_not_fit_is_refused():
    grid = make_grid()
    with pytest.raises(ValueError, match=r"std is \[4, 2\].*must be \[4, 3\]"):
        grid.gaussian_features(torch.rand(4, 3, 3), torch.rand(4, 2))
    with pytest.raises(ValueError, match="k ≥ 1"):
        grid.gaussian_features(torch.rand(4, 0, 3), torch.rand(4, 0))
    with pytest.raises(ValueError, match="k ≥ 1"):
        grid.gaussian_features(torch.rand(3), None)
    with pytest.raises(ValueError, match="last dimension must be 3"):
        grid.gaussian_features(torch.rand(4, 3, 2), None)
