"""Training and rendering take turns."""

from __future__ import annotations

import threading
import time

import pytest

from common_ns.nerfstudio_seam.fair_lock import FairLock


def test_who_waits_has_it_before_a_loop_takes_it_again():
    lock, rounds, taken = FairLock(), [0], []

    def render() -> None:
        for _ in range(20):
            asked = rounds[0]
            with lock:
                taken.append(rounds[0] - asked)

    thread = threading.Thread(target=render)
    thread.start()
    while thread.is_alive():  # as a trainer does
        with lock:
            rounds[0] += 1
            time.sleep(0.002)
    assert len(taken) == 20 and max(taken) <= 2, "it has waited for the round in which it asked, and no more"


def test_one_at_a_time_in_the_order_in_which_they_came():
    lock, order, inside = FairLock(), [], []

    def work(number: int) -> None:
        with lock:
            inside.append(number)
            assert len(inside) == 1
            order.append(number)
            inside.remove(number)

    threads = []
    with lock:
        for number in range(8):
            threads.append(threading.Thread(target=work, args=(number,)))
            threads[-1].start()
            while len(lock._queue) < number + 2:
                time.sleep(0.001)
    for thread in threads:
        thread.join(timeout=10.0)
    assert order == list(range(8)) and not lock.locked()


def test_an_error_inside_and_an_interrupt_while_waiting_leave_it_to_others(monkeypatch):
    lock = FairLock()
    with pytest.raises(ValueError), lock:
        raise ValueError
    assert not lock.locked()
    lock.acquire()

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lock._changed, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lock.acquire()
    lock.release()
    assert not lock.locked()
    assert lock.acquire()
