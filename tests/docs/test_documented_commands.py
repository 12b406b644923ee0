"""Every command of README.md and docs/*.md runs as it stands there, on tiny data and with its work made small.

The commands of a page run in one folder, one after the other, so that each finds what earlier ones made. Words are
added to make training and pictures small (tests/e2e/tiny.py); the documented ones stay.
"""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
import tyro
from nerfstudio.configs.dataparser_configs import all_dataparsers

from tests.docs.documented import PAGES, ROOT, Documented, commands_of
from tests.docs.stand_ins import fill_in
from tests.e2e.commands import Outcome, run_command
from tests.e2e.tiny import command_words, parser_words, train_words

COMMANDS = [command for page in PAGES for command in commands_of(page)]
PROGRAMS = [command for command in COMMANDS if re.match(r"python (-m (?!nerfstudio)|docs)", command.text)]
VARIABLES = [command for command in COMMANDS if re.match(r"export NERFSTUDIO_\w+_CONFIGS=", command.text)]

NOT_RUN = {
    r"ns-process-data": "needs COLMAP",
    r"ns-depth-prepare .*--photos": "needs COLMAP",
    r"ns-depth-prepare .*--model": "needs the weights of a monocular network",
    r"ns-install-cli|ns-download-data": "changes the user's own files, or needs the network",
    r"ns-depth-prepare DATA --source mono --output-path OUT$": "needs a folder of MonoSDF",
    r"ns-train depth-hash --data OUT$": "needs what ns-depth-prepare makes of one",
    r"ns-campaign ": "takes minutes: tests/common_ns/campaigns/test_real_runs.py carries one out",
    r"ns-train .*--machine\.num-(devices|machines)": "needs several GPUs",
    r"ns-train .*--machine\.device-type cuda": "needs a GPU",
    r"ns-train voxel-grid": "is run by tests/docs/test_adding_a_method.py, which registers the page's method",
    r".*…|.*\bMETHOD\b": "is the beginning of several commands",
    r"pip ": "needs the network",
    r"(git|ssh|cd|source|open|xdg-open|tensorboard) ": "no command of the suite",
    r"python -m nerfstudio\.scripts\.train": "is ns-train, started where nothing is installed",
}
"""Commands that no test runs, as regular expressions of how they begin, and why."""
if not torch.cuda.is_available():
    NOT_RUN["ns-export marching-cubes"] = "needs a GPU"

OTHER = {"make": "its targets are looked up", "export": "what it names is imported", "python": "its options are parsed"}
"""Commands that are not run, and of which another test here asks something."""

MEANT_FOR = {
    "ns-miner-decode": "miner-image",
    "ns-zoom-path": "miner-image",
    "ns-depth-rays": "depth",
    "ns-swap-appearance": "neus|idr",
    "ns-mesh": "^(?!miner-image)",
    "ns-splat": "^(?!miner|mip-splat)",
    "ns-export": "^(?!miner-image)",
}
"""Methods whose run RUN stands for, the page's latest such, as regular expressions; else the latest that is no MINER
run, if there is one."""


def reason_not_to_run(command: Documented) -> str | None:
    """Why a command is not run; None if it is."""
    for start, reason in NOT_RUN.items():
        if re.match(start, command.text):
            return reason
    return OTHER.get(command.words[0])


class Page:
    """The run of a page's commands, in a folder of its own.

    Args:
        name: of the page.
        folder: to work in.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.commands = commands_of(name)
        self.runs: list[tuple[str, Path]] = []
        self.path_of: Path | None = None
        self.orbit: Path | None = None
        self.ends: dict[int, Outcome | Exception] = {}
        for command in self.commands:
            if command.words[0].startswith("ns-") and reason_not_to_run(command) is None:
                try:
                    self.ends[command.number] = self.run(command)
                except Exception as error:  # which is of this command, and not of the page's others
                    self.ends[command.number] = error

    def latest_runs(self, command: Documented) -> list[Path]:
        """The runs that a command's RUN and RUN_B can stand for, the latest first."""
        if command.text.startswith("ns-render camera-path") and self.path_of is not None:
            return [self.path_of]  # which the camera path was written for
        for pattern in (MEANT_FOR.get(command.name), "^(?!miner)", ""):
            found = [run for method, run in reversed(self.runs) if pattern is not None and re.search(pattern, method)]
            if found:
                return found
        return []

    def is_used(self, training: Documented) -> bool:
        """Whether a command before the next training asks for the run."""
        for command in self.commands[training.number + 1 :]:
            if "RUN" in command.text:
                return True
            if command.text.startswith("ns-train") and "miner" not in command.text:
                return False
        return False

    def run(self, command: Documented) -> Outcome:
        """Run a command, and keep in mind what later ones will ask for."""
        if "RUN" in command.text and not self.runs:
            self.run(Documented(self.name, -1, "ns-train hash-neus-small --data DATA"))
        runs = self.latest_runs(command)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            words = fill_in(command.words, runs, self.orbit, self.name)
        if words[0] == "ns-train":
            small = train_words(words[1], None if self.is_used(command) else 2)
            small += [] if "--vis" in words else ["--vis", "tensorboard"]
            small += ["--timestamp", f"run-{len(self.runs)}"]  # two may begin within a second
            # Behind the method's own options, of which the last one counts, and before the dataparser.
            place = next((place for place, word in enumerate(words) if word in all_dataparsers), len(words))
            place = min([place, *(place for place, word in enumerate(words) if word == "--help")])
            words = [*words[:place], *small, *words[place:]]
            words += parser_words(words)
        else:
            name = " ".join(words[:2]) if words[0] in ("ns-render", "ns-export") else words[0]
            method = next((method for method, run in self.runs if run in runs[:1]), "")
            # A capture that is contracted is fog throughout after so few steps.
            level = "20" if method.startswith("mip-nerf-360") else "1"
            words += [] if "--protocol" in words else command_words(name, method, level)
        before = set(self.folder.glob("outputs/**/config.yml"))
        outcome = run_command(words, self.folder)
        if words[0] == "ns-train" and outcome.code == 0 and "--help" not in words:
            new = sorted(set(self.folder.glob("outputs/**/config.yml")) - before)
            assert len(new) == 1, f"{' '.join(words)} has left {len(new)} runs"
            self.runs.append((words[1], new[0].parent.relative_to(self.folder)))
        elif words[0] in ("ns-zoom-path", "ns-orbit-path"):
            self.path_of = runs[0]
            if words[0] == "ns-orbit-path":
                self.orbit = runs[0] / "camera_paths" / "orbit.json"
        return outcome


@pytest.fixture(scope="module")
def page_of(tmp_path_factory) -> Callable[[str], Page]:
    """Gives a page, all of whose commands have run."""
    return cache(lambda name: Page(name, tmp_path_factory.mktemp("page")))


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_it_runs_as_it_stands(command, page_of):
    reason = reason_not_to_run(command)
    if reason is not None:
        pytest.skip(reason)
    assert command.words[0].startswith("ns-"), "neither run nor listed here with a reason"
    page = page_of(command.page)
    end = page.ends[command.number]
    if isinstance(end, Exception):
        raise end
    assert end.code == 0, str(end)
    for option, value in zip(end.words, end.words[1:]):
        if option in ("--output-path", "--output-dir"):
            written = page.folder / value
            assert any(written.iterdir()) if written.is_dir() else written.stat().st_size > 0, value


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.words[0] == "make"], ids=str)
def test_make_has_the_target(command):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {word for word in command.words[1:] if "=" not in word} <= set(targets)


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if re.match(r"export NERFSTUDIO_\w+_CONFIGS=", c.text)], ids=str
)
def test_variables_name_what_is_there(command):
    if command.page == "docs/adding-a-method.md":
        pytest.skip("names the page's own method: tests/docs/test_adding_a_method.py sets it")
    for entry in command.words[1].partition("=")[2].split(","):
        name, module, attribute = re.fullmatch(r"([\w-]+)=([\w.]+):(\w+)", entry).groups()
        found = getattr(importlib.import_module(module), attribute)
        assert getattr(getattr(found, "config", None), "method_name", name) == name


class Parsed(Exception):
    """The command line was accepted."""


@pytest.mark.parametrize("program", list({p.text: p for p in PROGRAMS}.values()), ids=str)
def test_programs_take_the_options(program, monkeypatch):
    """Benchmarks and scripts that make pictures take minutes: their options are parsed only."""
    real = tyro.cli

    def parse(*args: object, **options: object) -> None:
        real(*args, **options)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", parse)
    monkeypatch.setattr(tyro.extras._subcommand_cli_from_dict, "cli", parse, raising=False)
    named = program.words[2] if program.words[1] == "-m" else program.words[1]
    options = program.words[3 if program.words[1] == "-m" else 2 :]
    # Without options it is but named.
    monkeypatch.setattr(sys, "argv", [named, *(options or ["--help"])])
    with pytest.raises((Parsed, SystemExit)) as end:
        if program.words[1] == "-m":
            runpy.run_module(named, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(ROOT / named), run_name="__main__")
    assert isinstance(end.value, Parsed) if options else end.value.code == 0
