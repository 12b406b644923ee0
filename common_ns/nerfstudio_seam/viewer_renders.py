"""Renders for nerfstudio 1.1.5's viewer that cost no more than they must and can be given up at any time, without harm.

nerfstudio gives up a render, when the camera moves or a control is used, by an exception between any two lines of
Python that the render executes. In the midst of an import or of a just-in-time compilation it leaves half a module
behind, and
all further steps and renders fail ("module 'numba' has no attribute 'core'"). And a "1" typed into the box beside Max
res, be it the beginning of 128, asks for a picture of no height, at which the thread that renders ends for good.

A model computes all of its outputs for each picture, of which the viewer shows one, or two side by side. Models ask
`is_shown` before they compute one that is dear, and put something of its shape in its place, as names of outputs are to
stay the same.
"""

from __future__ import annotations

import threading
from types import FrameType
from typing import Any


class _Render(threading.local):
    """What the present thread renders for the viewer."""

    outputs: frozenset[str] | None = None
    """Names of the outputs that are shown; None: this is no render of the viewer."""


_render = _Render()


def is_shown(output: str) -> bool:
    """Whether an output is looked at: any may be, outside of the viewer's renders."""
    return _render.outputs is None or output in _render.outputs


def make_renders_robust() -> None:
    """Let nerfstudio give up renders only where the next chunk of rays begins, let no picture be empty, and tell models
    which outputs are shown.

    It also spares renders that each line is traced. Calling it again changes nothing.
    """
    from nerfstudio.models.base_model import Model
    from nerfstudio.viewer.render_state_machine import RenderStateMachine
    from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException

    size_of = RenderStateMachine._calculate_image_res
    render, send = RenderStateMachine._render_img, RenderStateMachine._send_output_to_viewer
    if getattr(size_of, "is_robust", False):
        return

    def check_interrupt(self: RenderStateMachine, frame: FrameType, event: str, arg: Any) -> None:
        """The render's trace function, called where functions begin; lines are traced where it returns one."""
        if frame.f_code is Model.forward.__code__ and self.interrupt_render_flag:
            self.interrupt_render_flag = False
            raise IOChangeException

    def calculate_image_res(self: RenderStateMachine, aspect_ratio: float) -> tuple[int, int]:
        height, width = size_of(self, aspect_ratio)
        return max(height, 1), max(width, 1)

    def shown_by(self: RenderStateMachine) -> frozenset[str]:
        panel = self.viewer.control_panel
        # A panel that knows of no outputs yet begins with the first one.
        first = "rgb" if panel.output_render == "not set" else panel.output_render
        return frozenset({first, panel.split_output_render} if panel.split else {first})

    def render_img(self: RenderStateMachine, camera_state: Any) -> dict[str, Any]:
        _render.outputs = self.shown_outputs = shown_by(self)  # type: ignore[attr-defined]
        try:
            return render(self, camera_state)
        finally:
            _render.outputs = None

    def send_output(self: RenderStateMachine, outputs: dict[str, Any], static_render: bool = True) -> None:
        # Where another one has been chosen meanwhile, its picture is already asked for.
        if shown_by(self) <= self.shown_outputs:  # type: ignore[attr-defined]
            send(self, outputs, static_render)

    calculate_image_res.is_robust = True  # type: ignore[attr-defined]
    RenderStateMachine.check_interrupt = check_interrupt  # type: ignore[method-assign]
    RenderStateMachine._calculate_image_res = calculate_image_res  # type: ignore[method-assign]
    RenderStateMachine._render_img = render_img  # type: ignore[method-assign]
    RenderStateMachine._send_output_to_viewer = send_output  # type: ignore[method-assign]
