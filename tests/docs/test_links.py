"""Everything that README.md and docs/*.md point at is there: pages and their headings, pictures, files and folders."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests.docs.documented import PAGES, ROOT

FOLDERS = {file.name for file in ROOT.iterdir() if file.is_dir()} - {"outputs"}
"""Of the repository, without what runs write."""
ADDED = "voxelgrid"
"""In the names of files that docs/adding-a-method.md adds; tests/docs/test_adding_a_method.py looks at these."""


def text_of(page: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def links_of(page: str) -> list[str]:
    """Targets of a page's links and pictures that are within the repository."""
    targets = re.findall(r"\]\(\s*([^)\s]+)\s*\)", text_of(page))
    return [target for target in dict.fromkeys(targets) if not re.match(r"\w+:", target)]


def anchors_of(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", text_of(str(page.relative_to(ROOT))), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def paths_of(page: str) -> list[str]:
    """Files and folders of the repository that a page names between backticks, braces written out."""
    found: list[str] = []
    for span in re.findall(r"`([^`\s]+)`", text_of(page)):
        parts = [part.split(",") for part in re.split(r"[{}]", span)]
        for path in ("".join(words) for words in itertools.product(*parts)):
            if path.split("/")[0] in FOLDERS and re.fullmatch(r"\w+/[\w./-]*", path) and ADDED not in path:
                found.append(path)
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(("page", "target"), [(page, target) for page in PAGES for target in links_of(page)])
def test_what_it_links_to_is_there(page, target):
    name, _, anchor = target.partition("#")
    file = (ROOT / page).parent / name if name else ROOT / page
    assert file.exists()
    assert not anchor or anchor in anchors_of(file.resolve())


@pytest.mark.parametrize(("page", "path"), [(page, path) for page in PAGES for path in paths_of(page)])
def test_what_it_names_is_there(page, path):
    assert (ROOT / path).exists()


def test_links_and_names_are_found():
    assert {"docs/surfaces.md", "docs/pictures/families.jpg"} <= set(links_of("README.md"))
    assert {"miner_ns/signal.py", "miner_ns/kernels/"} <= set(paths_of("docs/miner.md"))
    assert "the-depth-contract" in anchors_of(ROOT / "docs" / "depth.md")
