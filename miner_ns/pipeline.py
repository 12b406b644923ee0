"""Training steps that fit blocks, and evaluation of the whole signal instead of views of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision.utils
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.cuda.amp.grad_scaler import GradScaler

from common_ns.data.memory import available_memory
from common_ns.metrics import psnr_of_mse
from common_ns.nerfstudio_seam import distributed
from common_ns.nerfstudio_seam.pipeline import FieldPipeline, FieldPipelineConfig, StepResult
from miner_ns.fitting import Fitting, intersection_over_union, mean_squared_error
from miner_ns.memory import GIB
from miner_ns.model import LEVEL_COLORS, MinerModel
from miner_ns.pyramid import BlockGrid

LARGEST_PICTURE = 1024
"""Most pixels along a side of a picture of blocks."""


@dataclass
class MinerPipelineConfig(FieldPipelineConfig):
    """Fits a signal instead of rays."""

    _target: type = field(default_factory=lambda: MinerPipeline)
    """target class to instantiate"""


class MinerPipeline(FieldPipeline):
    """A step trains the blocks of a chunk until the next look at the threshold. Evaluation compares all samples.

    What cannot work is refused before the signal is read.
    """

    def __init__(
        self,
        config: MinerPipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        **distribution: Any,
    ) -> None:
        super().__init__(config, device, test_mode, **distribution)
        fit = self.miner.fit
        if test_mode == "val":  # what nerfstudio calls a pipeline that is trained
            needed, available = fit.prepare(), available_memory()
            if available is not None and needed.worst > available and distributed.rank() == 0:
                sizes = f"{needed.worst / GIB:.1f} GiB of memory, and {available / GIB:.1f} GiB are available"
                CONSOLE.print(f"[yellow]If no block is good enough before the finest level, this needs {sizes}.")

    @property
    def miner(self) -> MinerModel:
        """The model, by its own type."""
        assert isinstance(self.model, MinerModel)
        return self.model

    def backward(self, step: int, grad_scaler: GradScaler, mixed_precision: bool = False) -> StepResult:
        """Train a portion. There are no gradients to be summed: blocks and devices are independent."""
        del grad_scaler, mixed_precision
        fit = self.miner.fit
        if step == 0 and distributed.rank() == 0:
            CONSOLE.print(f"Blocks are trained by {self.miner.describe_implementation()}.")
        level = fit.level
        progress = self.miner.train_portion()
        zero = torch.zeros((), device=self.device)
        if progress is None:
            return StepResult(zero, {"loss": zero}, {}, None)
        if fit.level != level and distributed.rank() == 0:
            self._show_level(level, step)
        loss = torch.tensor(progress.loss, device=self.device)
        metrics: dict[str, Tensor] = {
            "psnr": psnr_of_mse(loss),
            "level": torch.tensor(float(progress.level)),
            "blocks_training": torch.tensor(float(progress.training)),
            "blocks_active": torch.tensor(float(progress.active)),
        }
        return StepResult(loss, {"loss": loss}, metrics, None)

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint's networks. Raises: ValueError if they are of another size."""
        super().load_pipeline(loaded_state, step)
        assert self.miner.fit is not None  # takes them at once, rather than when it is first asked for

    def gather_state(self) -> None:
        self.miner.fit.gather_state()

    def _show_level(self, level: int, step: int) -> None:
        """Log a level that is finished: its error, and which blocks have networks."""
        fit = self.miner.fit
        trained = fit.hierarchy.levels.get(level)
        count = 0 if trained is None else len(trained.index)
        grid = fit.hierarchy.grids[level]
        size = "×".join(str(n) for n in grid.shape)
        CONSOLE.print(f"Level {level} ({size}): {count:,} of {grid.num_blocks:,} blocks have a network.")
        if grid.ndim == 2:
            writer.put_image(name=f"Blocks/level {level}", image=blocks_picture(fit, level), step=step)

    def get_eval_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Nothing is left out of training that a loss could be evaluated on."""
        zero = torch.zeros((), device=self.device)
        return {}, {"loss": zero}, {}

    def get_average_image_metrics(
        self,
        data_loader: Any,
        image_prefix: str,
        step: int | None = None,
        output_path: Path | None = None,
        get_std: bool = False,
    ) -> dict[str, float]:
        """Compare the whole signal. Arguments as nerfstudio's; `get_std` has no meaning for a single signal.

        Returns: psnr of an image, or iou and psnr of an occupancy; num_params; bits_per_pixel (32-bit parameters over
            samples).
        """
        self.eval()
        fit = self.miner.fit
        fit.show()
        samples = math.prod(self.miner.signal.spatial_shape)
        mse = torch.tensor(mean_squared_error(fit.hierarchy, fit.pyramid), dtype=torch.float64)
        metrics = {"psnr": float(psnr_of_mse(mse.clamp_min(1e-12)))}
        if not self.miner.is_image:
            metrics["iou"] = intersection_over_union(fit)
        metrics["num_params"] = float(fit.hierarchy.num_parameters)
        metrics["bits_per_pixel"] = 32.0 * fit.hierarchy.num_parameters / samples
        if output_path is not None:
            output_path.mkdir(exist_ok=True, parents=True)
            for index, (camera, _) in enumerate(data_loader):
                outputs = self.model.get_outputs_for_camera(camera=camera)
                file = output_path / f"{image_prefix}_img_{index:04d}.png"
                torchvision.utils.save_image(outputs["rgb"].permute(2, 0, 1).cpu(), file)
            if self.miner.is_image:
                for level in sorted(fit.hierarchy.levels):
                    file = output_path / f"{image_prefix}_blocks_{level}.png"
                    torchvision.utils.save_image(blocks_picture(fit, level).permute(2, 0, 1), file)
        self.train()
        return metrics | ({f"{name}_std": 0.0 for name in metrics} if get_std else {})


def blocks_picture(fit: Fitting, level: int) -> Tensor:
    """The reconstruction at a level with the frames of the blocks whose networks it comes from (MINER, figure 4).

    Args:
        fit: a fit of an image.
        level: what has been trained from the coarsest level to this one is shown.
    Returns: picture [h, w, 3] in [0, 1], of the level's size or a fraction of it that fits into LARGEST_PICTURE.
    """
    hierarchy = fit.hierarchy
    shown = level
    while max(hierarchy.grids[shown].shape) > LARGEST_PICTURE and shown + 1 < len(hierarchy.grids):
        shown += 1
    values = hierarchy.reconstruct(shown).cpu().clamp(0.0, 1.0)
    picture = values[..., :3] if hierarchy.channels >= 3 else values[..., :1].expand(-1, -1, 3)
    picture = picture.clone()
    colors = torch.tensor(LEVEL_COLORS)
    for j in sorted(hierarchy.levels, reverse=True):
        if j < level:
            continue
        grid: BlockGrid = hierarchy.grids[j]
        extent = grid.block_extent / 2**shown
        if extent < 4:
            continue
        for row, column in grid.coordinates(hierarchy.levels[j].index.cpu().numpy()) * extent:
            top, left = int(row), int(column)
            bottom, right = (
                min(int(row + extent), picture.shape[0]) - 1,
                min(int(column + extent), picture.shape[1]) - 1,
            )
            if bottom < top or right < left:
                continue
            color = colors[j % len(colors)]
            picture[top, left : right + 1] = picture[bottom, left : right + 1] = color
            picture[top : bottom + 1, left] = picture[top : bottom + 1, right] = color
    return picture
