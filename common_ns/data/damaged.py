"""Damaged files, said in one line: readers of many formats raise whatever comes up."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import UnidentifiedImageError

from common_ns.errors import InputError

DAMAGES = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, SyntaxError, ArithmeticError),
    *(NotImplementedError, RuntimeError, MemoryError),
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
    except DAMAGES as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
        problem = f"the {what} cannot be read ({reason})"
        raise InputError(problem, "Write it again; it may be cut off or of another format", path) from error
