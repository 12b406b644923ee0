"""docs/commands.md tells what every command does on every method's run.

FIELDSUITE_WRITE_TABLE=1 writes the page from what is found; otherwise it is compared with it.
"""

from __future__ import annotations

import os
from collections.abc import Container
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
ALL = [command.name for command in COMMANDS]


def test_the_page_has_every_method_and_every_command_of_ours():
    scripts = {entry.name for entry in entry_points(group="console_scripts") if entry.module.startswith(PACKAGES)}
    assert scripts - {"ns-campaign"} <= {command.name for command in COMMANDS}  # which calls the others
    if not WRITE:
        columns = read(PAGE.read_text(encoding="utf-8"))
        assert sorted(columns) == NAMES
        assert all(list(column) == [command.name for command in COMMANDS] for column in columns.values())
        assert render(columns) == PAGE.read_text(encoding="utf-8"), "the page was changed by hand"


QUICK = ("ns-train", "ns-eval", "ns-render dataset")
"""Commands that are tried on the runs of ALWAYS by make test; make test-slow tries all."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A working folder with the sample scene."""
    folder = tmp_path_factory.mktemp("table")
    # Masks keep the white background out of training: colors do not begin by all becoming white.
    run(["ns-sample-scene", "--output-dir", "sample", "--masks", *command_words("ns-sample-scene")], folder)
    return folder


@pytest.fixture(scope="module")
def whole_folder(folder) -> Path:
    """The folder with what the commands of other methods take besides."""
    run(["ns-multiscale-blender", "sample/blender", "multiscale"], folder)
    run(train_line(Subject("hash-neus-small", folder)), folder)  # its colors are laid onto other surfaces
    return folder


def run(words: list[str], folder: Path) -> None:
    """Run a command that has to work."""
    outcome = run_command(words, folder)
    assert outcome.code == 0, str(outcome)


def column(subject: Subject, names: Container[str], steps: int | None = None) -> dict[str, str]:
    """The states of a method's commands, of those that are named, after so many steps."""
    found = {}
    for command in COMMANDS:
        if command.name in names:
            found[command.name] = try_command(command, subject, steps)
            state, seconds = found[command.name].state, found[command.name].seconds
            print(f"{subject.method:22} {command.name:24} {seconds:6.2f} s  {state}")
    return {name: each.state for name, each in found.items()}


def assert_as_the_page_says(method: str, found: dict[str, str]) -> None:
    """The states that were found are those of the page."""
    said = {name: state for name, state in read(PAGE.read_text(encoding="utf-8"))[method].items() if name in found}
    if torch.cuda.is_available():  # where nerfstudio's marching cubes do run
        found, said = ({**states, "ns-export marching-cubes": ""} for states in (found, said))
    assert found == said


@pytest.mark.parametrize("method", [] if WRITE else NAMES)
def test_commands_do_what_the_page_says(method, folder):
    subject = Subject(method, folder)
    found = column(subject, QUICK) if method in ALWAYS else column(subject, QUICK[:1], 2)
    assert set(found) == set(QUICK if method in ALWAYS else QUICK[:1])
    assert_as_the_page_says(method, found)


@pytest.mark.slow
@pytest.mark.parametrize("method", [] if WRITE else ALWAYS)
def test_all_commands_do_what_the_page_says(method, whole_folder):
    assert_as_the_page_says(method, column(Subject(method, whole_folder), ALL))


@pytest.mark.skipif(not WRITE, reason="writes docs/commands.md where FIELDSUITE_WRITE_TABLE=1")
def test_write_the_page(whole_folder):
    columns = {method: column(Subject(method, whole_folder), ALL) for method in NAMES}
    PAGE.write_text(render(columns), encoding="utf-8")
