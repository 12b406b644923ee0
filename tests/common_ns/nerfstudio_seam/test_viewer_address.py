"""ns-viewer on runs of this suite listens on this machine only, unless it is told otherwise."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from nerfstudio.viewer.viewer import Viewer

from common_ns.nerfstudio_seam import viewer_address
from common_ns.nerfstudio_seam.pipeline import FieldPipeline


@pytest.mark.parametrize(
    ("ours", "words", "trainer", "address"),
    [
        (True, [], None, "127.0.0.1"),
        (True, ["--viewer.websocket-host", "0.0.0.0"], None, "0.0.0.0"),
        (True, ["--viewer.websocket_host=0.0.0.0"], None, "0.0.0.0"),
        (True, [], "a trainer, whose config has its own default", "0.0.0.0"),
        (False, [], None, "0.0.0.0"),
    ],
)
def test_address(ours, words, trainer, address, monkeypatch):
    listened = []
    monkeypatch.setattr(Viewer, "__init__", lambda self, config, *rest, **named: listened.append(config.websocket_host))
    viewer_address.listen_here_by_default()
    viewer_address.listen_here_by_default()  # a second time changes nothing
    monkeypatch.setattr(sys, "argv", ["ns-viewer", "--load-config", "config.yml", *words])
    pipeline = FieldPipeline.__new__(FieldPipeline) if ours else SimpleNamespace()
    config = SimpleNamespace(websocket_host="0.0.0.0")
    Viewer(config, log_filename=None, datapath=None, pipeline=pipeline, trainer=trainer)  # type: ignore[arg-type]
    assert listened == [address]


def test_another_address_is_kept(monkeypatch):
    listened = []
    monkeypatch.setattr(Viewer, "__init__", lambda self, config, *rest, **named: listened.append(config.websocket_host))
    viewer_address.listen_here_by_default()
    monkeypatch.setattr(sys, "argv", ["ns-viewer"])
    config = SimpleNamespace(websocket_host="192.0.2.7")
    Viewer(config, None, None, FieldPipeline.__new__(FieldPipeline))  # type: ignore[arg-type]
    assert listened == ["192.0.2.7"]
