"""Where exporters say how many rays they want; the viewer, which reads all attributes, goes on."""

from __future__ import annotations

from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerElement

from common_ns.nerfstudio_seam.image_datamanager import RaysAsked


def test_the_viewer_reads_it():
    assert parse_object(RaysAsked(), ViewerElement, "sampler") == []
