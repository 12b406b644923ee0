"""What works in this Python environment, as one row of the table of docs/compatibility.md.

python -m tests.e2e.compatibility

Lists the methods as `ns-train --help` does, trains all of them, runs nerfstudio's commands and ns-mesh on a run of each
family and resumes it, and runs the tests of what knows nerfstudio's insides. Takes some minutes on a CPU.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import tyro

from tests.e2e.command_table import ALWAYS, COMMANDS, Found, Subject, read, train_line, try_command
from tests.e2e.commands import run_command
from tests.e2e.tiny import command_words

ROOT = Path(__file__).parents[2]
PACKAGES = ("nerfstudio", "torch", "torchvision", "numpy", "gsplat", "viser", "tyro", "open3d")
USED = ("ns-train", "ns-viewer", "ns-eval", "ns-render interpolate", "ns-export pointcloud", "ns-mesh")
"""Commands that are tried on a run of each family: they load configs and checkpoints, and use nerfstudio most."""
HEAD = ("Python", *PACKAGES, "methods", "commands", "resumed", "tests", "failed")
TESTS = ("tests/test_methods.py", "tests/common_ns/nerfstudio_seam/test_compat.py")
TESTS += ("tests/common_ns/nerfstudio_seam/test_trainer.py",)


@dataclass
class Compatibility:
    """Print a row of the table of docs/compatibility.md: what works in this Python environment."""

    steps: int = 20
    """Steps of methods that are only trained; those whose run is used take more, until the model is opaque."""
    methods: tuple[str, ...] = ()
    """Methods to try; none: all."""

    def main(self) -> None:
        """Try all, then print what failed, with its last lines, and the row."""
        torch.set_num_threads(1)
        self.counts: dict[str, list[bool]] = {column: [] for column in ("methods", "commands", "resumed")}
        self.failed: list[str] = []
        with tempfile.TemporaryDirectory() as folder:
            self.try_methods(Path(folder))
        words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *TESTS]
        ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        totals = re.findall(r"^\d+ (?:passed|failed|error|skipped).*?(?=,? \d+ warn| in )", ended.stdout, re.MULTILINE)
        if ended.returncode:
            print(ended.stdout[-3000:], ended.stderr[-1000:])
            self.failed.append("tests")
        cells = [platform.python_version(), *map(version, PACKAGES)]
        cells += [f"{sum(done)} of {len(done)}" for done in self.counts.values()]
        cells += [totals[-1] if totals else "none", "; ".join(self.failed) or "nothing"]
        print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|\n| " + " | ".join(cells) + " |")

    def note(self, column: str, what: str, passed: bool, why: str) -> None:
        """Count one trial, and keep what failed."""
        print(f"{what}: {'works' if passed else why}", flush=True)
        self.counts[column].append(passed)
        if not passed:
            self.failed.append(what)

    def try_methods(self, folder: Path) -> None:
        """Train every method in a folder, and use and resume the runs of ALWAYS."""
        said = read((ROOT / "docs" / "commands.md").read_text(encoding="utf-8"))
        words = ["ns-sample-scene", "--output-dir", "sample", "--masks", *command_words("ns-sample-scene")]
        made = run_command(words, folder)
        assert made.code == 0, str(made)
        ns_train = Path(sys.executable).with_name("ns-train")  # as users start it, with what is installed
        shown = subprocess.run([ns_train, "--help"], cwd=folder, capture_output=True, text=True).stdout
        unlisted = [method for method in said if not re.search(rf"(?<![\w-]){method}(?![\w-])", shown)]
        if unlisted:
            self.failed.append(f"ns-train --help lists no {', '.join(unlisted)}")
        for method in self.methods or said:
            states, subject, whole = said[method], Subject(method, folder), method in ALWAYS
            for command in COMMANDS:
                if command.name == "ns-train" or (whole and command.name in USED):
                    try:
                        found = try_command(command, subject, None if whole else self.steps)
                    except Exception:  # which is what the row is to tell of; the others are tried all the same
                        found = Found(traceback.format_exc()[-3000:], 0.0)
                    column = "methods" if command.name == "ns-train" else "commands"
                    same = found.state == states[command.name]
                    self.note(column, f"{command.name} {method}", same, found.state)
            if whole:
                self.resume(subject)

    def resume(self, subject: Subject) -> None:
        """Go on with a run from its checkpoint, in another run."""
        words = ["resumed" if word == "run" else word for word in train_line(subject)]
        run = subject.folder / subject.run
        words[2:2] = ["--load-dir", str(run / "nerfstudio_models")]
        outcome = run_command(words, subject.folder)
        passed = outcome.code == 0 and any(run.with_name("resumed").rglob("step-*.ckpt"))
        self.note("resumed", f"resume {subject.method}", passed, str(outcome))


if __name__ == "__main__":
    tyro.cli(Compatibility).main()
