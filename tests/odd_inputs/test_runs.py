"""Runs: configs and checkpoints of every kind, moved, spoilt, of others; and outputs that cannot be written."""

from __future__ import annotations

import copy
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.scripts import exporter, render, train
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.utils import eval_utils

from common_ns.errors import InputError
from common_ns.hash_grid import HashGridOptions
from common_ns.nerfstudio_seam.runs import load_run, read_run_config
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from common_ns.scripts.mesh import MeshCommand
from common_ns.scripts.orbit_path import OrbitPath
from common_ns.scripts.show_poses import ShowPoses
from common_ns.scripts.splat import SplatCommand
from common_ns.scripts.turntable import Turntable
from depthnerf_ns.prepare.options import PrepareOptions
from depthnerf_ns.prepare.run import prepare
from depthnerf_ns.scripts.depth_check import DepthCheck
from depthnerf_ns.scripts.depth_rays import DepthRays
from hashnffb_sdf_ns.scripts.eval_mesh import EvalMeshCommand
from hashnffb_sdf_ns.scripts.idr_cameras import IdrCamerasCommand
from hashnffb_sdf_ns.scripts.swap_appearance import SwapAppearance
from miner_ns.fitting import FitOptions
from miner_ns.scripts.decode import DecodeCommand
from miner_ns.scripts.voxelize import VoxelizeCommand
from miner_ns.scripts.zoom_path import ZoomPath
from mipnerf_ns.scripts.multiscale_blender import MultiscaleBlender
from tests.e2e.running import run_config
from tests.e2e.running import train as train_run
from tests.e2e.surface_runs import make_tiny
from tests.odd_inputs.kit import DENIED, BaseScene, Row, assert_ends_as_it_should, fifo, ids, link_loop, lock

GRID = HashGridOptions(num_levels=2, log2_table_size=8, base_resolution=4, max_resolution=16)
DEPTH = {"num_proposal_samples": (4,), "num_nerf_samples": 4, "grid": GRID, "proposal_grid": GRID, "hidden_dim": 8}
MIP = {"num_coarse_samples": 4, "num_importance_samples": 4, "hidden_dim": 8, "num_layers": 2, "num_frequencies": 2}
FIT = {"num_levels": 2, "block_size": 8, "hidden_dim": 4, "num_frequencies": 2, "epochs": (2, 4), "threshold": 1e-9}
LATEST, BEFORE = "step-000000003.ckpt", "step-000000002.ckpt"
FAMILIES = {
    "mip-nerf-small": "blender",
    "depth-hash-small": "nerfstudio",
    "hash-neus-small": "idr",
    "miner-image": "blender/train/r_0.png",
}
"""A method of each family, and what it is trained on."""


class TinyRuns:
    """A run of each family, of four steps and two checkpoints, written when it is first asked for.

    Args:
        scene: its data.
        folder: where runs are written.
    """

    def __init__(self, scene: BaseScene, folder: Path) -> None:
        self.scene, self.folder = scene, folder

    def config(self, method: str, output: Path, **options: Any) -> Any:
        """The config of a run of four steps; options are those of the run, or else of its model."""
        data = self.scene.written / FAMILIES[method]
        model = {"mip-nerf-small": MIP, "depth-hash-small": DEPTH}.get(method, {})
        if method == "miner-image":
            model = {"fit": FitOptions(**{**FIT, "implementation": "torch", **options.pop("fit", {})})}
        config = run_config(method, data, output, 4, 16, **model)
        if method == "hash-neus-small":
            config = make_tiny(config, 4)
        config.steps_per_save = 2
        config.save_only_latest_checkpoint = False
        for name, value in options.items():
            setattr(config if hasattr(config, name) else config.pipeline.model, name, value)
        return config

    def of(self, method: str) -> Path:
        """The run's folder."""
        output = self.folder / method
        if not output.exists():
            train_run(self.config(method, output))
        return output / "sample" / method / "run"


@pytest.fixture(scope="session")
def runs(base_scene, tmp_path_factory) -> TinyRuns:
    return TinyRuns(base_scene, tmp_path_factory.mktemp("runs"))


class Harm:
    """What a harmful checkpoint holds."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch done",)


def latest(change: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A `Row.make` that changes the latest checkpoint of a run."""
    return lambda run: change(run / "nerfstudio_models" / LATEST)


def beside(name: str, source: str = LATEST) -> Callable[[Path], None]:
    """A `Row.make` that puts a copy of a checkpoint beside it."""
    return lambda run: shutil.copy(run / "nerfstudio_models" / source, run / "nerfstudio_models" / name)


def alone(name: str) -> Callable[[Path], None]:
    """A `Row.make` that leaves one checkpoint of that name."""

    def make(run: Path) -> None:
        folder = run / "nerfstudio_models"
        (folder / LATEST).rename(folder / name)
        for other in folder.iterdir():
            if other.name != name:
                other.unlink()

    return make


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def harmful(file: Path) -> None:
    state = torch.load(file, weights_only=True)
    torch.save({**state, "pipeline": {"_model.x": Harm()}}, file)


def of_config(old: str, new: str) -> Callable[[Path], None]:
    """A `Row.make` that replaces a text of config.yml, which is there."""

    def make(run: Path) -> None:
        file = run / "config.yml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return make


def holding(tag: str) -> Callable[[Path], None]:
    """A `Row.make` that puts a tag of Python into config.yml."""
    return of_config("project_name: nerfstudio-project", f"project_name: {tag}")


def as_config(change: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A `Row.make` that changes the file config.yml."""
    return lambda run: change(run / "config.yml")


def resumed_from(step: int, name: str | None = None) -> Callable[[Any], None]:
    """A trainer goes on after a step, with the parameters of that checkpoint."""

    def right(trainer: Any) -> None:
        assert trainer._start_step == step + 1
        folder = trainer.config.load_dir or trainer.config.load_checkpoint.parent
        state = torch.load(folder / (name or f"step-{step:09d}.ckpt"), weights_only=True)["pipeline"]
        now = trainer.pipeline.state_dict()
        assert state.keys() == now.keys()
        assert all(torch.equal(state[key], now[key]) for key in state if isinstance(state[key], torch.Tensor))

    return right


def evaluated(step: int, inside: str = "run") -> Callable[[Any], None]:
    """`eval_setup` has taken the checkpoint of a step, in a folder."""

    def right(result: Any) -> None:
        _, pipeline, file, found = result
        assert found == step and inside in file.parts and file.name == f"step-{step:09d}.ckpt"
        state = torch.load(file, weights_only=True)["pipeline"]
        assert all(torch.equal(state[key], value) for key, value in pipeline.state_dict().items())

    return right


def named_project(value: Any) -> Callable[[Any], None]:
    """A config has this project_name."""

    def right(config: Any) -> None:
        assert config.project_name == value

    return right


def nothing(_: Path) -> None:
    """Changes nothing."""


RESUME: dict[str, Any] = {"do": "resume"}
EVALUATE: dict[str, Any] = {"do": "evaluate"}
NO_CLASS = "no class of nerfstudio, of this suite or of a registered plugin"
UNREAD = r"step-000000003\.ckpt: the checkpoint cannot be read"

CONFIGS = [
    Row(
        "a command of the shell",
        holding("!!python/object/apply:os.system [touch done]"),
        f"names os.system.*{NO_CLASS}",
    ),
    Row("a process", holding("!!python/object/new:subprocess.Popen [[touch, done]]"), "names subprocess.Popen"),
    Row("a function of the system", holding("!!python/name:os.system ''"), r"line \d+: names os.system"),
    Row("a module", holding("!!python/module:os ''"), "no|could not determine a constructor .*python/module:os"),
    Row(
        "a function of nerfstudio that runs commands",
        holding("!!python/object/apply:nerfstudio.utils.scripts.run_command [touch done]"),
        "names nerfstudio.utils.scripts.run_command",
    ),
    Row("Python's eval", holding("!!python/object/apply:builtins.eval ['1']"), "names builtins.eval"),
    Row(
        "what a module of nerfstudio has imported",
        holding("!!python/object/apply:nerfstudio.utils.scripts.subprocess.run [[touch, done]]"),
        "names nerfstudio.utils.scripts.subprocess.run",
    ),
    Row(
        "a tuple that calls",
        holding("!!python/object/new:tuple [!!python/object/new:map [!!python/name:eval '', ['1']]]"),
        "names eval",
    ),
    Row(
        "a class made of functions",
        holding(
            "!!python/object/new:type {args: [z, !!python/tuple [], {extend: !!python/name:exec ''}], listitems: x}"
        ),
        "names exec",
    ),
    Row(
        "a partial call", holding("!!python/object/apply:functools.partial [!!python/name:os.system '']"), "names os.s"
    ),
    Row(
        "a method that is replaced",
        holding("!!python/object:nerfstudio.configs.base_config.InstantiateConfig {setup: touch}"),
        "replaces setup of InstantiateConfig",
    ),
    Row(
        "a target that is no class",
        holding("!!python/object:nerfstudio.configs.base_config.InstantiateConfig {_target: touch}"),
        "has the _target touch, which is no class",
    ),
    Row(
        "a viewer that would listen",
        holding("!!python/object/apply:nerfstudio.viewer.viewer.Viewer []"),
        "calls nerfstudio.viewer.viewer.Viewer, and a config calls nothing",
    ),
    Row(
        "a class of others", holding("!!python/object:json.decoder.JSONDecoder {}"), f"JSONDecoder, which is {NO_CLASS}"
    ),
    Row(
        "a method whose package is not there",
        holding("!!python/object:lost_ns.Config {}"),
        r"names lost_ns.Config.*with the method's package installed\.$",
    ),
    Row("a class that there is not", holding("!!python/name:common_ns.base_model.Lost ''"), "Lost, which there is not"),
    Row("brackets without end", holding("[" * 5000), "nested too deeply|cannot be read"),
    Row("a cut config", as_config(lambda file: os.truncate(file, 700)), r"config\.yml: (cannot be read|holds a)"),
    Row("an empty config", as_config(lambda file: file.write_text("")), "holds a NoneType, not the config of a run"),
    Row("a config of something else", as_config(lambda file: file.write_text("a: 1")), "holds a dict, not the config"),
    Row(
        "a picture as config",
        as_config(lambda file: file.write_bytes(b"\x89PNG\xff")),
        "cannot be read as a nerfstudio",
    ),
    Row("a pipe as config", as_config(fifo), "config is a named pipe"),
    Row("a loop of links as config", as_config(link_loop), "config cannot be opened"),
    Row("a locked config", as_config(lock), rf"config\.yml: the config {DENIED}read it"),
    Row("a config in a locked folder", lock, rf"config\.yml: the config {DENIED}enter the folder DATA "),
    Row("a folder as config", as_config(as_folder), "config is a folder"),
    Row(
        "a path that Windows wrote",
        holding("!!python/object/apply:pathlib.WindowsPath [data, sample]"),
        right=named_project(Path("data/sample")),
    ),
]
for row in CONFIGS:
    row.options = {"do": "read"}

RESUMES = [
    Row("a run as it is", nothing, right=resumed_from(3)),
    Row("the Finder's file", lambda run: (run / "nerfstudio_models" / ".DS_Store").touch(), right=resumed_from(3)),
    Row("a copy", beside("step-000000009 (copy).ckpt", BEFORE), right=resumed_from(3)),
    Row("best beside the others", beside("best.ckpt", BEFORE), right=resumed_from(3)),
    Row("a step that is no number", beside("step-abc.ckpt", BEFORE), right=resumed_from(3)),
    Row("a folder inside", lambda run: (run / "nerfstudio_models" / "old").mkdir(), right=resumed_from(3)),
    Row("fewer digits in the name", alone("step-3.ckpt"), right=resumed_from(3, "step-3.ckpt")),
    Row("a step that was saved", nothing, right=resumed_from(2), options={"load_step": 2}),
    Row("a step that was not", nothing, r"no checkpoint of step 7\. .* there: 2, 3\.", options={"load_step": 7}),
    Row("a step without a folder", nothing, "--load-step is 2, without", options={"load_step": 2, "load_dir": None}),
    Row("best alone", alone("best.ckpt"), "holds no checkpoint of the name .* but best.ckpt.*--load-checkpoint"),
    Row(
        "best alone, as a file",
        alone("best.ckpt"),
        right=resumed_from(3, "best.ckpt"),
        options={"load_dir": None, "load_checkpoint": "nerfstudio_models/best.ckpt"},
    ),
    Row(
        "a file that is lost",
        nothing,
        "lost.ckpt: the checkpoint does not exist",
        options={"load_dir": None, "load_checkpoint": "lost.ckpt"},
    ),
    Row(
        "no checkpoint at all",
        lambda run: alone("x")(run) or (run / "nerfstudio_models/x").unlink(),
        "no checkpoint\\.",
    ),
    Row("no folder", nothing, "lost: the checkpoint folder does not exist", options={"load_dir": "lost"}),
    Row("the run's folder", nothing, r"Give DATA/nerfstudio_models\.", options={"load_dir": "."}),
    Row("a file as folder", nothing, "is no folder of checkpoints", options={"load_dir": "config.yml"}),
    Row("a cut one", latest(cut), rf"{UNREAD}, as if cut off.*{BEFORE}, is whole"),
    Row("an empty one", latest(lambda file: file.write_bytes(b"")), rf"is empty\. Move it away; .*{BEFORE}, is whole"),
    Row("a text", latest(lambda file: file.write_text("lorem ipsum")), f"{UNREAD}.*{BEFORE}, is whole"),
    Row(
        "cut, and the one before too",
        lambda run: [cut(run / "nerfstudio_models" / name) for name in (LATEST, BEFORE)],
        "cut off.*no earlier one",
    ),
    Row("a pipe", latest(fifo), f"{LATEST}: the checkpoint is a named pipe"),
    Row("a loop of links", latest(link_loop), f"{LATEST}: the checkpoint cannot be opened"),
    Row("a locked one", latest(lock), f"{LATEST}: the checkpoint {DENIED}read it"),
    Row(
        "a locked folder",
        lambda run: lock(run / "nerfstudio_models"),
        f"models: the folder of checkpoints {DENIED}read",
    ),
    Row("a folder of its name", latest(as_folder), f"{LATEST}: the checkpoint is a folder"),
    Row(
        "a harmful one",
        latest(harmful),
        f"{LATEST}: the checkpoint names (posix|nt|os).system, .* was not read.*{BEFORE}",
    ),
    Row("the weights of a network", latest(lambda file: torch.save({"w": torch.ones(3)}, file)), r"it holds w\)"),
    Row(
        "a tensor", latest(lambda file: torch.save(torch.ones(3), file)), r"no checkpoint of a run \(it holds Tensor\)"
    ),
    Row(
        "wider networks",
        nothing,
        r"does not fit a run of mip-nerf-small \(\S+ has 8×\d+ numbers there and 16×\d+ here\)",
        options={"hidden_dim": 16},
    ),
    Row("more layers", nothing, r"does not fit .*parameters are missing", options={"num_layers": 3}),
    Row("MINER as it is", nothing, right=resumed_from(2), options={"of": "miner-image", "method": "miner-image"}),
    Row(
        "MINER with other blocks",
        nothing,
        r"does not fit a run of miner-image \(ValueError: level 0|level 1",
        options={"of": "miner-image", "method": "miner-image", "fit": {"hidden_dim": 6}},
    ),
    *(
        Row(
            f"{method} from {other}",
            nothing,
            f"the checkpoint of {other} does not fit a run of {method}",
            options={"of": other, "method": method},
        )
        for method in FAMILIES
        for other in FAMILIES
        if other != method
    ),
]
for row in RESUMES:
    row.options = {**RESUME, **row.options}


def alone_elsewhere(run: Path) -> None:
    """Leave config.yml alone: its checkpoints are where it says."""
    shutil.rmtree(run / "nerfstudio_models")


def without_data(run: Path, data: str = "old/place") -> None:
    """Let the config name data that has moved."""
    file = run / "config.yml"
    config = read_run_config(file)
    config.data = config.pipeline.datamanager.data = config.pipeline.datamanager.dataparser.data = Path(data)
    file.write_text(yaml.dump(config))


def recorded_elsewhere(run: Path) -> None:
    """Let the config name an output folder that is not there."""
    file = run / "config.yml"
    config = read_run_config(file)
    config.output_dir = Path("/old/place")
    file.write_text(yaml.dump(config))


EVALUATIONS = [
    Row("a run that was copied, without its latest", latest(Path.unlink), right=evaluated(2)),
    Row("a run that was moved", recorded_elsewhere, right=evaluated(3)),
    Row("a config alone", alone_elsewhere, right=evaluated(3, "mip-nerf-small")),
    Row(
        "a config alone whose run is gone",
        lambda run: recorded_elsewhere(run) or alone_elsewhere(run),
        "the run has no checkpoint: there is neither .*/old/place/.*nerfstudio_models beside this file",
    ),
    Row("data that has moved", without_data, r"data set 'old/place' does not exist.*ln -s WHERE_IT_IS_NOW /"),
    Row(
        "data that has moved from a path with a space",
        lambda run: without_data(run, "old place"),
        r"data set 'old place' does not exist.*ln -s WHERE_IT_IS_NOW '/.*old place'\.$",
    ),
    Row("odd files beside", lambda run: (run / "nerfstudio_models" / ".DS_Store").touch(), right=evaluated(3)),
    Row("a copy beside", beside("step-000000009 (copy).ckpt"), right=evaluated(3)),
    Row("evaluated, cut", latest(cut), f"{UNREAD}.*{BEFORE}, is whole"),
    Row("evaluated, harmful", latest(harmful), "names (posix|nt|os).system"),
    Row("evaluated, a pipe", latest(fifo), "is a named pipe"),
    Row("evaluated, locked", latest(lock), f"{LATEST}: the checkpoint {DENIED}read it"),
    Row(
        "evaluated, a locked folder", lambda run: lock(run / "nerfstudio_models"), f"folder of checkpoints {DENIED}read"
    ),
    Row("evaluated, no checkpoint", lambda run: alone("x.txt")(run), "holds no checkpoint of the name"),
    Row("evaluated, a harmful config", holding("!!python/object/apply:os.system [touch done]"), "names os.system"),
    Row(
        "evaluated, other options in the config",
        of_config("hidden_dim: 8", "hidden_dim: 16"),
        r"has 8×\d+ numbers there and 16×\d+ here",
    ),
]
for row in EVALUATIONS:
    row.options = {**EVALUATE, **row.options}

COMMANDS = [
    Row("trained by a harmful config", holding("!!python/object/apply:os.system [touch done]"), "names os.system"),
    Row(
        "figures into a folder",
        lambda run: (run / "x.json").mkdir(),
        "is a folder, and a file is to be written",
        options={"output": "x.json"},
    ),
    Row("figures below a file", nothing, "config.yml is a file, and a folder", options={"output": "config.yml/x.json"}),
    Row("figures as text", nothing, r"figures is JSON\. Give --output-path the suffix", options={"output": "x.txt"}),
    Row("pictures into a file", nothing, "is a file, and a folder is needed", options={"output": "config.yml"}),
    Row("a film into a folder", nothing, "is a folder, and a file is to be written", options={"output": "."}),
    Row(
        "points into a file",
        nothing,
        "is a file, and a folder is needed.*--output-dir",
        options={"output": "config.yml"},
    ),
    Row("meshed, cut", latest(cut), f"{UNREAD}.*{BEFORE}, is whole"),
]
for row, action in zip(COMMANDS, ("train", "figures", "figures", "figures", "pictures", "film", "points", "load")):
    row.options = {"do": action, **row.options}

ROWS = [*CONFIGS, *RESUMES, *EVALUATIONS, *COMMANDS]


def resume(runs: TinyRuns, run: Path, method: str = "mip-nerf-small", **options: Any) -> Any:
    """A trainer that has resumed from a run as ns-train does."""
    options = {"load_dir": "nerfstudio_models", "load_checkpoint": None, **options}
    options |= {name: run / options[name] for name in ("load_dir", "load_checkpoint") if options[name] is not None}
    output = run.parent / "resumed"
    config = runs.config(method, output, **options)
    try:
        config.save_config()
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
    except InputError:
        assert not list(output.rglob("*.ckpt"))
        raise
    return trainer


@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
def test_runs(row, runs, tmp_path, monkeypatch, capsys):
    options = dict(row.options)
    run = Path(shutil.copytree(runs.of(options.pop("of", "mip-nerf-small")), tmp_path / "run"))
    row.make(run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # which people set to load older files
    config, output = run / "config.yml", run / options.pop("output", "")
    action = options.pop("do")
    products: dict[str, Callable[[], Any]] = {
        "read": lambda: read_run_config(config),
        "resume": lambda: resume(runs, run, **options),
        "evaluate": lambda: eval_utils.eval_setup(config, test_mode="inference"),
        "train": lambda: train.main(runs.config("mip-nerf-small", tmp_path / "out", load_config=config)),
        "figures": lambda: ComputePSNR(config, output).main(),
        "pictures": lambda: render.DatasetRender(config, output_path=output).main(),
        "film": lambda: render.RenderInterpolated(config, output_path=output).main(),
        "points": lambda: exporter.ExportPointCloud(config, output).main(),
        "load": lambda: load_run(config),
    }
    assert_ends_as_it_should(row, products[action], capsys, run)
    assert not list(tmp_path.rglob("done"))


def test_a_second_run_of_the_same_name_gets_its_own(runs, tmp_path, capsys):
    configs = [runs.config("mip-nerf-small", tmp_path) for _ in range(3)]
    for config in configs:
        config.save_config()
    folder = tmp_path / "sample" / "mip-nerf-small"
    assert [config.get_base_dir() for config in configs] == [folder / name for name in ("run", "run-2", "run-3")]
    assert f"There is a run run already; this one is {folder / 'run-2'}\n" in capsys.readouterr().out
    assert [read_run_config(config.get_base_dir() / "config.yml").timestamp for config in configs][1:] == [
        "run-2",
        "run-3",
    ]
    again = read_run_config(folder / "run" / "config.yml")  # as by ns-train --load-config
    again.save_config()
    assert again.get_base_dir() == folder / "run-4"


def test_a_run_goes_on_in_its_own_folder(runs, tmp_path, capsys):
    run = Path(shutil.copytree(runs.of("mip-nerf-small"), tmp_path / "sample" / "mip-nerf-small" / "run"))
    for options in ({"load_dir": run / "nerfstudio_models"}, {"load_checkpoint": run / "nerfstudio_models" / LATEST}):
        config = runs.config("mip-nerf-small", tmp_path, **options)
        config.save_config()
        assert config.get_base_dir() == run and "already" not in capsys.readouterr().out


@pytest.mark.parametrize(("place", "problem"), [("file", "file is a file"), ("file/below", "file is a file")])
def test_a_place_that_no_run_can_be_written_to_is_named_first(runs, tmp_path, place, problem):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"{problem}, and a folder is needed. Choose another --output-dir"):
        runs.config("mip-nerf-small", tmp_path / place).save_config()


def test_nothing_is_left_by_a_resume_that_cannot_be(runs, tmp_path):
    with pytest.raises(InputError):
        runs.config("mip-nerf-small", tmp_path / "out", load_dir=tmp_path).save_config()
    assert list(tmp_path.iterdir()) == []


def test_runs_of_other_methods_load_as_they_do_without_the_suite(tmp_path):
    config = copy.deepcopy(all_methods["nerfacto"])
    config.output_dir, config.timestamp, config.experiment_name = tmp_path, "run", "scene"
    config.save_config()
    with pytest.raises(FileNotFoundError):  # nerfstudio's own, of the data
        eval_utils.eval_setup(config.get_base_dir() / "config.yml")


LOST = Path("lost/config.yml")
OUTPUTS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "ns-mesh": ("x.ply", lambda path: MeshCommand(LOST, output_path=path).main()),
    "ns-splat": ("x.ply", lambda path: SplatCommand(LOST, output_path=path).main()),
    "ns-orbit-path": ("x.json", lambda path: OrbitPath(LOST, output_path=path).main()),
    "ns-turntable": ("x.png", lambda path: Turntable(Path("mesh.ply"), output_path=path).main()),
    "ns-show-poses": ("x.png", lambda path: ShowPoses(LOST, output_path=path).main()),
    "ns-miner-decode": ("x.png", lambda path: DecodeCommand(LOST, output_path=path).main()),
    "ns-voxelize": ("x.npz", lambda path: VoxelizeCommand(mesh=LOST, output_path=path).main()),
    "ns-zoom-path": ("x.json", lambda path: ZoomPath(data=Path("image.png"), output_path=path).main()),
    "ns-multiscale-blender": ("x", lambda path: MultiscaleBlender(Path("scene"), path).main()),
    "ns-depth-check": ("x.png", lambda path: DepthCheck(LOST, output_path=path).main()),
    "ns-depth-rays": ("x.png", lambda path: DepthRays(LOST, output_path=path).main()),
    "ns-depth-prepare": ("x", lambda path: prepare(PrepareOptions(data=LOST.parent, output_path=path, source="sfm"))),
    "ns-eval-mesh": ("x.json", lambda path: EvalMeshCommand(LOST, LOST, output_path=path).main()),
    "ns-idr-cameras": ("x.npz", lambda path: IdrCamerasCommand(LOST, output_path=path).main()),
    "ns-swap-appearance": ("x.mp4", lambda path: SwapAppearance(LOST, LOST, LOST, output_path=path).main()),
    "ns-sample-scene": ("x", lambda path: write_sample_scene(SampleSceneConfig(path))),
}
"""Command: a name for its output, and the command. What it reads is mostly lost, as its output is looked at first."""
PLACES = ("below a file", "a loop of links", "a name too long", "on a full disk")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", OUTPUTS)
def test_an_output_that_cannot_be_written_is_found_before_the_work(command, place, base_scene, tmp_path, monkeypatch):
    name, run = OUTPUTS[command]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mesh.ply").touch()
    (tmp_path / "scene").symlink_to(base_scene.written / "blender")
    shutil.copy(base_scene.written / "blender" / "train" / "r_0.png", tmp_path / "image.png")
    output, problem = tmp_path / "out" / name, "cannot be (written|made)"
    output.parent.mkdir()
    before = set(tmp_path.rglob("*"))
    if place == "below a file":
        output = tmp_path / "mesh.ply" / name
        problem = "file"
    elif place == "a loop of links":
        output.parent.rmdir()
        link_loop(output.parent)
    elif place == "a name too long":
        output = output.with_name("x" * 300 + output.suffix)
    else:
        real = Path.open

        def full(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            if "w" in mode:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(self, mode, *args, **options)

        monkeypatch.setattr(Path, "open", full)
        problem = "No space left on device"
    with pytest.raises(InputError, match=problem) as error:
        run(output)
    assert "lost" not in str(error.value) and set(tmp_path.rglob("*")) <= {*before, output}
