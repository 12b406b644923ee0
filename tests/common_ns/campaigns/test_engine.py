"""Campaigns as a whole, with programs that take a fraction of a second: what runs, and what runs again."""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from common_ns.campaigns import engine as engine_module
from common_ns.campaigns.description import Campaign
from common_ns.campaigns.engine import Engine
from common_ns.campaigns.plan import runs_of
from common_ns.campaigns.progress import Display
from common_ns.campaigns.record import read_record
from tests.common_ns.campaigns.fakes import Fakes
from tests.common_ns.campaigns.tried import campaign_of, carry_out, ends_of, figures_of

pytestmark = pytest.mark.skipif(os.name == "nt", reason="campaigns need the locks of Unix")


def test_a_campaign_is_carried_out_and_not_again(tmp_path: Path, fakes: Fakes):
    campaign, folder = campaign_of(tmp_path), tmp_path / "out"
    results, printed = carry_out(campaign, fakes, folder)
    assert set(results.values()) == {"done"} and len(results) == 4
    assert len(fakes.said("start")) == 4 * 3 and {line["threads"] for line in fakes.said("start")} == {"1"}
    figures = figures_of(campaign, folder)
    assert len({each["psnr"] for each in figures.values()}) == 2  # the same on both scenes, as the fakes do not look
    assert all(each["steps"] == 12 and "psnr_std" not in each for each in figures.values())
    assert printed.count("train begins") == 4 and "done (4 of 4 runs)" in printed
    assert all(re.match(r"\d\d:\d\d:\d\d .+", line) for line in printed.splitlines())
    assert not list(folder.glob("jobs/*"))
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    fakes.forget()
    results, printed = carry_out(campaign, fakes, folder)
    assert set(results.values()) == {"done"} and not fakes.said()
    assert printed[9:] == "some: all 4 runs are up to date\n"
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()} == before


@pytest.mark.slow
def test_what_is_damaged_killed_or_changed_is_done_again_and_nothing_else(tmp_path: Path, fakes: Fakes):
    """The proof that campaigns are for: figures are those of a campaign that nobody has disturbed."""

    def varied(more: int) -> Campaign:
        options = {"low": "--gain 1", "high": "--gain 2", "more": f"--gain {more}"}
        return campaign_of(tmp_path, methods=[{"method": "fake", "vary": {"gain": options}}], stages=["train", "eval"])

    whole, folder = varied(3), tmp_path / "out"
    carry_out(whole, fakes, tmp_path / "undisturbed", "debug")
    fakes.plan({"train two/fake-low/seed-42": ["kill@6", "kill@9", "kill@10"]})
    results, _ = carry_out(varied(9), fakes, folder, "debug")
    assert [name for name, result in results.items() if result == "failed"] == ["two, fake low, seed 42"]
    cut = next(run for run in runs_of(whole, folder) if run.name.startswith("one, fake high"))
    checkpoint = max(cut.checkpoints.iterdir())
    checkpoint.write_bytes(checkpoint.read_bytes()[:50])
    fakes.forget()
    results, _ = carry_out(whole := varied(3), fakes, folder)
    begun = [line["what"] for line in fakes.said("train") if "from" in line["what"]]
    assert sorted(begun) == [
        "train one/fake-high/seed-42 from 8",  # the last whole checkpoint
        "train one/fake-more/seed-42 from 0",  # another option: nothing is left of it
        "train two/fake-low/seed-42 from 8",
        "train two/fake-more/seed-42 from 0",
    ]
    assert figures_of(whole, folder) == figures_of(whole, tmp_path / "undisturbed")


def test_a_failed_run_leaves_the_others_alone_and_is_tried_again_by_the_next_run(tmp_path: Path, fakes: Fakes):
    fakes.plan({"train one/fake-low/seed-42": ["something broke"], "eval two/fake-low/seed-42": ["Error: no eval"]})
    campaign, folder = campaign_of(tmp_path), tmp_path / "out"
    results, printed = carry_out(campaign, fakes, folder, "debug")
    assert list(results.values()) == ["failed", "done", "failed", "done"]
    assert re.search(r"one, fake low, seed 42: train failed after .* s: something broke", printed)
    first, _, third, _ = runs_of(campaign, folder)
    assert ends_of(first) == ["failed"] and "eval" not in read_record(first.folder).stages  # type: ignore[union-attr]
    assert ends_of(third, "mesh") == ["done"]  # which does not need the evaluation
    assert "something broke" in (first.folder / "log.txt").read_text()
    fakes.forget()
    results, _ = carry_out(campaign, fakes, folder, "debug")
    assert set(results.values()) == {"done"}
    assert [line["what"] for line in fakes.said("start")] and len(fakes.said("train")) == 3
    assert {line["what"] for line in fakes.said("two")} == {f"eval two/fake-low/seed-42 {w}" for w in ("start", "end")}


RETRIES = {
    "kill@6": ("killed", 2, "from 4"),
    "torch.OutOfMemoryError: CUDA out of memory. Tried@6": ("out_of_memory", 3, "from 4"),
    "training ends at step 6: 10 in a row had to be left out@6": ("not_finite", 0, ""),
    "hang@6": ("timed_out", 0, ""),
    "it broke@6": ("failed", 0, ""),
}


@pytest.mark.parametrize("fault", RETRIES)
def test_each_end_is_tried_again_as_often_as_the_file_says(tmp_path: Path, fakes: Fakes, fault: str):
    end, times, resumed = RETRIES[fault]
    one = {"scenes": [{"path": "one"}], "methods": [{"method": "fake"}]}
    # Only what hangs has a limit: on a busy machine, others may take seconds to start.
    limited = {"timeout_minutes": 0.1} if fault.startswith("hang") else {}
    campaign, folder = campaign_of(tmp_path, **one, **limited), tmp_path / "out"
    fakes.plan({"train one/fake/seed-42": [fault] * 9})
    results, _ = carry_out(campaign, fakes, folder, "debug")
    (run,) = runs_of(campaign, folder)
    assert list(results.values()) == ["failed"] and ends_of(run) == [end] * (times + 1)
    assert len(fakes.said("from 0")) == 1 and (not resumed or len(fakes.said(resumed)) == times)
    if end == "out_of_memory":
        assert [line["chunk"] for line in fakes.said("from")] == [4096, 2048, 1024, 512]
    fakes.plan({})
    results, _ = carry_out(campaign_of(tmp_path, **one), fakes, folder, "debug")
    assert list(results.values()) == ["done"] and read_record(run.folder).figures["steps"] == 12  # type: ignore[union-attr]


def test_evaluation_without_gpu_memory_takes_smaller_chunks(tmp_path: Path, fakes: Fakes):
    campaign, folder = campaign_of(tmp_path), tmp_path / "out"
    fakes.plan({"eval one/fake-low/seed-42": ["CUDA out of memory"] * 2})
    results, _ = carry_out(campaign, fakes, folder, "debug")
    assert set(results.values()) == {"done"}
    run = runs_of(campaign, folder)[0]
    assert "eval_num_rays_per_chunk: 1024" in run.load_config.read_text()
    assert ends_of(run, "eval") == ["out_of_memory", "out_of_memory", "done"] and ends_of(run) == ["done"]
    fakes.forget()
    carry_out(campaign, fakes, folder, "debug")
    assert not fakes.said()


@pytest.mark.slow
def test_without_memory_fewer_run_at_once(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine_module, "available_cores", lambda: 3)
    fakes.plan({"train one/fake-low/seed-42": ["MemoryError"], "train two/fake-low/seed-42": ["MemoryError"]})
    campaign = campaign_of(tmp_path)
    printed = io.StringIO()
    engine = Engine(campaign, tmp_path / "out", "local", Display(Console(file=printed, width=400)), fakes.programs)
    assert set(engine.run().values()) == {"done"} and engine.limit == 1
    assert "out of memory: 2 at once from now on" in printed.getvalue()


def test_a_full_disk_pauses_and_goes_on(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch):
    fakes.plan({"train one/fake-low/seed-42": ["disk@6"]})
    campaign, folder = campaign_of(tmp_path), tmp_path / "out"
    spaces = [False, False, True]
    monkeypatch.setattr(Engine, "_has_space", lambda engine: spaces.pop(0) if spaces else True)
    results, printed = carry_out(campaign, fakes, folder, patience=0.1)
    assert set(results.values()) == {"done"} and not spaces
    assert len([line for line in printed.splitlines() if "nothing new starts until" in line]) == 1
    assert ends_of(runs_of(campaign, folder)[0]) == ["disk_full", "done"]
    assert figures_of(campaign, folder)["one, fake low, seed 42"]["steps"] == 12


def test_steps_of_a_budget_in_core_seconds_are_timed_once(tmp_path: Path, fakes: Fakes):
    campaign = campaign_of(tmp_path, budget={"core_seconds": 10}, seeds=[0, 1], scenes=[{"path": "one"}])
    folder = tmp_path / "out"
    fakes.plan({"train fake-low/seed-0/timing": ["kill@3"]})
    results, printed = carry_out(campaign, fakes, folder)
    assert set(results.values()) == {"done"}
    assert printed.count("20 steps of 0.5 s for 10 core-seconds") >= 2
    starts = Counter(line["what"] for line in fakes.said("timing start"))
    assert sum(starts.values()) == 3  # once of each method, and again where it was killed
    record = read_record(runs_of(campaign, folder)[3].folder)
    assert record is not None and record.budget == {"core_seconds": 10.0, "core_seconds_per_step": 0.5, "steps": 20}
    assert record.figures["steps"] == 20 and "--max-num-iterations 20" in " ".join(record.stages["train"].command)
    fakes.forget()
    carry_out(campaign, fakes, folder)
    assert not fakes.said()


def test_one_after_the_other_in_this_process(tmp_path: Path, fakes: Fakes):
    campaign, folder = campaign_of(tmp_path), tmp_path / "out"
    fakes.plan({"train one/fake-low/seed-42": ["kill@6"]})
    results, _ = carry_out(campaign, fakes, folder, "debug")
    assert set(results.values()) == {"done"} and ends_of(runs_of(campaign, folder)[0]) == ["killed", "done"]
    figures_of(campaign, folder)


def test_steps_that_cannot_be_timed_fail_their_run_in_one_line(tmp_path: Path, fakes: Fakes):
    campaign = campaign_of(tmp_path, budget={"core_seconds": 10}, scenes=[{"path": "one"}])
    fakes.plan({"train fake-low/seed-42/timing": ["it broke"]})
    results, _ = carry_out(campaign, fakes, tmp_path / "out", "debug")
    assert list(results.values()) == ["failed", "done"]
    log = (runs_of(campaign, tmp_path / "out")[0].folder / "log.txt").read_text()
    assert "Error: " in log and "steps of one, fake low, seed 42 could not be timed (failed: it broke)" in log
