"""The line that tells what the demo is doing, and how long it will take."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from demo.plan import Chapter, Step


def remaining_seconds(chapters: list[list[float]], lanes: int) -> float:
    """Seconds until all chapters are done, if free lanes take the next chapter in order.

    Args:
        chapters: seconds that are left of each step of each chapter; chapters that run come first.
        lanes: chapters that run side by side.
    """
    free = [0.0] * max(1, lanes)
    for steps in chapters:
        lane = free.index(min(free))
        free[lane] += sum(steps)
    return max(free)


@dataclass
class Progress:
    """Tells steps as they come; on a terminal, one line that counts on.

    Args:
        chapters: what is going to run.
        lanes: chapters that run side by side.
    """

    chapters: list[Chapter]
    lanes: int
    start: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._running: dict[str, tuple[Step, float]] = {}
        self._lock = threading.Lock()
        self._terminal = sys.stdout.isatty()
        self._number = sum(len(chapter.steps) for chapter in self.chapters)

    def begin(self, chapter: Chapter, step: Step) -> None:
        """A step begins."""
        with self._lock:
            self._running[chapter.name] = (step, time.perf_counter())
            self._say(f"$ {step}")

    def end(self, chapter: Chapter, step: Step) -> None:
        """A step has ended, and its chapter knows how long it took."""
        with self._lock:
            self._running.pop(chapter.name, None)
            if not self._terminal:
                self._say(self.line())

    def left(self) -> float:
        """Seconds until the end, as far as can be told: expectations, corrected by how long steps have taken so far."""
        now = time.perf_counter()
        expected = sum(step.about for chapter in self.chapters for step in chapter.seconds)
        taken = sum(sum(chapter.seconds.values()) for chapter in self.chapters)
        for step, since in self._running.values():
            expected, taken = expected + min(step.about, now - since), taken + (now - since)
        # The first seconds say little about the machine: a minute of the expectations is mixed in.
        pace = (taken + 60.0) / (expected + 60.0)
        begun, waiting = [], []
        for chapter in self.chapters:
            steps = [step for step in chapter.steps if step not in chapter.seconds]
            running = self._running.get(chapter.name)
            seconds = [pace * step.about for step in steps]
            if running and running[0] not in chapter.seconds:
                seconds[0] = max(seconds[0] - (now - running[1]), 1.0)
            (begun if running else waiting).append(seconds)
        return remaining_seconds(begun + waiting, self.lanes)

    def line(self) -> str:
        """Time, what is done, what runs, and what is to come."""
        now = time.perf_counter()
        runs = [
            f"{name}: {step.words[0]}{' ' + step.words[1] if step.words[0] in ('ns-train', 'ns-render') else ''} "
            f"{clock(now - since)}"
            for name, (step, since) in self._running.items()
        ]
        done = sum(len(chapter.seconds) for chapter in self.chapters)
        told = f"[{clock(now - self.start)}] {done} of {self._number} steps, about {clock(self.left())} to go"
        return " | ".join([told, *runs])

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Renew the line each second until the end of the block, on a terminal."""
        stop = threading.Event()

        def renew() -> None:
            while not stop.wait(1.0):
                with self._lock:
                    self._draw()

        thread = threading.Thread(target=renew, daemon=True)
        if self._terminal:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            if self._terminal:
                thread.join()
                print("\r\033[K", end="", flush=True)

    def _say(self, text: str) -> None:
        if self._terminal:
            print(f"\r\033[K{text}")
            self._draw()
        else:
            print(text, flush=True)

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\033[K{self.line()[:width]}", end="", flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
