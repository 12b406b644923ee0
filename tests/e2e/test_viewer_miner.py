"""The web viewer on MINER: training ends by itself, and its result stays, with controls that work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import trimesh
from PIL import Image

from tests.e2e.browsing import difference, like, needs_browser, unlike, varied, viewed_run


def miner_data(method: str, folder: Path) -> tuple[Path, int, tuple[str, ...]]:
    """Data for a MINER method, the number of its levels, and the options of its data parser."""
    if method == "miner-image":
        Image.fromarray(skimage.data.astronaut()).resize((256, 256), Image.Resampling.BOX).save(folder / "photo.png")
        return folder / "photo.png", 5, ()
    trimesh.creation.icosphere(subdivisions=3, radius=0.7).export(folder / "ball.obj")
    return folder / "ball.obj", 3, ("miner-occupancy-data", "--resolution", "32")


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("method", [pytest.param("miner-image", marks=pytest.mark.slow), "miner-occupancy"])
def test_browser_shows_a_miner_fit_after_its_end_and_its_controls_work(method, tmp_path):
    """The viewer shows the result of training without being touched, and goes on serving."""
    data, num_levels, parser = miner_data(method, tmp_path)
    options = ("--pipeline.model.fit.num-levels", str(num_levels), "--viewer.quit-on-train-completion", "False")
    with viewed_run(method, data, tmp_path, options, parser) as (run, page):
        run.wait_for("the end of training", lambda: "Training Finished" in run.text)
        page.settled(varied, "the result")
        page.limit(164)
        plain = page.settled(varied, "the result, small")
        page.keep(method)
        # All of it is in view: the picture's border shows the white background, its middle does not.
        assert (plain[:, [0, -1]] > 235).all() and (plain[5:10, 6:12] < 240).any(axis=-1).mean() > 0.5

        page.choose("Output type", "normals")
        normals = page.settled(unlike(plain, 10), "normals")
        page.choose("Output type", "rgb")
        page.click(page.control("Show blocks"))
        # On a ball, frames are thin lines. Pictures of the same are equal to the last bit, or nearly so.
        framed = page.settled(lambda now: unlike(normals, 10)(now) and unlike(plain, 0.3)(now), "frames of blocks")
        page.keep(f"{method}-blocks")
        page.click(page.control("Show blocks"))
        page.choose("Level of detail", str(num_levels - 1))
        coarse = page.settled(lambda now: unlike(framed, 0.3)(now) and unlike(plain, 0.3)(now), "the coarsest level")
        page.keep(f"{method}-coarse")
        page.choose("Level of detail", "auto")
        page.settled(like(plain, 0.5 * difference(coarse, plain)), "the finest level again")

        page.scroll(-20)
        near = page.settled(unlike(plain, 10), "a near view")
        page.keep(f"{method}-near")
        assert np.ptp(near) > 10
        page.press("Show all")
        page.settled(like(plain, 2), "all of it again")
        page.browser.refresh()  # a browser that comes later sees the same
        page.settled(like(plain, 2), "the same in a new page")
        assert run.process.poll() is None
