"""Which outputs of a model are looked at: the viewer shows one, or two side by side."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class _Render(threading.local):
    """What the present thread renders for the viewer."""

    outputs: frozenset[str] | None = None
    """Names of the outputs that are shown; None: this is no render of the viewer."""


_render = _Render()


def is_shown(output: str) -> bool:
    """Whether an output is looked at: any may be, outside of the viewer's renders."""
    return _render.outputs is None or output in _render.outputs


@contextmanager
def only(outputs: Iterable[str]) -> Iterator[None]:
    """Within the block, this thread renders for the viewer, which shows these outputs."""
    before, _render.outputs = _render.outputs, frozenset(outputs)
    try:
        yield
    finally:
        _render.outputs = before
