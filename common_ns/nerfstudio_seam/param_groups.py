"""How a method's config says in one line what trains a group of parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig

from common_ns.errors import InputError
from common_ns.nerfstudio_seam.renames import SuiteConfig
from common_ns.nerfstudio_seam.schedulers import LogLinearSchedulerConfig


@dataclass
class NetworkAdamConfig(SuiteConfig, AdamOptimizerConfig):
    """Adam for a group of several networks, which share a learning rate and not the length of their gradients."""

    max_norm_per_network: float | None = None
    """The gradient of each network of the group by itself is shortened to this norm; None: it is not."""

    def setup(self, params: Any) -> torch.optim.Optimizer:
        """Build the optimizer.

        Raises: InputError if the norm of the whole group is to be bounded as well.
        """
        if self.max_norm is not None and self.max_norm_per_network is not None:
            problem = f"max-norm is {self.max_norm:g} and max-norm-per-network {self.max_norm_per_network:g}"
            raise InputError(problem, "Give one of them, and None for the other (--optimizers.GROUP.optimizer.…)")
        own = ("_target", "max_norm", "max_norm_per_network")
        kwargs = {name: value for name, value in vars(self).items() if name not in own}
        return self._target(params, **kwargs)


def clip_norm(parameters: Iterable[torch.nn.Parameter], limit: float) -> None:
    """Shorten the gradient of some parameters together to a norm, if it is longer.

    Args:
        parameters: those without a gradient count as 0.
        limit: the norm.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    norm = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]).norm()
    factor = (limit / (norm + torch.finfo(torch.float32).eps)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factor)


def adam(
    lr: float,
    lr_final: float,
    steps: int,
    warmup: int,
    ramp_from: float = 0.01,
    eps: float = 1e-15,
    max_norm: float | None = None,
    max_norm_per_network: float | None = None,
    kind: type[AdamOptimizerConfig] = AdamOptimizerConfig,
) -> dict[str, Any]:
    """An entry of a config's `optimizers`: Adam, whose learning rate decays log-linearly.

    Args:
        lr: learning rate at the start.
        lr_final: learning rate at the end.
        steps: length of the run.
        warmup: steps of the ramp at the start.
        ramp_from: factor on the learning rate at step 0, which the ramp raises to 1.
        eps: added to the root of the second moment. Rows of grids have tiny gradients.
        max_norm: the gradient of the group is shortened to it; None: it is not.
        max_norm_per_network: the gradient of each of the model's networks in the group is shortened to it by itself;
            None: it is not.
        kind: class of the optimizer's config; of no effect with `max_norm_per_network`.
    """
    scheduler = LogLinearSchedulerConfig(
        lr_final=lr_final, max_steps=steps, warmup_steps=warmup, warmup_multiplier=ramp_from
    )
    if max_norm_per_network is None:
        return {"optimizer": kind(lr=lr, eps=eps, max_norm=max_norm), "scheduler": scheduler}
    optimizer = NetworkAdamConfig(lr=lr, eps=eps, max_norm=max_norm, max_norm_per_network=max_norm_per_network)
    return {"optimizer": optimizer, "scheduler": scheduler}
