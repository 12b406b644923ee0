"""The hash grid in numba against torch in double precision, and that threads change nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("numba")

from common_ns.hash_grid import HashGrid, HashGridOptions, numba_cpu

OPTIONS = HashGridOptions(num_levels=5, log2_table_size=8, base_resolution=4, max_resolution=24, implementation="numba")


def make_pair(options: HashGridOptions = OPTIONS, active_levels: float = 64.0) -> tuple[HashGrid, HashGrid]:
    """A grid in numba, and the same in torch and in double precision; features are between −1 and 1."""
    found, exact = HashGrid(options), HashGrid(replace(options, implementation="torch")).double()
    with torch.no_grad():
        found.table.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
        exact.table.copy_(found.table)
    found.active_levels = exact.active_levels = active_levels
    return found, exact


def make_points(grid: HashGrid, count: int) -> Tensor:
    """Positions in the cube and beyond, not so close to the border of a cell that rounding could decide which it is."""
    x = 1.2 * torch.rand(3 * count + 100, 3, generator=torch.Generator().manual_seed(1)) - 0.1
    clear = torch.ones(len(x), dtype=torch.bool)
    for level in grid.shape.levels:
        place = x.clamp(0, 1) * level.scale + 0.5
        clear &= ((place - place.round()).abs() > 1e-3).all(1)
    return x[clear][:count]


def quantities(grid: HashGrid, x: Tensor) -> dict[str, Tensor]:
    """All that can be asked of a grid."""
    x = x.to(grid.table.dtype).requires_grad_()
    generator = torch.Generator().manual_seed(2)
    cotangent = torch.randn(len(x), grid.output_dim, generator=generator).to(x)
    outer = torch.randn(len(x), grid.output_dim, 3, generator=generator).to(x)
    inputs = (grid.table, x)
    features = grid(x)
    by_table, by_x = torch.autograd.grad((features * cotangent).sum(), inputs, create_graph=True)
    eikonal = (by_x.square().sum(1) - 1).square().mean()  # a loss on normals
    second = torch.autograd.grad(eikonal, inputs, retain_graph=True)
    (meta,) = torch.autograd.grad(by_table.square().sum(), x, retain_graph=True)
    again, jacobian = grid.with_jacobian(x)
    normal = (jacobian * cotangent[:, :, None]).sum(1)
    by_normal = torch.autograd.grad((normal.square().sum(1) - 1).square().mean(), inputs, retain_graph=True)
    by_both = torch.autograd.grad((again * cotangent).sum() + (jacobian * outer).sum(), inputs)
    return {
        "features": features,
        "table gradient": by_table,
        "x gradient": by_x,
        "eikonal loss by table": second[0],
        "eikonal loss by x": second[1],
        "table gradient by x": meta,
        "features beside the jacobian": again,
        "jacobian": jacobian,
        "normals by table": by_normal[0],
        "normals by x": by_normal[1],
        "both by table": by_both[0],
        "both by x": by_both[1],
    }


def check(options: HashGridOptions, active_levels: float = 64.0, count: int = 300, tolerance: float = 2e-5) -> None:
    grid, exact = make_pair(options, active_levels)
    x = make_points(grid, count)
    found, expected = quantities(grid, x), quantities(exact, x)
    for name, value in expected.items():
        error = (found[name].double() - value).abs().max() / value.abs().max()
        assert error < tolerance, f"{name} is off by {error:.2g}"


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_it_computes_what_torch_computes(interpolation):
    check(replace(OPTIONS, interpolation=interpolation))


@pytest.mark.parametrize("features", [1, 4, 8])
def test_with_other_numbers_of_features(features):
    check(replace(OPTIONS, features_per_level=features, interpolation="smoothstep"))


@pytest.mark.parametrize("active_levels", [1.0, 2.25])
def test_with_some_of_the_levels(active_levels):
    check(OPTIONS, active_levels)


def test_with_large_tables():
    """Several chunks of points. In float32, positions in a cell are known to 512 · 2^-24."""
    check(HashGridOptions(4, 2, 19, 16, 512, implementation="numba"), count=20_000, tolerance=5e-4)


def test_inputs_in_any_order_in_memory():
    grid, exact = make_pair()
    x = make_points(grid, 50)
    spread = torch.zeros(50, 7)[:, 1:4]  # neither contiguous nor aligned to eight bytes
    spread.copy_(x)
    assert torch.equal(grid(spread), grid(x))
    assert torch.allclose(grid(x.T.contiguous().T).double(), exact(x.double()), atol=1e-5)
    odd = torch.randn(50 * 10 + 1)[1:].reshape(50, 10)
    transposed = odd.T.contiguous().T
    expected = torch.autograd.grad(grid(x), grid.table, odd.clone())[0]
    for cotangent in (odd, transposed):
        assert torch.equal(torch.autograd.grad(grid(x), grid.table, cotangent)[0], expected)
    same_for_all = torch.autograd.grad(grid(x).sum(), grid.table)[0]  # a cotangent without memory of its own
    assert torch.equal(same_for_all, torch.autograd.grad(grid(x), grid.table, torch.ones(50, 10))[0])


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(numba_cpu, "SMALL", 0)
    grid, _ = make_pair()
    x = make_points(grid, 1999)
    expected = quantities(grid, x)
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        found = quantities(grid, x)
        # Sums that torch computes may depend on its threads: compare what the grid computes.
        for name in ("features", "table gradient", "x gradient", "jacobian", "both by table", "both by x"):
            assert torch.equal(found[name], expected[name]), (threads, name)


def test_a_point_does_not_depend_on_its_neighbors():
    grid, _ = make_pair()
    x = make_points(grid, 400)
    features, jacobian = grid.with_jacobian(x)
    for start, stop in ((0, 1), (0, 127), (128, 400), (256, 391)):
        part = grid.with_jacobian(x[start:stop])
        assert torch.equal(part[0], features[start:stop]) and torch.equal(part[1], jacobian[start:stop])


def test_several_callers_at_once(monkeypatch):
    """A viewer renders while a trainer trains; numba's own threads end the process then."""
    monkeypatch.setattr(numba_cpu, "SMALL", 0)
    grid, _ = make_pair()
    x = make_points(grid, 2000)
    expected = grid(x)
    with ThreadPoolExecutor(4) as pool:
        torch.set_num_threads(2)
        assert all(torch.equal(found, expected) for found in pool.map(lambda _: grid(x), range(20)))


def test_memory_of_results_is_not_used_again():
    grid, _ = make_pair()
    x = make_points(grid, 100)
    first = torch.autograd.grad(grid(x).sum(), grid.table)[0]
    kept = first.clone()
    torch.autograd.grad(grid(x[:10]).sum(), grid.table)
    assert torch.equal(first, kept)


def test_a_trained_grid_fits_a_function():
    grid, _ = make_pair(replace(OPTIONS, log2_table_size=12))
    grid.reset(torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(grid.parameters(), lr=1e-2, eps=1e-15)
    x = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0))
    target = torch.sin(6 * x).prod(1)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = (grid(x).sum(1) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]


@pytest.mark.slow
def test_compiled_code_is_kept_on_disk_and_gives_the_same_bits(tmp_path):
    """A later process loads what the first compiled: a resumed run must equal an uninterrupted one."""
    code = """
import time, torch
from common_ns.hash_grid import HashGrid, HashGridOptions
grid = HashGrid(HashGridOptions(3, 2, 8, 4, 12, implementation="numba"), torch.Generator().manual_seed(0))
x = torch.rand(200, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
features, jacobian = grid.with_jacobian(x)
(features.sin().sum() + jacobian.sin().sum()).backward()
print([float(t.double().square().sum()).hex() for t in (features, jacobian, grid.table.grad, x.grad)])
from common_ns.hash_grid import numba_kernels as kernels
stats = [f.stats for f in (kernels.interpolate, kernels.table_gradient, kernels.position_gradient)]
print(sum(len(s.cache_hits) for s in stats), sum(len(s.cache_misses) for s in stats))
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    outputs = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout.splitlines())
    assert outputs[0][0] == outputs[1][0]
    assert (outputs[0][1], outputs[1][1]) == ("0 3", "3 0")
