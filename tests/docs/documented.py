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
    text = (ROOT / page).read_text(encoding="utf-8")
    lines: list[str] = []
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines += [_without_comment(line) for line in block.replace("\\\n", " ").splitlines()]
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`]+)`", text):
        line = " ".join(span.split())
        if re.match(r"ns-[a-z-]+ .*(--|\b[A-Z]{2})|python (-m|docs)", line):
            lines.append(line)
    return [Documented(page, number, line) for number, line in enumerate(dict.fromkeys(filter(None, lines)))]


def _without_comment(line: str) -> str:
    """The line up to a # that begins a word outside of quotes, with single spaces."""
    for match in re.finditer(r"(?:^|\s)#", line):
        if len(shlex.split(line[: match.start()], comments=False, posix=False)) == len(
            shlex.split(line, comments=True, posix=False)
        ):
            line = line[: match.start()]
            break
    return re.sub(r"\s+", " ", line).strip()
