"""A campaign of real runs: killed in training, it comes to the same figures as undisturbed, to the last digit."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
from rich.console import Console

from common_ns.campaigns.description import read_campaign
from common_ns.campaigns.engine import Engine
from common_ns.campaigns.plan import runs_of
from common_ns.campaigns.progress import Display
from common_ns.campaigns.record import TIMING, read_record
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene

MODEL = {"num-coarse-samples": 8, "num-importance-samples": 8, "hidden-dim": 16, "num-layers": 2}
OPTIONS = "--steps-per-save 10 --pipeline.datamanager.train-num-rays-per-batch 64 " + " ".join(
    f"--pipeline.model.{name} {value}" for name, value in MODEL.items()
)


def kill_in_training(folder: Path, over: threading.Event, killed: list[int]) -> None:
    """Kill the training in a run's folder when it has a checkpoint."""
    while not over.wait(0.02):
        if not any(folder.glob("model/*/*/run/nerfstudio_models/step-*.ckpt")):
            continue
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = entry.read_bytes().decode(errors="replace").split("\0")
                if "ns-train" in words and str(folder / "model") in words:
                    os.kill(int(entry.parent.name), signal.SIGKILL)
                    killed.append(int(entry.parent.name))
                    return


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the training by /proc")
def test_real_runs_that_are_killed_come_to_the_same_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    few = SampleSceneConfig(tmp_path / "data", num_train=6, num_val=1, num_test=2, resolution=24, supersample=1)
    write_sample_scene(few)
    content = {
        "data": str(tmp_path / "data"),
        "scenes": [{"name": "sample", "path": "blender"}],
        "methods": [
            {"method": "mip-nerf-small", "options": f"{OPTIONS} --optimizers.fields.scheduler.max-steps {{steps}}"}
        ],
        "budget": {"core_seconds": 8},
        "stages": ["train", "eval", "eval-train", "render"],
        "stage_options": {"render": "interpolate --interpolation-steps 1 --frame-rate 4"},
        "resources": {"gpus": 0},
    }
    file = tmp_path / "real.yaml"
    file.write_text(json.dumps(content))
    campaign = read_campaign(file)

    def carry_out(folder: Path) -> str:
        printed = io.StringIO()
        results = Engine(campaign, folder, "local", Display(Console(file=printed, width=300))).run()
        (run,) = runs_of(campaign, folder)
        log = run.folder / "log.txt"
        assert set(results.values()) == {"done"}, printed.getvalue() + log.read_text()[-5000:]
        return printed.getvalue()

    whole, killed_folder = tmp_path / "whole", tmp_path / "killed"
    printed = carry_out(whole)
    assert "for 8 core-seconds" in printed
    # The same number of steps: timing them again would give another.
    shutil.copytree(whole / "budgets", killed_folder / "budgets")
    (run,) = runs_of(campaign, killed_folder)
    over, killed = threading.Event(), []
    thread = threading.Thread(target=kill_in_training, args=(run.folder, over, killed))
    thread.start()
    try:
        printed = carry_out(killed_folder)
    finally:
        over.set()
        thread.join()
    assert len(killed) == 1 and "train killed after" in printed and "timing" not in printed
    records = [read_record(runs_of(campaign, folder)[0].folder) for folder in (whole, killed_folder)]
    figures = []
    for record in records:
        assert record is not None
        timing = (*TIMING, *(f"train_{name}" for name in TIMING))
        figures.append({name: value for name, value in record.figures.items() if name not in timing})
        assert 4.0 < record.figures["core_seconds"] < 16.0
    assert figures[0] == figures[1] and {"psnr", "lpips", "train_psnr", "steps"} - {"lpips"} <= set(figures[0])
    assert [attempt.end for attempt in records[1].stages["train"].attempts] == ["killed", "done"]  # type: ignore[union-attr]
    assert (run.folder / "video.mp4").stat().st_size > 0 and any((run.folder / "renders").iterdir())
    assert "up to date" in carry_out(killed_folder)
