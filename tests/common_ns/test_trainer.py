"""Checkpoints are written whole or not at all, on a file system that runs full."""

import resource
import signal

import pytest
import torch

from common_ns.checks import InputError
from common_ns.trainer import save_whole


@pytest.fixture
def small_disk():
    """A process that may write no file beyond 100 kB: what a full disk does to a checkpoint."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_checkpoint_arrives_whole(tmp_path):
    folder = tmp_path / "nerfstudio_models"
    folder.mkdir()
    save_whole({"step": 1, "x": torch.ones(10)}, folder / "step-1.ckpt")
    assert [file.name for file in folder.iterdir()] == ["step-1.ckpt"]
    assert torch.load(folder / "step-1.ckpt")["step"] == 1
    assert list(tmp_path.iterdir()) == [folder]


def test_full_disk_leaves_earlier_checkpoints_alone(tmp_path, small_disk):
    folder = tmp_path / "nerfstudio_models"
    folder.mkdir()
    save_whole({"step": 1}, folder / "step-1.ckpt")
    for name in ("step-1.ckpt", "step-2.ckpt"):  # an overwrite and a new file
        with pytest.raises(InputError, match="cannot be written") as caught:
            save_whole({"step": 2, "x": torch.zeros(1_000_000)}, folder / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)
    assert [file.name for file in folder.iterdir()] == ["step-1.ckpt"]
    assert torch.load(folder / "step-1.ckpt")["step"] == 1
    assert list(tmp_path.iterdir()) == [folder]
