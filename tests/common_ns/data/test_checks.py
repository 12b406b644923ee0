"""Every mistake a user can make with input gives one line that names file, value and remedy."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common_ns.data import checks
from common_ns.errors import InputError
from tests.odd_inputs.kit import as_a_user, lock


def test_error_is_one_line_with_file_and_remedy():
    error = InputError("holds\n nothing", "Write something.", file="data.json")
    assert str(error) == "data.json: holds nothing. Write something."
    assert str(InputError("is\r\n\n a  file", "Go", "a  b")) == "a  b: is a  file. Go."


def test_uncaught_input_error_ends_with_one_line_and_exit_code_1():
    code = (
        "from common_ns.errors import InputError\n"
        "from common_ns.nerfstudio_seam.last_words import report_input_errors\n"
        "report_input_errors(); report_input_errors()\n"
        "raise InputError('value -3 is negative', 'Give a positive one', file='x.json')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.strip() == "Error: x.json: value -3 is negative. Give a positive one."


def test_error_in_a_worker_process_is_one_line_too(tmp_path):
    script = tmp_path / "several_devices.py"
    script.write_text(
        "import torch\n"
        "from common_ns.errors import InputError\n"
        "from common_ns.nerfstudio_seam.last_words import report_input_errors\n"
        "def work(rank):\n    raise InputError('value -3 is negative', 'Give a positive one', file='x.json')\n"
        "if __name__ == '__main__':\n    report_input_errors()\n    torch.multiprocessing.spawn(work, nprocs=1)\n"
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "Error: x.json: value -3 is negative. Give a positive one." in result.stderr.splitlines()


def test_other_exceptions_keep_their_traceback():
    code = (
        "from common_ns.nerfstudio_seam.last_words import report_input_errors\n"
        "report_input_errors()\nraise RuntimeError('bug')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "Traceback" in result.stderr


def test_an_uncaught_file_that_may_not_be_read_is_one_line():
    code = (
        "from common_ns.nerfstudio_seam.last_words import report_input_errors\n"
        "report_input_errors()\nraise PermissionError(13, 'Permission denied', __import__('sys').executable)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    line = f"Error: {sys.executable}: the file may not be read (permission denied). Give yourself the right to read it"
    assert result.returncode == 1 and result.stderr.strip() == f"{line} (chmod u+r)."


def test_missing_path_names_what_is_there(tmp_path):
    (tmp_path / "lego").mkdir()
    with pytest.raises(InputError, match=r"legoo: the data path does not exist; .* holds: lego"):
        checks.require_path(tmp_path / "legoo")


def test_a_path_that_cannot_be_looked_at(tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.touch()
    folder.mkdir()
    assert [checks.require_path(path) for path in (file, folder)] == [file, folder]
    with pytest.raises(InputError, match=rf"does not exist; {file} is no folder\. Correct the path"):
        checks.require_path(file / "transforms.json")
    with pytest.raises(InputError, match=r"the data path cannot be opened \(File name too long\)\. Correct the path"):
        checks.require_path(tmp_path / ("n" * 300) / "x")
    denied = r"may not be read \(permission denied\)\. Give yourself the right to"
    lock(folder)
    with as_a_user():
        with pytest.raises(InputError, match=f"folder: the data path {denied} read it"):
            checks.require_path(folder)
        with pytest.raises(InputError, match=f"inside: the data path {denied} enter the folder {folder}"):
            checks.require_path(folder / "inside")
        folder.chmod(0o300)  # it may be entered, and not be listed
        assert checks.require_path(folder) == folder
        with pytest.raises(InputError, match=f"does not exist; {folder} exists. Correct"):
            checks.require_path(folder / "inside")
    folder.chmod(0o700)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"frames": [', "not valid JSON .line 1 column"),
        ("[1, 2]", "holds a list"),
        ('{"other": 1}', 'the field "frames" is missing'),
    ],
)
def test_broken_json(tmp_path, text, message):
    file = tmp_path / "transforms.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        checks.read_json(file, required=["frames"])
    assert str(file) in str(caught.value)


def test_absent_json(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        checks.read_json(tmp_path / "transforms.json")


def test_good_poses_pass():
    checks.check_pose(np.eye(4), "a.png")
    checks.check_pose(np.eye(4)[:3], "a.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pose: pose.__setitem__((0, 3), np.nan), "holds nan at row 0 column 3"),
        (lambda pose: pose.__setitem__((1, 1), 2.0), "not rigid"),
        (lambda pose: pose.__setitem__((0, 0), -1.0), "det R = -1"),
    ],
)
def test_bad_poses(change, message):
    pose = np.eye(4)
    change(pose)
    with pytest.raises(InputError, match=message):
        checks.check_pose(pose, "a.png")


def test_defects_of_the_suite_keep_their_traceback_and_are_called_so(capsys):
    with pytest.raises(KeyError), checks.explained("data"):
        {}["bug"]
    assert "a defect of fieldsuite, not of the data" in capsys.readouterr().err


def test_what_the_system_does_not_open_is_no_defect(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    lock(file)
    for read, message in (
        (file.read_text, r"file: the file may not be read \(permission denied\)\. Give yourself the right to read it"),
        (tmp_path.read_text, r"the file is a folder\. Name a file"),
        ((file / "below").read_text, r"the file cannot be opened \(Not a directory\)\. Correct the path"),
        ((tmp_path / ("n" * 300)).read_text, r"the file cannot be opened \(File name too long\)\. Correct the path"),
    ):
        with pytest.raises(InputError, match=message), as_a_user(), checks.explained("data"):
            read()
    assert capsys.readouterr().err == ""
    with pytest.raises(OSError, match="a mistake"), checks.explained("data"):
        raise OSError("a mistake")
    assert "a defect of fieldsuite" in capsys.readouterr().err


def test_what_readers_of_nerfstudio_raise_is_one_line(tmp_path, capsys):
    from nerfstudio.data.utils.colmap_parsing_utils import read_cameras_text

    file = tmp_path / "cameras.txt"
    file.write_text("1 PINHOLE 40\n")
    with pytest.raises(InputError) as error, checks.explained(tmp_path):
        read_cameras_text(file)
    assert str(error.value).startswith(f"{tmp_path}: colmap_parsing_utils cannot read it (")
    assert "\n" not in str(error.value) and "defect" not in capsys.readouterr().err
    with pytest.raises(InputError, match="looks for 'k', and does not find it"), checks.explained(tmp_path):
        read_cameras_text(Missing("k"))


class Missing:
    """Raises KeyError when it is opened, amid nerfstudio's code."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __fspath__(self) -> str:
        raise KeyError(self.key)


def test_a_file_that_is_not_there():
    with pytest.raises(InputError, match=r"^gone: the file does not exist\. Put it there"), checks.explained("data"):
        Path("gone").read_text()
    with pytest.raises(InputError, match="Look elsewhere"), checks.explained("data", lambda: "Look elsewhere"):
        Path("gone").read_text()
