"""The guard lowers the weight of depth that keeps colours from being explained, and leaves other depth alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch

from depthnerf_ns.guard import CONSISTENT, REDUCTION, TESTS, DepthGuard

STEPS = 2000


def run(
    guard: DepthGuard, error: Callable[[int, float], float], start: int = 0, stop: int = STEPS
) -> tuple[list[float], list[str]]:
    """Train for some steps: `error` gives the colour error of a step at the weight of depth that the guard gives it."""
    weights, messages = [], []
    for step in range(start, stop):
        weights.append(guard.multiplier(step))
        message = guard.observe(step, error(step, weights[-1]))
        messages += [message] if message else []
    return weights, messages


def new_guard() -> DepthGuard:
    guard = DepthGuard()
    guard.set_schedule(STEPS)
    return guard


def noise(step: int) -> float:
    return math.exp(0.05 * math.sin(12.9898 * step**1.5))


def good_depth(step: int, weight: float) -> float:
    """Errors fall as training goes on, quickly at first, whatever the weight."""
    return 0.1 * math.exp(-3.0 * step / STEPS - 2.0 * min(step / 60, 1.0)) * noise(step)


def wrong_depth(step: int, weight: float) -> float:
    return good_depth(step, weight) * (1.5 if weight > 0.05 else 1.0)


def test_good_depth_keeps_its_weight():
    guard = new_guard()
    weights, messages = run(guard, good_depth)
    assert not messages and float(guard.factor) == 1.0
    # It pauses in the tests only: two windows of each.
    assert sum(weight == 0 for weight in weights) == 2 * guard.window * len(TESTS)
    assert set(weights) == {0.0, 1.0}


def test_wrong_depth_is_lowered_until_colours_do_not_mind():
    guard = new_guard()
    weights, messages = run(guard, wrong_depth)
    assert len(messages) == 2 and re.search(r"fell by 3\d % .* now 0.1 of", messages[0])  # 1 − 1/1.5, and noise
    assert weights[-1] < 0.05
    first = round(TESTS[0] * STEPS) + CONSISTENT * 4 * guard.window
    assert weights[first] == pytest.approx(REDUCTION) and weights[first - 1] == 0.0


def test_a_single_test_is_not_enough():
    guard = new_guard()
    end = round(TESTS[0] * STEPS) + 4 * guard.window
    run(guard, wrong_depth, stop=end)
    assert int(guard.against) == 1 and float(guard.factor) == 1.0
    run(guard, good_depth, start=end)
    assert int(guard.against) == 0 and float(guard.factor) == 1.0


def test_better_colours_with_depth_speak_for_it():
    guard = new_guard()
    run(guard, lambda step, weight: good_depth(step, weight) * (0.7 if weight > 0 else 1.0))
    assert float(guard.factor) == 1.0


def test_continues_from_a_checkpoint_as_if_never_interrupted():
    whole, (weights, messages) = new_guard(), ([], [])
    weights, messages = run(whole, wrong_depth)
    for stop in (70, 95, 130, 300):
        first = new_guard()
        early = run(first, wrong_depth, stop=stop)
        second = DepthGuard()
        second.load_state_dict(first.state_dict())
        second.set_schedule(STEPS)
        late = run(second, wrong_depth, start=stop)
        assert early[0] + late[0] == weights and early[1] + late[1] == messages
        assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())


def test_errors_that_are_no_numbers_do_not_count():
    guard = new_guard()
    run(guard, lambda step, weight: math.nan if step % 3 else good_depth(step, weight))
    assert float(guard.factor) == 1.0 and torch.isfinite(guard.sums).all()
    guard = new_guard()
    run(guard, lambda step, weight: 0.0)
    assert float(guard.factor) == 1.0


def test_without_a_schedule_nothing_is_tested():
    guard = DepthGuard()
    weights, messages = run(guard, wrong_depth)
    assert set(weights) == {1.0} and not messages
