"""What a chapter of the demo is: commands that run one after the other, and what the page shows of their results."""

from __future__ import annotations

import json
import shlex
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What all chapters share."""

    folder: Path
    """The demo's folder, absolute."""
    effort: float = 1.0
    """Factor on all numbers of training steps."""
    frames: int = 24
    """Frames of each film."""


@dataclass(frozen=True)
class Command:
    """A command, as a user would type it."""

    words: tuple[str, ...]
    """The command and its arguments."""
    expected: float
    """Seconds that it takes on one core of the machine that the demo was timed on; for the order and for progress."""

    def __str__(self) -> str:
        """The command line, with paths below the working folder shortened."""
        return shlex.join(word.replace(f"{Path.cwd()}/", "") for word in self.words)


class Chapter(ABC):
    """A part of the page. Its commands run one after the other; chapters run side by side."""

    name: str
    """Short; also the name of its folder, its log and its place in the page's template."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = settings.folder / self.name
        self.commands: list[Command] = []
        self.seconds: list[float] = []
        """How long each command took that has ended."""
        self.started: float | None = None
        """When the running command began, by `time.perf_counter`."""
        self.plan()

    @abstractmethod
    def plan(self) -> None:
        """Add all commands."""

    @abstractmethod
    def results(self) -> dict[str, object]:
        """What the page shows once all commands have run: figures as numbers, pictures as files or bytes."""

    @property
    def expected(self) -> float:
        """See `Command.expected`: of all commands."""
        return sum(command.expected for command in self.commands)

    @property
    def done(self) -> bool:
        """Whether all commands have run."""
        return len(self.seconds) == len(self.commands)

    def steps(self, number: int) -> int:
        """Training steps, times the demo's effort."""
        return max(10, round(number * self.settings.effort))

    def run(self, line: str, expected: float, **values: object) -> None:
        """Add a command.

        Args:
            line: the command line. In it, {name} stands for one of `values`, {demo} for the demo's folder, {folder} for
                the chapter's, and {frames} for the number of frames of a film.
            expected: see `Command.expected`.
            values: what is put into the line; it may contain spaces.
        """
        values = {"demo": self.settings.folder, "folder": self.folder, "frames": self.settings.frames, **values}
        self.commands.append(Command(tuple(word.format(**values) for word in line.split()), expected))

    def train(self, name: str, line: str, expected: float, steps: int = 0, groups: str = "", **values: object) -> Path:
        """Add a training, and return the path of its config.

        Args:
            name: of the run.
            line: the method and its options; a dataparser and its options come last.
            expected: see `Command.expected`.
            steps: when training and the decay of the learning rates end; 0 if the method knows.
            groups: names of the optimizers whose learning rates decay.
            values: see `run`.
        """
        method, options = line.split(maxsplit=1)
        place = "--output-dir {folder} --experiment-name {name} --timestamp demo --vis tensorboard"
        if steps:
            place += " --max-num-iterations {steps}"
            place += "".join(f" --optimizers.{group}.scheduler.max-steps {{steps}}" for group in groups.split())
        self.run(f"ns-train {method} {place} {options}", expected, name=name, steps=self.steps(steps), **values)
        return self.folder / name / method / "demo" / "config.yml"

    def evaluate(self, config: Path, expected: float) -> Path:
        """Add an evaluation with pictures, and return the folder that it writes: eval.json and the pictures."""
        pictures = config.parent.parent.parent / "evaluation"
        line = "ns-eval --load-config {config} --output-path {pictures}/eval.json --render-output-path {pictures}"
        self.run(line, expected, config=config, pictures=pictures)
        return pictures


def evaluated(folder: Path) -> dict[str, float]:
    """The figures that ns-eval found."""
    return json.loads((folder / "eval.json").read_text())["results"]
