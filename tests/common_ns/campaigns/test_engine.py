"""Campaigns as a whole, with programs that take a fraction of a second: nothing lost, nothing twice."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from common_ns.campaigns import engine as engine_module
from common_ns.campaigns.description import Campaign, read_campaign
from common_ns.campaigns.engine import Engine
from common_ns.campaigns.plan import Run, runs_of
from common_ns.campaigns.progress import Display
from common_ns.campaigns.record import TIMING, read_record
from common_ns.campaigns.work import is_taken
from common_ns.errors import InputError

sys.path.insert(0, str(Path(__file__).parent))
from fakes import Fakes, write_slurm

pytestmark = pytest.mark.skipif(os.name == "nt", reason="campaigns need the locks of Unix")
FILE: dict = {
    "scenes": [{"path": "one"}, {"path": "two"}],
    "methods": [{"method": "fake", "vary": {"gain": {"low": "--gain 1", "high": "--gain 2"}}}],
    "stages": ["train", "eval", "mesh"],
    "retry": {"killed": 2, "timed_out": 0},
    "resources": {"cores": 1, "gpus": 0},
}


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    for name in ("FAKE_FOLDER", "FAKE_TESTS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[3]), *sys.path]))
    monkeypatch.setattr(engine_module, "LOOK", 0.03)
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "image").write_text(name)
    return Fakes(tmp_path / "fakes")


def campaign_of(folder: Path, **others: object) -> Campaign:
    """The campaign with other values of some keys."""
    file = folder / "some.yaml"
    file.write_text(json.dumps({**FILE, "data": str(folder / "data"), **others}))  # which is YAML, too
    return read_campaign(file)


def carry_out(campaign: Campaign, fakes: Fakes, folder: Path, place: str = "local", **more: object) -> tuple[dict, str]:
    """Run it. Returns: what became of the runs, and what was printed."""
    printed = io.StringIO()
    display = Display(Console(file=printed, width=400, highlight=False, soft_wrap=True))
    engine = Engine(campaign, folder, place, display, fakes.programs, **more)  # type: ignore[arg-type]
    return engine.run(), printed.getvalue()


def figures_of(campaign: Campaign, folder: Path) -> dict[str, dict[str, float]]:
    """Figures of all runs that do not depend on time."""
    found = {}
    for run in runs_of(campaign, folder):
        record = read_record(run.folder)
        assert record is not None and record.state == "done", run.name
        found[run.name] = {name: value for name, value in record.figures.items() if name not in TIMING}
    return found


def ends_of(run: Run, stage: str = "train") -> list[str]:
    record = read_record(run.folder)
    assert record is not None
    return [attempt.end for attempt in record.stages[stage].attempts]


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
    one = {"scenes": [{"path": "one"}], "methods": [{"method": "fake"}], "timeout_minutes": 0.03}
    campaign, folder = campaign_of(tmp_path, **one), tmp_path / "out"
    fakes.plan({"train one/fake/seed-42": [fault] * 9})
    results, _ = carry_out(campaign, fakes, folder, "debug")
    (run,) = runs_of(campaign, folder)
    assert list(results.values()) == ["failed"] and ends_of(run) == [end] * (times + 1)
    assert len(fakes.said("from 0")) == 1 and (not resumed or len(fakes.said(resumed)) == times)
    if end == "out_of_memory":
        assert [line["chunk"] for line in fakes.said("from")] == [4096, 2048, 1024, 512]
    fakes.plan({})
    results, _ = carry_out(campaign, fakes, folder, "debug")
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


# What follows starts the driver as a process of its own.

DRIVER = """
import sys
from pathlib import Path
from common_ns.campaigns import engine
from common_ns.campaigns.description import read_campaign
from common_ns.campaigns.progress import Display
engine.LOOK = 0.03
engine.available_cores = lambda: 2
try:
    file, folder, programs, place = sys.argv[1:]
    results = engine.Engine(read_campaign(file), Path(folder), place, Display(), Path(programs)).run()
except KeyboardInterrupt:
    sys.exit(130)
sys.exit(int("failed" in results.values()))
"""


def start_driver(folder: Path, fakes: Fakes, place: str = "local") -> subprocess.Popen:
    words = [sys.executable, "-c", DRIVER, str(folder / "some.yaml"), str(folder / "out"), str(fakes.programs), place]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def wait_for(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


SLOW = {"methods": [{"method": "fake", "options": "--pace 0.1"}], "stages": ["train", "eval"]}


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


def test_of_two_drivers_none_does_a_run_twice(tmp_path: Path, fakes: Fakes):
    campaign = campaign_of(tmp_path, **SLOW, seeds=[0, 1])
    drivers = [start_driver(tmp_path, fakes) for _ in range(2)]
    printed = [driver.communicate(timeout=60)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], printed
    counts = Counter(line["what"] for line in fakes.said("start"))
    assert len(counts) == 8 and set(counts.values()) == {1}
    figures_of(campaign, tmp_path / "out")
    assert any("is carried out by another process" in text for text in printed)


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


def test_one_after_the_other_in_this_process(tmp_path: Path, fakes: Fakes):
    campaign, folder = campaign_of(tmp_path), tmp_path / "out"
    fakes.plan({"train one/fake-low/seed-42": ["kill@6"]})
    results, _ = carry_out(campaign, fakes, folder, "debug")
    assert set(results.values()) == {"done"} and ends_of(runs_of(campaign, folder)[0]) == ["killed", "done"]
    figures_of(campaign, folder)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(engine_module, "SLURM_LOOK", 1)
    return folder


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
    wait_for(lambda: all(is_taken(run) and fakes.said("from 0") for run in runs))
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=20)
    assert driver.returncode == 130 and len(list(slurm.glob("cancelled-*"))) == 2
    wait_for(lambda: not any(is_taken(run) for run in runs), 5.0)
    assert [ends_of(run) for run in runs] == [["interrupted"], ["interrupted"]]


def test_steps_that_cannot_be_timed_fail_their_run_in_one_line(tmp_path: Path, fakes: Fakes):
    campaign = campaign_of(tmp_path, budget={"core_seconds": 10}, scenes=[{"path": "one"}])
    fakes.plan({"train fake-low/seed-42/timing": ["it broke"]})
    results, _ = carry_out(campaign, fakes, tmp_path / "out", "debug")
    assert list(results.values()) == ["failed", "done"]
    log = (runs_of(campaign, tmp_path / "out")[0].folder / "log.txt").read_text()
    assert "Error: " in log and "steps of one, fake low, seed 42 could not be timed (failed: it broke)" in log


def test_without_a_cluster_it_is_said_in_one_line(tmp_path: Path, fakes: Fakes):
    with pytest.raises(InputError, match=r"no SLURM here \(no srun\)\. .*--on local"):
        carry_out(campaign_of(tmp_path), fakes, tmp_path / "out", "slurm")
