"""Campaigns that nobody has run: records, pictures, curves and logs as runs would have left them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from common_ns.campaigns.description import Campaign, Method, Scene, TableOptions
from common_ns.campaigns.plan import Run, runs_of, stages_of
from common_ns.campaigns.record import LOG, PROGRESS, Attempt, RunRecord, StageRecord

MACHINE = {"cpu": "A CPU", "cores": 2, "gpu": "none", "threads": 1}
VERSIONS = {"fieldsuite": "0.2.0", "torch": "2.6.0"}


def campaign_of(
    folder: Path, scenes: Sequence[str], methods: Sequence[str], seeds: Sequence[int] = (0,), **more: object
) -> Campaign:
    """A campaign with names alone. `more`: fields of Campaign, or of its TableOptions."""
    table = {key: more.pop(key) for key in ("figures", "lower_is_better", "published") if key in more}
    found = Campaign(
        folder / "made-up.yaml",
        "made up",
        tuple(Scene(name, folder / "data" / name) for name in scenes),
        tuple(Method(name, "hash-neus") for name in methods),
        seeds=tuple(seeds),
        table=TableOptions(**table),  # type: ignore[arg-type]
    )
    return replace(found, **more)  # type: ignore[arg-type]


def run_of(campaign: Campaign, folder: Path, scene: str, method: str, seed: int = 0) -> Run:
    """One of its runs."""
    wanted = (scene, method, seed)
    return next(r for r in runs_of(campaign, folder) if (r.scene.name, r.method.name, r.seed) == wanted)


def finish(campaign: Campaign, run: Run, figures: dict[str, float], day: str = "2026-11-29") -> RunRecord:
    """Write the record of a run that is done."""
    attempt = Attempt(f"{day}T01:02:03+00:00", 12.3, 11.9, "done")
    stages = {name: StageRecord("done", attempts=[attempt]) for name in stages_of(campaign, run)}
    record = RunRecord(run.scene.name, run.method.name, run.seed, "done", stages, {}, figures, MACHINE, VERSIONS)
    record.write(run.folder)
    return record


def fail(run: Run, stage: str, ends: Sequence[str], detail: str = "", figures: dict[str, float] | None = None) -> None:
    """Write the record of a run that came no further than a stage, with how each attempt at it ended."""
    attempts = [Attempt("2026-11-30T01:02:03+00:00", 1.0, 1.0, end, detail) for end in ends]
    stages = {"train": StageRecord("done", attempts=[Attempt("2026-11-30T01:00:00+00:00", 1.0, 1.0, "done")])}
    stages[stage] = StageRecord("failed", attempts=attempts)
    record = RunRecord(
        run.scene.name, run.method.name, run.seed, "failed", stages, {}, figures or {}, MACHINE, VERSIONS
    )
    record.write(run.folder)


def draw(run: Run, kind: str, view: int, pixels: np.ndarray) -> None:
    """Write a picture as ns-eval names it; pixels [height, width, 3] of bytes."""
    file = run.folder / "renders" / f"eval_{kind}_{view:04d}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, compress_level=1)


def log_progress(run: Run, rows: Sequence[tuple[int, float, float]]) -> None:
    """Append step, core-seconds and loss, a line for each."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / PROGRESS).open("a") as file:
        for step, seconds, loss in rows:
            file.write(json.dumps({"step": step, "core_seconds": seconds, "seconds": seconds, "loss": loss}) + "\n")


def log_text(run: Run, text: str) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / LOG).write_text(text)
