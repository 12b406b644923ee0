"""The viewer's first view of a signal: an image from the front, a volume from its front, the right and above."""

from __future__ import annotations

import itertools
import math

import numpy as np

from common_ns.cameras.first_view import MARGIN, FirstView, View
from common_ns.cameras.geometry import normalize

CORNER = (0.5, 0.35, 1.0)
"""Direction from which a volume is seen at first."""


class WholeView(FirstView):
    """The whole signal.

    Args:
        half_size: half of the signal's sides in the world, centered at the origin; z is 0 for an image.
    """

    def __init__(self, half_size: tuple[float, float, float]) -> None:
        super().__init__()
        self.half_size = half_size

    def view(self, fov: float, aspect: float) -> View:
        return View(whole_position(self.half_size, fov, aspect), np.zeros(3), np.array([0.0, 1.0, 0.0]))


def whole_position(half_size: tuple[float, float, float], fov: float, aspect: float) -> np.ndarray:
    """Position [3] of a camera that looks at the origin, y up, and has the whole signal in view.

    Args:
        half_size: half of the signal's sides, centered at the origin; z is 0 for an image.
        fov: vertical field of view in radians.
        aspect: width of the picture over its height.
    """
    back = normalize((0.0, 0.0, 1.0) if half_size[2] == 0.0 else CORNER)
    right = normalize(np.cross((0.0, 1.0, 0.0), back))
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=3))) * half_size
    x, y, z = np.abs(corners @ right), np.abs(corners @ np.cross(back, right)), corners @ back
    slope = math.tan(0.5 * fov)
    return MARGIN * float((z + np.maximum(x / aspect, y) / slope).max()) * back
