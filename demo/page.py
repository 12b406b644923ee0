"""The demo's page: one HTML file that contains its pictures and films, and loads nothing. Its words and its style are
in page.html.jinja."""

from __future__ import annotations

from pathlib import Path

from common_ns.pages import fill


def write_page(file: Path, **content: object) -> None:
    """Fill the template.

    Args:
        file: the page to write.
        content: what the template uses: minutes, cores, date, and chapters, the results of each by its name.
    """
    file.write_text(fill(Path(__file__).parent / "page.html.jinja", **content), encoding="utf-8")
