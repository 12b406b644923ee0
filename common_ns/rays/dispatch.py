"""Which implementation of ray functions computes: compiled loops (`ray_kernels.py`), or torch."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
from torch import Tensor


def ray_kernels(*arguments: Tensor) -> Any:
    """The module of compiled loops, if it can compute with these arguments: numbers in float32 on a CPU, none of which
    needs a gradient; else None."""
    fit = all(each.device.type == "cpu" and each.dtype == torch.float32 for each in arguments)
    if not fit or (torch.is_grad_enabled() and any(each.requires_grad for each in arguments)):
        return None
    return _module()


@functools.cache
def _module() -> Any:
    try:
        return importlib.import_module("common_ns.rays.ray_kernels")
    except ImportError:  # numba is not installed, or not for this numpy
        return None
