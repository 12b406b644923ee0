"""Several devices share the blocks of a signal and end with the same reconstruction as one."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from common_ns.nerfstudio_seam import distributed
from miner_ns.fitting import Fitting
from miner_ns.options import FitOptions
from miner_ns.signal import Signal

OPTIONS = FitOptions(
    num_levels=3, block_size=8, hidden_dim=8, num_frequencies=3, batch_points=16, epochs=(20, 20, 30), check_every=10,
    implementation="torch", threshold=1e-3, blocks_per_chunk=16,
)  # fmt: skip


def fit(folder: Path, start: Path | None = None) -> dict:
    """Fit an image of 8 × 9 blocks; returns the state of all levels.

    Args:
        folder: gets the states on the way through the finest level, by number of portions.
        start: a state to begin with.
    """
    torch.set_num_threads(1)
    y, x = np.mgrid[:64, :70] / 30.0
    values = np.stack([0.5 + 0.4 * np.sin(5 * x + k) * np.cos(4 * y * y - k) for k in range(3)], axis=-1)
    values[:, :40] = 0.3  # blocks that are soon good enough
    fitting = Fitting(Signal((values * 255).astype(np.uint8), 2), OPTIONS)
    if start is not None:
        fitting.restore(torch.load(start, weights_only=False))
    portions = 0
    while (progress := fitting.advance()) is not None:
        portions += progress.level == 0
        fitting.gather_state()
        if progress.level == 0 and start is None and distributed.rank() == 0:
            torch.save(fitting.state(), folder / f"{portions}.pt")
    return fitting.hierarchy.state()


def work(rank: int, port: int, folder: Path) -> None:
    """One device of two: fits from the start, and from where one device was at its second portion."""
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    torch.save([fit(folder / "two"), fit(folder, folder / "one" / "2.pt")], folder / f"{rank}.pt")
    dist.destroy_process_group()


def assert_same(fitted: dict, expected: dict) -> None:
    assert fitted.keys() == expected.keys()
    for level, parts in expected.items():
        assert torch.equal(fitted[level]["index"], parts["index"])
        assert torch.allclose(fitted[level]["theta"], parts["theta"], atol=1e-3)


@pytest.mark.slow
def test_two_devices_make_what_one_makes_and_each_goes_on_with_the_others_checkpoint(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = fit(tmp_path / "one")
    # Commands rather than spawned functions: pytest's way of importing tests leaves these without a module to find.
    command = [sys.executable, __file__, str(port), str(tmp_path)]
    workers = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
    for rank in range(2):
        for together in torch.load(tmp_path / f"{rank}.pt"):
            assert_same(together, alone)
    assert len(alone[0]["index"]) > 16  # more than one group of blocks: both devices had work

    saved = [torch.load(tmp_path / "two" / f"{portion}.pt", weights_only=False) for portion in (1, 4)]
    assert [len(chunk["index"]) for chunk in saved[0]["chunks"]] == [16, 16] and len(saved[0]["pending"]) == 5
    assert len(saved[1]["trained"]) == 2 and len(saved[1]["chunks"]) == 1  # the first device waits for the second
    for portion in (1, 4):
        assert_same(fit(tmp_path, tmp_path / "two" / f"{portion}.pt"), alone)


if __name__ == "__main__":
    work(int(sys.argv[3]), int(sys.argv[1]), Path(sys.argv[2]))
