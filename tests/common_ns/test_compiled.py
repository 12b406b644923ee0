"""Functions that stand in for the C library's are as exact."""

import numpy as np
import pytest

pytest.importorskip("numba")
from common_ns.compiled import cube_root, jit, sincos


@jit
def both(a, b, out):
    for i in range(len(a)):
        out[0, i], out[1, i] = sincos(a[i])
        out[2, i] = cube_root(b[i])


def test_sine_cosine_and_cube_root_have_float32s_accuracy():
    angles = np.linspace(-300, 300, 100_001).astype(np.float32)
    numbers = np.geomspace(1e-12, 1e6, len(angles)).astype(np.float32)
    numbers[7] = 1.0
    found = np.empty((3, len(angles)), np.float32)
    both(angles, numbers, found)
    assert np.abs(found[0] - np.sin(angles.astype(np.float64))).max() < 2e-7
    assert np.abs(found[1] - np.cos(angles.astype(np.float64))).max() < 2e-7
    assert np.abs(found[2] / np.cbrt(numbers.astype(np.float64)) - 1).max() < 3e-7
    assert found[2, 7] == 1.0
