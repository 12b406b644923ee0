"""Runs over several devices: one process for each, on this machine and on others.

nerfstudio's launcher starts processes for GPUs only. It is shown one process (`as_seen_by_nerfstudio`), whose place
of a trainer `Starter` takes: it starts a process for each device of this machine, watches them, and ends all of them
when one fails or on Ctrl-C. It computes nothing itself.

All processes meet at a `TCPStore`, which is the starting process of machine 0; they then talk by gloo (CPUs) or NCCL
(CUDA). The process of rank 0 prints, writes files and has the viewer; the others' output is dropped, their errors are
not.
"""

from __future__ import annotations

import copy
import itertools
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import numpy as np
import torch
import torch.distributed as dist
import yaml
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils import profiler
from nerfstudio.utils.rich_utils import CONSOLE

from common_ns.cores import available_cores
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.compat import prepare_process

TIME_TO_MEET = timedelta(minutes=30)
"""For which a machine waits for the others to be started."""
TIME_TO_ANSWER = timedelta(days=7)
"""For which a process waits for the others in a step: training can be paused in the viewer. That a process has ended
shows at once, as its connections are closed."""
SECONDS_TO_END = 5.0
"""For which processes may go on when one has failed, and when they are asked to end."""


@dataclass
class StartingMachineConfig(MachineConfig):
    """What nerfstudio's launcher sees of a run over several processes: one, which starts them."""

    asked_for: MachineConfig = field(default_factory=MachineConfig)
    """What the run has asked for."""


def as_seen_by_nerfstudio(machine: MachineConfig) -> MachineConfig:
    """The same machine if the run has one process, which nerfstudio's launcher then runs; else that of a `Starter`."""
    if machine.num_devices * machine.num_machines == 1:
        return machine
    return StartingMachineConfig(seed=machine.seed, device_type=machine.device_type, asked_for=machine)


def check_machine(machine: MachineConfig) -> None:
    """Look at the options before anything is started.

    Raises: InputError about values that cannot work, on this machine or at all.
    """
    machines, rank, devices, url = machine.num_machines, machine.machine_rank, machine.num_devices, machine.dist_url
    for name, value in (("devices", devices), ("machines", machines)):
        if value < 1:
            raise InputError(f"--machine.num-{name} is {value}", f"Give the number of {name}: 1 or more")
    if not 0 <= rank < machines:
        problem = f"--machine.machine-rank is {rank}, and --machine.num-machines {machines}"
        raise InputError(problem, "Number the machines from 0 on, and give each its number")
    if url == "auto" and machines > 1:
        remedy = "Give all machines the same tcp://ADDRESS:PORT: an address of machine 0 and a free port there"
        raise InputError(f"--machine.dist-url is auto with {machines} machines", remedy)
    _address(url)
    if machine.device_type == "cuda" and devices > torch.cuda.device_count():
        problem = f"--machine.num-devices is {devices}, and there are {torch.cuda.device_count()} CUDA devices here"
        raise InputError(problem, "Ask for no more than there are, or give --machine.device-type cpu")
    if machine.device_type == "mps" and devices * machines > 1:
        raise InputError("several processes cannot train on mps", "Give --machine.device-type cpu, or one device")


class Starter:
    """Stands where nerfstudio expects a trainer, in the process that starts the others.

    Args:
        config: of the run, with a `StartingMachineConfig`.
    """

    def __init__(self, config: TrainerConfig) -> None:
        assert isinstance(config.machine, StartingMachineConfig)
        self.config = copy.copy(config)
        self.config.machine = config.machine.asked_for

    def setup(self) -> None:
        """Nothing: each process sets up its own trainer."""

    def train(self) -> None:
        """Train in as many processes as this machine has devices; returns when they have ended.

        Raises: InputError if the machines do not agree, or with what went wrong in a process. RuntimeError with the
            traceback of an error that is none of the user's.
        """
        machine = self.config.machine
        store = open_store(self.config)
        host, _ = _address(machine.dist_url)
        context = multiprocessing.get_context("spawn")
        processes: list[SpawnProcess] = []
        reports: list[connection.Connection] = []
        try:
            for local_rank in range(machine.num_devices):
                report, report_end = context.Pipe(duplex=False)
                arguments = (local_rank, self.config, (host, store.port), report_end)
                processes.append(context.Process(target=_device_main, args=arguments))
                processes[-1].start()
                report_end.close()
                reports.append(report)
            failures = _watch(processes, reports)
        finally:
            _end(processes)
        if failures:
            min(failures, key=lambda failure: failure.is_consequence).raise_again()


def open_store(config: TrainerConfig) -> dist.TCPStore:
    """Where the processes of all machines meet: opened on machine 0, found by the others, which compare options.

    Raises: InputError if the address cannot be used, or if a machine was started with other options than machine 0.
    """
    machine = config.machine
    host, port = _address(machine.dist_url)
    if machine.machine_rank == 0:
        try:
            store = dist.TCPStore(host, port, is_master=True, timeout=TIME_TO_MEET, wait_for_workers=False)
        except RuntimeError as error:
            problem = f"--machine.dist-url {machine.dist_url} cannot be used ({_first_line(error)})"
            raise InputError(problem, "Give an address of this machine, of rank 0, and a free port") from error
        store.set("options", "\n".join(_options(config)))
        if machine.num_machines > 1:
            command = "the same command with its own --machine.machine-rank"
            CONSOLE.print(f"Machine 0 of {machine.num_machines} is waiting. Give each of the others {command}.")
        return store
    CONSOLE.print(f"Machine {machine.machine_rank} of {machine.num_machines}: what is printed comes on machine 0.")
    _await_port(host, port)
    store = dist.TCPStore(host, port, timeout=TIME_TO_MEET, wait_for_workers=False)
    for here, there in itertools.zip_longest(_options(config), store.get("options").decode().split("\n")):
        if here != there:
            problem = f"the machines were started with different options: {here} here, {there} on machine 0"
            raise InputError(problem, "Give all the same, except for --machine.machine-rank and where files are")
    if store.add(f"machine {machine.machine_rank}", 1) > 1:
        problem = f"--machine.machine-rank {machine.machine_rank} is taken by another machine of this run"
        raise InputError(problem, "Give each machine a number of its own")
    return store


def _options(config: TrainerConfig) -> list[str]:
    """What all machines must have been told alike."""
    machine, datamanager = config.machine, config.pipeline.datamanager
    options = {
        "method": config.method_name,
        "max-num-iterations": config.max_num_iterations,
        "num-machines": machine.num_machines,
        "num-devices": machine.num_devices,
        "device-type": machine.device_type,
        "seed": machine.seed,
        "train-num-rays-per-batch": getattr(datamanager, "train_num_rays_per_batch", None),
        "model": config.pipeline.model,
        "optimizers": config.optimizers,
    }
    return yaml.dump(options, sort_keys=False).splitlines()


def _address(dist_url: str) -> tuple[str, int]:
    """Host and port of a URL; of this machine, and 0 for any port that is free, for "auto"."""
    if dist_url == "auto":
        return "127.0.0.1", 0
    url = urlsplit(dist_url)
    try:
        if url.scheme == "tcp" and url.hostname and url.port:
            return url.hostname, url.port
    except ValueError:  # of a port that is no number, or too large
        pass
    raise InputError(f"--machine.dist-url is {dist_url}", "Give auto, or tcp://ADDRESS:PORT")


def _await_port(host: str, port: int) -> None:
    """Wait until a machine answers at a port. Unlike torch's own waiting, Ctrl-C ends it."""
    deadline = time.monotonic() + TIME_TO_MEET.total_seconds()
    while True:
        try:
            return socket.create_connection((host, port), timeout=5.0).close()
        except OSError as error:
            if time.monotonic() > deadline or isinstance(error, socket.gaierror):
                remedy = "Start machine 0, and give all the same --machine.dist-url"
                raise InputError(f"there is no machine 0 at tcp://{host}:{port} ({error})", remedy) from error
            time.sleep(0.5)


@dataclass
class _Failure:
    """Why a process has ended, in a form that can be sent."""

    problem: str
    """What went wrong; a traceback where there is no remedy."""
    remedy: str | None = None
    """What to do about it."""
    file: str | None = None
    """What it was found in."""
    is_consequence: bool = False
    """Whether it only says that another process has ended."""

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        """Of an error that happens in this process."""
        if isinstance(error, InputError):
            return cls(error.problem, error.remedy, None if error.file is None else str(error.file))
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            problem = f"the connection to another process of this run is lost ({_first_line(error)})"
            return cls(problem, "See what it has printed, on its machine", is_consequence=True)
        return cls("".join(traceback.format_exception(error)))

    def raise_again(self) -> NoReturn:
        if self.remedy is None:
            raise RuntimeError(f"a process has failed:\n{self.problem}")
        raise InputError(self.problem, self.remedy, self.file)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip().rstrip(".")[:200]


def _watch(processes: list[SpawnProcess], reports: list[connection.Connection]) -> list[_Failure]:
    """Wait until all processes have ended, or for a little while after the first that fails; returns the failures."""
    running, failures, deadline = dict(zip(reports, processes)), [], None
    while running:
        ready = connection.wait(list(running), None if deadline is None else deadline - time.monotonic())
        if not ready:
            break
        for report in ready:
            assert isinstance(report, connection.Connection)
            try:
                failures.append(report.recv())
            except EOFError:
                process = running.pop(report)
                process.join()
                code = process.exitcode or 0
                if code < 0:
                    problem = f"a process was ended by {signal.Signals(-code).name}"
                    failures.append(_Failure(problem, "See whether memory has run out"))
                elif code > 0:
                    failures.append(_Failure(f"a process has ended with exit code {code}", "See what it has printed"))
        if failures and deadline is None:
            deadline = time.monotonic() + SECONDS_TO_END
    return failures


def _end(processes: list[SpawnProcess]) -> None:
    """Ask the processes that are still there to end, and end those that do not."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + SECONDS_TO_END
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()


def _device_main(
    local_rank: int, config: TrainerConfig, meeting: tuple[str, int], report: connection.Connection
) -> None:
    """A device's process.

    Args:
        local_rank: its number on this machine.
        config: of the run.
        meeting: host and port of the store.
        report: where to send an error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starting process has it too, and ends this one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _train(local_rank, config, meeting)
    except Exception as error:
        report.send(_Failure.of(error))


def _end_with_parent() -> None:
    """End this process when the starting one is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _train(local_rank: int, config: TrainerConfig, meeting: tuple[str, int]) -> None:
    """Join the other processes, and do what nerfstudio's `train_loop` does."""
    prepare_process()
    machine = config.machine
    rank = machine.machine_rank * machine.num_devices + local_rank
    world_size = machine.num_machines * machine.num_devices
    with tempfile.TemporaryDirectory() as dropped:
        if rank > 0:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            warnings.simplefilter("ignore")
            config.vis = config.vis.replace("viewer", "").strip("+")  # type: ignore[assignment]
            config.output_dir = Path(dropped)
        if "OMP_NUM_THREADS" not in os.environ:
            # With as many threads as there are cores, processes would wait for each other most of the time.
            torch.set_num_threads(max(1, available_cores() // machine.num_devices))
        store = dist.TCPStore(*meeting, timeout=TIME_TO_MEET, wait_for_workers=False)
        _await_processes(store, rank, world_size)
        backend = "nccl" if machine.device_type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=TIME_TO_ANSWER)
        random.seed(machine.seed + rank)
        np.random.seed(machine.seed + rank)
        torch.manual_seed(machine.seed + rank)
        try:
            trainer = config.setup(local_rank=local_rank, world_size=world_size)
            trainer.setup()
            trainer.train()
        finally:
            profiler.flush_profiler(config.logging)


def _await_processes(store: dist.TCPStore, rank: int, world_size: int) -> None:
    """Wait until the processes of all machines have come. Unlike torch's own waiting, this can be ended."""
    store.set(f"process {rank}", "")
    deadline = time.monotonic() + TIME_TO_MEET.total_seconds()
    while not store.check([f"process {other}" for other in range(world_size)]):
        if time.monotonic() > deadline:
            raise InputError("the other machines have not come", "Start all of them within half an hour")
        time.sleep(0.1)
