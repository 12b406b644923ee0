"""The web viewer shows the model's render while it trains, and after, in a real browser.

Needs Chromium and its driver on PATH (Debian: chromium, chromium-driver) and selenium (extra `browser`).
FIELDSUITE_SCREENSHOT=FILE.png keeps a picture of the page; those of MINER get a name of their own beside it.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import trimesh
from PIL import Image

from common_ns.sample_scene import SampleSceneConfig, write_sample_scene

selenium = pytest.importorskip("selenium", reason="needs selenium (extra browser)")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver on PATH")

SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=900,600",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Run:
    """A command with the viewer on."""

    def __init__(self, port: int, log: Path, process: subprocess.Popen) -> None:
        self.port, self.log, self.process = port, log, process

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, what: str, condition, seconds: float = 240.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                pytest.fail(f"{what} did not happen: {self.text[-2000:]}")
            time.sleep(0.5)

    def serves(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def train(method: str, data: Path, folder: Path, options: tuple[str, ...], parser: tuple[str, ...] = ()):
    """ns-train with the viewer on, until the end of the block. Options of the data parser come last."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "ns-train"), method]
    command += ["--data", str(data), "--output-dir", str(folder / "out"), "--vis", "viewer", *options]
    command += ["--viewer.websocket-port", str(port), *parser]
    with open(folder / "train.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=dict(os.environ))
        try:
            run = Run(port, folder / "train.log", process)
            run.wait_for("the start of the viewer", run.serves)
            yield run
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture
def browser(tmp_path) -> Iterator:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = BROWSER
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(switch)
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield browser
    browser.quit()


def screenshot(browser) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")).astype(int)


def keep_screenshot(browser, name: str = "") -> None:
    if os.environ.get("FIELDSUITE_SCREENSHOT"):
        file = Path(os.environ["FIELDSUITE_SCREENSHOT"])
        browser.save_screenshot(str(file.with_stem(f"{file.stem}-{name}") if name else file))


def num_colors(picture: np.ndarray) -> int:
    """Colours in the part of the page that the scene fills; an unrendered one is a plain colour with the cameras."""
    return len(np.unique(picture[100:500, 50:550].reshape(-1, 3), axis=0))


METHODS = {
    "mip-nerf-small": ("blender", "normals", ("--num-coarse-samples", "16", "--num-importance-samples", "16")),
    "mip-nerf-360-small": ("landscape", "normals", ("--num-proposal-samples", "16", "12", "--num-nerf-samples", "8")),
    "depth-hash-small": ("nerfstudio", "depth_error", ("--num-proposal-samples", "16", "--num-nerf-samples", "8")),
}
"""Scene that each method trains on, an output to switch to, and options of its model that make it quick."""


@pytest.mark.parametrize("method", METHODS)
def test_browser_shows_the_render_and_the_step_counter(method, browser, tmp_path):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.keys import Keys

    scene, output, options = METHODS[method]
    layout = "blender" if scene == "blender" else "nerfstudio"
    write_sample_scene(
        SampleSceneConfig(
            tmp_path / "scene", layouts=(layout,), num_train=12, resolution=32, unbounded=scene == "landscape"
        )
    )
    options = tuple(option.replace("--", "--pipeline.model.") for option in ("--hidden-dim", "32", *options))
    with train(method, tmp_path / "scene" / layout, tmp_path, ("--max-num-iterations", "100000", *options)) as run:
        browser.get(f"http://127.0.0.1:{run.port}")
        steps, picture = set(), None
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            # Small pictures, as a user on a CPU would choose: the viewer redraws, and counts, when a picture is done.
            with suppress(StaleElementReferenceException):  # the page draws its panel anew now and then
                for field in browser.find_elements("css selector", "input"):
                    if field.is_displayed() and field.get_attribute("value") == "512":
                        field.send_keys(Keys.CONTROL, "a")
                        field.send_keys("64", Keys.ENTER)
            text = browser.find_element("tag name", "body").text
            steps |= {line for line in text.splitlines() if line.lower().startswith("step")}
            picture = screenshot(browser)
            if len(steps) >= 2 and num_colors(picture) > 500:
                break
            time.sleep(1.0)
        keep_screenshot(browser)
        assert browser.title == "Viser"
        assert len(steps) >= 2, f"the step counter stands still: {steps}"
        assert picture is not None and num_colors(picture) > 500
        choose(browser, "Output type", output)
        while time.monotonic() < deadline and difference(screenshot(browser), picture) < 0.05:
            time.sleep(1.0)
        keep_screenshot(browser, f"{method}-{output}")
        assert difference(screenshot(browser), picture) >= 0.05, f"{output} looks like rgb"


def control(browser, label: str):
    """The input of one of the viewer's controls."""
    labels = browser.find_elements("xpath", f"//label[normalize-space()='{label}']")
    assert labels, f"no control is called {label!r}"
    return browser.find_element("id", labels[0].get_attribute("for"))


def click(browser, element) -> None:
    """Click, wherever the panel is scrolled to."""
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def choose(browser, label: str, option: str) -> None:
    """Choose an option of a dropdown."""
    from selenium.common.exceptions import StaleElementReferenceException

    click(browser, control(browser, label))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with suppress(StaleElementReferenceException):
            for entry in browser.find_elements("css selector", "[role=option]"):
                if entry.is_displayed() and entry.text == option:
                    entry.click()
                    return
        time.sleep(0.2)
    pytest.fail(f"{label!r} has no option {option!r}")


def scroll(browser, clicks: int) -> None:
    """Turn the mouse wheel over the picture; below 0 towards it."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    origin = ScrollOrigin.from_viewport(290, 250)
    for _ in range(abs(clicks)):
        ActionChains(browser).scroll_from_origin(origin, 0, 120 * int(np.sign(clicks))).perform()


def settled(browser, until=lambda picture: True, seconds: float = 180.0) -> np.ndarray:
    """The scene when it has stopped changing: coarse previews come first, and a browser without a GPU draws late.

    Args:
        until: what is to hold of it; until then it is waited for.
    """
    seen: list[np.ndarray] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen = [*seen[-3:], screenshot(browser)]
        if len(seen) == 4 and all(difference(picture, seen[-1]) < 0.002 for picture in seen) and until(seen[-1]):
            return seen[-1]
        time.sleep(0.7)
    keep_screenshot(browser, "unsettled")
    pytest.fail("the picture does not become what it should")


def unlike(picture: np.ndarray, share: float = 0.01):
    return lambda other: difference(other, picture) > share


def like(picture: np.ndarray, share: float = 0.04):
    """But for what a browser without a GPU makes coarser with time."""
    return lambda other: difference(other, picture) < share


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Share of the scene's pixels that have clearly changed."""
    scene = slice(60, 440), slice(60, 520)
    return float((np.abs(first[scene] - second[scene]).max(axis=-1) > 24).mean())


def miner_data(method: str, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Data for a MINER method and the options of its data parser."""
    if method == "miner-image":
        Image.fromarray(skimage.data.astronaut()).resize((256, 256), Image.Resampling.BOX).save(folder / "photo.png")
        return folder / "photo.png", ()
    trimesh.creation.icosphere(subdivisions=3, radius=0.7).export(folder / "ball.obj")
    return folder / "ball.obj", ("miner-occupancy-data", "--resolution", "32")


@pytest.mark.parametrize("method", ["miner-image", "miner-occupancy"])
def test_browser_shows_a_miner_fit_after_its_end_and_its_controls_work(method, browser, tmp_path):
    """Training ends by itself. The viewer then shows its result, without being touched, and goes on serving."""
    data, parser = miner_data(method, tmp_path)
    options = ("--pipeline.model.fit.num-levels", "3", "--viewer.quit-on-train-completion", "False")
    with train(method, data, tmp_path, options, parser) as run:
        browser.get(f"http://127.0.0.1:{run.port}")
        run.wait_for("the end of training", lambda: "Training Finished" in run.text)
        plain = settled(browser, lambda picture: num_colors(picture) > 60)
        keep_screenshot(browser, method)
        # All of it is in view: the picture's border shows the white background, its middle does not.
        assert (plain[60:440, [70, 540]] > 240).all() and (plain[200:300, 250:330] < 240).any(axis=-1).mean() > 0.5

        choose(browser, "Output type", "normals")
        normals = settled(browser, unlike(plain, 0.1))
        choose(browser, "Output type", "rgb")
        plain = settled(browser, unlike(normals, 0.1))
        click(browser, control(browser, "Show blocks"))
        framed = settled(browser, unlike(plain, 0.003))  # on a ball, frames are thin lines
        keep_screenshot(browser, f"{method}-blocks")
        click(browser, control(browser, "Show blocks"))
        plain = settled(browser, unlike(framed, 0.003))
        choose(browser, "Level of detail", "2")
        coarse = settled(browser, unlike(plain))
        keep_screenshot(browser, f"{method}-coarse")
        choose(browser, "Level of detail", "auto")
        plain = settled(browser, like(plain, 0.5 * difference(coarse, plain)))

        scroll(browser, -20)
        near = settled(browser, unlike(plain, 0.1))
        keep_screenshot(browser, f"{method}-near")
        assert num_colors(near) > 20
        click(browser, browser.find_element("xpath", "//button[normalize-space()='Show all']"))
        settled(browser, like(plain))
        browser.refresh()  # a browser that comes later sees the same
        settled(browser, like(plain))
        assert run.process.poll() is None
