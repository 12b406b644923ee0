"""An image as the proxy of its model: pictures side by side, each rendered by the model itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras

from common_ns.viewer_preview.proxies import Proxy, Tile, TileProxy
from common_ns.viewer_preview.source import Rung, Source

SIDE = 512
"""Most pixels along the sides of a tile."""
MOST = 4
"""Most tiles along each side of the image."""


class TileSource(Source):
    """Tiles of an image in the plane z = 0, which is centered at the origin.

    Args:
        model: gives rgb for cameras.
        size: width and height of the image in scene units.
        pixels: of the image, along x and y.
        suits: whether controls are set to what tiles show.
        only_colors: a context in which the model renders what colors need, and nothing else.
    """

    rungs = (Rung("tiles", SIDE * MOST),)
    refreshed_every = 10.0

    def __init__(
        self,
        model: Any,
        size: tuple[float, float],
        pixels: tuple[int, int],
        suits: Callable[[], bool] = lambda: True,
        only_colors: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self._model, self._size, self._suits, self._only_colors = model, size, suits, only_colors
        self._counts = tuple(min(max(math.ceil(side / SIDE), 1), MOST) for side in pixels)
        # Those of a whole image have its shape, however many of its pixels one of theirs stands for.
        self._shape = tuple(min(math.ceil(side / count), SIDE) for side, count in zip(pixels, self._counts))
        self._tiles: dict[int, Tile] = {}
        self._next = 0

    def suits(self) -> bool:
        return self._suits()

    @torch.no_grad()
    def work(self) -> bool:
        """Render a tile."""
        columns, rows = self._counts
        index, self._next = self._next, (self._next + 1) % (columns * rows)
        row, column = divmod(index, columns)
        width, height = self._size[0] / columns, self._size[1] / rows
        center = np.array(
            [(column + 0.5) * width - 0.5 * self._size[0], 0.5 * self._size[1] - (row + 0.5) * height, 0.0]
        )
        was_training = self._model.training
        self._model.eval()
        try:
            with self._only_colors():
                outputs = self._model.get_outputs_for_camera(self._camera(center, width, height))
        finally:
            self._model.train(was_training)
        picture = (255.0 * outputs["rgb"].clamp(0.0, 1.0)).round().to(torch.uint8).cpu().numpy()
        self._tiles[index] = Tile(picture, center, np.array([width, 0.0, 0.0]), np.array([0.0, height, 0.0]))
        if len(self._tiles) == columns * rows:
            self.version += 1
        return index + 1 < columns * rows

    def _camera(self, center: np.ndarray, width: float, height: float) -> Cameras:
        """A camera before the plane whose picture is a rectangle of it."""
        across, down = self._shape
        distance = max(width, height)
        pose = torch.eye(4)[:3]
        pose[:, 3] = torch.from_numpy(center)
        pose[2, 3] = distance
        fx, fy = across * distance / width, down * distance / height
        camera = Cameras(pose[None], fx, fy, 0.5 * across, 0.5 * down, width=across, height=down)
        return camera.to(self._model.device)

    def proxy(self, rung: Rung) -> tuple[Proxy, ...]:
        return (TileProxy(tuple(self._tiles.values())),)
