"""The preview in nerfstudio's viewer: when it is seen, when pictures are, and who makes it."""

from __future__ import annotations

import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.viewer.render_state_machine import RenderAction
from nerfstudio.viewer.utils import CameraState
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException

from common_ns.nerfstudio_seam import preview as preview_module
from common_ns.nerfstudio_seam.fair_lock import FairLock
from common_ns.nerfstudio_seam.preview import NONE_YET, ClientPreview, RealTimePreview
from common_ns.nerfstudio_seam.viewer import FieldRenders
from common_ns.viewer_preview.proxies import PointProxy, Proxy
from common_ns.viewer_preview.source import Rung, Source


class Page:
    """A client with a scene, which notes what is shown."""

    client_id = 7

    def __init__(self) -> None:
        self.scene, self.camera = self, SimpleNamespace(aspect=1.0)
        self.counts: list[int] = []
        self.pictures: list[np.ndarray] = []
        self.root: Any = None

    def atomic(self) -> Any:
        return nullcontext()

    def add_frame(self, name: str, show_axes: bool, visible: bool) -> Any:
        self.root = SimpleNamespace(visible=visible, remove=lambda: None)
        return self.root

    def add_point_cloud(self, name: str, points: np.ndarray, *_: Any, **__: Any) -> None:
        self.counts.append(len(points))

    def set_background_image(self, picture: np.ndarray, **_: Any) -> None:
        self.pictures.append(picture)

    @property
    def sees_proxy(self) -> bool:
        return self.root is not None and self.root.visible


class Counting(Source):
    """A source of as many points as it is asked for; it notes who holds the lock while it works."""

    rungs = (Rung("points", 10), Rung("points", 20), Rung("points", 40))
    first_rung = 1
    background = np.array([[[0.0, 0.5, 1.0]]])

    def __init__(self) -> None:
        self.lock = FairLock()
        self.held: list[bool] = []

    def work(self) -> bool:
        self.held.append(self.lock.locked())
        self.version += 1
        return False

    def proxy(self, rung: Rung) -> tuple[Proxy, ...]:
        points = np.zeros((rung.count, 3))
        return (PointProxy(points, points, np.ones(rung.count)),)


def state_at(x: float) -> CameraState:
    pose = torch.eye(4)[:3].clone()
    pose[0, 3] = x
    return CameraState(fov=1.0, aspect=1.0, c2w=pose, camera_type=CameraType.PERSPECTIVE)


@pytest.fixture
def clock(monkeypatch):
    """The time, which tests set."""
    now = [100.0]
    monkeypatch.setattr(preview_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(preview_module.time, "sleep", lambda seconds: None)
    return now


def ready(page: Page, wanted: bool = True) -> tuple[Counting, ClientPreview]:
    source = Counting()
    source.work()
    shown = ClientPreview(page, source, lambda: wanted)
    shown.moved(state_at(0.0), True)
    shown.refresh(20.0)
    return source, shown


def test_the_proxy_is_seen_while_the_camera_moves_and_the_picture_when_it_rests(clock):
    page = Page()
    _, shown = ready(page)
    assert page.counts == [20] and not page.sees_proxy, "the page rests"
    shown.moved(state_at(1.0), True)
    assert page.sees_proxy and shown.shown
    assert page.pictures[-1].tolist() == [[[0, 128, 255]]], "one color in place of the picture, which would hide it"
    shown.begin()
    with shown.replaced() as sent:
        assert sent and page.sees_proxy, "it stays until the picture is there"
    assert not page.sees_proxy and not shown.shown


def test_a_picture_of_another_place_is_not_sent(clock):
    page = Page()
    _, shown = ready(page)
    shown.begin()
    shown.moved(state_at(1.0), True)  # while the picture is rendered
    with shown.replaced() as sent:
        assert not sent
    assert page.sees_proxy


def test_controls_that_move_no_camera_show_no_proxy_and_what_it_does_not_show_hides_it(clock):
    page = Page()
    _, shown = ready(page)
    shown.moved(state_at(0.0), True)
    assert not page.sees_proxy, "an output was chosen, or a slider moved"
    shown.moved(state_at(1.0), True)
    shown.moved(state_at(1.0), False)
    assert not page.sees_proxy, "normals were chosen while it was shown"
    page = Page()
    _, shown = ready(page, wanted=False)
    shown.moved(state_at(1.0), True)
    assert not page.sees_proxy, "it is switched off"


def test_a_slow_page_gets_less_at_once_and_a_fast_one_more_when_it_rests(clock):
    page = Page()
    _, shown = ready(page)
    for step in range(1, 8):
        clock[0] += 0.4
        shown.moved(state_at(step), True)
    shown.refresh(20.0)
    assert page.counts == [20, 10] and page.sees_proxy, "2.5 frames a second"
    assert "detail 1 of 3" in shown.description
    for step in range(8, 15):
        clock[0] += 0.02
        shown.moved(state_at(step), True)
    shown.refresh(20.0)
    assert page.counts == [20, 10], "more would appear by and by while it is watched"
    shown.begin()
    with shown.replaced():
        pass
    shown.refresh(20.0)
    assert page.counts == [20, 10, 20]


def test_newer_proxies_are_sent_after_a_while_and_at_rest(clock):
    page = Page()
    source, shown = ready(page)
    assert shown.description != NONE_YET
    shown.refresh(20.0)
    assert len(page.counts) == 1, "nothing is new"
    source.work()
    clock[0] += 19.0
    shown.refresh(20.0)
    assert len(page.counts) == 1
    clock[0] += 2.0
    shown.moved(state_at(1.0), True)
    shown.refresh(20.0)
    assert len(page.counts) == 1, "it would flicker"
    shown.begin()
    with shown.replaced():
        pass
    shown.refresh(20.0)
    assert len(page.counts) == 2


def renders_of(shown: ClientPreview) -> FieldRenders:
    panel = SimpleNamespace(max_res=8, crop_viewport=False, split=False, output_render="rgb")
    viewer = SimpleNamespace(control_panel=panel, render_tab_state=SimpleNamespace(preview_render=False))
    renders = FieldRenders(viewer, 10.0, client=None)  # type: ignore[arg-type]
    renders.preview = shown
    return renders


def test_nothing_is_rendered_while_the_page_draws_by_itself(clock):
    page = Page()
    _, shown = ready(page)
    renders = renders_of(shown)
    renders.state = "low_move"
    renders.action(RenderAction("move", state_at(1.0)))
    assert page.sees_proxy, "before the thread that renders takes notice"
    for state in ("low_move", "low_static"):
        renders.state = state
        renders.interrupt_render_flag = True  # set when the last picture had just been finished
        with pytest.raises(IOChangeException):
            renders._render_img(state_at(1.0))
        assert not renders.interrupt_render_flag, "the picture at rest would be given up, and no other asked for"


@pytest.mark.parametrize("change", ["output_render", "split", "crop_viewport"])
def test_other_outputs_and_crops_are_rendered(change, clock):
    page = Page()
    _, shown = ready(page)
    renders = renders_of(shown)
    panel: Any = renders.viewer.control_panel
    panel.split_output_render = "depth"
    setattr(panel, change, "normals" if change == "output_render" else True)
    renders.action(RenderAction("move", state_at(1.0)))
    assert not page.sees_proxy


def test_a_thread_makes_it_while_training_waits_and_training_does_not_wait_for_the_camera():
    source, page = Counting(), Page()
    control = RealTimePreview(source)
    viewer: Any = SimpleNamespace(
        render_statemachines={7: None},
        ready=True,
        step=0,
        train_lock=source.lock,
        trainer=SimpleNamespace(training_state="training"),
        get_model=lambda: SimpleNamespace(device=torch.device("cpu")),
        stats_markdown=SimpleNamespace(content=""),
        make_stats_markdown=lambda step, resolution: resolution,
        last_move_time=5.0,
    )
    control._every, control._told = SimpleNamespace(value=20), SimpleNamespace(content="")
    client = control.of(page)
    control.connect(viewer)
    deadline = time.monotonic() + 20.0
    while len(source.held) < 2 and time.monotonic() < deadline:
        with source.lock:
            viewer.step += 1
        control.between_steps()
    assert len(source.held) >= 2 and all(source.held), "in training's place, never beside it"
    while client.description == NONE_YET and time.monotonic() < deadline:
        time.sleep(0.01)
    assert page.counts and control._told.content == client.description
    assert viewer.last_move_time == 5.0
    client.moved(state_at(0.0), True)
    client.moved(state_at(1.0), True)
    assert viewer.stats_markdown.content == "preview"
    control.between_steps()
    assert viewer.last_move_time == 0
    viewer.render_statemachines.clear()
