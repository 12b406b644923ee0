"""How fast a page draws, by when it tells where its camera is, and how much it is given to draw accordingly.

While the camera moves, viser's page sends its place once a frame, at most fifty times a second. It says nothing else of
its speed.
"""

from __future__ import annotations

import statistics
from collections import deque

SLOWEST = 4.0
"""Frames per second below which less is drawn."""
FASTEST = 15.0
"""Frames per second above which more is drawn: a step up costs two or three times the time."""
PAUSE = 3.0
"""Seconds without a message after which the camera has stood still."""
KEPT, NEEDED = 20, 4
"""Times between frames that are remembered, and that are needed for a judgment."""


class FrameRate:
    """Frames per second of a page, from the times of its messages while the camera moves."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._gaps: deque[float] = deque(maxlen=KEPT)

    def frame(self, now: float) -> None:
        """A message has come.

        Args:
            now: time in seconds.
        """
        if self._last is not None and now - self._last < PAUSE:
            self._gaps.append(max(now - self._last, 0.0))
        self._last = now

    def forget(self) -> None:
        """Something else is drawn from now on."""
        self._last = None
        self._gaps.clear()

    @property
    def value(self) -> float | None:
        """Frames per second; None: too few to tell.

        Messages that have waited for each other come at once, and between them the camera may have stood still for a
        moment: neither is to look like speed or slowness. It is the lower one of the rate by the median and that by the
        mean of all but the longest.
        """
        if len(self._gaps) < NEEDED:
            return None
        ordered = sorted(self._gaps)
        mean = sum(ordered[:-1]) / (len(ordered) - 1)
        return 1.0 / max(statistics.median(ordered), mean, 1e-3)


def next_rung(rung: int, rungs: int, rate: float | None) -> int:
    """The place on a ladder of ever more to draw that suits a frame rate.

    Args:
        rung: the present one, from 0.
        rungs: how many there are.
        rate: frames per second that the present one reaches; None: not known.
    """
    if rate is None:
        return rung
    if rate < SLOWEST:
        # What takes twice as long as it may gets half, which is about a rung.
        steps = 2 if rate < 0.5 * SLOWEST else 1
        return max(rung - steps, 0)
    return min(rung + 1, rungs - 1) if rate > FASTEST else rung
