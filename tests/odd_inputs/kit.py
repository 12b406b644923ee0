"""What the tables share: small variants of the sample scene, and the three ways a row may end.

A row makes an input, hands it to the product, and says how that has to end: with the right value, with one line of
an `InputError`, or with the right value and a warning. Anything else, a traceback above all, fails.
"""

from __future__ import annotations

import copy
import ctypes
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common_ns.errors import InputError
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene

LIMIT = 60
"""Seconds after which a row counts as hanging."""
VIEWS = (12, 2, 3)
"""Training, validation and test views of the base scene, of 40×40 pixels."""


@dataclass
class Row:
    """An input and how it has to end."""

    name: str
    make: Callable[[Path], Any]
    """Changes a fresh copy of the base scene's layout, given its folder."""
    refused: str | None = None
    """Pattern that the one line of the error has to match (`re.search`); None: it has to work."""
    right: Callable[[Any], Any] | None = None
    """Given what the product returned, asserts the right value."""
    warns: str | None = None
    """Pattern that has to be in what is printed."""
    options: dict[str, Any] = field(default_factory=dict)
    """For the product."""

    def __str__(self) -> str:
        return self.name


def ids(rows: list[Row]) -> list[str]:
    """Names of the rows, for pytest; each once."""
    names = [row.name for row in rows]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return names


class Hanging(BaseException):
    """What waits forever; no `except Exception` or `except OSError` of the product catches it."""


@contextmanager
def limited(seconds: int = LIMIT) -> Iterator[None]:
    """Raises: Hanging after so many seconds; nothing that waits for a file may be left waiting."""

    def stop(*_: Any) -> None:
        raise Hanging(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def assert_ends_as_it_should(
    row: Row, product: Callable[[], Any], capsys: pytest.CaptureFixture[str], folder: Path | None = None
) -> None:
    """Run the product on a row's input, and check its end.

    Args:
        row: the row.
        product: what is tested.
        capsys: of the test.
        folder: whose path may be in messages; patterns then see it as DATA.
    """
    capsys.readouterr()
    with limited(), as_a_user():
        try:
            result = product()
        except InputError as error:
            line = str(error).replace(str(folder), "DATA")
            assert row.refused is not None, f"refused: {line}"
            assert re.search(row.refused, line), line
            assert "\n" not in line and line.endswith("."), line
            return
        assert row.refused is None, f"accepted, though it should say {row.refused}"
        if row.right is not None:
            row.right(result)
    printed = " ".join(" ".join(capsys.readouterr()).split())
    if row.warns is not None:
        assert re.search(row.warns, printed), printed


class BaseScene:
    """The sample scene in its three layouts, written once, and copies of it to spoil.

    Args:
        folder: where it is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def written(self) -> Path:
        """The folder with blender/, nerfstudio/ and idr/."""
        train, val, test = VIEWS
        config = SampleSceneConfig(self.folder, num_train=train, num_val=val, num_test=test, resolution=40)
        write_sample_scene(config)
        return self.folder

    def copy(self, layout: str, target: Path) -> Path:
        """A fresh copy of a layout: blender, nerfstudio or idr."""
        return Path(shutil.copytree(self.written / layout, target / layout))


def edit_json(file: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change the content of a JSON file in place."""
    content = json.loads(file.read_text(encoding="utf-8"))
    edit(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def of_json(edit: Callable[[dict[str, Any]], Any], name: str = "transforms.json") -> Callable[[Path], None]:
    """A `Row.make` that edits the content of a JSON file."""
    return lambda folder: edit_json(folder / name, edit)


def without_splits(content: dict[str, Any]) -> None:
    """Drop the lists of file names of the splits, so that nerfstudio's own division counts."""
    for split in ("train", "val", "test"):
        content.pop(f"{split}_filenames", None)


def datamanager(method: str, data: Path, parser: str | None = None, **options: Any) -> Any:
    """The datamanager of a run that trains, with a first batch in `first_batch` (rays, batch).

    Args:
        method: whose config is used, with 64 rays.
        data: the data set.
        parser: name of a dataparser; None: the method's own.
        options: of the dataparser, or else the datamanager.
    """
    from nerfstudio.configs.method_configs import all_methods

    config = copy.deepcopy(all_methods[method].pipeline.datamanager)
    if parser is not None:
        config.dataparser = dataparser_config(parser)
    config.data = config.dataparser.data = Path(data)
    config.train_num_rays_per_batch = 64
    for name, value in options.items():
        target = config.dataparser if hasattr(config.dataparser, name) else config
        assert hasattr(target, name), name
        setattr(target, name, value)
    torch.manual_seed(0)
    manager = config.setup(device="cpu", test_mode="val")
    manager.train()
    rays, batch = manager.next_train(0)
    assert torch.isfinite(rays.origins).all() and torch.isfinite(rays.directions).all()
    manager.first_batch = (rays, batch)
    return manager


def dataparser_config(name: str) -> Any:
    """A fresh config of a dataparser, of nerfstudio or of this suite, by the name that ns-train knows it by."""
    from nerfstudio.configs.dataparser_configs import all_dataparsers

    return copy.deepcopy(all_dataparsers[name])


DENIED = r"may not be read \(permission denied\)\. Give yourself the right to "
"""How a line about what is locked goes on after its name, for `refused`."""
_CAPABILITIES = 0x20080522
"""Version of Linux's structures: a header, and two times 32 bits of those in effect, permitted and inherited."""
_OVERRIDE = 0b110
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which root reads whatever it wants."""


def lock(path: Path) -> None:
    """Take all rights on a file or folder away."""
    path.chmod(0)


@contextmanager
def as_a_user() -> Iterator[None]:
    """Within it, this thread and those that it starts have to keep to the rights on files, as root need not."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root reads whatever it wants")
    system, header, data = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(_CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    assert system.capget(header, data) == 0
    before = data[0]
    data[0] = before & ~_OVERRIDE
    assert system.capset(header, data) == 0
    try:
        yield
    finally:
        data[0] = before
        assert system.capset(header, data) == 0


def fifo(path: Path) -> None:
    """Put a named pipe, which nobody writes to, in place of a file."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link_loop(path: Path) -> None:
    """Put a symbolic link to itself in place of a file."""
    path.unlink(missing_ok=True)
    path.symlink_to(path)


def pixels(manager: Any, index: int = 0) -> np.ndarray:
    """A training image as the product decodes it."""
    return manager.train_dataset.get_numpy_image(index)
