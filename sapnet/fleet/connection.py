"""Ray: loaded where it is needed, made on this machine or found on a cluster."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from types import FrameType
from typing import Any

from sapnet.errors import SapnetError, first_line

INSTALL = "run pip install '.[fleet]' in the repository"
# Nothing but tasks and outcomes goes through Ray; this is the least that it takes.
_OBJECT_STORE_BYTES = 80 * 2**20
# Sockets have names of at most 107 characters, and Ray adds about 65 to its folder.
_MAX_FOLDER = 40
_REACHED_WITHIN_S = 10.0


def load_ray() -> Any:
    """Ray, which only a fleet needs. Raises SapnetError."""
    try:
        return import_module("ray")
    except ImportError as err:
        raise SapnetError(f"a fleet needs Ray ({err}); install it: {INSTALL}") from err


@contextmanager
def connected(address: str, cpus: float) -> Iterator[None]:
    """Connect to Ray: to a cluster's address or, where that is empty, to one made on this machine with so many CPUs.

    A connection that the process has already is used, and kept. Raises SapnetError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports nothing to its makers
    ray = load_ray()
    if ray.is_initialized():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    with nullcontext("") if address else _short_folder() as folder:
        try:
            _connect(ray, address, cpus, folder)
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as err:
            where = f"the Ray cluster at {address}" if address else "Ray on this machine"
            raise SapnetError(f"cannot connect to {where}: {first_line(err)}; see docs/fleet.md") from err
        try:
            with _ending_at_sigterm(before):
                yield
        finally:
            ray.shutdown()


def _connect(ray: Any, address: str, cpus: float, folder: str) -> None:
    """Raises what Ray raises, and OSError where nobody listens: Ray would go on trying for minutes."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        host, separator, port = address.rpartition(":")
        if separator and port.isdecimal():
            socket.create_connection((host, int(port)), _REACHED_WITHIN_S).close()
        elif address != "auto":
            raise ValueError(f"got {address!r}, expected HOST:PORT of the head node, or auto")
        ray.init(address=address, **quiet)
        return
    ray.init(
        address="local",
        num_cpus=max(1, int(-(-cpus // 1))),
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        _temp_dir=folder,
        **quiet,
    )


@contextmanager
def _ending_at_sigterm(before: Any) -> Iterator[None]:
    """Unwind at SIGTERM, and end as ``before`` does: Ray has a way of its own, and makes any exit status 1."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if came and callable(before):
            before(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def _short_folder() -> Iterator[str]:
    parent = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="sapnet_ray_", dir=parent if len(parent) < _MAX_FOLDER - 20 else "/tmp")  # noqa: S108
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
