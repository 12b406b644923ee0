"""A campaign's file, YAML or TOML, read and checked: a mistake in it is one line that names the key.

The keys are those of the classes below (`Campaign`, and within it `Scene`, `Method`, …), except that the file may give
a scene for each file that fits a pattern, and a method for each combination of options that it varies.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import re
import shlex
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from common_ns.data.files import require_file
from common_ns.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

STAGES = ("train", "eval", "eval-train", "render", "mesh", "eval-mesh")
"""What can be done for each run, in this order."""
ENDS = ("killed", "out_of_memory", "not_finite", "timed_out", "failed")
"""How an attempt at a stage can end that the file says the number of further attempts for."""
RENDERS = ("interpolate", "spiral", "camera-path", "dataset")
"""Subcommands of ns-render that a campaign may use."""
Words = tuple[str, ...]
"""Words of a command line; in the file a text, split as a shell does, or a list."""
T = TypeVar("T")


@dataclass(frozen=True)
class Scene:
    """A data set, and what is known about it."""

    name: str
    """In the table, and slugged for folders. In the file: the last part of the path, if it is not given."""
    path: Path
    """What `--data` is; the campaign's data folder included."""
    dataparser: Words = ()
    """Name and options of a dataparser; none: the method's own."""
    options: Words = ()
    """Of ns-train, for this scene."""
    reference: Path | None = None
    """Mesh or points that the stage eval-mesh compares with; none: it is left out for this scene."""
    eval_mesh: Words = ()
    """Options of ns-eval-mesh."""
    needs: tuple[str, ...] = ()
    """Files and folders, relative to the scene's folder, that have to be there before anything starts."""
    get: str = ""
    """Where to get it, said when something is missing."""


@dataclass(frozen=True)
class Method:
    """A method with its options; one of each combination if the file varies them."""

    name: str
    """In the table, and slugged for folders."""
    method: str
    """As ns-train knows it."""
    options: Words = ()
    """Of ns-train, those that are varied included. In the file, words after `--` are those of the dataparser."""
    dataparser: Words = ()
    """Options of the dataparser, beyond those of the scene; its name before them if the scene has none."""
    scenes: tuple[str, ...] | None = None
    """Names of the scenes that it runs on; None: all."""
    stages: tuple[str, ...] | None = None
    """Those of the campaign's stages that it takes part in; None: all."""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What was chosen of each thing that is varied."""


@dataclass(frozen=True)
class Budget:
    """How long each run trains; at most one of both. Neither: as long as its method says."""

    steps: int | None = None
    """Training steps."""
    core_seconds: float | None = None
    """CPU time, which becomes a step count once."""


@dataclass(frozen=True)
class Resources:
    """What one run gets."""

    cores: int = 1
    """Threads of its processes."""
    gpus: int | None = None
    """None: one if this machine has any."""
    memory_gb: float | None = None
    """Asked for on a cluster; on this machine, no more runs at once than fit into its memory."""


@dataclass(frozen=True)
class Slurm:
    """What is asked of SLURM for one run."""

    partition: str | None = None
    """Partition that jobs go to."""
    time_minutes: int = 600
    """Time limit of a job, which carries out one run."""
    array: int = 16
    """Jobs at once."""
    setup: tuple[str, ...] = ()
    """Shell commands before each job's."""
    account: str | None = None
    """Account that is charged."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features of the nodes."""


@dataclass(frozen=True)
class Published:
    """Figures of others, set beside ours."""

    name: str
    """Of the row."""
    source: str = ""
    """Where they stand."""
    scenes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Figures of each scene."""
    mean: Mapping[str, float] = field(default_factory=dict)
    """Figures over all scenes."""


@dataclass(frozen=True)
class TableOptions:
    """What the table shows."""

    figures: tuple[str, ...] = ("psnr", "ssim", "lpips", "core_seconds")
    """Its columns."""
    lower_is_better: tuple[str, ...] = ()
    """Figures of which the lowest is the best, beyond those that are known to be so."""
    published: tuple[Published, ...] = ()
    """Rows of others."""


@dataclass(frozen=True)
class Campaign:
    """What is to be run, and how."""

    file: Path
    """Where it was read."""
    name: str
    """In the file: the stem of its own name, if it is not given."""
    scenes: tuple[Scene, ...]
    """Data sets."""
    methods: tuple[Method, ...]
    """Methods, in the table's order."""
    about: str = ""
    """Shown in table and report."""
    data: Path = Path()
    """Folder that the scenes' paths start from; relative to the working folder."""
    seeds: tuple[int, ...] = (42,)
    """One run of each scene and method for each."""
    stages: tuple[str, ...] = ("train", "eval")
    """Of `STAGES`."""
    budget: Budget = field(default_factory=Budget)
    """Of each run."""
    stage_options: Mapping[str, Words] = field(default_factory=dict)
    """Further options of a stage's command."""
    resources: Resources = field(default_factory=Resources)
    """Of each run."""
    timeout_minutes: float = 600.0
    """Of one stage."""
    retry: Mapping[str, int] = field(default_factory=dict)
    """How often a stage is tried again after each of `ENDS`."""
    slurm: Slurm = field(default_factory=Slurm)
    """For `--on slurm`."""
    table: TableOptions = field(default_factory=TableOptions)
    """What the table shows."""


RETRY = {"killed": 3, "out_of_memory": 3, "not_finite": 0, "timed_out": 1, "failed": 0}
"""Further attempts after each end, where the file does not say."""


@dataclass(frozen=True)
class _SceneEntry:
    """A scene, or several, as the file gives them."""

    path: str
    name: str | None = None
    dataparser: Words = ()
    options: Words = ()
    reference: str | None = None
    eval_mesh: Words = ()
    needs: tuple[str, ...] = ()
    get: str = ""


@dataclass(frozen=True)
class _MethodEntry:
    """A method, or several, as the file gives them."""

    method: str
    name: str | None = None
    options: Words = ()
    vary: Mapping[str, Mapping[str, Words]] = field(default_factory=dict)
    scenes: tuple[str, ...] | None = None
    stages: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _File:
    """The whole file."""

    scenes: tuple[_SceneEntry, ...]
    methods: tuple[_MethodEntry, ...]
    name: str | None = None
    about: str = ""
    data: str = "."
    seeds: tuple[int, ...] = (42,)
    stages: tuple[str, ...] = ("train", "eval")
    budget: Budget = field(default_factory=Budget)
    stage_options: Mapping[str, Words] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    timeout_minutes: float = 600.0
    retry: Mapping[str, int] = field(default_factory=dict)
    slurm: Slurm = field(default_factory=Slurm)
    table: TableOptions = field(default_factory=TableOptions)


def read_campaign(file: Path | str, data_dir: Path | None = None) -> Campaign:
    """Read a campaign's file.

    Args:
        file: YAML (.yaml, .yml) or TOML (.toml).
        data_dir: takes the place of the file's `data`.
    Raises: InputError if it cannot be read, or says something that cannot be; for patterns of scenes that fit nothing.
    """
    file = Path(file)
    return _Reader(file).campaign(_parse(file), data_dir)


def slug(name: str) -> str:
    """A name as that of a file or folder: letters, digits, dots and signs that no shell takes for its own."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "-"


def find_missing(campaign: Campaign) -> str | None:
    """What of the scenes' data is not there, in one line with where to get it; None if all is."""
    found: dict[str, list[str]] = {}
    """By where to get it, since many scenes come from one place."""
    for scene in campaign.scenes:
        wanted = [scene.path / each for each in scene.needs] if scene.path.exists() else [scene.path]
        wanted += [scene.reference] if scene.reference is not None and "eval-mesh" in campaign.stages else []
        missing = [str(path) for path in wanted if not path.exists()]
        if missing:
            found.setdefault(scene.get, []).extend(missing)
    lines = []
    for get, paths in found.items():
        paths = list(dict.fromkeys(paths))
        more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
        lines.append(f"{', '.join(paths[:4])}{more}" + (f" ({get})" if get else ""))
    return "; ".join(lines) or None


def require_data(campaign: Campaign) -> None:
    """Raises: InputError if data of a scene is not there."""
    missing = find_missing(campaign)
    if missing is not None:
        raise InputError(
            f"data is missing: {missing}", "Put it there, or say with --data-dir where it is", campaign.file
        )


class _Loader(yaml.SafeLoader):
    """YAML without keys that are given twice, of which the first would be lost without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
        if twice is not None:
            problem = f"the key {twice!r} is given twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.value[keys.index(twice)][0].start_mark)
        return super().construct_mapping(node, deep)


def _parse(file: Path) -> Any:
    """The content of a file.

    Raises: InputError if it is not there, or neither YAML nor TOML.
    """
    if file.suffix not in (".yaml", ".yml", ".toml"):
        raise InputError("is no campaign by its name", "Give a file of YAML (.yaml) or TOML (.toml)", file)
    try:
        text = require_file(file, "campaign").read_text(encoding="utf-8")
        return tomllib.loads(text) if file.suffix == ".toml" else yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise InputError(f"cannot be read ({error.problem}{where})", "Mend it", file) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot be read ({error})", "Mend it", file) from error


@dataclass(frozen=True)
class _Reader:
    """Turns what a file holds into the classes above, and says which key is wrong."""

    file: Path

    def fail(self, key: str, problem: str, remedy: str) -> typing.NoReturn:
        raise InputError(f"{key} {problem}" if key else problem, remedy, self.file)

    def campaign(self, content: Any, data_dir: Path | None) -> Campaign:
        if not isinstance(content, Mapping):
            self.fail("", "holds no campaign", "Give at least the keys scenes and methods")
        given: _File = self.instance(_File, content, "")
        data = Path(given.data) if data_dir is None else Path(data_dir)
        stages = self.stages(given.stages, "stages")
        scenes = tuple(
            scene
            for number, entry in enumerate(given.scenes)
            for scene in self.scenes(entry, data, f"scenes[{number}]")
        )
        self.distinct([scene.name for scene in scenes], "scenes")
        names = [scene.name for scene in scenes]
        methods = tuple(
            method
            for number, entry in enumerate(given.methods)
            for method in self.methods(entry, names, stages, f"methods[{number}]")
        )
        self.distinct([method.name for method in methods], "methods")
        if len(set(given.seeds)) < len(given.seeds):
            self.fail("seeds", "names one twice", "Name each once")
        self.check_dataparsers(scenes, methods)
        self.check_choices(given, names)
        self.check_budget(given, scenes, methods)
        own = {each.name for each in dataclasses.fields(_File)} - {"scenes", "methods", "name", "data", "stages"}
        values: dict[str, Any] = {name: getattr(given, name) for name in own}
        values["retry"] = {**RETRY, **given.retry}
        name = given.name or self.file.stem
        return Campaign(self.file, name, scenes, methods, data=data, stages=stages, **values)

    def stages(self, given: tuple[str, ...], key: str) -> tuple[str, ...]:
        for name in given:
            self.choice(name, STAGES, key)
        if not given or given[0] != "train" or list(given) != [name for name in STAGES if name in given]:
            self.fail(key, f"are {', '.join(given)}", f"Begin with train, and keep the order {', '.join(STAGES)}")
        if "eval-mesh" in given and "mesh" not in given:
            self.fail(key, "have eval-mesh and no mesh", "Add mesh before it")
        return given

    def scenes(self, entry: _SceneEntry, data: Path, key: str) -> list[Scene]:
        """One scene, or one for each file that fits a pattern."""
        if any(sign in entry.path for sign in "*?["):
            if Path(entry.path).is_absolute():
                folder = Path(Path(entry.path).anchor)
                found = sorted(folder.glob(str(Path(entry.path).relative_to(folder))))
            else:
                found = sorted(data.glob(entry.path))
            if entry.name is not None:
                self.fail(f"{key}.name", "is given beside a path with a pattern", "Leave it out: the files name them")
            if not found:
                remedy = f"Get it: {entry.get}" if entry.get else "Mend the pattern, or --data-dir"
                self.fail(f"{key}.path", f"fits nothing: {data / entry.path}", remedy)
            paths = {path.stem if path.is_file() else path.name: path for path in found}
            if len(paths) < len(found):
                self.fail(f"{key}.path", "fits files that differ in their endings only", "Give a narrower pattern")
        else:
            path = data / entry.path
            paths = {entry.name or path.resolve().name: path}
        reference = None if entry.reference is None else data / entry.reference
        same = (entry.dataparser, entry.options, reference, entry.eval_mesh, entry.needs, entry.get)
        return [Scene(name, path, *same) for name, path in paths.items()]

    def methods(self, entry: _MethodEntry, scenes: list[str], stages: tuple[str, ...], key: str) -> list[Method]:
        """One method of each combination of what is varied."""
        for name in entry.scenes or ():
            self.choice(name, scenes, f"{key}.scenes")
        if entry.stages is not None:
            self.stages(entry.stages, f"{key}.stages")
            for name in entry.stages:
                self.choice(name, stages, f"{key}.stages")
        methods = []
        for chosen in itertools.product(*(choices.items() for choices in entry.vary.values())):
            labels = {axis: label for axis, (label, _) in zip(entry.vary, chosen)}
            if entry.name is None:
                name = " ".join(filter(None, [entry.method, *labels.values()]))
            else:
                for axis in re.findall(r"\{(\w*)\}", entry.name):
                    if axis not in labels:
                        remedy = f"Name one of: {', '.join(labels) or 'none'}"
                        self.fail(f"{key}.name", f"has {{{axis}}}, which is not varied", remedy)
                name = entry.name.format(**labels)
            options, dataparser = self.divided([entry.options, *(words for _, words in chosen)], key)
            name = " ".join(name.split())
            methods.append(Method(name, entry.method, options, dataparser, entry.scenes, entry.stages, labels))
        return methods

    def divided(self, given: Sequence[Words], key: str) -> tuple[Words, Words]:
        """Options of ns-train, and, of words after `--`, the dataparser's, with its name first if there is one."""
        options: list[str] = []
        names: list[str] = []
        parser: list[str] = []
        for words in given:
            at = words.index("--") if "--" in words else len(words)
            options += words[:at]
            rest = list(words[at + 1 :])
            names += [rest.pop(0)] if rest and not rest[0].startswith("-") else []
            parser += rest
        if len(set(names)) > 1:
            self.fail(f"{key}.options", f"name the dataparsers {' and '.join(sorted(set(names)))}", "Name one")
        return tuple(options), (*names[:1], *parser)

    def check_dataparsers(self, scenes: Sequence[Scene], methods: Sequence[Method]) -> None:
        """Raises: InputError if a scene and a method that runs on it name two dataparsers, or options and none."""
        for method in methods:
            for scene in scenes if method.dataparser else ():
                if method.scenes is not None and scene.name not in method.scenes:
                    continue
                own = method.dataparser[0]
                if scene.dataparser and not own.startswith("-") and own != scene.dataparser[0]:
                    problem = f"of {method.name} name {own}, and the scene {scene.name} {scene.dataparser[0]}"
                    self.fail("the options", problem, "Name one")
                if not scene.dataparser and own.startswith("-"):
                    problem = f"of {method.name} have options of a dataparser ({own}) without its name"
                    self.fail("the options", problem, "Write its name before them, after --")

    def distinct(self, names: Sequence[str], key: str) -> None:
        """Raises: InputError if two names, or the folders they stand for, are the same."""
        slugs = [slug(name).lower() for name in names]
        for number, name in enumerate(names):
            first = slugs.index(slugs[number])
            if first < number:
                called = repr(name) if names[first] == name else f"{names[first]!r} and {name!r}, which are one folder"
                self.fail(key, f"has two of the name {called}", "Give each a name of its own (name, with {labels})")

    def check_choices(self, given: _File, scenes: list[str]) -> None:
        for name in given.stage_options:
            self.choice(name, given.stages, "stage_options")
        for name in given.retry:
            self.choice(name, ENDS, "retry")
        render = given.stage_options.get("render", ())
        if render and not render[0].startswith("-"):
            self.choice(render[0], RENDERS, "stage_options.render")
        for number, row in enumerate(given.table.published):
            for name in row.scenes:
                self.choice(name, scenes, f"table.published[{number}].scenes")

    def check_budget(self, given: _File, scenes: tuple[Scene, ...], methods: tuple[Method, ...]) -> None:
        budget = given.budget
        if budget.steps is not None and budget.core_seconds is not None:
            self.fail("budget", "has both steps and core_seconds", "Give one of them")
        has_one = budget.steps is not None or budget.core_seconds is not None
        for owner in (*scenes, *methods):
            of = f"the options of {owner.name}"
            if has_one and "--max-num-iterations" in " ".join(owner.options):
                self.fail("budget", f"is given, and --max-num-iterations in {of}", "Leave out one of them")
            if not has_one and "{steps" in " ".join(owner.options):
                self.fail("budget", f"is missing, and {of} have {{steps}}", "Add a budget")

    def choice(self, name: str, choices: Sequence[str], key: str) -> None:
        if name not in choices:
            near = difflib.get_close_matches(name, choices, 1, 0.5)
            remedy = f"Did you mean {near[0]}?" if near else f"Choose from: {', '.join(choices)}"
            self.fail(key, f"has {name!r}, which is not known", remedy)

    # What follows reads values by the types of dataclasses' fields.

    def instance(self, kind: type[T], content: Mapping, key: str) -> T:
        hints = typing.get_type_hints(kind)
        for name in content:
            if name not in hints:
                near = difflib.get_close_matches(str(name), hints, 1, 0.5)
                remedy = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(hints)}"
                self.fail(_joined(key, str(name)), "is no key of a campaign", remedy)
        for each in dataclasses.fields(kind):  # type: ignore[arg-type]
            required = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
            if required and each.name not in content:
                self.fail(_joined(key, each.name), "is missing", "Add it")
        return kind(**{name: self.value(hints[name], value, _joined(key, name)) for name, value in content.items()})

    def value(self, kind: Any, value: Any, key: str) -> Any:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            return None if value is None else self.value(arguments[0], value, key)
        if kind == Words and not isinstance(value, Sequence | None):
            self.wrong(key, value, "a text or a list of words")
        if kind == Words and (value is None or isinstance(value, str)) and key.rpartition(".")[2] not in LISTS:
            try:
                return tuple(shlex.split(value or "", comments=False))
            except ValueError as error:
                self.fail(key, f"cannot be split into words ({error})", "Close the quotation marks")
        if origin is tuple:
            if not isinstance(value, list):
                self.wrong(key, value, "a list")
            if not value and (key in ("scenes", "methods", "seeds") or key.endswith(".scenes")):
                self.fail(key, "is empty", "Name at least one")
            return tuple(self.value(arguments[0], each, f"{key}[{number}]") for number, each in enumerate(value))
        if origin is not None:  # a mapping
            if not isinstance(value, Mapping):
                self.wrong(key, value, "a mapping of names")
            if not value and ".vary" in key:
                self.fail(key, "is empty", "Name at least one")
            return {self.text(n, key): self.value(arguments[1], v, _joined(key, str(n))) for n, v in value.items()}
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping):
                self.wrong(key, value, f"a mapping of {', '.join(typing.get_type_hints(kind))}")
            return self.instance(typing.cast(type, kind), value, key)
        return self.text(value, key) if kind is str else self.number(kind, value, key)

    def text(self, value: Any, key: str) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            hint = " (YAML reads yes, no, on and off so: quote it)" if isinstance(value, bool) else ""
            self.wrong(key, value, f"text{hint}")
        return str(value)

    def number(self, kind: type, value: Any, key: str) -> Any:
        fits = isinstance(value, int) or (kind is float and isinstance(value, float))
        if isinstance(value, bool) or not fits:
            self.wrong(key, value, "a whole number" if kind is int else "a number")
        free = key.startswith("table.") or key.startswith("seeds")
        least = 0 if key.startswith(("retry.", "resources.gpus", "seeds")) else 1 if kind is int else 1e-9
        if not (free and kind is float) and not least <= value < float("inf"):
            self.fail(key, f"is {value}", "Give a number above 0" if least else "Give 0 or more")
        return kind(value)

    def wrong(self, key: str, value: Any, wanted: str) -> typing.NoReturn:
        shown = {list: "a list", dict: "a mapping"}.get(type(value), repr(value))
        self.fail(key, f"is {shown}", f"Give {wanted}")


LISTS = ("scenes", "stages", "needs", "setup", "figures", "lower_is_better")
"""Keys whose value is a list of texts and not the words of a command."""


def _joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
