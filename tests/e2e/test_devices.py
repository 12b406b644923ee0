"""Runs over several processes by the command line give what one process gives, and end together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from tests.e2e.commands import run_command
from tests.e2e.surface_runs import write_scene
from tests.e2e.tiny import train_words

STEPS = 20
TWO = ["--machine.num-devices", "2"]


def words(method: str, data: Path, output: Path, *more: str, steps: int = STEPS) -> list[str]:
    """A command that trains on CPUs; its run is in `output`."""
    run = ["--experiment-name", ".", "--timestamp", ".", "--output-dir", str(output), "--data", str(data)]
    logs = ["--vis", "tensorboard", "--logging.steps-per-log", "1", "--machine.device-type", "cpu"]
    number = ["--max-num-iterations", str(steps)] if steps != STEPS else []
    return ["ns-train", method, *run, *logs, *train_words(method, STEPS), *number, *more]


def train(method: str, data: Path, output: Path, *more: str, steps: int = STEPS) -> Path:
    """Train in the tests' own process, and in those that it starts; returns the run's folder."""
    outcome = run_command(words(method, data, output, *more, steps=steps), output.parent)
    assert outcome.code == 0, str(outcome)
    return output / method


def losses(run: Path) -> list[float]:
    """The loss of each step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(run))
    log.Reload()
    return [event.value for event in log.Scalars("Train Loss")]


def parameters(run: Path) -> dict:
    """The pipeline's state in the run's one checkpoint."""
    (file,) = (run / "nerfstudio_models").iterdir()
    return torch.load(file, weights_only=False)["pipeline"]


def assert_same_losses(found: list[float], expected: list[float]) -> None:
    """Equal, but for the order in which numbers are summed: a rounding that grows from step to step."""
    assert found[0] == pytest.approx(expected[0], rel=2e-6)
    assert found == pytest.approx(expected, rel=1e-3)


def assert_same_training(run: Path, expected: Path) -> None:
    assert_same_losses(losses(run), losses(expected))
    states = [parameters(expected), parameters(run)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert (states[1][name] - value).norm() <= 1e-2 * value.norm(), name


@pytest.mark.slow
def test_two_processes_train_a_radiance_field_as_one_does_and_one_goes_on_with_it(tiny_blender, tmp_path):
    whole = train("mip-nerf-small", tiny_blender, tmp_path / "one")
    half = train("mip-nerf-small", tiny_blender, tmp_path / "two", *TWO, steps=STEPS // 2)
    assert_same_losses(losses(half), losses(whole)[: STEPS // 2])
    assert (
        len(list((tmp_path / "two").rglob("config.yml"))) == 1 and "num_devices: 2" in (half / "config.yml").read_text()
    )
    resume = ["--load-dir", str(half / "nerfstudio_models")]
    rest = train("mip-nerf-small", tiny_blender, tmp_path / "rest", *resume, steps=STEPS // 2)
    assert losses(rest) == pytest.approx(losses(whole)[STEPS // 2 :], rel=1e-3)


@pytest.mark.slow
def test_two_processes_train_proposals_on_grids_as_one_does(tiny_blender, tmp_path):
    """Each round's table gets the sum of both processes' gradients, and its decay once; points are turned as the ray
    says, whichever process has it."""
    options = ["--pipeline.model.num-multisamples", "3", "blender-data"]
    runs = [
        train("zip-nerf-small", tiny_blender, tmp_path / name, *more, *options)
        for name, more in (("one", []), ("two", TWO))
    ]
    assert_same_training(runs[1], runs[0])


@pytest.mark.slow
def test_two_processes_train_a_surface_as_one_does(tmp_path):
    data = write_scene(tmp_path / "scene", layouts=("idr",)) / "idr"
    runs = [train("hash-neus-small", data, tmp_path / name, *more) for name, more in (("one", []), ("two", TWO))]
    assert_same_training(runs[1], runs[0])


@pytest.mark.slow
def test_two_processes_fit_an_image_as_one_does(tmp_path):
    y, x = np.mgrid[:64, :70] / 30.0
    values = np.stack([0.5 + 0.4 * np.sin(5 * x + k) * np.cos(4 * y * y - k) for k in range(3)], axis=-1)
    Image.fromarray((255 * values).astype(np.uint8)).save(tmp_path / "waves.png")
    runs = [
        train("miner-image", tmp_path / "waves.png", tmp_path / name, *more) for name, more in (("1", []), ("2", TWO))
    ]
    one, two = (parameters(run)["_model._extra_state"]["levels"] for run in runs)
    assert one.keys() == two.keys() and max(len(level["index"]) for level in one.values()) > 16
    for level, parts in one.items():
        assert torch.equal(two[level]["index"], parts["index"])
        assert torch.allclose(two[level]["theta"], parts["theta"], atol=1e-3)


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[[list[str], str], subprocess.Popen]]:
    """Starts a command, which prints into a file NAME.txt, in a group of processes of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    started = []

    def start(command: list[str], name: str) -> subprocess.Popen:
        command = [str(Path(sys.executable).parent / command[0]), *command[1:]]
        with open(tmp_path / f"{name}.txt", "w") as file:
            options = {"stdout": file, "stderr": file, "env": environment, "cwd": tmp_path}
            started.append(subprocess.Popen(command, **options, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_two_machines_train_as_one_process(tiny_blender, tmp_path, start):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    machines = []
    for rank in (1, 0):  # whichever is first waits
        options = ["--machine.num-machines", "2", "--machine.machine-rank", str(rank), "--machine.dist-url", url]
        command = words("mip-nerf-small", tiny_blender, tmp_path / str(rank), *options)
        machines.append(start(command, f"machine-{rank}"))
    one = train("mip-nerf-small", tiny_blender, tmp_path / "one")
    texts = [(tmp_path / f"machine-{rank}.txt") for rank in (0, 1)]
    codes = [machine.wait(timeout=400) for machine in machines]
    assert codes == [0, 0], "\n".join(text.read_text()[-2000:] for text in texts)
    assert_same_training(tmp_path / "0" / "mip-nerf-small", one)
    assert not (tmp_path / "1").exists()
    assert [text.read_text().count("Training Finished") for text in texts] == [1, 0]


@pytest.fixture
def long_run(tiny_blender, tmp_path, start) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """A long run over two processes that has trained for some steps, and these processes in the order of ranks."""
    command = words("mip-nerf-small", tiny_blender, tmp_path / "run", *TWO, "--steps-per-save", "5", steps=100_000)
    run = start(command, "run")
    deadline = time.monotonic() + 400
    while not list(tmp_path.rglob("step-*.ckpt")):
        assert run.poll() is None and time.monotonic() < deadline, (tmp_path / "run.txt").read_text()[-3000:]
        time.sleep(0.2)
    children = psutil.Process(run.pid).children()
    return run, [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]


@pytest.mark.slow
def test_when_a_process_is_killed_all_end_with_one_line(long_run, tmp_path):
    run, processes = long_run
    assert len(processes) == 2
    processes[1].kill()
    assert run.wait(timeout=240) == 1
    assert not psutil.wait_procs(processes, timeout=1)[1]
    text = (tmp_path / "run.txt").read_text()
    assert text.endswith("Error: a process was ended by SIGKILL. See whether memory has run out.\n")
    assert "Traceback" not in text


@pytest.mark.slow
def test_ctrl_c_ends_all(long_run):
    run, processes = long_run
    os.killpg(run.pid, signal.SIGINT)
    run.wait(timeout=240)
    assert not psutil.wait_procs(processes, timeout=1)[1]


@pytest.mark.slow
def test_what_is_wrong_in_the_processes_is_said_in_one_line(tiny_blender, tmp_path):
    (tiny_blender / "train" / "r_1.png").write_bytes(b"no image")
    outcome = run_command(words("mip-nerf-small", tiny_blender, tmp_path / "run", *TWO), tmp_path)
    assert outcome.refusal is not None and "r_1.png" in outcome.refusal
