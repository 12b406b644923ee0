"""The loops of Gaussian splatting on CPUs (see `numba_cpu`), compiled by numba.

All are in one file: numba's store on disk notices edits of the file that a function is in, not of what it calls. The
constants of `projection`, `blending` and `harmonics` are compiled in: whoever changes one has to change this file, too.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numba import njit

from common_ns.splats import blending, harmonics, projection

OPTIONS: dict[str, Any] = dict(
    fastmath={"contract", "nsz", "arcp"},
    error_model="numpy",
    nogil=True,
    boundscheck=False,
    forceinline=True,
    _nrt=False,
)
"""For `numba.njit`. Not "nnan": comparisons must tell NaN. All is inlined into what Python calls, for only that is
stored on disk: the process that compiled it and later ones must not differ in their last bits. Without "nrt" arrays do
not count their users, which threads would wait for each other with."""
SUMS: dict[str, Any] = OPTIONS | {"fastmath": {"contract", "nsz", "arcp", "reassoc"}}
"""Where a loop adds up numbers, which become vectors only if the order may change. It changes in the same way each
time."""


def _jit(function: Any) -> Any:
    """Compile at first use, and keep the result on disk."""
    try:
        return njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # no folder can be written
        return njit(**OPTIONS)(function)


def _jit_sums(function: Any) -> Any:
    """The same, with sums in any order."""
    try:
        return njit(cache=True, **SUMS)(function)
    except RuntimeError:
        return njit(**SUMS)(function)


_inline = njit(**OPTIONS)

ACROSS, DOWN = 8, 16
"""Pixels of a tile: a row is one vector register of most CPUs, and what is not within a Gaussian's rows is left out.
Whole tiles make gsplat's boxes."""
PIXELS = ACROSS * DOWN
ROW = 16
"""Numbers of a Gaussian that is to be blended, one cache line: mean in pixels; conic, in such units that 2 to the power
of its negative form is the profile; opacity; red, green, blue; depth; normal."""
SPLAT = 11
"""Columns of `projection.Projected.splats`."""
MOMENTS = 13
"""Sums of a Gaussian over its pixels from which its derivatives follow: of h = ∂L/∂(ln α) times dx, dy, dx², dx dy, dy²
and 1; of the weights times the pixels' derivatives, for each number that is blended."""

# Rows of the scratch memory of a tile. One array for all: the compiler then sees that what is written overlaps nothing
# else. Unsigned, as are the pixels' numbers: numba looks at signed ones whether they count from the end.
T, PX, PY, MEDIAN, WEIGHT, SUM = (np.uintp(n * PIXELS) for n in range(6))
BEHIND, SLOPE_A, SLOPE = np.uintp(3 * PIXELS), np.uintp(4 * PIXELS), np.uintp(5 * PIXELS)
P1, P2, P3, P4, P5, P6 = (np.uintp(n * PIXELS) for n in range(1, 7))
SCRATCH = 12 * PIXELS

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
MOST_ALPHA, LEAST_ALPHA = np.float32(blending.MOST_ALPHA), np.float32(projection.LEAST_ALPHA)
LEAST_T, LEAST_WEIGHT = np.float32(blending.LEAST_TRANSMITTANCE), np.float32(blending.LEAST_WEIGHT)
LOG2_E, LN_2 = 1 / math.log(2), math.log(2)
MOST_EXPONENT = np.float32(120)  # 2^-120 is no denormal number
SHIFT = np.float32(1.5 * 2**23)
EXP2 = tuple(
    np.float32(c) for c in (1.000000072, 0.6931469671, 0.2402211972, 0.05550713275, 0.009675541503, 0.001327647196)
)
"""Coefficients of a polynomial for 2^x in ±½: fitted by least squares with weights that level the relative error, which
is at most 2e-7 in float32. A call of the C library's function would not become vector instructions."""
BATCH = 64
"""Gaussians of a tile that are fetched together: the processor has many fetches under way, instead of waiting for each
when it is blended."""


class Camera(NamedTuple):
    """A camera, in double precision."""

    viewmat: Float[np.ndarray, "4 4"]
    center: Float[np.ndarray, "3"]
    intrinsics: Float[np.ndarray, "4"]
    limits: Float[np.ndarray, "4"]
    """See `projection.Frame.limits`."""
    near: float
    far: float
    eps2d: float
    width: int
    height: int
    degree: int
    antialiased: bool


class Scene(NamedTuple):
    """The Gaussians, as arrays."""

    means: Float[np.ndarray, "n 3"]
    quats: Float[np.ndarray, "n 4"]
    scales: Float[np.ndarray, "n 3"]
    opacities: Float[np.ndarray, "n"]
    coefficients: Float[np.ndarray, "n k 3"]


@_inline
def _basis(x, y, z, degree, value):
    """Harmonics of a direction; see `harmonics.basis`."""
    value[0] = harmonics.C0
    if degree > 0:
        value[1] = -harmonics.C1 * y
        value[2] = harmonics.C1 * z
        value[3] = -harmonics.C1 * x
    if degree > 1:
        value[4] = harmonics.C2[0] * x * y
        value[5] = -harmonics.C2[0] * y * z
        value[6] = harmonics.C2[1] * (3 * z * z - 1)
        value[7] = -harmonics.C2[0] * x * z
        value[8] = harmonics.C2[2] * (x * x - y * y)
    if degree > 2:
        value[9] = -harmonics.C3[0] * y * (3 * x * x - y * y)
        value[10] = harmonics.C3[1] * x * y * z
        value[11] = -harmonics.C3[2] * y * (5 * z * z - 1)
        value[12] = harmonics.C3[3] * z * (5 * z * z - 3)
        value[13] = -harmonics.C3[2] * x * (5 * z * z - 1)
        value[14] = harmonics.C3[4] * z * (x * x - y * y)
        value[15] = -harmonics.C3[0] * x * (x * x - 3 * y * y)


@_inline
def _basis_slope(x, y, z, degree, weight):
    """Gradient, by x, y and z, of the sum of harmonics times weights."""
    gx, gy, gz = 0.0, 0.0, 0.0
    if degree > 0:
        gy -= harmonics.C1 * weight[1]
        gz += harmonics.C1 * weight[2]
        gx -= harmonics.C1 * weight[3]
    if degree > 1:
        a, b, c, d = weight[4], weight[5], weight[7], weight[8]
        gx += harmonics.C2[0] * (a * y - c * z) + 2 * harmonics.C2[2] * d * x
        gy += harmonics.C2[0] * (a * x - b * z) - 2 * harmonics.C2[2] * d * y
        gz += 6 * harmonics.C2[1] * z * weight[6] - harmonics.C2[0] * (b * y + c * x)
    if degree > 2:
        a = harmonics.C3[0] * weight[9]
        b = harmonics.C3[1] * weight[10]
        c = harmonics.C3[2] * weight[11]
        d = harmonics.C3[3] * weight[12]
        e = harmonics.C3[2] * weight[13]
        f = harmonics.C3[4] * weight[14]
        g = harmonics.C3[0] * weight[15]
        ring = 5 * z * z - 1
        gx += -6 * a * x * y + b * y * z - e * ring + 2 * f * x * z - 3 * g * (x * x - y * y)
        gy += -3 * a * (x * x - y * y) + b * x * z - c * ring - 2 * f * y * z + 6 * g * x * y
        gz += b * x * y - 10 * z * (c * y + e * x) + 3 * d * ring + f * (x * x - y * y)
    return gx, gy, gz


@_inline
def _rotation(w, x, y, z):
    """Of a unit quaternion, row by row."""
    return (
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    )


@_inline
def _shortest(scales):
    """Which of three is least."""
    axis = 0 if scales[0] <= scales[1] else 1
    return axis if scales[axis] <= scales[2] else 2


@_inline
def _jacobian(camera, x, y, z):
    """The Jacobian's four numbers that are not zero, and the place that it is taken at.

    Returns: xx, xz, yy, yz; x and y there; whether each is the Gaussian's own.
    """
    fx, fy = camera.intrinsics[0], camera.intrinsics[1]
    left, right, top, bottom = camera.limits[0], camera.limits[1], camera.limits[2], camera.limits[3]
    own_x, own_y = (x / z >= left) & (x / z <= right), (y / z >= top) & (y / z <= bottom)
    tx = x if own_x else z * (right if x / z > right else left)
    ty = y if own_y else z * (bottom if y / z > bottom else top)
    return fx / z, -fx * tx / (z * z), fy / z, -fy * ty / (z * z), tx, ty, own_x, own_y


@_inline
def _depth_of(scene, camera, i):
    """Position in the camera, and whether the Gaussian can be drawn as far as this tells."""
    v = camera.viewmat
    mx, my, mz = np.float64(scene.means[i, 0]), np.float64(scene.means[i, 1]), np.float64(scene.means[i, 2])
    x = v[0, 0] * mx + v[0, 1] * my + v[0, 2] * mz + v[0, 3]
    y = v[1, 0] * mx + v[1, 1] * my + v[1, 2] * mz + v[1, 3]
    z = v[2, 0] * mx + v[2, 1] * my + v[2, 2] * mz + v[2, 3]
    return x, y, z, (z >= camera.near) & (z <= camera.far)  # NaN is neither


@_jit
def project(scene, start, stop, camera, means2d, splats, radii, ids, value):
    """Project a range of Gaussians, those that may be seen packed to its beginning.

    Double precision throughout but for what is read and written: nothing here waits for arithmetic.

    Writes: means2d [n 2], splats [n 11], radii [n], ids [n]; see `projection.Projected`. value [16] is scratch memory.
    Returns: how many may be seen.
    """
    v, found = camera.viewmat, start
    fx, fy, cx, cy = camera.intrinsics[0], camera.intrinsics[1], camera.intrinsics[2], camera.intrinsics[3]
    numbers = (camera.degree + 1) * (camera.degree + 1)
    for i in range(start, stop):
        x, y, z, ahead = _depth_of(scene, camera, i)
        if not ahead:
            continue
        quat, scales, opacity = scene.quats[i], scene.scales[i], np.float64(scene.opacities[i])
        qw, qx, qy, qz = np.float64(quat[0]), np.float64(quat[1]), np.float64(quat[2]), np.float64(quat[3])
        norm = math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
        if not norm > 0:
            continue
        r = _rotation(qw / norm, qx / norm, qy / norm, qz / norm)
        jxx, jxz, jyy, jyz, _, _, _, _ = _jacobian(camera, x, y, z)
        a0, a1, a2 = jxx * v[0, 0] + jxz * v[2, 0], jxx * v[0, 1] + jxz * v[2, 1], jxx * v[0, 2] + jxz * v[2, 2]
        b0, b1, b2 = jyy * v[1, 0] + jyz * v[2, 0], jyy * v[1, 1] + jyz * v[2, 1], jyy * v[1, 2] + jyz * v[2, 2]
        s0, s1, s2 = np.float64(scales[0]), np.float64(scales[1]), np.float64(scales[2])
        u0 = (a0 * r[0] + a1 * r[3] + a2 * r[6]) * s0
        u1 = (a0 * r[1] + a1 * r[4] + a2 * r[7]) * s1
        u2 = (a0 * r[2] + a1 * r[5] + a2 * r[8]) * s2
        w0 = (b0 * r[0] + b1 * r[3] + b2 * r[6]) * s0
        w1 = (b0 * r[1] + b1 * r[4] + b2 * r[7]) * s1
        w2 = (b0 * r[2] + b1 * r[5] + b2 * r[8]) * s2
        xx, xy, yy = u0 * u0 + u1 * u1 + u2 * u2, u0 * w0 + u1 * w1 + u2 * w2, w0 * w0 + w1 * w1 + w2 * w2
        c0, c1, c2 = u1 * w2 - u2 * w1, u2 * w0 - u0 * w2, u0 * w1 - u1 * w0
        sharp = c0 * c0 + c1 * c1 + c2 * c2
        determinant = sharp + camera.eps2d * (xx + yy) + camera.eps2d * camera.eps2d
        xx += camera.eps2d
        yy += camera.eps2d
        half = 0.5 * (xx + yy)
        spread = max(half * half - determinant, projection.LEAST_SPREAD)
        radius = np.ceil(projection.RADIUS * math.sqrt(half + math.sqrt(spread)))
        px, py = fx * x / z + cx, fy * y / z + cy
        inside = (px + radius > 0) & (px - radius < camera.width) & (py + radius > 0) & (py - radius < camera.height)
        if not inside or not determinant > 0 or radius > projection.MOST_RADIUS:  # NaN is not inside
            continue
        if camera.antialiased:
            opacity *= math.sqrt(max(sharp / determinant, projection.LEAST_COMPENSATION**2))
        dx = np.float64(scene.means[i, 0]) - camera.center[0]
        dy = np.float64(scene.means[i, 1]) - camera.center[1]
        dz = np.float64(scene.means[i, 2]) - camera.center[2]
        length = max(math.sqrt(dx * dx + dy * dy + dz * dz), 1e-12)
        _basis(dx / length, dy / length, dz / length, camera.degree, value)
        red, green, blue = ZERO, ZERO, ZERO
        coefficients = scene.coefficients[i]
        for k in range(numbers):
            red += value[k] * coefficients[k, 0]
            green += value[k] * coefficients[k, 1]
            blue += value[k] * coefficients[k, 2]
        # What overflows or is not a number makes this so.
        check = (xx + xy + yy + 1 / determinant + opacity + red + green + blue) * 0
        for k in range(numbers, coefficients.shape[0]):
            check += (coefficients[k, 0] + coefficients[k, 1] + coefficients[k, 2]) * ZERO
        if check != 0:
            continue
        axis = _shortest(scales)
        n0 = r[0] if axis == 0 else (r[1] if axis == 1 else r[2])
        n1 = r[3] if axis == 0 else (r[4] if axis == 1 else r[5])
        n2 = r[6] if axis == 0 else (r[7] if axis == 1 else r[8])
        sign = -1.0 if n0 * dx + n1 * dy + n2 * dz > 0 else 1.0
        means2d[found, 0], means2d[found, 1] = px, py
        splat = splats[found]
        splat[0], splat[1], splat[2], splat[3] = yy / determinant, -xy / determinant, xx / determinant, opacity
        splat[4], splat[5], splat[6] = max(red + HALF, ZERO), max(green + HALF, ZERO), max(blue + HALF, ZERO)
        splat[7], splat[8], splat[9], splat[10] = z, sign * n0, sign * n1, sign * n2
        radii[found] = radius
        ids[found] = i
        found += 1
    return found - start


class Gradients(NamedTuple):
    """Derivatives with respect to the Gaussians."""

    means: Float[np.ndarray, "n 3"]
    quats: Float[np.ndarray, "n 4"]
    scales: Float[np.ndarray, "n 3"]
    opacities: Float[np.ndarray, "n"]
    coefficients: Float[np.ndarray, "n k 3"]


@_jit
def project_backward(scene, start, stop, camera, ids, first, last, d_means2d, d_splats, out, pose, value, weight):
    """From derivatives with respect to what `project` wrote to those with respect to what it read.

    Args:
        start, stop: the range of Gaussians, of which ids[first:last] were seen.
        d_means2d: [m 2]; d_splats: [m 11].
    Writes: out, of the range; pose [15]: the viewmat's upper three rows, then the camera's center. value and weight
        [16] are scratch memory.
    """
    v, seen = camera.viewmat, first
    fx, fy = camera.intrinsics[0], camera.intrinsics[1]
    numbers = (camera.degree + 1) * (camera.degree + 1)
    for i in range(start, stop):
        if seen == last or ids[seen] != i:
            out.opacities[i] = ZERO
            for k in range(3):
                out.means[i, k] = ZERO
                out.scales[i, k] = ZERO
            for k in range(4):
                out.quats[i, k] = ZERO
            for k in range(out.coefficients.shape[1]):
                for c in range(3):
                    out.coefficients[i, k, c] = ZERO
            continue
        g, gu, gv = d_splats[seen], np.float64(d_means2d[seen, 0]), np.float64(d_means2d[seen, 1])
        seen += 1

        # The forward pass again.
        mx, my, mz = np.float64(scene.means[i, 0]), np.float64(scene.means[i, 1]), np.float64(scene.means[i, 2])
        x, y, z, _ = _depth_of(scene, camera, i)
        quat, scales = scene.quats[i], scene.scales[i]
        qw, qx, qy, qz = np.float64(quat[0]), np.float64(quat[1]), np.float64(quat[2]), np.float64(quat[3])
        norm = math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
        qw, qx, qy, qz = qw / norm, qx / norm, qy / norm, qz / norm
        r0, r1, r2, r3, r4, r5, r6, r7, r8 = _rotation(qw, qx, qy, qz)
        jxx, jxz, jyy, jyz, tx, ty, own_x, own_y = _jacobian(camera, x, y, z)
        a0, a1, a2 = jxx * v[0, 0] + jxz * v[2, 0], jxx * v[0, 1] + jxz * v[2, 1], jxx * v[0, 2] + jxz * v[2, 2]
        b0, b1, b2 = jyy * v[1, 0] + jyz * v[2, 0], jyy * v[1, 1] + jyz * v[2, 1], jyy * v[1, 2] + jyz * v[2, 2]
        s0, s1, s2 = np.float64(scales[0]), np.float64(scales[1]), np.float64(scales[2])
        m0, m1, m2 = r0 * s0, r1 * s1, r2 * s2
        m3, m4, m5 = r3 * s0, r4 * s1, r5 * s2
        m6, m7, m8 = r6 * s0, r7 * s1, r8 * s2
        u0, u1, u2 = a0 * m0 + a1 * m3 + a2 * m6, a0 * m1 + a1 * m4 + a2 * m7, a0 * m2 + a1 * m5 + a2 * m8
        w0, w1, w2 = b0 * m0 + b1 * m3 + b2 * m6, b0 * m1 + b1 * m4 + b2 * m7, b0 * m2 + b1 * m5 + b2 * m8
        xx, xy, yy = u0 * u0 + u1 * u1 + u2 * u2, u0 * w0 + u1 * w1 + u2 * w2, w0 * w0 + w1 * w1 + w2 * w2
        c0, c1, c2 = u1 * w2 - u2 * w1, u2 * w0 - u0 * w2, u0 * w1 - u1 * w0
        sharp = c0 * c0 + c1 * c1 + c2 * c2
        determinant = sharp + camera.eps2d * (xx + yy) + camera.eps2d * camera.eps2d

        # Conic Q = V⁻¹: ∂L/∂V = −Q (∂L/∂Q) Q, with half of xy's derivative in each of the two corners.
        qa, qb, qc = (yy + camera.eps2d) / determinant, -xy / determinant, (xx + camera.eps2d) / determinant
        ga, gb, gc = np.float64(g[0]), 0.5 * np.float64(g[1]), np.float64(g[2])
        ta, tb, tc, td = qa * ga + qb * gb, qa * gb + qb * gc, qb * ga + qc * gb, qb * gb + qc * gc
        gxx, gxy, gyy = -(ta * qa + tb * qb), -(ta * qb + tb * qc), -(tc * qb + td * qc)
        g_opacity = np.float64(g[3])
        if camera.antialiased:
            share = sharp / determinant
            if share > projection.LEAST_COMPENSATION**2:
                root = math.sqrt(share)
                slope = 0.5 * g_opacity * np.float64(scene.opacities[i]) / (root * determinant)
                gxx += slope * (yy - share * (yy + camera.eps2d))
                gyy += slope * (xx - share * (xx + camera.eps2d))
                gxy -= slope * xy * (1 - share)
                g_opacity *= root
            else:
                g_opacity *= projection.LEAST_COMPENSATION
        out.opacities[i] = g_opacity

        # V = U Uᵀ with rows u and w of U = J W M.
        du0, du1, du2 = 2 * (gxx * u0 + gxy * w0), 2 * (gxx * u1 + gxy * w1), 2 * (gxx * u2 + gxy * w2)
        dw0, dw1, dw2 = 2 * (gxy * u0 + gyy * w0), 2 * (gxy * u1 + gyy * w1), 2 * (gxy * u2 + gyy * w2)
        da0, da1, da2 = du0 * m0 + du1 * m1 + du2 * m2, du0 * m3 + du1 * m4 + du2 * m5, du0 * m6 + du1 * m7 + du2 * m8
        db0, db1, db2 = dw0 * m0 + dw1 * m1 + dw2 * m2, dw0 * m3 + dw1 * m4 + dw2 * m5, dw0 * m6 + dw1 * m7 + dw2 * m8
        dm0, dm1, dm2 = a0 * du0 + b0 * dw0, a0 * du1 + b0 * dw1, a0 * du2 + b0 * dw2
        dm3, dm4, dm5 = a1 * du0 + b1 * dw0, a1 * du1 + b1 * dw1, a1 * du2 + b1 * dw2
        dm6, dm7, dm8 = a2 * du0 + b2 * dw0, a2 * du1 + b2 * dw1, a2 * du2 + b2 * dw2
        out.scales[i, 0] = r0 * dm0 + r3 * dm3 + r6 * dm6
        out.scales[i, 1] = r1 * dm1 + r4 * dm4 + r7 * dm7
        out.scales[i, 2] = r2 * dm2 + r5 * dm5 + r8 * dm8
        dr0, dr1, dr2 = dm0 * s0, dm1 * s1, dm2 * s2
        dr3, dr4, dr5 = dm3 * s0, dm4 * s1, dm5 * s2
        dr6, dr7, dr8 = dm6 * s0, dm7 * s1, dm8 * s2

        # The normal is a column of the rotation.
        dx, dy, dz = mx - camera.center[0], my - camera.center[1], mz - camera.center[2]
        axis = _shortest(scales)
        g8, g9, g10 = np.float64(g[8]), np.float64(g[9]), np.float64(g[10])
        if axis == 0:
            sign = -1.0 if r0 * dx + r3 * dy + r6 * dz > 0 else 1.0
            dr0, dr3, dr6 = dr0 + sign * g8, dr3 + sign * g9, dr6 + sign * g10
        elif axis == 1:
            sign = -1.0 if r1 * dx + r4 * dy + r7 * dz > 0 else 1.0
            dr1, dr4, dr7 = dr1 + sign * g8, dr4 + sign * g9, dr7 + sign * g10
        else:
            sign = -1.0 if r2 * dx + r5 * dy + r8 * dz > 0 else 1.0
            dr2, dr5, dr8 = dr2 + sign * g8, dr5 + sign * g9, dr8 + sign * g10
        dqw = 2 * (-qz * dr1 + qy * dr2 + qz * dr3 - qx * dr5 - qy * dr6 + qx * dr7)
        dqx = 2 * (qy * (dr1 + dr3) + qz * (dr2 + dr6) - 2 * qx * (dr4 + dr8) + qw * (dr7 - dr5))
        dqy = 2 * (qx * (dr1 + dr3) + qz * (dr5 + dr7) - 2 * qy * (dr0 + dr8) + qw * (dr2 - dr6))
        dqz = 2 * (qx * (dr2 + dr6) + qy * (dr5 + dr7) - 2 * qz * (dr0 + dr4) + qw * (dr3 - dr1))
        along = qw * dqw + qx * dqx + qy * dqy + qz * dqz
        out.quats[i, 0] = (dqw - along * qw) / norm
        out.quats[i, 1] = (dqx - along * qx) / norm
        out.quats[i, 2] = (dqy - along * qy) / norm
        out.quats[i, 3] = (dqz - along * qz) / norm

        # J, then the position in the camera.
        djxx = da0 * v[0, 0] + da1 * v[0, 1] + da2 * v[0, 2]
        djxz = da0 * v[2, 0] + da1 * v[2, 1] + da2 * v[2, 2]
        djyy = db0 * v[1, 0] + db1 * v[1, 1] + db2 * v[1, 2]
        djyz = db0 * v[2, 0] + db1 * v[2, 1] + db2 * v[2, 2]
        zz = z * z
        gx, gy = fx / z * gu, fy / z * gv
        gz = np.float64(g[7]) - (fx * x * gu + fy * y * gv) / zz
        gz += (-fx * djxx - fy * djyy + 2 / z * (fx * tx * djxz + fy * ty * djyz)) / zz
        if own_x:
            gx -= fx / zz * djxz
        else:
            gz -= fx / zz * djxz * tx / z
        if own_y:
            gy -= fy / zz * djyz
        else:
            gz -= fy / zz * djyz * ty / z
        pose[0] += gx * mx + jxx * da0
        pose[1] += gx * my + jxx * da1
        pose[2] += gx * mz + jxx * da2
        pose[3] += gx
        pose[4] += gy * mx + jyy * db0
        pose[5] += gy * my + jyy * db1
        pose[6] += gy * mz + jyy * db2
        pose[7] += gy
        pose[8] += gz * mx + jxz * da0 + jyz * db0
        pose[9] += gz * my + jxz * da1 + jyz * db1
        pose[10] += gz * mz + jxz * da2 + jyz * db2
        pose[11] += gz

        # Color.
        length = max(math.sqrt(dx * dx + dy * dy + dz * dz), 1e-12)
        dx, dy, dz = dx / length, dy / length, dz / length
        _basis(dx, dy, dz, camera.degree, value)
        coefficients, gradient = scene.coefficients[i], out.coefficients[i]
        red, green, blue = ZERO, ZERO, ZERO
        for k in range(numbers):
            red += value[k] * coefficients[k, 0]
            green += value[k] * coefficients[k, 1]
            blue += value[k] * coefficients[k, 2]
        g4 = g[4] if red + HALF >= ZERO else ZERO
        g5 = g[5] if green + HALF >= ZERO else ZERO
        g6 = g[6] if blue + HALF >= ZERO else ZERO
        for k in range(numbers):
            gradient[k, 0] = value[k] * g4
            gradient[k, 1] = value[k] * g5
            gradient[k, 2] = value[k] * g6
            weight[k] = coefficients[k, 0] * g4 + coefficients[k, 1] * g5 + coefficients[k, 2] * g6
        for k in range(numbers, gradient.shape[0]):
            for c in range(3):
                gradient[k, c] = ZERO
        hx, hy, hz = _basis_slope(dx, dy, dz, camera.degree, weight)
        along = hx * dx + hy * dy + hz * dz
        hx, hy, hz = (hx - along * dx) / length, (hy - along * dy) / length, (hz - along * dz) / length
        pose[12] -= hx
        pose[13] -= hy
        pose[14] -= hz

        out.means[i, 0] = v[0, 0] * gx + v[1, 0] * gy + v[2, 0] * gz + hx
        out.means[i, 1] = v[0, 1] * gx + v[1, 1] * gy + v[2, 1] * gz + hy
        out.means[i, 2] = v[0, 2] * gx + v[1, 2] * gy + v[2, 2] * gz + hz


@_jit
def arrange(means2d, width, height, cursor, rows_of):
    """Decide in which rows Gaussians are kept: by the tile that their mean is in, or the nearest one.

    Tiles then find most of what they read, and add to, in the cache.

    Writes: rows_of [m]. cursor [tiles + 1] is scratch memory.
    """
    columns, down = (width + ACROSS - 1) // ACROSS, (height + DOWN - 1) // DOWN
    for tile in range(len(cursor)):
        cursor[tile] = 0
    for i in range(len(rows_of)):
        x = min(max(means2d[i, 0], ZERO), np.float32(width - 1))
        y = min(max(means2d[i, 1], ZERO), np.float32(height - 1))
        tile = min(int(x) // ACROSS, columns - 1) * down + min(int(y) // DOWN, down - 1)
        rows_of[i] = tile
        cursor[tile + 1] += 1
    for tile in range(len(cursor) - 1):
        cursor[tile + 1] += cursor[tile]
    for i in range(len(rows_of)):
        tile = rows_of[i]
        rows_of[i] = cursor[tile]
        cursor[tile] += 1


@_jit
def prepare(means2d, splats, radii, start, stop, width, height, rows_of, rows, forms, boxes, columns):
    """Put what is blended of a range of Gaussians into rows.

    Writes: rows [m ROW]; in the Gaussians' order forms [m 6], mean, conic in units of rows, and its form's value where
        alpha is least; boxes [m 4], the pixels from left, top to right, bottom that they may be seen in; columns [m],
        of how many columns of tiles these are.
    """
    for i in range(start, stop):
        u, v, row, splat, form = means2d[i, 0], means2d[i, 1], rows[rows_of[i]], splats[i], forms[i]
        a, b, c, o = np.float64(splat[0]), np.float64(splat[1]), np.float64(splat[2]), splat[3]
        row[0], row[1] = u, v
        row[2], row[3], row[4], row[5] = 0.5 * LOG2_E * a, LOG2_E * b, 0.5 * LOG2_E * c, o
        for k in range(4, SPLAT):
            row[k + 2] = splat[k]
        left, top, right, bottom = 0, 0, 0, 0
        if o >= LEAST_ALPHA:
            # Where alpha is the least: the ellipse's box, a trifle wider for rounding's sake.
            reach = math.log(np.float64(o) / np.float64(LEAST_ALPHA)) * 1.001 + 1e-4
            for k in range(5):
                form[k] = row[k]
            form[5] = reach * LOG2_E
            reach *= 2 / (a * c - b * b)
            dx, dy = math.sqrt(reach * c) + 0.01, math.sqrt(reach * a) + 0.01
            r, box = np.float32(radii[i]) / projection.BOX, projection.BOX
            x0, x1 = np.floor(u / box - r) * box, np.ceil(u / box + r) * box
            y0, y1 = np.floor(v / box - r) * box, np.ceil(v / box + r) * box
            x0, x1 = max(x0, np.ceil(u - dx - 0.5), 0.0), min(x1, np.floor(u + dx - 0.5) + 1, np.float64(width))
            y0, y1 = max(y0, np.ceil(v - dy - 0.5), 0.0), min(y1, np.floor(v + dy - 0.5) + 1, np.float64(height))
            if (x0 < x1) & (y0 < y1):
                left, right, top, bottom = int(x0), int(x1), int(y0), int(y1)
        boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3] = left, top, right, bottom
        columns[i] = (right + ACROSS - 1) // ACROSS - left // ACROSS


@_jit
def measure(forms, boxes, start, stop, height, firsts, spans, counts, numbers):
    """Find the rows of pixels that ellipses, a range of them, reach in each of their columns of tiles.

    Args:
        firsts: [m + 1] where each one's columns begin in one list of all.
    Writes: spans [columns 2], the first such row and the one after the last; counts [tiles], how many of the range are
        in each tile, which are numbered column by column; numbers [m], in how many tiles each one is; boxes [m 4], over
        what was there: the first column, and where its spans begin and end.
    """
    down = (height + DOWN - 1) // DOWN
    for tile in range(len(counts)):
        counts[tile] = 0
    for i in range(start, stop):
        number = 0
        form = forms[i]
        u, v = np.float64(form[0]), np.float64(form[1])
        a, b, c, reach = np.float64(form[2]), np.float64(form[3]), np.float64(form[4]), np.float64(form[5])
        first, column = firsts[i], boxes[i, 0] // ACROSS
        # The ellipse a x² + b x y + c y² = reach: height above and below its diameter, and where it is highest.
        discriminant = 4 * a * c - b * b
        peak = -b * math.sqrt(reach / (a * discriminant)) if discriminant > 0 else 0.0
        for k in range(firsts[i + 1] - first):
            low, high = max((column + k) * ACROSS, boxes[i, 0]), min((column + k + 1) * ACROSS, boxes[i, 2]) - 1
            west, east = low + 0.5 - u, high + 0.5 - u
            x = min(max(peak, west), east)
            lower = (math.sqrt(max(4 * c * reach - discriminant * x * x, 0.0)) - b * x) / (2 * c)
            x = min(max(-peak, west), east)
            upper = (math.sqrt(max(4 * c * reach - discriminant * x * x, 0.0)) + b * x) / (2 * c)
            y0 = max(np.ceil(v - upper - 0.51), np.float64(boxes[i, 1]))
            y1 = min(np.floor(v + lower - 0.49) + 1, np.float64(boxes[i, 3]))
            y0, y1 = (y0, y1) if y0 < y1 else (0.0, 0.0)
            spans[first + k, 0], spans[first + k, 1] = int(y0), int(y1)
            for y in range(int(y0) // DOWN, (int(y1) + DOWN - 1) // DOWN):
                counts[(column + k) * down + y] += 1
                number += 1
        boxes[i, 0], boxes[i, 1], boxes[i, 2] = column, first, firsts[i + 1]
        numbers[i] = number


@_jit
def distribute(splats, rows_of, boxes, start, stop, height, spans, cursor, entries, keys):
    """List the rows of each tile, of a range of Gaussians in their order.

    Writes: entries, tile by tile: rows; which of the Gaussian's entries each is; of the tile's rows of pixels the first
        and the one after the last (see `_row`, `_number`, `_pixels`). keys: bits of the depths. cursor [tiles]: where
        the range's place in each tile's list begins; moves to where it ends.
    """
    down = (height + DOWN - 1) // DOWN
    for i in range(start, stop):
        number, tiles, key = 0, boxes[i, 0] * down, np.float32(splats[i, 7]).view(np.uint32)
        row = np.int64(rows_of[i]) << 36
        for n in range(boxes[i, 1], boxes[i, 2]):
            y0, y1 = spans[n, 0], spans[n, 1]
            for y in range(y0 // DOWN, (y1 + DOWN - 1) // DOWN):
                place = cursor[tiles + y]
                cursor[tiles + y] = place + 1
                first, stop = max(y0 - y * DOWN, 0), min(y1 - y * DOWN, DOWN)
                entries[place] = row | np.int64(number) << 12 | np.int64(first) << 6 | np.int64(stop)
                keys[place] = key
                number += 1
            tiles += down


@_inline
def _row(entry):
    return entry >> 36


@_inline
def _number(entry):
    return (entry >> 12) & 0xFFFFFF


@_inline
def _pixels(entry):
    return (entry >> 6) & 63, entry & 63


@_jit
def sort_tiles(starts, first, last, entries, keys, spare_entries, spare_keys, counts):
    """Sort the lists of a range of tiles by depth, of equal depths as they are stored: by bytes, the least first.

    Depths are positive, and their bits as whole numbers are in their own order.

    Writes: entries and keys, in place. The spare ones, as long as the longest list, and counts [4 256] are scratch
        memory.
    """
    for tile in range(first, last):
        start, size = starts[tile], starts[tile + 1] - starts[tile]
        for byte in range(4):
            for k in range(256):
                counts[byte, k] = 0
        for n in range(start, start + size):
            key = keys[n]
            for byte in range(4):
                counts[byte, np.intp((key >> np.uint32(8 * byte)) & np.uint32(255))] += 1
        swapped = False
        for byte in range(4):
            shift = np.uint32(8 * byte)
            if size == 0 or counts[byte, np.intp((keys[start] >> shift) & np.uint32(255))] == size:
                continue  # all have the same
            total = 0
            for k in range(256):
                here = counts[byte, k]
                counts[byte, k] = total
                total += here
            if swapped:
                for n in range(size):
                    k = np.intp((spare_keys[n] >> shift) & np.uint32(255))
                    place = start + counts[byte, k]
                    counts[byte, k] += 1
                    keys[place], entries[place] = spare_keys[n], spare_entries[n]
            else:
                for n in range(start, start + size):
                    k = np.intp((keys[n] >> shift) & np.uint32(255))
                    place = counts[byte, k]
                    counts[byte, k] += 1
                    spare_keys[place], spare_entries[place] = keys[n], entries[n]
            swapped = not swapped
        if swapped:
            for n in range(size):
                keys[start + n], entries[start + n] = spare_keys[n], spare_entries[n]


@_inline
def _power(exponent):
    """2 to the power of the negative exponent, at least 2^-120: relative error below 2e-7."""
    x = -exponent if exponent < MOST_EXPONENT else -MOST_EXPONENT
    shifted = x + SHIFT
    f = x - (shifted - SHIFT)  # in ±½, where the polynomial is 2^f
    power = ((((EXP2[5] * f + EXP2[4]) * f + EXP2[3]) * f + EXP2[2]) * f + EXP2[1]) * f + EXP2[0]
    n = np.float32(shifted).view(np.int32) << 23  # the integer, moved to where the exponent starts
    return np.int32(np.float32(power).view(np.int32) + n).view(np.float32)


@_inline
def _opacity_at(dx, dy, a, b, c, o):
    """The opacity at a pixel before its limits, and whether it is one. Forward and backward decide alike: no "reassoc".

    Returns: opacity; alpha, 0 where it is left out.
    """
    exponent = (a * dx + b * dy) * dx + c * dy * dy
    raw = o * _power(exponent)
    alpha = raw if raw < MOST_ALPHA else MOST_ALPHA
    return raw, alpha if (alpha >= LEAST_ALPHA) & (exponent >= ZERO) else ZERO


@_inline
def _step(t, alpha):
    """Weight, transmittance behind, and 1 if the pixel goes on, else 0, for which both are 0.

    A factor, not a choice: a choice would become a store that happens or not, which takes long.
    """
    weight = t * alpha
    after = t - weight
    going = ONE if after > LEAST_T else ZERO
    return weight * going, after * going, going


@_inline
def _open_tile(s, left, top, width, height):
    """Place the pixels; those beyond the picture are done from the start."""
    for k in range(SCRATCH):
        s[k] = ZERO
    for i in range(PIXELS):
        x, y = left + i % ACROSS, top + i // ACROSS
        s[T + np.uintp(i)] = ONE if (x < width) & (y < height) else ZERO
        s[PX + np.uintp(i)] = np.float32(x) + HALF
        s[PY + np.uintp(i)] = np.float32(y) + HALF


@_inline
def _going_rows(s, first, stop):
    """Of rows of a tile, the first with a pixel that goes on, and the one after the last; equal if there is none."""
    while first < stop and _row_is_done(s, first):
        first += 1
    while first < stop and _row_is_done(s, stop - 1):
        stop -= 1
    return first, stop


@_inline
def _row_is_done(s, y):
    most = ZERO
    for x in range(ACROSS):
        t = s[T + np.uintp(y * ACROSS + x)]
        most = t if t > most else most
    return most == ZERO


@_inline
def _fetch(rows, entries, start, stop, batch):
    """Copy rows that are all over the memory."""
    for k in range(stop - start):
        row = rows[_row(entries[start + k])]
        for j in range(ROW):
            batch[k, j] = row[j]


class Images(NamedTuple):
    """Blended pictures, or derivatives with respect to them; see `blending.Pictures`."""

    color: Float[np.ndarray, "h w 3"]
    accumulation: Float[np.ndarray, "h w 1"]
    depth: Float[np.ndarray, "h w 1"]
    normals: Float[np.ndarray, "h w 3"]


@_jit
def blend(rows, entries, starts, first, last, background, images, median, ends, s, batch):
    """Blend a range of tiles.

    Args:
        rows, entries, starts: see `prepare`, `sort_tiles` and `measure`.
    Writes: images, median [h w 1], the tiles' pixels; ends [tiles], up to where each tile's list was of use. s
        [SCRATCH] and batch [BATCH ROW] are scratch memory.
    """
    height, width = images.color.shape[0], images.color.shape[1]
    down = (height + DOWN - 1) // DOWN
    for tile in range(first, last):
        left, top = tile // down * ACROSS, tile % down * DOWN
        _open_tile(s, left, top, width, height)
        place, stop = starts[tile], starts[tile + 1]
        going_from, going_to = 0, DOWN
        while place < stop and going_from < going_to:
            ahead = min(place + BATCH, stop)
            _fetch(rows, entries, place, ahead, batch)
            for n in range(ahead - place):
                row = batch[n]
                u, v, a, b, c, o = row[0], row[1], row[2], row[3], row[4], row[5]
                v0, v1, v2, v3, v4, v5, v6 = row[6], row[7], row[8], row[9], row[10], row[11], row[12]
                y0, y1 = _pixels(entries[place + n])
                y0, y1 = max(y0, going_from), min(y1, going_to)
                pixel = np.uintp(y0 * ACROSS)
                # A multiple of a vector's length: LLVM knows, and makes no second loop for a remainder.
                for k in range((y1 - y0) * ACROSS // ACROSS * ACROSS):
                    i = pixel + np.uintp(k)
                    _, alpha = _opacity_at(u - s[PX + i], v - s[PY + i], a, b, c, o)
                    t = s[T + i]
                    weight, after, going = _step(t, alpha)
                    half = going if (t > HALF) & (after <= HALF) else ZERO
                    s[T + i] = after
                    s[WEIGHT + i] += weight
                    s[MEDIAN + i] += half * v3
                    s[SUM + i] += weight * v0
                    s[SUM + P1 + i] += weight * v1
                    s[SUM + P2 + i] += weight * v2
                    s[SUM + P3 + i] += weight * v3
                    s[SUM + P4 + i] += weight * v4
                    s[SUM + P5 + i] += weight * v5
                    s[SUM + P6 + i] += weight * v6
            place = ahead
            going_from, going_to = _going_rows(s, going_from, going_to)
        ends[tile] = place
        for y in range(min(DOWN, height - top)):
            for x in range(min(ACROSS, width - left)):
                i = np.uintp(y * ACROSS + x)
                weight = s[WEIGHT + i]
                images.accumulation[top + y, left + x, 0] = weight
                images.depth[top + y, left + x, 0] = s[SUM + P3 + i] / max(weight, LEAST_WEIGHT)
                median[top + y, left + x, 0] = s[MEDIAN + i]
                for k in range(3):
                    value = s[SUM + np.uintp(k * PIXELS) + i] + (ONE - weight) * background[k]
                    images.color[top + y, left + x, k] = value
                    images.normals[top + y, left + x, k] = s[SUM + np.uintp((k + 4) * PIXELS) + i]


@_jit_sums
def blend_backward(rows, entries, starts, ends, slots, first, last, background, images, slopes, sums, s, batch):
    """Moments of the Gaussians of a range of tiles.

    With L = Σ wᵢ dᵢ over a pixel's Gaussians from front to back, where d is what the pixel's derivatives give for a
    Gaussian's color, depth, normal and 1, ∂L/∂(ln αᵢ) = wᵢ dᵢ − αᵢ / (1 − αᵢ) Σ wⱼ dⱼ over those behind.

    Args: as for `blend`;
        slots: where in `sums` each row's entries have their places; empty if each row has one only.
        images: what `blend` wrote.
        slopes: derivatives with respect to it.
    Writes: sums [.. MOMENTS], added to.
    """
    height, width = images.color.shape[0], images.color.shape[1]
    down = (height + DOWN - 1) // DOWN
    for tile in range(first, last):
        if starts[tile] == ends[tile]:
            continue
        left, top = tile // down * ACROSS, tile % down * DOWN
        _open_tile(s, left, top, width, height)
        for y in range(min(DOWN, height - top)):
            for x in range(min(ACROSS, width - left)):
                i = np.uintp(y * ACROSS + x)
                weight, depth = images.accumulation[top + y, left + x, 0], images.depth[top + y, left + x, 0]
                slope = slopes.depth[top + y, left + x, 0] / max(weight, LEAST_WEIGHT)
                s[SLOPE + P3 + i] = slope
                # Of the mean depth, Σ w z / Σ w, all that is behind adds up to zero.
                by_weight = slopes.accumulation[top + y, left + x, 0] - slope * depth
                behind = slopes.accumulation[top + y, left + x, 0] * weight
                for k in range(3):
                    slope = slopes.color[top + y, left + x, k]
                    s[SLOPE + np.uintp(k * PIXELS) + i] = slope
                    by_weight -= slope * background[k]
                    behind += slope * (images.color[top + y, left + x, k] - background[k])
                    slope = slopes.normals[top + y, left + x, k]
                    s[SLOPE + np.uintp((k + 4) * PIXELS) + i] = slope
                    behind += slope * images.normals[top + y, left + x, k]
                s[SLOPE_A + i] = by_weight
                s[BEHIND + i] = behind
        place, stop = starts[tile], ends[tile]
        going_from, going_to = 0, DOWN
        while place < stop:
            ahead = min(place + BATCH, stop)
            _fetch(rows, entries, place, ahead, batch)
            for n in range(ahead - place):
                row = batch[n]
                u, v, a, b, c, o = row[0], row[1], row[2], row[3], row[4], row[5]
                v0, v1, v2, v3, v4, v5, v6 = row[6], row[7], row[8], row[9], row[10], row[11], row[12]
                h0, hx, hy, hxx, hxy, hyy = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
                g0, g1, g2, g3, g4, g5, g6 = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
                y0, y1 = _pixels(entries[place + n])
                y0, y1 = max(y0, going_from), min(y1, going_to)
                pixel = np.uintp(y0 * ACROSS)
                for k in range((y1 - y0) * ACROSS // ACROSS * ACROSS):
                    i = pixel + np.uintp(k)
                    dx, dy = u - s[PX + i], v - s[PY + i]
                    raw, alpha = _opacity_at(dx, dy, a, b, c, o)
                    weight, after, going = _step(s[T + i], alpha)
                    s[T + i] = after
                    x0, x1, x2, x3 = s[SLOPE + i], s[SLOPE + P1 + i], s[SLOPE + P2 + i], s[SLOPE + P3 + i]
                    x4, x5, x6 = s[SLOPE + P4 + i], s[SLOPE + P5 + i], s[SLOPE + P6 + i]
                    dot = s[SLOPE_A + i] + v0 * x0 + v1 * x1 + v2 * x2 + v3 * x3 + v4 * x4 + v5 * x5 + v6 * x6
                    g0 += weight * x0
                    g1 += weight * x1
                    g2 += weight * x2
                    g3 += weight * x3
                    g4 += weight * x4
                    g5 += weight * x5
                    g6 += weight * x6
                    behind = s[BEHIND + i] - weight * dot
                    s[BEHIND + i] = behind
                    inner = going if raw <= MOST_ALPHA else ZERO
                    h = (weight * dot - alpha / (ONE - alpha) * behind) * inner
                    h_x, h_y = h * dx, h * dy
                    h0 += h
                    hx += h_x
                    hy += h_y
                    hxx += h_x * dx
                    hxy += h_x * dy
                    hyy += h_y * dy
                where = _row(entries[place + n])
                if len(slots) > 0:
                    where = slots[where] + _number(entries[place + n])
                out = sums[where]
                out[0] += hx
                out[1] += hy
                out[2] += hxx
                out[3] += hxy
                out[4] += hyy
                out[5] += h0
                out[6] += g0
                out[7] += g1
                out[8] += g2
                out[9] += g3
                out[10] += g4
                out[11] += g5
                out[12] += g6
            place = ahead
            going_from, going_to = _going_rows(s, going_from, going_to)


@_jit
def finish(sums, parts, slots, rows_of, rows, start, stop, d_means2d, d_splats):
    """From moments to derivatives with respect to `Projected.means2d` and `splats`.

    Args:
        sums: [m MOMENTS] moments of each row.
        parts: [entries MOMENTS] the same for each tile, in the Gaussians' order, with `slots` where each one's begin;
            added up here. Empty if `sums` are complete.
        start, stop: the range of Gaussians.
    """
    for i in range(start, stop):
        m, row = sums[rows_of[i]], rows[rows_of[i]]
        if len(parts) > 0:
            for place in range(slots[i], slots[i + 1]):
                for k in range(MOMENTS):
                    m[k] += parts[place, k]
        a, b, c = np.float32(2 * LN_2) * row[2], np.float32(LN_2) * row[3], np.float32(2 * LN_2) * row[4]
        d_means2d[i, 0] = -(a * m[0] + b * m[1])
        d_means2d[i, 1] = -(b * m[0] + c * m[1])
        out = d_splats[i]
        out[0], out[1], out[2] = -HALF * m[2], -m[3], -HALF * m[4]
        out[3] = m[5] / row[5] if row[5] > ZERO else ZERO
        for k in range(7):
            out[4 + k] = m[6 + k]
