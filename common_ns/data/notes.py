"""What a run says about its data."""

from __future__ import annotations

from functools import lru_cache

from nerfstudio.utils.rich_utils import CONSOLE


def note(text: str) -> None:
    """Print one line that the user should see, however long it is and whatever brackets its file names hold."""
    CONSOLE.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


@lru_cache
def note_once(text: str) -> None:
    """`note`, unless this process has printed the line before."""
    note(text)
