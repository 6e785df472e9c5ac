"""What the C library does with freed memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Page faults while 20 tensors of 16 MB, each freed before the next, are written.
PROGRAM = """
import ctypes, resource, sys
from sapnet.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no glibc")
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def touch():
    block = libc.malloc(ctypes.c_size_t(2**24))
    libc.memset(ctypes.c_void_p(block), 1, ctypes.c_size_t(2**24))
    libc.free(ctypes.c_void_p(block))
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", PROGRAM, how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "no glibc" in done.stderr:
        pytest.skip("this C library is not glibc")
    return int(done.stdout)


def test_memory_that_was_freed_is_not_asked_for_again() -> None:
    assert faults("keep") < 100 < faults("leave")
