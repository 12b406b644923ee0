"""What holds for every method that the suite registers."""

from __future__ import annotations

import dataclasses
import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pytest
from tyro._docstrings import get_field_docstring

PACKAGES = ("common_ns", "miner_ns", "mipnerf_ns", "depthnerf_ns", "hashnffb_sdf_ns", "method_configs")


def ours(group: str) -> list[EntryPoint]:
    return sorted((p for p in entry_points(group=group) if p.module.split(".")[0] in PACKAGES), key=lambda p: p.name)


METHODS = ours("nerfstudio.method_configs")
DATAPARSERS = ours("nerfstudio.dataparser_configs")


def configs_within(config: Any) -> list[Any]:
    """A config and those inside it, also in tuples and dictionaries."""
    if isinstance(config, dict):
        return [found for value in config.values() for found in configs_within(value)]
    if isinstance(config, (list, tuple)):
        return [found for value in config for found in configs_within(value)]
    if isinstance(config, type) or not dataclasses.is_dataclass(config):
        return []
    inside = [getattr(config, field.name) for field in dataclasses.fields(config)]
    return [config, *(found for value in inside for found in configs_within(value))]


def test_methods_are_found():
    assert len(METHODS) >= 12 and len(DATAPARSERS) >= 4


@pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.name)
def test_method_is_named_as_registered_and_its_viewer_stays_on_this_machine(entry):
    specification = entry.load()
    assert specification.config.method_name == entry.name and specification.description
    assert specification.config.viewer.websocket_host == "127.0.0.1"


@pytest.mark.parametrize("entry", [*METHODS, *DATAPARSERS], ids=lambda entry: entry.name)
def test_every_option_of_ours_is_explained(entry):
    """The docstring of a field is its text under --help."""
    specification = entry.load()
    for config in configs_within(getattr(specification, "config", None) or specification.dataparser):
        fields = {field.name for field in dataclasses.fields(config)}
        for owner in type(config).__mro__:
            own = fields & set(inspect.get_annotations(owner))
            for name in sorted(own) if owner.__module__.split(".")[0] in PACKAGES else ():
                given = (owner, name, ())[: len(inspect.signature(get_field_docstring).parameters)]  # by tyro's version
                text = get_field_docstring(*given)
                assert text, f"{owner.__module__}.{owner.__name__}.{name} says nothing under --help"
