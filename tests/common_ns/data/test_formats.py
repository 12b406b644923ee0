"""The table of formats: the documentation shows it as it is, and its commands name what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.configs.method_configs import all_methods

from common_ns.data.formats import FORMATS, advice, as_table, formats_of, suggestion
from common_ns.errors import InputError
from tests.odd_inputs.kit import as_a_user, lock

PAGE = Path(__file__).parents[3] / "docs" / "data.md"


def test_the_page_shows_the_table():
    assert as_table() in PAGE.read_text(encoding="utf-8"), "write it again: print(common_ns.data.formats.as_table())"


def test_commands_name_dataparsers_and_methods_that_exist():
    for each in FORMATS:
        assert each.dataparser is None or each.dataparser in all_dataparsers, each.name
        method = re.search(r"ns-train (\S+)", each.command)
        assert method is not None and (method[1] == "METHOD" or method[1] in all_methods), each.command
        named = re.search(r"--data \S+ (\S+)$", each.command)
        if named is not None and "(" not in each.command:
            assert named[1] in all_dataparsers, each.command


def test_commands_in_hints_can_be_pasted(tmp_path: Path):
    for name, shown in (("scene-1", "{}/scene-1"), ("my scene", "'{}/my scene'"), ("it's", "'{}/it'\"'\"'s'")):
        folder, shown = tmp_path / name, shown.format(tmp_path)
        folder.mkdir()
        (folder / "transforms.json").write_text('{"frames": []}')
        hint = suggestion(folder, "idr-data")
        assert (
            hint == f"This looks like a capture in nerfstudio's format: ns-train METHOD --data {shown} nerfstudio-data"
        )
        assert shlex.split(hint.partition(": ")[2])[-2] == str(folder)
        outer = tmp_path / "outer"
        outer.mkdir()
        (outer / name).symlink_to(folder)
        hint = suggestion(outer, "idr-data")
        assert hint is not None and hint.endswith(f": give --data {shlex.quote(str(outer / name))}")
        (outer / name).unlink()
        outer.rmdir()


def test_a_file_in_place_of_its_folder(tmp_path: Path):
    blender, capture, idr, other = (tmp_path / name for name in ("blender", "capture", "idr", "other"))
    for folder in (blender, capture, idr, other):
        folder.mkdir()
    for file in (blender / "transforms_train.json", capture / "transforms.json", blender / "transforms.json"):
        file.write_text('{"frames": []}')
    (idr / "cameras_sphere.npz").touch()
    (idr / "transforms.json").write_text('{"frames": []}')
    (other / "notes.json").write_text("{}")
    of_capture = "This looks like a capture in nerfstudio's format: ns-train METHOD --data {} nerfstudio-data"
    of_blender = f"This looks like a Blender scene: ns-train METHOD --data {blender} blender-data"
    for path, dataparser, hint in (
        (capture / "transforms.json", "idr-data", of_capture.format(capture)),
        (capture / "transforms.json", "blender-data", of_capture.format(capture)),
        (blender / "transforms_train.json", "idr-data", of_blender),
        (blender / "transforms.json", "idr-data", of_capture.format(blender)),
        (blender / "transforms_train.json", "blender-data", f"Give its folder: --data {blender}"),
        (idr / "transforms.json", "idr-data", f"Give its folder: --data {idr}"),
        (idr / "cameras_sphere.npz", "idr-data", f"Give its folder: --data {idr}"),
        (other / "notes.json", "idr-data", None),
    ):
        assert suggestion(path, dataparser) == hint, path


def test_what_may_not_be_looked_at(tmp_path: Path):
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "transforms.json").write_text('{"frames": []}')
    (tmp_path / "capture" / "images").mkdir(parents=True)
    (tmp_path / "capture" / "images" / "1.png").touch()
    (tmp_path / "capture" / "sparse").symlink_to(folder)
    lock(folder)
    with as_a_user():
        for path in (folder, tmp_path / "capture"):
            with pytest.raises(InputError, match=f"may not be read .*enter the folder {folder} "):
                formats_of(path)
        assert suggestion(tmp_path, "idr-data") is None
        assert advice(folder, "idr-data", "a folder").startswith("Give a folder; docs/data.md")
    folder.chmod(0o700)
