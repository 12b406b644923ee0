"""Every command on one method's run, and the page that says what became of it: docs/commands.md.

The page is what `render` makes of the states that the commands were found in; `read` gives the states back.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common_ns.nerfstudio_seam.runs import read_run_config
from tests.e2e.commands import Outcome, run_command, without_paths
from tests.e2e.products import (
    assert_camera_path,
    assert_cloud,
    assert_figures,
    assert_gaussians,
    assert_mesh,
    assert_pictures,
    assert_poses,
)
from tests.e2e.running import assert_video
from tests.e2e.tiny import command_words, parser_words, train_words

NOT_FOR = "–"
WORKS = "works"


@dataclass(frozen=True)
class Subject:
    """A method, and where its run and what comes of it are."""

    method: str
    """Its name."""
    folder: Path
    """The working folder of all commands, with the sample scene in `sample`."""

    @property
    def data(self) -> str:
        """The part of the sample scene that it trains on."""
        kinds = {"miner-image": "sample/nerfstudio/images/train_0000.png", "miner-occupancy": "sample/mesh.ply"}
        kinds |= {
            "mip-splat": "sample/nerfstudio",
            "depth": "sample/nerfstudio",
            "mip-nerf": "sample/blender",
            "zip-nerf": "sample/blender",
        }
        return next((path for start, path in kinds.items() if self.method.startswith(start)), "sample/idr")

    @property
    def run(self) -> str:
        """Its run's folder."""
        return f"outputs/sample/{self.method}/run"

    @property
    def out(self) -> str:
        """Where commands write to."""
        return f"out/{self.method}"

    def file(self, name: str) -> Path:
        """A file or folder that a command wrote."""
        return self.folder / self.out / name

    @property
    def path(self) -> str:
        """A camera path in its coordinates."""
        return f"{self.out}/zoom.json" if self.file("zoom.json").exists() else f"{self.out}/orbit.json"

    @property
    def parser(self) -> str:
        """Name of its dataparser."""
        from nerfstudio.configs.dataparser_configs import all_dataparsers

        config = read_run_config(self.folder / self.run / "config.yml").pipeline.datamanager.dataparser
        return next(name for name, other in all_dataparsers.items() if type(other) is type(config))


@dataclass(frozen=True)
class Command:
    """How a command is tried on a run."""

    name: str
    """The command, and its subcommand if it has any."""
    words: str
    """Its options: {run}, {out}, {data}, {path} and {parser} are filled in."""
    check: Callable[[Subject], None]
    """Raises AssertionError if what it makes is not there, or blank."""
    methods: str = ""
    """Regular expression of the methods that it has to do with; "": all."""

    def line(self, subject: Subject) -> list[str]:
        """The words of its command line."""
        given = {name: getattr(subject, name) for name in ("run", "out", "data", "path")}
        if "{parser}" in self.words:
            given["parser"] = subject.parser
        words = [*self.name.split(), *self.words.format(**given).split()]
        return words + command_words(self.name, subject.method)


def _checked(check: Callable[..., None], name: str, *more: object) -> Callable[[Subject], None]:
    return lambda subject: check(subject.file(name), *more)


def _check_training(subject: Subject) -> None:
    assert list((subject.folder / subject.run / "nerfstudio_models").glob("step-*.ckpt"))


def _check_textured(name: str) -> Callable[[Subject], None]:
    def check(subject: Subject) -> None:
        assert_mesh(subject.file(name))
        assert_pictures(subject.file(name).parent / "material_0.png")

    return check


def _check_dataset_render(subject: Subject) -> None:
    pictures = list(subject.file("dataset/test").rglob("*.jpg"))
    assert_pictures(*(file for file in pictures if "rgb" in file.parts or file.stem == "rgb"))


def _check_cameras(subject: Subject) -> None:
    frames = {"miner-image": 1, "miner-occupancy": 24}
    count = next((n for start, n in frames.items() if subject.method.startswith(start)), 12)
    assert_poses(subject.file("cameras/transforms_train.json"), count)


def _check_mesh_figures(subject: Subject) -> None:
    figures = json.loads(subject.file("figures.json").read_text())
    assert math.isfinite(figures["chamfer"]) and figures["chamfer"] > 0


def _check_voxels(subject: Subject) -> None:
    with np.load(subject.file("voxels.npz")) as arrays:
        assert any(array.size > 100 and array.any() for array in arrays.values())


def _check_sample(subject: Subject) -> None:
    assert (subject.folder / subject.data).exists()


def _check_multiscale(subject: Subject) -> None:
    models = subject.folder / "outputs" / "multiscale" / subject.method / "run" / "nerfstudio_models"
    assert list(models.glob("step-*.ckpt"))


def _check_sphere(subject: Subject) -> None:
    with np.load(subject.file("cameras_refit.npz")) as arrays:
        assert "scale_mat_0" in arrays and np.isfinite(arrays["scale_mat_0"]).all()


LOAD = "--load-config {run}/config.yml"
SURFACES = "neus|idr"
COMMANDS = (
    Command("ns-train", "", _check_training),
    Command("ns-viewer", f"{LOAD} --viewer.websocket-host 127.0.0.1", lambda subject: None),
    Command("ns-eval", f"{LOAD} --output-path {{out}}/eval.json", _checked(assert_figures, "eval.json")),
    Command("ns-orbit-path", f"{LOAD} --output-path {{out}}/orbit.json", _checked(assert_camera_path, "orbit.json")),
    Command("ns-zoom-path", f"{LOAD} --output-path {{out}}/zoom.json", _checked(assert_camera_path, "zoom.json")),
    Command("ns-render dataset", f"{LOAD} --output-path {{out}}/dataset", _check_dataset_render),
    Command("ns-render interpolate", f"{LOAD} --output-path {{out}}/way.mp4", _checked(assert_video, "way.mp4")),
    Command("ns-render spiral", f"{LOAD} --output-path {{out}}/spiral.mp4", _checked(assert_video, "spiral.mp4")),
    Command(
        "ns-render camera-path",
        f"{LOAD} --camera-path-filename {{path}} --output-path {{out}}/path.mp4",
        _checked(assert_video, "path.mp4"),
    ),
    Command(
        "ns-export pointcloud", f"{LOAD} --output-dir {{out}}/cloud", _checked(assert_cloud, "cloud/point_cloud.ply")
    ),
    Command("ns-export tsdf", f"{LOAD} --output-dir {{out}}/tsdf", _check_textured("tsdf/tsdf_mesh.ply")),
    Command("ns-export poisson", f"{LOAD} --output-dir {{out}}/poisson", _check_textured("poisson/poisson_mesh.ply")),
    Command(
        "ns-export marching-cubes",
        f"{LOAD} --output-dir {{out}}/cubes",
        _check_textured("cubes/sdf_marching_cubes_mesh.ply"),
    ),
    Command("ns-export cameras", f"{LOAD} --output-dir {{out}}/cameras", _check_cameras),
    Command("ns-mesh", f"{LOAD} --output-path {{out}}/mesh.ply --world-coordinates", _checked(assert_mesh, "mesh.ply")),
    Command("ns-splat", f"{LOAD} --output-path {{out}}/scene.ply", _checked(assert_gaussians, "scene.ply")),
    Command("ns-eval-mesh", "{out}/mesh.ply sample/mesh.ply --output-path {out}/figures.json", _check_mesh_figures),
    Command(
        "ns-turntable", "{out}/mesh.ply --output-path {out}/turntable.png", _checked(assert_pictures, "turntable.png")
    ),
    Command("ns-miner-decode", f"{LOAD} --output-path {{out}}/image.png", _checked(assert_pictures, "image.png")),
    Command("ns-depth-rays", f"{LOAD} --output-path {{out}}/rays.png", _checked(assert_pictures, "rays.png")),
    Command(
        "ns-swap-appearance",
        "--geometry {run}/config.yml --appearance outputs/sample/hash-neus-small/run/config.yml "
        "--camera-path {path} --output-path {out}/swapped.mp4",
        _checked(assert_video, "swapped.mp4"),
    ),
    Command("ns-sample-scene", "", _check_sample),
    Command(
        "ns-show-poses", "{parser} --data {data} --output-path {out}/poses.png", _checked(assert_pictures, "poses.png")
    ),
    Command("ns-multiscale-blender", "", _check_multiscale, methods="^mip-nerf|^zip-nerf|depth|neus|idr"),
    Command("ns-depth-check", "{data} --output-path {out}/check.png", _checked(assert_pictures, "check.png"), "depth"),
    Command(
        "ns-depth-prepare",
        "{data} --source sensor --output-path {out}/prepared",
        _checked(assert_pictures, "prepared/overview.png"),
        "depth",
    ),
    Command("ns-idr-cameras", "{data} --output-path {out}/cameras_refit.npz", _check_sphere, SURFACES),
    Command("ns-voxelize", "{data} --output-path {out}/voxels.npz", _check_voxels, "miner-occupancy"),
)
"""In the order of the page."""


ALWAYS = (
    "mip-nerf-small",
    "mip-nerf-360-small",
    "zip-nerf-small",
    "mip-splat-small",
    "depth-hash-small",
    "depth-splat-small",
    "hash-neus-small",
    "hash-idr-small",
    "miner-image",
    "miner-occupancy",
)
"""Methods on whose runs the tests try commands: some in make test, all in make test-slow. Others differ from these by
sizes, or by the encoding, and are but trained for two steps; their columns are found when the page is written."""


def train_line(subject: Subject, steps: int | None = None) -> list[str]:
    """The words that train a method on its part of the sample scene."""
    words = ["ns-train", subject.method, *train_words(subject.method, steps), "--vis", "tensorboard"]
    words += ["--data", subject.data, "--experiment-name", "sample", "--timestamp", "run"]
    words += ["blender-data"] if subject.method.startswith(("mip-nerf-360", "zip-nerf")) else []
    return words + parser_words(words)


def multiscale_line(subject: Subject) -> list[str]:
    """The words that train a method for two steps on what ns-multiscale-blender wrote."""
    words = ["ns-train", subject.method, *train_words(subject.method, 2), "--vis", "tensorboard"]
    words += ["--experiment-name", "multiscale", "--timestamp", "run"]
    return [*words, "multiscale-blender-data", "--data", "multiscale"]


@dataclass(frozen=True)
class Found:
    """What a command was found to do on a method's run."""

    state: str
    """`works`, `–`, or the line that it ended with."""
    seconds: float
    """CPU time that it took."""


def state_of(outcome: Outcome, command: Command, subject: Subject) -> str:
    """The state that a command's end shows.

    Raises: AssertionError if it ended well, and what it should have made is not there; or if it ended otherwise than
        by one line.
    """
    if outcome.code == 0:
        try:
            command.check(subject)
        except (AssertionError, FileNotFoundError) as error:
            raise AssertionError(f"{outcome}\n{error!r}") from error
        return WORKS
    assert outcome.refusal is not None, str(outcome)
    line = without_paths(outcome.refusal, subject.folder)
    for name, value in (("RUN", subject.run), ("OUT", subject.out)):
        line = line.replace(value, name)
    return re.sub(r"\b[A-Z]\w+Model\b", "MODEL", line)


def try_command(command: Command, subject: Subject, steps: int | None = None) -> Found:
    """Run a command on a method's run, and look at what it made.

    Args:
        command, subject: which, on which.
        steps: to train, by ns-train; None: as many as other commands need.
    """
    if command.methods and not re.search(command.methods, subject.method):
        return Found(NOT_FOR, 0.0)
    if command.name in ("ns-eval-mesh", "ns-turntable") and not subject.file("mesh.ply").exists():
        return Found(NOT_FOR, 0.0)
    if command.name == "ns-sample-scene":  # it has made what the method was trained on
        _check_sample(subject)
        return Found(WORKS, 0.0)
    if command.name == "ns-train":
        if (subject.folder / subject.run).exists():
            _check_training(subject)
            return Found(WORKS, 0.0)
        words = train_line(subject, steps)
    elif command.name == "ns-multiscale-blender":
        words = multiscale_line(subject)
    else:
        words = command.line(subject)
    outcome = run_command(words, subject.folder)
    return Found(state_of(outcome, command, subject), outcome.seconds)


Column = Mapping[str, str]
"""The states of one method, by command."""

ORDER = (
    "mip-nerf",
    "mip-nerf-360",
    "zip-nerf",
    "mip-splat",
    "depth",
    "depth-splat",
    "hash-neus",
    "nffb-neus",
    "hash-idr",
    "nffb-idr",
    "miner-image",
    "miner-occ",
)
"""Beginnings of methods' names in the order of the page; the longest that fits counts."""

HEAD = """# Commands and methods

What each command does on a run of each method: found by running it, by `tests/e2e/test_command_table.py`, and compared
with this page by the tests. Networks, steps and pictures are small ones; a state is *works* only where
what the command makes was there and was not blank; *refused* where it ended with one line instead, which stands below
the table; {not_for} where it has nothing to do with the method. RUN is the run's folder.

All ran on a CPU, on the sample scene: `mip-nerf…` and `zip-nerf…` on its Blender layout, `mip-splat…` and `depth-…` on
its nerfstudio layout, the surfaces on its IDR layout, `miner-image…` on one of its pictures, `miner-occupancy` on its
mesh.
"""
FOOT = """
`ns-sample-scene` made the data. `ns-multiscale-blender` stands for training on what it made, with
`multiscale-blender-data`; `ns-eval-mesh` and `ns-turntable` for measuring and drawing what `ns-mesh` made;
`ns-swap-appearance` for painting the run's surface with the colors of a `hash-neus-small` run. `ns-campaign` calls
these commands for many scenes and methods ([campaigns](campaigns.md)). Of nerfstudio's other commands,
`ns-process-data` prepares data before there is a method, and `ns-export gaussian-splat` is for splatting methods,
`mip-splat…` among them.

`make test-slow` runs all of this, and `make test` `ns-train`, `ns-eval` and `ns-render dataset`, for
{always}.
The others, which differ by sizes or by the encoding, they train for two steps; the rest of their columns was found when
this page was written, by `FIELDSUITE_WRITE_TABLE=1 python -m pytest tests/e2e/test_command_table.py`.
"""


def place_of(method: str) -> tuple[int, str]:
    """By which methods are sorted."""
    fitting = [start for start in ORDER if method.startswith(start)]
    return (ORDER.index(max(fitting, key=len)) if fitting else len(ORDER), method)


def render(columns: Mapping[str, Column]) -> str:
    """The page: a table of commands × groups of methods whose states are all alike, and the lines of refusals."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for method, column in sorted(columns.items(), key=lambda item: place_of(item[0])):
        groups.setdefault(tuple(column[command.name] for command in COMMANDS), []).append(method)
    lines: list[str] = []

    def cell(state: str) -> str:
        if state in (WORKS, NOT_FOR):
            return state
        if state not in lines:
            lines.append(state)
        return f"refused ({lines.index(state) + 1})"

    head = ["command", *("<br>".join(f"`{method}`" for method in members) for members in groups.values())]
    rows = [[f"`{command.name}`", *(cell(states[i]) for states in groups)] for i, command in enumerate(COMMANDS)]
    table = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    notes = [f"{number}. `{line}`" for number, line in enumerate(lines, 1)]
    always = textwrap.fill(", ".join(f"`{method}`" for method in ALWAYS), 118, break_on_hyphens=False)
    foot = FOOT.format(always=always).rstrip("\n")
    return "\n".join([HEAD.format(not_for=NOT_FOR), *table, "", *notes, foot, ""])


def read(page: str) -> dict[str, dict[str, str]]:
    """The states of each method, from the page that `render` made of them."""
    notes = dict(re.findall(r"^(\d+)\. `(.+)`$", page, re.MULTILINE))
    rows = [[cell.strip() for cell in line.strip("| \n").split(" | ")] for line in re.findall(r"^\|.*$", page, re.M)]
    columns: dict[str, dict[str, str]] = {}
    for place, names in enumerate(rows[0][1:], 1):
        states = {row[0].strip("`"): row[place] for row in rows[2:]}
        found = {
            name: notes[match[1]] if (match := re.fullmatch(r"refused \((\d+)\)", state)) else state
            for name, state in states.items()
        }
        columns |= {method: found for method in re.findall("`(.+?)`", names)}
    return columns
