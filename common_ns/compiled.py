"""How numba compiles the loops of this suite, and functions of single numbers that become vector instructions in them.

The C library's own sine, exponential and logarithm are calls, one for each number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

OPTIONS: dict[str, Any] = dict(
    fastmath={"contract", "nsz", "arcp"}, error_model="numpy", nogil=True, boundscheck=False, forceinline=True
)
"""For `numba.njit`. Not "nnan": comparisons must tell NaN. Not "reassoc": it would cancel the additions that round to
integers. All is inlined into what Python calls, for only that is stored on disk: the process that compiled it and later
ones must not differ in their last bits."""

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
_HALF, _ONE, _TWO, _THIRD = np.float32(0.5), np.float32(1), np.float32(2), np.float32(1 / 3)


inline = njit(**OPTIONS)
"""For functions that others are made of."""


def jit(function: Any) -> Any:
    """Compile at first use, and keep the result on disk."""
    try:
        return njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # no folder can be written
        return njit(**OPTIONS)(function)


@inline
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


@inline
def cube_root(a):
    """Cube root of a from 1e-12 to 1e6 or so, to float32 accuracy; of 1 it is 1.

    1/3 is 1/4 + 1/16 + 1/64 + …: roots of roots are a start, and Newton's method squares what error they leave.
    """
    fourth = np.float32(math.sqrt(np.float32(math.sqrt(a))))
    sixteenth = np.float32(math.sqrt(np.float32(math.sqrt(fourth))))
    root = fourth * sixteenth * np.float32(math.sqrt(np.float32(math.sqrt(sixteenth))))
    for _ in range(3):
        root = root - (root - a / (root * root)) * _THIRD
    return root
