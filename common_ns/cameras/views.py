"""How far apart views are, which few of them to train on, and which to compare a view with."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from common_ns.cameras.geometry import positions, view_directions

MAX_ANGLE = 60.0
"""Degrees between the optical axes of views that are compared: others hardly see the same."""


def view_distances(c2w: Float[ndarray, "n 3 4"]) -> Float[ndarray, "n n"]:
    """Distance of each view to each other, by place and viewing direction.

    Places count in units of their root mean square distance from the mean place, directions by their chord, so that it
    depends neither on the unit of length nor on where the origin is.
    """
    from scipy.spatial.distance import cdist

    place, direction = positions(c2w), view_directions(c2w)
    place = place - place.mean(axis=0)
    spread = float(np.sqrt((place**2).sum(axis=1).mean()))
    features = np.concatenate([place / max(spread, 1e-12), direction], axis=1)
    return cdist(features, features)


def spread_views(c2w: Float[ndarray, "n 3 4"], count: int) -> list[int]:
    """The indices, increasing, of `count` views that are spread well: the same ones every time, and fewer of them are
    always among more.

    The first is the most central view, the one with the least sum of distances to all; each of the others is the one
    farthest from those chosen before it (farthest-point sampling).
    """
    distances = view_distances(c2w)
    chosen = [int(distances.sum(axis=1).argmin())]
    while len(chosen) < min(count, len(c2w)):
        to_chosen = distances[chosen].min(axis=0)
        to_chosen[chosen] = -1.0  # views with the same pose are at distance 0
        chosen.append(int(to_chosen.argmax()))
    return sorted(chosen)


def views_to_compare(c2w: Float[ndarray, "n 3 4"], count: int) -> list[list[int]]:
    """For each view up to `count` others that look the same way, nearest first: some close, which overlap, and some
    farther off, which see the same things under another angle.

    Their ranks by `view_distances` form a geometric row, up to a third of all views: a view of a dense video is thus
    not compared with the next few frames only.
    """
    distances, direction = view_distances(c2w), view_directions(c2w)
    similar = direction @ direction.T > np.cos(np.radians(MAX_ANGLE))
    np.fill_diagonal(similar, False)
    result = []
    for view in range(len(c2w)):
        order = np.argsort(np.where(similar[view], distances[view], np.inf), kind="stable")[: similar[view].sum()]
        row = np.geomspace(1, max(count, min(len(order), len(c2w) / 3)), count).round().astype(int)
        ranks = np.maximum(row, np.arange(1, count + 1))
        result.append([int(order[rank - 1]) for rank in ranks[ranks <= len(order)]])
    return result
