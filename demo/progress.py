"""The line that shows what the demo is doing, and how long it will take."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from demo.chapter import Chapter


class Progress:
    """Prints commands as they begin; on a terminal, below them one line that is renewed each second.

    Args:
        chapters: what is going to run.
        workers: chapters that run side by side.
    """

    def __init__(self, chapters: list[Chapter], workers: int) -> None:
        self.chapters, self.workers = chapters, workers
        self.start = perf_counter()
        self._terminal = sys.stdout.isatty()
        self._lock = threading.Lock()

    def begin(self, chapter: Chapter) -> None:
        """The next command of a chapter begins."""
        with self._lock:
            chapter.started = perf_counter()
            self._print(f"$ {chapter.commands[len(chapter.seconds)]}")

    def end(self, chapter: Chapter) -> None:
        """The running command of a chapter has ended well."""
        with self._lock:
            assert chapter.started is not None
            chapter.seconds.append(perf_counter() - chapter.started)
            chapter.started = None
            if not self._terminal:
                self._print(self.line())

    def seconds_left(self) -> float:
        """Seconds until the end: what is expected, corrected by how long commands have taken so far."""
        now = perf_counter()
        # The first seconds say little about the machine: they are averaged with a minute that goes as expected.
        expected = taken = 60.0
        for chapter in self.chapters:
            expected += sum(command.expected for command in chapter.commands[: len(chapter.seconds)])
            taken += sum(chapter.seconds)
            if chapter.started is not None:
                running = now - chapter.started
                expected += min(chapter.commands[len(chapter.seconds)].expected, running)
                taken += running
        remaining = []
        for chapter in sorted(self.chapters, key=lambda chapter: chapter.started is None):
            seconds = [taken / expected * command.expected for command in chapter.commands[len(chapter.seconds) :]]
            if chapter.started is not None:
                seconds[0] = max(seconds[0] - (now - chapter.started), 1.0)
            remaining.append(sum(seconds))
        return seconds_until_done(remaining, self.workers)

    def line(self) -> str:
        """The time, how many commands have run, how long the rest will take, and what is running."""
        done = sum(len(chapter.seconds) for chapter in self.chapters)
        count = sum(len(chapter.commands) for chapter in self.chapters)
        now = perf_counter()
        parts = [f"[{clock(now - self.start)}] {done} of {count} commands, about {clock(self.seconds_left())} to go"]
        for chapter in self.chapters:
            if chapter.started is not None:
                words = chapter.commands[len(chapter.seconds)].words
                shown = " ".join(words[: 2 if words[0] in ("ns-train", "ns-render") else 1])
                parts.append(f"{chapter.name}: {shown} {clock(now - chapter.started)}")
        return " | ".join(parts)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """On a terminal, renew the line each second until the end of the block."""
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

    def _print(self, text: str) -> None:
        """Print a line; on a terminal, above the line of progress."""
        if self._terminal:
            print(f"\r\033[K{text}")
            self._draw()
        else:
            print(text, flush=True)

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\033[K{self.line()[:width]}", end="", flush=True)


def seconds_until_done(chapters: list[float], workers: int) -> float:
    """Seconds until all chapters are done, if each free worker takes the next chapter.

    Args:
        chapters: seconds that each will still take; those that are running come first.
        workers: chapters that run side by side.
    """
    busy = [0.0] * workers
    for seconds in chapters:
        busy[busy.index(min(busy))] += seconds
    return max(busy)


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
