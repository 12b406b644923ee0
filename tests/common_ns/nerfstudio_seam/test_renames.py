"""Runs and command lines of earlier versions: their names of modules, classes, options, values and parameters."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.configs.method_configs import all_methods

from common_ns.nerfstudio_seam import renames
from common_ns.nerfstudio_seam.pipeline import FieldPipeline
from common_ns.nerfstudio_seam.renames import SuiteConfig, configs_by_path, words_now
from common_ns.nerfstudio_seam.runs import read_run_config
from depthnerf_ns.base_model import DepthModelConfig
from depthnerf_ns.mipnerf_model import DepthMipNerfModel, DepthMipNerfModelConfig
from hashnffb_sdf_ns.base_model import SdfFieldConfig
from hashnffb_sdf_ns.datamanager import SdfDataManager, SdfDataManagerConfig
from tests.test_methods import METHODS, PACKAGES, configs_within

EARLIER_RUN = """\
!!python/object:common_ns.trainer.SafeTrainerConfig
_target: !!python/name:common_ns.trainer.SafeTrainer ''
method_name: depth-mip-nerf-small
max_num_iterations: 7
optimizers:
  fields:
    optimizer: !!python/object:nerfstudio.engine.optimizers.AdamOptimizerConfig
      _target: !!python/name:torch.optim.adam.Adam ''
      lr: 0.005
    scheduler: !!python/object:common_ns.schedulers.LogLinearSchedulerConfig
      _target: !!python/name:common_ns.schedulers.LogLinearScheduler ''
      lr_final: 0.0005
pipeline: !!python/object:common_ns.pipeline.FieldPipelineConfig
  _target: !!python/name:common_ns.pipeline.FieldPipeline ''
  datamanager: !!python/object:hashnffb_sdf_ns.mask_sampling.BalancedDataManagerConfig
    _target: !!python/name:hashnffb_sdf_ns.mask_sampling.BalancedDataManager ''
    train_num_rays_per_batch: 512
  model: !!python/object:depthnerf_ns.model.DepthMipNerfModelConfig
    _target: !!python/name:depthnerf_ns.model.DepthMipNerfModel ''
    depth_epsilon_unit: metres
    num_layers: 5
"""
"""As version 0.1.0 wrote it, cut to what is looked at."""


def test_a_run_of_an_earlier_version_is_read(tmp_path):
    (tmp_path / "config.yml").write_text(EARLIER_RUN)
    config = read_run_config(tmp_path / "config.yml")
    model, datamanager = config.pipeline.model, config.pipeline.datamanager
    assert type(model) is DepthMipNerfModelConfig and model._target is DepthMipNerfModel
    assert type(datamanager) is SdfDataManagerConfig and datamanager._target is SdfDataManager
    assert config.pipeline._target is FieldPipeline and config.max_num_iterations == 7
    assert model.depth_epsilon_unit == "meters" and model.num_layers == 5
    assert datamanager.train_num_rays_per_batch == 512
    # What it does not name has its default, also where each config has one of its own.
    assert model.near_plane == DepthMipNerfModelConfig().near_plane and config.max_skipped_steps == 10
    assert datamanager.dataparser == SdfDataManagerConfig().dataparser
    again = yaml.load(yaml.dump(config), Loader=yaml.Loader)
    assert again == config and "common_ns.nerfstudio_seam.trainer" in yaml.dump(config)


@pytest.mark.parametrize("module", renames.MODULES)
def test_a_module_answers_to_its_old_name_and_no_other_does(module):
    before = dict(vars(importlib.import_module(renames.MODULES[module])))
    old = importlib.import_module(module)
    kept = [name for name in before if not name.startswith("__") and f"{module}.{name}" not in renames.CLASSES]
    assert kept and all(getattr(old, name) is before[name] for name in kept)
    assert vars(importlib.import_module(renames.MODULES[module])) == before
    with pytest.raises(AttributeError):
        _ = old.no_such_class
    with pytest.raises(ImportError):
        importlib.import_module(f"{module}_of_another_name")


@pytest.mark.parametrize("name", renames.CLASSES)
def test_a_class_answers_to_its_old_name(name):
    module, _, old = name.rpartition(".")
    place, _, new = renames.CLASSES[name].rpartition(".")
    assert getattr(importlib.import_module(module), old) is getattr(importlib.import_module(place), new)


def test_tables_name_what_is_there():
    def found(name: str) -> type:
        module, _, owner = name.rpartition(".")
        return getattr(importlib.import_module(module), owner)

    for (owner, _), new in renames.OPTIONS.items():
        assert new in found(owner).__dataclass_fields__
    for owner, option in renames.VALUES:
        assert option in found(owner).__dataclass_fields__ and issubclass(found(owner), SuiteConfig)


@pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.name)
def test_every_config_of_ours_reads_earlier_ones(entry):
    for config in configs_within(entry.load().config):
        ours = type(config).__module__.split(".")[0] in PACKAGES
        assert isinstance(config, SuiteConfig) == ours, type(config)
    config = entry.load().config
    assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(config))


@dataclass
class Inner(SuiteConfig):
    size: int = 1
    kind: str = "round"
    more: list[int] = field(default_factory=lambda: [1])


@dataclass
class Outer(SuiteConfig):
    inner: Inner = field(default_factory=Inner)
    size: int = 1


@pytest.fixture
def renamed(monkeypatch):
    """Inner had `width` for `size`, and `circle` for `round`."""
    owner = f"{__name__}.Inner"
    monkeypatch.setitem(renames.OPTIONS, (owner, "width"), "size")
    monkeypatch.setitem(renames.VALUES, (owner, "kind"), {"circle": "round"})


def test_an_option_and_a_value_take_one_line_each(renamed):
    config = Inner.__new__(Inner)
    config.__setstate__({"width": 7, "kind": "circle"})
    assert config == Inner(size=7, kind="round")
    config.more.append(2)
    assert Inner().more == [1]


@dataclass
class Derived(Inner):
    other: int = 3


def test_derived_classes_are_renamed_with_it(renamed):
    config = Derived.__new__(Derived)
    config.__setstate__({"width": 7, "other": 4})
    assert config == Derived(size=7, other=4)


@pytest.mark.parametrize(
    ("words", "now", "said"),
    [
        ("--inner.width 3", "--inner.size 3", "--inner.width is now --inner.size"),
        ("--inner.width=3", "--inner.size=3", "--inner.width is now --inner.size"),
        ("--inner.kind circle", "--inner.kind round", "--inner.kind circle is now --inner.kind round"),
        ("--inner.kind=circle", "--inner.kind=round", "--inner.kind=circle is now --inner.kind=round"),
        ("--inner.size 3 --width 4", "--inner.size 3 --width 4", ""),
        ("--size 3 circle", "--size 3 circle", ""),
        ("p-data --width 3", "p-data --size 3", "--width is now --size"),
        ("--inner.kind p-data --kind circle", "--inner.kind p-data --kind round", "--kind circle is now --kind round"),
        ("--load-dir a_b/width --no-such.width 2", "--load-dir a_b/width --no-such.width 2", ""),
    ],
)
def test_words_of_the_command_line(words, now, said, renamed, capsys):
    assert words_now(words.split(), Outer(), {"p-data": Inner()}) == now.split()
    assert capsys.readouterr().out.strip() == said


def test_options_of_a_method_are_found_where_its_command_line_has_them():
    found = {path: type(each) for path, each in configs_by_path(all_methods["hash-neus-small"])}
    assert found["pipeline.datamanager."] is SdfDataManagerConfig
    assert found["pipeline.model.sdf_field."] is SdfFieldConfig
    assert {"", "optimizers.fields.scheduler.", "pipeline.model.sdf_field.options.nffb.grid."} <= set(found)
    words = ["--pipeline.model.depth-epsilon-unit", "metres", "rgbd-data"]
    assert words_now(words, all_methods["depth-hash"], all_dataparsers)[1] == "meters"
    assert words_now(words, all_methods["hash-neus"], all_dataparsers) == words


@pytest.mark.slow  # each loads nerfstudio's methods in a process of its own
@pytest.mark.parametrize(
    ("command", "method", "value"),
    [("ns-train", "depth-hash", "meters"), ("ns-train", "nerfacto", "metres"), ("other", "depth-hash", "metres")],
)
def test_only_the_command_line_of_our_method_is_translated(command, method, value):
    words = [command, method, "--pipeline.model.depth-epsilon-unit", "metres"]
    code = f"import sys; sys.argv = {words}; import nerfstudio.configs.method_configs; print(sys.argv[-1])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = result.stdout.strip().splitlines()
    option = "--pipeline.model.depth-epsilon-unit"
    assert lines == ([f"{option} metres is now {option} meters"] if value == "meters" else []) + [value]


class Parameters(FieldPipeline):
    """A pipeline as far as it loads parameters."""

    datamanager = None  # type: ignore[assignment]

    def __init__(self, config) -> None:
        torch.nn.Module.__init__(self)
        self.config = config
        self._model = torch.nn.ModuleDict({"field": torch.nn.Linear(1, 1, bias=False)})
        self._model.update_to_step = lambda step: None  # type: ignore[assignment]


def test_parameters_of_an_earlier_version_are_loaded(monkeypatch):
    owner = f"{DepthModelConfig.__module__}.{DepthModelConfig.__qualname__}"
    monkeypatch.setitem(renames.PARAMETERS, (owner, "old_field."), "field.")
    config = copy.deepcopy(all_methods["depth-mip-nerf"].pipeline)
    for name in ("old_field", "field"):
        pipeline = Parameters(config)
        pipeline.load_pipeline({f"_model.{name}.weight": torch.full((1, 1), 3.5)}, step=7)
        assert float(pipeline._model["field"].weight) == 3.5
    other = Parameters(all_methods["mip-nerf"].pipeline)
    assert renames.renamed_parameters(other.config.model, {"_model.old_field.weight": 1}, "_model.") == {
        "_model.old_field.weight": 1
    }


def test_tables_lead_from_what_is_gone_to_what_is_there():
    for (owner, old), new in renames.OPTIONS.items():
        module, _, name = owner.rpartition(".")
        fields = {field.name for field in dataclasses.fields(getattr(importlib.import_module(module), name))}
        assert new in fields and old not in fields, (owner, old)
    for now in [*renames.CLASSES.values(), *(owner for owner, _ in [*renames.VALUES, *renames.PARAMETERS])]:
        module, _, name = now.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


def test_a_name_of_today_is_no_old_name():
    for old in renames.MODULES:
        assert not Path(*old.split(".")).with_suffix(".py").exists()
