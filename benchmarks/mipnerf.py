"""mip-NeRF beside nerfstudio's `mipnerf`: quality at equal size and iterations, and speed.

    python -m benchmarks.mipnerf quality    --data DIR   # a Blender scene
    python -m benchmarks.mipnerf speed      --data DIR

Each section is written to benchmarks/results/mipnerf.json, and the tables to benchmarks/results/mipnerf.md.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
import tyro
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
from nerfstudio.field_components.encodings import NeRFEncoding
from nerfstudio.fields.vanilla_nerf_field import NeRFField
from nerfstudio.models.mipnerf import MipNerfModel as HostMipNerfModel
from nerfstudio.models.vanilla_nerf import VanillaModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from torch import nn
from torch.cuda.amp.grad_scaler import GradScaler

from benchmarks.report import save_section, table, write_sections
from common_ns.metrics import psnr, ssim
from common_ns.nerfstudio_seam.pipeline import FieldPipeline, average_metrics
from common_ns.nerfstudio_seam.schedulers import LogLinearSchedulerConfig
from mipnerf_ns.model import MipNerfModelConfig


@contextmanager
def without_lpips() -> Iterator[None]:
    """Build nerfstudio's models without LPIPS: they would download AlexNet. Nothing that is measured uses it."""
    import torchmetrics.image.lpip

    original = torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity
    torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity = lambda **_: nn.Identity()  # type: ignore
    try:
        yield
    finally:
        torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity = original


@dataclass
class SizedHostConfig(VanillaModelConfig):
    """nerfstudio's mip-NeRF with a network of a given size; its own class fixes 8 × 256."""

    num_layers: int = 8
    hidden_dim: int = 256
    color_hidden_dim: int = 128


class SizedHostMipNerf(HostMipNerfModel):
    """nerfstudio's model; only the field's size differs."""

    config: SizedHostConfig

    def populate_modules(self) -> None:
        with without_lpips():
            super().populate_modules()

        def encoding(octaves: int) -> NeRFEncoding:
            return NeRFEncoding(3, octaves, min_freq_exp=0.0, max_freq_exp=float(octaves), include_input=True)

        self.field = NeRFField(
            position_encoding=encoding(16),
            direction_encoding=encoding(4),
            base_mlp_num_layers=self.config.num_layers,
            base_mlp_layer_width=self.config.hidden_dim,
            head_mlp_layer_width=self.config.color_hidden_dim,
            use_integrated_encoding=True,
        )


def host_pipeline(data: Path, ours: MipNerfModelConfig, rays: int) -> Any:
    """nerfstudio's pipeline with a network of as many parameters as ours (color head widened to match)."""
    target = count_parameters(build_field(ours))

    def sized(width: int) -> SizedHostConfig:
        return SizedHostConfig(
            _target=SizedHostMipNerf,
            loss_coefficients={"rgb_loss_coarse": 0.1, "rgb_loss_fine": 1.0},
            num_coarse_samples=ours.num_coarse_samples,
            num_importance_samples=ours.num_importance_samples,
            num_layers=ours.num_layers,
            hidden_dim=ours.hidden_dim,
            color_hidden_dim=width,
            eval_num_rays_per_chunk=1024,
        )

    def head_difference(width: int) -> int:
        d, h = 27, ours.hidden_dim
        trunk = 99 * h + (ours.num_layers - 1) * h * h + (99 * h if ours.num_layers > 4 else 0) + ours.num_layers * h
        return abs(trunk + h + 1 + (h + d) * width + width + width * width + width + 3 * width + 3 - target)

    width = min(range(16, 512), key=head_difference)
    config = VanillaPipelineConfig(
        datamanager=VanillaDataManagerConfig(
            data=data, dataparser=BlenderDataParserConfig(), train_num_rays_per_batch=rays
        ),
        model=sized(width),
    )
    return config.setup(device=device(), test_mode="test")


def our_pipeline(method: str, data: Path, rays: int | None = None, **model: Any) -> Any:
    config = copy.deepcopy(all_methods[method].pipeline)
    config.datamanager.data = data
    if rays is not None:
        config.datamanager.train_num_rays_per_batch = rays
    config.model = replace(config.model, compute_normals=False, **model)
    return config.setup(device=device(), test_mode="test")


def build_field(config: MipNerfModelConfig) -> nn.Module:
    from mipnerf_ns.field import MipNerfField

    return MipNerfField(
        num_layers=config.num_layers, hidden_dim=config.hidden_dim, color_hidden_dim=config.color_hidden_dim
    )


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


OPTIMIZERS = {
    "fields": {
        "optimizer": AdamOptimizerConfig(lr=2e-3, eps=1e-8),
        "scheduler": LogLinearSchedulerConfig(lr_final=1e-4, warmup_steps=100, warmup_multiplier=0.1),
    }
}
"""What both models of the quality comparison, and the multi-scale runs, are trained with. Fixed here, so that the
figures stay comparable when the defaults of mip-nerf-small change."""


class Run:
    """A pipeline with its optimizer, trained step by step.

    Args:
        pipeline: ours or nerfstudio's.
        optimizers: an optimizer table as a trainer's config has it.
        steps: length of the run, which the learning-rate schedule is fitted to.
        clock: gives the time in seconds.
    """

    def __init__(
        self,
        pipeline: Any,
        steps: int,
        optimizers: dict = OPTIMIZERS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.clock = clock
        self.pipeline = pipeline.train()
        optimizers = copy.deepcopy(optimizers)
        for group in optimizers.values():
            if isinstance(group["scheduler"], LogLinearSchedulerConfig):
                group["scheduler"].max_steps = steps
        self.optimizers = Optimizers(optimizers, pipeline.get_param_groups())
        self.step = 0
        trainer = SimpleNamespace(config=SimpleNamespace(optimizers=optimizers, max_num_iterations=steps))
        attributes: Any = SimpleNamespace(
            optimizers=self.optimizers, pipeline=pipeline, trainer=trainer, grad_scaler=None
        )
        self.callbacks = pipeline.get_training_callbacks(attributes)

    def advance(self, steps: int, seconds: float = math.inf) -> float:
        """Train for so many steps, or until so many seconds have passed; returns the seconds it took."""
        start = self.clock()
        for _ in range(steps):
            if self.clock() - start > seconds:
                break
            for callback in self.callbacks:
                callback.run_callback_at_location(self.step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
            self.optimizers.zero_grad_all()
            if isinstance(self.pipeline, FieldPipeline):
                self.pipeline.backward(self.step, GradScaler(enabled=False))
            else:
                _, losses, _ = self.pipeline.get_train_loss_dict(self.step)
                torch.stack(list(losses.values())).sum().backward()
            self.optimizers.optimizer_step_all()
            self.optimizers.scheduler_step_all(self.step)
            for callback in self.callbacks:
                callback.run_callback_at_location(self.step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
            self.step += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self.clock() - start

    @torch.no_grad()
    def test_metrics(self) -> dict[str, float]:
        """PSNR and SSIM over test images, computed alike for both; nerfstudio's color is called rgb_fine."""
        self.pipeline.eval()
        model = self.pipeline.model
        per_image, scales = [], []
        for camera, batch in self.pipeline.datamanager.fixed_indices_eval_dataloader:
            outputs = model.get_outputs_for_camera(camera)
            image = outputs["rgb" if "rgb" in outputs else "rgb_fine"].cpu()
            target = model.renderer_rgb.blend_background(batch["image"].cpu())
            metrics = {"psnr": psnr(image, target)}
            if min(image.shape[:2]) >= 11:
                metrics["ssim"] = ssim(image, target)
            per_image.append(metrics)
            scales.append(batch.get("image_scale"))
        self.pipeline.train()
        return average_metrics(per_image, scales)


def train_and_test(name: str, build: Callable[[], Any], steps: int, optimizers: dict = OPTIMIZERS) -> dict[str, Any]:
    torch.manual_seed(42)
    run = Run(build(), steps, optimizers)
    seconds = run.advance(steps)
    row = {"model": name, "parameters": count_parameters(run.pipeline.model.field), "train seconds": round(seconds)}
    row.update(run.test_metrics())
    print(row, flush=True)
    return row


@dataclass
class Benchmark:
    """Measure mip-NeRF beside nerfstudio's `mipnerf`."""

    section: tyro.conf.Positional[Literal["quality", "speed", "table"]]
    """What to measure; table only writes the table again."""
    data: Path = Path("data/blender/lego")
    """A Blender scene."""
    steps: int = 2000
    """Training steps of each run."""
    rounds: int = 5
    """Rounds of the speed comparison; the models take turns in each."""
    rays: int = 256
    """Rays per step of the speed comparison."""
    host_optimizer: bool = False
    """Also train nerfstudio's model with the optimizer of its own config (quality)."""
    threads: int = 2
    """CPU threads."""

    def main(self) -> None:
        torch.set_num_threads(self.threads)
        if self.section != "table":
            getattr(self, self.section)()
        write_tables()

    def quality(self) -> None:
        """Both at the size of mip-nerf-small, the same rays, samples and iterations.

        nerfstudio's model runs with the same optimizer and schedule, and by option with its own.
        """
        ours = all_methods["mip-nerf-small"].pipeline.model
        rays = all_methods["mip-nerf-small"].pipeline.datamanager.train_num_rays_per_batch
        rows = [
            train_and_test("mip-nerf-small", lambda: our_pipeline("mip-nerf-small", self.data), self.steps),
            train_and_test(
                "nerfstudio mipnerf, the same optimizer", lambda: host_pipeline(self.data, ours, rays), self.steps
            ),
        ]
        if self.host_optimizer:
            name, table = "nerfstudio mipnerf, its optimizer", all_methods["mipnerf"].optimizers
            rows.append(train_and_test(name, lambda: host_pipeline(self.data, ours, rays), self.steps, table))
        self._save("quality", rows)

    def speed(self) -> None:
        """Training rays per second at the paper's size (8 × 256, 128 + 128 samples), the models taking turns."""
        ours = all_methods["mip-nerf"].pipeline.model
        models = {
            "nerfstudio mipnerf": lambda: host_pipeline(self.data, ours, self.rays),
            "mip-nerf, float32": lambda: our_pipeline("mip-nerf", self.data, rays=self.rays, precision="float32"),
            "mip-nerf (auto precision)": lambda: our_pipeline("mip-nerf", self.data, rays=self.rays),
        }
        runs = {name: Run(build(), 1000) for name, build in models.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run.advance(1)
        for _ in range(self.rounds):
            for name, run in runs.items():
                seconds[name].append(run.advance(2) / 2)
        host = seconds["nerfstudio mipnerf"]
        rows = [
            {
                "model": name,
                "rays per second": round(self.rays / statistics.median(times)),
                "ratio to nerfstudio": statistics.median(h / t for h, t in zip(host, times)),
                "lowest ratio": min(h / t for h, t in zip(host, times)),
                "highest ratio": max(h / t for h, t in zip(host, times)),
            }
            for name, times in seconds.items()
        ]
        self._save("speed", rows, rays=self.rays, rounds=self.rounds)

    def _save(self, section: str, rows: list[dict], **settings: Any) -> None:
        if section != "speed":
            fields = OPTIMIZERS["fields"]
            rates = f"{fields['optimizer'].lr:g} to {fields['scheduler'].lr_final:g}"
            settings = {"steps": self.steps, "learning rate": rates, **settings}
        settings = {"data": self.data.name, "threads": self.threads, **settings}
        save_section("mipnerf", section, {"settings": settings, "rows": rows})


def write_tables() -> None:
    """Turn the JSON into Markdown."""
    columns = {
        "quality": ["model", "parameters", "psnr", "ssim", "train seconds"],
        "speed": ["model", "rays per second", "ratio to nerfstudio", "lowest ratio", "highest ratio"],
    }
    write_sections("mipnerf", "mip-NeRF", tables=lambda section, rows: [table(rows, columns[section])])


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
