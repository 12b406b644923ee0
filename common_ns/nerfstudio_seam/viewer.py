"""nerfstudio's viewer, adapted to the models of this suite; viewers of other models stay as they are.

What nerfstudio 1.1.5's viewer does with a model that is slow to render, and what is done about it here:

- It begins with pictures of 512 pixels whatever the machine: on two CPU cores one of a radiance field takes half a
  minute, for which training stands still. It then leaves training nine tenths of the time whatever "Train Util" says,
  and counts steps only when it draws: every few minutes.
- It gives up a render, when the camera moves or a control is used, by an exception between any two lines of Python
  that the render executes. In the midst of an import or of a just-in-time compilation it leaves half a module behind,
  and all further steps and renders fail ("module 'numba' has no attribute 'core'"). Renders of this suite are given up
  where the next chunk of rays begins.
- A "1" typed into the box beside Max res, be it the beginning of 128, asks for a picture of no height, at which the
  thread that renders ends for good.
- It spreads depth evenly over the colors, from the nearest to the farthest pixel: of a table-top scene before its
  surroundings the table has one color. A model with `shown_in_viewer` says what is shown for an output.
- A model computes all of its outputs for each picture, of which the viewer shows one, or two side by side. Models ask
  `is_shown` before they compute an expensive one, and put something of its shape in its place, as names of outputs are
  to stay the same.
- `ns-viewer` listens in all networks the machine is in, while `ns-train` on this suite's methods answers this machine
  only.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.models.base_model import Model
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer_elements import ViewerControl
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

CPU_RESOLUTION = 256
""""Max res" on a CPU to begin with, for models that need thousands of network evaluations for each pixel."""
TELL_EVERY = 1.0
"""Seconds between updates of the step counter."""
EVERYWHERE, HERE = "0.0.0.0", "127.0.0.1"
HOST_OPTION = "--viewer.websocket-host"


class _Render(threading.local):
    """What the present thread renders for the viewer."""

    outputs: frozenset[str] | None = None
    """Names of the outputs that are shown; None: this is no render of the viewer."""


_render = _Render()


def is_shown(output: str) -> bool:
    """Whether an output is looked at: any may be, outside of the viewer's renders."""
    return _render.outputs is None or output in _render.outputs


class ViewerAdapter(ViewerControl):
    """Adapts the viewer that shows a model: nerfstudio's viewer finds it among the model's attributes.

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
        viewer.render_statemachines = _Renders(viewer.render_statemachines)
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


class FieldRenders(RenderStateMachine):
    """The thread that renders for one browser. Gives up a render only where the next chunk of rays begins, asks for no
    empty picture, tells the model which outputs are shown, and spares renders that each line is traced."""

    shown_outputs: frozenset[str] = frozenset()
    """Names of the outputs that the last render showed."""

    def check_interrupt(self, frame: FrameType, event: str, arg: Any) -> None:
        """The render's trace function, called where functions begin; lines are traced where it returns one."""
        if frame.f_code is Model.forward.__code__ and self.interrupt_render_flag:
            self.interrupt_render_flag = False
            raise IOChangeException

    def _calculate_image_res(self, aspect_ratio: float) -> tuple[int, int]:
        height, width = super()._calculate_image_res(aspect_ratio)
        return max(height, 1), max(width, 1)

    def _shown_now(self) -> frozenset[str]:
        panel = self.viewer.control_panel
        # A panel that knows of no outputs yet begins with the first one.
        first = "rgb" if panel.output_render == "not set" else panel.output_render
        return frozenset({first, panel.split_output_render} if panel.split else {first})

    def _render_img(self, camera_state: Any) -> dict[str, Any]:
        _render.outputs = self.shown_outputs = self._shown_now()
        try:
            outputs = super()._render_img(camera_state)
        finally:
            _render.outputs = None
        # Compositing has used depth as it is by now: what is left to do is to show it.
        shown_as = getattr(self.viewer.get_model(), "shown_in_viewer", None)
        if shown_as is None:
            return outputs
        return outputs | {name: shown_as(name, outputs) for name in self.shown_outputs if name in outputs}

    def _send_output_to_viewer(self, outputs: dict[str, Any], static_render: bool = True) -> None:
        # Where another one has been chosen meanwhile, its picture is already asked for.
        if self._shown_now() <= self.shown_outputs:
            super()._send_output_to_viewer(outputs, static_render)


class _Renders(dict[int, RenderStateMachine]):
    """A viewer's render threads by number of the browser; those that the viewer puts in become `FieldRenders`.

    Args:
        early: of browsers that have connected before. One that does at this very moment may yet be put there.
    """

    def __init__(self, early: dict[int, RenderStateMachine]) -> None:
        super().__init__()
        self._early = early
        for client, machine in list(early.items()):
            self[client] = machine

    def __setitem__(self, client: int, machine: RenderStateMachine) -> None:
        machine.__class__ = FieldRenders  # the viewer holds the object already, and its thread may run
        super().__setitem__(client, machine)

    def __missing__(self, client: int) -> RenderStateMachine:
        self[client] = self._early[client]
        return self[client]


def here_by_default(config: ViewerConfig) -> ViewerConfig:
    """What ns-viewer puts in place of the viewer's options in a run's config: with this machine's own address, unless
    the command line asks for another.

    Its default is the address of all networks the machine is in, whatever the run's config says.
    """
    asked = any(word.replace("_", "-").split("=")[0] == HOST_OPTION for word in sys.argv)
    return config if asked or config.websocket_host != EVERYWHERE else dataclasses.replace(config, websocket_host=HERE)
