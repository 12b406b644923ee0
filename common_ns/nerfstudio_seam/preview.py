"""The real-time preview in nerfstudio's viewer: a control of the panel, what each browser sees, and who makes it.

While the camera of a browser moves, it is shown a proxy of the model (`common_ns.viewer_preview`) before one color in
place of the picture; when the picture in full resolution has come, this takes over. A thread makes and refreshes the
proxy in portions between steps, within a share of the time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.viewer.utils import CameraState, get_camera
from nerfstudio.viewer.viewer_elements import ViewerCheckbox
from torch import Tensor

from common_ns.viewer_preview.budget import Budget
from common_ns.viewer_preview.pace import FrameRate, next_rung
from common_ns.viewer_preview.scene import ProxyNode
from common_ns.viewer_preview.source import Source

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

SHARE, SHARE_AT_FIRST, SHARE_AT_REST = 0.1, 0.3, 0.5
"""Of the time that the proxy takes: of training's, of training's until it is complete, and while nothing is trained."""
GROWING = 5.0
"""Seconds between two proxies while they are not complete."""
NONE_YET = "Preview: none yet"
"""What the panel says before there is one."""
AFTER_PICTURE = 1.0
"""Seconds between two proxies, if the second is made of a new picture."""
LINGER = 0.15
"""Seconds for which the proxy stays when the picture has been sent, which the page has to decode."""


class RealTimePreview(ViewerCheckbox):
    """A checkbox that switches the preview, and everything behind it.

    Args:
        source: makes proxies of the model.
        on_gpu: whether it is on at first where the model is on a GPU; on a CPU it is.
    """

    def __init__(self, source: Source, on_gpu: bool = False) -> None:
        hint = "While the camera moves the browser draws a stand-in of the model, and training goes on."
        super().__init__("Real-time preview", True, hint=hint)
        self._source, self._on_gpu = source, on_gpu
        self._viewer: Any = None
        self._every: Any = None
        self._told: Any = None
        self._clients: dict[int, ClientPreview] = {}

    def install(self, viser_server: Any) -> None:
        """Add the controls to the panel."""
        super().install(viser_server)
        hint = "Least seconds between two stand-ins of a model in training."
        self._every = viser_server.gui.add_slider(
            "Preview: refresh", 5, 300, 5, int(self._source.refreshed_every), hint=hint
        )
        self._told = viser_server.gui.add_markdown(NONE_YET)

    def connect(self, viewer: Viewer) -> None:
        """There is a viewer: start making proxies as soon as a browser is connected."""
        self._viewer = viewer
        if self.gui_handle is not None and viewer.get_model().device.type != "cpu" and not self._on_gpu:
            self.gui_handle.value = False
        self._source.attach(getattr(viewer, "pipeline", None))
        threading.Thread(target=self._run, name="preview", daemon=True).start()

    def of(self, client: Any) -> ClientPreview:
        """The preview of a browser, which begins here."""
        preview = ClientPreview(client, self._source, lambda: bool(self.value) and self._source.suits(), self._tell)
        self._clients[client.client_id] = preview
        return preview

    def _tell(self) -> None:
        """Say where pictures have their size that there is none."""
        viewer = self._viewer
        viewer.stats_markdown.content = viewer.make_stats_markdown(None, "preview")

    def between_steps(self) -> None:
        """Training is between two steps: it does not wait for cameras that move, if all browsers draw by themselves."""
        shown = [client.shown for client in list(self._clients.values())]
        if shown and all(shown):
            self._viewer.last_move_time = 0

    # --- the thread

    def _run(self) -> None:
        budget, done_at = Budget(SHARE_AT_FIRST), None
        more = True
        while True:
            time.sleep(0.05)
            connected = set(self._viewer.render_statemachines)
            for gone in set(self._clients) - connected:
                self._clients.pop(gone, None)
            if not connected or not self.value or not self._viewer.ready:
                continue
            step = self._viewer.step
            if (more or step != done_at) and budget.due(time.monotonic()):
                budget.share = self._share(more)
                done_at = step
                more = self._portion(budget)
            for client in list(self._clients.values()):
                client.refresh(GROWING if more else float(self._every.value))
                if client.description != self._told.content:
                    self._told.content = client.description

    def _share(self, more: bool) -> float:
        trainer = self._viewer.trainer
        if trainer is None or trainer.training_state != "training":
            return SHARE_AT_REST
        return SHARE_AT_FIRST if more else SHARE

    def _portion(self, budget: Budget) -> bool:
        """Do a portion of the work while training and rendering wait."""
        with self._viewer.train_lock if self._viewer.train_lock is not None else nullcontext():
            start = time.monotonic()
            try:
                return self._source.work()
            finally:
                budget.spent(start, time.monotonic())


class ClientPreview:
    """What one browser is shown while its camera moves.

    Args:
        client: viser's.
        source: makes the proxies.
        wanted: whether the preview is switched on, and looks like what the model's controls say.
        on_shown: called when the proxy takes the place of a picture.
    """

    def __init__(
        self, client: Any, source: Source, wanted: Callable[[], bool], on_shown: Callable[[], None] = lambda: None
    ) -> None:
        from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

        self._client, self._source, self._wanted, self._on_shown = client, source, wanted, on_shown
        self._node = ProxyNode(client.scene, VISER_NERFSTUDIO_SCALE_RATIO)
        self._rate, self.rung = FrameRate(), source.first_rung
        self._lock = threading.RLock()
        self._pose: Tensor | None = None
        self._moves = self._begun = 0
        self._pictured = False
        self._sent: tuple[int, int] | None = None
        self._sent_at = 0.0
        self.shown = False
        """Whether the proxy is shown, in place of a picture."""

    @property
    def description(self) -> str:
        """What the panel says of it: how much this page is given to draw, and how fast it does."""
        if self._sent is None:
            return NONE_YET
        rate = self._rate.value
        speed = "" if rate is None else f", {rate:.0f} frames/s"
        return f"Preview: detail {self._sent[1] + 1} of {len(self._source.rungs)}{speed}"

    def moved(self, camera_state: CameraState, suits: bool) -> None:
        """The viewer asks for a picture of another place, or, when a control has been used, of the same.

        Args:
            camera_state: where the camera is.
            suits: whether the proxy shows what the panel says.
        """
        pose = torch.as_tensor(camera_state.c2w).clone()
        with self._lock:
            same = self._pose is not None and torch.allclose(pose, self._pose, atol=1e-6)
            self._pose = pose
            if not (suits and self._node.present and self._wanted()):
                self._hide()
                return
            if same:
                return
            self._moves += 1
            if not self.shown:
                self.shown = True
                self._rate.forget()
                with self._client.atomic():
                    self._node.show(self._source.background)
                self._on_shown()
            self._rate.frame(time.monotonic())

    def _hide(self) -> None:
        if self.shown:
            self._node.hide()
            self.shown = False

    def begin(self) -> None:
        """A picture begins to be rendered."""
        self._begun = self._moves

    def saw(self, camera_state: CameraState, outputs: dict[str, Tensor]) -> None:
        """A picture in full resolution has been rendered."""
        if not self._wanted():
            return
        height, width = next(iter(outputs.values())).shape[:2]
        self._source.saw(get_camera(camera_state, height, width), outputs)
        self._pictured = True

    @contextmanager
    def replaced(self) -> Iterator[bool]:
        """Within the block, a picture may be sent, if the camera has not moved since it was begun. The proxy is hidden
        when the page has had time to show it.

        Returns: whether it may.
        """
        with self._lock:
            sent, was_shown = self._moves == self._begun, self.shown
            yield sent
        if not (sent and was_shown):
            return
        time.sleep(LINGER)
        with self._lock:
            if self._moves == self._begun:
                self._hide()

    def refresh(self, every: float) -> None:
        """Send a newer proxy, if there is one, the camera rests and the last one is old enough; one for another speed
        of the page at once, if it is less to draw.

        Args:
            every: seconds between two proxies.
        """
        source = self._source
        with self._lock:
            rung = next_rung(self.rung, len(source.rungs), self._rate.value)
            if rung < self.rung or not self.shown:
                if rung != self.rung:
                    self._rate.forget()
                self.rung = rung
            wanted = (source.version, self.rung)
            other_rung = self._sent is not None and self._sent[1] != self.rung
            # A new picture is what the camera goes away from next.
            every = min(every, AFTER_PICTURE) if self._pictured else every
            due = self._sent is None or (not self.shown and time.monotonic() > self._sent_at + every)
            if source.version == 0 or self._sent == wanted or not (due or other_rung):
                return
        layers = source.proxy(source.rungs[wanted[1]])
        if not layers:
            return
        with self._lock, self._client.atomic():
            self._node.put(layers, self.shown)
            self._sent, self._sent_at, self._pictured = wanted, time.monotonic(), False
