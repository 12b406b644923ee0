"""A campaign's report: one HTML file with its tables, pictures side by side, curves and failures, which loads nothing.

Its words and its style are in report.html.jinja. Its size is bounded: the pictures share `PICTURE_BYTES`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common_ns.campaigns.description import Campaign, Scene
from common_ns.campaigns.plan import Run
from common_ns.campaigns.record import LOG, PROGRESS
from common_ns.campaigns.table import (
    Entry,
    entries_of,
    facts_of,
    failures_of,
    legend_of,
    number_words,
    sources_of,
    tables_of,
)
from common_ns.campaigns.watched import read_progress
from common_ns.data.files import written_whole
from common_ns.pages import data_uri, fill, panels, pixels

PICTURE_BYTES = 16e6
"""Of all pictures together, before base64 adds a third."""
LARGEST_PICTURE = 150_000
"""Bytes of one picture, where there are few."""
LARGEST_SIDE = 1200
"""Pixels of a picture's longer side."""
MOST_PICTURES = 400
"""Of a page, as far as each scene has one of each method."""
VIEWS = 3
"""Held-out views of a scene, at most; spread evenly over all."""
CURVE_POINTS = 80
"""Of each run's curve, each the geometric mean of those it stands for."""
LOG_LINES, LOG_BYTES = 20, 16_384
"""Of a failed run's log, from its end."""
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM = 520, 260, 46, 24, 36
"""Of a chart, and the margins that its axes are labelled in."""


@dataclass(frozen=True)
class Picture:
    """One of several side by side."""

    name: str
    """Whose it is."""
    note: str
    """Below it; without a picture: why there is none."""
    uri: str
    """Data; nothing if there is none."""
    small: bool = False
    """So few pixels that they are shown as such when enlarged."""


@dataclass(frozen=True)
class Line:
    """A run's curve."""

    method: int
    """Number of its method, which gives the color."""
    name: str
    points: str
    """As SVG has them."""


@dataclass(frozen=True)
class Chart:
    """Loss, on a logarithmic axis, over something."""

    over: str
    lines: Sequence[Line]
    across: Sequence[tuple[float, str]]
    """Ticks: where, and what they say."""
    up: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Section:
    """What is shown of a scene."""

    name: str
    rows: Sequence[tuple[str, Sequence[Picture]]]
    """Pictures with their common title."""
    charts: Sequence[Chart]


def write_report(campaign: Campaign, folder: Path) -> Path:
    """Write report.html from the records and pictures that are there.

    Args:
        campaign: which.
        folder: OUTPUT_DIR/NAME.
    Returns: the file.
    Raises: InputError if it cannot be written.
    """
    entries = entries_of(campaign, folder)
    tables = tables_of(campaign, entries)
    again = [
        (entry.run.name, stage, [attempt.end.replace("_", " ") for attempt in record.attempts])
        for entry in entries
        for stage, record in entry.record.stages.items()
        if len(record.attempts) > 1 and record.state != "failed"
    ]
    page = fill(
        Path(__file__).parent / "report.html.jinja",
        campaign=campaign,
        tables=tables,
        legend=legend_of(campaign, tables),
        sources=sources_of(campaign),
        facts=facts_of(campaign, entries),
        failures=[
            (failure, (failure.run.folder / LOG).relative_to(folder), last_lines(failure.run.folder / LOG))
            for failure in failures_of(entries)
        ],
        again=again,
        sections=[_section(campaign, scene, entries) for scene in campaign.scenes],
        size=(WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM),
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )
    with written_whole(folder / "report.html", remedy="Free space, or choose another --output-dir") as partial:
        partial.write_text(page, encoding="utf-8")
    return folder / "report.html"


def last_lines(log: Path) -> str:
    """The end of a log, without colors, and of lines that were drawn again and again only what stood there last."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - LOG_BYTES, 0))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
    return "\n".join([line for line in lines if line][-LOG_LINES:])


def read_curve(file: Path, clock: str = "core_seconds") -> list[tuple[int, float, float]]:
    """Step, time and loss of a run from its progress.jsonl; losses that a logarithm does not have are left out.

    Args:
        file: which may not be there.
        clock: the time: core_seconds, or seconds of the wall clock.
    """
    points = [(int(each["step"]), float(each[clock]), float(each["loss"])) for each in read_progress(file)]
    return [point for point in points if math.isfinite(point[2]) and point[2] > 0.0]


def thinned(points: Sequence[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """At most `CURVE_POINTS` of a curve: of each stretch its end, and the geometric mean of its losses."""
    stretches = [part for part in np.array_split(np.arange(len(points)), CURVE_POINTS) if len(part) > 0]
    return [
        (*points[part[-1]][:2], math.exp(sum(math.log(points[each][2]) for each in part) / len(part)))
        for part in stretches
    ]


def _section(campaign: Campaign, scene: Scene, entries: Sequence[Entry]) -> Section:
    here = [entry for entry in entries if entry.run.scene.name == scene.name]
    methods = {method.name: number for number, method in enumerate(campaign.methods)}
    on_gpu = any(entry.record.machine.get("gpu", "none") != "none" for entry in here)
    clock = "seconds" if on_gpu else "core_seconds"  # CPU time says little about work on a GPU
    curves = [
        (methods[entry.run.method.name], entry.run, thinned(read_curve(entry.run.folder / PROGRESS, clock)))
        for entry in here
    ]
    curves = [each for each in curves if len(each[2]) > 1]
    charts = [_chart(over, curves, place) for place, over in enumerate(("step", clock))] if curves else []
    return Section(scene.name, _picture_rows(campaign, scene, here), charts)


def _picture_rows(campaign: Campaign, scene: Scene, here: Sequence[Entry]) -> list[tuple[str, list[Picture]]]:
    """The truth and each method, for some held-out views; then normals and depth of the first of them."""
    shown: dict[str, Entry] = {}  # of each method, the first seed with pictures
    for entry in here:
        held = shown.get(entry.run.method.name)
        if held is None or (not _views(held.run) and _views(entry.run)):
            shown[entry.run.method.name] = entry
    views = sorted({view for entry in shown.values() for view in _views(entry.run)})
    if not views:
        return []
    chosen = sorted({views[round(each)] for each in np.linspace(0, len(views) - 1, min(VIEWS, len(views)))})
    kinds = [
        kind
        for kind in ("normals", "depth")
        if any(_file(entry.run, kind, views[0]).is_file() for entry in shown.values())
    ]
    in_row = len(campaign.scenes) * (len(campaign.methods) + 1)
    wanted = [*(("img", view) for view in chosen), *((kind, views[0]) for kind in kinds)]
    wanted = wanted[: max(1, MOST_PICTURES // in_row)]
    most = int(min(LARGEST_PICTURE, PICTURE_BYTES / (in_row * len(wanted))))
    return [
        (
            f"held-out view {view}" + (f": {kind}" if kind != "img" else ""),
            _row(campaign, scene, shown, kind, view, most),
        )
        for kind, view in wanted
    ]


def _row(campaign: Campaign, scene: Scene, shown: dict[str, Entry], kind: str, view: int, most: int) -> list[Picture]:
    """Pictures of one kind and view: the truth, where it is known, and each method's."""
    width = _panel_width([entry.run for entry in shown.values()], view)
    figure = campaign.table.figures[0]
    pictures, truth = [], None
    for name, entry in shown.items():
        parts = _parts(_file(entry.run, kind, view), width)
        if parts:
            value = entry.value(figure) if kind == "img" else None
            said = [f"{figure} {number_words(figure, value)}"] if value is not None else []
            said += [f"seed {entry.run.seed}"] if len(campaign.seeds) > 1 else []
            pictures.append(_picture(name, ", ".join(said), parts[-1], most))
            truth = parts[0] if truth is None and len(parts) > 1 else truth
        elif kind == "img":
            pictures.append(Picture(name, entry.reason(figure) or "no picture of this view", ""))
    if kind != "img":
        return pictures
    if truth is None and scene.path.is_file():  # a single image, which methods do not put beside theirs
        truth = next(iter(_parts(scene.path, 0)), None)
    return pictures if truth is None else [_picture("ground truth", "", truth, most), *pictures]


def _file(run: Run, kind: str, view: int) -> Path:
    """A picture that ns-eval has written."""
    return run.folder / "renders" / f"eval_{kind}_{view:04d}.png"


def _views(run: Run) -> list[int]:
    """Numbers of the held-out views that there are pictures of."""
    found = (re.fullmatch(r"eval_img_(\d+)\.png", file.name) for file in (run.folder / "renders").glob("eval_*.png"))
    return sorted(int(each[1]) for each in found if each is not None)


def _panel_width(runs: Sequence[Run], view: int) -> int:
    """Width of one of the panels that methods put side by side: truth and rendering, or renderings of several levels.

    A file does not say how many it holds. But methods write other pictures of the same view, with fewer panels, and
    what divides all their widths is a panel.
    """
    sizes: dict[str, list[tuple[int, int]]] = {}
    for run in runs:
        for file in (run.folder / "renders").glob(f"eval_*_{view:04d}.png"):
            with suppress(OSError, Image.DecompressionBombError), Image.open(file) as image:
                sizes.setdefault(file.name, []).append(image.size)
    heights = {height for _, height in sizes.get(f"eval_img_{view:04d}.png", [])}
    return math.gcd(*(width for each in sizes.values() for width, height in each if height in heights))


def _parts(file: Path, width: int) -> list[NDArray[np.uint8]]:
    """The panels of a picture; itself if it is not made of two to four; nothing if it cannot be read."""
    try:
        picture = pixels(file)
    except (OSError, Image.DecompressionBombError):
        return []
    count, rest = divmod(picture.shape[1], max(width, 1))
    return panels(picture, count) if rest == 0 and 1 < count <= 4 else [picture]


def _picture(name: str, note: str, shown: NDArray[np.uint8], most: int) -> Picture:
    image = Image.fromarray(shown)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    return Picture(name, note, data_uri(np.asarray(image), most), max(image.size) <= 128)


def _chart(over: str, curves: Sequence[tuple[int, Run, list[tuple[int, float, float]]]], place: int) -> Chart:
    """Curves of a scene.

    Args:
        over: name of the axis across.
        curves: number of the method, run, points (step, core-seconds, loss) of each.
        place: of that axis in a point.
    """
    losses = [math.log10(point[2]) for _, _, points in curves for point in points]
    low, high = min(losses), max(losses)
    low, high = (low - 0.05, high + 0.05) if high - low < 0.1 else (low, high)
    right = max(points[-1][place] for _, _, points in curves) or 1.0

    def x(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * value / right, 1)

    def y(logarithm: float) -> float:
        return round(10 + (HEIGHT - BOTTOM - 10) * (high - logarithm) / (high - low), 1)

    lines = [
        Line(number, run.name, " ".join(f"{x(each[place])},{y(math.log10(each[2]))}" for each in points))
        for number, run, points in curves
    ]
    return Chart(
        over, lines, [(x(v), f"{v:,.10g}") for v in _ticks(right)], [(y(v), t) for v, t in _decades(low, high)]
    )


def _ticks(right: float) -> list[float]:
    """Round numbers from 0 to `right`, four to eight of them."""
    unit = 10.0 ** math.floor(math.log10(right))
    step = next(unit * part for part in (0.2, 0.5, 1.0, 2.0) if right / (unit * part) <= 7)
    return [step * number for number in range(math.floor(right / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    """Ticks of a logarithmic axis between two logarithms: of each decade 1, or 1, 2 and 5; both ends if that is few."""
    parts = (1,) if high - low > 2.5 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high) + 1)
    values = [part * 10.0**power for power in powers for part in parts]
    values = [value for value in values if low - 1e-9 <= math.log10(value) <= high + 1e-9]
    values = values if len(values) > 1 else [10.0**low, 10.0**high]
    return [(math.log10(value), f"{value:.3g}") for value in values]
