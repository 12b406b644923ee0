"""The architecture page names every room, and its walks name files that exist, each once."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_walks_pass_each_file_once():
    walks = PAGE.split("## Four walks")[1].split("### ")[1:]
    assert len(walks) == 4
    for walk in walks:
        files = re.findall(r"^\d+\. `(\S+\.py)`", walk, re.MULTILINE)
        assert len(files) >= 10 and len(files) == len(set(files)), walk.splitlines()[0]
        assert not [file for file in files if not (ROOT / file).is_file()]


def test_every_room_of_common_is_named():
    rooms = {folder.parent.name for folder in (ROOT / "common_ns").glob("*/__init__.py")} - {"scripts"}
    assert not [room for room in rooms if f"`common_ns/{room}/`" not in PAGE]
