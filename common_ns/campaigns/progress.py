"""What a campaign is doing: one live table on a terminal, and elsewhere a line for each event."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from common_ns.campaigns.description import Campaign
from common_ns.campaigns.plan import Run
from common_ns.campaigns.record import FILE, PROGRESS, RunRecord, read_record
from common_ns.campaigns.watched import read_progress

RENEW = 1.0
"""Seconds between two looks at records."""
SELF_ENDING = 500_000
"""A training that is said to have more steps ends by itself before: how far it is, is not known."""


@dataclass(frozen=True)
class Activity:
    """What is happening to a run."""

    stage: str
    """Its stage."""
    since: datetime
    """When the stage's process was started."""
    steps: str = ""
    """Steps of training that are done, of how many."""
    until: datetime | None = None
    """When the stage is going to end, about."""


def activity_of(folder: Path, record: RunRecord, lasted: Mapping[str, float], now: datetime) -> Activity | None:
    """What is happening to a run; None if nothing is.

    Args:
        folder, record: the run's.
        lasted: seconds that each stage has taken in other runs.
        now: the time.
    """
    stage = next((name for name, known in record.stages.items() if known.state == "running" and known.attempts), None)
    if stage is None or record.state != "running":
        return None
    since = datetime.fromisoformat(record.stages[stage].attempts[-1].started)
    until = since + timedelta(seconds=lasted[stage]) if stage in lasted else None
    lines = read_progress(folder / PROGRESS) if stage == "train" else []
    if not lines:
        return Activity(stage, since, "", until)
    last, total = lines[-1], lines[-1].get("total", 0)
    done = last["step"] + 1
    if not 0 < total <= SELF_ENDING:
        return Activity(stage, since, f"{done:,}", until)
    begun = next((line for line in reversed(lines[:-1]) if last["seconds"] - line["seconds"] > 60.0), lines[0])
    steps, seconds = last["step"] - begun["step"], last["seconds"] - begun["seconds"]
    if steps > 0:
        until = now + timedelta(seconds=(total - done) * seconds / steps)
    return Activity(stage, since, f"{done:,} of {total:,}", until)


class Display:
    """Shows the progress of a campaign.

    Args:
        console: where to; None: standard output.
        quiet: show nothing.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True, emoji=False)
        self.quiet = quiet
        self.live: Live | None = None
        self._looked = 0.0
        self._told: set[tuple[str, str]] = set()

    @contextmanager
    def showing(self, campaign: Campaign, runs: list[Run], waiting: list[Run]) -> Iterator[None]:
        """Within it, records are followed.

        Args:
            campaign, runs: which.
            waiting: those of the runs that there is something to do for.
        """
        self.runs, self.campaign, self.total = waiting, campaign, len(runs)
        self.up_to_date = len(runs) - len(waiting)
        # What earlier calls left, and is out of date, is no news.
        self._seen = {run.name: _changed(run) for run in waiting}
        self._records = {run.name: read_record(run.folder) for run in waiting}
        self._counts = {name: _counts(record) for name, record in self._records.items()}
        self._states = {run.name: "waiting" for run in waiting}
        self._lasted: dict[str, list[float]] = {}
        self.say(f"{campaign.name}: {len(waiting)} of {len(runs)} runs to do" if waiting else self._nothing())
        if self.quiet or not waiting or not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, get_renderable=self.table, refresh_per_second=1, transient=True) as self.live:
            try:
                yield
            finally:
                self.live = None

    def _nothing(self) -> str:
        return f"{self.campaign.name}: all {self.total} runs are up to date"

    def say(self, text: str) -> None:
        """Print a line that is about no single run."""
        if not self.quiet:
            self.console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False)

    def tell(self, run: Run, text: str, once: bool = False) -> None:
        """Print a line about a run; if asked for, only the first time."""
        if once and (run.name, text) in self._told:
            return
        self._told.add((run.name, text))
        self.say(f"{run.name}: {text}")

    def look(self) -> None:
        """Read the records that have changed, and tell what is new."""
        for run in self.runs:
            changed = _changed(run)
            if self._seen[run.name] == changed:
                continue
            self._seen[run.name] = changed
            record = read_record(run.folder)
            if record is not None:
                self._records[run.name] = record
                self._tell_new(run, record)

    def _tell_new(self, run: Run, record: RunRecord) -> None:
        before = self._counts[run.name]
        timed = record.budget.get("core_seconds_per_step")
        if timed and "train" not in before:
            text = (
                f"{record.budget['steps']:,} steps of {timed:.3g} s for {record.budget['core_seconds']:g} core-seconds"
            )
            self.tell(run, text, once=True)
        self._counts[run.name] = _counts(record)
        for stage, known in record.stages.items():
            first, begun, ended = before.get(stage, ("", 0, 0))
            if not known.attempts or known.attempts[0].started != first:  # it began anew
                begun = ended = 0
            for number, attempt in enumerate(known.attempts):
                last_runs = known.state == "running" and number == len(known.attempts) - 1
                if number >= begun and self.live is None:
                    self.tell(run, f"{stage} begins")
                if number >= ended and not last_runs:
                    reason = f": {attempt.detail}" if attempt.detail else ""
                    if attempt.end != "done":
                        self.tell(
                            run, f"{stage} {attempt.end.replace('_', ' ')} after {_span(attempt.seconds)}{reason}"
                        )
                    else:
                        self._lasted.setdefault(stage, []).append(attempt.seconds)
                        if self.live is None:
                            self.tell(run, f"{stage} done in {_span(attempt.seconds)}")
        if record.state in ("done", "failed") and self._states[run.name] != record.state and self._counts[run.name]:
            finished = sum(state in ("done", "failed") for name, state in self._states.items() if name != run.name)
            if record.state == "failed" or self.live is None:
                self.tell(run, f"{record.state} ({self.up_to_date + finished + 1} of {self.total} runs)")
        self._states[run.name] = record.state

    def table(self) -> Table:
        """The live table."""
        if time.monotonic() - self._looked < RENEW and hasattr(self, "_table"):
            return self._table
        self._looked = time.monotonic()
        now = datetime.now(timezone.utc)
        lasted = {stage: sum(each) / len(each) for stage, each in self._lasted.items()}
        states = list(self._states.values())
        done, failed = states.count("done") + self.up_to_date, states.count("failed")
        rest = f"{self.total - done - failed} to do" + (f", {failed} failed" if failed else "")
        table = Table(title=f"{self.campaign.name}: {done} of {self.total} done, {rest}", title_justify="left")
        for name, justify in (("run", "left"), ("stage", "left"), ("since", "right"), ("step", "right")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        table.add_column("until about", justify="right")
        for run in self.runs:
            record = self._records[run.name]
            doing = None if record is None else activity_of(run.folder, record, lasted, now)
            if doing is not None:
                until = "" if doing.until is None else _clock(max(doing.until, now))
                table.add_row(run.name, doing.stage, _clock(doing.since), doing.steps, until)
        self._table = table
        return table


def _changed(run: Run) -> int:
    """When the record of a run was last written, in ns; 0 if there is none."""
    try:
        return (run.folder / FILE).stat().st_mtime_ns
    except OSError:
        return 0


def _counts(record: RunRecord | None) -> dict[str, tuple[str, int, int]]:
    """Of each stage: when its first attempt was begun, attempts that were begun, and those that have ended."""
    if record is None:
        return {}
    counts = {}
    for stage, known in record.stages.items():
        runs = known.state == "running" and bool(known.attempts)
        first = known.attempts[0].started if known.attempts else ""
        counts[stage] = (first, len(known.attempts), len(known.attempts) - runs)
    return counts


def _clock(moment: datetime) -> str:
    """A time of day here, with the day if it is not today's."""
    local = moment.astimezone()
    today = local.date() == datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if today else "%d %b %H:%M")


def _span(seconds: float) -> str:
    """A duration in words."""
    if seconds < 60.0:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60.0)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
