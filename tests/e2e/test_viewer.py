"""The web viewer shows the render of radiance fields while they train, in a real browser."""

from __future__ import annotations

import pytest

from common_ns.sample_scene import SampleSceneConfig, write_sample_scene
from tests.e2e.browsing import needs_browser, unlike, varied, viewed_run

METHODS = {
    "mip-nerf-small": ("blender", "normals", ("--num-coarse-samples", "16", "--num-importance-samples", "16")),
    "mip-nerf-360-small": ("landscape", "normals", ("--num-proposal-samples", "16", "12", "--num-nerf-samples", "8")),
    "depth-hash-small": ("nerfstudio", "depth_error", ("--num-proposal-samples", "16", "--num-nerf-samples", "8")),
}
"""Scene that each method trains on, an output to switch to, and options of its model that make it quick."""


@needs_browser
@pytest.mark.parametrize("method", METHODS)
def test_browser_shows_the_render_and_the_step_counter(method, tmp_path):
    scene, output, options = METHODS[method]
    layout = "blender" if scene == "blender" else "nerfstudio"
    write_sample_scene(
        SampleSceneConfig(
            tmp_path / "scene", layouts=(layout,), num_train=12, resolution=32, unbounded=scene == "landscape"
        )
    )
    options = tuple(option.replace("--", "--pipeline.model.") for option in ("--hidden-dim", "32", *options))
    options += ("--max-num-iterations", "100000")
    with viewed_run(method, tmp_path / "scene" / layout, tmp_path, options) as (run, page):
        page.limit(64)  # as a user on a CPU would choose: the viewer redraws, and counts, when a picture is done
        picture = page.wait_for(varied, "the render")
        step = page.step()
        run.wait_for("another step", lambda: page.step() != step)
        page.keep(method)
        assert page.browser.title == "Viser"
        page.choose("Output type", output)
        page.wait_for(unlike(picture, 10), output)
        page.keep(f"{method}-{output}")
