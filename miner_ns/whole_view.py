"""Where the viewer's camera begins: in front of the signal, with all of it in view.

The host's viewer begins close to the origin, looking at it from a corner, which is inside of a volume, and too near to
an image to see more than a piece of it at a slant.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from nerfstudio.viewer.viewer_elements import ViewerButton

from common_ns.camera_geometry import normalise

MARGIN = 1.05
"""Distance of the camera, as a multiple of that from which the signal just fills the picture."""
CORNER = (0.5, 0.35, 1.0)
"""Direction from which a volume is seen at first: its front, from the right and from above. An image is seen from the
front."""


class WholeView(ViewerButton):
    """Moves the camera to where the whole signal is in view; every browser that connects begins there.

    Args:
        half_size: half of the signal's sides in the world, centred at the origin; z is 0 for an image.
    """

    def __init__(self, half_size: tuple[float, float, float]) -> None:
        super().__init__("Show all", self._show)
        self.half_size = half_size
        self._server: Any = None

    def install(self, viser_server: Any) -> None:
        super().install(viser_server)
        self._server = viser_server
        viser_server.on_client_connect(self._place)

    def _show(self, button: ViewerButton) -> None:
        for client in self._server.get_clients().values():
            self._place(client)

    def _place(self, client: Any) -> None:
        from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO as RATIO

        position = whole_position(self.half_size, client.camera.fov, client.camera.aspect)
        with client.atomic():
            client.camera.up_direction = (0.0, 1.0, 0.0)
            client.camera.position = RATIO * position
            client.camera.look_at = np.zeros(3)


def whole_position(half_size: tuple[float, float, float], fov: float, aspect: float) -> np.ndarray:
    """Position [3] of a camera that looks at the origin, y up, and has the whole signal in view.

    Args:
        half_size: half of the signal's sides, centred at the origin; z is 0 for an image.
        fov: vertical field of view in radians.
        aspect: width of the picture over its height.
    """
    back = normalise((0.0, 0.0, 1.0) if half_size[2] == 0.0 else CORNER)
    right = normalise(np.cross((0.0, 1.0, 0.0), back))
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=3))) * half_size
    x, y, z = np.abs(corners @ right), np.abs(corners @ np.cross(back, right)), corners @ back
    slope = math.tan(0.5 * fov)
    return MARGIN * float((z + np.maximum(x / aspect, y) / slope).max()) * back
