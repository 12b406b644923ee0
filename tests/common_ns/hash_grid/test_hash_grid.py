"""The hash grid: its formula, its derivatives, and what holds for every implementation."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import types
import weakref
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from common_ns.hash_grid import (
    HashGrid,
    HashGridOptions,
    dispatch,
    functions,
    levels,
    reference,
    resolve,
    tinycudann_cuda,
)

SMALL = HashGridOptions(num_levels=3, log2_table_size=7, base_resolution=4, max_resolution=11, implementation="torch")
INTERPOLATIONS = ("linear", "smoothstep")


def make_grid(interpolation: str = "linear", **changes) -> HashGrid:
    """A small grid in double precision with features between −1 and 1; level 0 is dense, the others are hashed."""
    fields = {**SMALL.__dict__, "interpolation": interpolation, **changes}
    grid = HashGrid(HashGridOptions(**fields)).double()
    with torch.no_grad():
        grid.table.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
    return grid


def inner_points(grid: HashGrid, count: int, seed: int = 0) -> Tensor:
    """Random positions that are within no level close to the border of a cell, where derivatives jump."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(200 * count, 3, generator=generator, dtype=torch.float64)
    clear = torch.ones(len(x), dtype=torch.bool)
    for level in grid.shape.levels:
        place = x * level.scale + 0.5
        clear &= ((place - place.round()).abs() > 0.02).all(1)
    return x[clear][:count]


def loop_features(grid: HashGrid, x: Tensor) -> Tensor:
    """The formula, vertex by vertex."""
    table = grid.table.detach()
    result = torch.zeros(len(x), grid.output_dim, dtype=torch.float64)
    for n, point in enumerate(x.tolist()):
        for index, level in enumerate(grid.shape.levels):
            place = [min(max(p, 0.0), 1.0) * level.scale + 0.5 for p in point]
            cell = [math.floor(p) for p in place]
            for corner in range(8):
                bits = [corner >> axis & 1 for axis in range(3)]
                weight = 1.0
                for axis in range(3):
                    f = place[axis] - cell[axis]
                    if grid.shape.smooth:
                        f = f * f * (3 - 2 * f)
                    weight *= f if bits[axis] else 1 - f
                i, j, k = (c + bit for c, bit in zip(cell, bits))
                if level.hashed:
                    row = (i ^ (j * 2654435761) ^ (k * 805459861)) % level.size
                else:
                    row = i + level.vertices * (j + level.vertices * k)
                features = slice(index * grid.shape.features, (index + 1) * grid.shape.features)
                result[n, features] += weight * table[level.offset + row]
    return result


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_features_are_those_of_the_formula(interpolation):
    grid = make_grid(interpolation)
    assert [level.hashed for level in grid.shape.levels] == [False, True, True]
    x = torch.rand(20, 3, dtype=torch.float64) * 1.2 - 0.1
    x[0], x[1] = 0, 1
    assert torch.allclose(grid(x), loop_features(grid, x), atol=1e-12)


def test_levels_grow_by_the_same_factor_and_dense_ones_have_vertices_up_to_the_far_faces():
    shape = levels.make_shape(16, 2, 19, 16, 2048, smooth=False)
    sides = [level.scale + 1 for level in shape.levels]
    assert sides[0] == 16 and sides[-1] == 2048
    assert all(abs(b / a - 128 ** (1 / 15)) < 1e-6 for a, b in pairwise(sides))
    for level in shape.levels:
        assert math.floor(level.scale + 0.5) + 1 == level.vertices - 1  # the last cell's upper vertex
        assert level.size == (2**19 if level.hashed else level.vertices**3)
    assert [level.hashed for level in shape.levels] == sorted(level.hashed for level in shape.levels)
    assert shape.rows == sum(level.size for level in shape.levels)


def test_dense_level_is_what_grid_sample_computes():
    grid = make_grid(num_levels=1, base_resolution=9, log2_table_size=12)
    (level,) = grid.shape.levels
    assert not level.hashed and level.vertices == 10
    x = torch.rand(50, 3, dtype=torch.float64)
    volume = grid.table.detach().T.reshape(1, 2, 10, 10, 10)  # z, y, x
    place = 2 * (x * level.scale + 0.5) / 9 - 1
    expected = functional.grid_sample(volume, place[None, None, None], align_corners=True)
    assert torch.allclose(grid(x), expected.reshape(2, 50).T, atol=1e-12)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_features_are_continuous_across_the_borders_of_cells(interpolation):
    grid = make_grid(interpolation)
    for level in grid.shape.levels:
        x = torch.rand(30, 3, dtype=torch.float64)
        x[:, 1] = (torch.randint(1, int(level.scale), (30,)) + 0.5) / level.scale
        step = torch.tensor([0, 1e-9, 0], dtype=torch.float64)
        below, above = grid.with_jacobian(x - step), grid.with_jacobian(x + step)
        assert torch.allclose(below[0], above[0], atol=1e-6)
        if interpolation == "smoothstep":
            assert torch.allclose(below[1], above[1], atol=1e-5)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_jacobian_is_that_of_finite_differences_and_of_autograd(interpolation):
    grid = make_grid(interpolation)
    x = inner_points(grid, 20).requires_grad_()
    features, jacobian = grid.with_jacobian(x)
    assert torch.allclose(features, grid(x), atol=1e-14)
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[axis] = 1e-6
        difference = (grid(x + step) - grid(x - step)) / 2e-6
        assert torch.allclose(jacobian[..., axis], difference, atol=1e-6)
    for feature in range(grid.output_dim):
        (expected,) = torch.autograd.grad(features[:, feature].sum(), x, retain_graph=True)
        assert torch.allclose(jacobian[:, feature], expected, atol=1e-12)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_torch_is_twice_differentiable(interpolation):
    grid = make_grid(interpolation, num_levels=2, log2_table_size=5, base_resolution=2, max_resolution=5)
    inputs = (grid.table.detach().requires_grad_(), inner_points(grid, 3).requires_grad_())

    def features(table: Tensor, x: Tensor) -> Tensor:
        return reference.interpolate(grid.shape, table, x, 1.5)

    def both(table: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return reference.interpolate_with_jacobian(grid.shape, table, x, 1.5)

    assert torch.autograd.gradcheck(features, inputs) and torch.autograd.gradgradcheck(features, inputs)
    assert torch.autograd.gradcheck(both, inputs) and torch.autograd.gradgradcheck(both, inputs)


class Exact:
    """An implementation made of the reference's derivatives, in double precision."""

    def interpolate(self, shape, table, x, active_levels, direction=None):
        if direction is None:
            return reference.interpolate(shape, table, x, active_levels)
        return self._along(direction, self.interpolate_with_jacobian(shape, table, x, active_levels)[1])

    def interpolate_with_jacobian(self, shape, table, x, active_levels):
        return reference.interpolate_with_jacobian(shape, table, x, active_levels)

    def table_gradient(self, shape, x, active_levels, values, jacobian=None, direction=None):
        table = torch.zeros(shape.rows, shape.features, dtype=x.dtype)
        return self._gradients(shape, table, x, active_levels, values, jacobian, direction)[0]

    def position_gradient(self, shape, table, x, active_levels, values, jacobian=None, direction=None):
        return self._gradients(shape, table, x, active_levels, values, jacobian, direction)[1]

    def _gradients(self, shape, table, x, active_levels, values, jacobian, direction):
        inputs = (table.detach().requires_grad_(), x.detach().requires_grad_())
        with torch.enable_grad():
            y, j = self.interpolate_with_jacobian(shape, *inputs, active_levels)
            loss = (values * (y if direction is None else self._along(direction, j))).sum()
            loss = loss if jacobian is None else loss + (j * jacobian).sum()
        return torch.autograd.grad(loss, inputs)

    def _along(self, direction, jacobian):
        return (jacobian * direction.t()[:, :, None]).sum(0)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_second_derivatives_follow_from_an_implementations_first(interpolation):
    """What numba and triton share: the composition in `functions`, here with exact parts."""
    grid = make_grid(interpolation, num_levels=2, log2_table_size=5, base_resolution=2, max_resolution=5)
    inputs = (grid.table.detach().requires_grad_(), inner_points(grid, 3).requires_grad_())
    constants = functions.Grid(Exact(), grid.shape, 1.5)  # pyright: ignore[reportArgumentType]

    def features(table: Tensor, x: Tensor) -> Tensor:
        return functions.features(table, x, constants)

    def both(table: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return functions.features_and_jacobian(table, x, constants)

    assert torch.autograd.gradcheck(features, inputs) and torch.autograd.gradgradcheck(features, inputs)
    assert torch.autograd.gradcheck(both, inputs)


class Counted(Exact):
    """Counts what is computed."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def table_gradient(self, *arguments, **options):
        self.calls.append("table")
        return super().table_gradient(*arguments, **options)

    def position_gradient(self, *arguments, **options):
        self.calls.append("position")
        return super().position_gradient(*arguments, **options)


def test_only_the_derivatives_that_are_asked_for_are_computed():
    grid, backend = make_grid(), Counted()
    constants = functions.Grid(backend, grid.shape, 3.0)  # pyright: ignore[reportArgumentType]
    table, x = grid.table, inner_points(grid, 5)
    functions.features(table, x, constants).sum().backward()
    assert backend.calls == ["table"]
    x.requires_grad_()
    backend.calls.clear()
    features = functions.features(table, x, constants)
    (normals,) = torch.autograd.grad(features.sum(), x, create_graph=True)
    assert backend.calls == ["position"]
    backend.calls.clear()
    torch.autograd.grad(normals.square().sum() + features.sum(), table)
    assert backend.calls == ["table", "table"]
    backend.calls.clear()
    functions.features_and_jacobian(table, x, constants)[1].sum().backward(inputs=[x])
    assert backend.calls == ["position"]
    with torch.no_grad():
        assert not functions.features(table, x, constants).requires_grad


def test_derivatives_of_the_jacobian_have_none_and_say_so():
    grid = make_grid()
    x = inner_points(grid, 5).requires_grad_()
    constants = functions.Grid(Exact(), grid.shape, 3.0)  # pyright: ignore[reportArgumentType]
    _, jacobian = functions.features_and_jacobian(grid.table, x, constants)
    (curvature,) = torch.autograd.grad(jacobian.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        curvature.sum().backward()


def test_tables_that_changed_since_are_noticed():
    grid = make_grid()
    x = inner_points(grid, 5).requires_grad_()
    constants = functions.Grid(Exact(), grid.shape, 3.0)  # pyright: ignore[reportArgumentType]
    features = functions.features(grid.table, x, constants)
    with torch.no_grad():
        grid.table.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(features.sum(), x)


def test_graphs_are_freed():
    grid = make_grid()
    x = inner_points(grid, 5).requires_grad_()
    constants = functions.Grid(Exact(), grid.shape, 3.0)  # pyright: ignore[reportArgumentType]
    gc.disable()
    try:
        for compute in (functions.features, functions.features_and_jacobian):
            outer = 1 * x
            kept = weakref.ref(outer)
            compute(grid.table, outer, constants)
            del outer
            assert kept() is None  # without help of the garbage collector
    finally:
        gc.enable()


@pytest.mark.parametrize("implementation", ["torch", "auto"])
def test_levels_appear_one_after_the_other(implementation):
    fields = {**SMALL.__dict__, "implementation": implementation}
    grid = HashGrid(HashGridOptions(**fields))
    x = torch.rand(40, 3)
    whole = grid(x)
    grid.active_levels = 1.25
    features, jacobian = grid.with_jacobian(x)
    assert torch.equal(features[:, 4:], torch.zeros(40, 2)) and torch.equal(jacobian[:, 4:], torch.zeros(40, 2, 3))
    assert torch.allclose(features[:, :2], whole[:, :2]) and torch.allclose(features[:, 2:4], 0.25 * whole[:, 2:4])
    (features.sum() + jacobian.sum()).backward()
    gradient = grid.table.grad
    assert gradient is not None
    assert not gradient[grid.shape.levels[2].offset :].any() and gradient[: grid.shape.levels[2].offset].any()
    grid.active_levels = 0.0
    grid.table.grad = None
    features = grid(x.requires_grad_())
    assert not features.any()
    features.sum().backward()
    assert grid.table.grad is not None and not grid.table.grad.any()
    assert x.grad is not None and not x.grad.any()


@pytest.mark.parametrize("implementation", ["torch", "auto"])
def test_positions_outside_are_moved_to_the_surface_and_nothing_becomes_nan(implementation):
    grid = HashGrid(HashGridOptions(**{**SMALL.__dict__, "implementation": implementation}))
    nan, inf = math.nan, math.inf
    x = torch.tensor([[-0.5, 0.3, 1.7], [nan, 0.3, 0.4], [inf, -inf, 0.5], [1e30, 0.2, -1e30]])
    moved = torch.tensor([[0.0, 0.3, 1.0], [0.0, 0.3, 0.4], [1.0, 0.0, 0.5], [1.0, 0.2, 0.0]])
    outside = x != moved
    x.requires_grad_()
    features, jacobian = grid.with_jacobian(x)
    assert torch.allclose(features, grid(moved))
    assert not jacobian.transpose(1, 2)[outside].any() and jacobian.transpose(1, 2)[~outside].any()
    (features.square().sum() + jacobian.square().sum() + grid(x).sum()).backward()
    assert x.grad is not None and x.grad.isfinite().all() and not x.grad[outside].any()
    assert grid.table.grad is not None and grid.table.grad.isfinite().all()


def test_gradients_of_vertices_that_share_a_row_are_summed():
    grid = make_grid(num_levels=1, base_resolution=8, max_resolution=8, log2_table_size=2)  # 4 rows for 9³ vertices
    x = torch.rand(30, 3, dtype=torch.float64)
    cotangent = torch.rand(30, 2, dtype=torch.float64)
    (grid(x) * cotangent).sum().backward()
    expected = torch.zeros(4, 2, dtype=torch.float64)
    for row in range(4):
        with torch.no_grad():
            grid.table.zero_()
            grid.table[row] = 1
        expected[row] = (loop_features(grid, x) * cotangent).sum(0)
    assert grid.table.grad is not None and torch.allclose(grid.table.grad, expected, atol=1e-12)
    assert torch.allclose(grid.table.grad.sum(0), cotangent.sum(0))  # weights sum to 1


def test_initial_features_are_small_and_those_of_the_generator():
    first, second = (HashGrid(SMALL, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.table, second.table)
    assert first.table.abs().max() <= 1e-4 and first.table.std() > 5e-5
    assert list(first.state_dict()) == ["table"]


def test_leading_dimensions_stay():
    grid = HashGrid(SMALL)
    for batch in ((), (4,), (2, 3), (0,), (2, 0)):
        features, jacobian = grid.with_jacobian(torch.rand(*batch, 3))
        assert features.shape == (*batch, 6) == grid(torch.rand(*batch, 3)).shape and jacobian.shape == (*batch, 6, 3)


@pytest.mark.parametrize("implementation", ["torch", "auto"])
def test_training_after_inference(implementation):
    """What is kept from the first call must serve where gradients are computed."""
    reference._constants.cache_clear()
    grid = HashGrid(HashGridOptions(**{**SMALL.__dict__, "implementation": implementation}))
    with torch.inference_mode():
        assert grid(torch.rand(4, 3)).shape == (4, 6)
    grid(torch.rand(4, 3, requires_grad=True)).sum().backward()
    assert grid.table.grad is not None


def test_half_precision_positions_and_autocast_give_float32_features():
    grid = HashGrid(SMALL)
    x = torch.rand(10, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(grid(x), grid(x.float())) and grid(x).dtype == torch.float32
    assert torch.equal(grid(x.bfloat16()), grid(x.bfloat16().float()))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_levels": 0}, "num_levels is 0"),
        ({"log2_table_size": 40}, "log2_table_size is 40"),
        ({"max_resolution": 2}, "max_resolution is 2"),
        ({"interpolation": "cubic"}, "'cubic'"),
    ],
)
def test_options_that_make_no_grid_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        HashGridOptions(**{**SMALL.__dict__, **changes})


def test_positions_that_do_not_fit_are_refused():
    grid = HashGrid(SMALL)
    with pytest.raises(ValueError, match="last dimension must be 3"):
        grid(torch.rand(4, 2))
    with pytest.raises(ValueError, match="on meta"):
        grid(torch.rand(4, 3, device="meta"))


def test_the_implementation_is_chosen_and_the_reason_given(monkeypatch):
    shape, cpu = HashGrid(SMALL).shape, torch.device("cpu")
    pytest.importorskip("numba")
    assert resolve("auto", shape, cpu).name == "numba"
    assert resolve("torch", shape, cpu) == ("torch", "asked for")
    doubles = resolve("auto", shape, cpu, torch.float64)
    assert doubles.name == "torch" and "float64" in doubles.reason
    assert resolve("auto", shape, torch.device("meta")).name == "torch"
    odd = levels.make_shape(2, 3, 8, 4, 8, smooth=False)
    assert resolve("auto", odd, cpu).name == "torch" and "not 3" in resolve("auto", odd, cpu).reason
    with pytest.raises(ValueError, match=r"tinycudann computes on CUDA GPUs|tinycudann cannot be imported"):
        HashGrid(HashGridOptions(num_levels=1, max_resolution=16, implementation="tinycudann"))(torch.rand(2, 3))
    monkeypatch.setitem(dispatch._MODULES, "numba", "not_there")
    dispatch.backend.cache_clear()
    resolve.cache_clear()
    missing = resolve("auto", shape, cpu)
    assert missing.name == "torch" and "cannot be imported" in missing.reason
    with pytest.raises(ValueError, match=r"cannot be imported.*Use 'auto' or 'torch'"):
        resolve("numba", shape, cpu)
    dispatch.backend.cache_clear()
    resolve.cache_clear()


def test_importing_loads_no_compiler():
    code = "import sys, common_ns.hash_grid as h; h.HashGrid(h.HashGridOptions(2, 2, 8, 4, 8, implementation='torch'));"
    code += "sys.exit(any(name in sys.modules for name in ('numba', 'tinycudann', 'common_ns.hash_grid.triton_cuda')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class FakeEncoding(nn.Module):
    """tiny-cuda-nn's grid by its formula, which has ⌈scale⌉ + 1 vertices along an axis and starts over after them."""

    def __init__(self, dimensions: int, config: dict, dtype: torch.dtype) -> None:
        super().__init__()
        assert dimensions == 3 and dtype == torch.float32
        self.config, self.features = config, config["n_features_per_level"]
        self.scales, self.sides, self.sizes = [], [], []
        for level in range(config["n_levels"]):
            scale = config["base_resolution"] * config["per_level_scale"] ** level - 1
            scale = round(scale, 5)
            side = math.ceil(scale) + 1
            self.scales.append(scale)
            self.sides.append(side)
            self.sizes.append(min(-(-(side**3) // 8) * 8, 2 ** config["log2_hashmap_size"]))
        self.params = nn.Parameter(torch.zeros(sum(self.sizes) * self.features))

    def forward(self, x: Tensor) -> Tensor:
        rows, result, offset = self.params.reshape(-1, self.features), [], 0
        for scale, side, size in zip(self.scales, self.sides, self.sizes):
            place = x * scale + 0.5
            cell = place.detach().floor()
            f = place - cell
            if self.config["interpolation"] == "Smoothstep":
                f = f * f * (3 - 2 * f)
            total = 0
            for corner in range(8):
                bits = torch.tensor([corner >> axis & 1 for axis in range(3)])
                i, j, k = (cell.long() + bits).unbind(1)
                index = i + side * (j + side * k) if side**3 <= size else i ^ (j * 2654435761) ^ (k * 805459861)
                weight = torch.where(bits.bool(), f, 1 - f).prod(1, keepdim=True)
                total = total + weight * rows[offset + index % size]
            result.append(total)
            offset += size
        return torch.cat(result, 1)


@pytest.fixture
def fake_tinycudann(monkeypatch):
    monkeypatch.setattr(tinycudann_cuda, "_library", lambda: types.SimpleNamespace(Encoding=FakeEncoding))
    tinycudann_cuda._encoding.cache_clear()
    yield
    tinycudann_cuda._encoding.cache_clear()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_tinycudann_gets_the_table_in_its_own_order(interpolation, fake_tinycudann):
    grid = HashGrid(HashGridOptions(4, 2, 9, 5, 14, interpolation, "torch"))
    assert len({level.hashed for level in grid.shape.levels}) == 2
    with torch.no_grad():
        grid.table.uniform_(-1, 1)
    x = (0.85 * torch.rand(60, 3)).requires_grad_()  # not within half a cell of the far faces
    grid.active_levels = 3.5
    features = tinycudann_cuda.interpolate(grid.shape, grid.table, x, 3.5)
    assert torch.allclose(features, grid(x), atol=1e-4)
    cotangent = torch.rand_like(features)
    found = torch.autograd.grad(features, (grid.table, x), cotangent)
    expected = torch.autograd.grad(grid(x), (grid.table, x), cotangent)
    for f, e in zip(found, expected):
        assert torch.allclose(f, e, rtol=1e-3, atol=1e-3)


def test_tinycudann_refuses_second_derivatives(fake_tinycudann, monkeypatch):
    grid = HashGrid(HashGridOptions(2, 2, 9, 5, 14, implementation="tinycudann"))
    monkeypatch.setattr(HashGrid, "resolution", lambda self: dispatch.Resolution("tinycudann", "asked for"))
    x = torch.rand(4, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(grid(x).sum(), x, create_graph=True)
    with pytest.raises(ValueError, match="has no Jacobian"):
        grid.with_jacobian(x)
