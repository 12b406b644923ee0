"""The real-time preview: while the camera moves a browser draws a stand-in of the model itself, and training goes on.

The page is dragged for five seconds, with the preview and without, and frames are counted in the page. What it shows at
the end of the drag is compared with the model's own picture, which comes when the camera rests. Other work on the
machine takes frames away: they are counted over the time of the CPU that the browser gets, one core's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import skimage.data
import trimesh
from PIL import Image

from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from tests.e2e.browsing import KEEP, Page, Run, needs_browser, viewed_run

SECONDS = 5.0
"""Of dragging."""
SPEED = 5.0
"""CSS pixels per second: the camera turns by 20° or so meanwhile."""
FRAMES = 3.0
"""Frames per second of CPU time with the preview, at least."""
SHARPER = 1.4
"""Of the sharpness of what was shown without, what the preview has at least."""
RESOLUTION = 256
"""Of pictures at rest."""


@dataclass(frozen=True)
class Case:
    """A method and what it is trained on."""

    data: str
    """A layout of the sample scene, `landscape`, or `image` or `mesh`."""
    steps: int
    """Steps of training before the viewer is opened: pictures are to be sharper than 45×30 pixels; 0: none."""
    options: tuple[str, ...] = ()
    """Of ns-train, with the viewer."""
    parser: tuple[str, ...] = ()
    """The data parser and its options."""
    better: float = 5.0
    """dB by which the preview is nearer to the model's own picture than what was shown without, at least. Of objects
    before one color a blurred picture is not far off: with a margin for noise it may be below 0."""


SHARP = 0.8
"""Of the sharpness of the model's first picture at rest, what each later one has at least."""
RAYS = ("--pipeline.datamanager.train-num-rays-per-batch", "256")
STAY = ("--viewer.quit-on-train-completion", "False")
CASES = {
    "mip-nerf-small": Case("blender", 400, RAYS, better=-2.0),
    "mip-nerf-360-small": Case("landscape", 400, RAYS, better=2.0),
    "zip-nerf-small": Case("landscape", 400, RAYS, better=3.0),
    "depth-hash-small": Case("nerfstudio", 400, RAYS, better=2.0),
    "hash-neus-small": Case("idr", 1200, RAYS, better=0.0),
    "mip-splat-small": Case("landscape", 400, better=1.5),
    "miner-image": Case("image", 0, STAY),
    "miner-occupancy": Case("mesh", 0, STAY, ("miner-occupancy-data", "--resolution", "64")),
}


def written(case: Case, folder: Path) -> Path:
    """The case's data."""
    if case.data == "image":
        photograph = Image.fromarray(np.hstack([skimage.data.astronaut()] * 2)).resize((768, 384))
        photograph.save(folder / "photo.png")
        return folder / "photo.png"
    if case.data == "mesh":
        trimesh.creation.torus(0.5, 0.2).export(folder / "ring.obj")
        return folder / "ring.obj"
    unbounded = case.data == "landscape"
    layout: Any = "nerfstudio" if unbounded else case.data
    write_sample_scene(
        SampleSceneConfig(folder / "scene", layouts=(layout,), num_train=20, resolution=200, unbounded=unbounded)
    )
    return folder / "scene" / layout


def trained_before(method: str, data: Path, steps: int, folder: Path) -> tuple[str, ...]:
    """Train without the viewer.

    Returns: options of ns-train to go on from there.
    """
    command = [str(Path(sys.executable).parent / "ns-train"), method, "--data", str(data), "--vis", "tensorboard"]
    command += ["--max-num-iterations", str(steps), "--output-dir", str(folder / "before"), "--timestamp", "run"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (checkpoints,) = (folder / "before").glob("*/*/run/nerfstudio_models")
    return ("--load-dir", str(checkpoints), "--max-num-iterations", "100000")


@dataclass(frozen=True)
class Drag:
    """What was seen of a drag."""

    rate: float
    """Frames per second."""
    rate_of_core: float
    """Frames per second of the browser's CPU time."""
    steps: int
    """Steps of training meanwhile."""
    pictures: tuple[np.ndarray, np.ndarray]
    """The scene after half of it and at its end, the camera still moving."""
    own: np.ndarray
    """The model's own picture from where it ended."""

    @property
    def psnr(self) -> float:
        """Of the picture at its end, in dB, against the model's own."""
        return float(10.0 * np.log10(255.0**2 / max(np.square(self.pictures[1] - self.own).mean(), 1e-9)))


def drag(page: Page, run: Run, speed: float, sharpness: float) -> Drag:
    """Drag for five seconds, at so many CSS pixels a second, and let go.

    Args:
        sharpness: of the model's first picture at rest.
    """
    x, y = 200.0, 250.0
    page.mouse("mousePressed", (x, y))
    step, frames, seconds, cpu = page.step() or 0, 0, 0.0, 0.0
    pictures: list[Any] = []
    for _ in range(2):
        start, before, cpu_before = time.monotonic(), page.frames(), cpu_seconds(page)
        while time.monotonic() < start + 0.5 * SECONDS:
            x += 0.04 * speed
            page.mouse("mouseMoved", (x, y))
            time.sleep(0.04)
        frames += page.frames() - before
        seconds, cpu = seconds + time.monotonic() - start, cpu + cpu_seconds(page) - cpu_before
        pictures.append(None)
        while pictures[-1] is None:  # a picture of a page may take longer than the model's own takes to come
            x += 1.0
            page.mouse("mouseMoved", (x, y))
            shown = page.scene()
            if not page.at_rest():
                pictures[-1] = shown
            elif time.monotonic() > start + 60.0:
                pytest.fail("the camera moves, and the model's own pictures are shown")
    steps = (page.step() or 0) - step
    page.mouse("mouseReleased", (x, y))
    own = settled(page, run, sharpness)
    return Drag(frames / seconds, frames / max(cpu, 1e-3), steps, (pictures[0], pictures[1]), own)


def cpu_seconds(page: Page) -> float:
    """CPU time that the browser has used."""
    times = [each.cpu_times() for each in psutil.Process(page.browser.service.process.pid).children(recursive=True)]
    return sum(each.user + each.system for each in times)


def settled(page: Page, run: Run, sharpness: float = 0.0) -> np.ndarray:
    """The model's own picture, when it has come: as sharp as the first one, or nearly. The panel tells of its size as
    soon as it is begun. While the model is trained, it is a new one every few seconds.

    Args:
        sharpness: of the model's first picture at rest; 0: this is that.
    """
    still, last = 0, page.scene()
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline:
        time.sleep(1.5)
        now = page.scene()
        same = np.abs(now - last).mean() < 1.0 or "Pause Training" in texts(page)
        still = still + 1 if page.at_rest() and same and sharpness_of(now) >= SHARP * sharpness else 0
        if still >= (3 if sharpness else 6):
            time.sleep(3.0)  # the next proxy is made of it
            return now
        last = now
    page.keep("preview-failed")
    pytest.fail(f"no picture at rest: {page.stat('Resolution')}; log: {run.text[-1000:]}")


def sharpness_of(picture: np.ndarray) -> float:
    """Mean difference of pixels side by side, in 255ths."""
    return float(np.abs(np.diff(picture, axis=1)).mean())


def texts(page: Page) -> str:
    return page.browser.execute_script("return document.body.innerText")


ALWAYS = ("miner-image", "miner-occupancy")
"""Need no training beforehand."""
long_ones = pytest.mark.skipif(
    os.environ.get("FIELDSUITE_PREVIEWS") != "1", reason="trains for minutes first: FIELDSUITE_PREVIEWS=1 to run"
)


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("method", [name if name in ALWAYS else pytest.param(name, marks=long_ones) for name in CASES])
def test_browser_draws_by_itself_while_the_camera_moves_and_training_goes_on(method, tmp_path):
    case = CASES[method]
    data = written(case, tmp_path)
    trained = trained_before(method, data, case.steps, tmp_path) if case.steps else ()
    with viewed_run(method, data, tmp_path, (*case.options, *trained), case.parser, every_frame=True) as (run, page):
        page.limit(RESOLUTION)
        page.press("Hide Train Cams")
        finished = "Training Finished"
        run.wait_for("training", lambda: (page.step() or 0) >= case.steps + 10 or finished in run.text, 400.0)
        run.wait_for("a picture at rest", page.at_rest)
        run.wait_for("the preview", lambda: "Preview: detail" in texts(page))
        sharpness = sharpness_of(settled(page, run))
        training = drag(page, run, SPEED, sharpness)  # and the page's speed becomes known
        went_on = training.steps > 0 or finished in run.text
        if finished not in run.text:
            page.press("Pause Training")  # only the camera changes the picture from here on
            page.press("Show all")
            settled(page, run, sharpness)
        own = drag(page, run, SPEED, sharpness)
        page.click(page.control("Real-time preview"))
        settled(page, run, sharpness)
        without = drag(page, run, -SPEED, sharpness)
        for name, each in (("training", training), ("preview", own), ("without", without)):
            print(
                f"{method}, {name}: {each.rate:.1f} frames/s, {each.rate_of_core:.1f} for each second of a core, "
                f"{each.psnr:.1f} dB, {each.steps} steps"
            )
        if KEEP:
            rows = [np.hstack([*each.pictures, each.own]) for each in (own, without)]
            Path(KEEP).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.vstack(rows).astype(np.uint8)).save(Path(KEEP) / f"preview-{method}.png")
        middle, end = own.pictures
        assert end.std(axis=(0, 1)).max() > 8.0, "blank"
        assert np.abs(end - middle).mean() > 0.5, "it stands still"
        assert sharpness_of(end) > SHARPER * sharpness_of(without.pictures[1]), "not sharper than without"
        assert own.psnr < 60.0, "compared with itself: the model's own picture had not come"
        assert own.psnr >= without.psnr + case.better, "farther from the model's own picture than is to be"
        assert max(own.rate, own.rate_of_core) >= FRAMES
        assert went_on, "training has stopped"
