"""docs/commands.md tells what every command does on every method's run.

FIELDSUITE_WRITE_TABLE=1 writes the page from what is found; otherwise it is compared with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from tests.e2e.command_table import ALWAYS, COMMANDS, Subject, read, render, train_line, try_command
from tests.e2e.commands import run_command
from tests.e2e.tiny import command_words
from tests.test_methods import METHODS, PACKAGES

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
WRITE = os.environ.get("FIELDSUITE_WRITE_TABLE") == "1"
NAMES = [entry.name for entry in METHODS]


def test_the_page_has_every_method_and_every_command_of_ours():
    scripts = {entry.name for entry in entry_points(group="console_scripts") if entry.module.startswith(PACKAGES)}
    assert scripts - {"ns-campaign"} <= {command.name for command in COMMANDS}  # which calls the others
    if not WRITE:
        columns = read(PAGE.read_text(encoding="utf-8"))
        assert sorted(columns) == NAMES
        assert all(list(column) == [command.name for command in COMMANDS] for column in columns.values())
        assert render(columns) == PAGE.read_text(encoding="utf-8"), "the page was changed by hand"


@pytest.fixture(scope="module")
def column(tmp_path_factory) -> Callable[[str], dict[str, str]]:
    """Gives the states of a method's commands; each is run once."""
    folder = tmp_path_factory.mktemp("table")
    for words in (
        # Masks keep the white background out of training: colors do not begin by all becoming white.
        ["ns-sample-scene", "--output-dir", "sample", "--masks", *command_words("ns-sample-scene")],
        ["ns-multiscale-blender", "sample/blender", "multiscale"],
        train_line(Subject("hash-neus-small", folder)),  # its colors are laid onto other surfaces
    ):
        outcome = run_command(words, folder)
        assert outcome.code == 0, str(outcome)

    @cache
    def states(method: str) -> dict[str, str]:
        subject, found = Subject(method, folder), {}
        whole = WRITE or method in ALWAYS
        for command in COMMANDS if whole else COMMANDS[:1]:
            found[command.name] = try_command(command, subject, None if whole else 2)
            print(f"{method:22} {command.name:24} {found[command.name].seconds:6.2f} s  {found[command.name].state}")
        return {name: each.state for name, each in found.items()}

    return states


@pytest.mark.parametrize("method", [] if WRITE else NAMES)
def test_commands_do_what_the_page_says(method, column):
    found = column(method)
    said = {name: state for name, state in read(PAGE.read_text(encoding="utf-8"))[method].items() if name in found}
    if torch.cuda.is_available():  # where nerfstudio's marching cubes do run
        found, said = ({**states, "ns-export marching-cubes": ""} for states in (found, said))
    assert found == said


@pytest.mark.skipif(not WRITE, reason="writes docs/commands.md where FIELDSUITE_WRITE_TABLE=1")
def test_write_the_page(column):
    PAGE.write_text(render({method: column(method) for method in NAMES}), encoding="utf-8")
