"""The web viewer in a real browser: a run that serves it, a page that shows it, and pictures of the page to compare.

Needs Chromium and its driver on PATH (Debian: chromium, chromium-driver) and selenium (extra `browser`).
FIELDSUITE_SCREENSHOT=FOLDER keeps pictures of the pages there, in four times the resolution.

The page draws on the CPU here, and would make itself coarser the slower that is, down to an eighth of its resolution:
the same view would look different from one minute to the next. It is kept from that, and drawn in a small window at a
quarter of the resolution instead; and a few times a second only, where it would take a core for itself to draw the same
again and again. Where frames are to be counted (`every_frame`) it draws as often as it can, at full resolution.

At the end of a run that was viewed, its log holds no traceback, the page's console no error but nerfstudio's own, and
the server has answered this machine only.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("selenium", reason="needs selenium (extra browser)")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver on PATH")

KEEP = os.environ.get("FIELDSUITE_SCREENSHOT")
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
    "--window-size=720,520",
)
FRAME_CLOCK = """
const now = performance.now.bind(performance), drawn = window.requestAnimationFrame.bind(window);
let waiting = new Map(), handles = 0, time = null;
window.frames_drawn = 0;
performance.now = () => time ?? now();
function drawFrame() {
  const due = waiting;
  waiting = new Map();
  time = window.frames_drawn++ * 1000 / 60;
  for (const draw of due.values()) try { draw(time); } catch (error) { reportError(error); }
  time = null;
}
window.requestAnimationFrame = (draw) => {
  if (waiting.size === 0) SCHEDULE;
  waiting.set(++handles, draw);
  return handles;
};
window.cancelAnimationFrame = (handle) => waiting.delete(handle);
"""
"""While the page draws, its clock goes on by a sixtieth of a second a frame: it finds that it is fast enough, and keeps
its resolution. Frames are counted."""
DRAW_SELDOM = FRAME_CLOCK.replace("SCHEDULE", "setTimeout(drawFrame, 250)")
"""The page draws as often as it is allowed to, whether something has changed or not."""
DRAW_OFTEN = FRAME_CLOCK.replace("SCHEDULE", "drawn(drawFrame)")
"""As often as it can."""
HOST_ERRORS = (
    "www.googletagmanager.com",
    "docs.nerf.studio/_static/imgs/logo",
    "Computed radius is NaN",
)
"""What the console says of nerfstudio's own page: of an analytics script and a logo, without a network, and of a shape
without points."""
OTHER_ADDRESS = "127.0.0.2"
"""Of this machine; a server that listens to all addresses answers it, one that listens to 127.0.0.1 does not."""
SCENE = (20, 60, 380, 320)
"""The part of the page that shows the scene and neither panel nor axes: left, top, right, bottom, in CSS pixels."""
CELL = 20
"""CSS pixels that are averaged, along each side."""

Picture = Float[NDArray, "13 18 3"]
"""Averages over cells of the scene, in [0, 255]."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Run:
    """A command that serves the viewer."""

    def __init__(self, port: int, log: Path, process: subprocess.Popen) -> None:
        self.port, self.log, self.process = port, log, process

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, what: str, condition: Callable[[], bool], seconds: float = 180.0) -> None:
        """Wait until `condition` holds; fail with the end of the log if it does not, or if the command ends."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                pytest.fail(f"{what} did not happen: {self.text[-2000:]}")
            time.sleep(0.2)

    def serves(self, address: str = "127.0.0.1") -> bool:
        """Whether the viewer answers an address of this machine."""
        with socket.socket() as probe:
            return probe.connect_ex((address, self.port)) == 0

    def check(self) -> None:
        """It goes on, its log tells of no failure, and nobody else is answered."""
        assert self.process.poll() is None, self.text[-2000:]
        assert "Traceback" not in self.text, self.text[self.text.index("Traceback") :]
        assert self.serves() and not self.serves(OTHER_ADDRESS)


@contextmanager
def viewed_run(
    method: str,
    data: Path,
    folder: Path,
    options: tuple[str, ...] = (),
    parser: tuple[str, ...] = (),
    every_frame: bool = False,
) -> Iterator[tuple[Run, Page]]:
    """ns-train with the viewer on, and a browser that shows it, until the end of the block.

    Args:
        method, data: what is trained on what.
        folder: for the run and the browser's files.
        options: of ns-train.
        parser: name and options of the data parser; they come last.
        every_frame: whether the page draws as often as it can, at full resolution.
    """
    port = free_port()
    command = [str(Path(sys.executable).parent / "ns-train"), method]
    command += ["--data", str(data), "--output-dir", str(folder / "out"), "--vis", "viewer", *options]
    # Losing nothing costs no more than JPEG at this size, and equal pictures then are equal.
    command += ["--viewer.websocket-port", str(port), "--viewer.image-format", "png", *parser]
    # One thread each: with more, training and rendering wait for each other.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(folder / "train.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=environment)
        try:
            run = Run(port, folder / "train.log", process)
            with opened_browser(folder / "profile", every_frame) as browser:  # starts while the command does
                run.wait_for("the start of the viewer", run.serves)
                browser.get(f"http://127.0.0.1:{port}")
                page = Page(browser, run)
                yield run, page
                page.check_console()
                run.check()
        finally:
            process.terminate()
            process.wait(timeout=30)


@contextmanager
def opened_browser(profile: Path, every_frame: bool = False) -> Iterator[Any]:
    """A browser without a window, until the end of the block.

    Args:
        profile: folder for its files.
        every_frame: whether pages draw as often as they can, at full resolution.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(BROWSER)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    scale = f"--force-device-scale-factor={1.0 if KEEP or every_frame else 0.25}"
    for switch in (*SWITCHES, scale, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    script = DRAW_OFTEN if every_frame else DRAW_SELDOM
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        yield browser
    finally:
        browser.quit()


class Page:
    """The viewer's page: its picture of the scene and the controls of its panel."""

    def __init__(self, browser: Any, run: Run) -> None:
        self.browser, self.run = browser, run

    # --- looking

    def picture(self) -> Picture:
        """What the scene looks like now."""
        size = ((SCENE[2] - SCENE[0]) // CELL, (SCENE[3] - SCENE[1]) // CELL)
        return np.asarray(self._cut_out().resize(size, Image.Resampling.BOX)).astype(np.float64)

    def scene(self) -> Float[NDArray, "h w 3"]:
        """The scene as it is now, pixel by pixel, in [0, 255]."""
        return np.asarray(self._cut_out()).astype(np.float64)

    def _cut_out(self) -> Image.Image:
        page = Image.open(io.BytesIO(self.png())).convert("RGB")
        scale = page.width / self.browser.execute_script("return window.innerWidth")
        left, top, right, bottom = (round(scale * edge) for edge in SCENE)
        return page.crop((left, top, right, bottom))

    def png(self) -> bytes:
        """The whole page, as a file. A browser that draws something large does not answer for a while."""
        from selenium.common.exceptions import TimeoutException

        for _ in range(10):
            with suppress(TimeoutException):
                return self.browser.get_screenshot_as_png()
        pytest.fail("the browser does not answer")

    def frames(self) -> int:
        """How often the page has been drawn, if it counts."""
        return self.browser.execute_script("return window.frames_drawn")

    def keep(self, name: str) -> None:
        """Keep a picture of the whole page, if that is asked for."""
        if KEEP:
            Path(KEEP).mkdir(parents=True, exist_ok=True)
            (Path(KEEP) / f"{name}.png").write_bytes(self.png())

    def wait_for(self, until: Callable[[Picture], bool], what: str, seconds: float = 120.0) -> Picture:
        """The picture when `until` holds of it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.run.process.poll() is None:
            picture = self.picture()
            if until(picture):
                return picture
            time.sleep(0.4)
        self.keep("failed")
        pytest.fail(f"{what} is not seen within {seconds:g} s; log: {self.run.text[-1000:]}")

    def settled(self, until: Callable[[Picture], bool], what: str, seconds: float = 120.0) -> Picture:
        """The picture when `until` holds of it, it is rendered at the resolution that the viewer keeps at rest, and it
        has been the same three times running: the page shows a render somewhat later than its size."""
        seen: list[Picture] = []

        def holds(picture: Picture) -> bool:
            if seen and difference(seen[-1], picture) > 1.0:
                seen.clear()
            seen.append(picture)
            if not (self.at_rest() and until(picture)):
                seen.clear()
            return len(seen) >= 3

        return self.wait_for(holds, what, seconds)

    def at_rest(self) -> bool:
        """Whether the last render was as large as the panel allows, not a preview."""
        size = self.stat("Resolution").removesuffix("px").split("x")
        return all(side.isdecimal() for side in size) and max(int(side) for side in size) >= int(
            self.number_box("Max res").get_attribute("value")
        )

    def check_console(self) -> None:
        """The page has told of no error but nerfstudio's own."""
        entries = [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]
        ours = [entry for entry in entries if not any(own in entry for own in HOST_ERRORS)]
        assert not ours, "\n".join(ours)

    def step(self) -> int | None:
        """The step counter."""
        shown = self.stat("Step")
        return int(shown) if shown else None

    def stat(self, name: str) -> str:
        """What the panel says about the render; empty if nothing yet."""
        text = self.browser.execute_script("return document.body.innerText")
        found = [line for line in text.splitlines() if line.strip().startswith(f"{name}: ")]
        return found[0].split(": ")[1].strip() if found else ""

    # --- doing

    def control(self, label: str) -> Any:
        """The input of one of the panel's controls."""
        labels = self.browser.find_elements("xpath", f"//label[normalize-space()='{label}']")
        assert labels, f"no control is called {label!r}"
        return self.browser.find_element("id", labels[0].get_attribute("for"))

    def number_box(self, slider: str) -> Any:
        """The box beside a slider that shows its number."""
        return self.control(slider).find_element("xpath", "../..//input[@type='text']")

    def click(self, element: Any) -> None:
        """Click, wherever the panel is scrolled to."""
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def press(self, button: str) -> None:
        """Press a button by its text."""
        self.click(self.browser.find_element("xpath", f"//button[normalize-space()='{button}']"))

    def choose(self, label: str, option: str) -> None:
        """Choose an option of a dropdown."""
        from selenium.common.exceptions import StaleElementReferenceException

        self.click(self.control(label))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for entry in self.browser.find_elements("css selector", "[role=option]"):
                # Long lists scroll, and what is out of view has no visible text; another list's entries are hidden.
                with suppress(StaleElementReferenceException):
                    shown = self.browser.execute_script("return arguments[0].getClientRects().length > 0", entry)
                    if shown and entry.get_attribute("textContent").strip() == option:
                        self.browser.execute_script("arguments[0].click()", entry)
                        return
            time.sleep(0.2)
        pytest.fail(f"{label!r} has no option {option!r}")

    def enter(self, label: str, number: float) -> None:
        """Type a number into the box beside a slider."""
        from selenium.webdriver.common.keys import Keys

        box = self.number_box(label)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
        box.send_keys(Keys.CONTROL, "a")
        # At once: each key by itself would be a number.
        self.browser.execute_cdp_cmd("Input.insertText", {"text": f"{number:g}"})
        box.send_keys(Keys.ENTER)

    def limit(self, resolution: int) -> None:
        """Choose the resolution of renders, as soon as the panel is there."""
        from selenium.common.exceptions import StaleElementReferenceException, WebDriverException

        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            # The page draws its panel anew as its parts arrive.
            with suppress(AssertionError, StaleElementReferenceException, WebDriverException):
                if self.number_box("Max res").get_attribute("value") == str(resolution):
                    return
                self.enter("Max res", resolution)
            time.sleep(0.2)
        pytest.fail("the panel is not shown")

    def mouse(self, kind: str, place: tuple[float, float]) -> None:
        """Press (mousePressed), move (mouseMoved) or release (mouseReleased) the left button, in CSS pixels."""
        event = {"type": kind, "x": place[0], "y": place[1], "button": "left", "buttons": 1, "clickCount": 1}
        self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def scroll(self, clicks: int) -> None:
        """Turn the mouse wheel over the scene; below 0 towards it."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

        origin = ScrollOrigin.from_viewport(200, 210)
        actions = ActionChains(self.browser)
        for _ in range(abs(clicks)):
            actions.scroll_from_origin(origin, 0, 120 * int(np.sign(clicks)))
        actions.perform()


def difference(first: Picture, second: Picture) -> float:
    """Mean difference of two pictures, in 255ths."""
    return float(np.abs(first - second).mean())


def unlike(picture: Picture, amount: float) -> Callable[[Picture], bool]:
    return lambda other: difference(other, picture) > amount


def like(picture: Picture, amount: float) -> Callable[[Picture], bool]:
    return lambda other: difference(other, picture) < amount


def varied(picture: Picture) -> bool:
    """Whether it shows something, not one color."""
    return float(picture.std(axis=(0, 1)).max()) > 8.0
