"""Triangles through the pixels of a picture with depth: few, whole, and close to what is seen."""

from __future__ import annotations

import numpy as np
import pytest
from jaxtyping import Float
from numpy.typing import NDArray

from common_ns.viewer_preview.relief import triangles

HEIGHT, WIDTH = 37, 50


def plane(slope: float = 0.01) -> Float[NDArray, "h w"]:
    """Depth of a floor: its inverse is even."""
    return 1.0 / (0.2 + slope * np.arange(HEIGHT)[:, None] + np.zeros(WIDTH))


def covered(rows: NDArray, columns: NDArray, faces: NDArray) -> float:
    """Area in squares of a pixel."""
    x, y = columns[faces].astype(float), rows[faces].astype(float)
    sides = [(each[:, 1] - each[:, 0], each[:, 2] - each[:, 0]) for each in (x, y)]
    return float(0.5 * np.abs(sides[0][0] * sides[1][1] - sides[0][1] * sides[1][0]).sum())


def test_a_plane_is_covered_by_few_triangles_and_once():
    rows, columns, faces = triangles(plane(), np.ones((HEIGHT, WIDTH), bool), 10000)
    assert covered(rows, columns, faces) == pytest.approx((HEIGHT - 1) * (WIDTH - 1))
    assert len(faces) < 0.2 * 2 * HEIGHT * WIDTH


def test_what_is_not_even_is_covered_pixel_by_pixel_and_jumps_are_not():
    depth = plane()
    depth[10:20, 10:20] = 1.0
    rows, columns, faces = triangles(depth, np.ones(depth.shape, bool), 10000)
    around = 11 * 11 - 9 * 9
    # Of a square that the jump runs through obliquely one triangle may be whole: here at corners.
    assert covered(rows, columns, faces) == pytest.approx((HEIGHT - 1) * (WIDTH - 1) - around, abs=2.5)
    corners = depth[rows, columns][faces]
    assert (corners.max(axis=1) < 1.2 * corners.min(axis=1))[corners.min(axis=1) <= 1.0].all()


def test_squares_are_as_close_to_the_depth_as_they_are_to_be():
    """A bowl: triangles of any size differ from it by no more than is allowed, seen from the camera."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inverse = 0.3 + 0.0004 * ((y - 18) ** 2 + (x - 25) ** 2)
    rows, columns, faces = triangles(1.0 / inverse, np.ones(inverse.shape, bool), 700)
    assert 200 < len(rows) <= 700
    middle = np.stack([rows, columns])[:, faces].mean(axis=-1)
    right = 0.3 + 0.0004 * ((middle[0] - 18) ** 2 + (middle[1] - 25) ** 2)
    flat = inverse[rows, columns][faces].mean(axis=1)
    assert np.abs(flat - right).max() < 0.03 / np.quantile(1.0 / inverse, 0.25)


def test_pixels_that_show_nothing_are_no_corners():
    shows = np.ones((HEIGHT, WIDTH), bool)
    shows[5:9, :30] = False
    rows, columns, faces = triangles(plane(), shows, 10000)
    assert shows[rows, columns].all()
    lost = 30 * 5
    assert covered(rows, columns, faces) == pytest.approx((HEIGHT - 1) * (WIDTH - 1) - lost, abs=1.0)
    assert len(triangles(plane(), np.zeros_like(shows), 100)[2]) == 0


@pytest.mark.parametrize("most", [1000, 300, 60])
def test_there_are_no_more_corners_than_wanted(most):
    depth = plane() * np.random.default_rng(0).uniform(1.0, 1.3, (HEIGHT, WIDTH))
    rows, _, faces = triangles(depth, np.ones(depth.shape, bool), most)
    assert 0 < len(rows) <= most and len(faces)
