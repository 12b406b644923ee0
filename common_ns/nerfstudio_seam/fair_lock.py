"""A lock for training and rendering in turn."""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """A lock that threads get in the order in which they have asked for it.

    Of Python's own, a loop that lets go of it for a moment in each round takes it again before another thread has even
    woken up: on a busy machine renders wait for minutes while training goes on.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    def __enter__(self) -> FairLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def locked(self) -> bool:
        """Whether a thread has it."""
        return len(self._queue) > 0

    def acquire(self) -> bool:
        """Wait for it, and take it."""
        me = object()
        with self._changed:
            self._queue.append(me)
            try:
                while self._queue[0] is not me:
                    self._changed.wait()
            except BaseException:  # an interrupt: who waits behind is not to wait for ever
                self._queue.remove(me)
                self._changed.notify_all()
                raise
        return True

    def release(self) -> None:
        """Let the next one have it."""
        with self._changed:
            self._queue.popleft()
            self._changed.notify_all()
