"""What the demo runs: chapters, each a chain of commands and what to show of their results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from demo.page import Page


@dataclass(frozen=True)
class Step:
    """One command, as a user would type it."""

    words: tuple[str, ...]
    """The command and its arguments."""
    about: float
    """Seconds that it takes on one core of the machine that the demo was measured on; only for telling progress."""

    def __str__(self) -> str:
        """The command line, with paths below the working folder shortened."""
        return " ".join(_short(word) for word in self.words)


@dataclass
class Chapter:
    """A part of the page. Its steps run one after the other, chapters side by side."""

    name: str
    """Short, for the progress line and the log file."""
    show: Callable[[Page], None]
    """Adds pictures, films and figures to the page, once all steps are done."""
    steps: list[Step] = field(default_factory=list)
    seconds: dict[Step, float] = field(default_factory=dict)
    """How long steps took."""

    def run(self, *words: object, about: float) -> None:
        """Add a step."""
        self.steps.append(Step(tuple(str(word) for word in words), about))

    @property
    def done(self) -> bool:
        """Whether all steps have run."""
        return all(step in self.seconds for step in self.steps)

    def timed(self) -> list[tuple[str, float]]:
        """Command lines, and how many seconds each took."""
        return [(str(step), self.seconds[step]) for step in self.steps]


def _short(word: str) -> str:
    path = Path(word)
    inside = path.is_absolute() and path.is_relative_to(Path.cwd())
    return str(path.relative_to(Path.cwd())) if inside else word
