"""One training step over chunks of rays and over devices, and evaluation over images of several scales."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchvision.utils
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils import profiler
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor
from torch.cuda.amp.grad_scaler import GradScaler
from torch.nn import Parameter
from typing_extensions import Self

from common_ns.cameras.smaller import smaller_view
from common_ns.data.notes import note
from common_ns.errors import InputError
from common_ns.nerfstudio_seam import compat, distributed, runs
from common_ns.nerfstudio_seam.model_hooks import ModelHooks, hooks_of
from common_ns.nerfstudio_seam.renames import SuiteConfig, renamed_parameters
from common_ns.nerfstudio_seam.versions import set_training
from common_ns.rays import per_ray, random_numbers


@dataclass
class FieldPipelineConfig(SuiteConfig, VanillaPipelineConfig):
    """nerfstudio's pipeline with steps over chunks and devices, and evaluation by scale."""

    _target: type = field(default_factory=lambda: FieldPipeline)
    """target class to instantiate"""
    eval_scales: tuple[int, ...] = (1,)
    """ns-eval renders each test image at its size divided by each of these, beside an image averaged over as many
    pixels: 1 2 4 8 tells how a field holds from farther away. Metrics are also given by scale, as psnr_4x."""

    def setup(self, **kwargs: Any) -> Any:
        """The pipeline. Every command on a run begins with it, ns-train included."""
        compat.prepare_process()
        pipeline = super().setup(**kwargs)
        runs.load_checkpoints_here()
        compat.refuse_what_nerfstudio_cannot_do(pipeline)
        return pipeline


@dataclass
class StepResult:
    """What `FieldPipeline.backward` found, over all devices."""

    loss: Tensor
    """Sum of the losses."""
    loss_dict: dict[str, Tensor]
    """Each loss, detached."""
    metrics_dict: dict[str, Tensor]
    """The model's metrics, averaged over devices."""
    problem: str | None
    """What is not finite and where it comes from; None if losses and gradients can be used."""


class FieldPipeline(VanillaPipeline):
    """Differs from nerfstudio's pipeline in the training step and in evaluation.

    A step gives the same result however its rays are divided. `backward` computes them in chunks of at most
    `train_rays_per_chunk` rays, on each device those that the datamanager drew there, and sums the gradients. Where the
    GPU's memory does not suffice, chunks are halved until it does. For this, losses must be means over rays, and random
    numbers belong to rays. What a model says about both is in `ModelHooks`.

    In evaluation, metrics of several scales, of the data set's images or of `eval_scales`, are also averaged per scale
    (`psnr_1x` … `psnr_8x`), and a metric that not every image has (LPIPS below 64 pixels) is averaged over those that
    have it.
    """

    config: FieldPipelineConfig
    datamanager: VanillaDataManager
    _told_of_masks = False
    """Whether a training has said that images are compared inside of their masks."""
    max_rays_per_chunk: int | None = None
    """Most rays that this device has memory for in training; None: no bound was met yet."""

    def __init__(
        self,
        config: FieldPipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: GradScaler | None = None,
    ) -> None:
        if torch.device(device).type == "cuda":
            torch.cuda.set_device(device)  # which NCCL's messages use; nerfstudio leaves it at 0 in all processes
        # nerfstudio's wrapper for several devices (DDP) would sum the gradients of every chunk, and refuses CPUs.
        super().__init__(config, device, test_mode, world_size=1, local_rank=local_rank, grad_scaler=grad_scaler)
        self.world_size = self.datamanager.world_size = world_size
        distributed.broadcast_module(self.model)

    @property
    def hooks(self) -> ModelHooks:
        """What the model says beyond nerfstudio's contract."""
        return hooks_of(self.model)

    def _next_train(self, step: int) -> tuple[RayBundle, dict, int]:
        """This device's rays with their random numbers, its batch, and the number of rays of all devices."""
        rays, batch = self.datamanager.next_train(step)
        special = self.hooks.count_rays(batch)
        numbers = distributed.gather_numbers([len(rays), *special.values()], self.device)
        counts = numbers[:, 0].int().tolist()
        for name, count in zip(special, numbers.sum(dim=0).tolist()[1:]):
            batch[f"fraction_{name}"] = count / sum(counts)
        if self.hooks.randomness is not None:
            # Every device draws the numbers of all rays, from the state that the datamanager set for the step.
            start = sum(counts[: distributed.rank()])
            drawn = self.hooks.randomness.draw(sum(counts))[start : start + len(rays)]
            rays.metadata[random_numbers.KEY] = drawn.to(rays.origins.device)
        return rays, batch, sum(counts)

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or to evaluation; the datamanager too."""
        super().train(mode)
        set_training(self.datamanager, mode)
        return self

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint's parameters, also of an earlier version that called them otherwise."""
        super().load_pipeline(renamed_parameters(self.config.model, loaded_state, "_model."), step)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool | None = None) -> Any:
        """Load parameters, all of them: nerfstudio's leaves alone those that a checkpoint lacks, so that one of another
        method, or of more layers, would load without a word."""
        return super().load_state_dict(state_dict, strict=strict is not False)

    @profiler.time_function
    def get_train_loss_dict(self, step: int) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
        """Outputs, losses (with their graph) and metrics of this device's rays in one chunk, as nerfstudio's own
        trainer
        wants them: it is then up to the caller to sum gradients over devices."""
        rays, batch, _ = self._next_train(step)
        outputs = self.model(rays)
        metrics = self.model.get_metrics_dict(outputs, batch)
        return outputs, self.model.get_loss_dict(outputs, batch, metrics), metrics

    @profiler.time_function
    def backward(self, step: int, grad_scaler: GradScaler, mixed_precision: bool = False) -> StepResult:
        """Add the gradients of a training batch to the parameters, within the memory that a chunk of rays takes.

        Args:
            step: absolute training step.
            grad_scaler: scales the losses; where it is enabled, gradients that are not finite are left to it.
            mixed_precision: compute losses under autocast.
        Returns: the losses and metrics. Metrics see those outputs only that have a row for each ray, and losses are
            computed without metrics. If there is a problem, then all devices have the same, and the gradients are
            not to be used.
        """
        rays, batch, total = self._next_train(step)
        groups = self.get_param_groups()
        parameters = [parameter for group in groups.values() for parameter in group]
        if distributed.rank() > 0:
            for parameter in parameters:
                parameter.grad = None  # those of earlier steps are summed already: rank 0 brings them in
        count = len(rays)
        # Kept apart, so that chunks that do not fit into the memory leave no trace in them.
        earlier = [parameter.grad for parameter in parameters]
        while True:
            for parameter in parameters:
                parameter.grad = None
            try:
                loss_dict, parts = self._chunks(rays, batch, total, grad_scaler, mixed_precision)
                break
            except torch.cuda.OutOfMemoryError as error:
                reason = str(error).split(". ")[0]
            # Outside of the handler, which holds what has to be freed.
            self._halve_chunks(step, count, reason)
        for parameter, gradient in zip(parameters, earlier):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)
        outputs = {name: per_ray.joined([part[name] for part in parts]) for name in parts[0]}
        with torch.no_grad():
            metrics = self.model.get_metrics_dict(outputs, batch)
        distributed.sum_gradients(parameters)
        numbers = distributed.gather_numbers([*loss_dict.values(), *metrics.values()], self.device)
        loss_dict = dict(zip(loss_dict, numbers.sum(dim=0)))
        metrics = dict(zip(metrics, numbers.mean(dim=0)[len(loss_dict) :]))
        self.hooks.after_backward(step, metrics)
        problem = self._problem(loss_dict, {} if grad_scaler.is_enabled() else groups, outputs, batch, count)
        return StepResult(functools.reduce(torch.add, loss_dict.values()), loss_dict, metrics, problem)

    def gather_state(self) -> None:
        """Bring to rank 0 what a checkpoint needs of the other devices; all of them call this before it is written.
        Here nothing: all have the same parameters."""

    def _chunk_size(self, count: int) -> int:
        """Most rays of `count` that are computed at once."""
        return min(self.hooks.train_rays_per_chunk or count, self.max_rays_per_chunk or count)

    def _chunks(
        self, rays: RayBundle, batch: dict, total: int, grad_scaler: GradScaler, mixed_precision: bool
    ) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Add the gradients of this device's rays; returns their part of the losses, and each chunk's outputs."""
        count = len(rays)
        chunks = math.ceil(count / self._chunk_size(count))
        loss_dict: dict[str, Tensor] = {}
        parts = []
        for chunk in (distributed.share(count, index, chunks) for index in range(chunks)):
            device_type = "cuda" if self.device.type == "cuda" else "cpu"
            with torch.autocast(device_type=device_type, enabled=mixed_precision):
                outputs = self.model(rays[chunk])
                losses = self.model.get_loss_dict(outputs, {**batch, **per_ray.rows(batch, count, chunk)})
                weight = (chunk.stop - chunk.start) / total
                losses = {name: weight * loss for name, loss in losses.items()}
                loss = functools.reduce(torch.add, losses.values())
            grad_scaler.scale(loss).backward()  # type: ignore[union-attr]
            loss_dict = {name: loss_dict.get(name, 0.0) + loss.detach() for name, loss in losses.items()}
            rows = per_ray.rows(outputs, chunk.stop - chunk.start)
            parts.append({name: per_ray.mapped(value, Tensor.detach) for name, value in rows.items()})
        return loss_dict, parts

    def _halve_chunks(self, step: int, count: int, reason: str) -> None:
        """Compute fewer rays at once from now on, and say so. The result of a step stays the same.

        Raises: InputError if there was one ray only.
        """
        size = self._chunk_size(count)
        if size <= 1:
            raise InputError(
                f"the GPU's memory does not suffice for a single ray ({reason})",
                "Free it from other programs, or choose a smaller method",
            )
        self.max_rays_per_chunk = (size + 1) // 2
        torch.cuda.empty_cache()
        text = f"Step {step}: out of GPU memory; {self.max_rays_per_chunk} rays at once from now on, instead of {size}."
        note(text)

    def _problem(
        self,
        loss_dict: dict[str, Tensor],
        groups: dict[str, list[Parameter]],
        outputs: dict[str, Tensor],
        batch: dict,
        count: int,
    ) -> str | None:
        """Name the first loss, or parameter group's gradient, that is not finite, and the pixel it comes from.

        Args: what all devices have summed (losses, parameters by group), and this device's own outputs, batch and
            number of rays.
        """
        values = dict(loss_dict)
        for name, parameters in groups.items():
            norms = [parameter.grad.float().norm() for parameter in parameters if parameter.grad is not None]
            if norms:
                values[f"the gradient of {name}"] = torch.stack(norms).norm()
        finite = torch.isfinite(torch.stack(list(values.values()))).tolist()
        if all(finite):
            return None
        name = list(values)[finite.index(False)]
        found = distributed.gather(self._first_bad_pixel(outputs, batch, count))
        where = next(filter(None, found), "from no single ray: all outputs and target values are finite")
        return f"{name} is {float(values[name])}, {where}"

    def _first_bad_pixel(self, outputs: dict[str, Tensor], batch: dict, count: int) -> str | None:
        """The first of this device's `count` rays whose output, or else whose target value, is not finite, in words."""
        targets = {f"target {name}": value for name, value in per_ray.rows(batch, count).items()}
        for name, value in {**per_ray.tensors(outputs), **targets}.items():
            bad = ~torch.isfinite(value.reshape(count, -1)).all(dim=-1)
            if bad.any():
                ray = int(bad.nonzero()[0])
                where = f"ray {ray}"
                if "indices" in batch:
                    image, row, column = batch["indices"][ray].tolist()
                    file = self.datamanager.train_dataset.image_filenames[image]
                    where = f"row {row}, column {column} (from 0) of {file}"
                return f"from {name} at {where} ({int(bad.sum())} of {count} rays)"
        return None

    @profiler.time_function
    def get_eval_image_metrics_and_images(self, step: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics and pictures of one test image, while training."""
        self.eval()
        camera, batch = self.datamanager.next_eval_image(step)
        metrics, images = self.hooks.evaluate_image(camera, batch)
        if "valid_fraction" in metrics and not self._told_of_masks:
            self._told_of_masks = True
            print_masks([metrics["valid_fraction"]])
        metrics["num_rays"] = int(camera.height * camera.width)
        self.train()
        return metrics, images

    def get_average_image_metrics(
        self,
        data_loader: Any,
        image_prefix: str,
        step: int | None = None,
        output_path: Path | None = None,
        get_std: bool = False,
    ) -> dict[str, float]:
        """Average the model's image metrics over a data loader; saves its pictures into `output_path` if given.

        Args:
            data_loader: gives (camera, batch) per image.
            image_prefix: first part of the pictures' file names.
            step: current training step.
            output_path: folder for pictures.
            get_std: add the standard deviation of each metric as NAME_std.
        Returns: means over all images, and per scale as NAME_{scale}x for data with several scales.
        """
        self.eval()
        if output_path is not None:
            output_path.mkdir(exist_ok=True, parents=True)
        per_image: list[dict[str, float]] = []
        scales: list[int] = []
        columns = (TextColumn("[progress.description]{task.description}"), BarColumn())
        with Progress(*columns, TimeElapsedColumn(), MofNCompleteColumn(), transient=True) as progress:
            eval_scales = self.config.eval_scales
            task = progress.add_task("[green]Evaluating all images...", total=len(data_loader) * len(eval_scales))
            views = ((index, *view, factor) for index, view in enumerate(data_loader) for factor in eval_scales)
            for index, whole_camera, whole_batch, factor in views:
                camera, batch = smaller_view(whole_camera, whole_batch, factor)
                start = time.perf_counter()
                metrics, images = self.hooks.evaluate_image(camera, batch)
                num_rays = int(camera.height * camera.width)
                metrics["num_rays_per_sec"] = num_rays / (time.perf_counter() - start)
                metrics["fps"] = metrics["num_rays_per_sec"] / num_rays
                per_image.append(metrics)
                scales.append(batch["image_scale"] * factor if "image_scale" in batch else factor)
                suffix = f"_{factor}x" if factor > 1 else ""
                for name, image in images.items() if output_path is not None else ():
                    assert output_path is not None
                    file = output_path / f"{image_prefix}_{name}_{index:04d}{suffix}.png"
                    torchvision.utils.save_image(image.permute(2, 0, 1).cpu(), file)
                progress.advance(task)
        print_masks([metrics["valid_fraction"] for metrics in per_image if "valid_fraction" in metrics])
        self.train()
        return average_metrics(per_image, scales, get_std)


def print_masks(fractions: list[float]) -> None:
    """Say that images were compared inside of their masks only, if they were.

    Args:
        fractions: the share of valid pixels of each image that has a mask.
    """
    if not fractions:
        return
    empty = sum(fraction == 0.0 for fraction in fractions)
    without = f"; {empty} of {len(fractions)} images have none, and do not count" if empty else ""
    share = f"{float(np.mean(fractions)):.0%} of the pixels"
    CONSOLE.print(f"Metrics are those of the masks' valid pixels, {share}{without}.", highlight=False, soft_wrap=True)


def average_metrics(
    per_image: list[dict[str, float]], scales: Sequence[int | None], get_std: bool = False
) -> dict[str, float]:
    """Mean of each metric over the images that have it, and over the images of each scale.

    Args:
        per_image: metrics of each image.
        scales: scale of each image (1, 2, 4, 8), or None.
        get_std: add sample standard deviations as NAME_std, as nerfstudio does.
    """
    averages: dict[str, float] = {}
    speeds = ("num_rays_per_sec", "fps")
    names = list(dict.fromkeys(name for metrics in per_image for name in metrics))
    for name in names:
        values = [metrics[name] for metrics in per_image if name in metrics]
        averages[name] = float(np.mean(values))
        if get_std:
            averages[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    distinct = sorted({scale for scale in scales if scale is not None})
    for scale in distinct if len(distinct) > 1 else ():
        for name in (name for name in names if name not in speeds):
            values = [m[name] for m, s in zip(per_image, scales) if s == scale and name in m]
            if values:
                averages[f"{name}_{scale}x"] = float(np.mean(values))
    return averages
