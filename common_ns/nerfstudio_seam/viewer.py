"""nerfstudio's viewer, adapted to the models of this suite; viewers of other models stay as they are.

What nerfstudio 1.1.5's viewer does with a model that is slow to render, and what is done about it here:

- It begins with pictures of 512 pixels whatever the machine: on two CPU cores one of a radiance field takes half a
  minute, for which training stands still. It then leaves training nine tenths of the time whatever "Train Util" says,
  and counts steps only when it draws: every few minutes.
- While the camera moves it shows pictures of 45×30 pixels, for which training waits. Where a model has a preview
  (`preview`), the browser draws that meanwhile, nothing is rendered, and training goes on.
- It gives up a render, when the camera moves or a control is used, by an exception between any two lines of Python
  that the render executes. In the midst of an import or of a just-in-time compilation it leaves half a module behind,
  and all further steps and renders fail ("module 'numba' has no attribute 'core'"). Renders of this suite are given up
  where the next chunk of rays begins.
- A "1" typed into the box beside Max res, be it the beginning of 128, asks for a picture of no height, at which the
  thread that renders ends for good.
- It spreads depth evenly over the colors, from the nearest to the farthest pixel: of a table-top scene before its
  surroundings the table has one color. A model with `shown_in_viewer` says what is shown for an output.
- A model computes all of its outputs for each picture, of which the viewer shows one, or two side by side. Models ask
  (`shown_outputs`) before they compute an expensive one, and put something of its shape in its place, as names of
  outputs are to stay the same.
- `ns-viewer` listens in all networks the machine is in, while `ns-train` on this suite's methods answers this machine
  only.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.models.base_model import Model
from nerfstudio.viewer.render_state_machine import RenderAction, RenderStateMachine
from nerfstudio.viewer.viewer_elements import ViewerControl
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException

from common_ns.nerfstudio_seam.preview import ClientPreview, RealTimePreview
from common_ns.nerfstudio_seam.shown_outputs import only

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

CPU_RESOLUTION = 256
""""Max res" on a CPU to begin with, for models that need thousands of network evaluations for each pixel."""
TELL_EVERY = 1.0
"""Seconds between updates of the step counter."""
EVERYWHERE, HERE = "0.0.0.0", "127.0.0.1"
HOST_OPTION = "--viewer.websocket-host"


class ViewerAdapter(ViewerControl):
    """Adapts the viewer that shows a model: nerfstudio's viewer finds it among the model's attributes.

    Args:
        cpu_resolution: "Max res" to begin with where the model is on a CPU; None: nerfstudio's.
        preview: what is shown while the camera moves; None: pictures in low resolution.
    """

    def __init__(self, cpu_resolution: int | None = None, preview: RealTimePreview | None = None) -> None:
        self.cpu_resolution, self._preview = cpu_resolution, preview
        self._told = 0.0

    @property
    def watched(self) -> bool:
        """Whether a browser is connected."""
        viewer = getattr(self, "viewer", None)
        return viewer is not None and len(viewer.render_statemachines) > 0

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        viewer.render_statemachines = _Renders(viewer.render_statemachines, self._preview)
        if self.cpu_resolution is not None and viewer.get_model().device.type == "cpu":
            viewer.control_panel._max_res.value = self.cpu_resolution
        if self._preview is not None:
            self._preview.connect(viewer)
        update = viewer.update_scene

        def update_scene(step: int, *args: Any, **kwargs: Any) -> None:
            viewer.train_util = viewer.control_panel.train_util
            if self._preview is not None:
                self._preview.between_steps()
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
    preview: ClientPreview | None = None
    """What this browser is shown while its camera moves; None: pictures in low resolution."""

    def action(self, action: RenderAction) -> None:
        """Take an action; the preview appears at once, whatever is being rendered."""
        if action.action == "move" and self.preview is not None:
            self.preview.moved(action.camera_state, self._preview_suits())
        super().action(action)

    def _preview_suits(self) -> bool:
        """Whether the preview shows what the panel says."""
        panel = self.viewer.control_panel
        return (
            self._shown_now() == {"rgb"} and not panel.crop_viewport and not self.viewer.render_tab_state.preview_render
        )

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
        preview = self.preview
        if preview is not None and preview.shown and self.state != "high":
            # No picture is needed. What was to interrupt the last one may have come too late for that: it would end the
            # next one, after which nothing asks for another.
            self.interrupt_render_flag = False
            raise IOChangeException
        if preview is not None:
            preview.begin()
        self.shown_outputs = self._shown_now()
        with only(self.shown_outputs):
            outputs = super()._render_img(camera_state)
        if preview is not None and self.state == "high" and self._preview_suits():
            preview.saw(camera_state, outputs)
        # Compositing has used depth as it is by now: what is left to do is to show it.
        shown_as = getattr(self.viewer.get_model(), "shown_in_viewer", None)
        if shown_as is None:
            return outputs
        return outputs | {name: shown_as(name, outputs) for name in self.shown_outputs if name in outputs}

    def _send_output_to_viewer(self, outputs: dict[str, Any], static_render: bool = True) -> None:
        # Where another one has been chosen meanwhile, its picture is already asked for.
        if not self._shown_now() <= self.shown_outputs:
            return
        if self.preview is None:
            super()._send_output_to_viewer(outputs, static_render)
            return
        with self.preview.replaced() as still:
            if still:
                super()._send_output_to_viewer(outputs, static_render)


class _Renders(dict[int, RenderStateMachine]):
    """A viewer's render threads by number of the browser; those that the viewer puts in become `FieldRenders`.

    Args:
        early: of browsers that have connected before. One that does at this very moment may yet be put there.
        preview: what is shown while the camera moves; None: pictures in low resolution.
    """

    def __init__(self, early: dict[int, RenderStateMachine], preview: RealTimePreview | None = None) -> None:
        super().__init__()
        self._early, self._preview = early, preview
        for client, machine in list(early.items()):
            self[client] = machine

    def __setitem__(self, client: int, machine: RenderStateMachine) -> None:
        machine.__class__ = FieldRenders  # the viewer holds the object already, and its thread may run
        if self._preview is not None and machine.client is not None:
            machine.preview = self._preview.of(machine.client)  # type: ignore[attr-defined]
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
