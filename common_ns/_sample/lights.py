"""Lights of the sample scene, to render the same objects at another time of the day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

LightName = Literal["day", "evening"]


def unit(*v: float) -> Float[ndarray, "3 1"]:
    """A direction, in single precision."""
    return (np.asarray(v) / np.linalg.norm(v)).astype(np.float32)[:, None]


def linear(*rgb: float) -> Float[ndarray, "3 1"]:
    """A linear color, or any three numbers, in single precision."""
    return np.asarray(rgb, dtype=np.float32)[:, None]


@dataclass(frozen=True)
class Lights:
    """A key light that casts shadows, a weak fill light without, and light from all around. Colors are linear."""

    key: Float[ndarray, "3 1"]
    """Towards the key light."""
    key_color: Float[ndarray, "3 1"]
    """Its radiance on a white surface that faces it."""
    fill: Float[ndarray, "3 1"]
    """Towards the fill light."""
    fill_color: Float[ndarray, "3 1"]
    """Its radiance on a white surface that faces it."""
    sky: Float[ndarray, "3 1"]
    """Light from above."""
    bounce: Float[ndarray, "3 1"]
    """Light from below."""
    emission: Float[ndarray, "3 1"]
    """Color that what shines by itself (the far dome) is multiplied by."""


LIGHTS: dict[LightName, Lights] = {
    "day": Lights(
        key=unit(0.50, -0.42, 0.86),
        key_color=linear(0.92, 0.874, 0.791),
        fill=unit(-0.75, -0.25, 0.45),
        fill_color=linear(0.136, 0.167, 0.22),
        sky=linear(0.42, 0.46, 0.54),
        bounce=linear(0.24, 0.21, 0.18),
        emission=linear(1.0, 1.0, 1.0),
    ),
    "evening": Lights(
        key=unit(-0.70, 0.55, 0.50),
        key_color=linear(1.30, 0.66, 0.24),
        fill=unit(0.60, -0.60, 0.40),
        fill_color=linear(0.05, 0.08, 0.24),
        sky=linear(0.10, 0.13, 0.32),
        bounce=linear(0.10, 0.06, 0.09),
        emission=linear(0.62, 0.36, 0.34),
    ),
}
"""`day` is a bright room; `evening` has a low, warm sun from the other side under a blue sky."""
