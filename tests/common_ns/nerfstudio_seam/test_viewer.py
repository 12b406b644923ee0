"""nerfstudio's viewer, where it shows a model of this suite, and where it shows another."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import Model
from nerfstudio.scripts.viewer import run_viewer
from nerfstudio.utils.colormaps import ColormapOptions
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.utils import CameraState
from nerfstudio.viewer.viewer import Viewer
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException, SetTrace

from common_ns.base_model import RadianceModel
from common_ns.nerfstudio_seam import shown_outputs, viewer
from common_ns.nerfstudio_seam.shown_outputs import is_shown
from common_ns.nerfstudio_seam.trainer import SafeTrainerConfig
from common_ns.nerfstudio_seam.viewer import CPU_RESOLUTION, FieldRenders, ViewerAdapter


def machine(max_res: int = 512, state: str = "low_move") -> FieldRenders:
    shown = SimpleNamespace(control_panel=SimpleNamespace(max_res=max_res))
    result = FieldRenders(shown, 10.0, client=None)  # type: ignore[arg-type]
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

    def shown_in_viewer(self, name: str, outputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return 0.5 * outputs[name]

    def set_background_image(self, picture: np.ndarray, **_: Any) -> None:
        self.sent.append(picture)


def test_models_are_told_what_is_shown_and_nothing_else_is_sent():
    model = Outputs()
    shown = SimpleNamespace(
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
    renders = FieldRenders(shown, 10.0, client)  # type: ignore[arg-type]
    state = CameraState(fov=1.0, aspect=1.0, c2w=torch.eye(4)[:3], camera_type=CameraType.PERSPECTIVE)

    renders._send_output_to_viewer(renders._render_img(state))
    assert model.asked[-1] == {"rgb"} and model.control_panel.output_render == "rgb"
    assert model.sent[-1].max() == 25, "the model says how its outputs are shown"
    outputs = renders._render_img(state)
    model.control_panel.output_render = "normals"  # chosen while the other one was rendered
    renders._send_output_to_viewer(outputs)
    assert len(model.sent) == 1
    renders._send_output_to_viewer(renders._render_img(state))
    assert model.asked[-1] == {"normals"} and model.sent[-1].max() == 76
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

    monkeypatch.setattr(shown_outputs._render, "outputs", frozenset({"rgb"}))
    assert torch.equal(render(), torch.full((5, 3), 0.5)) and not asked
    monkeypatch.setattr(shown_outputs._render, "outputs", frozenset({"rgb", "normals"}))
    assert torch.allclose(render()[:, 2], torch.ones(5)) and len(asked) == 1


def viewer_on(device: str) -> Any:
    seen: list[Any] = []
    result = SimpleNamespace(
        viser_server=None,
        ready=False,
        control_panel=SimpleNamespace(_max_res=SimpleNamespace(value=512), train_util=0.3),
        get_model=lambda: SimpleNamespace(device=torch.device(device)),
        train_util=0.9,
        render_statemachines={},
        update_step=lambda step: seen.append(("step", step)),
        seen=seen,
    )
    result.update_scene = lambda step, rays=None: seen.append((result.train_util, rays))
    return result


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("resolution", [None, CPU_RESOLUTION])
def test_pictures_are_smaller_on_a_cpu(device, resolution):
    shown = viewer_on(device)
    ViewerAdapter(resolution)._setup(shown)
    assert shown.control_panel._max_res.value == (CPU_RESOLUTION if device == "cpu" and resolution else 512)


def test_the_slider_counts_and_steps_are_told_once_a_second(monkeypatch):
    now = 100.0
    monkeypatch.setattr(viewer.time, "monotonic", lambda: now)
    shown = viewer_on("cpu")
    ViewerAdapter()._setup(shown)
    shown.update_scene(7, 512)
    now += 0.5
    shown.control_panel.train_util = 0.6
    shown.update_scene(8, 512)
    now += 1.0
    shown.update_scene(9, 512)
    assert shown.seen == [(0.3, 512), ("step", 7), (0.6, 512), (0.6, 512), ("step", 9)]


@pytest.mark.parametrize("early", [True, False], ids=["before the adapter is found", "afterwards"])
def test_threads_of_a_viewer_that_shows_our_model_are_ours_and_others_are_not(early):
    shown, other = viewer_on("cpu"), viewer_on("cpu")
    client: Any = SimpleNamespace(client_id=3, camera=SimpleNamespace(on_update=lambda function: function))
    if not early:
        ViewerAdapter()._setup(shown)
    for each in (shown, other):
        Viewer.handle_new_client(each, client)
    if early:
        ViewerAdapter()._setup(shown)
    ours, theirs = shown.render_statemachines[3], other.render_statemachines[3]
    assert type(ours) is FieldRenders and type(theirs) is RenderStateMachine
    assert ours.is_alive() and theirs.is_alive() and len(shown.render_statemachines) == 1
    for each in (shown, other):
        Viewer.handle_disconnect(each, client)
        assert len(each.render_statemachines) == 0
    for thread in (ours, theirs):
        thread.join(timeout=10.0)
        assert not thread.is_alive()


def test_a_browser_that_connects_while_the_viewer_is_adapted_is_served():
    shown = viewer_on("cpu")
    before = shown.render_statemachines
    ViewerAdapter()._setup(shown)
    before[3] = machine = RenderStateMachine(shown, 10.0, client=None)  # type: ignore[arg-type]
    assert shown.render_statemachines[3] is machine and type(machine) is FieldRenders


@pytest.mark.parametrize(
    ("ours", "words", "address"),
    [
        (True, [], "127.0.0.1"),
        (True, ["--viewer.websocket-host", "0.0.0.0"], "0.0.0.0"),
        (True, ["--viewer.websocket_host=0.0.0.0"], "0.0.0.0"),
        (True, ["--viewer.websocket-host", "192.0.2.7"], "192.0.2.7"),
        (False, [], "0.0.0.0"),
    ],
)
def test_ns_viewer_listens_on_this_machine_only_unless_told_otherwise(ours, words, address, monkeypatch):
    listened = []
    datamanager = SimpleNamespace(get_datapath=lambda: None)
    config = (SafeTrainerConfig if ours else TrainerConfig)(method_name="some-method", experiment_name="some-run")
    monkeypatch.setattr(
        run_viewer, "eval_setup", lambda *_, **__: (config, SimpleNamespace(datamanager=datamanager), None, 0)
    )

    def start(config: ViewerConfig, **_: Any) -> None:
        listened.append(config.websocket_host)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_viewer, "ViewerState", start)
    monkeypatch.setattr(sys, "argv", ["ns-viewer", "--load-config", "config.yml", *words])
    with pytest.raises(KeyboardInterrupt):
        run_viewer.entrypoint()
    assert listened == [address]


def test_a_training_listens_where_its_config_says():
    config = SafeTrainerConfig(viewer=ViewerConfig(websocket_host="0.0.0.0"))
    assert config.viewer.websocket_host == "0.0.0.0"
    assert SafeTrainerConfig().viewer.websocket_host == "127.0.0.1"
