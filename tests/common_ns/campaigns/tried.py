"""Campaigns that are tried as a whole, in this process or by a driver that can be ended."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from common_ns.campaigns.description import Campaign, read_campaign
from common_ns.campaigns.engine import Engine
from common_ns.campaigns.plan import Run, runs_of
from common_ns.campaigns.progress import Display
from common_ns.campaigns.record import TIMING, read_record
from tests.common_ns.campaigns.fakes import Fakes

FILE: dict = {
    "scenes": [{"path": "one"}, {"path": "two"}],
    "methods": [{"method": "fake", "vary": {"gain": {"low": "--gain 1", "high": "--gain 2"}}}],
    "stages": ["train", "eval", "mesh"],
    "retry": {"killed": 2, "timed_out": 0},
    "resources": {"cores": 1, "gpus": 0},
}


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


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


SLOW = {"methods": [{"method": "fake", "options": "--pace 0.2"}], "stages": ["train", "eval"]}
