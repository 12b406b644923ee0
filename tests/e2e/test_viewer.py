"""The web viewer shows the model's render while it trains, in a real browser.

Needs Chromium and its driver on PATH (Debian: chromium, chromium-driver) and selenium (extra `browser`).
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
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


METHODS = {
    "mip-nerf-small": ("blender", ("--num-coarse-samples", "16", "--num-importance-samples", "16")),
    "mip-nerf-360-small": ("nerfstudio", ("--num-proposal-samples", "16", "12", "--num-nerf-samples", "8")),
}
"""Layout of the scene that each method trains on, and options of its model that make it quick."""


@pytest.fixture(params=METHODS)
def training(request, tmp_path):
    """A run that trains with the viewer on; gives its port."""
    layout, options = METHODS[request.param]
    write_sample_scene(
        SampleSceneConfig(
            tmp_path / "scene", layouts=(layout,), num_train=12, resolution=32, unbounded=layout == "nerfstudio"
        )
    )
    port = free_port()
    command = [str(Path(sys.executable).parent / "ns-train"), request.param]
    command += ["--data", str(tmp_path / "scene" / layout), "--output-dir", str(tmp_path / "out")]
    command += ["--max-num-iterations", "100000", "--vis", "viewer", "--pipeline.model.hidden-dim", "32"]
    command += [option.replace("--", "--pipeline.model.") for option in options]
    command += ["--viewer.websocket-port", str(port), "--viewer.websocket-host", "127.0.0.1"]
    with open(tmp_path / "train.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path, env=dict(os.environ))
        yield port, tmp_path / "train.log"
        process.terminate()
        process.wait(timeout=30)


def test_browser_shows_the_render_and_the_step_counter(training, tmp_path):
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.keys import Keys

    port, log = training
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.5)
    else:
        pytest.fail(f"the viewer did not start: {log.read_text()[-2000:]}")

    options = Options()
    options.binary_location = BROWSER
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(switch)
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        browser.get(f"http://127.0.0.1:{port}")
        steps, picture = set(), None
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            # Small pictures, as a user on a CPU would choose: the viewer redraws, and counts, when a picture is done.
            for field in browser.find_elements("css selector", "input"):
                if field.is_displayed() and field.get_attribute("value") == "512":
                    field.send_keys(Keys.CONTROL, "a")
                    field.send_keys("64", Keys.ENTER)
            text = browser.find_element("tag name", "body").text
            steps |= {line for line in text.splitlines() if line.lower().startswith("step")}
            picture = np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB"))
            # The scene fills the left part; an unrendered one is a plain colour with the camera frusta on it.
            if len(steps) >= 2 and len(np.unique(picture[100:500, 50:550].reshape(-1, 3), axis=0)) > 500:
                break
            time.sleep(1.0)
        if os.environ.get("FIELDSUITE_SCREENSHOT"):
            browser.save_screenshot(os.environ["FIELDSUITE_SCREENSHOT"])
        assert browser.title == "Viser"
        assert len(steps) >= 2, f"the step counter stands still: {steps}"
        assert picture is not None and len(np.unique(picture[100:500, 50:550].reshape(-1, 3), axis=0)) > 500
    finally:
        browser.quit()
