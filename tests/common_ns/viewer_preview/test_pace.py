"""What a page is given to draw follows how fast it draws."""

from __future__ import annotations

import numpy as np
import pytest

from common_ns.viewer_preview.budget import Budget, next_size
from common_ns.viewer_preview.pace import FASTEST, SLOWEST, FrameRate, next_rung


def rate_of(times: list[float]) -> float | None:
    rate = FrameRate()
    for each in times:
        rate.frame(each)
    return rate.value


def test_frames_are_counted_whatever_the_pauses_and_however_messages_bunch():
    steady = np.arange(0.0, 2.0, 0.2)
    assert rate_of(list(steady)) == pytest.approx(5.0)
    assert rate_of([*steady, *(steady + 60.0)]) == pytest.approx(5.0), "the camera rested for a minute"
    assert rate_of([*steady, *(steady + 4.0)]) == pytest.approx(5.0, rel=0.01), "the hand stood still for two seconds"
    bunched = np.repeat(np.arange(0.0, 8.0, 0.8), 4)  # four at once, as when the interpreter is busy
    assert rate_of(list(bunched)) == pytest.approx(5.0, rel=0.6), "not a thousand"
    assert rate_of([0.0, 0.2, 0.4]) is None, "too few to tell"


def settled(cost: list[float], start: int) -> list[int]:
    """The rungs that a page takes, which needs so many seconds for a frame on each."""
    rungs = [start]
    for _ in range(12):
        rungs.append(next_rung(rungs[-1], len(cost), 1.0 / cost[rungs[-1]]))
    return rungs


@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize("speed", [0.02, 0.1, 0.4, 1.0, 5.0, 100.0])
def test_a_page_ends_at_one_rung_that_is_as_much_as_it_can_draw(start, speed):
    cost = [0.1 * 2.2**rung / speed for rung in range(6)]
    *_, before, last = settled(cost, start)
    assert before == last, "it goes up and down"
    assert 1.0 / cost[last] >= SLOWEST or last == 0
    assert 1.0 / cost[last] <= FASTEST or last == 5


def test_without_knowing_nothing_changes():
    assert next_rung(3, 6, None) == 3


@pytest.mark.parametrize(
    ("share", "gap", "work"), [(0.1, 0.0, 0.3), (0.5, 0.0, 2.0), (0.1, 20.0, 0.3), (1.0, 0.0, 0.1)]
)
def test_work_keeps_within_its_share_and_its_gap(share, gap, work):
    budget, now, done = Budget(share, gap), 0.0, []
    while now < 1000.0:
        if budget.due(now):
            done.append(now)
            budget.spent(now, now + work)
            now += work
        else:
            now += 0.01
    assert len(done) * work / 1000.0 <= share * 1.02
    between = np.diff(done)
    assert between.min() >= work + gap - 0.02
    expected = max(work / share, work + gap)
    assert between.max() <= expected + 0.05, "the share is used"


def test_portions_take_the_time_that_is_wanted():
    size, rate = 256, 4000.0
    for _ in range(12):
        size = next_size(size, size / rate, 0.25, 64, 16384)
    assert size / rate == pytest.approx(0.25, rel=0.01)
    assert next_size(1000, 100.0, 0.25, 600, 16384) == 600 and next_size(9000, 0.0, 0.25, 64, 10000) == 10000
