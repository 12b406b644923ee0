"""The commands that README.md and docs/*.md tell people to type, as they stand there."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")))


@dataclass(frozen=True)
class Documented:
    """A command of a page."""

    page: str
    """Name of the page, from the root of the repository."""
    number: int
    """Its place among the page's commands, from 0."""
    text: str
    """As it stands there, without comment, on one line."""

    @property
    def words(self) -> list[str]:
        """The words of its command line."""
        return shlex.split(self.text)

    @property
    def name(self) -> str:
        """What is typed first; of `python -m MODULE` and `python FILE` all of that."""
        words = self.words
        if words[0] in ("python", "python3"):
            return " ".join(words[:3] if words[1] == "-m" else words[:2])
        return words[0]

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def commands_of(page: str) -> list[Documented]:
    """A page's commands: those of its blocks of bash, in their order, then those within sentences and tables.

    Of the latter, ns-… commands count that have an argument or an option, and calls of Python. Without, a command is
    but named.
    """
    lines: list[str] = []
    for block in re.findall(r"^```bash\n(.*?)^```", _read(page), re.MULTILINE | re.DOTALL):
        lines += [_without_comment(line) for line in block.replace("\\\n", " ").splitlines()]
    lines += [span for span in spans_of(page) if re.match(r"ns-[a-z-]+ .*(--|\b[A-Z]{2})|python (-m|docs)", span)]
    return [Documented(page, number, line) for number, line in enumerate(dict.fromkeys(filter(None, lines)))]


def spans_of(page: str) -> list[str]:
    """What stands between backticks in a page's sentences and tables, each on one line; blocks are left out.

    A column of a table that is headed `theirs` is about another program, and is left out as well.
    """
    text = "".join(cell for heading, cell in _cells(page) if heading != "theirs")
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def option_cells(page: str) -> list[str]:
    """What stands between backticks in columns of tables that are headed `option`, where names go without dashes."""
    cells = [cell for heading, cell in _cells(page) if heading.startswith("option")]
    return [" ".join(span.split()) for cell in cells for span in re.findall(r"`([^`]+)`", cell)]


def _read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def _cells(page: str) -> list[tuple[str, str]]:
    """A page without its blocks in pieces, each with the heading of its column: cells of tables, and lines outside."""
    pieces: list[tuple[str, str]] = []
    headings: list[str] = []
    for line in re.sub(r"^```.*?^```", "", _read(page), flags=re.MULTILINE | re.DOTALL).splitlines():
        if not line.startswith("|"):
            headings = []
            pieces.append(("", line + "\n"))
            continue
        cells = re.split(r"(?<!\\)\|", line)
        pieces += [(heading, cell + "\n") for heading, cell in zip(headings or [""] * len(cells), cells, strict=True)]
        headings = headings or [cell.strip() for cell in cells]
    return pieces


def _without_comment(line: str) -> str:
    """The line up to a # that begins a word outside of quotes, with single spaces."""
    for match in re.finditer(r"(?:^|\s)#", line):
        if len(shlex.split(line[: match.start()], comments=False, posix=False)) == len(
            shlex.split(line, comments=True, posix=False)
        ):
            line = line[: match.start()]
            break
    return re.sub(r"\s+", " ", line).strip()
