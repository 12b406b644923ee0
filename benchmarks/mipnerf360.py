"""mip-NeRF 360 beside its variant without integrated encoding and nerfstudio's `nerfacto`, on the same views.

    python -m benchmarks.mipnerf360 quality --data DIR   # a capture (nerfstudio-data), and the unbounded sample scene
    python -m benchmarks.mipnerf360 speed   --data DIR

`quality` trains `mip-nerf-360-small` and the "minus" variant of the same size for the same iterations, and nerfacto for
the same time, then renders the held-out views at full, half and quarter resolution (on a CPU, nerfacto every sixth row
and column at full resolution). `speed` lets the models take turns
on training steps. Each section is written to benchmarks/results/mipnerf360.json, the tables to mipnerf360.md.
"""

from __future__ import annotations

import copy
import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Float
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from torch import Tensor

from benchmarks.mipnerf import Run, count_parameters, device, without_lpips
from benchmarks.report import RESULTS, save_section, table, write_sections
from common_ns.metrics import psnr, ssim
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene

METHOD = "mip-nerf-360-small"
SCALES = (1, 2, 4)
"""Divisors of the resolution that held-out views are rendered at."""


def our_pipeline(data: Path, **model: Any) -> Any:
    config = copy.deepcopy(all_methods[METHOD].pipeline)
    config.datamanager.data = data
    config.model = replace(config.model, compute_normals=False, **model)
    return config.setup(device=device(), test_mode="test")


def nerfacto_pipeline(data: Path, rays: int) -> Any:
    """nerfacto as it comes, but for the number of rays, batches drawn in its own process as ours are, and hash grids
    that run without tiny-cuda-nn on a CPU."""
    config = copy.deepcopy(all_methods["nerfacto"].pipeline)
    config.datamanager = VanillaDataManagerConfig(
        data=data, dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=rays
    )
    if device() == "cpu":
        config.model.implementation = "torch"
    with without_lpips():
        return config.setup(device=device(), test_mode="test")


NERFACTO_STRIDE = 6
"""nerfacto is compared on every so many rows and columns: without tiny-cuda-nn a full picture takes it many minutes on
a CPU."""


@torch.no_grad()
def test_sparsely(pipeline: Any, stride: int) -> dict[str, float]:
    """PSNR at full resolution over all held-out views, on every `stride`-th row and column."""
    pipeline.eval()
    values = []
    for camera, batch in pipeline.datamanager.fixed_indices_eval_dataloader:
        rays = camera.generate_rays(camera_indices=0, keep_shape=True)[::stride, ::stride]
        image = pipeline.model.get_outputs_for_camera_ray_bundle(rays)["rgb"].cpu().clamp(0, 1)
        values.append(psnr(image, batch["image"].cpu()[::stride, ::stride, :3]))
    pipeline.train()
    return {"psnr": statistics.mean(values)}


@torch.no_grad()
def test_metrics(pipeline: Any) -> dict[str, float]:
    """PSNR at each scale and SSIM at full size, over all held-out views."""
    pipeline.eval()
    model = pipeline.model
    values: dict[str, list[float]] = {}
    for camera, batch in pipeline.datamanager.fixed_indices_eval_dataloader:
        for scale in SCALES:
            scaled = copy.deepcopy(camera)
            scaled.rescale_output_resolution(1.0 / scale)
            image = model.get_outputs_for_camera(scaled)["rgb"].cpu().clamp(0, 1)
            target = shrunk(batch["image"].cpu()[..., :3], image.shape[0], image.shape[1], scale)
            values.setdefault(f"psnr 1/{scale}" if scale > 1 else "psnr", []).append(psnr(image, target))
            if scale == 1:
                values.setdefault("ssim", []).append(ssim(image, target))
    pipeline.train()
    return {name: statistics.mean(each) for name, each in values.items()}


def shrunk(image: Float[Tensor, "h w 3"], height: int, width: int, scale: int) -> Float[Tensor, "height width 3"]:
    """Mean over blocks of scale × scale pixels; an incomplete last row or column is left out, as the camera does."""
    blocks = F.avg_pool2d(image[: height * scale, : width * scale].movedim(-1, 0), scale)
    return blocks.movedim(0, -1)


def seconds() -> float:
    """The clock of the quality runs: on a CPU the process's own time per thread, which other work on the machine does
    not change."""
    if torch.cuda.is_available():
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def train_and_test(name: str, data: Path, steps: int, threads: int, limit: float, model: dict[str, Any]) -> dict:
    """One row of the quality table. Runs in a process of its own, so that its peak memory is its own."""
    torch.set_num_threads(threads)
    torch.manual_seed(42)
    if name == "nerfacto":
        optimizers = all_methods["nerfacto"].optimizers
        run = Run(nerfacto_pipeline(data, rays_of_ours()), steps, optimizers, seconds)
        taken = run.advance(10**9, limit)
    else:
        run = Run(our_pipeline(data, anneal_steps=steps, **model), steps, all_methods[METHOD].optimizers, seconds)
        taken = run.advance(steps)
    row: dict[str, Any] = {"model": name, "parameters": count_parameters(run.pipeline.model), "steps": run.step}
    row["train seconds"] = round(taken)
    row["rays per second"] = round(run.step * rays_of_ours() / taken)
    if name == "nerfacto" and device() == "cpu":
        row |= test_sparsely(run.pipeline, NERFACTO_STRIDE)
    else:
        row |= test_metrics(run.pipeline)
    row["peak MiB"] = peak_mebibytes()
    print(row, flush=True)
    return row


def rays_of_ours() -> int:
    return all_methods[METHOD].pipeline.datamanager.train_num_rays_per_batch


def sample_capture(folder: Path, **options: Any) -> Path:
    """The unbounded sample scene, written into a folder; returns its data in nerfstudio's format.

    Args:
        folder: where it is written.
        **options: other options of `SampleSceneConfig`.
    """
    size = {"num_train": 60, "num_val": 2, "num_test": 4, "resolution": 160, **options}
    target = folder / "sample-unbounded"
    write_sample_scene(SampleSceneConfig(target, layouts=("nerfstudio",), unbounded=True, **size))
    return target / "nerfstudio"


def peak_mebibytes() -> int:
    """Peak memory: what torch allocated on the GPU, or the whole process on a CPU."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def in_fresh_process(function: Callable[..., dict], *arguments: Any) -> dict:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


@dataclass
class Benchmark:
    """Measure mip-NeRF 360 beside its "minus" variant and nerfacto."""

    section: tyro.conf.Positional[Literal["quality", "speed", "table"]]
    """What to measure; table only writes the table again."""
    data: Path | None = None
    """A capture in nerfstudio's format; None: the unbounded sample scene only."""
    sample_scene: bool = True
    """Also measure on the unbounded sample scene (quality)."""
    steps: int = 2000
    """Training steps of ours (quality)."""
    anew: bool = True
    """Measure all models again; off: keep the rows that were measured with as many steps (quality)."""
    rounds: int = 10
    """Rounds of the speed comparison; the models take turns in each."""
    threads: int = 2
    """CPU threads."""

    def main(self) -> None:
        torch.set_num_threads(self.threads)
        if self.section != "table":
            with TemporaryDirectory() as folder:
                getattr(self, self.section)(Path(folder))
        write_sections("mipnerf360", "mip-NeRF 360", tables=tables)

    def _scenes(self, folder: Path) -> list[Path]:
        scenes = [] if self.data is None else [self.data]
        if self.sample_scene or self.data is None:
            scenes.append(sample_capture(folder))
        return scenes

    def quality(self, folder: Path) -> None:
        """Ours and "minus" at equal iterations, nerfacto for as long as ours took."""
        for scene in self._scenes(folder):
            name = scene.name if scene == self.data else scene.parent.name
            section = f"quality on {name}"
            arguments = (scene, self.steps, self.threads)
            rows = {} if self.anew else {row["model"]: row for row in saved_rows(section, self.steps)}
            for model, options in ((METHOD, {}), ("the same, minus", {"encoding": "plain"}), ("nerfacto", {})):
                if model not in rows:
                    limit = rows[METHOD]["train seconds"] if model == "nerfacto" else 0.0
                    rows[model] = in_fresh_process(train_and_test, model, *arguments, limit, options)
                self._save(section, list(rows.values()), steps=self.steps)

    def speed(self, folder: Path) -> None:
        """Training rays per second, the models taking turns."""
        scene = self._scenes(folder)[0]
        ours = all_methods[METHOD].optimizers
        runs = {
            METHOD: Run(our_pipeline(scene), 1000, ours),
            f"{METHOD}, float32": Run(our_pipeline(scene, precision="float32"), 1000, ours),
            "the same, minus": Run(our_pipeline(scene, encoding="plain"), 1000, ours),
            "nerfacto": Run(nerfacto_pipeline(scene, rays_of_ours()), 1000, all_methods["nerfacto"].optimizers),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run.advance(2)
        for _ in range(self.rounds):
            for name, run in runs.items():
                seconds[name].append(run.advance(2) / 2)
        host = seconds["nerfacto"]
        rows = [
            {
                "model": name,
                "rays per second": round(rays_of_ours() / statistics.median(times)),
                "ratio to nerfacto": statistics.median(h / t for h, t in zip(host, times)),
                "lowest ratio": min(h / t for h, t in zip(host, times)),
                "highest ratio": max(h / t for h, t in zip(host, times)),
            }
            for name, times in seconds.items()
        ]
        self._save("speed", rows, rays=rays_of_ours(), rounds=self.rounds)

    def _save(self, section: str, rows: list[dict], **settings: Any) -> None:
        save_section("mipnerf360", section, {"settings": {"threads": self.threads, **settings}, "rows": rows})


def saved_rows(section: str, steps: int) -> list[dict]:
    """The rows of a section that was measured with as many steps; none if there is none."""
    file = RESULTS / "mipnerf360.json"
    content = json.loads(file.read_text()).get(section) if file.exists() else None
    return content["rows"] if content is not None and content["settings"]["steps"] == steps else []


def tables(section: str, rows: list[dict[str, Any]]) -> list[str]:
    """The rows of a section: of speed, or of quality."""
    quality = ["model", "psnr", "psnr 1/2", "psnr 1/4", "ssim", "parameters", "steps", "train seconds"]
    speed = ["model", "rays per second", "ratio to nerfacto", "lowest ratio", "highest ratio"]
    return [table(rows, speed if section == "speed" else [*quality, "rays per second", "peak MiB"])]


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
