"""What a run says about its data, once however often the data is read."""

from __future__ import annotations

from functools import lru_cache

from nerfstudio.utils.rich_utils import CONSOLE


@lru_cache
def note_once(text: str) -> None:
    """Print a line that the user should see, unless this process has printed it before."""
    CONSOLE.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
