"""A line of a config: the optimizer and the schedule that it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig

from common_ns.errors import InputError
from common_ns.nerfstudio_seam.param_groups import NetworkAdamConfig, adam, clip_norm


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


def test_a_gradient_is_shortened_as_a_whole_and_only_if_it_is_longer():
    layers = [torch.nn.Parameter(torch.zeros(size)) for size in (2, 1, 3)]
    for factor in (1.0, 0.01):
        layers[0].grad, layers[1].grad = factor * torch.tensor([3.0, 0.0]), factor * torch.tensor([4.0])
        clip_norm(layers, 0.5)
        shortened = min(1.0, 0.5 / (5.0 * factor)) * factor
        assert layers[0].grad.tolist() == pytest.approx([3.0 * shortened, 0.0])
        assert layers[1].grad.tolist() == pytest.approx([4.0 * shortened]) and layers[2].grad is None
    clip_norm(layers[2:], 0.5)


def test_a_bound_per_network_is_no_option_of_the_optimizer_itself():
    config = adam(2e-3, 2e-5, steps=100, warmup=10, eps=1e-6, max_norm_per_network=1e-3)["optimizer"]
    assert config == NetworkAdamConfig(lr=2e-3, eps=1e-6, max_norm_per_network=1e-3)
    optimizer = config.setup([torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer) is torch.optim.Adam and optimizer.defaults["eps"] == 1e-6
    config.max_norm = 1.0
    with pytest.raises(InputError, match=r"max-norm is 1 and max-norm-per-network 0\.001"):
        config.setup([torch.nn.Parameter(torch.zeros(1))])


def test_a_checkpoint_from_before_the_bound_per_network_goes_on():
    """Its optimizer had one group for all networks, as now."""
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    old = adam(2e-3, 2e-5, steps=100, warmup=10, eps=1e-6, max_norm=1e-3)["optimizer"].setup([weights[0]])
    new = adam(2e-3, 2e-5, steps=100, warmup=10, eps=1e-6, max_norm_per_network=1e-3)["optimizer"].setup([weights[1]])
    for step in range(2):
        weights[0].grad = torch.tensor([1.0, -2.0, 0.5])
        old.step()
        if step == 0:
            weights[1].data.copy_(weights[0])
            new.load_state_dict(old.state_dict())
    weights[1].grad = torch.tensor([1.0, -2.0, 0.5])
    new.step()
    assert torch.equal(weights[0], weights[1])
