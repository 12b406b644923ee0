"""Files that can be read, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common_ns.data.files import (
    entries_of,
    is_there,
    partial_name,
    refusal,
    require_file,
    require_writable,
    spelled_on_disk,
    written_whole,
)
from common_ns.errors import InputError
from tests.odd_inputs.kit import as_a_user, lock


def test_the_name_changes_when_all_is_written(tmp_path: Path):
    path = tmp_path / "below" / "list.json"
    for text in ("old", "new"):
        with written_whole(path) as partial:
            partial.write_text(text)
            assert partial.parent == path.parent and partial.suffix == ".json"
            assert not path.exists() if text == "old" else path.read_text() == "old"
        assert path.read_text() == text and list(path.parent.iterdir()) == [path]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "list.json"
    path.write_text("old")
    for error, expected in ((OSError("disk full"), InputError), (KeyError("a mistake"), KeyError)):
        with pytest.raises(expected), written_whole(path) as partial:
            partial.write_text("half")
            raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    line = r"list\.json: cannot be written \(disk full\)\. Buy one\."
    with pytest.raises(InputError, match=line), written_whole(path, remedy="Buy one"):
        raise OSError("disk full")


def test_durable_bytes_are_on_the_disk_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (done.append(name), real(*args)))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with written_whole(tmp_path / "file.bin", elsewhere, durable=True) as partial:
        assert partial.parent == elsewhere
        partial.write_bytes(b"all")
    assert done == ["fsync", "replace"] and (tmp_path / "file.bin").read_bytes() == b"all"


def test_only_a_file_can_be_read(tmp_path: Path):
    file, link, loop, lost = (tmp_path / name for name in ("file", "link", "loop", "lost"))
    file.write_text("x")
    link.symlink_to(file)
    loop.symlink_to(loop)
    lost.symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    assert [require_file(path) for path in (file, link)] == [file, link]
    for path, problem in (
        (tmp_path, "the mask is a folder"),
        (tmp_path / "pipe", "the mask is a named pipe"),
        (Path("/dev/zero"), "the mask is a device"),
        (loop, "the mask cannot be opened"),
        (tmp_path / ("n" * 300), "the mask cannot be opened"),
        (tmp_path / "nothing", "the mask does not exist"),
        (lost, f"the mask is a link to {tmp_path / 'nothing'}, which does not exist"),
    ):
        with pytest.raises(InputError) as error:
            require_file(path, "mask")
        assert str(error.value).startswith(f"{path}: {problem}"), error.value


def test_what_is_locked_is_said_with_the_right_that_is_missing(tmp_path: Path):
    file, inside = tmp_path / "file", tmp_path / "folder" / "below" / "file"
    inside.parent.mkdir(parents=True)
    for each in (file, inside):
        each.write_text("x")
    link = tmp_path / "link"
    link.symlink_to(inside)
    lock(file)
    lock(inside.parent.parent)
    denied = "may not be read (permission denied). Give yourself the right to"
    with as_a_user():
        for read, path, line in (
            (require_file, file, f"the file {denied} read it (chmod u+r)."),
            (require_file, inside, f"the file {denied} enter the folder {tmp_path / 'folder'} (chmod u+x)."),
            (require_file, link, f"the file {denied} enter the folder {tmp_path / 'folder'} (chmod u+x)."),
            (is_there, inside, f"the file {denied} enter the folder {tmp_path / 'folder'} (chmod u+x)."),
            (entries_of, tmp_path / "folder", f"the folder {denied} read it (chmod u+rx)."),
        ):
            with pytest.raises(InputError) as error:
                read(path)
            assert str(error.value) == f"{path}: {line}"
        assert is_there(file) and is_there(link)
    (tmp_path / "folder").chmod(0o700)
    assert not is_there(tmp_path / "other") and not is_there(file / "below")


def test_what_the_system_refuses_has_a_remedy(tmp_path: Path):
    for kind, text in (
        (PermissionError, "may not be written (permission denied). Give yourself the right to write there, or choose"),
        (IsADirectoryError, "is a folder. Name a file"),
        (NotADirectoryError, "cannot be opened (reason). Correct the path"),
    ):
        line = str(refusal(kind(errno.ENOTDIR, "reason"), tmp_path / "new", "image"))
        assert line.startswith(f"{tmp_path / 'new'}: the image {text}"), line
    for number, remedy in ((errno.ENAMETOOLONG, "Correct the path"), (errno.EIO, "Check the disk that it is on")):
        assert str(refusal(OSError(number, "reason"), "x")) == f"x: the file cannot be opened (reason). {remedy}."


def test_names_are_found_as_the_disk_spells_them(tmp_path: Path):
    for name in ("Images/Train/0001.PNG", "Images/a.png", "Images/A.png", "Images/b.png", "Images/u\u0308.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name, found in (
        ("Images/Train/0001.PNG", "Images/Train/0001.PNG"),
        ("images/train/0001.png", "Images/Train/0001.PNG"),
        ("./IMAGES/train", "Images/Train"),
        ("images/../images/b.png", "Images/../Images/b.png"),
        ("images/a.png", "Images/a.png"),
        ("images/A.png", "Images/A.png"),
        ("images/\u00fc.png", "Images/u\u0308.png"),
        ("images/a.PNG", None),  # there are two
        ("images/c.png", None),
        ("images/b.png/c", None),
        ("images/\0", None),
        ("n" * 300, None),
        ("", None),
        (str(tmp_path / "images/b.png"), None),
    ):
        assert spelled_on_disk(tmp_path, name) == found, name
    os.utime(tmp_path / "Images", (1, 1))
    assert spelled_on_disk(tmp_path, "images/C.png") is None
    (tmp_path / "Images" / "c.png").touch()  # what was listed before is not what is there now
    assert spelled_on_disk(tmp_path, "images/C.png") == "Images/c.png"
    os.utime(tmp_path / "Images", (2, 2))
    lock(tmp_path / "Images")
    with as_a_user():
        assert spelled_on_disk(tmp_path, "Images/B.png") is None
    (tmp_path / "Images").chmod(0o700)


def test_what_can_be_written_is_found_out_before(tmp_path: Path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    for name in ("new.json", "file", "below/it/new.json"):
        assert require_writable(tmp_path / name) == tmp_path / name
    for name in ("folder", "below/it"):
        assert require_writable(tmp_path / name, folder=True) == tmp_path / name
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "file", tmp_path / "folder"]
    assert (tmp_path / "file").read_text() == "kept"


def test_leftovers_go_and_those_of_living_writers_stay(tmp_path: Path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = partial_name(tmp_path / "image.png")
    dead = mine.with_name(mine.name.replace(str(os.getpid()), str(ended.pid)))
    elsewhere = tmp_path / ".image.another.7.tmp.png"
    old, earlier = tmp_path / ".old.another.7.tmp", tmp_path / ".of.the.last.version.7.tmp.png"
    others = [tmp_path / name for name in (".hidden.tmp", "image.7.tmp.png", ".notes.7.tmp.two.parts")]
    for file in (mine, dead, elsewhere, old, earlier, *others):
        file.write_text("half")
    for file in (old, earlier):
        os.utime(file, (0, 0))
    with written_whole(tmp_path / "list.json") as partial:
        partial.write_text("all")
    assert set(tmp_path.iterdir()) == {tmp_path / "list.json", mine, elsewhere, *others}
