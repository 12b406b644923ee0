"""Where the viewer's camera begins: with all there is to see in view.

nerfstudio's viewer begins close to the origin, looking at it from a corner: inside of what photographs were taken
around.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from nerfstudio.viewer.viewer_elements import ViewerButton
from numpy.typing import NDArray

from common_ns.cameras.geometry import (
    fraction_in_front,
    horizontal_axes,
    nearest_point_to_axes,
    normalize,
    positions,
    up_axis,
    view_directions,
)

MARGIN = 1.05
"""Distance of the camera, as a multiple of that from which what is to be seen just fills the picture."""

STEEP = 0.98
"""Cosine of the angle to the vertical above which a view is taken to be straight down or up: what is up in it is then
what was up in the photograph."""

AHEAD = 0.05
"""Scene units before a photograph's place at which the camera begins: nerfstudio draws the photograph itself, in a
frame half as deep, which would hide the render."""

PARALLEL = 1e-3
"""Mean squared sine below which the axes of photographs count as parallel: they look at nothing together."""


class View(NamedTuple):
    """A camera of the viewer, in scene units."""

    position: Float[NDArray, "3"]
    """Where it is."""
    target: Float[NDArray, "3"]
    """What it looks at, and turns around."""
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
        camera_to_worlds: poses of the photographs, OpenGL axes; one of middle height in their middle is taken. None:
            the sphere is seen from x = y = z, with z up.
    """

    def __init__(
        self,
        center: tuple[float, float, float],
        radius: float,
        camera_to_worlds: Float[NDArray, "n 3 4"] | None = None,
    ) -> None:
        super().__init__()
        self.center, self.radius = np.array(center), radius
        self.back, self.up = normalize((1.0, 1.0, 1.0)), np.array([0.0, 0.0, 1.0])
        if camera_to_worlds is not None and len(camera_to_worlds):
            poses = np.asarray(camera_to_worlds, dtype=np.float64)
            away = normalize(positions(poses) - self.center)
            up = up_axis(poses)
            middle = _middle_direction(away, up)
            # A camera at the center says nothing about where to look from.
            if np.linalg.norm(away[middle]) > 0.5:
                self.back, self.up = away[middle], _level(up, away[middle], poses[middle])

    def view(self, fov: float, aspect: float) -> View:
        narrow = math.atan(math.tan(0.5 * fov) * min(aspect, 1.0))
        position = self.center + MARGIN * self.radius / math.sin(narrow) * self.back
        return View(position, self.center, self.up)


class ViewOfPhotograph(FirstView):
    """What a photograph in the middle of all shows: for surroundings, which are seen from inside.

    The camera turns around what the photographs look at together, or nearly on its spot if they look outward.

    Args:
        camera_to_worlds: poses of the photographs, OpenGL axes; at least one.
    """

    def __init__(self, camera_to_worlds: Float[NDArray, "n 3 4"]) -> None:
        super().__init__()
        poses = np.asarray(camera_to_worlds, dtype=np.float64)
        places, up = positions(poses), up_axis(poses)
        offset = np.linalg.norm(places - places.mean(axis=0), axis=1)
        middle, distance = int(offset.argmin()), max(float(offset.mean()), 0.1)
        focus, spread = nearest_point_to_axes(poses)
        if spread >= PARALLEL and fraction_in_front(poses, focus) > 0.5:
            around = _middle_direction(normalize(places - focus), up)
            ahead = float((focus - places[around]) @ view_directions(poses)[around])
            if ahead > 0:
                middle, distance = around, ahead
        along = view_directions(poses)[middle]
        self.position, self.target = places[middle] + AHEAD * along, places[middle] + distance * along
        self.up = _level(up, along, poses[middle])

    def view(self, fov: float, aspect: float) -> View:
        return View(self.position, self.target, self.up)


def _middle_direction(away: Float[NDArray, "n 3"], up: Float[NDArray, "3"]) -> int:
    """The one of some directions that is of middle height above the horizon, on the side where most are.

    The mean of directions all around would be straight above.
    """
    first, second = horizontal_axes(up)
    height = math.asin(float(np.clip(np.median(away @ up), -1.0, 1.0)))
    mean = away.mean(axis=0)
    side = (mean @ first) * first + (mean @ second) * second
    side = normalize(side) if np.linalg.norm(side) > 1e-6 else first
    return int((away @ (math.cos(height) * side + math.sin(height) * up)).argmax())


def _level(up: Float[NDArray, "3"], along: Float[NDArray, "3"], pose: Float[NDArray, "3 4"]) -> Float[NDArray, "3"]:
    """What is up: for all photographs together, so that the horizon stays level while the camera is turned; for the one
    that is shown where that is along the view."""
    return pose[:, 1] if abs(float(up @ along)) > STEEP else up
