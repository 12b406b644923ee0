"""config.yml, read so that it gives configs and runs nothing.

A config.yml names Python classes, and `yaml.Loader`, by which nerfstudio reads it, calls whatever is named: a file from
elsewhere with `!!python/object/apply:os.system` runs its command. `ConfigLoader` builds classes of nerfstudio, of this
suite and of registered plugins, and what their configs hold besides: paths, enumerations, named tuples, torch's types.
It calls no function, and imports nothing of others. Functions are values only where the configs of registered methods
hold the same ones.

A config is read before anyone knows whose run it is. This is therefore the one thing that is changed for the runs of
all methods, as soon as nerfstudio loads its list of methods: in the two modules of nerfstudio that read configs, the
name `yaml` stands for an object whose `load` reads as above. yaml itself stays as it is.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import importlib.abc
import importlib.machinery
import pathlib
import sys
import types
import typing
from collections import OrderedDict
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import yaml

from common_ns.errors import InputError
from common_ns.nerfstudio_seam.renames import configs_by_path

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import TrainerConfig

READERS = ("nerfstudio.utils.eval_utils", "nerfstudio.scripts.train")
"""nerfstudio's modules that read configs: ns-eval, ns-render, ns-export and ns-viewer by the first, ns-train
--load-config by the second."""
GROUPS = ("nerfstudio.method_configs", "nerfstudio.dataparser_configs")
"""Entry points by which plugins are registered."""
REMEDY = "Give the config.yml that ns-train wrote, with the method's package installed"
_VALUES = (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, type(None))
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_CALLED = {
    **{f"{module}.{name}": getattr(pathlib, name) for module in ("pathlib", "pathlib._local") for name in _PATHS},
    "collections.OrderedDict": OrderedDict,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
}
"""Classes of others that are called to make a value; enumerations besides. Python 3.13 has another place for paths."""


def trusted() -> tuple[set[str], list[Any]]:
    """Packages whose classes configs may hold, and what else the configs of registered methods hold by name.

    The packages are nerfstudio, those that registered entry points name, and those that define a config of a registered
    method or dataparser.
    """
    from nerfstudio.configs.dataparser_configs import all_dataparsers
    from nerfstudio.configs.method_configs import all_methods

    packages = {"nerfstudio", __name__.partition(".")[0]}
    packages |= {_root(each.value) for group in GROUPS for each in entry_points(group=group)}
    named: list[Any] = []
    for config in (*all_methods.values(), *all_dataparsers.values()):
        for _, each in configs_by_path(config):
            packages.add(_root(type(each).__module__))
            named += [value for value in vars(each).values() if isinstance(value, (type, types.FunctionType))]
    return packages - {"torch", "numpy", *sys.stdlib_module_names}, named


def _root(name: str) -> str:
    return name.partition(":")[0].partition(".")[0]


def object_of(cls: Any, args: list[Any]) -> Any:
    """A new object of a class, without a call of its `__init__`."""
    return cls.__new__(cls, *args)


class ConfigLoader(yaml.FullLoader):
    """Reads YAML with Python's classes as the module says."""

    @functools.cached_property
    def _trusted(self) -> tuple[set[str], list[Any]]:
        return trusted()

    def refuse(self, what: str, mark: Any) -> NoReturn:
        """Raises: ConstructorError that says what the file names."""
        raise yaml.constructor.ConstructorError(None, None, what, mark)

    def find_python_name(self, name: str, mark: Any, unsafe: bool = False) -> Any:
        """The class of this name; or a function that the config of a registered method holds, too."""
        module_name, _, own_name = name.rpartition(".")
        packages, named = self._trusted
        foreign = f"names {name}, which is no class of nerfstudio, of this suite or of a registered plugin"
        module = sys.modules.get(module_name or "builtins")
        if _root(module_name) in packages:
            try:
                module = importlib.import_module(module_name)
            except ImportError as error:
                self.refuse(f"names {name}, which cannot be imported ({error})", mark)
            if not hasattr(module, own_name):
                self.refuse(f"names {name}, which there is not", mark)
        value = getattr(module, own_name, None)
        # What a module has imported from elsewhere is not its own.
        own = isinstance(value, type) and _root(value.__module__) in packages
        optimizer = isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
        if own or optimizer or isinstance(value, torch.dtype) or any(value is each for each in (*named, *_VALUES)):
            return value
        self.refuse(foreign, mark)

    def make_python_instance(
        self, suffix: str, node: Any, args: Any = None, kwds: Any = None, newobj: bool = False, unsafe: bool = False
    ) -> Any:
        """An instance of a class: empty, to get its state, or by values that cannot do anything."""
        mark, args = node.start_mark, list(args or ())
        if not newobj and suffix == "_operator.getitem" and len(args) == 2 and isinstance(args[0], type) and not kwds:
            return args[0][args[1]]  # type: ignore[index]  # a generic class with its type, such as VanillaDataManager
        cls: Any = _CALLED.get(suffix) or self.find_python_name(suffix, mark)
        try:
            if isinstance(cls, type) and issubclass(cls, Path):
                return Path(*args)  # of another system, too
            if isinstance(cls, type) and (suffix in _CALLED or issubclass(cls, enum.Enum)):
                return cls(*args, **(kwds or {}))
            if isinstance(cls, type) and newobj and not kwds and (not args or issubclass(cls, _VALUES)):
                return object_of(cls, args)
        except (TypeError, ValueError, RuntimeError) as error:
            self.refuse(f"makes no {suffix} ({error})", mark)
        self.refuse(f"calls {suffix}, and a config calls nothing", mark)

    def construct_python_object(self, suffix: str, node: Any) -> Any:
        """`!!python/object:CLASS {…}`: an instance from its state."""
        instance = self.make_python_instance(suffix, node, newobj=True)
        yield instance
        self.set_state(instance, self.construct_mapping(node, deep=True), node)

    def construct_python_object_apply(self, suffix: str, node: Any, newobj: bool = False) -> Any:
        """`!!python/object/apply:` and `!!python/object/new:`, in their short and long forms."""
        if isinstance(node, yaml.SequenceNode):
            return self.make_python_instance(suffix, node, self.construct_sequence(node, deep=True), newobj=newobj)
        parts = self.construct_mapping(node, deep=True)
        args, kwds, listitems = parts.get("args"), parts.get("kwds"), parts.get("listitems")
        instance = self.make_python_instance(suffix, node, args, kwds, newobj)
        if parts.get("state"):
            self.set_state(instance, parts["state"], node)
        if listitems and isinstance(instance, list):
            list.extend(instance, listitems)
        if parts.get("dictitems") and isinstance(instance, dict):
            dict.update(instance, parts["dictitems"])
        return instance

    def set_state(self, instance: Any, state: Any, node: Any) -> None:
        """Give an instance its values, none of which takes the place of a method."""
        kind, parts = type(instance), state if isinstance(state, tuple) else (state,)
        names = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
        for name, value in ((name, value) for part in parts for name, value in (part or {}).items()):
            if name not in names and callable(getattr(kind, str(name), None)):
                self.refuse(f"replaces {name} of {kind.__qualname__}", node.start_mark)
            if name == "_target" and not isinstance(value, type) and typing.get_origin(value) is None:
                called = getattr(value, "__qualname__", value)
                self.refuse(f"has the _target {called}, which is no class", node.start_mark)
        self.set_python_instance_state(instance, state)


_TAG = "tag:yaml.org,2002:python/"
ConfigLoader.add_multi_constructor(f"{_TAG}object:", ConfigLoader.construct_python_object)
ConfigLoader.add_multi_constructor(f"{_TAG}object/apply:", ConfigLoader.construct_python_object_apply)
ConfigLoader.add_multi_constructor(
    f"{_TAG}object/new:", lambda loader, suffix, node: loader.construct_python_object_apply(suffix, node, newobj=True)
)


def config_of(text: str, file: Path | str | None) -> TrainerConfig:
    """The config that a config.yml holds.

    Args:
        text: content of the file.
        file: for errors.
    Raises: InputError if it is none, or names what a config may not hold.
    """
    from nerfstudio.engine.trainer import TrainerConfig

    try:
        config = yaml.load(text, Loader=ConfigLoader)
    except RecursionError:
        raise InputError("cannot be read as a nerfstudio config (nested too deeply)", REMEDY, file) from None
    except (yaml.YAMLError, TypeError, ValueError, AttributeError, KeyError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        where = "" if mark is None else f"line {mark.line + 1}: "
        raise InputError(f"cannot be read as a nerfstudio config ({where}{problem})", REMEDY, file) from error
    if not isinstance(config, TrainerConfig):
        raise InputError(f"holds a {type(config).__name__}, not the config of a run", REMEDY, file)
    return config


class _ReadingYaml:
    """Stands for the module yaml where nerfstudio reads configs."""

    def __getattr__(self, name: str) -> Any:
        return getattr(yaml, name)

    def load(self, stream: Any, Loader: Any = None) -> Any:
        """Read a config safely. What is wrong with it ends the command in one line; of a run of this suite, also what
        the command needs besides."""
        from common_ns.nerfstudio_seam.last_words import report_input_errors

        place = sys._getframe(1)
        file = place.f_locals.get("config_path") or getattr(place.f_locals.get("config"), "load_config", None)
        try:
            config = config_of(stream if isinstance(stream, str) else stream.read(), file)
            prepare = getattr(config, "prepare_command", None)  # configs of this suite have it
            if prepare is not None and "config_path" in place.f_locals and place.f_back is not None:
                prepare(place.f_locals["config_path"], place.f_back.f_locals.get("self"))
            return config
        except InputError:
            report_input_errors()
            raise


READING_YAML = _ReadingYaml()


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nerfstudio's modules that read configs, and has `READING_YAML` put into them when they have been loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if name in READERS else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            execute(module)
            module.yaml = READING_YAML  # type: ignore[attr-defined]

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def read_configs_safely() -> None:
    """Let nerfstudio's commands read configs as the module says. Calling it again changes nothing."""
    if not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    # Where this is called from one of them, as it loads the list of methods, `yaml` has been imported there already.
    loaded = [sys.modules.get(name) for name in (*READERS, "__main__")]
    for module in (each for each in loaded if each is not None):
        file = pathlib.PurePath(getattr(module, "__file__", None) or "").as_posix()
        if getattr(module, "yaml", None) is yaml and file.endswith(tuple(f"{n.replace('.', '/')}.py" for n in READERS)):
            module.yaml = READING_YAML  # type: ignore[attr-defined]
