"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object]) -> None:
    """Return once ``condition`` holds; fail after 60 s."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited 60 s"
        time.sleep(0.01)
