"""Programs of a fraction of a second in the places of ns-train and others, and a cluster that is none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from common_ns.campaigns import engine as engine_module
from tests.common_ns.campaigns.fakes import Fakes, write_slurm


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    for name in ("FAKE_FOLDER", "FAKE_TESTS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[3]), *sys.path]))
    monkeypatch.setattr(engine_module, "LOOK", 0.03)
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "image").write_text(name)
    return Fakes(tmp_path / "fakes")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(engine_module, "SLURM_LOOK", 1)
    return folder
