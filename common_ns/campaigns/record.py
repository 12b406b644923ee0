"""What is known about one run, in the record.json of its folder."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common_ns.data.files import written_whole

FILE = "record.json"
"""In the run's folder."""
LOG = "log.txt"
"""Beside it: what the run's commands have printed."""
PROGRESS = "progress.jsonl"
"""Beside it: a line for each second or so of training: step, core_seconds, seconds, loss."""
TIMING = ("core_seconds", "seconds", "fps", "num_rays_per_sec", "peak_memory_mb")
"""Figures that differ between two runs of the same; and those of the same name with `train_` before them."""


@dataclass
class Attempt:
    """One process of a stage."""

    started: str
    """UTC, as ISO 8601 writes it."""
    seconds: float
    """Wall time."""
    core_seconds: float
    """CPU time of the process and those it started."""
    end: str
    """done, killed, out_of_memory, not_finite, timed_out, failed, disk_full or interrupted."""
    detail: str = ""
    """Why: the last line it printed."""


@dataclass
class StageRecord:
    """A stage of a run."""

    state: str = "waiting"
    """waiting, running, done or failed."""
    fingerprint: str = ""
    """Of what it depends on."""
    command: list[str] = field(default_factory=list)
    """Its words."""
    attempts: list[Attempt] = field(default_factory=list)
    """All since it last became out of date."""
    parts: dict[str, str] = field(default_factory=dict)
    """Hashes of command, data and sources, which say what has changed when the fingerprint has."""
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Files it made, relative to the run's folder, with `bytes` and `sha256`."""


@dataclass
class RunRecord:
    """A run."""

    scene: str
    """Name of its scene."""
    method: str
    """Name of its method in the campaign."""
    seed: int
    """Its seed."""
    state: str = "waiting"
    """waiting, running, done or failed."""
    stages: dict[str, StageRecord] = field(default_factory=dict)
    """By name."""
    budget: dict[str, Any] = field(default_factory=dict)
    """core_seconds, core_seconds_per_step and steps, as far as the campaign has a budget."""
    figures: dict[str, float] = field(default_factory=dict)
    """What it came to."""
    machine: dict[str, Any] = field(default_factory=dict)
    """cpu, cores, gpu and threads."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages that matter, and Python."""

    def write(self, folder: Path) -> None:
        """Write it into the run's folder, whole or not at all.

        Raises: InputError if it cannot be written.
        """
        with written_whole(folder / FILE, remedy="Free space, then run the campaign again") as partial:
            partial.write_text(json.dumps(dataclasses.asdict(self), indent=1), encoding="utf-8")


def read_record(folder: Path) -> RunRecord | None:
    """The record in a run's folder; None if there is none, or none that can be read."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        stages = {
            name: StageRecord(**{**stage, "attempts": [Attempt(**each) for each in stage["attempts"]]})
            for name, stage in content["stages"].items()
        }
        return RunRecord(**{**content, "stages": stages})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
