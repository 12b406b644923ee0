"""What reading images and volumes shares: arrays in .npy and .npz files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from common_ns.data.memory import require_memory
from common_ns.errors import InputError


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
