"""Campaigns' files: what is read, and that every mistake is one line that names its key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common_ns.campaigns.description import find_missing, read_campaign, require_data, slug
from common_ns.campaigns.plan import command_of, runs_of, stages_of
from common_ns.errors import InputError

WHOLE = """
about: |
  Two lines,
  both kept.
data: DATA
scenes:
  - {name: first, path: a, dataparser: idr-data --downscale-factor 2, options: --x "two words", reference: a/m.ply,
     eval_mesh: "--obs-mask {data}/mask.mat"}
  - {path: "*.png"}
methods:
  - method: hash-neus
    name: "{encoding} NeuS {cameras}"
    options: [--a, "1"]
    vary:
      encoding: {hash: --e hash, nffb: --e nffb}
      cameras: {fixed: "", trained: --cameras SO3xR3}
    scenes: [first]
  - {method: miner-image, stages: [train, eval]}
seeds: [0, 1]
stages: [train, eval, mesh, eval-mesh]
budget: {steps: 30}
stage_options: {mesh: --resolution 16}
resources: {cores: 2, gpus: 0}
retry: {killed: 1}
table: {figures: [psnr], published: [{name: theirs, scenes: {first: {psnr: 21.94}}, mean: {psnr: -1}}]}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    for name in ("p 1.png", "q.png", "a/m.ply"):
        (folder / name).write_bytes(b"")
    return folder


def write(folder: Path, text: str, name: str = "some.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_a_campaign_is_read_whole(tmp_path: Path, data: Path):
    campaign = read_campaign(write(tmp_path, WHOLE.replace("DATA", str(data))))
    assert campaign.name == "some" and campaign.about == "Two lines,\nboth kept.\n"
    assert [scene.name for scene in campaign.scenes] == ["first", "p 1", "q"]
    assert campaign.scenes[0].options == ("--x", "two words")
    assert [method.name for method in campaign.methods] == [
        "hash NeuS fixed",
        "hash NeuS trained",
        "nffb NeuS fixed",
        "nffb NeuS trained",
        "miner-image",
    ]
    assert campaign.methods[1].options == ("--a", "1", "--e", "hash", "--cameras", "SO3xR3")
    assert campaign.methods[1].labels == {"encoding": "hash", "cameras": "trained"}
    assert campaign.retry == {"killed": 1, "out_of_memory": 3, "not_finite": 0, "timed_out": 1, "failed": 0}
    assert campaign.table.published[0].mean == {"psnr": -1.0}
    runs = runs_of(campaign, tmp_path / "out")
    assert len(runs) == 2 * (5 + 2 * 1)
    assert runs[-1].folder == tmp_path / "out/runs/q/miner-image/seed-1"
    assert stages_of(campaign, runs[0]) == ["train", "eval", "mesh", "eval-mesh"]
    assert stages_of(campaign, runs[-1]) == ["train", "eval"]


def test_commands_have_the_options_of_scene_method_and_stage(tmp_path: Path, data: Path):
    campaign = read_campaign(write(tmp_path, WHOLE.replace("DATA", str(data))))
    run = runs_of(campaign, tmp_path / "out")[1]
    words = " ".join(command_of(campaign, run, "train", 30))
    assert words.startswith(
        f"ns-train hash-neus --data {data}/a --x two words --a 1 --e hash --cameras SO3xR3 --max-num"
    )
    assert "--max-num-iterations 30 --machine.seed 0 " in words
    assert words.endswith("--timestamp run idr-data --downscale-factor 2")
    assert command_of(campaign, run, "mesh")[-2:] == ["--resolution", "16"]
    assert command_of(campaign, run, "eval-mesh")[-2:] == ["--obs-mask", f"{data}/mask.mat"]


def test_toml_reads_as_yaml_does(tmp_path: Path, data: Path):
    toml = f"""
    data = "{data}"
    seeds = [3]
    [[scenes]]
    path = "a"
    [[methods]]
    method = "mip-nerf"
    vary = {{views = {{3 = "--n 3", 6 = ""}}}}
    [budget]
    core_seconds = 30
    """
    text = f"data: {data}\nseeds: [3]\nscenes: [{{path: a}}]\nbudget: {{core_seconds: 30}}\n"
    text += "methods: [{method: mip-nerf, vary: {views: {3: --n 3, 6: ''}}}]\n"
    first = read_campaign(write(tmp_path, toml, "x.toml"))
    second = read_campaign(write(tmp_path, text, "x.yml"))
    assert first.methods == second.methods and first.scenes == second.scenes and first.budget == second.budget
    assert [method.name for method in first.methods] == ["mip-nerf 3", "mip-nerf 6"]


def test_the_data_folder_can_be_given(tmp_path: Path, data: Path):
    file = write(tmp_path, "data: nowhere\nscenes: [{path: a}]\nmethods: [{method: x}]\n")
    assert read_campaign(file, data).scenes[0].path == data / "a"


def test_what_is_missing_is_said_with_where_to_get_it(tmp_path: Path, data: Path):
    text = f"data: {data}\nmethods: [{{method: x}}]\nscenes:\n  - {{path: a, needs: [m.ply, image]}}\n"
    campaign = read_campaign(write(tmp_path, text + "  - {path: b, get: 'https://b.example'}\n"))
    missing = find_missing(campaign)
    assert missing == f"{data}/a/image; {data}/b (https://b.example)"
    with pytest.raises(InputError, match=r"some\.yaml: data is missing: .*--data-dir"):
        require_data(campaign)
    (data / "a/image").mkdir()
    (data / "b").mkdir()
    assert find_missing(campaign) is None


MISTAKES = {
    "!- 1": "holds no campaign",
    "!scenes: [{path: a}]": "methods is missing",
    "sceens: []": "sceens is no key of a campaign. Did you mean scenes?",
    "scenes: []": "scenes is empty",
    "scenes: {path: a}": "scenes is a mapping. Give a list",
    "scenes: [{name: a}]": r"scenes\[0\].path is missing",
    "scenes: [{path: a, optoins: x}]": r"scenes\[0\].optoins is no key of a campaign. Did you mean options?",
    "scenes: [{path: a}, {path: b, name: A}]": "scenes has two of the name 'a' and 'A', which are one folder",
    "scenes: [{path: '*.jpg', get: from there}]": r"scenes\[0\].path fits nothing: .*Get it: from there",
    "scenes: [{path: '*.png', name: x}]": r"scenes\[0\].name is given beside a path with a pattern",
    "methods: [{method: 3.5, options: 7}]": r"methods\[0\].options is 7. Give a text or a list of words",
    "methods: [{method: yes}]": r"methods\[0\].method is True. Give text \(YAML reads yes",
    "methods: [{method: x}, {method: x}]": "methods has two of the name 'x'",
    "methods: [{method: x, name: '{y}'}]": r"methods\[0\].name has {y}, which is not varied",
    "methods: [{method: x, scenes: [b]}]": r"methods\[0\].scenes has 'b', which is not known. Choose from: a",
    "methods: [{method: x, scenes: []}]": r"methods\[0\].scenes is empty",
    "methods: [{method: x, stages: [train, mesh]}]": r"methods\[0\].stages has 'mesh'",
    "methods: [{method: x, vary: {e: {}}}]": r"methods\[0\].vary.e is empty",
    'methods: [{method: x, options: "--a \'b"}]': "cannot be split into words",
    "methods: [{method: x, options: '--s {steps}'}]": "budget is missing, and the options of x have {steps}",
    "seeds: [1, 1]": "seeds names one twice",
    "seeds: 3": "seeds is 3. Give a list",
    "seeds: [1.5]": r"seeds\[0\] is 1.5. Give a whole number",
    "seeds: []": "seeds is empty",
    "stages: [eval]": "stages are eval. Begin with train",
    "stages: [train, evla]": "stages has 'evla', which is not known. Did you mean eval?",
    "stages: [train, eval-mesh]": "stages have eval-mesh and no mesh",
    "stages: [train, mesh, eval]": "stages are train, mesh, eval. Begin with train, and keep the order",
    "budget: {steps: 3, core_seconds: 4}": "budget has both steps and core_seconds",
    "budget: {steps: 0}": "budget.steps is 0. Give a number above 0",
    "budget: {core_seconds: .nan}": "budget.core_seconds is nan",
    "budget: 300": "budget is 300. Give a mapping of steps, core_seconds",
    "budget: {steps: 3}\nscenes: [{path: a, options: --max-num-iterations 4}]": "--max-num-iterations in the",
    "stage_options: {mehs: x}": "stage_options has 'mehs', which is not known",
    "stages: [train, render]\nstage_options: {render: spriral}": "render has 'spriral'.*Did you mean spiral",
    "resources: {cores: 0}": "resources.cores is 0",
    "retry: {kiled: 3}": "retry has 'kiled', which is not known. Did you mean killed?",
    "retry: {killed: -1}": "retry.killed is -1. Give 0 or more",
    "slurm: {partion: x}": "slurm.partion is no key of a campaign. Did you mean partition?",
    "table: {figures: psnr}": "table.figures is 'psnr'. Give a list",
    "table: {published: [{name: x, scenes: {b: {psnr: 1}}}]}": r"table.published\[0\].scenes has 'b'",
    "table: {published: [{name: x, mean: {psnr: good}}]}": r"published\[0\].mean.psnr is 'good'. Give a number",
    "!scenes: [{path: a}]\nscenes: [{path: a}]": "cannot be read .the key 'scenes' is given twice, line 1",
    "!scenes: [": "cannot be read",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_key(tmp_path: Path, data: Path, text: str):
    whole = text.removeprefix("!")
    if whole == text:
        whole += f"\ndata: {data}\n"
        whole += "" if "methods:" in text else "methods: [{method: x}]\n"
        whole += "" if re.search("^scenes:", text, re.MULTILINE) else "scenes: [{path: a}]\n"
    with pytest.raises(InputError, match=MISTAKES[text]) as caught:
        read_campaign(write(tmp_path, whole))
    assert "\n" not in str(caught.value) and "some.yaml: " in str(caught.value)


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="does not exist"):
        read_campaign(tmp_path / "x.yaml")
    with pytest.raises(InputError, match="is no campaign by its name"):
        read_campaign(write(tmp_path, "", "x.json"))
    with pytest.raises(InputError, match="cannot be read"):
        read_campaign(write(tmp_path, "a = ", "x.toml"))


def test_slugs_are_safe_names():
    assert slug("hash NeuS / {3}") == "hash-NeuS-3" and slug("../..") == "-" and slug("é.png") == "é.png"
