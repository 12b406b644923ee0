"""Where proxies come from: one kind of source for each kind of model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from numpy.typing import NDArray
from torch import Tensor

from common_ns.viewer_preview.proxies import Proxy


class Rung(NamedTuple):
    """How much a page is given to draw."""

    kind: Literal["points", "splats", "mesh", "tiles"]
    """Of what."""
    count: int
    """How many, or for a mesh voxels along a side, or for tiles most pixels along a side."""
    corners: int = 0
    """Corners of the triangles that the last picture is put on, beside that, at most about."""


class Source(ABC):
    """Makes proxies of a model. All but `proxy` is called while training and rendering wait."""

    rungs: tuple[Rung, ...]
    """From what any page can draw to what only fast ones can."""
    first_rung: int = 0
    """Where a page begins whose speed is not known."""
    refreshed_every: float = 20.0
    """Seconds between two proxies of a model in training."""
    version: int = 0
    """Of what proxies are made of; 0: there is nothing yet."""
    background: Float[NDArray, "h w 3"] = np.ones((1, 1, 3))
    """A small picture behind the proxy, in [0, 1], that fills the page wherever the camera is."""

    def attach(self, pipeline: Any) -> None:  # noqa: B027
        """There is a viewer, which shows this pipeline."""

    @abstractmethod
    def work(self) -> bool:
        """Do a portion of the work.

        Returns: whether there is more to do, had the model not changed.
        """

    @abstractmethod
    def proxy(self, rung: Rung) -> tuple[Proxy, ...]:
        """What is to be drawn; empty: nothing. Training and rendering may go on meanwhile."""

    def saw(self, camera: Cameras, outputs: dict[str, Tensor]) -> None:  # noqa: B027
        """The viewer has rendered a picture in full resolution.

        Args:
            camera: one, of the picture's size.
            outputs: of the model, [h w c].
        """

    def suits(self) -> bool:
        """Whether the proxy looks like what the model's controls are set to."""
        return True
