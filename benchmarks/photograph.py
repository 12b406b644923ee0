"""A large photograph that needs no download, for benchmarks of images."""

from __future__ import annotations

import numpy as np

PHOTO_SIDE = 2048
"""Pixels along a side of the photograph."""


def photograph(side: int) -> np.ndarray:
    """The astronaut of scikit-image, mirrored and side by side with itself: as much detail as in the original, and no
    seams."""
    import skimage.data

    image = skimage.data.astronaut()
    count = -(-side // len(image))
    return np.pad(image, ((0, (count - 1) * len(image)), (0, (count - 1) * len(image)), (0, 0)), "symmetric")[
        :side, :side
    ]
