"""Input checks that say what is wrong, where, and what to do.

Everything a user can get wrong ends in an `InputError`: one line with the file, the value and the remedy.
"""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from common_ns.data.files import is_there, refusal, require_file
from common_ns.errors import InputError

LARGEST_JSON = 2**29
"""Bytes from which a JSON file is not the list of a capture's frames."""
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16"}
_MARKS |= {codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_BE: "utf-16"}
"""Encodings by the mark that a file starts with; the longer of two marks first."""
SUITE = ("common_ns", "miner_ns", "mipnerf_ns", "depthnerf_ns", "hashnffb_sdf_ns", "method_configs")
"""This suite's packages."""


def require_path(path: Path | str, what: str = "data path") -> Path:
    """Return `path` if it exists and, being a folder, may be entered.

    Raises: InputError that names the nearest existing parent, so that a typing error is found at once.
    """
    path = Path(path)
    try:
        os.stat(os.path.join(path, "."))  # of which a folder's own rights decide
        return path
    except NotADirectoryError:
        if path.exists():
            return path
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise refusal(error, path, what) from None
    parent = next(p for p in path.absolute().parents if is_there(p, "folder"))
    seen = f"; {parent} is no folder"
    if parent.is_dir():
        try:
            seen = f"; {parent} exists and holds: {', '.join(sorted(os.listdir(parent))[:6]) or 'nothing'}"
        except PermissionError:
            seen = f"; {parent} exists"
    raise InputError(f"the {what} does not exist{seen}", "Correct the path", file=path)


def read_json(path: Path, required: Sequence[str] = ()) -> dict:
    """Read a JSON object, with or without a byte-order mark, and check that it has the `required` fields.

    Raises: InputError if the file is missing, cut off or otherwise not JSON, not an object, or lacks a field.
    """
    path = require_file(path)
    data = path.read_bytes()
    if len(data) > LARGEST_JSON:
        raise InputError(f"is {len(data) / 2**20:.0f} MiB large", "Name the JSON file that lists the frames", path)
    try:
        marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
        content = json.loads(data.decode(marked))
    except RecursionError:
        raise InputError("its lists are nested too deeply to be read", "Write the file again", path) from None
    except (json.JSONDecodeError, UnicodeDecodeError, ValueError) as error:
        is_json = isinstance(error, json.JSONDecodeError)
        where = f"line {error.lineno} column {error.colno}: {error.msg}" if is_json else str(error)
        raise InputError(
            f"not valid JSON ({where})", "Write the file again; it may have been cut off", file=path
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"holds a {type(content).__name__}", "It must hold one JSON object", file=path)
    for key in required:
        if key not in content:
            raise InputError(f'the field "{key}" is missing', "Add it", file=path)
    return content


def check_pose(pose: np.ndarray, name: str, file: Path | None = None, tolerance: float = 1e-2) -> None:
    """Check that a camera-to-world matrix (3×4 or 4×4) is finite and rigid (rotation orthonormal, right-handed).

    A uniform scale within `tolerance` is accepted as rounding.

    Raises: InputError naming the frame and the value.
    """
    pose = np.asarray(pose, dtype=np.float64)
    if pose.shape not in ((3, 4), (4, 4)):
        raise InputError(f"the pose of {name} has shape {pose.shape}", "Give a 3×4 or 4×4 camera-to-world matrix", file)
    if not np.isfinite(pose).all():
        row, column = np.argwhere(~np.isfinite(pose))[0]
        raise InputError(
            f"the pose of {name} holds {pose[row, column]} at row {row} column {column}",
            "Correct this frame or remove it",
            file,
        )
    rotation = pose[:3, :3]
    error = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    determinant = float(np.linalg.det(rotation))
    if error > tolerance or determinant < 0:
        raise InputError(
            f"the pose of {name} is not rigid (|RᵀR − I| up to {error:.3g}, det R = {determinant:.3g})",
            "Remove scale, shear and mirroring from its rotation",
            file,
        )


@contextmanager
def explained(source: Path | str, if_missing: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """Turn whatever a dataparser or reader raises on bad input into an `InputError` of one line.

    What is raised by this suite itself, and not on purpose, is a defect of it: it keeps its traceback and is called so.
    A file that the system does not open is none.

    Args:
        source: the data folder or file, named where the exception itself names none.
        if_missing: gives the remedy for a file that does not exist, if there is a better one than to put it there.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        problem = "the file does not exist"
        remedy = if_missing() or "Put it there, or correct the data set"
        raise InputError(problem, remedy, error.filename or source) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and (file := _file_of(error)) is not None:
            raise refusal(error, file) from error
        culprit = _reader_of(error)
        if culprit is None:
            where = "This is a defect of fieldsuite, not of the data; please report it with what follows."
            print(where, file=sys.stderr)
            raise
        raise InputError(*_in_words(error, culprit), _file_of(error) or source) from error


def _reader_of(error: BaseException) -> str | None:
    """The dataparser of another package, or its helper, in which an exception arose; None if it was elsewhere."""
    reader, trace = None, error.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in SUITE:
            reader = None
        elif "dataparser" in module or module.startswith(("nerfstudio.data.utils.", "nerfstudio.process_data.")):
            reader = module
        trace = trace.tb_next
    return reader


def _file_of(error: BaseException) -> str | None:
    """The file that an error of the system names; of a descriptor, which is a number, None."""
    name = error.filename if isinstance(error, OSError) else None
    return os.fsdecode(name) if isinstance(name, (str, bytes, os.PathLike)) and name else None


def _in_words(error: Exception, reader: str) -> tuple[str, str]:
    """What went wrong in another package's reader, and a remedy."""
    if isinstance(error, json.JSONDecodeError):
        problem = f"a JSON file is not valid (line {error.lineno} column {error.colno}: {error.msg})"
        return problem, "Write it again; it may have been cut off"
    if isinstance(error, UnidentifiedImageError):
        return f"an image cannot be read ({error})", "Replace it"
    if isinstance(error, EOFError):
        return f"{reader} asks a question, and nobody can answer", "Run it in a terminal, or set its options"
    text = " ".join(str(error).split())[:300] or "no reason given"
    if isinstance(error, KeyError) and error.args:
        text = f"it looks for {error.args[0]!r}, and does not find it"
    elif not isinstance(error, AssertionError):
        text = f"{type(error).__name__}: {text}"
    name = reader.rpartition(".")[2]
    return (
        f"{name} cannot read it ({text})",
        "Check that the dataparser fits the data's layout, and that files are whole",
    )
