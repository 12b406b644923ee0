"""Evaluation over images of several scales."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.utils
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@dataclass
class FieldPipelineConfig(VanillaPipelineConfig):
    """The host's pipeline with evaluation by scale."""

    _target: type = field(default_factory=lambda: FieldPipeline)
    """target class to instantiate"""


class FieldPipeline(VanillaPipeline):
    """Differs from the host's pipeline in evaluation only: images of a multi-scale data set are also averaged per scale
    (`psnr_1x` … `psnr_8x`), and a metric that not every image has (LPIPS below 64 pixels) is averaged over those that
    have it."""

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
        scales: list[int | None] = []
        columns = (TextColumn("[progress.description]{task.description}"), BarColumn())
        with Progress(*columns, TimeElapsedColumn(), MofNCompleteColumn(), transient=True) as progress:
            task = progress.add_task("[green]Evaluating all images...", total=len(data_loader))
            for index, (camera, batch) in enumerate(data_loader):
                start = time.perf_counter()
                outputs = self.model.get_outputs_for_camera(camera=camera)
                metrics, images = self.model.get_image_metrics_and_images(outputs, batch)
                num_rays = int(camera.height * camera.width)
                metrics["num_rays_per_sec"] = num_rays / (time.perf_counter() - start)
                metrics["fps"] = metrics["num_rays_per_sec"] / num_rays
                per_image.append(metrics)
                scales.append(batch.get("image_scale"))
                for name, image in images.items() if output_path is not None else ():
                    assert output_path is not None
                    file = output_path / f"{image_prefix}_{name}_{index:04d}.png"
                    torchvision.utils.save_image(image.permute(2, 0, 1).cpu(), file)
                progress.advance(task)
        self.train()
        return average_metrics(per_image, scales, get_std)


def average_metrics(
    per_image: list[dict[str, float]], scales: list[int | None], get_std: bool = False
) -> dict[str, float]:
    """Mean of each metric over the images that have it, and over the images of each scale.

    Args:
        per_image: metrics of each image.
        scales: scale of each image (1, 2, 4, 8), or None.
        get_std: add sample standard deviations as NAME_std, as the host does.
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
