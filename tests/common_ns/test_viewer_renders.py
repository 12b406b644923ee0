"""The viewer gives renders up where it does no harm, and asks for no empty picture."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from nerfstudio.models.base_model import Model
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException, SetTrace

from common_ns.viewer_renders import make_renders_robust

make_renders_robust()


def machine(max_res: int = 512, state: str = "low_move") -> RenderStateMachine:
    viewer = SimpleNamespace(control_panel=SimpleNamespace(max_res=max_res))
    result = RenderStateMachine(viewer, 10.0, client=None)  # type: ignore[arg-type]
    result.state = state  # type: ignore[assignment]
    return result


def test_a_render_is_given_up_where_a_chunk_begins_and_nowhere_else():
    done = []

    def compile_something() -> None:
        done.append("compiled")

    class Chunked:
        """A model as far as `Model.forward` needs one; the camera moves while the first chunk is rendered."""

        collider = None

        def get_outputs(self, rays: int) -> dict:
            compile_something()
            renders.interrupt_render_flag = True
            compile_something()
            done.append(rays)
            return {}

    renders, model = machine(), Chunked()
    with pytest.raises(IOChangeException), SetTrace(renders.check_interrupt):
        for chunk in range(3):
            Model.forward(model, chunk)  # type: ignore[arg-type]
    assert done == ["compiled", "compiled", 0]
    assert not renders.interrupt_render_flag, "the next render would be given up too"


@pytest.mark.parametrize("state", ["low_move", "low_static", "high"])
@pytest.mark.parametrize("aspect", [0.4, 1.23, 3.0])
@pytest.mark.parametrize("max_res", [1, 2, 64])
def test_no_picture_is_empty(state, aspect, max_res):
    height, width = machine(max_res, state)._calculate_image_res(aspect)
    assert height >= 1 and 1 <= width <= max_res


def test_it_is_done_once():
    before = RenderStateMachine._calculate_image_res
    make_renders_robust()
    assert RenderStateMachine._calculate_image_res is before
