"""What rays need before fields are asked, on CPUs, compiled by numba: each loop does in one pass over memory what takes
torch dozens. `stepfun.py` and `contraction.py` here and `multisampling.py` and `blurred_steps.py` of `mipnerf_ns` say
what is computed, and compute it where there is no numba, on other devices, and where a gradient is needed.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from common_ns.compiled import cube_root, inline, jit, sincos

_ONE, _TWO, _HALF, _THIRD = np.float32(1), np.float32(2), np.float32(0.5), np.float32(1 / 3)
_TURN = np.float32(2 * math.pi)
_ROOT_HALF, _TINY = np.float32(math.sqrt(0.5)), np.float32(1e-30)


@inline
def _root(a):
    return np.float32(math.sqrt(a))


@jit
def place_points(
    starts: Float[np.ndarray, "n s"],
    ends: Float[np.ndarray, "n s"],
    rays: Float[np.ndarray, "n 13"],
    turns: Float[np.ndarray, "n s 2"],
    helix: Float[np.ndarray, "k 3"],
    even_discs: bool,
    std_scale: float,
    contracted: bool,
    out: Float[np.ndarray, "4 k n s"],
) -> None:
    """Points that stand for conical frustums, contracted if asked for, in a grid's coordinates, with their extent.

    Args:
        starts, ends: ray distances of the intervals' ends, in the unit of the rays' origins.
        rays: origin, direction, two unit vectors across it, and cone radius at distance 1 of each ray. The unit is
            the contraction's radius, or half of the grid's side.
        turns: random numbers in [0, 1) that turn each interval's points, and mirror them if below ½.
        helix: cosine and sine of each point's angle, and its place along the ray in standard deviations. One point is
            the mean, with the extent of the whole frustum.
        even_discs: discs grow with the interval's distance, not with each point's.
        std_scale: standard deviation of each point, over its distance from the ray.
        contracted: whether to contract.
        out: positions, from 0 to 1 in the grid, and standard deviations, are written here.
    """
    scale = np.float32(std_scale)
    to_grid = np.float32(0.25) if contracted else _HALF
    outside = _ONE if contracted else np.float32(np.inf)
    num_points, num_intervals = len(helix), starts.shape[1]
    work = np.empty((6, num_intervals), np.float32)  # loops over a ray's intervals become vector instructions
    for ray in range(len(starts)):
        ox, oy, oz, dx, dy, dz = rays[ray, 0], rays[ray, 1], rays[ray, 2], rays[ray, 3], rays[ray, 4], rays[ray, 5]
        ax, ay, az, bx, by, bz = rays[ray, 6], rays[ray, 7], rays[ray, 8], rays[ray, 9], rays[ray, 10], rays[ray, 11]
        radius, squared_length = _ROOT_HALF * rays[ray, 12], dx * dx + dy * dy + dz * dz
        for s in range(num_intervals):
            center, half = (starts[ray, s] + ends[ray, s]) * _HALF, (ends[ray, s] - starts[ray, s]) * _HALF
            inverse = _ONE / max(np.float32(3) * center * center + half * half, _TINY)
            near, far = half * half * inverse, center * center * inverse
            spread = (near - far) * (near - far) + np.float32(4) * far * far
            std = half * _root(np.float32(0.6) * max(spread, np.float32(0.2)))
            mean = center + _TWO * center * near
            work[0, s], work[1, s], work[2, s] = mean, std, radius * _root(max(mean * mean + std * std, _TINY))
        if num_points > 1:
            for s in range(num_intervals):
                work[4, s], work[3, s] = sincos(_TURN * turns[ray, s, 0])
                work[5, s] = turns[ray, s, 1]
        for k in range(num_points):
            cosine, sine, along = helix[k, 0], helix[k, 1], helix[k, 2]
            mirrored_cosine, mirrored_sine = helix[num_points - 1 - k, 0], helix[num_points - 1 - k, 1]
            for s in range(num_intervals):
                distance = work[0, s] + work[1, s] * along
                if num_points == 1:
                    first = second = np.float32(0)
                    variance = (work[1, s] * work[1, s] * squared_length + work[2, s] * work[2, s]) * _THIRD
                    extent = _root(max(variance, _TINY))
                else:
                    disc = work[2, s] if even_discs else radius * distance
                    extent = scale * disc
                    mirrored = work[5, s] < _HALF
                    c, d = (mirrored_cosine, mirrored_sine) if mirrored else (cosine, sine)
                    first = disc * (c * work[3, s] - d * work[4, s])
                    second = disc * (d * work[3, s] + c * work[4, s])
                x = ox + dx * distance + ax * first + bx * second
                y = oy + dy * distance + ay * first + by * second
                z = oz + dz * distance + az * first + bz * second
                squared = x * x + y * y + z * z
                # Nothing is changed within the unit ball, or where nothing is to be contracted.
                inverse_distance = _ONE / _root(squared if squared > outside else _ONE)
                across = (_TWO - inverse_distance) * inverse_distance
                # The cube root of (inverse² across²), the change of volume.
                extent *= inverse_distance * cube_root(inverse_distance * (_TWO - inverse_distance) ** 2)
                out[0, k, ray, s] = across * x * to_grid + _HALF
                out[1, k, ray, s] = across * y * to_grid + _HALF
                out[2, k, ray, s] = across * z * to_grid + _HALF
                out[3, k, ray, s] = extent * to_grid


@inline
def _weight_up_to(t, w, x, state):
    """The integral F of a histogram up to x, and that of F; `state` has the interval that x is not before, and both at
    its start, and goes forward."""
    count = len(w)
    index, before, integral = state
    while index < count and t[index + 1] <= x:
        length = np.float64(t[index + 1]) - np.float64(t[index])
        integral += length * (before + 0.5 * w[index])
        before += w[index]
        index += 1
    offset, gain = max(x - t[index], 0.0), 0.0
    if index < count:
        gain = w[index] * min(offset / (np.float64(t[index + 1]) - np.float64(t[index])), 1.0)
    return before + gain, integral + offset * (before + 0.5 * gain), (index, before, integral)


@jit
def blur_weights_to(
    t: Float[np.ndarray, "n s+1"],
    w: Float[np.ndarray, "n s"],
    t_query: Float[np.ndarray, "n m+1"],
    radius: float,
    out: Float[np.ndarray, "n m"],
) -> None:
    """Weights that blurred histograms have in other intervals, as `mipnerf_ns.blurred_steps.blurred_weights`.

    Args:
        t, w, t_query: as there.
        radius: above 0.
        out: they are written here.
    """
    for ray in range(len(t)):
        lower = upper = (0, 0.0, 0.0)
        previous = 0.0
        for q in range(t_query.shape[1]):
            x = np.float64(t_query[ray, q])
            _, below, lower = _weight_up_to(t[ray], w[ray], x - radius, lower)
            _, above, upper = _weight_up_to(t[ray], w[ray], x + radius, upper)
            cumulated = (above - below) / (2.0 * radius)
            if q > 0:
                out[ray, q - 1] = max(cumulated - previous, 0.0)
            previous = cumulated


@jit
def draw_intervals(
    t: Float[np.ndarray, "n s+1"],
    w: Float[np.ndarray, "n s"],
    shift: Float[np.ndarray, "n 1"],
    start: float,
    out: Float[np.ndarray, "n m+1"],
) -> None:
    """Intervals whose centers follow step functions, as `common_ns.rays.stepfun.sample_intervals`.

    Args:
        t, w, start: as there.
        shift: of each ray's quantiles, in units of their spacing.
        out: endpoints are written here, of at least two intervals.
    """
    count, num_intervals = out.shape[1] - 1, w.shape[1]
    below_one = _ONE - np.float32(1.1920929e-07)
    first = np.float32(start)
    cdf = np.empty(num_intervals + 1, np.float32)
    centers = np.empty(count, np.float32)
    for ray in range(len(t)):
        total = np.float32(0)
        for s in range(num_intervals):
            total += w[ray, s]
        sum_so_far = cdf[0] = np.float32(0)
        for s in range(num_intervals):
            sum_so_far += w[ray, s] if total > np.float32(1e-10) else t[ray, s + 1] - t[ray, s]
            cdf[s + 1] = sum_so_far
        last = cdf[num_intervals]
        for s in range(num_intervals + 1):
            cdf[s] /= last
        index = 0
        for m in range(count):
            quantile = min((np.float32(m) + shift[ray, 0]) / np.float32(count), below_one)
            while index < num_intervals - 1 and cdf[index + 1] <= quantile:
                index += 1
            low, high = cdf[index], cdf[index + 1]
            fraction = min(max((quantile - low) / max(high - low, np.float32(1e-12)), np.float32(0)), _ONE)
            centers[m] = t[ray, index] + fraction * (t[ray, index + 1] - t[ray, index])
        for m in range(count - 1):
            out[ray, m + 1] = min(max(_HALF * (centers[m] + centers[m + 1]), first), _ONE)
        before, after = _TWO * centers[0] - out[ray, 1], _TWO * centers[count - 1] - out[ray, count - 1]
        out[ray, 0], out[ray, count] = min(max(before, first), _ONE), min(max(after, first), _ONE)
