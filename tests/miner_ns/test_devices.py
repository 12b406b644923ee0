"""Several devices share the blocks of a signal and end with the same reconstruction as one."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from miner_ns.fitting import Fitting
from miner_ns.options import FitOptions
from miner_ns.signal import Signal

OPTIONS = FitOptions(
    num_levels=3, block_size=8, hidden_dim=8, num_frequencies=3, batch_points=16, epochs=(20, 20, 30), check_every=10,
    implementation="torch", threshold=1e-3, blocks_per_chunk=32,
)  # fmt: skip


def fit() -> dict:
    """Fit an image of 8 × 9 blocks; the state of all levels."""
    torch.set_num_threads(1)
    y, x = np.mgrid[:64, :70] / 30.0
    values = np.stack([0.5 + 0.4 * np.sin(5 * x + k) * np.cos(4 * y * y - k) for k in range(3)], axis=-1)
    fitting = Fitting(Signal((values * 255).astype(np.uint8), 2), OPTIONS)
    while fitting.advance() is not None:
        pass
    return fitting.hierarchy.state()


def work(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    torch.save(fit(), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_devices_make_what_one_makes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Commands rather than spawned functions: pytest's way of importing tests leaves these without a module to find.
    command = [sys.executable, __file__, str(port), str(tmp_path)]
    workers = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    alone = fit()
    assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
    for rank in range(2):
        together = torch.load(tmp_path / f"{rank}.pt")
        assert together.keys() == alone.keys()
        for level, parts in alone.items():
            assert torch.equal(together[level]["index"], parts["index"])
            assert torch.allclose(together[level]["theta"], parts["theta"], atol=1e-3)
    assert len(alone[0]["index"]) > 16  # more than one group of blocks: both devices had work


if __name__ == "__main__":
    work(int(sys.argv[3]), int(sys.argv[1]), sys.argv[2])
