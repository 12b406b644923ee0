"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common_ns.errors import InputError


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
