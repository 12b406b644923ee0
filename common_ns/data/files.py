"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common_ns.errors import InputError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give another name beside `path` to write to, and rename what was written when all of it was.

    Raises: InputError if the file or its folder, which is made if need be, cannot be written.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        # Renaming within one folder is atomic: nobody meets half a file under the final name.
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"cannot be written ({error})", "Choose another file or folder", path) from error
    finally:
        with suppress(OSError):
            partial.unlink()
