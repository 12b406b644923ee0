"""Depth losses side by side: held-out views and their depth, for exact and for bad depth, from few views and more.

    python -m benchmarks.depth losses --data DIR    # an RGB-D capture (rgbd-data), at a quarter of its resolution
    python -m benchmarks.depth losses               # the sample scene
    python -m benchmarks.depth host --data DIR      # the same beside nerfstudio's depth-nerfacto, at equal iterations
    python -m benchmarks.depth wrong --data DIR     # depth of a wrong scale or kind, with the check overridden

All train `depth-hash-small` for equal iterations. Depth of training views is made worse on purpose; held-out views are
compared with depth as it is. Each section is written to benchmarks/results/depth.json, the tables to depth.md.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
import tyro
from jaxtyping import Float
from nerfstudio.configs.method_configs import all_methods
from numpy.typing import NDArray
from PIL import Image

from benchmarks.mipnerf import Run, device, without_lpips
from benchmarks.report import RESULTS, save_section, table, write_sections
from common_ns.errors import InputError
from common_ns.metrics import depth_errors, psnr
from common_ns.nerfstudio_seam.last_words import report_input_errors
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene

METHOD = "depth-hash-small"
EVERY = 7
"""Every so many frames one is held out."""
STRIDE = 2
"""Held-out views are compared on every so many rows and columns."""
LOSSES: dict[str, dict[str, Any]] = {
    name: {"depth_loss": name}
    for name in ("none", "rendered-l2", "urf", "ds-nerf", "weight-bounds", "likelihood", "bounds-likelihood")
}
LOSSES["bounds-likelihood, β 0"] = {"depth_loss": "bounds-likelihood", "depth_beta": 0.0}
"""Options of the model for each row."""


@dataclass(frozen=True)
class Condition:
    """What training sees of a capture."""

    views: int
    """Training views."""
    noise: float = 0.0
    """Standard deviation of noise on each depth, in meters."""
    holes: float = 0.0
    """Share of depth that is missing."""
    offset: float = 0.0
    """Standard deviation of an error that is the same all over a frame, in meters."""
    wobble: float = 0.0
    """Standard deviation of a relative error that varies smoothly over a frame and between frames, as the depth of a
    monocular predictor has it after it was aligned."""
    scale: float = 1.0
    """Factor on all depth."""
    as_z: bool = False
    """Declare ray distance as z-depth."""
    mixed: bool = False
    """Give each frame the depth of another one."""


CONDITIONS = {
    "exact, 3 views": Condition(3),
    "exact, 6 views": Condition(6),
    "exact, 10 views": Condition(10),
    "exact, 18 views": Condition(18),
    "noise and holes, 10 views": Condition(10, noise=0.08, holes=0.3),
    "offset, 10 views": Condition(10, offset=0.06),
    "monocular-like, 10 views": Condition(10, wobble=0.04),
}
WRONG = {
    "depth × 1.3, 10 views": Condition(10, scale=1.3),
    "ray distance as z, 10 views": Condition(10, as_z=True),
    "depth of other frames, 10 views": Condition(10, mixed=True),
}


def write_variant(data: Path, folder: Path, condition: Condition, shrink: int, seed: int) -> Path:
    """A copy of a capture at 1/shrink of its resolution, with the depth of training views made worse."""
    transforms = json.loads((data / "transforms.json").read_text())
    unit = transforms.get("depth_unit_scale_factor", 1e-3)
    random = np.random.default_rng(seed)
    for key in ("fl_x", "fl_y", "cx", "cy"):
        transforms[key] /= shrink
    for key in ("w", "h"):
        transforms[key] //= shrink
    width, height = transforms["w"], transforms["h"]
    rows, columns = np.mgrid[:height, :width] + 0.5
    lengths = np.sqrt(
        ((columns - transforms["cx"]) / transforms["fl_x"]) ** 2
        + ((rows - transforms["cy"]) / transforms["fl_y"]) ** 2
        + 1.0
    )
    folder.mkdir(parents=True)
    for split in ("train", "val", "test"):
        transforms.pop(f"{split}_filenames", None)
    frames = sorted(transforms["frames"], key=lambda frame: frame["file_path"])
    files = [data / frame["depth_file_path"] for frame in frames]
    for number, frame in enumerate(frames):
        image = Image.open(data / frame["file_path"])
        image.convert("RGB").resize((width, height), Image.Resampling.BOX).save(folder / f"{number:03d}.png")
        other = condition.mixed and number % EVERY != 0
        depth = read_depth(files[(number + len(files) // 2) % len(files) if other else number]) * unit
        depth = depth[shrink // 2 :: shrink, shrink // 2 :: shrink][:height, :width]
        if number % EVERY != 0:
            depth = spoiled(depth, condition, random)
            depth = depth * (lengths if condition.as_z else 1.0)
        np.save(folder / f"{number:03d}.npy", depth.astype(np.float32))
        frame["file_path"], frame["depth_file_path"] = f"{number:03d}.png", f"{number:03d}.npy"
        for key in ("normal_file_path", "depth_sigma_file_path", "mask_path"):
            frame.pop(key, None)
    transforms["depth_unit_scale_factor"] = 1.0
    transforms.setdefault("depth_kind", "z")
    (folder / "transforms.json").write_text(json.dumps(transforms))
    return folder


def read_depth(file: Path) -> Float[NDArray, "h w"]:
    """The numbers of a depth file."""
    return np.load(file).astype(np.float64) if file.suffix == ".npy" else np.asarray(Image.open(file), dtype=np.float64)


def spoiled(depth: Float[NDArray, "h w"], condition: Condition, random: np.random.Generator) -> Float[NDArray, "h w"]:
    """Depth in meters as a worse sensor would give it; 0 stays 0."""
    there = depth > 0
    depth = depth * condition.scale + condition.noise * random.standard_normal(depth.shape)
    depth = depth + condition.offset * random.standard_normal()
    if condition.wobble > 0:
        coarse = Image.fromarray(random.standard_normal((5, 5)).astype(np.float32))
        smooth = np.asarray(coarse.resize((depth.shape[1], depth.shape[0]), Image.Resampling.BICUBIC), dtype=np.float64)
        depth = depth * np.exp(condition.wobble * smooth)
    keep = there & (random.random(depth.shape) >= condition.holes)
    return np.where(keep, depth.clip(0.01), 0.0)


def our_pipeline(data: Path, views: int, options: dict[str, Any]) -> Any:
    config = copy.deepcopy(all_methods[METHOD].pipeline)
    config.datamanager.data = data
    config.datamanager.depth_check = "off"
    config.datamanager.dataparser = replace(
        config.datamanager.dataparser, num_views=views, eval_mode="interval", eval_interval=EVERY
    )
    config.model = replace(config.model, compute_normals=False, **options)
    return config.setup(device=device(), test_mode="test")


def host_pipeline(data: Path, views: int, rays: int) -> Any:
    """depth-nerfacto as it comes, on the same views, with grids that run without tiny-cuda-nn on a CPU."""
    config = copy.deepcopy(all_methods["depth-nerfacto"].pipeline)
    ours = copy.deepcopy(all_methods[METHOD].pipeline.datamanager.dataparser)
    config.datamanager.data = data
    config.datamanager.dataparser = replace(ours, num_views=views, eval_mode="interval", eval_interval=EVERY)
    config.datamanager.train_num_rays_per_batch = rays
    if device() == "cpu":
        config.model.implementation = "torch"
    with without_lpips():
        return config.setup(device=device(), test_mode="test")


@torch.no_grad()
def test_metrics(pipeline: Any, dataset: Any) -> dict[str, float]:
    """PSNR, and errors of depth in meters, over the held-out views."""
    pipeline.eval()
    model = pipeline.model
    found: dict[str, list[float]] = {}
    per_meter = float(dataset.metadata["scene_units_per_meter"])
    for index in range(len(dataset)):
        batch = dataset[index]
        rays = dataset.cameras[index : index + 1].generate_rays(camera_indices=0, keep_shape=True)
        outputs = model.get_outputs_for_camera_ray_bundle(rays[::STRIDE, ::STRIDE].to(model.device))
        measured = batch["depth_image"][::STRIDE, ::STRIDE] / per_meter
        depth = outputs["depth"].cpu() / per_meter
        values = {"psnr": psnr(outputs["rgb"].cpu().clamp(0, 1), batch["image"][::STRIDE, ::STRIDE, :3])}
        values |= {name.removeprefix("depth_"): value for name, value in depth_errors(depth, measured).items()}
        values["bias"] = float((depth - measured)[measured > 0].mean())
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    pipeline.train()
    result = {name: statistics.mean(values) for name, values in found.items()}
    result["rmse"] = math.sqrt(statistics.mean(value**2 for value in found["rmse"]))
    return result


def train_and_test(
    data: Path, views: int, iterations: int, seed: int, options: dict[str, Any], host: bool = False
) -> dict[str, float]:
    """Metrics of one run."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    method = all_methods["depth-nerfacto" if host else METHOD]
    if host:
        pipeline = host_pipeline(data, views, all_methods[METHOD].pipeline.datamanager.train_num_rays_per_batch)
    else:
        pipeline = our_pipeline(data, views, options)
    run = Run(pipeline, iterations, method.optimizers, time.process_time)
    seconds = run.advance(iterations)
    # nerfstudio's data set knows nothing of the depth of its held-out views.
    dataset = our_pipeline(data, views, {}).datamanager.eval_dataset if host else pipeline.datamanager.eval_dataset
    return {**test_metrics(pipeline, dataset), "cpu seconds": seconds}


def summary(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds, and deviations of PSNR and depth."""
    row: dict[str, Any] = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
    for name in ("psnr", "rmse"):
        row[f"{name} ±"] = statistics.stdev(run[name] for run in runs) if len(runs) > 1 else 0.0
    row["seeds"] = len(runs)
    return row


@dataclass
class Benchmark:
    """Measure depth losses."""

    section: tyro.conf.Positional[Literal["losses", "host", "wrong", "table"]]
    """What to measure; table only writes the table again."""
    data: Path | None = None
    """RGB-D capture with a transforms.json; None: the sample scene."""
    shrink: int = 4
    """Divisor of the capture's resolution."""
    iterations: int = 400
    """Training steps of each run."""
    seeds: int = 3
    """Runs of each row."""
    losses: tuple[str, ...] = tuple(LOSSES)
    """Losses to compare (losses)."""
    conditions: tuple[str, ...] = ()
    """Conditions to compare them under; none: all."""
    processes: int = 2
    """Runs at a time, of one thread each."""

    def main(self) -> None:
        if self.section != "table":
            with TemporaryDirectory() as folder:
                self.folder = Path(folder)
                if self.data is None:
                    self._write_sample_scene()
                {"losses": self.compare, "host": self.host, "wrong": self.wrong}[self.section]()
        write_tables()

    def _write_sample_scene(self) -> None:
        """The sample scene with depth, small enough to be used as it is."""
        options = {"layouts": ("nerfstudio",), "num_train": 42, "num_val": 1, "num_test": 6, "resolution": 120}
        write_sample_scene(SampleSceneConfig(self.folder / "sample", **options))
        self.data, self.shrink = self.folder / "sample" / "nerfstudio", 1

    def _chosen(self, known: dict[str, Condition]) -> dict[str, Condition]:
        for name in self.conditions:
            if name not in known:
                raise InputError(f"there is no condition {name!r}", f"Choose from: {'; '.join(known)}")
        return {name: known[name] for name in self.conditions or known}

    def _measure(self, section: str, conditions: dict[str, Condition], variants: dict[str, dict[str, Any]]) -> None:
        """One row for each condition and variant; saved whenever a condition is through."""
        assert self.data is not None
        name = f"{section} on {self.data.name if self.shrink > 1 else 'the sample scene'}"
        settings = {"iterations": self.iterations, "shrink": self.shrink, "method": METHOD}
        file = RESULTS / "depth.json"
        saved = json.loads(file.read_text()).get(name, {}) if file.exists() else {}
        if saved.get("settings") != settings:
            saved = {}
        rows, seen = saved.get("rows", []), {**saved.get("conditions", {}), **described(conditions)}
        with get_context("spawn").Pool(self.processes) as pool:
            for title, condition in conditions.items():
                jobs = {}
                for seed in range(self.seeds):
                    data = self.folder / f"{title} {seed}"
                    write_variant(self.data, data, condition, self.shrink, seed)
                    for variant, options in variants.items():
                        host = variant == "host"
                        arguments = (data, condition.views, self.iterations, seed, options, host)
                        jobs[variant, seed] = pool.apply_async(train_and_test, arguments)
                for variant in variants:
                    row = summary([jobs[variant, seed].get() for seed in range(self.seeds)])
                    row = {"condition": title, "loss": variant, **row}
                    rows = [r for r in rows if (r["condition"], r["loss"]) != (title, variant)] + [row]
                    print({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}, flush=True)
                save_section("depth", name, {"settings": settings, "conditions": seen, "rows": rows})

    def compare(self) -> None:
        """All losses under all conditions."""
        for name in self.losses:
            if name not in LOSSES:
                raise InputError(f"there is no loss {name!r}", f"Choose from: {'; '.join(LOSSES)}")
        self._measure("losses", self._chosen(CONDITIONS), {name: LOSSES[name] for name in self.losses})

    def host(self) -> None:
        """The default loss beside depth-nerfacto."""
        variants: dict[str, dict[str, Any]] = {"default": {}, "none": {"depth_loss": "none"}, "host": {}}
        self._measure("host", self._chosen(CONDITIONS), variants)

    def wrong(self) -> None:
        """Depth that the check would refuse: with the guard, without it, and no depth."""
        variants = {
            "none": {"depth_loss": "none"},
            "default": {},
            "default, no guard": {"depth_guard": False},
        }
        self._measure("wrong", self._chosen(WRONG), variants)


def described(conditions: dict[str, Condition]) -> dict[str, Any]:
    return {title: asdict(condition) for title, condition in conditions.items()}


def write_tables() -> None:
    """Turn the JSON into Markdown."""
    columns = [
        "condition",
        "loss",
        "psnr",
        "psnr ±",
        "rmse",
        "rmse ±",
        "abs_rel",
        "delta1",
        "bias",
        "cpu seconds",
        "seeds",
    ]
    note = "Errors of depth in meters."
    write_sections("depth", "Depth supervision", note, lambda section, rows: [table(rows, columns)])


if __name__ == "__main__":
    report_input_errors()
    tyro.cli(Benchmark).main()
