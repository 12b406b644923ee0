"""Shares, and what devices tell each other.

This file as a script is two devices, each a process on the CPU.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from common_ns.nerfstudio_seam import distributed


@pytest.mark.parametrize(("total", "parts"), [(63, 2), (64, 4), (10, 3), (2, 3), (0, 2)])
def test_shares_are_balanced_and_leave_nothing_out(total, parts):
    shares = [distributed.share(total, part, parts) for part in range(parts)]
    assert [index for share in shares for index in range(total)[share]] == list(range(total))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_one_device_gets_back_what_it_gives():
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert distributed.gather("a") == ["a"]
    assert distributed.gather_numbers([torch.tensor([2.5]), 7], torch.device("cpu")).tolist() == [[2.5, 7.0]]
    module = example_module(rank=1)
    before = [parameter.clone() for parameter in module.parameters()]
    distributed.broadcast_module(module)
    distributed.sum_gradients(module.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, module.parameters()))
    assert all(parameter.grad is None for parameter in module.parameters())


def example_module(rank: int) -> nn.Module:
    """Parameters of two number formats and buffers of others, all different on each rank."""
    module = nn.Module()
    for name in ("both", "first_only", "nowhere", "empty"):
        module.register_parameter(name, nn.Parameter(torch.full((0 if name == "empty" else 3,), 1.0 + rank)))
    module.wide = nn.Parameter(torch.full((2, 2), 1.0 + rank, dtype=torch.float64))
    module.register_buffer("mask", torch.tensor([rank == 0, True]))
    module.register_buffer("count", torch.tensor(5 + rank), persistent=False)
    return module


def device_main(rank: int, folder: Path) -> None:
    """One device of two: what it has after exchanging gradients, parameters and values goes to a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    module: nn.Module = example_module(rank)
    module.both.grad = torch.tensor([1.0, 2.0, 3.0]) * (1 + rank)
    module.wide.grad = torch.full((2, 2), 0.5 + rank, dtype=torch.float64)
    if rank == 0:
        module.first_only.grad = torch.ones(3)
    distributed.sum_gradients(module.parameters())
    distributed.broadcast_module(module)
    found = {
        "gradients": {name: parameter.grad for name, parameter in module.named_parameters()},
        "values": dict([*module.named_parameters(), *module.named_buffers()]),
        "gathered": distributed.gather({"rank": rank}),
        "numbers": distributed.gather_numbers([rank + 0.5, 4], torch.device("cpu")),
    }
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def devices(tmp_path_factory) -> list[dict]:
    """What each of two devices found."""
    folder = tmp_path_factory.mktemp("devices")
    subprocess.run([sys.executable, __file__, str(folder)], check=True, timeout=120)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_gradients_are_summed_and_absent_ones_stay_absent(devices):
    for found in devices:
        gradients = found["gradients"]
        assert gradients["both"].tolist() == [3.0, 6.0, 9.0]
        assert gradients["wide"].tolist() == [[2.0, 2.0]] * 2 and gradients["wide"].dtype == torch.float64
        assert gradients["first_only"].tolist() == [1.0, 1.0, 1.0]
        assert gradients["nowhere"] is None and gradients["empty"] is None


def test_rank_0_gives_its_parameters_and_buffers_to_all(devices):
    expected = example_module(rank=0)
    for name, value in (*expected.named_parameters(), *expected.named_buffers()):
        assert all(torch.equal(found["values"][name], value) for found in devices), name


def test_values_of_all_devices_come_in_the_order_of_ranks(devices):
    for found in devices:
        assert found["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert found["numbers"].tolist() == [[0.5, 4.0], [1.5, 4.0]]


if __name__ == "__main__":
    torch.multiprocessing.start_processes(device_main, (Path(sys.argv[1]),), nprocs=2, start_method="fork")
