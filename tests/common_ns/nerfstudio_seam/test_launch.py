"""What is checked and agreed on before the processes of a run are started, and what ends a run."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from nerfstudio.configs.base_config import MachineConfig

from common_ns.errors import InputError
from common_ns.nerfstudio_seam import launch
from common_ns.nerfstudio_seam.trainer import SafeTrainer, SafeTrainerConfig

TWO_MACHINES = {"num_machines": 2, "dist_url": "tcp://127.0.0.1:29500"}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"num_devices": 0}, "--machine.num-devices is 0"),
        ({"num_machines": 0}, "--machine.num-machines is 0"),
        ({"machine_rank": 1}, "--machine.machine-rank is 1, and --machine.num-machines 1"),
        ({**TWO_MACHINES, "machine_rank": 2}, "--machine.machine-rank is 2, and --machine.num-machines 2"),
        ({**TWO_MACHINES, "machine_rank": -1}, "--machine.machine-rank is -1"),
        ({"num_machines": 2}, "--machine.dist-url is auto with 2 machines"),
        ({"dist_url": "127.0.0.1:29500"}, "--machine.dist-url is 127.0.0.1:29500"),
        ({"dist_url": "tcp://127.0.0.1"}, "--machine.dist-url is tcp://127.0.0.1"),
        ({"dist_url": "tcp://127.0.0.1:99999"}, "--machine.dist-url is tcp://127.0.0.1:99999"),
        ({"num_devices": 2, "device_type": "cuda"}, "--machine.num-devices is 2, and there are 1 CUDA devices here"),
        ({"num_devices": 2, "device_type": "mps"}, "several processes cannot train on mps"),
    ],
)
def test_what_cannot_work_is_refused(options, problem, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError) as refused:
        launch.check_machine(MachineConfig(**{"device_type": "cpu", **options}))
    assert refused.value.problem.startswith(problem)


@pytest.mark.parametrize("options", [{}, {"num_devices": 8}, {**TWO_MACHINES, "machine_rank": 1}])
def test_what_can_work_is_not(options):
    launch.check_machine(MachineConfig(device_type="cpu", **options))


def config_of(output: Path, **options) -> SafeTrainerConfig:
    machine = MachineConfig(device_type="cpu", **options)
    return SafeTrainerConfig(output_dir=output, method_name="tiny", timestamp="run", machine=machine)


def test_one_process_is_left_to_nerfstudio(tmp_path):
    config = config_of(tmp_path)
    config.save_config()
    assert config.machine == MachineConfig(device_type="cpu")
    assert type(config.setup(local_rank=0, world_size=1)) is SafeTrainer


def test_nerfstudio_sees_one_process_of_several(tmp_path):
    config = config_of(tmp_path, num_devices=2, seed=7)
    config.save_config()
    assert "num_devices: 2" in (config.get_base_dir() / "config.yml").read_text()
    seen = config.machine
    assert (seen.num_devices, seen.num_machines, seen.device_type, seen.seed) == (1, 1, "cpu", 7)
    starter = config.setup(local_rank=0, world_size=1)
    assert isinstance(starter, launch.Starter)
    assert starter.config.machine == MachineConfig(device_type="cpu", num_devices=2, seed=7)


def test_only_machine_0_keeps_the_config(tmp_path):
    config = config_of(tmp_path / "runs", **TWO_MACHINES, machine_rank=1)
    config.save_config()
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def machines(tmp_path) -> list[SafeTrainerConfig]:
    """Two machines on this one; the first has opened its store, which lives as long as the fixture's list."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    configs = [config_of(tmp_path, num_machines=2, machine_rank=rank, dist_url=url) for rank in (0, 1)]
    configs[0].store = launch.open_store(configs[0])  # type: ignore[attr-defined]
    return configs


def test_machines_with_the_same_options_meet(machines):
    store = launch.open_store(machines[1])
    store.set("word", "said")
    assert machines[0].store.get("word") == b"said"


def test_a_machine_with_other_options_is_refused(machines):
    with pytest.raises(InputError, match="max-num-iterations: 7 here, max-num-iterations: 1000000 on machine 0"):
        launch.open_store(replace(machines[1], max_num_iterations=7))


def test_a_rank_that_is_given_twice_is_refused(machines):
    first = launch.open_store(machines[1])
    with pytest.raises(InputError, match=r"--machine\.machine-rank 1 is taken"):
        launch.open_store(machines[1])
    del first


def test_a_taken_port_is_named(machines):
    with pytest.raises(InputError, match=r"--machine\.dist-url tcp://127\.0\.0\.1:\d+ cannot be used"):
        launch.open_store(machines[0])


def test_a_machine_whose_name_nobody_knows_is_not_waited_for(tmp_path):
    config = config_of(tmp_path, num_machines=2, machine_rank=1, dist_url="tcp://nowhere.invalid:29500")
    with pytest.raises(InputError, match=r"there is no machine 0 at tcp://nowhere\.invalid:29500"):
        launch.open_store(config)


def test_a_machine_that_does_not_come_is_not_waited_for_for_ever(machines, monkeypatch):
    monkeypatch.setattr(launch, "TIME_TO_MEET", -launch.TIME_TO_MEET)
    with pytest.raises(InputError, match="the other machines have not come"):
        launch._await_processes(machines[0].store, 0, 2)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InputError("bad", "Mend it", "a.png"), "user"),
        (dist.DistBackendError("NCCL error"), "consequence"),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer"), "consequence"),
        (RuntimeError("mat1 and mat2"), "bug"),
    ],
)
def test_errors_arrive_as_what_they_are(error, kind):
    failure = launch._Failure.of(error)
    assert failure.is_consequence == (kind == "consequence")
    with pytest.raises(RuntimeError if kind == "bug" else InputError) as raised:
        failure.raise_again()
    assert kind != "user" or str(raised.value) == str(error)
    assert kind != "bug" or "mat1 and mat2" in str(raised.value)


def test_the_cause_is_told_and_not_what_follows_from_it(tmp_path, monkeypatch):
    follows = launch._Failure("the connection is lost", "See there", is_consequence=True)
    cause = launch._Failure("the disk is full", "Free space")
    monkeypatch.setattr(launch, "_watch", lambda processes, reports: [follows, cause])
    monkeypatch.setattr(launch, "open_store", lambda config: SimpleNamespace(port=0))
    config = config_of(tmp_path, num_devices=2)
    config.save_config()
    starter = config.setup()
    starter.config.machine.num_devices = 0  # nothing is started
    with pytest.raises(InputError, match="the disk is full"):
        starter.train()
