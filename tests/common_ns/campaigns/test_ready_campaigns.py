"""The campaigns that come with the project: they are read, and every option in them is one of the method's."""

from __future__ import annotations

from pathlib import Path

import pytest
import tyro
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion, all_methods

from common_ns.campaigns.description import Campaign, find_missing, read_campaign
from common_ns.campaigns.plan import command_of, runs_of, stages_of

READY = sorted(Path(__file__).parents[3].joinpath("campaigns").glob("*.yaml"))


def read(file: Path, folder: Path) -> Campaign:
    """A ready campaign; of one that takes the files of a folder, with one there."""
    (folder / "a.png").touch()
    return read_campaign(file, folder)


@pytest.mark.parametrize("file", READY, ids=[file.stem for file in READY])
def test_a_ready_campaign(file: Path, tmp_path: Path):
    campaign = read(file, tmp_path)
    parsed = set()
    for run in runs_of(campaign, tmp_path / "out"):
        words = command_of(campaign, run, "train", 1000)
        assert run.method.method in all_methods
        names = (words[1], *(word for word in words if word.startswith("--") or "." in word[:1]))
        if names in parsed:
            continue
        parsed.add(names)
        config = tyro.cli(AnnotatedBaseConfigUnion, args=words[1:])
        assert config.method_name == run.method.method and config.machine.seed == run.seed
        assert config.vis == "tensorboard" and config.timestamp == "run"
        assert config.get_base_dir() / "config.yml" == run.load_config
    assert parsed and campaign.about
    if file.stem != "images":
        missing = find_missing(campaign)
        assert missing is not None and missing.endswith(")"), "it says where to get the data"
    assert {stage for run in runs_of(campaign, tmp_path) for stage in stages_of(campaign, run)} == set(campaign.stages)


def test_the_campaigns_are_those_of_the_page():
    page = Path(__file__).parents[3].joinpath("docs", "campaigns.md").read_text(encoding="utf-8")
    for file in READY:
        assert f"campaigns/{file.name}" in page
