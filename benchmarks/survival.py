"""What is lost when a process is killed or the disk cannot be written, and whether runs then go on exactly.

    python -m benchmarks.survival run            # all families: about a quarter of an hour on two cores
    python -m benchmarks.survival run --families miner-image --kills 4

Each trial is a process of its own, forked from one that has imported everything, that runs a command's own function:
ns-train's, ns-eval's, ns-voxelize's, ns-miner-decode's. It is ended by SIGKILL at a random moment: of the whole
command, or of the writing of one of its checkpoints. Then every file is looked at, the run is resumed in its folder,
and its last checkpoint is compared with that of a run that nobody has disturbed.

The full disk is a tmpfs with room for some of the checkpoints. The folder that becomes read-only is a tmpfs, too, which
is remounted while the run is in it. Both are of this process's own mount namespace, which takes root on Linux.
"""

from __future__ import annotations

import copy
import ctypes
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import tyro
import yaml
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.scripts.train import train_loop

from benchmarks.report import save_section, write_sections
from common_ns.errors import InputError
from common_ns.hash_grid import HashGridOptions
from common_ns.nerfstudio_seam import trainer as trainer_module
from common_ns.nerfstudio_seam.safe_configs import ConfigLoader
from common_ns.nerfstudio_seam.versions import steps_of_a_resume
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from miner_ns.options import FitOptions
from miner_ns.scripts.decode import DecodeCommand
from miner_ns.scripts.voxelize import VoxelizeCommand

Family = Literal["miner-image", "miner-occupancy", "mip-nerf-small", "depth-hash-small", "hash-neus-small"]
Kind = Literal["training", "checkpoint", "evaluation", "voxelizing", "decoding"]
GRID = HashGridOptions(num_levels=4, log2_table_size=12, base_resolution=8, max_resolution=64)
DATA: dict[str, str] = {
    "miner-image": "blender/train/r_0.png",
    "miner-occupancy": "mesh.ply",
    "mip-nerf-small": "blender",
    "depth-hash-small": "nerfstudio",
    "hash-neus-small": "idr",
}
KINDS: dict[str, dict[Kind, float]] = {
    "miner-image": {"training": 0.4, "checkpoint": 0.3, "evaluation": 0.15, "decoding": 0.15},
    "miner-occupancy": {"training": 0.3, "checkpoint": 0.3, "evaluation": 0.15, "voxelizing": 0.25},
}
"""What the kills of a family fall into, and with which share."""
USUAL: dict[Kind, float] = {"training": 0.45, "checkpoint": 0.35, "evaluation": 0.2}


def small_config(method: str, data: Path, output: Path, steps: int) -> Any:
    """The config of a run of seconds, with ten checkpoints or so."""
    config = copy.deepcopy(all_methods[method])
    config.data = config.pipeline.datamanager.data = data / DATA[method]
    config.output_dir, config.experiment_name, config.timestamp = output, "scene", "run"
    config.machine.device_type = "cpu"
    config.vis, config.viewer.quit_on_train_completion = "tensorboard", True
    config.max_num_iterations, config.steps_per_save = steps, max(1, steps // 10)
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 10**6
    config.save_only_latest_checkpoint = False
    config.pipeline.datamanager.train_num_rays_per_batch = 128
    model = config.pipeline.model
    if method == "mip-nerf-small":
        model.num_coarse_samples = model.num_importance_samples = 16
        model.hidden_dim, model.num_layers, model.num_frequencies = 48, 3, 8
    elif method == "depth-hash-small":
        model.grid = model.proposal_grid = GRID
        model.num_proposal_samples, model.num_nerf_samples = (12,), 12
    elif method == "hash-neus-small":
        model.sdf_field.options.hash = GRID
        model.sdf_field.hidden_dim = model.sdf_field.color_hidden_dim = 32
        model.num_samples, model.num_upsamples = 16, (8,)
    else:
        config.steps_per_save = 2
        config.max_num_iterations = 10**6  # MINER ends by itself
        model.fit = FitOptions(
            num_levels=2, block_size=8, epochs=(100, 200), threshold=1e-7, hidden_dim=12, implementation="torch"
        )
        if method == "miner-occupancy":
            config.pipeline.datamanager.dataparser = copy.deepcopy(all_dataparsers["miner-occupancy-data"])
            config.pipeline.datamanager.dataparser.data = config.data
            config.pipeline.datamanager.dataparser.resolution = 16
    return config


class Child:
    """A process that runs a function, and tells when the writing of a checkpoint begins and ends.

    Args:
        work: the function.
        log: file that gets what it prints.
    """

    def __init__(self, work: Callable[[], Any], log: Path) -> None:
        self.events: list[tuple[float, str, str]] = []
        self.start = time.monotonic()
        self._reader, writer = os.pipe()
        sys.stdout.flush()
        self.process = os.fork()
        if self.process == 0:
            self._run(work, writer, log)
        os.close(writer)
        self._open, self._rest = True, b""

    def _run(self, work: Callable[[], Any], writer: int, log: Path) -> None:
        """The child's life; it never returns."""
        code = 1
        try:
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            save = trainer_module.save_whole

            def save_whole(state: Any, path: Path) -> None:
                os.write(writer, f"begin {path.name}\n".encode())
                save(state, path)
                os.write(writer, f"end {path.name}\n".encode())

            trainer_module.save_whole = save_whole
            work()
            code = 0
        except InputError as error:
            print(f"Error: {error}", flush=True)
            code = 3
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def watch(self, seconds: float | None = None, until: Callable[[], bool] = lambda: False) -> None:
        """Take in events: for so many seconds, until a condition holds, or to the end of the process."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self._open and not until():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            if not select.select([self._reader], [], [], left)[0]:
                return
            data = os.read(self._reader, 4096)
            self._open = bool(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                kind, name = line.decode().split()
                self.events.append((time.monotonic(), kind, name))

    def named(self, kind: str) -> list[str]:
        """Checkpoints whose writing has begun, or ended."""
        return [name for _, each, name in self.events if each == kind]

    def kill(self) -> None:
        """End it by SIGKILL, wherever it is."""
        os.kill(self.process, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code, when it has ended; below 0 if by a signal."""
        self.watch()
        os.close(self._reader)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def train(config: Any) -> None:
    """What ns-train does."""
    config.save_config()
    train_loop(0, 1, config)


def state_of(file: Path) -> str:
    """A digest of all values of a checkpoint, parameters and optimizers alike."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                digest.update(str(key).encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            for each in value:
                add(each)
        else:
            digest.update(repr(value).encode())

    state = torch.load(file, map_location="cpu", weights_only=True)
    add({name: state[name] for name in ("step", "pipeline", "optimizers")})
    return digest.hexdigest()


def half_files(folder: Path) -> list[str]:
    """Files under their final names that are not whole."""
    broken = []
    readers = {".ckpt": lambda file: torch.load(file, weights_only=True, map_location="cpu")}
    readers[".yml"] = lambda file: yaml.load(file.read_text(), Loader=ConfigLoader).method_name
    readers[".npz"] = lambda file: dict(np.load(file))
    readers[".json"] = lambda file: json.loads(file.read_text())
    for file in sorted(folder.rglob("*")):
        if file.suffix in readers and not file.name.startswith("."):
            try:
                readers[file.suffix](file)
            except Exception:
                broken.append(file.name)
    return broken


def leftovers(folder: Path) -> int:
    """Hidden files of writers that did not come to the end."""
    return sum(".tmp" in file.name for file in folder.rglob(".*"))


@dataclass
class Subject:
    """A family's undisturbed run, and what happens to others like it."""

    method: str
    data: Path
    folder: Path
    steps: int
    rng: np.random.Generator
    lasts: dict[str, float] = field(default_factory=dict)
    """Seconds of each command, undisturbed, and of the writing of a checkpoint."""

    def config(self, output: Path) -> Any:
        """The config of a run."""
        return small_config(self.method, self.data, output, self.steps)

    def run_folder(self, output: Path) -> Path:
        """Where a run is written."""
        return output / "scene" / self.method / "run"

    @cached_property
    def whole(self) -> Path:
        """The undisturbed run's folder."""
        output = self.folder / "whole"
        self.complete(partial(train, self.config(output)), "warm-up")
        shutil.rmtree(output)
        child = self.complete(partial(train, self.config(output)), "training")
        times = [time for time, _, _ in child.events]
        self.lasts["checkpoint"] = float(np.median(np.diff(times)[::2]))
        return self.run_folder(output)

    @cached_property
    def last(self) -> str:
        """Name of the last checkpoint of the undisturbed run."""
        return max(file.name for file in (self.whole / "nerfstudio_models").iterdir())

    @property
    def log(self) -> Path:
        """What the last child printed."""
        return self.folder / "log.txt"

    def complete(self, work: Callable[[], Any], name: str) -> Child:
        """Run something to its end, and note how long it takes."""
        child = Child(work, self.log)
        if child.wait() != 0:
            raise RuntimeError(f"{self.method}, {name}:\n{self.log.read_text()[-3000:]}")
        self.lasts[name] = time.monotonic() - child.start
        return child

    def resume(self, output: Path) -> bool:
        """Resume a run in its folder, or begin it again if it has no checkpoint yet. Returns: whether its last
        checkpoint equals the undisturbed one's, to the last bit, and nothing is left lying about."""
        run, config = self.run_folder(output), self.config(output)
        saved = sorted((run / "nerfstudio_models").glob("step-*.ckpt"))
        if saved:
            config.load_dir = run / "nerfstudio_models"
            if config.max_num_iterations == self.steps:
                done = int(saved[-1].stem.removeprefix("step-")) + 1
                config.max_num_iterations = steps_of_a_resume(self.steps, done)
        else:
            shutil.rmtree(run, ignore_errors=True)
        if config.max_num_iterations > 0:
            self.complete(partial(train, config), "resuming")
        same = state_of(run / "nerfstudio_models" / self.last) == state_of(self.whole / "nerfstudio_models" / self.last)
        return same and leftovers(output) == 0

    def kill_training(self, kind: Kind) -> dict[str, Any]:
        """Kill a training, at any moment or while it writes a checkpoint; then resume it."""
        output = self.folder / "killed"
        cache = self.data / "voxels"  # of miner-occupancy's mesh, beside which a training keeps it
        for folder in (output, cache):
            shutil.rmtree(folder, ignore_errors=True)
        child = Child(partial(train, self.config(output)), self.log)
        if kind == "checkpoint":
            files = len(list((self.whole / "nerfstudio_models").iterdir()))
            number = int(self.rng.integers(1, files + 1))
            child.watch(until=lambda: len(child.named("begin")) >= number)
            time.sleep(self.rng.uniform(0.0, self.lasts["checkpoint"]))
        else:
            child.watch(seconds=self.rng.uniform(0.0, self.lasts["training"]))
        child.kill()
        killed = child.wait() == -signal.SIGKILL
        folder = self.run_folder(output) / "nerfstudio_models"
        kept = {file.name for file in folder.glob("*.ckpt")} if folder.is_dir() else set()
        lost, broken, hidden = set(child.named("end")) - kept, half_files(output), leftovers(output)
        broken += half_files(cache)
        inside = len(child.named("begin")) > len(child.named("end"))
        exact = self.resume(output) if not broken else False
        return {"killed": killed, "lost": len(lost) + len(broken), "hidden": hidden, "inside": inside, "exact": exact}

    def kill_command(self, kind: Kind) -> dict[str, Any]:
        """Kill a command that reads the run and writes over an earlier result."""
        output = self.folder / kind
        commands: dict[str, tuple[str, Callable[[Path, bool], Any]]] = {
            "evaluation": ("x.json", lambda path, _: ComputePSNR(self.whole / "config.yml", path).main()),
            "decoding": (
                "x.png",
                lambda path, new: DecodeCommand(self.whole / "config.yml", path, int(not new)).main(),
            ),
            "voxelizing": (
                "x.npz",
                lambda path, new: VoxelizeCommand(
                    mesh=self.data / "mesh.ply", output_path=path, resolution=128 if new else 16
                ).main(),
            ),
        }
        name, command = commands[kind]
        file, new = output / name, output / "new" / name
        if kind not in self.lasts:
            self.complete(partial(command, new, True), f"{kind}, first")
            self.complete(partial(command, new, True), kind)
            self.complete(partial(command, output / "old" / name, False), f"{kind}, before")
        shutil.copy(output / "old" / name, file)
        before = {each: each.read_bytes() for each in (file, *self.whole.rglob("*")) if each.is_file()}
        child = Child(partial(command, file, True), self.log)
        child.watch(seconds=self.rng.uniform(0.0, self.lasts[kind]))
        child.kill()
        killed = child.wait() == -signal.SIGKILL
        harmed = [each for each, content in before.items() if each != file and each.read_bytes() != content]
        whole = file.read_bytes() in (before[file], new.read_bytes())
        if kind == "evaluation" and not whole:  # figures of speed differ from run to run
            whole = not half_files(output)
        hidden = leftovers(output)
        self.complete(partial(command, file, True), f"{kind}, again")
        exact = leftovers(output) == 0 and (kind == "evaluation" or file.read_bytes() == new.read_bytes())
        if kind == "evaluation":
            figures = [json.loads(each.read_text())["results"] for each in (file, new)]
            exact = exact and all(f["psnr"] == figures[0]["psnr"] for f in figures)
        return {"killed": killed, "lost": len(harmed) + (not whole), "hidden": hidden, "inside": False, "exact": exact}

    def kill(self, kind: Kind, times: int) -> dict[str, Any]:
        """A row: so many kills of one kind."""
        assert self.whole.is_dir()
        trial = self.kill_training if kind in ("training", "checkpoint") else self.kill_command
        trials = [trial(kind) for _ in range(times)]
        row = {
            "family": self.method,
            "killed during": kind,
            "kills": times,
            "before its end": sum(each["killed"] for each in trials),
            "in the midst of a checkpoint": sum(each["inside"] for each in trials),
            "that left a hidden file": sum(each["hidden"] > 0 for each in trials),
            "lost or half files": sum(each["lost"] for each in trials),
            "exact afterwards": f"{sum(each['exact'] for each in trials)} of {times}",
        }
        print(row, flush=True)
        return row

    def refused(self, what: str, output: Path, release: Callable[[], Any]) -> dict[str, Any]:
        """A row: a training that meets a disk that cannot be written any more, and goes on when it can.

        Args:
            what: is the matter.
            output: of the run.
            release: makes it writable again.
        """
        child = Child(partial(train, self.config(output)), self.log)
        code, seconds = child.wait(), time.monotonic() - child.start
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("Error: ")]
        saved = {file.name for file in (self.run_folder(output) / "nerfstudio_models").glob("*.ckpt")}
        lost = len(set(child.named("end")) - saved) + len(half_files(output))
        release()
        exact = self.resume(output)
        row = {
            "family": self.method,
            "what": what,
            "ends in one line": "yes" if code == 3 and len(lines) == 1 else f"no, code {code}",
            "after seconds": round(seconds, 1),
            "checkpoints before": len(saved),
            "lost or half files": lost,
            "exact afterwards": "yes" if exact else "no",
        }
        if code != 3:
            print(self.log.read_text()[-3000:])
        print(row, flush=True)
        return row

    def full_disk(self) -> dict[str, Any]:
        """A disk with room for some of the checkpoints."""
        room = sum(file.stat().st_size for file in (self.whole / "nerfstudio_models").iterdir()) // 2
        with mounted(self.folder / "small", "tmpfs", f"size={room}") as (output, change):
            return self.refused("the disk is full", output, lambda: change("remount,size=1G"))

    def read_only(self) -> dict[str, Any]:
        """A folder that is remounted read-only after some checkpoints."""
        with mounted(self.folder / "locked", "tmpfs", "size=1G") as (output, change):
            names = sorted(file.name for file in (self.whole / "nerfstudio_models").iterdir())
            save, at = trainer_module.save_whole, names[len(names) // 2]

            def save_whole(state: Any, path: Path) -> None:
                if path.name == at:
                    subprocess.run(["mount", "-o", "remount,ro", str(output)], check=True)
                save(state, path)

            trainer_module.save_whole = save_whole

            def release() -> None:
                trainer_module.save_whole = save
                change("remount,rw")

            return self.refused("the folder becomes read-only", output, release)

    def closed(self) -> dict[str, Any]:
        """A folder that is read-only from the beginning: nothing is done for nothing."""
        with mounted(self.folder / "closed", "tmpfs", "size=1G,ro") as (output, change):
            child = Child(partial(train, self.config(output)), self.log)
            code, seconds = child.wait(), time.monotonic() - child.start
            lines = [line for line in self.log.read_text().splitlines() if line.startswith("Error: ")]
            change("remount,rw")
            row = {
                "family": self.method,
                "what": "the folder is read-only from the beginning",
                "ends in one line": "yes" if code == 3 and len(lines) == 1 else f"no, code {code}",
                "after seconds": round(seconds, 1),
                "checkpoints before": 0,
                "lost or half files": 0,
                "exact afterwards": "yes" if self.resume(output) else "no",
            }
        print(row, flush=True)
        return row


def own_mounts() -> None:
    """Give this process mounts of its own, which go with it.

    Raises: InputError if it may not.
    """
    new_namespace = 0x00020000  # CLONE_NEWNS of linux/sched.h
    if sys.platform != "linux" or ctypes.CDLL(None, use_errno=True).unshare(new_namespace) != 0:
        raise InputError("this process may not mount anything", "Run it as root on Linux, or give --no-disks")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


@contextmanager
def mounted(folder: Path, kind: str, options: str) -> Iterator[tuple[Path, Callable[[str], Any]]]:
    """A file system of its own on a folder; gives the folder, and what mounts it again with other options."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", kind, "-o", options, kind, str(folder)], check=True)
    try:
        yield folder, lambda others: subprocess.run(["mount", "-o", others, str(folder)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@dataclass
class Run:
    """Measure, and write the tables."""

    families: tuple[Family, ...] = get_args(Family)
    """Methods, one of each family."""
    kills: int = 20
    """Of each family."""
    steps: int = 120
    """Of a training."""
    disks: bool = True
    """Also fill a disk and lock folders; takes root."""
    seed: int = 0
    """Of the moments."""

    def main(self) -> None:
        """Try all."""
        if self.disks:
            own_mounts()
        torch.set_num_threads(1)
        rows: dict[str, list[dict[str, Any]]] = {"processes that are killed": [], "disks that cannot be written": []}
        with tempfile.TemporaryDirectory() as name:
            data = Path(name) / "data"
            few = SampleSceneConfig(data, num_train=12, num_val=2, num_test=3, resolution=40, supersample=2)
            write_sample_scene(few)
            for number, method in enumerate(self.families):
                rng = np.random.default_rng([self.seed, number])
                subject = Subject(method, data, Path(name) / method, self.steps, rng)
                subject.folder.mkdir()
                shares = KINDS.get(method, USUAL)
                counts: dict[Kind, int] = {kind: round(self.kills * share) for kind, share in shares.items()}
                counts["training"] += self.kills - sum(counts.values())
                for kind, times in counts.items():
                    rows["processes that are killed"].append(subject.kill(kind, times))
                if self.disks:
                    trials = (subject.full_disk, subject.read_only, subject.closed)
                    rows["disks that cannot be written"] += [trial() for trial in trials]
        settings = {"steps": self.steps, "kills of each family": self.kills, "seed": self.seed, "threads": 1}
        for section, found in rows.items():
            if found:
                save_section("survival", section, {"settings": settings, "rows": found})
        write_table()


def write_table() -> None:
    """Write the tables from the results."""
    note = (
        "Lost: a checkpoint whose writing had ended, or an earlier result, is not there as it was; half: a file under "
        "its final name that cannot be read. Exact: the run was resumed in its folder, and its last checkpoint "
        "(parameters, optimizers) equals that of an undisturbed run to the last bit; of other commands: the result of "
        "the command, given again. It also says that no hidden file of the killed process was left."
    )
    write_sections("survival", "Survival", note)


@dataclass
class Table:
    """Write the tables from the results again."""

    def main(self) -> None:
        """Write them."""
        write_table()


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": Run, "table": Table}).main()
