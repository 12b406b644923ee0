"""Decoded pixels in a file that later runs find again, by what they were decoded from.

Its name has two parts: what was asked for (which images, at which scale), and what the image files contain. Files of
the same request and other content are out of date and removed. A file is renamed to its name when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from common_ns.data.files import partial_name, refusal, sweep
from common_ns.errors import InputError

FORMAT = 1
"""Number of the format, and of how images are decoded: to be raised when either changes."""
FOLDER_NAME = ".fieldsuite-pixels"
OPTION = "--pipeline.datamanager.pixels-folder"
REMEDY = (
    f"Give a folder on a disk with enough space with {OPTION}, or load smaller images with "
    "--pipeline.datamanager.camera-res-scale-factor 0.5"
)
_SUFFIX = ".pixels"
_MAGIC = b"fspixels"
_END = struct.Struct("<q8s")
"""The last bytes of a file: length of the description before them, and a word that only whole files have."""
_ALIGNMENT = 64
_PART = 16
"""Digits of each part of a name."""
_BLOCK = 2**20
"""Bytes of an image file that are read at once."""


@dataclass(frozen=True)
class PixelFile:
    """Where the pixels of a data set are kept.

    Args:
        folder: of the files; it is made when one is written.
        request: hash of what was asked for.
        state: hash of the bytes of the files that it is decoded from. Neither their sizes nor their times tell: tools
            keep both when they change a file, and a copy or a checkout of the same files has other times.
    """

    folder: Path
    request: str
    state: str

    @classmethod
    def of(cls, folder: Path, settings: Sequence[Any], files: Sequence[Path]) -> PixelFile:
        """The file for pixels that follow from settings, each with a `repr` that tells it, and from files.

        Raises: InputError if one of the files cannot be read.
        """
        # Relative, so that a data set that was moved with its pixels finds them.
        names = [os.path.relpath(os.path.realpath(file), os.path.realpath(folder)) for file in files]
        request = _hash([FORMAT, *settings, *names])
        return cls(folder, request, _hash([_content(file) for file in files]))

    @property
    def path(self) -> Path:
        """The file itself."""
        return self.folder / f"{self.request}-{self.state}{_SUFFIX}"

    def read(self) -> tuple[dict[str, Tensor], Int[np.ndarray, "r 2"]] | None:
        """Arrays [n, channels] that stay on disk, which nobody may write to, and the runs of pixels that can be drawn;
        None if there is no whole file."""
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < _END.size:
                    return None
                memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except OSError:
            return None
        length, magic = _END.unpack_from(memory, size - _END.size)
        if magic != _MAGIC or not 0 < length <= size - _END.size:
            return None
        described = json.loads(memory[size - _END.size - length : size - _END.size])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable")
            arrays = {name: _array(memory, *where) for name, where in described["arrays"].items()}
        first, count = described["runs"]
        runs = np.frombuffer(memory, np.int64, 2 * count, first).reshape(-1, 2).copy()
        _read_single_pixels(memory)
        return arrays, runs

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process writes these pixels at a time: others wait, and find them. On file systems without locks all
        write, each to a name of its own."""
        try:
            import fcntl

            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / f".{self.request}.lock").open("w")
        except (ImportError, OSError):
            yield
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                CONSOLE.print("Another process is decoding these images: waiting for its pixels.")
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass
            yield

    def remove_outdated(self) -> int:
        """Remove what was decoded from earlier states of the same files.

        Returns: bytes that other pixels in the folder take up.
        """
        others = 0
        with suppress(OSError):
            for entry in os.scandir(self.folder):
                if not entry.name.endswith(_SUFFIX) or entry.name == self.path.name:
                    continue
                with suppress(OSError):  # another process may remove it, too; Windows keeps files in use
                    if entry.name.startswith(f"{self.request}-"):
                        os.unlink(entry.path)
                    elif not entry.name.startswith("."):
                        others += entry.stat().st_size
        return others


class PixelWriter:
    """Arrays in a file that is being written. Nobody finds it before `finish`, and if the process ends before, the
    system's next writer removes it.

    Args:
        target: which pixels they are.
        count: pixels.
        row_types: (channels, type) of each array by name.
        reserve: makes sure that an open file, given by its descriptor, has room for so many bytes.
    Raises: InputError if there is no room for it, or the folder cannot be written.
    """

    def __init__(
        self,
        target: PixelFile,
        count: int,
        row_types: dict[str, tuple[int, np.dtype]],
        reserve: Callable[[int, int], None],
    ) -> None:
        self.target = target
        self._where: dict[str, tuple[int, int, int, str]] = {}
        end = 0
        for name, (channels, dtype) in row_types.items():
            self._where[name] = (end, count, channels, dtype.str)
            end += -(-count * channels * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        self.partial = partial_name(target.path)
        try:
            target.folder.mkdir(parents=True, exist_ok=True)
            sweep(target.folder)
            target.remove_outdated()
            free = shutil.disk_usage(target.folder).free
            if end > free:
                needed, left = (f"{size / 2**30:.1f} GiB" for size in (end, free))
                problem = f"the training pixels need {needed} of disk space and {left} are free"
                raise InputError(problem, REMEDY, target.folder)
            self._file = self.partial.open("wb+")
            self._file.truncate(end)
            reserve(self._file.fileno(), end)
            self._memory = mmap.mmap(self._file.fileno(), end)
        except OSError as error:
            self.abandon()
            raise self._refusal(error) from error
        self._end = end
        self.arrays = {name: _array(self._memory, *where) for name, where in self._where.items()}
        """Uninitialized arrays [count, channels], to be filled."""

    def finish(self, runs: Int[np.ndarray, "r 2"]) -> None:
        """Write the rest, and give the file its name: from now on others find it. The arrays stay.

        Raises: InputError if it cannot be written.
        """
        described = {"arrays": self._where, "runs": (self._end, len(runs))}
        text = json.dumps(described).encode()
        try:
            self._memory.flush()
            self._file.seek(self._end)
            self._file.write(np.ascontiguousarray(runs, np.int64).tobytes() + text + _END.pack(len(text), _MAGIC))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self.partial, self.target.path)
        except OSError as error:
            self.abandon()
            raise self._refusal(error) from error
        _read_single_pixels(self._memory)
        others = self.target.remove_outdated()
        line = f"The pixels are kept in {self.target.path} for later runs"
        if others:
            line += f"; others in that folder take {others / 2**30:.1f} GiB"
        CONSOLE.print(f"{line}.", markup=False, highlight=False, soft_wrap=True)

    def abandon(self) -> None:
        """Remove what was written."""
        with suppress(OSError, AttributeError):
            self._file.close()
        with suppress(OSError):
            self.partial.unlink()

    def _refusal(self, error: OSError) -> InputError:
        problem = f"the training pixels cannot be stored there: {error.strerror or error}"
        return InputError(problem, REMEDY, self.target.folder)


def pixels_folder(data: Path, chosen: Path | None = None) -> Path:
    """Where the pixels of a data set are kept.

    Args:
        data: the data set, a folder or a file in one.
        chosen: by the user; None: a hidden folder in that of the data, or where that cannot be written, the user's
            cache.
    """
    if chosen is not None:
        return chosen.expanduser().absolute()
    beside = data.absolute() if data.is_dir() else data.absolute().parent
    if os.access(beside, os.W_OK):
        return beside / FOLDER_NAME
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fieldsuite" / "pixels"


def _hash(parts: Sequence[Any]) -> str:
    return hashlib.sha256("\n".join(repr(part) for part in parts).encode()).hexdigest()[:_PART]


def _content(file: Path) -> str:
    """Hash of a file's bytes.

    Raises: InputError if it cannot be read.
    """
    found = hashlib.blake2b(digest_size=16)
    try:
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK):
                found.update(block)
    except OSError as error:
        raise refusal(error, file, "image") from None
    return found.hexdigest()


def _array(memory: mmap.mmap, first: int, count: int, channels: int, dtype: str) -> Tensor:
    kind = torch.from_numpy(np.empty(0, np.dtype(dtype))).dtype
    return torch.frombuffer(memory, dtype=kind, count=count * channels, offset=first).reshape(count, channels)


def _read_single_pixels(memory: mmap.mmap) -> None:
    if hasattr(mmap, "MADV_RANDOM"):
        memory.madvise(mmap.MADV_RANDOM)  # else a pixel that is not in memory is read with the 128 KiB around it
