"""Waiting for what other threads and processes do."""

from __future__ import annotations

import re
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


def children_running(command: str, process: psutil.Process) -> list[psutil.Process]:
    """Children whose command line begins with a pattern; one that has ended has no command line."""
    found = []
    for child in process.children():
        with suppress(psutil.NoSuchProcess):
            if re.match(command, " ".join(child.cmdline())):
                found.append(child)
    return found
