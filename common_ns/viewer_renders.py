"""Renders for nerfstudio 1.1.5's viewer that can be given up at any time, at any size, without harm.

The host gives up a render, when the camera moves or a control is used, by an exception between any two lines of Python
that the render executes. In the midst of an import or of a just-in-time compilation it leaves half a module behind, and
all further steps and renders fail ("module 'numba' has no attribute 'core'"). And a "1" typed into the box beside Max
res, be it the beginning of 128, asks for a picture of no height, at which the thread that renders ends for good.
"""

from __future__ import annotations

from types import FrameType
from typing import Any


def make_renders_robust() -> None:
    """Let the host give up renders only where the next chunk of rays begins, and let no picture be empty.

    It also spares renders that each line is traced. Calling it again changes nothing.
    """
    from nerfstudio.models.base_model import Model
    from nerfstudio.viewer.render_state_machine import RenderStateMachine
    from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException

    size_of = RenderStateMachine._calculate_image_res
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

    calculate_image_res.is_robust = True  # type: ignore[attr-defined]
    RenderStateMachine.check_interrupt = check_interrupt  # type: ignore[method-assign]
    RenderStateMachine._calculate_image_res = calculate_image_res  # type: ignore[method-assign]
