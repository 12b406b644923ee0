"""Which implementation of the hash grid computes.

- "torch" (`reference.py`): plain torch on any device, in any precision; the definition of what the others compute.
- "numba" (`numba_cpu.py`): compiled loops for CPUs.
- "triton" (`triton_cuda.py`): compiled kernels for CUDA GPUs.
- "tinycudann" (`tinycudann_cuda.py`): NVIDIA's library where it is installed; first derivatives only.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, Literal, NamedTuple

import torch

from common_ns.hash_grid.levels import GridShape

Name = Literal["torch", "numba", "triton", "tinycudann"]
Implementation = Literal["auto", "torch", "numba", "triton", "tinycudann"]

_FASTEST: dict[str, Name] = {"cpu": "numba", "cuda": "triton"}
_MODULES = {"numba": "numba_cpu", "triton": "triton_cuda", "tinycudann": "tinycudann_cuda"}


class Resolution(NamedTuple):
    """Which implementation computes, and why."""

    name: Name
    reason: str


@functools.lru_cache(maxsize=64)
def resolve(
    implementation: Implementation, shape: GridShape, device: torch.device, dtype: torch.dtype = torch.float32
) -> Resolution:
    """Decide which implementation computes.

    Args:
        implementation: a name, or "auto": the fastest that is installed, can do it, and has second derivatives.
        shape: the grid.
        device: where its table is.
        dtype: number format of the table.
    Raises: ValueError if the implementation asked for cannot do it; the message says why.
    """
    if implementation != "auto":
        if reason := _refusal(implementation, shape, device, dtype):
            raise ValueError(f"Hash grid '{implementation}' cannot compute here: {reason} Use 'auto' or 'torch'.")
        return Resolution(implementation, "asked for")
    fast = _FASTEST.get(device.type)
    if fast is None:
        return Resolution("torch", f"there is no other implementation for {device.type}")
    if reason := _refusal(fast, shape, device, dtype):
        return Resolution("torch", reason)
    return Resolution(fast, f"the fastest on {device.type}")


def _refusal(name: Name, shape: GridShape, device: torch.device, dtype: torch.dtype) -> str | None:
    if name == "torch":
        return None
    try:
        return backend(name).refusal(shape, device, dtype)
    except ImportError as error:  # not installed, or not for this numpy
        return f"{name} cannot be imported ({error})."


@functools.cache
def backend(name: Name) -> Any:
    """Import an implementation; its compiler is loaded only when it is used.

    Returns: a `functions.Backend`, or the module `tinycudann_cuda`.
    """
    return importlib.import_module(f"common_ns.hash_grid.{_MODULES[name]}")
