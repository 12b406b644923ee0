"""The web viewer on a surface: its outputs, the slice through its distances, and its mesh in the scene."""

from __future__ import annotations

import pytest

from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from tests.e2e.browsing import like, needs_browser, unlike, varied, viewed_run

QUICK = (
    *("--pipeline.datamanager.train-num-rays-per-batch", "128"),
    *("--pipeline.model.num-samples", "12", "--pipeline.model.num-upsamples", "6"),
    *("--pipeline.model.sdf-field.options.hash.num-levels", "4"),
    *("--pipeline.model.sdf-field.options.hash.log2-table-size", "12"),
)


@pytest.mark.slow
@needs_browser
def test_browser_shows_a_surface_its_slice_and_its_mesh(tmp_path):
    write_sample_scene(SampleSceneConfig(tmp_path / "scene", layouts=("idr",), num_train=12, resolution=32))
    with viewed_run("hash-neus-small", tmp_path / "scene" / "idr", tmp_path, QUICK) as (run, page):
        page.limit(64)
        page.press("Hide Train Cams")
        rgb = page.wait_for(varied, "a render")
        step = page.step()
        run.wait_for("another step", lambda: page.step() != step)
        page.keep("surface-rgb")
        page.press("Pause Training")  # only what is chosen changes the picture from here on
        page.choose("Output type", "normals")
        normals = page.settled(unlike(rgb, 5), "normals")
        page.keep("surface-normals")
        page.choose("Output type", "rgb")
        rgb = page.settled(unlike(normals, 5), "the colors of the step at which training stands")
        page.choose("Output type", "sdf_slice")
        middle = page.settled(lambda picture: unlike(rgb, 5)(picture) and unlike(normals, 5)(picture), "the slice")
        page.keep("surface-slice")
        page.enter("SDF slice: height", 0.6)
        page.settled(unlike(middle, 3), "a slice further up")
        page.choose("Output type", "rgb")
        rgb = page.settled(like(rgb, 4), "the colors again")

        page.click(page.control("Composite depth"))  # the mesh alone, not what the render hides of it
        rgb = page.settled(varied, "the render behind everything")
        page.enter("Mesh: resolution", 32)
        page.press("Show mesh")
        mesh = page.settled(unlike(rgb, 2), "the mesh")
        page.keep("surface-mesh")
        page.press("Hide mesh")
        page.settled(lambda picture: like(rgb, 2)(picture) and unlike(mesh, 2)(picture), "the render without the mesh")
        page.press("Resume Training")
        step = page.step()
        run.wait_for("another step", lambda: page.step() != step)
