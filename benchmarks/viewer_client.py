"""A viewer's client without a browser: it moves the camera as a user does and keeps the times of the pictures it gets.

It speaks viser 0.2's protocol: MessagePack over a websocket; a window of messages from the server is a list of maps,
whose entry "type" is the name of the class in `viser._messages`, and a message to the server is one such map.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from viser.transforms import SO3
from websockets.sync.client import connect

FIELD_OF_VIEW = math.radians(75.0)
"""Vertical field of view of the page's camera."""
ASPECT = 1.5
"""Width of the page's canvas over its height."""


@dataclass
class Picture:
    """A render that came."""

    seconds: float
    """When, by `time.perf_counter`."""
    width: int
    """Pixels of a row."""
    height: int
    """Rows."""


@dataclass
class Camera:
    """Where the page's camera is, in the viewer's units."""

    position: Float[NDArray, "3"] = field(default_factory=lambda: np.array([3.0, 3.0, 3.0]))
    """Center of projection."""
    target: Float[NDArray, "3"] = field(default_factory=lambda: np.zeros(3))
    """What it looks at, and turns around."""
    up: Float[NDArray, "3"] = field(default_factory=lambda: np.array([0.0, 0.0, 1.0]))
    """What is up for it."""

    def turned(self, angle: float) -> Camera:
        """The camera after a turn around its target about the axis that is up, by an angle in radians."""
        turn = SO3.exp(angle * self.up / np.linalg.norm(self.up)).as_matrix()
        return Camera(self.target + turn @ (self.position - self.target), self.target, self.up)

    def message(self) -> dict[str, Any]:
        """What a page sends of it."""
        ahead = (self.target - self.position) / np.linalg.norm(self.target - self.position)
        right = np.cross(ahead, self.up)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(ahead, right), ahead], axis=-1)
        return {
            "type": "ViewerCameraMessage",
            "wxyz": SO3.from_matrix(rotation).wxyz.tolist(),
            "position": self.position.tolist(),
            "fov": FIELD_OF_VIEW,
            "aspect": ASPECT,
            "look_at": self.target.tolist(),
            "up_direction": self.up.tolist(),
        }


class Client:
    """A connection to a viewer, to be used as a context.

    `camera` is where the viewer has put the page's camera, `pictures` is what has come, and `largest` is what "Max res"
    says: most pixels along a side of a picture.

    Args:
        port: of the viewer on this machine.
    """

    def __init__(self, port: int) -> None:
        self.camera = Camera()
        self.pictures: list[Picture] = []
        self.largest = 0
        self._largest_id: str | None = None
        self._preview_id: str | None = None
        self._socket = connect(f"ws://127.0.0.1:{port}", max_size=None)

    def __enter__(self) -> Client:
        self.send(self.camera)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, camera: Camera) -> None:
        """Tell the viewer where the camera is."""
        self._socket.send(msgspec.msgpack.encode(camera.message()))

    def switch_preview_off(self) -> None:
        """Ask for pictures while the camera moves: a client that draws nothing has no use for a stand-in to draw."""
        if self._preview_id is not None:
            message = {"type": "GuiUpdateMessage", "id": self._preview_id, "updates": {"value": False}}
            self._socket.send(msgspec.msgpack.encode(message))

    def receive(self, until: float) -> None:
        """Take in what the viewer sends, until a time by `time.perf_counter`."""
        while (left := until - time.perf_counter()) > 0:
            try:
                window = self._socket.recv(timeout=left, decode=False)
            except TimeoutError:
                return
            for message in msgspec.msgpack.decode(window):
                self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "BackgroundImageMessage" if message["rgb_bytes"]:
                size = Image.open(io.BytesIO(message["rgb_bytes"])).size
                self.pictures.append(Picture(time.perf_counter(), *size))
            # A page moves its camera where the server says, and tells it so.
            case "SetCameraPositionMessage":
                moved = np.array(message["position"])
                self.camera.target = self.camera.target + moved - self.camera.position
                self.camera.position = moved
            case "SetCameraLookAtMessage":
                self.camera.target = np.array(message["look_at"])
                self.send(self.camera)
            case "SetCameraUpDirectionMessage":
                self.camera.up = np.array(message["position"])
            case "GuiAddCheckboxMessage" if message["label"] == "Real-time preview":
                self._preview_id = message["id"]
            case "GuiAddSliderMessage" if message["label"] == "Max res":
                self._largest_id, self.largest = message["id"], int(message["value"])
            case "GuiUpdateMessage" if message["id"] == self._largest_id:
                self.largest = int(message["updates"].get("value", self.largest))
            case _:
                return

    def is_full(self, picture: Picture) -> bool:
        """Whether a picture has the resolution of a camera at rest."""
        return max(picture.width, picture.height) >= self.largest > 0

    def wait(self, until: Callable[[Picture], bool], seconds: float) -> float | None:
        """Seconds until a picture comes that is as wanted; None if none has come within as many as given."""
        start, seen = time.perf_counter(), len(self.pictures)
        while time.perf_counter() < start + seconds:
            self.receive(min(time.perf_counter() + 0.2, start + seconds))
            for picture in self.pictures[seen:]:
                if until(picture):
                    return picture.seconds - start
            seen = len(self.pictures)
        return None

    def drag(self, seconds: float, moves_per_second: float, reach: float = 0.3) -> list[Picture]:
        """Turn the camera to and fro around its target; returns the pictures that came meanwhile.

        Args:
            seconds: how long.
            moves_per_second: how often the page tells where the camera is.
            reach: most that it is turned to either side, in radians.
        """
        start, first = time.perf_counter(), len(self.pictures)
        origin = self.camera
        for number in range(round(seconds * moves_per_second)):
            # To and fro once in eight seconds.
            self.send(origin.turned(reach * math.sin(2.0 * math.pi * number / moves_per_second / 8.0)))
            self.receive(start + (number + 1) / moves_per_second)
        return self.pictures[first:]
