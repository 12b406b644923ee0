"""What was called otherwise in earlier versions, so that their runs still load and their command lines still work.

A run keeps the names of its day: config.yml those of modules, classes and options, a checkpoint those of parameters, a
user those of the command line. Each table below takes one line for a rename; nothing else is to be done. Modules and
classes need a line only if config.yml can hold them.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES = {
    "common_ns.pipeline": "common_ns.nerfstudio_seam.pipeline",
    "common_ns.trainer": "common_ns.nerfstudio_seam.trainer",
    "common_ns.datamanager": "common_ns.nerfstudio_seam.datamanager",
    "common_ns.schedulers": "common_ns.nerfstudio_seam.schedulers",
    "depthnerf_ns.model": "depthnerf_ns.base_model",
    "hashnffb_sdf_ns.model": "hashnffb_sdf_ns.base_model",
    "hashnffb_sdf_ns.mask_sampling": "hashnffb_sdf_ns.datamanager",
    "hashnffb_sdf_ns.optimizers": "common_ns.nerfstudio_seam.optimizers",
}
"""Module: its name now."""

CLASSES = {
    "depthnerf_ns.model.DepthMipNerfModel": "depthnerf_ns.mipnerf_model.DepthMipNerfModel",
    "depthnerf_ns.model.DepthMipNerfModelConfig": "depthnerf_ns.mipnerf_model.DepthMipNerfModelConfig",
    "hashnffb_sdf_ns.mask_sampling.BalancedDataManager": "hashnffb_sdf_ns.datamanager.SdfDataManager",
    "hashnffb_sdf_ns.mask_sampling.BalancedDataManagerConfig": "hashnffb_sdf_ns.datamanager.SdfDataManagerConfig",
}
"""Class in a module of MODULES: what it is now, where that is not the class of this name in the module's new place."""

OPTIONS: dict[tuple[str, str], str] = {
    ("depthnerf_ns.base_model.DepthModelConfig", "depth_anneal_share"): "depth_anneal_fraction",
    ("depthnerf_ns.base_model.DepthModelConfig", "depth_sample_share"): "depth_sample_fraction",
    ("hashnffb_sdf_ns.datamanager.SdfDataManagerConfig", "mask_ray_share"): "mask_ray_fraction",
    ("hashnffb_sdf_ns.neus_model.NeusModelConfig", "initial_sharpness"): "initial_inv_s",
    ("hashnffb_sdf_ns.neus_model.NeusModelConfig", "sharpness_bounds"): "inv_s_bounds",
    ("miner_ns.options.FitOptions", "kind"): "architecture",
}
"""(Config class, option): its name now. A class stands for those derived from it too."""

VALUES: dict[tuple[str, str], dict[str, str]] = {
    ("depthnerf_ns.base_model.DepthModelConfig", "depth_epsilon_unit"): {"metres": "meters"},
}
"""(Config class, option by its name now): values that are spelled otherwise now."""

PARAMETERS: dict[tuple[str, str], str] = {
    ("hashnffb_sdf_ns.neus_model.NeusModelConfig", "sharpness."): "inv_s.",
}
"""(Config class of a model, first part of a parameter's name in it): what that part is now."""


class SuiteConfig:
    """Base of this suite's configs, beside those of nerfstudio: reads what earlier versions wrote.

    Options that were renamed get their value, and those that are new their default. It also tells a run of this suite
    from others.
    """

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Restore a config from its options, as yaml, pickle and copy do."""
        values = {}
        for name, value in state.items():
            name = renamed(OPTIONS, type(self), name)
            values[name] = renamed_value(type(self), name, value)
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if field.name in values:
                continue
            if field.default_factory is not dataclasses.MISSING:
                values[field.name] = field.default_factory()
            elif field.default is not dataclasses.MISSING:
                values[field.name] = field.default
        self.__dict__.update(values)


def _names(config_class: type) -> list[str]:
    """The full names of a class and of those that it derives from."""
    return [f"{owner.__module__}.{owner.__qualname__}" for owner in config_class.__mro__]


def renamed(table: Mapping[tuple[str, str], str], config_class: type, name: str) -> str:
    """What an option is called now, by a table like OPTIONS."""
    return next((table[owner, name] for owner in _names(config_class) if (owner, name) in table), name)


def renamed_value(config_class: type, option: str, value: Any) -> Any:
    """What a value of an option, by its name now, is called now."""
    tables = (VALUES.get((owner, option), {}) for owner in _names(config_class))
    return next((table[value] for table in tables if isinstance(value, str) and value in table), value)


def renamed_parameters(model_config: Any, state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """A checkpoint's parameters under the names they have now.

    Args:
        model_config: config of the model.
        state: parameters by name.
        prefix: what the names of the model's parameters begin with.
    """
    parts = [(old, new) for (owner, old), new in PARAMETERS.items() if owner in _names(type(model_config))]

    def name_now(name: str) -> str:
        for old, new in parts:
            if name.startswith(prefix + old):
                return prefix + new + name.removeprefix(prefix + old)
        return name

    return {name_now(name): value for name, value in state.items()}


def configs_by_path(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A config and all those inside of it, with the words that lead to them on the command line, such as
    "pipeline.model."."""
    if isinstance(config, Mapping):
        children = config.items()
    elif dataclasses.is_dataclass(config) and not isinstance(config, type):
        yield path, config
        children = ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))
    else:
        return
    for name, child in children:
        yield from configs_by_path(child, f"{path}{name}.")


def words_now(words: list[str], config: Any, parsers: Mapping[str, Any]) -> list[str]:
    """A command line of ns-train in the words of this version. What is translated is printed, a line for each.

    Args:
        words: the words behind the method's name.
        config: the method's config.
        parsers: configs of dataparsers by name. Behind one, options are those of the dataparser.
    """
    scope = {path: type(each) for path, each in configs_by_path(config)}
    result: list[str] = []
    option: tuple[type, str] | None = None  # whose values follow, and its word
    written = ""
    for word in words:
        if not word.startswith("--"):
            if word in parsers:
                scope = {"": type(parsers[word])}
                option = None
            elif option is not None:
                value = renamed_value(*option, word)
                _tell(f"{written} {word}", f"{written} {value}")
                word = value
            result.append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        path, _, old = name.replace("-", "_").rpartition(".")
        path = f"{path}." if path else ""
        option = None
        if path in scope:
            new = renamed(OPTIONS, scope[path], old)
            option = scope[path], new
            if new != old:
                kept = name[: len(path)]
                _tell(f"--{name}", f"--{kept}{new.replace('_', '-')}")
                name = f"{kept}{new.replace('_', '-')}"
            written = f"--{name}"
            if equals:
                _tell(f"{written}={value}", f"{written}={renamed_value(*option, value)}")
                value = renamed_value(*option, value)
        result.append(f"--{name}{equals}{value}")
    return result


def _tell(old: str, new: str) -> None:
    if old != new:
        print(f"{old} is now {new}")


def accept_old_words(method: str | None, config: Any) -> None:
    """If this process is `ns-train` on a method, let its command line be in the words of earlier versions.

    Nothing of this suite is asked between the loading of methods and the reading of the command line, so that the words
    are exchanged where the method's config is made. Those of other methods and commands are left alone.
    """
    command = Path(sys.argv[0]).stem if sys.argv else ""
    if method is None or command != "ns-train" or sys.argv[1:2] != [method]:
        return
    from nerfstudio.configs.dataparser_configs import all_dataparsers

    sys.argv[2:] = words_now(sys.argv[2:], config, all_dataparsers)


class _OldModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the modules of MODULES under their old names."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__

        def __getattr__(name: str) -> Any:
            place, _, now = CLASSES.get(f"{old}.{name}", f"{MODULES[old]}.{name}").rpartition(".")
            return getattr(importlib.import_module(place), now)

        module.__getattr__ = __getattr__  # type: ignore[method-assign]


if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
    sys.meta_path.append(_OldModules())
