"""How fine the viewer's pictures are at first, and how it shares the time with training.

nerfstudio 1.1.5's viewer begins with pictures of 512 pixels whatever the machine: on two CPU cores one of a radiance
field takes half a minute, for which training stands still. It then leaves training nine tenths of the time whatever
"Train Util" says, and tells of steps only when it draws: every few minutes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nerfstudio.viewer.viewer_elements import ViewerControl

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

CPU_RESOLUTION = 256
""""Max res" on a CPU to begin with, for models that need thousands of network evaluations for each pixel."""
TELL_EVERY = 1.0
"""Seconds between updates of the step counter."""


class ViewerPace(ViewerControl):
    """Sets the viewer's pace: a model that has one among its attributes is found by nerfstudio.

    Args:
        cpu_resolution: "Max res" to begin with where the model is on a CPU; None: nerfstudio's.
    """

    def __init__(self, cpu_resolution: int | None = None) -> None:
        self.cpu_resolution = cpu_resolution
        self._told = 0.0

    @property
    def watched(self) -> bool:
        """Whether a browser is connected."""
        viewer = getattr(self, "viewer", None)
        return viewer is not None and len(viewer.render_statemachines) > 0

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        if self.cpu_resolution is not None and viewer.get_model().device.type == "cpu":
            viewer.control_panel._max_res.value = self.cpu_resolution
        update = viewer.update_scene

        def update_scene(step: int, *args: Any, **kwargs: Any) -> None:
            viewer.train_util = viewer.control_panel.train_util
            update(step, *args, **kwargs)
            if time.monotonic() > self._told + TELL_EVERY:
                self._told = time.monotonic()
                viewer.update_step(step)

        viewer.update_scene = update_scene  # type: ignore[method-assign]
