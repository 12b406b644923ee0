"""The viewer gives renders up where it does no harm, asks for no empty picture, and says which outputs it shows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.models.base_model import Model
from nerfstudio.utils.colormaps import ColormapOptions
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.utils import CameraState
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException, SetTrace

from common_ns.base_model import RadianceModel
from common_ns.nerfstudio_seam import viewer_renders
from common_ns.nerfstudio_seam.viewer_renders import is_shown, make_renders_robust

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


class Outputs:
    """A model as far as a render needs one, which says what it was asked for; a panel; a viewer; a page's scene."""

    device, training = torch.device("cpu"), False

    def __init__(self) -> None:
        self.asked: list[set[str]] = []
        self.sent: list[np.ndarray] = []
        self.control_panel = SimpleNamespace(
            max_res=8, crop_viewport=False, layer_depth=False, split=False, split_percentage=0.5
        )
        self.control_panel.output_render = self.control_panel.split_output_render = "not set"
        self.control_panel.colormap_options = self.control_panel.split_colormap_options = ColormapOptions()
        self.control_panel.update_output_options = self.choose_first
        self.stats_markdown = SimpleNamespace(content="")

    def choose_first(self, names: list[str]) -> None:
        if self.control_panel.output_render == "not set":
            self.control_panel.output_render = names[0]

    def eval(self) -> None: ...

    def get_outputs_for_camera(self, camera: Cameras, obb_box: None) -> dict[str, torch.Tensor]:
        self.asked.append({name for name in ("rgb", "normals", "depth") if is_shown(name)})
        size = (int(camera.height[0, 0]), int(camera.width[0, 0]), 3)
        return {name: torch.full(size, value) for name, value in (("rgb", 0.2), ("normals", 0.6))}

    def set_background_image(self, picture: np.ndarray, **_: Any) -> None:
        self.sent.append(picture)


def test_models_are_told_what_is_shown_and_nothing_else_is_sent():
    model = Outputs()
    viewer = SimpleNamespace(
        get_model=lambda: model,
        control_panel=model.control_panel,
        render_tab_state=SimpleNamespace(preview_render=False),
        include_time=False,
        train_lock=None,
        step=0,
        config=SimpleNamespace(jpeg_quality=75, image_format="png"),
        stats_markdown=model.stats_markdown,
        make_stats_markdown=lambda step, resolution: resolution,
        update_colormap_options=lambda **_: None,
        update_split_colormap_options=lambda **_: None,
    )
    client = SimpleNamespace(camera=SimpleNamespace(aspect=1.0), scene=model)
    renders = RenderStateMachine(viewer, 10.0, client)  # type: ignore[arg-type]
    state = CameraState(fov=1.0, aspect=1.0, c2w=torch.eye(4)[:3], camera_type=CameraType.PERSPECTIVE)

    renders._send_output_to_viewer(renders._render_img(state))
    assert model.asked[-1] == {"rgb"} and model.control_panel.output_render == "rgb"
    assert model.sent[-1].max() == 51
    outputs = renders._render_img(state)
    model.control_panel.output_render = "normals"  # chosen while the other one was rendered
    renders._send_output_to_viewer(outputs)
    assert len(model.sent) == 1
    renders._send_output_to_viewer(renders._render_img(state))
    assert model.asked[-1] == {"normals"} and model.sent[-1].max() == 153
    model.control_panel.split, model.control_panel.split_output_render = True, "rgb"
    renders._send_output_to_viewer(renders._render_img(state))
    assert model.asked[-1] == {"rgb", "normals"} and len(model.sent) == 3
    assert is_shown("depth"), "outside of the viewer all outputs count"


def test_normals_cost_nothing_where_they_are_not_shown(monkeypatch):
    weights, asked = torch.full((5, 4, 1), 0.25), []

    def normals_where(counts: torch.Tensor) -> torch.Tensor:
        asked.append(counts)
        return torch.tensor([0.0, 0.0, 1.0]).expand(int(counts.sum()), 3)

    def render() -> torch.Tensor:
        return RadianceModel.render_normals(None, weights, normals_where)  # type: ignore[arg-type]

    monkeypatch.setattr(viewer_renders._render, "outputs", frozenset({"rgb"}))
    assert torch.equal(render(), torch.full((5, 3), 0.5)) and not asked
    monkeypatch.setattr(viewer_renders._render, "outputs", frozenset({"rgb", "normals"}))
    assert torch.allclose(render()[:, 2], torch.ones(5)) and len(asked) == 1


def test_it_is_done_once():
    before = RenderStateMachine._calculate_image_res, RenderStateMachine._render_img
    make_renders_robust()
    assert (RenderStateMachine._calculate_image_res, RenderStateMachine._render_img) == before
