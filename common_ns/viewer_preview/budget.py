"""When work for the preview is due, so that training keeps its share of the time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Budget:
    """Portions of work, each followed by a pause that is the longer the longer it took."""

    share: float
    """Of the time that the work may take, above 0 and at most 1."""
    gap: float = 0.0
    """Seconds between two portions at least."""
    _end: float = float("-inf")
    _pause: float = 0.0

    def due(self, now: float) -> bool:
        """Whether the next portion may begin.

        Args:
            now: time in seconds.
        """
        return now >= self._end + self._pause

    def spent(self, start: float, end: float) -> None:
        """A portion has been done.

        Args:
            start, end: times in seconds.
        """
        self._end = end
        self._pause = max((end - start) * (1.0 / self.share - 1.0), self.gap)


def next_size(size: int, seconds: float, wanted: float, least: int, most: int) -> int:
    """The size of the next portion, that it may take as long as is wanted; at most twice or half of the last one.

    Args:
        size, seconds: of the last portion, and what it took.
        wanted: seconds that one is to take.
        least, most: bounds of the size.
    """
    factor = min(max(wanted / max(seconds, 1e-6), 0.5), 2.0)
    return min(max(round(size * factor), least), most)
