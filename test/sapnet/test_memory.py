"""What the C library does with freed memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Page faults while 20 tensors of 16 MB, each freed before the next, are written: before and after the call.
PROGRAM = """
import ctypes, resource
from sapnet.memory import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def touch():
    block = libc.malloc(ctypes.c_size_t(2**24))
    libc.memset(ctypes.c_void_p(block), 1, ctypes.c_size_t(2**24))
    libc.free(ctypes.c_void_p(block))
def faults():
    touch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        touch()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), int(keep_freed_memory()), faults())
"""


def test_memory_that_was_freed_is_not_asked_for_again() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    before, is_glibc, after = map(int, done.stdout.split())
    if not is_glibc:
        pytest.skip("this C library is not glibc")
    assert after < 100 < before
