"""The web viewer shows the render of radiance fields while they train, in a real browser, and its controls work."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from tests.e2e.browsing import Page, Picture, like, needs_browser, unlike, varied, viewed_run

RUNS = {
    "mip-nerf-small": ("blender", ("--num-coarse-samples", "16", "--num-importance-samples", "16")),
    "mip-nerf-360-small": ("landscape", ("--num-proposal-samples", "16", "12", "--num-nerf-samples", "8")),
    "zip-nerf-small": ("landscape", ("--num-proposal-samples", "16", "12", "--num-nerf-samples", "8")),
    "depth-hash-small": ("nerfstudio", ("--num-proposal-samples", "16", "--num-nerf-samples", "8")),
}
"""Scene that each method trains on, and options of its model that make it quick."""

LEARNT = 60
"""Steps after which there is more to be seen than fog."""


def turn_away_and_back(page: Page, shown: Picture) -> None:
    """mip-NeRF has no control of its own but the first view's."""
    page.scroll(-20)
    page.settled(unlike(shown, 5), "a near view")
    page.press("Show all")
    page.settled(like(shown, 2), "all of it again")


def cut_away(page: Page, shown: Picture) -> None:
    """What is nearer than the slider says is not rendered."""
    page.enter("Near plane", 2.0)
    page.settled(unlike(shown, 3), "what is behind")


def show_weights(page: Page, shown: Picture) -> None:
    """A control of ours adds an output."""
    page.click(page.control("Output weights"))
    page.choose("Output type", "weights")
    page.settled(unlike(shown, 5), "weights")


def color_depth(page: Page, shown: Picture) -> None:
    """Colors even in depth between the planes, in place of its logarithm between what is seen: all is near."""
    page.choose("Depth colors", "linear")
    page.settled(unlike(shown, 3), "depth in other colors")


CHECKS: dict[str, tuple[str, Callable[[Page, Picture], None]]] = {
    "mip-nerf-small": ("normals", turn_away_and_back),
    "mip-nerf-360-small": ("normals", cut_away),
    "zip-nerf-small": ("depth", color_depth),
    "depth-hash-small": ("depth_error", show_weights),
}
"""An output to switch to, and a control to try."""


@needs_browser
@pytest.mark.parametrize(
    "method", [name if name == "mip-nerf-small" else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_browser_shows_the_render_and_its_controls_work_while_it_trains(method, tmp_path):
    (scene, options), (output, try_control) = RUNS[method], CHECKS[method]
    layout = "blender" if scene == "blender" else "nerfstudio"
    write_sample_scene(
        SampleSceneConfig(
            tmp_path / "scene", layouts=(layout,), num_train=12, resolution=32, unbounded=scene == "landscape"
        )
    )
    options = tuple(option.replace("--", "--pipeline.model.") for option in ("--hidden-dim", "32", *options))
    options += ("--max-num-iterations", "100000", "--pipeline.datamanager.train-num-rays-per-batch", "256")
    with viewed_run(method, tmp_path / "scene" / layout, tmp_path, options) as (run, page):
        page.limit(64)  # as a user on a CPU would choose
        page.wait_for(varied, "the render")
        run.wait_for("training", lambda: (page.step() or 0) >= LEARNT)
        page.keep(method)
        assert page.browser.title == "Viser"
        page.press("Pause Training")  # only what is chosen changes the picture from here on
        page.press("Show all")  # draws it anew
        rgb = page.settled(varied, "the render of the step at which training stands")
        page.choose("Output type", output)
        shown = page.settled(unlike(rgb, 5), output)
        page.keep(f"{method}-{output}")
        try_control(page, shown)
        page.keep(f"{method}-control")
        page.press("Resume Training")
        step = page.step()
        run.wait_for("another step", lambda: page.step() != step)
