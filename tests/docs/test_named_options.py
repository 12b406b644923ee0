"""Every command and option that README.md and docs/*.md name exists, in sentences and in cells of tables as well.

Whole commands are run by test_documented_commands.py. Here the others are looked up in what `--help` prints, and
options of methods and data readers are parsed with the values that stand beside them; nothing runs.
"""

from __future__ import annotations

import contextlib
import copy
import io
import re
import sys
from functools import cache
from importlib.metadata import entry_points
from itertools import pairwise
from typing import Any

import pytest
import tyro
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.plugins.registry import discover_methods

from tests.docs.documented import PAGES, commands_of, option_cells, spans_of

METHODS = sorted(discover_methods()[0])
SCRIPTS = {entry.name: entry for entry in entry_points(group="console_scripts") if entry.name.startswith("ns-")}


def named(page: str) -> list[str]:
    """What a page says between backticks that names commands or options, and the ns-… commands of its blocks."""
    texts = [command.text for command in commands_of(page)] + spans_of(page)
    begins = r"--[a-z]|.*\bns-[a-z]"
    return [text for text in dict.fromkeys(texts) if re.match(begins, text) and not re.match(r"python |export ", text)]


NAMED = [pytest.param(text, id=f"{page}: {text}") for page in PAGES for text in named(page)]
CELLS = [pytest.param(text, id=f"{page}: {text}") for page in PAGES for text in dict.fromkeys(option_cells(page))]


def parse(owner: str, words: list[str]) -> None:
    """Parse options of a method or a data reader, as ns-train does.

    Raises: SystemExit if they are not accepted, and after --help.
    """
    config: Any = {**all_methods, **all_dataparsers}[owner]
    tyro.cli(tyro.conf.FlagConversionOff[type(config)], default=copy.deepcopy(config), args=words, prog=owner)


@cache
def help_of(owner: str) -> str:
    """What --help prints of a method, a data reader, or a command such as `ns-mesh` and `ns-render spiral`."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("COLUMNS", "80")  # wider, options stand in two columns
        with pytest.raises(SystemExit):
            if owner in all_methods or owner in all_dataparsers:
                parse(owner, ["--help"])
            else:
                patch.setattr(sys, "argv", [*owner.split(), "--help"])
                patch.setattr(sys, "excepthook", sys.excepthook)  # which commands of ours replace
                SCRIPTS[owner.split()[0]].load()()
    return printed.getvalue()


@cache
def options_of(owner: str) -> frozenset[str]:
    """Names of the options that --help lists."""
    listed = re.findall(r"^[│ ]*(?:-h, )?(--[\w.-]+(?:, --[\w.-]+)*)", help_of(owner), re.MULTILINE)
    return frozenset(name for names in listed for name in names.split(", "))


@cache
def commands() -> tuple[str, ...]:
    """Every command, and every subcommand of one."""
    found = list(SCRIPTS)
    for name in SCRIPTS.keys() - {"ns-train"}:  # its subcommands are the methods
        if choice := re.search(r"^usage: \S+ \[-h\]\s+\{([\w,\s-]+)\}", help_of(name)):
            found += [f"{name} {word.strip()}" for word in choice[1].split(",")]
    return tuple(found)


def accepts(owner: str, words: list[str]) -> bool:
    """Whether options, with their values, are those of a method, a data reader or a command.

    Of commands, and where a value is missing or a word stands for it, it is the names that count.
    """
    names = [word for word in words if word.startswith("--")]
    known = options_of(owner)
    for name in names:
        beginning = name.removesuffix("…")
        if beginning not in known and not (beginning.endswith(".") and any(o.startswith(beginning) for o in known)):
            return False
    has_values = not any(word.startswith("--") and after.startswith("--") for word, after in pairwise([*words, "--"]))
    if owner.split()[0] in SCRIPTS or not has_values or any(re.fullmatch(r"[A-Z_]+|.*…", word) for word in words):
        return True
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            parse(owner, words)
    except SystemExit:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("text", NAMED)
def test_what_it_names_exists(text):
    assert set(re.findall(r"(?<![\w/.-])ns-[a-z][a-z-]*[a-z]", text)) <= set(SCRIPTS)
    first, *words = text.split()
    if first == "ns-train":
        if not words or words[0] == "voxel-grid":  # the method that docs/adding-a-method.md adds
            return
        owners = METHODS if words[0] == "METHOD" else words[:1]
        assert set(owners) <= set(METHODS)
        place = next((place for place, word in enumerate(words) if word in all_dataparsers), len(words))
        assert any(accepts(owner, words[1:place]) for owner in owners)
        assert place == len(words) or accepts(words[place], words[place + 1 :])
    elif first in SCRIPTS:
        owner = first
        if words and re.fullmatch(r"[a-z][a-z0-9-]+", words[0]):
            assert words[0] in help_of(first)
            owner = f"{first} {words[0]}"
        assert accepts(owner, [word for word in words if word.startswith("--")])
    elif first.startswith("--"):
        owners = [*METHODS, *all_dataparsers, *commands()]
        assert any(accepts(owner, text.split()) for owner in owners), f"nothing takes {text}"


@pytest.mark.slow
@pytest.mark.parametrize("text", CELLS)
def test_names_in_columns_of_options_are_ends_of_options(text):
    name, *values = text.split()
    whole = rf"--(.*\.)?{re.escape(name.removeprefix('--').removesuffix('…'))}{'.*' if name.endswith('…') else ''}"
    found = [(owner, option) for owner in [*METHODS, *all_dataparsers] for option in options_of(owner)]
    found = [(owner, option) for owner, option in found if re.fullmatch(whole, option)]
    taken = name in METHODS or any(accepts(owner, [option, *values]) for owner, option in found)
    assert taken, f"no method and no data reader takes {text}"
