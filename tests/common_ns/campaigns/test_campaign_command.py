"""`ns-campaign` and what it shows."""

from __future__ import annotations

import io
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from rich.console import Console

from common_ns.campaigns import progress as progress_module
from common_ns.campaigns.description import read_campaign
from common_ns.campaigns.engine import Engine
from common_ns.campaigns.plan import runs_of
from common_ns.campaigns.progress import Display, activity_of
from common_ns.campaigns.record import Attempt, RunRecord, StageRecord, read_record
from common_ns.campaigns.work import locked
from common_ns.errors import InputError
from common_ns.scripts import campaign as command
from tests.common_ns.campaigns.fakes import Fakes


@pytest.fixture(autouse=True)
def _methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "known_methods", lambda: {"fake", "miner-image"})


def write(folder: Path, **others: object) -> Path:
    content = {"data": str(folder / "data"), "scenes": [{"path": "one"}], "methods": [{"method": "fake"}]}
    file = folder / "some.yaml"
    file.write_text(json.dumps({**content, "seeds": [0, 1, 2], "resources": {"gpus": 0}, **others}))
    return file


def status(file: Path, folder: Path, capsys: pytest.CaptureFixture) -> list[str]:
    command.Status(file, folder).main()
    return capsys.readouterr().out.splitlines()


def carry_out(file: Path, folder: Path, fakes: Fakes) -> None:
    Engine(read_campaign(file), folder / "some", "debug", Display(quiet=True), fakes.programs).run()


def test_status_says_what_is_to_be_done_and_why(tmp_path: Path, fakes: Fakes, capsys: pytest.CaptureFixture):
    file, folder = write(tmp_path), tmp_path / "out"
    assert status(file, folder, capsys)[-1] == "some: 3 missing" and not folder.exists()
    fakes.plan({"train one/fake/seed-2": ["it broke@6"]})
    carry_out(file, folder, fakes)
    runs = runs_of(read_campaign(file), folder / "some")
    next(runs[1].checkpoints.glob("step-000000011.ckpt")).write_bytes(b"cut")
    lines = status(file, folder, capsys)
    assert lines[0].startswith("one, fake, seed 1: out of date (train: model/one/fake/run/nerfstudio_models/step-")
    assert lines[0].endswith("has 3 bytes instead of 152)") or "has 3 bytes instead of" in lines[0]
    assert lines[1:] == [
        "one, fake, seed 2: failed (train failed: it broke)",
        "some: 1 up to date, 1 out of date, 1 failed",
    ]
    with locked(runs[0].folder):
        assert status(file, folder, capsys)[0].startswith("one, fake, seed 0: running (")
    (tmp_path / "data" / "one" / "more").touch()
    assert (
        status(file, folder, capsys)[0] == "one, fake, seed 0: out of date (train: data changed, eval: train changed)"
    )
    (tmp_path / "data" / "one" / "more").unlink()
    record = read_record(runs[0].folder)
    assert record is not None
    record.versions["torch"] = "1.0"
    record.write(runs[0].folder)
    assert "1 runs were carried out with torch 1.0 (now " in "\n".join(status(file, folder, capsys))


def test_what_cannot_be_carried_out_is_refused_before_anything_starts(tmp_path: Path, fakes: Fakes):
    file = write(tmp_path, methods=[{"method": "fkae"}])
    with pytest.raises(InputError, match=r"there is no method 'fkae'\. Did you mean fake\?"):
        command.Run(file, tmp_path / "out").main()
    file = write(tmp_path, methods=[{"method": "miner-image"}], budget={"steps": 3})
    with pytest.raises(InputError, match="budget is given, and miner-image ends by itself"):
        command.Run(file, tmp_path / "out").main()
    file = write(tmp_path, scenes=[{"path": "three", "get": "from there"}])
    with pytest.raises(InputError, match=r"data is missing: .*three \(from there\)"):
        command.Run(file, tmp_path / "out").main()
    assert not (tmp_path / "out").exists()


def test_the_live_table_shows_what_runs_since_when_and_until_about_when(tmp_path: Path, fakes: Fakes):
    campaign = read_campaign(write(tmp_path))
    runs = runs_of(campaign, tmp_path / "out")
    now = datetime.now(timezone.utc)
    started = (now - timedelta(seconds=30)).isoformat()
    running = StageRecord("running", attempts=[Attempt(started, 0.0, 0.0, "killed")])
    RunRecord("one", "fake", 0, "running", {"train": running}).write(runs[0].folder)
    lines = [
        {"step": step, "core_seconds": 1.0, "seconds": 0.1 * step, "loss": 1.0, "total": 1000} for step in (0, 199)
    ]
    (runs[0].folder / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = io.StringIO()
    display = Display(Console(file=shown, width=120, force_terminal=True, color_system=None))
    with display.showing(campaign, runs, runs):
        display.look()
        display.console.print(display.table())
    text = shown.getvalue()
    assert "some: 0 of 3 done, 3 to do" in text and "one, fake, seed 0" in text and "200 of 1,000" in text
    record = read_record(runs[0].folder)
    assert record is not None
    doing = activity_of(runs[0].folder, record, {}, now)
    assert doing is not None and doing.until is not None and doing.stage == "train"
    assert (doing.until - now).total_seconds() == pytest.approx(80.0)  # 800 steps of a tenth of a second
    assert activity_of(runs[1].folder, RunRecord("one", "fake", 1), {}, now) is None


def test_without_a_terminal_each_event_is_told_once(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress_module, "RENEW", 0.0)
    campaign = read_campaign(write(tmp_path, seeds=[0]))
    (run,) = runs_of(campaign, tmp_path / "out")
    shown = io.StringIO()
    display = Display(Console(file=shown, width=200))
    attempt = Attempt(datetime.now(timezone.utc).isoformat(), 0.0, 0.0, "killed", "what watched it has gone, too")
    record = RunRecord("one", "fake", 0, "running", {"train": StageRecord("running", attempts=[attempt])})
    with display.showing(campaign, [run], [run]):
        for _ in range(2):
            record.write(run.folder)
            display.look()
        attempt.end, attempt.detail, attempt.seconds = "timed_out", "", 90.0
        record.stages["train"].state = record.state = "failed"
        record.write(run.folder)
        for _ in range(2):
            display.look()
    assert [line[9:] for line in shown.getvalue().splitlines()] == [
        "some: 1 of 1 runs to do",
        "one, fake, seed 0: train begins",
        "one, fake, seed 0: train timed out after 2 min",
        "one, fake, seed 0: failed (1 of 1 runs)",
    ]


def test_what_an_earlier_call_did_is_no_news_and_what_begins_anew_is(tmp_path: Path, fakes: Fakes):
    campaign = read_campaign(write(tmp_path, seeds=[0]))
    (run,) = runs_of(campaign, tmp_path / "out")
    shown = io.StringIO()
    display = Display(Console(file=shown, width=200))
    attempt = Attempt("2026-01-01T00:00:00+00:00", 60.0, 60.0, "done")
    record = RunRecord("one", "fake", 0, "done", {"train": StageRecord("done", attempts=[attempt])})
    record.write(run.folder)
    with display.showing(campaign, [run], [run]):
        display.look()
        attempt.started, attempt.seconds = "2026-01-02T00:00:00+00:00", 90.0
        record.write(run.folder)
        display.look()
    assert [line[9:] for line in shown.getvalue().splitlines()] == [
        "some: 1 of 1 runs to do",
        "one, fake, seed 0: train begins",
        "one, fake, seed 0: train done in 2 min",
        "one, fake, seed 0: done (1 of 1 runs)",
    ]
