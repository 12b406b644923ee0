"""Which implementation draws Gaussians.

- "torch" (`reference.py`): plain torch on any device, in any precision; the definition of what the others compute.
- "numba" (`numba_cpu.py`): compiled loops for CPUs.
- "gsplat" (`gsplat_cuda.py`): gsplat's kernels for CUDA GPUs, which are compiled at their first use.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, Literal, NamedTuple

import torch

Name = Literal["torch", "numba", "gsplat"]
Implementation = Literal["auto", "torch", "numba", "gsplat"]

_FASTEST: dict[str, Name] = {"cpu": "numba", "cuda": "gsplat"}
_MODULES = {"torch": "reference", "numba": "numba_cpu", "gsplat": "gsplat_cuda"}


class Resolution(NamedTuple):
    """Which implementation draws, and why."""

    name: Name
    reason: str


@functools.lru_cache(maxsize=64)
def resolve(implementation: Implementation, device: torch.device, dtype: torch.dtype = torch.float32) -> Resolution:
    """Decide which implementation draws.

    Args:
        implementation: a name, or "auto": the fastest that is installed and can do it. Where that is torch, though the
            numbers are in float32, a line says why: it takes long.
        device: where the Gaussians are.
        dtype: their number format.
    Raises: ValueError if the implementation asked for cannot do it; the message says why.
    """
    if implementation != "auto":
        if reason := _refusal(implementation, device, dtype):
            raise ValueError(f"Splats '{implementation}' cannot draw here: {reason} Use 'auto' or 'torch'.")
        return Resolution(implementation, "asked for")
    fast = _FASTEST.get(device.type)
    reason = f"there is no other implementation for {device.type}." if fast is None else _refusal(fast, device, dtype)
    if fast is not None and reason is None:
        return Resolution(fast, f"the fastest on {device.type}")
    if dtype == torch.float32:
        from common_ns.data.notes import note_once  # which imports nerfstudio

        note_once(f"Gaussians are drawn by plain torch operations, which takes long: {reason}")
    return Resolution("torch", str(reason))


def _refusal(name: Name, device: torch.device, dtype: torch.dtype) -> str | None:
    if name == "torch":
        return None
    try:
        return backend(name).refusal(device, dtype)
    except ImportError as error:  # not installed, or not for this numpy
        return f"{name} cannot be imported ({error})."


@functools.cache
def backend(name: Name) -> Any:
    """Import an implementation; its compiler is loaded only when it is used.

    Returns: a module with `project` and `blend`; of gsplat, with `draw`, which does both.
    """
    return importlib.import_module(f"common_ns.splats.{_MODULES[name]}")
