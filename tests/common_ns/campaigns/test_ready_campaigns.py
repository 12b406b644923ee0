"""The campaigns that come with the project: they are read, and every option in them is one of the method's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tyro
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion, all_methods

from common_ns.campaigns.description import Campaign, find_missing, read_campaign
from common_ns.campaigns.plan import command_of, runs_of, stages_of

PAGE = Path(__file__).parents[3] / "docs" / "campaigns.md"
READY = sorted(Path(__file__).parents[3].joinpath("campaigns").glob("*.yaml"))


def read(file: Path, folder: Path) -> Campaign:
    """A ready campaign; of one that takes the files of a folder, with one there."""
    (folder / "a.png").touch()
    return read_campaign(file, folder)


def check(campaign: Campaign, folder: Path) -> None:
    """Parse the trainings of a campaign as ns-train does, those that differ in values only once."""
    parsed = set()
    for run in runs_of(campaign, folder):
        words = command_of(campaign, run, "train", 1000)
        assert run.method.method in all_methods
        names = (words[1], *(word for word in words if word.startswith("--")))
        if names in parsed:
            continue
        parsed.add(names)
        config = tyro.cli(AnnotatedBaseConfigUnion, args=words[1:])
        assert config.method_name == run.method.method and config.machine.seed == run.seed
        assert config.vis == "tensorboard" and config.timestamp == "run"
        assert config.get_base_dir() / "config.yml" == run.load_config
    assert parsed


@pytest.mark.parametrize("file", READY, ids=[file.stem for file in READY])
def test_a_ready_campaign(file: Path, tmp_path: Path):
    campaign = read(file, tmp_path)
    check(campaign, tmp_path / "out")
    assert campaign.about
    if file.stem != "images":
        missing = find_missing(campaign)
        assert missing is not None and missing.endswith(")"), "it says where to get the data"
    assert {stage for run in runs_of(campaign, tmp_path) for stage in stages_of(campaign, run)} == set(campaign.stages)


def test_the_example_of_the_page(tmp_path: Path):
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "example.yaml"
    file.write_text(text, encoding="utf-8")
    campaign = read_campaign(file)
    names = [method.name for method in campaign.methods]
    assert names == ["mip-NeRF 360, with distortion loss", "mip-NeRF 360, without", "depth-hash-small"]
    check(campaign, tmp_path / "out")


def test_the_campaigns_are_those_of_the_page():
    page = PAGE.read_text(encoding="utf-8")
    for file in READY:
        assert f"campaigns/{file.name}" in page
