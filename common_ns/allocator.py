"""How the C library deals with memory that a training step has freed.

glibc gives large blocks, and whatever is free at the end of its heap, back to the system at once. A step frees tens to
hundreds of megabytes and asks for as much a moment later: the system hands out pages of zeros again, each by an
interrupt of its own. That is a fifth of the time of a step of small networks on a CPU.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

KEPT = 512 * 2**20
"""Bytes at the end of the heap that are kept for later, at most."""

LARGEST_IN_HEAP = 32 * 2**20
"""Bytes from which a block comes from the system and goes back to it, rather than from the heap: the most that glibc
takes."""

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let the C library keep memory that is freed; peak memory stays as it is. Calling it again changes nothing.

    Returns: whether it does. Not without glibc, nor where the environment already says what malloc should do
        (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`, `GLIBC_TUNABLES`).
    """
    chosen = any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"))
    if chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST_IN_HEAP)) and bool(mallopt(_TRIM_THRESHOLD, KEPT))
