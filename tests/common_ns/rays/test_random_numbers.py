"""Random numbers of rays by name, and values with a row for each ray."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from common_ns.rays import per_ray
from common_ns.rays.random_numbers import KEY, RayRandomness, standard_normal


class Numbers(NamedTuple):
    first: Tensor
    second: Tensor


class Losses(NamedTuple):
    always: Tensor
    seldom: Tensor | None


def test_columns_are_in_the_order_of_the_fields_and_each_belongs_to_one():
    randomness = RayRandomness(Numbers, second=1, first=3)
    drawn = torch.arange(20.0).reshape(5, 4)
    numbers = randomness.named(drawn)
    assert randomness.width == 4
    assert torch.equal(numbers.first, drawn[:, :3]) and torch.equal(numbers.second, drawn[:, 3:])


def test_numbers_come_with_rays_or_are_drawn():
    randomness = RayRandomness(Numbers, first=2, second=1)
    came = torch.rand(6, 3)
    assert torch.equal(randomness.of({KEY: came}, 6, came.device).first, came[:, :2])
    torch.manual_seed(4)
    expected = torch.rand(6, 3)
    torch.manual_seed(4)
    assert torch.equal(torch.cat(randomness.of({}, 6, came.device), dim=-1), expected)


def test_rows_are_cut_and_joined_in_tensors_and_in_named_tuples():
    values = {"rgb": torch.rand(7, 3), "losses": Losses(torch.rand(7, 1), None), "level": 3, "table": torch.rand(5, 2)}
    parts = [per_ray.rows(values, 7, part) for part in (slice(0, 3), slice(3, 7))]
    assert parts[0].keys() == {"rgb", "losses"} and parts[0]["losses"].always.shape == (3, 1)
    joined = per_ray.joined([part["losses"] for part in parts])
    assert isinstance(joined, Losses) and torch.equal(joined.always, values["losses"].always) and joined.seldom is None
    assert torch.equal(per_ray.joined([part["rgb"] for part in parts]), values["rgb"])
    names = per_ray.tensors(per_ray.rows(values, 7))
    assert list(names) == ["rgb", "losses.always"]
    assert torch.equal(per_ray.mapped(values["losses"], lambda x: 2 * x).always, 2 * values["losses"].always)


def test_normal_numbers_follow_from_uniform_ones():
    """Their distribution is that of torch.randn, and the ends of the uniform range are finite."""
    uniform = (torch.arange(100_000) + 0.5) / 100_000
    normal = standard_normal(uniform)
    assert abs(float(normal.mean())) < 1e-4 and float(normal.var()) == pytest.approx(1.0, abs=1e-3)
    for bound in (-2.0, -0.5, 0.0, 1.0, 2.5):
        share = 0.5 * (1.0 + math.erf(bound / math.sqrt(2.0)))
        assert float((normal < bound).double().mean()) == pytest.approx(share, abs=1e-4)
    ends = standard_normal(torch.tensor([0.0, 1.0 - 2.0**-24]))
    assert torch.isfinite(ends).all() and ends[0] < -5.0 and ends[1] > 5.0
