"""How much main memory there is, asked before work that may not fit into it."""

from __future__ import annotations

from pathlib import Path

from common_ns.errors import InputError


def available_memory() -> int | None:
    """Bytes of main memory that can be had without swapping; None where the system does not say."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        if "MemAvailable" in fields:
            return int(fields["MemAvailable"].split()[0]) * 1024
    try:
        import psutil
    except ImportError:
        return None
    return psutil.virtual_memory().available


def require_memory(needed: int, what: str, remedy: str, source: Path | str | None = None) -> None:
    """Refuse work that would not fit into main memory, before it starts.

    Args:
        needed: bytes.
        what: what needs them.
        remedy: what to do instead.
        source: the file it is about.
    Raises: InputError with the needed and the available memory.
    """
    available = available_memory()
    if available is not None and needed > available:
        problem = f"{what} needs {needed / 2**30:.1f} GiB of memory and {available / 2**30:.1f} GiB are available"
        raise InputError(problem, remedy, source)
