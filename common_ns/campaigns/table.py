"""A campaign's results as tables: means over seeds and scenes, with what is missing, and why.

`write_table` writes table.md for reading, with others' published figures beside ours, and table.csv with a row for each
run in full precision. `tables_of`, `facts_of` and `failures_of` are what report.py shows, too.
"""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common_ns.campaigns.description import Campaign, Method
from common_ns.campaigns.plan import Run, runs_of, stages_of
from common_ns.campaigns.record import TIMING, RunRecord, StageRecord, read_record
from common_ns.data.files import written_whole

HIGHER = {"psnr", "ssim", "iou", "precision", "recall", "score", "f1", "consistency", "delta1", "fps", "sec"}
LOWER = {"lpips", "chamfer", "accuracy", "completeness", "overall", "outliers", "rmse", "rel", "error", "degrees"}
LOWER |= {"loss", "seconds", "memory", "params", "bits"}
"""A word of a figure's name that says whether the highest or the lowest value is the best. ns-eval-mesh's accuracy and
completeness are distances."""
OF_TRAINING = ("steps", "core_seconds", "seconds", "peak_memory_mb")
"""Figures that no evaluation is needed for."""
TIMED = "timing"
"""The stage that finds out how many steps a budget of core-seconds is; a record has it until it is done."""
DECIMALS = {"psnr": 2, "ssim": 3, "lpips": 3, "iou": 3}
"""Digits after the point that papers give; of other figures, as many as make three significant digits."""


@dataclass(frozen=True)
class Entry:
    """A run, and what is known about it."""

    run: Run
    record: RunRecord
    stages: Sequence[str]
    """That are carried out for it, in order."""

    def figure(self, name: str) -> float | None:
        """A figure, finite or not; None if there is none, or it comes from a stage that is not done any more."""
        there = all(stage in self.stages and self.end_of(stage) == "done" for stage in _stages_behind(name))
        return self.record.figures.get(name) if there else None

    def value(self, name: str) -> float | None:
        """A figure, if there is a finite one."""
        value = self.figure(name)
        return value if value is not None and math.isfinite(value) else None

    def reason(self, figure: str) -> str:
        """Why there is no such figure, in a few words; nothing if there is one, or it is not measured for this run."""
        if (value := self.figure(figure)) is not None:
            return "" if math.isfinite(value) else "not finite"
        for stage in _stages_behind(figure):
            if stage not in self.stages:
                return ""
            if self.end_of(stage) != "done":
                return self.end_of(stage)
        return self.record.state if self.record.state in ("running", "waiting") else ""

    def end_of(self, stage: str) -> str:
        """How a stage stands, in words: done, running, waiting, or how it has ended."""
        known = self.record.stages.get(stage) or self.record.stages.get(TIMED) or StageRecord()
        if known.state == "done":
            return "done"
        if self.record.state == "running" and known.state != "failed":
            return "running"
        ended = known.attempts[-1].end.replace("_", " ") if known.attempts else "failed"
        return ended if known.attempts or self.record.state == "failed" else "waiting"


@dataclass(frozen=True)
class Cell:
    """One place in a table."""

    value: str = ""
    """As shown: 31.20 ± 0.12."""
    note: str = ""
    """What is missing, and why; or which run it is."""
    mean: float = math.nan
    """To compare by."""
    complete: bool = False
    """No run that belongs to it is missing: only then it competes."""
    best: bool = False
    """Of its column."""


@dataclass(frozen=True)
class Row:
    """A method, or a published one."""

    name: str
    cells: Sequence[Cell]
    source: int = 0
    """Number of the published source, from 1; 0: measured here."""
    note: str = ""
    """What is missing in the whole row, and why."""


@dataclass(frozen=True)
class Table:
    """Rows and columns, without any markup."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Failure:
    """A stage that did not come to its end, and is not tried again."""

    run: Run
    stage: str
    end: str
    """In words."""
    attempts: int
    detail: str


def entries_of(campaign: Campaign, folder: Path) -> list[Entry]:
    """All runs of a campaign with their records, by scene, method and seed; those not begun have an empty one.

    Args:
        campaign: which.
        folder: OUTPUT_DIR/NAME.
    """
    scenes = {scene.name: number for number, scene in enumerate(campaign.scenes)}
    methods = {method.name: number for number, method in enumerate(campaign.methods)}
    runs = sorted(runs_of(campaign, folder), key=lambda run: (scenes[run.scene.name], methods[run.method.name]))
    return [
        Entry(
            run,
            read_record(run.folder) or RunRecord(run.scene.name, run.method.name, run.seed),
            stages_of(campaign, run),
        )
        for run in runs
    ]


def number_words(figure: str, value: float) -> str:
    """A figure of one run, as it is shown."""
    return _number(value, _decimals(figure, [value]))


def is_timing(name: str) -> bool:
    """Whether a figure differs between two runs of the same."""
    return name.removeprefix("train_") in TIMING


def direction(campaign: Campaign, figure: str) -> int:
    """1: the highest is the best. −1: the lowest. 0: neither, as of a number of steps."""
    words = figure.split("_")
    if figure == "core_seconds" and campaign.budget.core_seconds is not None:
        return 0  # the same for all, but for noise
    if figure in campaign.table.lower_is_better or any(word in LOWER for word in words):
        return -1
    return int(any(word in HIGHER for word in words))


def tables_of(campaign: Campaign, entries: Sequence[Entry]) -> list[Table]:
    """What there is to show.

    Returns: for one scene, a table of methods × figures; for several, one for each figure, methods × mean and scenes.
        Then one of the worst run of each method, if there are several of each.
    """
    figures, scenes = campaign.table.figures, [scene.name for scene in campaign.scenes]
    titles = {figure: figure + ["", " ↑", " ↓"][direction(campaign, figure)] for figure in figures}
    places = {
        figure: _decimals(figure, [v for e in entries if (v := e.value(figure)) is not None]) for figure in figures
    }

    def of(method: Method, scene: str) -> list[Entry]:
        return [entry for entry in entries if entry.run.method == method and entry.run.scene.name == scene]

    def column(figure: str, scene: str | None) -> list[Cell]:
        """A cell for each method; scene None: the mean over all."""
        if scene is None:
            cells = [
                _mean_cell([of(each, name) for name in scenes], figure, places[figure]) for each in campaign.methods
            ]
        else:
            cells = [_cell(of(each, scene), figure, places[figure]) for each in campaign.methods]
        return _with_best(cells, direction(campaign, figure), places[figure])

    def rows(columns: Sequence[tuple[str, str | None]]) -> list[Row]:
        cells = zip(*(column(*each) for each in columns))
        found = [_row(method.name, row) for method, row in zip(campaign.methods, cells)]
        for number, other in enumerate(campaign.table.published, start=1):
            stated = [
                (other.mean if scene is None else other.scenes.get(scene, {})).get(figure) for figure, scene in columns
            ]
            if any(value is not None for value in stated):
                row = [Cell("" if value is None else f"{value:,.10g}") for value in stated]
                found.append(Row(other.name, row, number))
        return found

    if len(scenes) == 1:
        tables = [Table(scenes[0], list(titles.values()), rows([(figure, scenes[0]) for figure in figures]))]
    else:
        over = [None, *scenes]
        tables = [
            Table(titles[figure], ["mean", *scenes], rows([(figure, each) for each in over])) for figure in figures
        ]
    compared = [figure for figure in figures if direction(campaign, figure) and not is_timing(figure)]
    if compared and len(scenes) * len(campaign.seeds) > 1:
        worst = [
            Row(method.name, [_worst_cell(campaign, entries, method, figure, places[figure]) for figure in compared])
            for method in campaign.methods
        ]
        tables.append(Table("Worst run of each method", [titles[figure] for figure in compared], worst))
    return tables


def legend_of(campaign: Campaign, tables: Sequence[Table]) -> list[str]:
    """What the signs in the tables mean, a sentence or two for each."""
    several = len(campaign.seeds) > 1
    lines = [f"Mean ± sample standard deviation over {len(campaign.seeds)} seeds." if several else "One seed."]
    if len(campaign.scenes) > 1:
        lines.append("Means over scenes weigh each scene the same.")
    lines.append("Bold: best of its column, among the methods of which no run is missing there. –: not measured.")
    if any(row.source for table in tables for row in table.rows):
        lines.append("Italics: published figures, as stated; they were not measured here and do not compete.")
    return lines


def sources_of(campaign: Campaign) -> list[str]:
    """The published rows' names and where they come from, in the order of their numbers."""
    return [": ".join(filter(None, [other.name, other.source])) for other in campaign.table.published]


def facts_of(campaign: Campaign, entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """What else belongs to the tables: how many runs, how long, when, and on what; as (label, text)."""
    states = Counter(entry.record.state for entry in entries)
    counts = ", ".join(
        f"{states[state]} {state}" for state in ("done", "failed", "running", "waiting") if states[state]
    )
    shape = f"{_count(len(campaign.scenes), 'scene')}, {_count(len(campaign.methods), 'method')}, "
    shape += ("seeds " if len(campaign.seeds) > 1 else "seed ") + ", ".join(map(str, campaign.seeds))
    facts = [("Runs", f"{_count(len(entries), 'run')}: {counts} ({shape})")]
    steps = sorted({int(entry.record.figures["steps"]) for entry in entries if "steps" in entry.record.figures})
    range_of_steps = f"{steps[0]:,}" + (f" to {steps[-1]:,}" if len(steps) > 1 else "") if steps else ""
    if campaign.budget.core_seconds is not None:
        came = f", which came to {range_of_steps} steps" if steps else ""
        facts.append(("Budget", f"{campaign.budget.core_seconds:,.10g} core-seconds of training each{came}"))
    elif campaign.budget.steps is not None:
        facts.append(("Budget", f"{campaign.budget.steps:,} steps of training each"))
    else:
        facts.append(("Budget", "each method's own" + (f", {range_of_steps} steps" if steps else "")))
    days = sorted({a.started[:10] for e in entries for s in e.record.stages.values() for a in s.attempts})
    if days:
        facts.append(("Date", days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"))
    for label, described in (
        ("Hardware", [_machine_words(entry.record) for entry in entries]),
        ("Versions", [", ".join(f"{k} {v}" for k, v in entry.record.versions.items()) for entry in entries]),
    ):
        groups = Counter(each for each in described if each)
        texts = [text if len(groups) == 1 else f"{_count(n, 'run')}: {text}" for text, n in groups.most_common()]
        if len(groups) > 1:
            texts.insert(0, "not the same for all runs")
        facts += [(label, "; ".join(texts))] if texts else []
    return [*facts, ("Command", f"ns-campaign run {campaign.file}")]


def failures_of(entries: Sequence[Entry]) -> list[Failure]:
    """Stages that have failed, in the tables' order."""
    found = []
    for entry in entries:
        record = entry.record
        broken = {"failed": ("failed", "running", "waiting"), "running": ("failed",)}.get(record.state, ())
        stages = [name for name, stage in record.stages.items() if stage.state in broken]
        for name in stages or (["start"] if record.state == "failed" else []):
            attempts = record.stages[name].attempts if name in record.stages else []
            detail = attempts[-1].detail if attempts else ""
            found.append(Failure(entry.run, name, entry.end_of(name), len(attempts), detail))
    return found


def markdown_of(campaign: Campaign, entries: Sequence[Entry]) -> str:
    """The content of table.md."""
    tables, failures, sources = tables_of(campaign, entries), failures_of(entries), sources_of(campaign)
    blocks = [f"# {_escaped(campaign.name)}"]
    blocks += [_escaped(campaign.about)] if campaign.about else []
    for table in tables:
        lines = [
            _line(["method", *map(_escaped, table.columns)]),
            _line(["---", *(["---:"] * len(table.columns))]),
        ]
        for row in table.rows:
            name = f"*{_escaped(row.name)}* [{row.source}]" if row.source else _escaped(row.name)
            name += f" ({_escaped(row.note)})" if row.note else ""
            lines.append(_line([name, *(_cell_text(cell, bool(row.source)) for cell in row.cells)]))
        blocks += [f"## {_escaped(table.title)}", "\n".join(lines)]
    blocks.append(" ".join(legend_of(campaign, tables)))
    used = sorted({row.source for table in tables for row in table.rows if row.source})
    blocks += ["\n".join(f"- [{n}] {_escaped(sources[n - 1])}" for n in used)] if used else []
    if failures:
        lines = [
            f"- {_escaped(f.run.name)}: {f.stage}: {_ended(f)}{'. ' + _escaped(f.detail) if f.detail else ''}"
            for f in failures
        ]
        blocks += [f"## {_count(len(failures), 'failure')}", "\n".join(lines)]
    facts = [f"- {k}: {f'`{v}`' if k == 'Command' else _escaped(v)}" for k, v in facts_of(campaign, entries)]
    return "\n\n".join([*blocks, "## Runs", "\n".join(facts)]) + "\n"


def csv_of(campaign: Campaign, entries: Sequence[Entry]) -> str:
    """The content of table.csv: a row for each run with all its figures in full precision, those of `TIMING` last."""
    known = {figure for entry in entries for figure in entry.record.figures}
    figures = [figure for figure in campaign.table.figures if figure in known]
    figures += sorted(known.difference(figures))
    machine = list(dict.fromkeys(key for entry in entries for key in entry.record.machine))
    versions = sorted({key for entry in entries for key in entry.record.versions})
    timing = [figure for figure in figures if is_timing(figure)]
    figures = [figure for figure in figures if not is_timing(figure)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["scene", "method", "seed", "state", "reason", *figures, *machine, *versions, *timing])
    for entry in entries:
        record = entry.record
        ends = [entry.end_of(stage) for stage in entry.stages]
        reason = next((end for end in ends if end not in ("done", "running", "waiting")), "")
        row = [record.scene, record.method, record.seed, record.state, reason]
        row += [_exact(entry.figure(figure)) for figure in figures]
        row += [record.machine.get(key, "") for key in machine] + [record.versions.get(key, "") for key in versions]
        writer.writerow([*row, *(_exact(entry.figure(figure)) for figure in timing)])
    return text.getvalue()


def without_timing(text: str) -> str:
    """table.csv without the columns of `TIMING`: the same, to the last digit, for two campaigns of the same runs."""
    rows = list(csv.reader(io.StringIO(text)))
    kept = [number for number, name in enumerate(rows[0]) if not is_timing(name)]
    result = io.StringIO()
    csv.writer(result, lineterminator="\n").writerows([row[number] for number in kept] for row in rows)
    return result.getvalue()


def write_table(campaign: Campaign, folder: Path) -> Path:
    """Write table.md and table.csv from the records that are there.

    Args:
        campaign: which.
        folder: OUTPUT_DIR/NAME.
    Returns: table.md.
    Raises: InputError if they cannot be written.
    """
    entries = entries_of(campaign, folder)
    for name, text in (("table.csv", csv_of(campaign, entries)), ("table.md", markdown_of(campaign, entries))):
        with written_whole(folder / name, remedy="Free space, or choose another --output-dir") as partial:
            partial.write_text(text, encoding="utf-8")
    return folder / "table.md"


def _stages_behind(figure: str) -> tuple[str, ...]:
    """The stages that a figure comes from: its name says which."""
    if figure.startswith("mesh_"):
        return "train", "mesh", "eval-mesh"
    if figure.startswith("train_"):
        return "train", "eval-train"
    return ("train",) if figure in OF_TRAINING else ("train", "eval")


def _cell(entries: Sequence[Entry], figure: str, places: int) -> Cell:
    """Over the seeds of one scene and method."""
    values = [value for entry in entries if (value := entry.value(figure)) is not None]
    reasons = [entry.reason(figure) for entry in entries if entry.value(figure) is None]
    if not values:
        return Cell(note=", ".join(dict.fromkeys(filter(None, reasons))))
    why = ", ".join(dict.fromkeys(reason or "not measured" for reason in reasons))
    note = f"{len(values)} of {len(entries)}: {why}" if reasons else ""
    return Cell(_with_deviation(values, places), note, statistics.fmean(values), not reasons)


def _mean_cell(scenes: Sequence[Sequence[Entry]], figure: str, places: int) -> Cell:
    """Over scenes: of each, all seeds. The deviation is that of the mean over scenes, from seed to seed."""
    values = [[value for entry in scene if (value := entry.value(figure)) is not None] for scene in scenes]
    there = [each for each in values if each]
    if not there:
        return Cell()
    mean = statistics.fmean(map(statistics.fmean, there))
    runs, wanted = sum(map(len, there)), sum(map(len, scenes))
    if len(there) < len(scenes):
        return Cell(_number(mean, places), f"{len(there)} of {len(scenes)} scenes", mean)
    if runs < wanted:
        return Cell(_number(mean, places), f"{runs} of {wanted} runs", mean)
    return Cell(_with_deviation([statistics.fmean(each) for each in zip(*values)], places), "", mean, True)


def _row(name: str, cells: Sequence[Cell]) -> Row:
    """A method's row. What all of its cells would note stands beside the name instead."""
    notes = {cell.note for cell in cells}
    if len(cells) == 1 or len(notes) > 1 or not all(cell.value for cell in cells):
        return Row(name, cells)
    return Row(name, [replace(cell, note="") for cell in cells], note=notes.pop())


def _worst_cell(campaign: Campaign, entries: Sequence[Entry], method: Method, figure: str, places: int) -> Cell:
    """Over all scenes and seeds of a method, with the run's name."""
    found = [(v, e.run) for e in entries if e.run.method.name == method.name and (v := e.value(figure)) is not None]
    if not found:
        return Cell()
    value, run = min(found, key=lambda each: direction(campaign, figure) * each[0])
    where = [run.scene.name] if len(campaign.scenes) > 1 else []
    where += [f"seed {run.seed}"] if len(campaign.seeds) > 1 else []
    return Cell(_number(value, places), ", ".join(where))


def _with_best(column: Sequence[Cell], sign: int, places: int) -> list[Cell]:
    """A column with its best cells marked: all that are equal as shown, if there is anything to compare."""
    competing = [cell for cell in column if cell.complete]
    if sign == 0 or len(competing) < 2:
        return list(column)
    best = _number(max(competing, key=lambda cell: sign * cell.mean).mean, places)
    return [replace(cell, best=cell.complete and _number(cell.mean, places) == best) for cell in column]


def _decimals(figure: str, values: Iterable[float]) -> int:
    """Digits after the point, the same for all values of a figure."""
    for word in figure.split("_"):
        if word in DECIMALS:
            return DECIMALS[word]
    largest = max(map(abs, values), default=0.0)
    return 0 if largest == 0.0 else min(max(2 - math.floor(math.log10(largest)), 0), 8)


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)


def _number(value: float, places: int) -> str:
    return f"{value:,.{places}f}"


def _with_deviation(values: Sequence[float], places: int) -> str:
    mean = _number(statistics.fmean(values), places)
    return mean if len(values) < 2 else f"{mean} ± {_number(statistics.stdev(values), places)}"


def _count(number: int | str, noun: str) -> str:
    return f"{number} {noun}{'s' if str(number) != '1' else ''}"


def _ended(failure: Failure) -> str:
    """How it failed, and how often."""
    return failure.end + (f" ({failure.attempts} attempts)" if failure.attempts > 1 else "")


def _machine_words(record: RunRecord) -> str:
    """What a run ran on, in a line; nothing if that is not known yet."""
    known = {key: str(value) for key, value in record.machine.items()}
    if not known:
        return ""
    gpu = known.get("gpu", "none")
    words = [known.get("cpu", ""), _count(known.get("cores", "?"), "core"), "no GPU" if gpu == "none" else gpu]
    return ", ".join(filter(None, [*words, _count(known.get("threads", "?"), "thread") + " each"]))


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*|<>\[\]~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(text.split()))


def _cell_text(cell: Cell, published: bool) -> str:
    mark = "*" if published else "**" if cell.best else ""
    value = f"{mark}{cell.value}{mark}" if cell.value else ""
    note = _escaped(cell.note)
    return f"{value} ({note})" if value and note else value or note or "–"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
