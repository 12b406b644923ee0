"""What a stage's result depends on, as one number: while it is the same, the stage is not done again.

It is made of the words of the stage's command, the contents of the data set and of other files that the command names,
the sources that it runs, and the fingerprints of the stages whose results it works on. Sources are all modules of one
distribution that a method's module imports, and theirs; of other packages' versions a change is shown, and does not
make a result out of date.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path

from common_ns.campaigns.plan import USES, Run, dataparser_of
from common_ns.data.files import written_whole

PACKAGES = ("fieldsuite", "nerfstudio", "torch", "numpy")
"""Whose versions are kept in records."""
CACHE = "contents.json"
"""In the campaign's folder: what files were found to hold, by size and time of the last change."""


class Contents:
    """Hashes of files, read once as long as size and time of the last change stay the same.

    Args:
        folder: the campaign's, which keeps what is known from one time to the next.
    """

    def __init__(self, folder: Path) -> None:
        self.file, self._new = folder / CACHE, False
        try:
            self._known: dict[str, list] = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def of_file(self, path: Path) -> str:
        """Of what a file holds."""
        state, key = path.stat(), str(path.absolute())
        now = [state.st_size, state.st_mtime_ns]
        known = self._known.get(key)
        if known is None or known[:2] != now:
            known = self._known[key] = [*now, hash_of(path)]
            self._new = True
        return known[2]

    def of(self, path: Path) -> str:
        """Of a file, or of the names and contents of all files of a folder; hidden ones, and those that somebody is
        writing, aside."""
        if not path.is_dir():
            return self.of_file(path) if path.exists() else "missing"
        digest = hashlib.sha256()
        for folder, folders, files in os.walk(path, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(name for name in files if not name.startswith(".")):
                file = Path(folder, name)
                if file.is_file():
                    digest.update(f"{file.relative_to(path)}\0{self.of_file(file)}\n".encode())
        return digest.hexdigest()

    def save(self) -> None:
        """Keep what was found."""
        if self._new:
            with written_whole(self.file) as partial:
                partial.write_text(json.dumps(self._known), encoding="utf-8")
            self._new = False


def hash_of(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def method_entry(method: str) -> EntryPoint | None:
    """Where a method is that a package has added to nerfstudio; None for nerfstudio's own."""
    return next(iter(entry_points(group="nerfstudio.method_configs", name=method)), None)


def known_methods() -> set[str] | None:
    """Names of all methods that ns-train knows; None if that cannot be told. nerfstudio's own are read from its source,
    since importing it takes many seconds."""
    added = {entry.name for entry in entry_points(group="nerfstudio.method_configs")}
    added |= {each.partition("=")[0] for each in os.environ.get("NERFSTUDIO_METHOD_CONFIGS", "").split(",") if each}
    file = _file_of("nerfstudio.configs.method_configs")
    if file is None:
        return None
    tree = ast.parse(file.read_text(encoding="utf-8"))
    keys = [key for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys]
    keys += [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    return added | {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}


def parts_of(run: Run, stage: str, command: list[str], contents: Contents) -> dict[str, str]:
    """What a stage depends on, by kind, aside from other stages: command, data and sources.

    Args:
        run, stage: which.
        command: its words.
        contents: of files.
    """
    data = {}
    if stage == "train":
        data["scene"] = contents.of(run.scene.path)
    for word in command[1:]:  # such as a mesh to compare with, or a camera path
        if os.sep in word and not word.startswith(str(run.folder)) and word != str(run.scene.path):
            path = Path(word)
            if path.is_file():
                data[word] = contents.of_file(path)
    modules = []
    entry = method_entry(run.method.method) if stage == "train" else None
    if stage == "train":
        named = [
            entry
            for word in dataparser_of(run.scene, run.method)[:1]
            for entry in entry_points(name=word)
            if _is_parser(entry)
        ]
        modules = [each.module for each in ([entry] if entry else []) + named]
    elif command[0] == "-m":
        modules = [command[1]]
    else:
        modules = [each.module for each in entry_points(group="console_scripts", name=command[0])]
    sources = {module: sources_hash(module) for module in sorted(set(modules)) if not module.startswith("nerfstudio.")}
    if stage == "train" and entry is None:
        sources["nerfstudio"] = version_of("nerfstudio")
    # The run's folder is where the record lies: a campaign that is moved as a whole stays up to date.
    words = [word.replace(str(run.folder), "RUN") for word in command]
    return {name: _digest(value) for name, value in (("command", words), ("data", data), ("sources", sources))}


def fingerprint_of(parts: dict[str, str], stage: str, others: dict[str, str]) -> str:
    """A stage's fingerprint.

    Args:
        parts: of `parts_of`.
        stage: which.
        others: fingerprints of the stages before it.
    """
    return _digest([parts, [others.get(used, "") for used in USES[stage]]])


def _is_parser(entry: EntryPoint) -> bool:
    return entry.group == "nerfstudio.dataparser_configs"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def version_of(package: str) -> str:
    """Of an installed package; "none" if it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


@lru_cache
def sources_hash(module: str) -> str:
    """Of the sources of a module, and of all modules of the same distribution that it imports, and so on."""
    return _digest([[str(name), hash_of(path)] for name, path in sources_of(module).items()])


def sources_of(module: str) -> dict[str, Path]:
    """Files of a module and of what it imports of its own distribution, within functions too; by name, sorted.

    Nothing is imported.
    """
    own = _packages_beside(module.partition(".")[0])
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name.partition(".")[0] not in own:
            continue
        file = _file_of(name)
        if file is None:  # a name within a module
            continue
        found[name] = file
        waiting += [name.rpartition(".")[0]] if "." in name else []
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting += _imports(file, package)
    return dict(sorted(found.items()))


@lru_cache
def _imports(file: Path, package: str) -> tuple[str, ...]:
    """Modules that a file imports, and names that may be modules.

    Args:
        file: the source.
        package: that relative imports start from.
    """
    names = []
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:  # its own bytes still count
        return ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(names)


@lru_cache
def _packages_beside(package: str) -> frozenset[str]:
    """Top-level packages of the distribution that one belongs to."""
    for group in ("nerfstudio.method_configs", "console_scripts", "nerfstudio.dataparser_configs"):
        for entry in entry_points(group=group):
            if entry.module.partition(".")[0] == package and entry.dist is not None:
                return frozenset({package, *_top_level(entry.dist)})
    return frozenset({package})


def _top_level(distribution: Distribution) -> list[str]:
    """Packages that a distribution installs."""
    listed = distribution.read_text("top_level.txt")
    if listed is not None:
        return listed.split()
    files = [file for file in distribution.files or () if file.suffix == ".py" and len(file.parts) > 1]
    return sorted({file.parts[0] for file in files})


@lru_cache
def _file_of(module: str) -> Path | None:
    """Where a module's source is, without importing anything; None if there is none."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top) if top.isidentifier() else None
    if spec is None:
        return None
    if spec.submodule_search_locations is None:
        return Path(spec.origin) if not rest and spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations:
        path = Path(folder, *rest)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if (rest or file.name == "__init__.py") and file.is_file():
                return file
    return None
