"""The viewer while a method trains: previews per second, the longest pause, what is left of training; MINER's zoom.

    python -m benchmarks.viewer previews                    # a method of each family, about two minutes each
    python -m benchmarks.viewer previews --names mip-nerf-small miner-image
    python -m benchmarks.viewer zoom                        # an image of 2048², zoomed up to a hundred times
    python -m benchmarks.viewer zoom --data IMAGE

`ns-train` runs with default options on the sample scene, in a process of its own. The client is a light one
(`benchmarks.viewer_client`): a browser that draws WebGL without a GPU would take both cores for itself. It drags the
camera, with the real-time preview switched off, then holds still until the picture in full resolution has come, and
then goes. Results are written to benchmarks/results/viewer.json, the tables to viewer.md.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from PIL import Image

from benchmarks.photograph import PHOTO_SIDE, photograph
from benchmarks.report import RESULTS, save_section, write_sections
from benchmarks.viewer_client import Client, Picture
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene

SCENES = {
    "mip-nerf-small": "bounded/blender",
    "mip-nerf-360-small": "unbounded/nerfstudio",
    "depth-hash-small": "bounded/nerfstudio",
    "miner-image": "photo.png",
    "miner-occupancy": "bounded/mesh.ply",
    "hash-neus-small": "bounded/idr",
}
"""What each method is trained on, in the folder of scenes."""


@dataclass
class Benchmark:
    """Measure the viewer."""

    section: tyro.conf.Positional[Literal["previews", "zoom", "table"]]
    """previews: of a method of each family while it trains; zoom: of a fitted image; table: write the tables anew from
    the JSON."""
    names: tuple[str, ...] = tuple(SCENES)
    """Methods, for previews."""
    seconds: float = 30.0
    """How long the camera is dragged."""
    moves_per_second: float = 10.0
    """How often the page tells meanwhile where it is."""
    patience: float = 240.0
    """Seconds to wait for the picture in full resolution."""
    threads: int = os.cpu_count() or 1
    """CPU threads of the training."""
    data: Path | None = None
    """Image for the zoom; None: a photograph that a dependency ships, side by side with itself."""

    def main(self) -> None:
        """Run, save and tabulate."""
        if self.section == "previews":
            with tempfile.TemporaryDirectory() as folder:
                self.previews(Path(folder))
        elif self.section == "zoom":
            from benchmarks.viewer_zoom import zoom_rows

            settings, rows = zoom_rows(self.data, self.threads)
            save_section("viewer", "zoom", {"settings": settings, "rows": rows})
        write_sections("viewer", "The viewer")

    def previews(self, folder: Path) -> None:
        """Measure the methods one after another; each row is saved when it is there, beside those of other methods."""
        write_scenes(folder, {SCENES[name] for name in self.names})
        for name in self.names:
            row = self.row(name, folder)
            print(row, flush=True)
            file = RESULTS / "viewer.json"
            earlier = json.loads(file.read_text()).get("previews", {"rows": []}) if file.exists() else {"rows": []}
            rows = {each["method"]: each for each in (*earlier["rows"], row)}
            settings = {
                "seconds of dragging": f"{self.seconds:g}",
                "camera messages per second": f"{self.moves_per_second:g}",
                "threads": self.threads,
            }
            content = {"settings": settings, "rows": [rows[each] for each in SCENES if each in rows]}
            save_section("viewer", "previews", content)

    def row(self, name: str, folder: Path) -> dict[str, Any]:
        """Train with one client, who drags, holds still and goes."""
        with training(name, folder / SCENES[name], folder / "out", self.threads) as run:
            with Client(run.port) as client:
                first = client.wait(lambda picture: True, self.patience)
                client.switch_preview_off()
                before, cpu = run.step, run.cpu_seconds()
                start = time.perf_counter()
                pictures = client.drag(self.seconds, self.moves_per_second)
                steps, cpu = run.step - before, run.cpu_seconds() - cpu
                times = [start, *(picture.seconds for picture in pictures), time.perf_counter()]
                preview = client.wait(lambda picture: True, self.patience)
                full = None if preview is None else client.wait(client.is_full, self.patience)
            alone = run.undisturbed_rate(self.seconds)
        return {
            "method": name,
            "first picture, s": round(first, 1) if first is not None else "none",
            "pictures/s": len(pictures) / self.seconds,
            "resolution": middle_size(pictures),
            "longest pause, s": float(np.diff(times).max()),
            "training meanwhile": "ended" if alone is None else f"{100 * steps / self.seconds / alone:.0f} %",
            "cores used": cpu / self.seconds,
            "at rest": f"{client.largest} px",
            "seconds until then": "none" if full is None else round(full + (preview or 0.0), 1),
        }


def middle_size(pictures: list[Picture]) -> str:
    """The resolution in the middle of all."""
    if not pictures:
        return "none"
    height = statistics.median_low([picture.height for picture in pictures])
    return next(f"{picture.width}×{picture.height}" for picture in pictures if picture.height == height)


def write_scenes(folder: Path, scenes: set[str]) -> None:
    """What methods are trained on, as `SCENES` names it.

    Args:
        folder: to write to.
        scenes: those that are needed.
    """
    views = SampleSceneConfig(folder / "bounded", num_train=30, num_val=2, num_test=2, resolution=100)
    if any(scene.startswith("bounded") for scene in scenes):
        write_sample_scene(views)
    if any(scene.startswith("unbounded") for scene in scenes):
        unbounded = folder / "unbounded"
        write_sample_scene(replace(views, output_dir=unbounded, layouts=("nerfstudio",), unbounded=True, supersample=4))
    Image.fromarray(photograph(PHOTO_SIDE)).save(folder / "photo.png")


class Training:
    """A running ns-train.

    Args:
        port: of its viewer.
        log: what it prints.
        process: it.
    """

    def __init__(self, port: int, log: Path, process: subprocess.Popen) -> None:
        self.port, self.log, self.process = port, log, process

    @property
    def step(self) -> int:
        """The last step that it has told of; −1 before the first."""
        found = re.findall(r"(\d+) \(\d+\.\d+%\)", self.log.read_text(errors="replace"))
        return int(found[-1]) if found else -1

    def cpu_seconds(self) -> float:
        """CPU time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ended(self) -> bool:
        """Whether training has ended."""
        return "Training Finished" in self.log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for something; the log's end is the error if it does not happen."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"ns-train does not go on:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)

    def undisturbed_rate(self, seconds: float) -> float | None:
        """Steps per second while nobody looks; None if training ends meanwhile."""
        step, start = self.step, time.perf_counter()
        while time.perf_counter() < start + seconds:
            if self.ended():
                return None
            time.sleep(0.2)
        return (self.step - step) / (time.perf_counter() - start) or None


@contextmanager
def training(method: str, data: Path, output: Path, threads: int) -> Iterator[Training]:
    """ns-train with default options and a viewer, from its first steps on, until the end of the block.

    Args:
        method, data: what is trained on what.
        output: folder for the run and its log.
        threads: CPU threads.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    output.mkdir(exist_ok=True)
    command = [str(Path(sys.executable).parent / "ns-train"), method, "--data", str(data), "--vis", "viewer"]
    command += ["--output-dir", str(output), "--viewer.websocket-port", str(port), "--logging.steps-per-log", "1"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads)}
    log = output / f"{method}.log"
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=output, env=environment)
        try:
            run = Training(port, log, process)
            run.wait_for(lambda: run.step >= 3, 300.0)
            yield run
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


if __name__ == "__main__":
    tyro.cli(Benchmark, description=__doc__).main()
