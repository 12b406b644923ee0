"""Learning rates against the formula and as nerfstudio's optimizers see them."""

import math

import pytest
import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers

from common_ns.nerfstudio_seam.schedulers import LogLinearSchedulerConfig, log_linear_decay


def test_end_points_and_middle():
    assert log_linear_decay(0, 5e-4, 5e-6, 1000) == pytest.approx(5e-4)
    assert log_linear_decay(1000, 5e-4, 5e-6, 1000) == pytest.approx(5e-6)
    assert log_linear_decay(5000, 5e-4, 5e-6, 1000) == pytest.approx(5e-6)
    assert log_linear_decay(500, 5e-4, 5e-6, 1000) == pytest.approx(5e-5)  # the geometric mean


def test_warm_up_ramp():
    def rate(step):
        return log_linear_decay(step, 1e-3, 1e-3, 1000, warmup_steps=100, warmup_multiplier=0.01)

    assert rate(0) == pytest.approx(1e-5)
    assert rate(50) == pytest.approx(1e-3 * (0.01 + 0.99 * math.sin(math.pi / 4)))
    assert rate(100) == pytest.approx(1e-3)


def test_scheduler_state_holds_plain_floats_only():
    parameter = torch.nn.Parameter(torch.zeros(3))
    config = {
        "fields": {"optimizer": AdamOptimizerConfig(lr=5e-4), "scheduler": LogLinearSchedulerConfig(max_steps=10)}
    }
    optimizers = Optimizers(config, {"fields": [parameter]})
    for step in range(3):
        parameter.grad = torch.ones(3)
        optimizers.optimizer_step_all()
        optimizers.scheduler_step_all(step)
    state = optimizers.schedulers["fields"].state_dict()
    assert all(type(rate) is float for rate in state["_last_lr"])
    expected = log_linear_decay(3, 5e-4, 5e-6, 10, 2500, 0.01)
    assert optimizers.optimizers["fields"].param_groups[0]["lr"] == pytest.approx(expected)
