"""Campaigns whose processes are ended: nothing lost, nothing twice, and no process left."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from common_ns.campaigns.plan import runs_of
from common_ns.campaigns.work import is_taken
from tests.common_ns.campaigns.fakes import Fakes
from tests.common_ns.campaigns.tried import SLOW, campaign_of, carry_out, ends_of, figures_of, start_driver, wait_for

pytestmark = pytest.mark.skipif(os.name == "nt", reason="campaigns need the locks of Unix")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, "whole group"])
def test_an_ended_driver_leaves_no_process_and_a_state_to_go_on_from(tmp_path: Path, fakes: Fakes, how):
    campaign, folder = campaign_of(tmp_path, **SLOW), tmp_path / "out"
    driver = start_driver(tmp_path, fakes)
    runs = runs_of(campaign, folder)
    wait_for(lambda: all(any(run.checkpoints.glob("*.ckpt")) for run in runs))
    begin = time.monotonic()
    if how == "whole group":  # as a terminal does
        os.killpg(driver.pid, signal.SIGINT)
    else:
        driver.send_signal(how)
    printed = driver.communicate(timeout=20)[0]
    assert driver.returncode == (-9 if how == signal.SIGKILL else 130)
    assert "Traceback" not in printed
    wait_for(lambda: not any(is_taken(run) for run in runs), 5.0)
    processes = {line["process"] for line in fakes.said()}
    wait_for(lambda: not any(Path(f"/proc/{process}").exists() for process in processes), 5.0)
    assert time.monotonic() - begin < 6.0
    assert [ends_of(run) for run in runs] == [["interrupted"], ["interrupted"]]
    assert set(carry_out(campaign, fakes, folder)[0].values()) == {"done"}
    assert len(fakes.said("from 0")) == 2 and len(fakes.said("from 4")) + len(fakes.said("from 8")) == 2


@pytest.mark.slow
def test_of_two_drivers_none_does_a_run_twice(tmp_path: Path, fakes: Fakes):
    campaign = campaign_of(tmp_path, **SLOW, seeds=[0, 1])
    drivers = [start_driver(tmp_path, fakes) for _ in range(2)]
    printed = [driver.communicate(timeout=60)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], printed
    counts = Counter(line["what"] for line in fakes.said("start"))
    assert len(counts) == 8 and set(counts.values()) == {1}
    figures_of(campaign, tmp_path / "out")
    assert any("is carried out by another process" in text for text in printed)


@pytest.mark.slow
def test_twenty_runs_and_random_kills_lose_nothing_and_do_nothing_twice(tmp_path: Path, fakes: Fakes):
    more = {"seeds": list(range(10)), "retry": {"killed": 40}, "stages": ["train", "eval"]}
    campaign = campaign_of(tmp_path, **more, methods=[{"method": "fake", "options": "--pace 0.03"}])
    folder = tmp_path / "out"
    rng, killed, over = random.Random(0), Counter(), threading.Event()

    def kill() -> None:
        """At random: stages' processes, and submitit's jobs and their controllers, of each kind as many."""
        marks = {"stage": str(fakes.programs), "job": "submitit.core._submit", "controller": "local._local"}
        while sum(killed.values()) < 24 and not over.wait(0.02):
            kind = min(marks, key=lambda kind: killed[kind])
            found = []
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if marks[kind] in words and str(tmp_path) in words and " -c " not in words:
                        found.append(int(entry.parent.name))
            if found:
                over.wait(rng.uniform(0.0, 0.5))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(found), signal.SIGKILL)
                    killed[kind] += 1

    driver = start_driver(tmp_path, fakes)
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        printed = driver.communicate(timeout=400)[0]
    finally:
        over.set()
        thread.join()
    assert driver.returncode == 0, printed
    assert sum(killed.values()) >= 15 and all(killed[kind] for kind in ("stage", "job", "controller")), killed
    runs = runs_of(campaign, folder)
    figures = figures_of(campaign, folder)
    assert len(figures) == 20 and all(each["steps"] == 12 for each in figures.values())
    ends = Counter(line["what"] for line in fakes.said(" end"))
    assert all(
        ends[f"{stage} {'/'.join(run.folder.parts[-3:])} end"] >= 1 for run in runs for stage in ("train", "eval")
    )
    overlapping(fakes.said())
    carry_out(campaign, fakes, tmp_path / "whole", "debug")
    assert figures_of(campaign, tmp_path / "whole") == figures


def overlapping(lines: list[dict]) -> None:
    """Raises: AssertionError if two processes have been at one run at the same time, as the ledger's order shows."""
    at_work: dict[str, int] = {}
    for line in lines:
        run = line["what"].split()[1]
        if line["what"].endswith("start"):
            at_work[run] = line["process"]  # the one before has ended, or was killed, and says nothing more
        assert at_work[run] == line["process"], f"two at {run}"
