"""Files that can be read without waiting forever, and files that are written whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common_ns.errors import InputError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_file(path: Path | str, what: str = "file") -> Path:
    """Return `path` if it is a regular file, or a link to one. Everything that opens a file that a user has named goes
    through here first: opening a named pipe waits forever, and a device has no end.

    Args:
        path: the file.
        what: it is, for the error: "image", "mask", "depth map".
    Raises: InputError if it does not exist, is of another kind, or cannot be looked at.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        problem = f"the {what} is a link to {os.readlink(path)}, which" if path.is_symlink() else f"the {what}"
        raise InputError(f"{problem} does not exist", "Put it there, or remove what names it", path) from None
    except (
        OSError,
        ValueError,
    ) as error:  # a loop of links, a name too long, a locked folder
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the {what} cannot be opened ({reason})", "Replace it by a file", path) from None
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        raise InputError(f"the {what} is {kind}", "Name a file", path)
    return path


@contextmanager
def written_whole(
    path: Path, folder: Path | None = None, durable: bool = False, remedy: str = "Choose another file or folder"
) -> Iterator[Path]:
    """Give another name to write to, and rename what was written to `path` when all of it was.

    Args:
        path: the file; its folder is made if need be. If it was there before, it stays until the new one is whole.
        folder: where to write meanwhile, on the same disk; None: beside `path`.
        durable: wait until the bytes have reached the disk, so that not even a power failure leaves half a file.
        remedy: what the user can do if it cannot be written.
    Raises: InputError if the file or its folder cannot be written.
    """
    partial = (folder or path.parent) / f".{path.stem}.{os.getpid()}.tmp{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
