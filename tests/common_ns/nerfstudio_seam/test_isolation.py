"""Other methods do not notice that this suite is installed, until a run of this suite is set up; nor even then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_tiny_blender
from tests.test_methods import METHODS

# Two processes that load all of nerfstudio: a minute of two cores.
pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("entry_paths.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """What the script found, with and without the suite's methods."""
    folder = tmp_path_factory.mktemp("isolation")
    data = write_tiny_blender(folder / "tiny")
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = {}
    for suite in ("with", "without"):
        words = [sys.executable, str(SCRIPT), suite, str(data), str(folder / f"{suite}.json")]
        processes[suite] = subprocess.Popen(
            words, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    for process in processes.values():
        output = process.communicate(timeout=600)[0]
        assert process.returncode == 0, output
    return {suite: json.loads((folder / f"{suite}.json").read_text()) for suite in processes}


READERS = {"nerfstudio.scripts.train.yaml", "nerfstudio.utils.eval_utils.yaml"}
"""The one exception: what nerfstudio reads configs by, in the two modules that read them, runs nothing."""


def differing(a: dict[str, str], b: dict[str, str]) -> set[str]:
    """What is described otherwise in b than in a, or in one of them only."""
    return {name for name in {*a, *b} if a.get(name) != b.get(name)}


def test_both_lists_of_methods_are_what_they_should_be(found):
    ours = {entry.name for entry in METHODS}
    assert set(found["with"]["methods"]) - set(found["without"]["methods"]) == ours
    assert "nerfacto" in found["without"]["methods"]


def test_loading_the_list_of_methods_changes_nothing_of_nerfstudio_but_what_reads_configs(found):
    with_suite, without = found["with"]["loaded"], found["without"]["loaded"]
    assert len(without) > 5000 and "nerfstudio.viewer.viewer.Viewer.__init__" in without
    assert differing(with_suite, without) == READERS


def test_nor_does_the_use_of_its_own_methods(found):
    assert differing(found["with"]["used"], found["without"]["used"]) == READERS
    assert found["with"]["results"] == found["without"]["results"]
    assert set(found["with"]["results"]["configs read again"].values()) == {True}


def test_its_own_methods_do_what_they_do_without_the_suite(found):
    """What they do, in figures: where the suite's would differ."""
    results = found["without"]["results"]
    assert results["lines until a render is given up"] == [1, 0]  # between two lines, not at the next chunk of rays
    assert results["an image of one pixel"] == [0, 1]
    assert results["ns-viewer's address"] == "0.0.0.0"
    assert results["nerfacto's refusal"].startswith("Traceback")


def test_a_run_of_the_suite_changes_what_the_table_says_and_no_other_method(found):
    changed = differing(found["with"]["used"], found["with"]["ours"])
    assert changed == {
        "PATH",
        "nerfstudio.scripts.exporter.generate_mesh_with_multires_marching_cubes",
        "nerfstudio.scripts.render.get_interpolated_camera_path",
        "nerfstudio.utils.eval_utils.eval_load_checkpoint",
        "sys.excepthook",
        "warnings.filters",
    }
    assert (
        found["with"]["our_refusal"] == "Error: Model must have an SDF field. Use ns-mesh, which also takes densities."
    )
    assert found["with"]["results_beside"] == found["without"]["results"]
