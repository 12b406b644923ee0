"""Configs of all methods are read as they were written, and nothing that a config names is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.scripts import train
from nerfstudio.utils import eval_utils

from common_ns.nerfstudio_seam.safe_configs import READING_YAML, ConfigLoader, read_configs_safely


@pytest.mark.parametrize("name", sorted({**all_methods, **all_dataparsers}))
def test_a_config_of_any_method_is_read_as_it_was_written(name):
    config = all_methods.get(name) or all_dataparsers[name]
    text = yaml.dump(config)
    again = yaml.load(text, Loader=ConfigLoader)
    assert again == config and type(again) is type(config) and yaml.dump(again) == text


def test_what_python_3_13_and_windows_write_is_read_too():
    for place in ("pathlib", "pathlib._local"):
        for kind in ("PosixPath", "WindowsPath"):
            text = f"!!python/object/apply:{place}.{kind} [data, sample]"
            assert yaml.load(text, Loader=ConfigLoader) == Path("data/sample")


def test_both_modules_of_nerfstudio_that_read_configs_read_them_safely():
    read_configs_safely()
    assert train.yaml is READING_YAML and eval_utils.yaml is READING_YAML
    assert train.yaml.dump is yaml.dump and yaml.load("!!python/name:os.getcwd", Loader=yaml.Loader)()


@pytest.mark.slow
def test_it_makes_no_difference_which_module_is_imported_first():
    for first in ("nerfstudio.configs.method_configs", "nerfstudio.scripts.exporter"):
        code = f"import {first}, nerfstudio.utils.eval_utils as e, nerfstudio.scripts.train as t; print(e.yaml, t.yaml)"
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.count("_ReadingYaml") == 2, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "nerfstudio.scripts.eval --load-config CONFIG",
        "nerfstudio.scripts.render dataset --load-config CONFIG",
        "nerfstudio.scripts.exporter pointcloud --load-config CONFIG --output-dir mesh",
        "nerfstudio.scripts.viewer.run_viewer --load-config CONFIG",
        "nerfstudio.scripts.train nerfacto --load-config CONFIG",
        "common_ns.scripts.mesh --load-config CONFIG",
    ],
)
def test_a_command_runs_nothing_and_ends_in_one_line(tmp_path, command):
    text = yaml.dump(all_methods["nerfacto"])
    harmful = "method_name: !!python/object/apply:os.system ['touch done']"
    (tmp_path / "config.yml").write_text(text.replace("method_name: nerfacto", harmful))
    module, *words = command.replace("CONFIG", str(tmp_path / "config.yml")).split()
    code = f"import sys; from {module} import entrypoint; entrypoint()"
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert last.startswith(f"Error: {tmp_path / 'config.yml'}: cannot be read") and "names os.system" in last
    assert not (tmp_path / "done").exists()
