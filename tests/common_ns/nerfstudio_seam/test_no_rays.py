"""Runs of pictures have no rays: exporters end that ask for some; the viewer, which reads all attributes, goes on."""

from __future__ import annotations

import pytest
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerElement

from common_ns.errors import InputError
from common_ns.nerfstudio_seam.image_datamanager import ImageDataManager


def test_the_viewer_reads_what_exporters_cannot_use():
    manager = object.__new__(ImageDataManager)
    assert manager.train_pixel_sampler is not None
    assert parse_object(manager.train_pixel_sampler, ViewerElement, "sampler") == []
    with pytest.raises(InputError):
        manager.train_pixel_sampler.num_rays_per_batch = 10
