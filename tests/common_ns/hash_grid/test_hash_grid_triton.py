"""The hash grid's GPU kernels against torch: on a GPU, or emulated by triton's interpreter in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from common_ns.hash_grid import HashGrid, HashGridOptions, levels, resolve, triton_cuda

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_gpu = pytest.mark.skipif(
    DEVICE == "cpu" and not triton_cuda.INTERPRETED, reason="no GPU, and not in the process that emulates one"
)
OPTIONS = HashGridOptions(
    num_levels=3, log2_table_size=7, base_resolution=4, max_resolution=12, implementation="triton"
)


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cuda" or triton_cuda.INTERPRETED, reason="the tests below run")
def test_emulated():
    """triton decides at import whether it compiles or interprets."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


def quantities(grid: HashGrid, x: Tensor) -> dict[str, Tensor]:
    """All that can be asked of a grid."""
    x = x.to(grid.table).requires_grad_()
    generator = torch.Generator().manual_seed(2)
    cotangent = torch.randn(len(x), grid.output_dim, generator=generator).to(x)
    outer = torch.randn(len(x), grid.output_dim, 3, generator=generator).to(x)
    inputs = (grid.table, x)
    features = grid(x)
    by_table, by_x = torch.autograd.grad((features * cotangent).sum(), inputs, create_graph=True)
    second = torch.autograd.grad((by_x.square().sum(1) - 1).square().mean(), inputs)
    again, jacobian = grid.with_jacobian(x)
    by_both = torch.autograd.grad((again * cotangent).sum() + (jacobian * outer).sum(), inputs)
    return {
        "features": features,
        "table gradient": by_table,
        "x gradient": by_x,
        "eikonal loss by table": second[0],
        "eikonal loss by x": second[1],
        "features beside the jacobian": again,
        "jacobian": jacobian,
        "both by table": by_both[0],
        "both by x": by_both[1],
    }


@needs_gpu
@pytest.mark.parametrize(
    "features, interpolation, active_levels",
    [(2, "linear", 3.0), (2, "smoothstep", 1.25), (1, "smoothstep", 3.0), (4, "linear", 3.0), (8, "linear", 1.0)],
)
def test_it_computes_what_torch_computes(features, interpolation, active_levels):
    options = replace(OPTIONS, features_per_level=features, interpolation=interpolation)
    grid, exact = HashGrid(options), HashGrid(replace(options, implementation="torch")).double()
    with torch.no_grad():
        grid.table.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
        exact.table.copy_(grid.table)
    grid.active_levels = exact.active_levels = active_levels
    x = 1.2 * torch.rand(1000, 3, generator=torch.Generator().manual_seed(1)) - 0.1
    for level in grid.shape.levels:
        place = x.clamp(0, 1) * level.scale + 0.5
        x = x[((place - place.round()).abs() > 1e-3).all(1)]
    x = x[:150]  # more than a program's, and not a multiple
    grid.to(DEVICE)
    found, expected = quantities(grid, x), quantities(exact, x)
    for name, value in expected.items():
        error = (found[name].cpu().double() - value).abs().max() / value.abs().max()
        assert error < 2e-5, f"{name} is off by {error:.2g}"


@needs_gpu
@pytest.mark.parametrize(
    "k, features, interpolation, active_levels, weighted",
    [(1, 2, "linear", 3.0, True), (3, 2, "smoothstep", 1.25, True), (2, 4, "linear", 2.0, False)],
)
def test_gaussians_are_those_of_torch(k, features, interpolation, active_levels, weighted):
    options = replace(OPTIONS, features_per_level=features, interpolation=interpolation)
    grid, exact = HashGrid(options), HashGrid(replace(options, implementation="torch")).double()
    with torch.no_grad():
        grid.table.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
        exact.table.copy_(grid.table)
    grid.active_levels = exact.active_levels = active_levels
    x = 1.2 * torch.rand(2000, 3, generator=torch.Generator().manual_seed(1)) - 0.1
    for level in grid.shape.levels:
        place = x.clamp(0, 1) * level.scale + 0.5
        x = x[((place - place.round()).abs() > 1e-3).all(1)]
    x = x[: 140 * k].reshape(140, k, 3)  # more than a program's, and not a multiple
    std = 10 ** (6 * torch.rand(140, k, generator=torch.Generator().manual_seed(3)) - 4) if weighted else None
    results = []
    for each in (grid.to(DEVICE), exact):
        points = x.to(each.table).requires_grad_()
        stds = None if std is None else std.to(each.table)
        means, weights = each.gaussian_features_and_weights(points, stds)
        cotangent = torch.randn(means.shape, generator=torch.Generator().manual_seed(2)).to(means)
        gradients = torch.autograd.grad((means * cotangent).sum(), (each.table, points))
        results.append((means, each.gaussian_features(points, stds), weights, *gradients))
    for found, expected in zip(*results):
        torch.testing.assert_close(found.cpu().double(), expected, rtol=2e-5, atol=2e-5 * float(expected.abs().max()))


@needs_gpu
def test_nothing_becomes_nan():
    grid = HashGrid(OPTIONS).to(DEVICE)
    x = torch.tensor([[float("nan"), 0.3, 0.4], [float("inf"), -float("inf"), 0.5], [2.0, 0.2, -1e30]], device=DEVICE)
    moved = torch.tensor([[0.0, 0.3, 0.4], [1.0, 0.0, 0.5], [1.0, 0.2, 0.0]], device=DEVICE)
    x.requires_grad_()
    features, jacobian = grid.with_jacobian(x)
    assert torch.allclose(features, grid(moved)) and not jacobian.transpose(1, 2)[x != moved].any()
    (features.sum() + jacobian.sum()).backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert grid.table.grad is not None and grid.table.grad.isfinite().all()


@needs_gpu
def test_no_points():
    grid = HashGrid(OPTIONS).to(DEVICE)
    x = torch.rand(0, 3, device=DEVICE, requires_grad=True)
    features, jacobian = grid.with_jacobian(x)
    assert features.shape == (0, 6) and jacobian.shape == (0, 6, 3)
    (features.sum() + jacobian.sum()).backward()
    assert grid.table.grad is not None and not grid.table.grad.any()
    means, weights = grid.gaussian_features_and_weights(x[:, None], torch.rand(0, 1, device=DEVICE))
    assert means.shape == (0, 6) and weights.shape == (0, 3)
    means.sum().backward()


@needs_gpu
def test_it_is_what_auto_takes_on_a_gpu_and_deviations_are_noticed(monkeypatch):
    shape, device = HashGrid(OPTIONS).shape, torch.device(DEVICE)
    if DEVICE == "cuda":
        assert resolve("auto", shape, device).name == "triton"
    triton_cuda._failure.cache_clear()
    with torch.inference_mode():
        assert triton_cuda.refusal(shape, device, torch.float32) is None
    monkeypatch.setattr(triton_cuda, "_deviation", lambda device: 0.5)
    triton_cuda._failure.cache_clear()
    assert "off by 0.5" in (triton_cuda.refusal(shape, device, torch.float32) or "")
    triton_cuda._failure.cache_clear()


@pytest.mark.skipif(DEVICE == "cuda" or triton_cuda.INTERPRETED, reason="there it computes")
def test_without_a_gpu_it_says_why():
    shape = levels.make_shape(2, 2, 8, 4, 8, smooth=False)
    with pytest.raises(ValueError, match="triton computes on CUDA GPUs, and the grid is on cpu"):
        resolve("triton", shape, torch.device("cpu"))


def compiled_for(kernel, capability: int, flags: dict[str, bool], monkeypatch, folder):
    """What the compiler makes of a kernel for a GPU that is not here."""
    triton = pytest.importorskip("triton", minversion="3.2")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder))
    constants = {"F": 2, "WIDTH": 32, "SMOOTH": True, **flags, "BLOCK": triton_cuda.BLOCK}
    types = {"offset_ptr": "*i64", "numbers_ptr": "*i32", "active_levels": "fp32"}
    types |= {"n": "i32", "levels": "i32", "samples": "i32"}
    signature = {arg: types.get(arg, "constexpr" if arg in constants else "*fp32") for arg in kernel.arg_names}
    values = {(kernel.arg_names.index(arg),): value for arg, value in constants.items()}
    aligned = {(i,): [["tt.divisibility", 16]] for i, arg in enumerate(kernel.arg_names) if arg.endswith("_ptr")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    options = {"num_warps": triton_cuda.NUM_WARPS}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.skipif(triton_cuda.INTERPRETED or sys.platform != "linux", reason="nothing to compile with")
@pytest.mark.parametrize("capability, jacobian", [(80, False), (80, True), (90, True)])
@pytest.mark.parametrize("name", ["_interpolate_kernel", "_table_gradient_kernel", "_position_gradient_kernel"])
def test_it_compiles_for_a_gpu_that_is_not_here(name, capability, jacobian, tmp_path, monkeypatch):
    """The interpreter is more tolerant than the compiler. Rows are fetched whole, and nothing goes between threads."""
    flags = {"JACOBIAN": jacobian, "DIRECTION": not jacobian}
    compiled = compiled_for(getattr(triton_cuda, name), capability, flags, monkeypatch, tmp_path)
    check_accesses(compiled, capability, adds=name == "_table_gradient_kernel")


@pytest.mark.skipif(triton_cuda.INTERPRETED or sys.platform != "linux", reason="nothing to compile with")
@pytest.mark.parametrize("capability, weighted", [(80, False), (90, True)])
@pytest.mark.parametrize("name", ["features", "table_gradient", "position_gradient"])
def test_gaussians_compile_for_a_gpu_that_is_not_here(name, capability, weighted, tmp_path, monkeypatch):
    flags = {"WEIGHTED": weighted} | ({"MASS": weighted} if name == "features" else {})
    kernel = getattr(triton_cuda, f"_gaussian_{name}_kernel")
    check_accesses(compiled_for(kernel, capability, flags, monkeypatch, tmp_path), capability, "table" in name)


def check_accesses(compiled, capability: int, adds: bool) -> None:
    ptx = compiled.asm["ptx"]
    assert compiled.metadata.shared == 0
    if adds:
        assert ptx.count("relaxed.add") == (8 if capability >= 90 else 16)  # Hopper adds pairs
    else:
        assert ptx.count("ld.global.v2.b32") >= 8
