"""Fingerprints: they change when what a stage depends on has changed, and not otherwise."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from common_ns.campaigns import fingerprint
from common_ns.campaigns.description import Method, Scene
from common_ns.campaigns.fingerprint import Contents, fingerprint_of, known_methods, parts_of, sources_of
from common_ns.campaigns.plan import Run

PACKAGE = {
    "own_ns/__init__.py": "",
    "own_ns/config.py": "from own_ns.model import Model\nimport json\nfrom .deep import inner\n",
    "own_ns/model.py": "import own_ns.used as used\ndef f():\n    from own_ns import late\n",
    "own_ns/used.py": "import own_ns.config  # in a circle\n",
    "own_ns/late.py": "",
    "own_ns/deep/__init__.py": "",
    "own_ns/deep/inner.py": "from ..beside import x\nfrom . import gone\n",
    "own_ns/beside.py": "",
    "own_ns/unused.py": "",
    "other_ns/__init__.py": "",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    """Look at sources again, as another process would."""
    for function in (fingerprint._file_of, fingerprint._imports, fingerprint.sources_hash):
        function.cache_clear()


def test_sources_are_what_a_module_imports_of_its_own_distribution(package: Path):
    found = sources_of("own_ns.config")
    names = ("", ".beside", ".config", ".deep", ".deep.inner", ".late", ".model", ".used")
    assert list(found) == [f"own_ns{name}" for name in names]
    assert "own_ns" not in sys.modules  # nothing was imported


def test_sources_of_this_suite_are_all_and_only_what_a_method_runs():
    (entry,) = {
        each.value: each for each in entry_points(group="nerfstudio.method_configs", name="miner-image")
    }.values()
    found = sources_of(entry.module)
    assert {"miner_ns.fitting", "miner_ns.kernels.numba_cpu", "common_ns.nerfstudio_seam.trainer"} <= set(found)
    assert not any(name.startswith(("mipnerf_ns", "hashnffb_sdf_ns", "common_ns.campaigns", "torch")) for name in found)


def test_methods_are_known_without_importing_nerfstudio():
    assert {"nerfacto", "splatfacto", "mip-nerf", "miner-image"} <= (known_methods() or set())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "a.png").write_bytes(b"picture")
    (tmp_path / "path.json").write_text("{}")
    return Run(Scene("scene", tmp_path / "data"), Method("own", "own"), 0, tmp_path / "out/runs/scene/own/seed-0")


def parts(run: Run, *options: str, stage: str = "train") -> dict[str, str]:
    forget()
    words = ["ns-train", "own", "--data", str(run.scene.path), *options] if stage == "train" else ["ns-mesh", *options]
    return parts_of(run, stage, words, Contents(run.folder))


def test_each_kind_changes_alone(run: Run, tmp_path: Path):
    camera_path = ("--camera-path-filename", str(tmp_path / "path.json"))
    first = parts(run, *camera_path)
    assert parts(run, *camera_path) == first

    def changed(*options: str) -> set[str]:
        now = parts(run, *(options or camera_path))
        return {kind for kind in first if now[kind] != first[kind]}

    assert changed("--x", "1", *camera_path) == {"command"}
    image = run.scene.path / "images" / "a.png"
    state = image.stat()
    os.utime(image, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    assert changed() == set()  # read again, and the same
    image.write_bytes(b"another")
    assert changed() == {"data"}
    image.write_bytes(b"picture")
    assert changed() == set()
    (run.scene.path / ".cache").mkdir()
    (run.scene.path / ".cache" / "x").touch()
    (run.scene.path / ".DS_Store").touch()
    assert changed() == set()
    image.rename(image.with_name("b.png"))
    assert changed() == {"data"}
    image.with_name("b.png").rename(image)
    (tmp_path / "path.json").write_text("{1}")
    assert changed() == {"data"}


def test_a_source_that_a_method_runs_changes_it_and_another_does_not(
    package: Path, run: Run, monkeypatch: pytest.MonkeyPatch
):
    class Entry:
        module = "own_ns.config"
        dist = None

    monkeypatch.setattr(fingerprint, "method_entry", lambda method: Entry)
    first = parts(run)
    (package / "own_ns" / "unused.py").write_text("x = 1")
    assert parts(run) == first
    (package / "own_ns" / "late.py").write_text("x = 1")
    assert {kind for kind, value in parts(run).items() if value != first[kind]} == {"sources"}


def test_nerfstudios_own_methods_depend_on_its_version(run: Run, monkeypatch: pytest.MonkeyPatch):
    first = parts(run)
    monkeypatch.setattr(fingerprint, "version_of", lambda package: "9.9")
    assert parts(run)["sources"] != first["sources"]


def test_a_stage_depends_on_the_stages_that_it_uses():
    others = {"train": "a", "mesh": "b"}
    same = {"command": "x"}
    assert fingerprint_of(same, "eval", others) == fingerprint_of(same, "eval", {**others, "mesh": "c"})
    assert fingerprint_of(same, "eval", others) != fingerprint_of(same, "eval", {**others, "train": "c"})
    assert fingerprint_of(same, "eval-mesh", others) != fingerprint_of(same, "eval-mesh", {**others, "mesh": "c"})


def test_contents_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "data"
    file.write_bytes(b"1")
    contents = Contents(tmp_path)
    first = contents.of(file)
    contents.save()
    monkeypatch.setattr(fingerprint, "hash_of", lambda path: pytest.fail("it is read again"))
    assert Contents(tmp_path).of(file) == first
