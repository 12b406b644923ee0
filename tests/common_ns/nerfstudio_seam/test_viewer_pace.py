"""The viewer begins with a resolution that the machine can bear, heeds its slider and counts steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from common_ns.nerfstudio_seam import viewer_pace
from common_ns.nerfstudio_seam.viewer_pace import CPU_RESOLUTION, ViewerPace


def viewer(device: str) -> Any:
    seen: list[Any] = []
    result = SimpleNamespace(
        viser_server=None,
        control_panel=SimpleNamespace(_max_res=SimpleNamespace(value=512), train_util=0.3),
        get_model=lambda: SimpleNamespace(device=torch.device(device)),
        train_util=0.9,
        update_step=lambda step: seen.append(("step", step)),
        seen=seen,
    )
    result.update_scene = lambda step, rays=None: seen.append((result.train_util, rays))
    return result


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("resolution", [None, CPU_RESOLUTION])
def test_pictures_are_smaller_on_a_cpu(device, resolution):
    host = viewer(device)
    ViewerPace(resolution)._setup(host)
    assert host.control_panel._max_res.value == (CPU_RESOLUTION if device == "cpu" and resolution else 512)


def test_the_slider_counts_and_steps_are_told_once_a_second(monkeypatch):
    now = 100.0
    monkeypatch.setattr(viewer_pace.time, "monotonic", lambda: now)
    host = viewer("cpu")
    ViewerPace()._setup(host)
    host.update_scene(7, 512)
    now += 0.5
    host.control_panel.train_util = 0.6
    host.update_scene(8, 512)
    now += 1.0
    host.update_scene(9, 512)
    assert host.seen == [(0.3, 512), ("step", 7), (0.6, 512), (0.6, 512), ("step", 9)]
