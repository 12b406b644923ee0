"""Campaigns on a cluster: one array, and what it loses again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from common_ns.campaigns.plan import runs_of
from common_ns.campaigns.work import is_taken
from common_ns.errors import InputError
from tests.common_ns.campaigns.fakes import Fakes
from tests.common_ns.campaigns.tried import SLOW, campaign_of, carry_out, ends_of, start_driver, wait_for

pytestmark = pytest.mark.skipif(os.name == "nt", reason="campaigns need the locks of Unix")


def test_a_cluster_gets_one_array_and_what_it_loses_again(tmp_path: Path, fakes: Fakes, slurm: Path):
    asked = {"partition": "gpu", "time_minutes": 30, "array": 2, "setup": ["export FAKE_SETUP=1"], "account": "me"}
    campaign = campaign_of(tmp_path, slurm=asked, stages=["train", "eval"])
    fakes.plan({"train two/fake-low/seed-42": ["kill-job@6"], "eval one/fake-low/seed-42": ["it broke"]})
    results, printed = carry_out(campaign, fakes, tmp_path / "out", "slurm")
    assert list(results.values()) == ["failed", "done", "done", "done"]
    first, second = sorted(slurm.glob("script-*"))
    script = first.read_text()
    wanted = ("partition=gpu", "time=30", "array=0-3%2", "account=me", "cpus-per-task=1", "job-name=some")
    assert all(f"#SBATCH --{each}\n" in script for each in wanted) and "\nexport FAKE_SETUP=1\n" in script
    assert "--array" not in second.read_text()  # the one that was lost
    assert "two, fake low, seed 42: its process was ended, again" in printed
    assert ends_of(runs_of(campaign, tmp_path / "out")[2]) == ["killed", "done"]


def test_ctrl_c_cancels_jobs_of_a_cluster(tmp_path: Path, fakes: Fakes, slurm: Path):
    campaign, folder = campaign_of(tmp_path, **{**SLOW, "methods": [{"method": "fake", "options": "--pace 1"}]}), "out"
    driver = start_driver(tmp_path, fakes, "slurm")
    runs = runs_of(campaign, tmp_path / folder)
    wait_for(lambda: all(map(is_taken, runs)) and len(fakes.said("from 0")) == 2)
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=20)
    assert driver.returncode == 130 and len(list(slurm.glob("cancelled-*"))) == 2
    wait_for(lambda: not any(is_taken(run) for run in runs), 5.0)
    assert [ends_of(run) for run in runs] == [["interrupted"], ["interrupted"]]


def test_without_a_cluster_it_is_said_in_one_line(tmp_path: Path, fakes: Fakes):
    with pytest.raises(InputError, match=r"no SLURM here \(no srun\)\. .*--on local"):
        carry_out(campaign_of(tmp_path), fakes, tmp_path / "out", "slurm")
