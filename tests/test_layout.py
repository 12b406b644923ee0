"""The plan of the house: who may import whom, no circles, and nothing slow that every ns-* command would wait for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAMILIES = ("miner_ns", "mipnerf_ns", "depthnerf_ns", "hashnffb_sdf_ns")
MAY_IMPORT = {
    "common_ns": set(),
    **{family: {"common_ns"} for family in FAMILIES},
    "depthnerf_ns": {"common_ns", "mipnerf_ns"},
    "method_configs": {"common_ns", *FAMILIES},
}
"""Packages that each may import beside itself."""
SLOW = ("open3d", "pymeshlab", "transformers", "nerfstudio.exporter")
"""Modules, some with what they import, that only the function that needs them may import."""


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for package in MAY_IMPORT for file in sorted((ROOT / package).rglob("*.py"))}


def names_of(node: ast.AST) -> list[str]:
    """What an import statement names, with the names taken out of a module, which may be modules themselves."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0 and node.module is not None, "imports state the whole path"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def imported(file: Path) -> set[str]:
    """All that a file imports, wherever it does."""
    return {name for node in ast.walk(ast.parse(file.read_text())) for name in names_of(node)}


def imported_at_once(node: ast.AST) -> Iterator[str]:
    """What is imported when the file is: not in functions, and not for type checkers only."""
    for child in ast.iter_child_nodes(node):
        for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not for_types and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from names_of(child)
            yield from imported_at_once(child)


def module_of(name: str) -> str | None:
    """The suite's module behind an imported name."""
    return next((module for module in (name, name.rpartition(".")[0]) if module in FILES), None)


def test_the_packages_are_those_of_the_plan():
    found = {file.parent.name for file in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks", "demo"}
    assert found == set(MAY_IMPORT)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_from_configs_to_families_to_common(package):
    allowed = {package, *MAY_IMPORT[package]}
    wrong = [
        f"{module} imports {name}"
        for module, file in FILES.items()
        if module.partition(".")[0] == package
        for name in imported(file)
        if (root := name.partition(".")[0]) in {*MAY_IMPORT, "tests", "benchmarks", "demo"} and root not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_type_checkers_use_the_annotations_of_each_package(package):
    assert (ROOT / package / "py.typed").exists()


def test_ruff_has_one_version_and_the_changelog_begins_with_this_version():
    constraints, hooks = (ROOT / "constraints.txt").read_text(), (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"^ruff==(\S+)", constraints, re.MULTILINE) == re.findall(r"rev: v(\S+)", hooks)
    (version,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == version


def test_no_circle_among_modules():
    arrows = {
        module: {target for name in imported(file) if (target := module_of(name)) not in (None, module)}
        for module, file in FILES.items()
    }
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_nothing_slow_is_imported_at_once():
    wrong = [
        f"{module} imports {name}"
        for module, file in FILES.items()
        for name in imported_at_once(ast.parse(file.read_text()))
        if any(name == slow or name.startswith(f"{slow}.") for slow in SLOW)
    ]
    assert not wrong
