"""Where the viewer's camera begins: with all there is to see in view.

The host's viewer begins close to the origin, looking at it from a corner: inside of what photographs were taken around.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from nerfstudio.viewer.viewer_elements import ViewerButton
from numpy.typing import NDArray

from common_ns.camera_geometry import normalise

MARGIN = 1.05
"""Distance of the camera, as a multiple of that from which what is to be seen just fills the picture."""


class View(NamedTuple):
    """A camera of the viewer, in scene units."""

    position: Float[NDArray, "3"]
    """Where it is."""
    target: Float[NDArray, "3"]
    """What it looks at."""
    up: Float[NDArray, "3"]
    """What is up for it."""


class FirstView(ViewerButton):
    """Moves the camera to a view of everything; every browser that connects begins there. Subclasses say which one."""

    def __init__(self) -> None:
        super().__init__("Show all", self._show)
        self._server: Any = None

    @abstractmethod
    def view(self, fov: float, aspect: float) -> View:
        """The view.

        Args:
            fov: vertical field of view in radians.
            aspect: width of the picture over its height.
        """

    def install(self, viser_server: Any) -> None:
        """Add the button to the panel."""
        super().install(viser_server)
        self._server = viser_server
        viser_server.on_client_connect(self._place)

    def _show(self, button: ViewerButton) -> None:
        for client in self._server.get_clients().values():
            self._place(client)

    def _place(self, client: Any) -> None:
        from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO as RATIO

        view = self.view(client.camera.fov, client.camera.aspect)
        with client.atomic():
            client.camera.up_direction = view.up
            client.camera.position = RATIO * view.position
            client.camera.look_at = RATIO * view.target


class ViewOfSphere(FirstView):
    """A sphere as the camera of a photograph sees it, from where it just fits into the picture.

    Args:
        center, radius: the sphere.
        camera_to_worlds: poses of the photographs, OpenGL axes; the one in their middle is taken. None: the sphere is
            seen from x = y = z, with z up.
    """

    def __init__(
        self,
        center: tuple[float, float, float],
        radius: float,
        camera_to_worlds: Float[NDArray, "n 3 4"] | None = None,
    ) -> None:
        super().__init__()
        self.center, self.radius = np.array(center), radius
        self.back, self.up = normalise((1.0, 1.0, 1.0)), np.array([0.0, 0.0, 1.0])
        if camera_to_worlds is not None and len(camera_to_worlds):
            poses = np.asarray(camera_to_worlds, dtype=np.float64)
            away = poses[:, :, 3] - self.center
            away = away / np.linalg.norm(away, axis=1, keepdims=True).clip(1e-9)
            middle = int((away @ away.mean(axis=0)).argmax())
            # A camera at the centre says nothing about where to look from.
            if np.linalg.norm(away[middle]) > 0.5:
                self.back, self.up = away[middle], poses[middle, :, 1]

    def view(self, fov: float, aspect: float) -> View:
        narrow = math.atan(math.tan(0.5 * fov) * min(aspect, 1.0))
        position = self.center + MARGIN * self.radius / math.sin(narrow) * self.back
        return View(position, self.center, self.up)
