"""Sines and cosines together, element by element, and the derivative of a sine layer's derivative.

On CPUs in float32 numba's loops compute (`sine_kernels`), where numba is installed; otherwise torch.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@functools.cache
def _kernels() -> Any:
    """The compiled loops, or None where numba cannot be imported."""
    try:
        return importlib.import_module("hashnffb_sdf_ns.encodings.sine_kernels")
    except ImportError:  # not installed, or not for this numpy
        return None


def _compiled(tensor: Tensor) -> Any:
    """The compiled loops if they can compute with such a tensor."""
    return _kernels() if tensor.device.type == "cpu" and tensor.dtype == torch.float32 else None


def _flat(tensor: Tensor | None) -> Any:
    return torch.empty(0).numpy() if tensor is None else tensor.detach().contiguous().view(-1).numpy()


def sine(
    phase: Float[Tensor, "*s"],
    added: Float[Tensor, "*s"] | None = None,
    out: tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]] | None = None,
) -> tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]]:
    """sin phase + added, and cos phase; not known to autograd.

    Args:
        phase: in radians.
        added: what is added to the sine; None: nothing.
        out: contiguous memory for both results; None: new memory.
    """
    hidden, cosine = (torch.empty_like(phase), torch.empty_like(phase)) if out is None else out
    kernels = _compiled(phase)
    if kernels is not None:
        kernels.sine_layer(_flat(phase), _flat(added), _flat(cosine), _flat(hidden))
    else:
        torch.cos(phase, out=cosine)
        torch.sin(phase, out=hidden)
        if added is not None:
            hidden += added
    return hidden, cosine


def sine_tangent(
    phase_tangent: Float[Tensor, "*s"],
    cosine: Float[Tensor, "*s"],
    hidden: Float[Tensor, "*s"],
    added: Float[Tensor, "*s"] | None,
    cotangent: Float[Tensor, "*s"],
    added_tangent: Float[Tensor, "*s"] | None,
    out: tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]],
) -> None:
    """Differentiate sin phase + added along a direction, and cotangent · that derivative by the phase.

    Args:
        phase_tangent: derivative of the phase along the direction.
        cosine, hidden, added: what `sine` returned and was given.
        cotangent: of sin phase + added.
        added_tangent: derivative of `added` along the direction; None: 0.
        out: contiguous memory for both results.
    """
    tangent, phase_cotangent = out
    kernels = _compiled(phase_tangent)
    if kernels is not None:
        given = (phase_tangent, cosine, hidden, added, cotangent, added_tangent, tangent, phase_cotangent)
        kernels.sine_layer_tangent(*map(_flat, given))
        if added is None and added_tangent is not None:
            tangent += added_tangent
        return
    torch.mul(cosine, phase_tangent, out=tangent)
    if added_tangent is not None:
        tangent += added_tangent
    sines = hidden if added is None else hidden - added
    torch.mul(sines, cotangent, out=phase_cotangent)
    phase_cotangent.mul_(phase_tangent).neg_()
