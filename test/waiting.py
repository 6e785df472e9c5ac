"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import psutil


def eventually(condition: Callable[[], object]) -> None:
    """Return once ``condition`` holds; fail after 60 s."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited 60 s"
        time.sleep(0.01)


def is_alive(process: psutil.Process) -> bool:
    """One that has ended stays as a zombie until its parent asks for its exit status."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
