"""Element-wise loops of sine layers on CPUs, compiled by numba: sine and cosine together, in one pass over memory.

The library's own sine and cosine take eight times as long as these polynomials, and each sum and product beside them
another pass. Matrix products are left to torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

OPTIONS: dict[str, Any] = dict(
    fastmath={"contract", "nsz", "arcp"}, error_model="numpy", nogil=True, boundscheck=False, forceinline=True
)
"""For `numba.njit`. Not "reassoc": it would cancel the additions that round to integers."""

# Largest relative error smallest, for r in ±π/2: sin r = r + r³ p(r²), cos r = p(r²).
_SIN = tuple(np.float32(c) for c in (-0.16666659550, 0.00833306625, -0.00019809603, 2.6057805e-6))
_COS = tuple(
    np.float32(c)
    for c in (0.99999999978, -0.49999999358, 0.041666636258, -0.0013888361398, 2.4760161257e-5, -2.6051493497e-7)
)
_ONE_OVER_PI = np.float32(0.3183098861837907)
_PI, _PI_REST = np.float32(3.1415927410125732), np.float32(-8.742278e-08)  # their sum has twice the digits
_HALF_PI = np.float32(1.5707963267948966)
_SHIFT = np.float32(1.5 * 2**23)
"""Added to a float32 below 2^22, it leaves no bits for a fraction: the sum is rounded to an integer."""
_HALF, _ONE, _TWO = np.float32(0.5), np.float32(1), np.float32(2)


def _jit(function: Any) -> Any:
    """Compile at first use, and keep the result on disk."""
    try:
        return njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # no folder can be written
        return njit(**OPTIONS)(function)


@njit(**OPTIONS)
def sincos(a):
    """Sine and cosine of a in radians, to float32 accuracy up to some thousands."""
    n = (a * _ONE_OVER_PI + _SHIFT) - _SHIFT
    r = (a - n * _PI) - n * _PI_REST
    r = r if r < _HALF_PI else _HALF_PI  # matters beyond a million, where n is no integer any more: stay bounded
    r = r if r > -_HALF_PI else -_HALF_PI
    q = r * r
    sine = (((_SIN[3] * q + _SIN[2]) * q + _SIN[1]) * q + _SIN[0]) * q * r + r
    cosine = ((((_COS[5] * q + _COS[4]) * q + _COS[3]) * q + _COS[2]) * q + _COS[1]) * q + _COS[0]
    sign = _ONE - _TWO * abs(n - _TWO * ((n * _HALF + _SHIFT) - _SHIFT))  # −1 if n is odd
    return sign * sine, sign * cosine


@_jit
def sine_layer(phase, added, cosine, hidden):
    """cosine = cos phase, hidden = sin phase + added; `added` may be empty. All arrays are flat."""
    if len(added):
        for i in range(len(phase)):
            s, c = sincos(phase[i])
            cosine[i] = c
            hidden[i] = s + added[i]
    else:
        for i in range(len(phase)):
            s, c = sincos(phase[i])
            cosine[i] = c
            hidden[i] = s


@_jit
def sine_layer_tangent(phase, cosine, hidden, added, cotangent, added_tangent, hidden_tangent, phase_cotangent):
    """The tangent of a sine layer, and what the cotangent of that tangent gives to the phase.

    hidden_tangent = cosine · phase + added_tangent and phase_cotangent = −cotangent · sine · phase, where phase is the
    phase's tangent, and sine is hidden − added. All arrays are flat; `added` and `added_tangent` may be empty, the
    second without the first is not used.
    """
    if len(added) and len(added_tangent):
        for i in range(len(phase)):
            t, s = phase[i], hidden[i] - added[i]
            hidden_tangent[i] = cosine[i] * t + added_tangent[i]
            phase_cotangent[i] = -cotangent[i] * s * t
    elif len(added):
        for i in range(len(phase)):
            t, s = phase[i], hidden[i] - added[i]
            hidden_tangent[i] = cosine[i] * t
            phase_cotangent[i] = -cotangent[i] * s * t
    else:
        for i in range(len(phase)):
            t = phase[i]
            hidden_tangent[i] = cosine[i] * t
            phase_cotangent[i] = -cotangent[i] * hidden[i] * t
