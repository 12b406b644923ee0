"""Training steps on whole photographs, for models that draw pictures instead of rays."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.utils import profiler
from torch import Tensor
from torch.cuda.amp.grad_scaler import GradScaler
from torch.nn import Parameter

from common_ns.errors import InputError
from common_ns.nerfstudio_seam.compat import let_photographs_be_exported
from common_ns.nerfstudio_seam.image_datamanager import ImageDataManager
from common_ns.nerfstudio_seam.pipeline import FieldPipeline, FieldPipelineConfig, StepResult


@dataclass
class ImagePipelineConfig(FieldPipelineConfig):
    """Steps on whole photographs, and evaluation by scale."""

    _target: type = field(default_factory=lambda: ImagePipeline)
    """target class to instantiate"""


class ImagePipeline(FieldPipeline):
    """Differs from `FieldPipeline` in the step: its batch is one photograph, on one device.

    Raises: InputError if there are several devices.
    """

    config: ImagePipelineConfig
    datamanager: ImageDataManager  # type: ignore[assignment]

    def __init__(self, *args: Any, world_size: int = 1, **kwargs: Any) -> None:
        if world_size > 1:
            problem = f"this method trains on one device, and {world_size} were asked for"
            raise InputError(problem, "Leave out --machine.num-devices and --machine.num-machines")
        super().__init__(*args, world_size=world_size, **kwargs)
        let_photographs_be_exported(self)
        if self.test_mode == "val":  # a run that trains: bad photographs are found before anything else is set up
            self.datamanager.train_photographs()

    @profiler.time_function
    def get_train_loss_dict(self, step: int) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
        camera, batch = self.datamanager.next_train(step)
        outputs = self.model(camera)
        metrics = self.model.get_metrics_dict(outputs, batch)
        return outputs, self.model.get_loss_dict(outputs, batch, metrics), metrics

    @profiler.time_function
    def backward(self, step: int, grad_scaler: GradScaler, mixed_precision: bool = False) -> StepResult:
        """Add the gradients of the step's photograph to the parameters. Pictures are drawn in single precision."""
        _, losses, metrics = self.get_train_loss_dict(step)
        loss = functools.reduce(torch.add, losses.values())
        if loss.requires_grad:
            grad_scaler.scale(loss).backward()  # type: ignore[union-attr]
        losses = {name: value.detach() for name, value in losses.items()}
        self.hooks.after_backward(step, metrics)
        problem = self._problem_of(losses, {} if grad_scaler.is_enabled() else self.get_param_groups())
        if problem is not None:
            index = self.datamanager.image_of_step(step)
            problem += f", from {self.datamanager.train_dataset.image_filenames[index]}"
        return StepResult(loss.detach(), losses, metrics, problem)

    def _problem_of(self, losses: dict[str, Tensor], groups: dict[str, list[Parameter]]) -> str | None:
        """Name the first loss, or parameter group's gradient, that is not finite."""
        values = dict(losses)
        for name, parameters in groups.items():
            gradients = [parameter.grad.norm() for parameter in parameters if parameter.grad is not None]
            if gradients:
                values[f"the gradient of {name}"] = torch.stack(gradients).norm()
        return next((f"{name} is {float(value)}" for name, value in values.items() if not torch.isfinite(value)), None)
