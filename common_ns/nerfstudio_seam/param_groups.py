"""How a method's config says in one line what trains a group of parameters."""

from __future__ import annotations

from typing import Any

from nerfstudio.engine.optimizers import AdamOptimizerConfig

from common_ns.nerfstudio_seam.schedulers import LogLinearSchedulerConfig


def adam(
    lr: float,
    lr_final: float,
    steps: int,
    warmup: int,
    ramp_from: float = 0.01,
    eps: float = 1e-15,
    max_norm: float | None = None,
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
        kind: class of the optimizer's config.
    """
    scheduler = LogLinearSchedulerConfig(
        lr_final=lr_final, max_steps=steps, warmup_steps=warmup, warmup_multiplier=ramp_from
    )
    return {"optimizer": kind(lr=lr, eps=eps, max_norm=max_norm), "scheduler": scheduler}
