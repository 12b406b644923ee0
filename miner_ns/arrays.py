"""What reading and writing images and volumes share: arrays in .npy and .npz files, damaged files."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from common_ns.errors import InputError
from miner_ns.signal import require_memory

_DAMAGES = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, SyntaxError, ArithmeticError, NotImplementedError),
    *(struct.error, zlib.error, zipfile.BadZipFile, tokenize.TokenError),
)
"""What readers raise on files that are cut off or otherwise damaged."""


@contextmanager
def damage_explained(path: Path, what: str) -> Iterator[None]:
    """Turn what readers raise on damaged files into an `InputError`.

    Args:
        path: the file.
        what: what it holds, such as "image".
    """
    try:
        yield
    except InputError:
        raise
    except _DAMAGES as error:
        reason = str(error) or type(error).__name__
        problem = f"the {what} cannot be read ({reason})"
        raise InputError(problem, "Write it again; it may be cut off or of another format", path) from error


def array_header(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array in a .npy file, or of the only array in an .npz file, without reading it.

    Raises: InputError if an .npz file holds several arrays; whatever numpy raises if the file is damaged.
    """
    if not zipfile.is_zipfile(path):
        array = np.load(path, mmap_mode="r")
        return array.shape, array.dtype
    with np.load(path) as content, content.zip.open(f"{only_array(content, path)}.npy") as file:
        is_first = np.lib.format.read_magic(file) == (1, 0)
        header = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        return shape, dtype


def load_array(path: Path) -> Shaped[NDArray, "..."]:
    """The array of a .npy file, memory-mapped, or the only array of an .npz file, in memory.

    Raises: InputError if an .npz file holds several arrays or more than the memory; whatever numpy raises if the file
        is damaged.
    """
    if not zipfile.is_zipfile(path):
        return np.load(path, mmap_mode="r")
    with np.load(path) as content:
        return load_member(content, only_array(content, path), path)


def load_member(content: NpzFile, name: str, path: Path) -> Shaped[NDArray, "..."]:
    """One array of an open .npz file, after a look at the memory."""
    needed = content.zip.getinfo(f"{name}.npy").file_size
    require_memory(needed, f"the array {name!r}", "Store it as .npy, which is read from disk as needed", path)
    return content[name]


def only_array(content: NpzFile, path: Path) -> str:
    """The name of the one array of an open .npz file.

    Raises: InputError if there are others.
    """
    if len(content.files) != 1:
        problem = f"the file holds the arrays {', '.join(content.files) or '(none)'}"
        raise InputError(problem, "Store what is to be fitted as its only array", path)
    return content.files[0]
