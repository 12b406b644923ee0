"""Files that can be read without waiting forever, and files that can be written, whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePath

from common_ns.errors import InputError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


_OF_THE_PATH = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EINVAL)
"""Errors of the system that another path mends."""


def require_file(path: Path | str, what: str = "file") -> Path:
    """Return `path` if it is a regular file, or a link to one. Everything that opens a file that a user has named goes
    through here first: opening a named pipe waits forever, and a device has no end.

    Args:
        path: the file.
        what: it is, for the error: "image", "mask", "depth map".
    Raises: InputError if it does not exist, is of another kind, or may not be read.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            os.close(os.open(path, os.O_RDONLY))  # which knows more about rights than asking for them
    except FileNotFoundError:
        problem = f"the {what} is a link to {os.readlink(path)}, which" if path.is_symlink() else f"the {what}"
        raise InputError(f"{problem} does not exist", "Put it there, or remove what names it", path) from None
    except (OSError, ValueError) as error:
        raise refusal(error, path, what) from None
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        raise InputError(f"the {what} is {kind}", "Name a file", path)
    return path


def is_there(path: Path | str, what: str = "file") -> bool:
    """Whether anything is at a path, be it a link to nothing.

    Raises: InputError if that cannot be found out.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise refusal(error, path, what) from None
    return True


def entries_of(folder: Path, what: str = "folder") -> list[Path]:
    """Files and folders in a folder, in no order.

    Raises: InputError if it may not be read.
    """
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise refusal(error, folder, what) from None


def refusal(error: OSError | ValueError, path: Path | str, what: str = "file") -> InputError:
    """What to say of a file or folder that the system does not open: because of missing rights, a name too long, a loop
    of links, a folder where a file should be, or the reverse.

    Args:
        error: that the system raised about it.
        path: the file or folder.
        what: it is, for the error.
    """
    path = Path(path)
    if isinstance(error, PermissionError):
        problem = f"the {what} may not be read (permission denied)"
        real = Path(os.path.realpath(path))
        if not _is_reached(real):
            locked = next((parent for parent in real.parents if _is_reached(parent)), real.parent)
            return InputError(problem, f"Give yourself the right to enter the folder {locked} (chmod u+x)", path)
        if not os.path.lexists(path):
            problem = f"the {what} may not be written (permission denied)"
            return InputError(problem, "Give yourself the right to write there, or choose another folder", path)
        if not path.is_dir():
            return InputError(problem, "Give yourself the right to read it (chmod u+r)", path)
        problem = problem.replace("the file", "the folder")
        return InputError(problem, "Give yourself the right to read it (chmod u+rx)", path)
    if isinstance(error, IsADirectoryError):
        return InputError(f"the {what} is a folder", "Name a file", path)
    reason = getattr(error, "strerror", None) or error
    remedies = {errno.ELOOP: "Replace it by a file"} | dict.fromkeys((None, *_OF_THE_PATH), "Correct the path")
    remedy = remedies.get(getattr(error, "errno", None), "Check the disk that it is on")
    return InputError(f"the {what} cannot be opened ({reason})", remedy, path)


def _is_reached(path: Path) -> bool:
    """Whether all folders above a path may be entered."""
    try:
        path.lstat()
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def spelled_on_disk(folder: Path, name: str) -> str | None:
    """A relative name as the disk spells it, with slashes; None if it is not there.

    Each part is taken as it is where that is there, else in another case, or with its accents composed otherwise, where
    exactly one entry of its folder is the same but for that.

    Args:
        folder: from which the name starts.
        name: of a file or folder, such as "images/0001.png".
    """
    pure = PurePath(name)
    if not pure.parts or pure.is_absolute():
        return None
    place, spelled = folder, []
    for part in pure.parts:
        if not os.path.lexists(place / part):
            found = _entries(place).get(_folded(part), ())
            if len(found) != 1:
                return None
            part = found[0]
        place = place / part
        spelled.append(part)
    return "/".join(spelled)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _entries(folder: Path) -> dict[str, list[str]]:
    """Names in a folder, by what they are but for case; none of what cannot be listed."""
    try:
        return _listed(folder, folder.stat().st_mtime_ns)
    except (OSError, ValueError):
        return {}


@lru_cache(maxsize=64)
def _listed(folder: Path, changed: int) -> dict[str, list[str]]:
    """As `_entries`. `changed` is when the folder last was, in nanoseconds, so that the cache notices."""
    names: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        names.setdefault(_folded(name), []).append(name)
    return names


def require_writable(path: Path | str, option: str = "--output-path", folder: bool = False) -> Path:
    """Return `path` if it can be written, found out by writing a few bytes beside it. Every command that writes calls
    this before its work, which may take hours. No folder is made.

    Args:
        path: file or folder that is going to be written.
        option: that named it, for the error.
        folder: whether files are going to be written into `path`, rather than `path` itself.
    Raises: InputError if there is something else at `path`, its folder cannot be written, or the disk is full.
    """
    path = Path(path)
    remedy = f"Choose another {option}"
    try:
        # Of a path that is not there yet, the nearest folder that is decides.
        there = next(each for each in (path.absolute(), *path.absolute().parents) if os.path.lexists(each))
        kind = stat.S_IFMT(there.stat().st_mode)
        if there == path.absolute() and not folder and kind != stat.S_IFREG:
            raise InputError(f"is {_KINDS.get(kind, 'no file')}, and a file is to be written", remedy, path)
        if kind != stat.S_IFDIR and (folder or there != path.absolute()):
            problem = "" if there == path.absolute() else f"{there} "
            raise InputError(f"{problem}is {_KINDS.get(kind, 'a file')}, and a folder is needed", remedy, path)
        place = there if kind == stat.S_IFDIR else there.parent
        probe = partial_name(path if place == path.absolute().parent else Path("probe"), place)
        try:
            with probe.open("wb") as file:
                file.write(bytes(4096))
        finally:
            with suppress(OSError):
                probe.unlink()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot be written ({getattr(error, 'strerror', None) or error})", remedy, path) from error
    return path


_HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname()) or "host"
_PARTIAL = re.compile(r"\..*?(?:\.(?P<host>[A-Za-z0-9]+))?\.(?P<process>\d+)\.tmp(?:\.[^.]*)?")
_DAY = 24 * 3600.0
_swept: set[Path] = set()


def partial_name(path: Path, folder: Path | None = None) -> Path:
    """The hidden name under which `path` is written until it is whole: it tells which process does."""
    return (folder or path.parent) / f".{path.stem}.{_HOST}.{os.getpid()}.tmp{path.suffix}"


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder under names of `partial_name`.

    A process of this machine that is gone writes no more. Of those of other machines, which share the disk, files that
    nobody has written to for a day are taken for leftovers.
    """
    with suppress(OSError):
        for entry in os.scandir(folder):
            found = _PARTIAL.fullmatch(entry.name)
            if found is None or entry.is_dir(follow_symlinks=False):
                continue
            with suppress(OSError):  # another process may sweep, too
                old = time.time() - entry.stat(follow_symlinks=False).st_mtime > _DAY
                here = found["host"] == _HOST and os.name != "nt"  # where asking by signal 0 would end the process
                if not _is_alive(int(found["process"])) if here else old:
                    os.unlink(entry.path)


def _is_alive(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextmanager
def written_whole(
    path: Path, folder: Path | None = None, durable: bool = False, remedy: str = "Choose another file or folder"
) -> Iterator[Path]:
    """Give another name to write to, and rename what was written to `path` when all of it was. What killed writers have
    left in the folder is removed first.

    Args:
        path: the file; its folder is made if need be. If it was there before, it stays until the new one is whole.
        folder: where to write meanwhile, on the same disk; None: beside `path`.
        durable: wait until the bytes have reached the disk, so that not even a power failure leaves half a file.
        remedy: what the user can do if it cannot be written.
    Raises: InputError if the file or its folder cannot be written.
    """
    partial = partial_name(path, folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if partial.parent not in _swept:
            _swept.add(partial.parent)
            sweep(partial.parent)
        yield partial
        if durable:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        # Renaming on one disk is atomic: nobody meets half a file under the final name.
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"cannot be written ({error})", remedy, path) from error
    finally:
        with suppress(OSError):  # it may never have come to be, for the same reason
            partial.unlink()
