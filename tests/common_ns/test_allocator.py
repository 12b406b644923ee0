"""Memory that a step has freed is there for the next one, unless the environment says otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from common_ns.allocator import keep_freed_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's malloc that is set")

SCRIPT = """
import ctypes, resource, sys
from common_ns.allocator import keep_freed_memory
libc, size = ctypes.CDLL(None), 10 * 2**20
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
kept = sys.argv[1] == "kept" and keep_freed_memory()
def step():
    blocks = [libc.malloc(size) for _ in range(8)]
    for block in blocks:
        libc.memset(block, 1, size)
    for block in blocks:
        libc.free(block)
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step(), step()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(word: str, **environment: str) -> tuple[bool, int]:
    """Whether freed memory is kept in a fresh process, and its page faults in two steps that use what two before them
    have used."""
    names = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    kept |= {"PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run([sys.executable, "-c", SCRIPT, word], env=kept, capture_output=True, text=True, check=True)
    told, faults = done.stdout.split()
    return bool(int(told)), int(faults)


def test_a_later_step_finds_its_pages_in_place():
    _, faults = run("given back")
    kept, fewer = run("kept")
    assert kept
    assert fewer * 10 < faults


@pytest.mark.parametrize(
    "setting",
    [
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"MALLOC_MMAP_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"},
    ],
)
def test_what_the_environment_says_of_malloc_stays(setting, monkeypatch):
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    assert not keep_freed_memory()
