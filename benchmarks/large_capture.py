"""What a large capture costs before and while it is trained on: memory, time to the first step, drawing speed.

    python -m benchmarks.large_capture                 # 1,152 full-HD images, pixels in memory
    python -m benchmarks.large_capture --on-disk       # pixels in a temporary file

The capture is made up: photo-like JPEG images and cameras on a ring, in a temporary folder that is removed afterwards.
It is trained on for a few steps by ns-train in a process of its own, whose memory is watched; then the datamanager is
built again here to measure how fast it draws. Each kind is written to benchmarks/results/large_capture.json, and the
table to benchmarks/results/large_capture.md.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import tyro
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image, ImageChops
from rich.progress import track

from benchmarks.report import RESULTS, conditions, save_section, table
from common_ns.checks import InputError, report_input_errors
from common_ns.sample_scene import look_at

GB = 1e9
NEVER = "1000000000"
"""Steps between things that should not happen."""


@dataclass
class LargeCapture:
    """Train for a few steps on a made-up capture of many images, and measure what that takes."""

    num_images: int = 1152
    """Images, all of which are trained on."""
    width: int = 1920
    """Width of the images in pixels."""
    height: int = 1080
    """Height of the images in pixels."""
    steps: int = 20
    """Training steps."""
    rays: int = 256
    """Rays per training step."""
    on_disk: bool = False
    """Keep the pixels in a temporary file instead of in memory."""
    method: str = "mip-nerf-360-small"
    """Method to train."""
    threads: int = 2
    """CPU threads."""
    folder: Path | None = None
    """Where to make the temporary folder; the system's default if not given."""
    save: bool = True
    """Write the figures to benchmarks/results."""

    def main(self) -> None:
        torch.set_num_threads(self.threads)
        load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else "unknown"
        with TemporaryDirectory(dir=self.folder, prefix="large-capture-") as name:
            data = Path(name) / "capture"
            start = time.perf_counter()
            jpeg_bytes = write_capture(data, self.num_images, self.width, self.height, self.threads)
            print(f"Made {jpeg_bytes / GB:.2f} GB of images in {time.perf_counter() - start:.0f} s.", flush=True)
            row: dict[str, Any] = {"pixels": "on disk" if self.on_disk else "in memory", "JPEG GB": jpeg_bytes / GB}
            row.update(self.train(data, Path(name) / "outputs"))
            print(row, flush=True)
            row.update(self.draw(data))
        print(row, flush=True)
        if self.save:
            size = f"{self.width}×{self.height}"
            settings = {"images": self.num_images, "size": size, "method": self.method, "rays": self.rays}
            settings = {**settings, "steps": self.steps, "threads": self.threads, "machine's load before": load}
            content = {"settings": settings, "rows": [row]}
            save_section("large_capture", str(row["pixels"]), content)
            write_table()

    def train(self, data: Path, outputs: Path) -> dict[str, Any]:
        """Run ns-train and watch it.

        Returns: peak memory in GB, and the seconds from the start of the process to the end of the first step.
        """
        command = [str(Path(sys.executable).with_name("ns-train")), self.method, "--data", str(data)]
        command += ["--output-dir", str(outputs), "--vis", "tensorboard", "--viewer.quit-on-train-completion", "True"]
        command += ["--max-num-iterations", str(self.steps), "--steps-per-save", NEVER]
        for kind in ("batch", "image", "all-images"):
            command += [f"--steps-per-eval-{kind}", NEVER]
        command += ["--logging.steps-per-log", "1", "--logging.local-writer.max-log-size", "0"]
        command += ["--pipeline.datamanager.train-num-rays-per-batch", str(self.rays)]
        if self.on_disk:
            command += ["--pipeline.datamanager.pixels-on-disk", "True"]
        command += ["nerfstudio-data", "--eval-mode", "all", "--downscale-factor", "1"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"}

        start = time.perf_counter()
        first_step = None
        last_lines: deque[str] = deque(maxlen=30)
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
        )
        watch = MemoryWatch(process.pid)
        watch.start()
        assert process.stdout is not None
        for line in process.stdout:
            last_lines.append(line)
            if first_step is None and re.match(r"\s*0 \(0\.00%\)", line):
                first_step = time.perf_counter() - start
        code = process.wait()
        watch.join()
        if code != 0 or first_step is None:
            sys.stderr.writelines(last_lines)
            raise InputError(f"ns-train {self.method} ended with code {code}", "See its output above")
        return {
            "peak GB": max(peak_of_children(), watch.resident) / GB,
            "private GB": watch.private / GB,
            "seconds to first step": round(first_step, 1),
        }

    def draw(self, data: Path) -> dict[str, Any]:
        """Build the method's datamanager and draw from it.

        Returns: bytes of the store in GB, pixels and rays per second, and how evenly images are drawn.
        """
        config = copy.deepcopy(all_methods[self.method].pipeline.datamanager)
        config.dataparser = NerfstudioDataParserConfig(data=data, eval_mode="all", downscale_factor=1)
        config.data = data
        config.train_num_rays_per_batch = 4096
        if self.on_disk:
            config.pixels_on_disk = True
        start = time.perf_counter()
        datamanager = config.setup(device="cpu", test_mode="val").train()
        seconds = time.perf_counter() - start
        store = datamanager.train_pixel_sampler.store
        # Drawing is too little work to share, and threads that wait for each other on a busy machine blur the figures.
        torch.set_num_threads(1)

        drawn = torch.zeros(self.num_images, dtype=torch.long)
        for _ in range(max(1, self.num_images * 10_000 // 2**16)):
            indices = store.sample(2**16)[1]
            drawn += torch.bincount(indices[:, 0], minlength=self.num_images)
        share = drawn.double() / drawn.double().mean()
        return {
            "store GB": store.nbytes / GB,
            "seconds to load": round(seconds, 1),
            "pixels per second": per_second(lambda: store.sample(4096), 4096),
            "rays per second": per_second(lambda: datamanager.next_train(0), 4096),
            "images drawn": int((drawn > 0).sum()),
            "rarest to mean": float(share.min()),
            "commonest to mean": float(share.max()),
        }


class MemoryWatch(threading.Thread):
    """Peak memory of a process and its descendants in bytes, read every tenth of a second from /proc.

    Args:
        pid: the process; the thread ends with it. Where there is no /proc, the peaks stay 0.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.resident = 0
        """Highest sum of resident memory. It includes file pages, which the system takes back when it needs them."""
        self.private = 0
        """Highest sum of anonymous memory, which it cannot take back."""

    def run(self) -> None:
        while True:
            statuses = [status for pid in descendants(self.pid) if (status := read_status(pid))]
            if not any("RssAnon" in status for status in statuses):
                return
            self.resident = max(self.resident, sum(status.get("VmRSS", 0) for status in statuses))
            self.private = max(self.private, sum(status.get("RssAnon", 0) for status in statuses))
            time.sleep(0.1)


def read_status(pid: int) -> dict[str, int]:
    """The sizes in bytes that /proc states for a process; empty when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def descendants(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    found = [pid]
    for parent in found:  # grows while it is walked through
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return found


def peak_of_children() -> int:
    """Peak resident bytes of the largest process that this one waited for; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def per_second(draw: Callable[[], Any], count: int) -> int:
    """How many a second, if each call of `draw` gives `count`: in the fastest of ten windows of half a second.

    Whatever else runs on the machine only ever slows it down.
    """
    draw()
    rates = []
    for _ in range(10):
        start, calls = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < 0.5 or calls == 0:
            draw()
            calls += 1
        rates.append(calls * count / elapsed)
    return round(max(rates))


def write_capture(folder: Path, num_images: int, width: int, height: int, threads: int) -> int:
    """Write a capture in nerfstudio's layout: cameras on a ring that look at its center.

    Returns: bytes of all images.
    """
    free = shutil.disk_usage(folder.parent).free
    if 0.5 * num_images * width * height > free:  # JPEG files take about 0.3 bytes a pixel
        raise InputError(f"{free / GB:.1f} GB are free", "Give a --folder with more space, or fewer images", folder)
    (folder / "images").mkdir(parents=True)
    frames = []
    for index in range(num_images):
        angle = 2 * np.pi * index / num_images
        pose = look_at(np.array([np.cos(angle), np.sin(angle), 0.2 * np.sin(5 * angle)]))
        frames.append({"file_path": f"images/{index:05d}.jpg", "transform_matrix": pose.tolist()})
    focal = 0.8 * width
    intrinsics = {"w": width, "h": height, "fl_x": focal, "fl_y": focal, "cx": width / 2, "cy": height / 2}
    (folder / "transforms.json").write_text(json.dumps({"camera_model": "OPENCV", **intrinsics, "frames": frames}))

    grain = np.random.default_rng(0).normal(128.0, 6.0, (height + 64, width + 64, 3)).clip(0, 255).astype(np.uint8)
    noise = Image.fromarray(grain)

    def write(index: int) -> int:
        file = folder / frames[index]["file_path"]
        photo(index, noise, width, height).save(file, quality=90)
        return file.stat().st_size

    with ThreadPoolExecutor(max_workers=threads) as pool:
        sizes = pool.map(write, range(num_images))
        return sum(track(sizes, "Making images", num_images, transient=True))


def photo(seed: int, noise: Image.Image, width: int, height: int) -> Image.Image:
    """An image that JPEG compresses like a photo: smooth colors, texture and sensor noise.

    Args:
        noise: sensor noise about gray 128, 64 pixels larger than the image on both sides.
    """
    rng = np.random.default_rng([1, seed])

    def smooth(cell: int, low: int, high: int) -> Image.Image:
        shape = (max(2, height // cell), max(2, width // cell), 3)
        values = rng.integers(low, high, shape, dtype=np.uint8)
        return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)

    x, y = rng.integers(0, 64, 2)
    image = ImageChops.add(smooth(120, 0, 255), smooth(8, 98, 158), offset=-128)
    return ImageChops.add(image, noise.crop((x, y, x + width, y + height)), offset=-128)


def write_table() -> None:
    """Turn the JSON into Markdown."""
    results = json.loads((RESULTS / "large_capture.json").read_text())
    costs = ["pixels", "JPEG GB", "store GB", "peak GB", "private GB", "seconds to load", "seconds to first step"]
    drawing = ["pixels", "pixels per second", "rays per second", "images drawn", "rarest to mean", "commonest to mean"]
    rows = [row for content in results.values() for row in content["rows"]]
    parts = [
        "# Large captures: measurements",
        "",
        "Made by `python -m benchmarks.large_capture`, 1 GB = 10⁹ bytes.",
        "",
    ]
    parts += [f"- {section}: {conditions(content)}" for section, content in results.items()]
    parts += ["", table(rows, costs), ""]
    parts.append("Peak: all resident memory of `ns-train`, with file pages that the system takes back when it needs ")
    parts[-1] += "them. Private: what it cannot take back. Load: decode all images into the store."
    parts += ["", table(rows, drawing), ""]
    parts.append(
        "Pixels: draw 4,096 at a time from the store, on one thread. Rays: with their origins and directions, "
    )
    parts[-1] += (
        "as a training step does. Rarest, commonest: how often an image was drawn, about 10,000 times on average."
    )
    (RESULTS / "large_capture.md").write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    report_input_errors()
    tyro.cli(LargeCapture).main()
