"""A line of a config: the optimizer and the schedule that it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig

from common_ns.nerfstudio_seam.param_groups import adam


@dataclass
class OtherAdamConfig(AdamOptimizerConfig):
    """Another kind of optimizer."""


def test_the_learning_rate_ramps_up_and_ends_where_it_was_told_to():
    group = adam(2e-3, 2e-5, steps=100, warmup=10, ramp_from=0.1, eps=1e-8, max_norm=0.5, kind=OtherAdamConfig)
    assert group["optimizer"] == OtherAdamConfig(lr=2e-3, eps=1e-8, max_norm=0.5)
    optimizer = group["optimizer"].setup([torch.nn.Parameter(torch.zeros(1))])
    schedule = group["scheduler"].setup().get_scheduler(optimizer, 2e-3)
    rates = []
    for _ in range(101):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.1 * 2e-3)
    assert rates[50] == pytest.approx(2e-4) and rates[100] == pytest.approx(2e-5)
