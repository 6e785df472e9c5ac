"""Connects to a Ray cluster, or starts Ray on this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any

from sapnet.errors import SapnetError, first_line

INSTALL = "run pip install '.[fleet]' in the repository"
_REACHED_WITHIN_S = 10.0
# Only tasks and their results go through Ray; this is the least that it takes.
_OBJECT_STORE_BYTES = 80 * 2**20


@contextmanager
def connected(address: str, cpus: float) -> Iterator[None]:
    """Connect to the Ray cluster at ``address`` or, if that is empty, start Ray on this machine with so many CPUs.

    A connection that this process already has is used and left open. Raises SapnetError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray reports each retry on stdout, where the summary goes.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        ray = import_module("ray")
    except ImportError as err:
        raise SapnetError(f"a fleet needs Ray ({err}); install it: {INSTALL}") from err
    if ray.is_initialized():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            _require_reachable(address)
            ray.init(address=address, **quiet)
        else:
            cores, store = max(1, -int(-cpus // 1)), _OBJECT_STORE_BYTES
            ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=store, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as err:
        where = f"connect to the Ray cluster at {address}" if address else "start Ray on this machine"
        raise SapnetError(f"cannot {where}: {first_line(err)}; see docs/fleet.md") from err
    try:
        with _sigterm_interrupts(before):
            yield
    finally:
        ray.shutdown()


@contextmanager
def _sigterm_interrupts(before: Any) -> Iterator[None]:
    """Unwind at SIGTERM as at Ctrl-C: Ray's handler exits at once, and its calls turn SystemExit into status 1.

    before: the handler to restore.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminated = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if terminated:
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _require_reachable(address: str) -> None:
    """Raises ValueError, and OSError if nothing listens there: Ray itself would keep trying for minutes."""
    host, separator, port = address.rpartition(":")
    if separator and port.isdecimal():
        socket.create_connection((host, int(port)), _REACHED_WITHIN_S).close()
    elif address != "auto":
        raise ValueError(f"got {address!r}, expected HOST:PORT of the head node, or auto")
