"""The fused encoding against torch's in double precision, interpreted on the CPU and, where there is one, on a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common_ns.rays.contraction import lift_frustum
from common_ns.rays.icosahedron import basis_directions
from common_ns.rays.positional_encoding import integrated_pos_enc
from mipnerf_ns import ipe_triton

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed (it comes with torch for Linux)"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
not_interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET", "0") == "1", reason="Triton interprets its kernels here"
)

PER_RAY, PER_SAMPLE, ONE_FOR_ALL = "per ray", "per sample", "one for all"

# Name: (rays, samples, which directions, basis, octaves, contracted, dtype, position scale)
CASES = {
    "paper": (2, 64, PER_RAY, "icosahedron-21", 12, True, torch.bfloat16, 1.0),
    "paper, float32": (2, 64, PER_RAY, "icosahedron-21", 12, True, torch.float32, 1.0),
    "not contracted": (2, 32, PER_RAY, "icosahedron-21", 12, False, torch.float32, 0.3),
    "samples that fill no block": (3, 37, PER_RAY, "icosahedron-21", 12, True, torch.float32, 0.7),
    "six directions": (3, 24, PER_RAY, "icosahedron-6", 12, True, torch.float32, 1.0),
    "six directions, bfloat16": (3, 11, PER_RAY, "icosahedron-6", 12, False, torch.bfloat16, 1.0),
    "axes": (2, 5, PER_RAY, "axes", 10, False, torch.float32, 1.0),
    "axes, features that fill no lane's four": (2, 9, PER_RAY, "axes", 5, True, torch.bfloat16, 1.0),
    "a direction for each sample": (2, 3, PER_SAMPLE, "icosahedron-21", 12, True, torch.float32, 1.0),
    "one direction for all": (2, 21, ONE_FOR_ALL, "icosahedron-21", 12, True, torch.float32, 2.0),
    "no samples": (0, 32, PER_RAY, "icosahedron-21", 12, True, torch.float32, 1.0),
}


def frustums(name: str) -> tuple[torch.Tensor, ...]:
    """Mean, direction, t_var, r_var and basis; distances from a tenth to a hundred, variances over six decades."""
    rays, samples, directions, basis, _, contracted, *_ = CASES[name]
    generator = torch.Generator().manual_seed(len(name))
    mean = torch.randn(rays, samples, 3, generator=generator)
    mean = mean * torch.logspace(-1, 2 if contracted else 0.5, max(rays, 1))[:rays, None, None]
    shape = {PER_RAY: (rays, 1, 3), PER_SAMPLE: (rays, samples, 3), ONE_FOR_ALL: (3,)}[directions]
    direction = 1.5 * torch.randn(shape, generator=generator)
    t_var, r_var = torch.rand(2, rays, samples, 1, generator=generator) ** 8
    return mean, direction, 0.1 * t_var, 0.01 * r_var, basis_directions(basis)


def fused(name: str, device: str) -> torch.Tensor:
    *_, octaves, contracted, dtype, scale = CASES[name]
    inputs = (tensor.to(device) for tensor in frustums(name))
    return ipe_triton.fused_encoding(*inputs, octaves, contracted, dtype, scale).cpu()


def check(name: str, found: torch.Tensor, bfloat16_rounding: float) -> None:
    """Compare with torch. Rounded positions err twice as much at each octave, rounded features alike at all."""
    rays, *_, octaves, contracted, dtype, scale = CASES[name]
    mean, direction, t_var, r_var, basis = (tensor.double() for tensor in frustums(name))
    if rays == 0:
        assert found.shape == (*mean.shape[:-1], 2 * octaves * basis.shape[1])
        return
    lifted = lift_frustum(scale * mean, direction, scale**2 * t_var, scale**2 * r_var, basis, contracted)
    exact = integrated_pos_enc(*lifted, 0, octaves)
    assert found.shape == exact.shape and found.dtype == dtype and found.is_contiguous()
    error = (found.double() - exact).abs().unflatten(-1, (2, octaves, -1))
    allowed = 1.5e-6 * torch.exp2(torch.arange(octaves))[:, None]
    if dtype == torch.bfloat16:
        allowed = allowed + bfloat16_rounding
    assert (error <= allowed).all(), (error / allowed).amax(dim=(0, 1, 2, 4))


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Results of all cases on the CPU, from a process of its own: Triton decides at import whether it interprets."""
    file = tmp_path_factory.mktemp("triton") / "results.pt"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, __file__, str(file)], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return torch.load(file, weights_only=True)


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernel_gives_what_torch_gives(name: str, interpreted: dict[str, torch.Tensor]):
    check(name, interpreted[name], bfloat16_rounding=2**-8)  # the interpreter cuts off where a GPU rounds


@pytest.mark.slow
@needs_triton
def test_kernel_counts_as_available_where_it_is_interpreted(interpreted: dict[str, torch.Tensor]):
    assert interpreted["available"].item() == 1


@needs_triton
@not_interpreted
@pytest.mark.parametrize("capability", [80, 90, 120])
def test_kernel_compiles_for_gpus_and_writes_eight_bytes_at_a_time(capability, tmp_path, monkeypatch):
    triton = pytest.importorskip("triton", minversion="3.2")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = ipe_triton._compiled()
    constants = {"K": 21, "HALF": 252, "COLUMNS": 256, "ROWS": 8, "SPAN": 32, "CONTRACTED": True, "APPROXIMATE": True}
    types = {"samples": "i32", "chunks": "i32", "scale": "fp32", "result_ptr": "*bf16"}
    signature = {name: types.get(name, "constexpr" if name in constants else "*fp32") for name in kernel.arg_names}
    aligned = {(index,): [["tt.divisibility", 16]] for index in range(6)}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 1})
    loop = compiled.asm["ttgir"].partition("scf.for")[2]
    assert loop and "convert_layout" not in loop  # features stay in the registers that they are written from
    assert "st.global.v2.b32" in compiled.asm["ptx"] and "sin.approx" in compiled.asm["ptx"]


@needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_kernel_gives_what_torch_gives_on_a_gpu(name: str):
    if not ipe_triton.available(torch.device("cuda")):
        pytest.skip("the kernel is not available here; its reason was printed")
    check(name, fused(name, "cuda"), bfloat16_rounding=2**-9)


def test_gradients_and_other_formats_are_left_to_torch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ipe_triton, "available", lambda device: True)
    *inputs, _ = frustums("paper")
    assert ipe_triton.usable(torch.bfloat16, *inputs)
    assert not ipe_triton.usable(torch.float16, *inputs)
    assert not ipe_triton.usable(torch.float64, *(tensor.double() for tensor in inputs))
    refined = [inputs[0].requires_grad_(True), *inputs[1:]]
    assert not ipe_triton.usable(torch.bfloat16, *refined)
    with torch.no_grad():
        assert ipe_triton.usable(torch.bfloat16, *refined)
    monkeypatch.setattr(ipe_triton, "enabled", False)
    assert not ipe_triton.usable(torch.bfloat16, *inputs)


@not_interpreted
def test_kernel_is_not_available_on_a_cpu():
    assert not ipe_triton.available(torch.device("cpu"))


def write_interpreted(file: Path) -> None:
    results = {name: fused(name, "cpu") for name in CASES}
    results["available"] = torch.tensor(ipe_triton.available(torch.device("cpu")))
    torch.save(results, file)


if __name__ == "__main__":
    write_interpreted(Path(sys.argv[1]))
