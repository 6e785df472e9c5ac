"""Python modules as processes over DDS, on this host and in a ROS domain of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sapnet.errors import SapnetError

# The upper range whose ports Linux gives to nobody else; robots keep to the lower one.
DOMAINS = range(215, 233)
TAIL_LINES = 12
STOP_TIMEOUT_S = 10.0


class RunError(SapnetError):
    """A process failed, or nothing was derained."""


@contextmanager
def own_domain(folder: Path) -> Iterator[int]:
    """Keep this process and those that it starts on this host, in a ROS domain that no other run here uses.

    folder: for ROS's log files.
    """
    environment = dict(os.environ)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        for domain in DOMAINS:
            try:
                # An abstract address disappears with this process, whatever ends it.
                claim.bind(f"\0sapnet_demo_domain_{domain}")
                break
            except OSError:
                continue
        else:
            raise RunError(
                f"all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use by other demos and replays; end one"
            )
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        os.environ["ROS_LOG_DIR"] = str(folder)
        os.environ["RCUTILS_COLORIZED_OUTPUT"] = "0"  # the end of a log is shown
        os.environ.pop("ROS_DISCOVERY_SERVER", None)
        try:
            yield domain
        finally:
            os.environ.clear()
            os.environ.update(environment)


class Process:
    """``python -m module arguments``, which ends with this process. log: receives its output. environment: variables
    beside ours.

    It has a session of its own, so that Ctrl-C reaches it only through us, in order.
    """

    def __init__(self, module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._name = module.rpartition(".")[2]
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sapnet.tethered", str(os.getpid()), module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **environment},
            )

    def check(self) -> None:
        """Raises RunError if it has ended."""
        if self._process.poll() is not None:
            raise RunError(str(self))

    def __str__(self) -> str:
        """What became of it, with the end of what it wrote to stdout and stderr."""
        code = self._process.poll()
        happened = "is still running" if code is None else f"ended with exit status {code}"
        lines = self._log.read_text(errors="replace").strip().splitlines()[-TAIL_LINES:]
        return f"{self._name} {happened}; its last lines:\n" + ("\n".join(lines) or "(none)")

    def stop(self) -> int:
        """Interrupt it, as Ctrl-C would; kill it where that does not help. Returns its exit status."""
        self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also after another Ctrl-C
            self._process.kill()
        return self._process.wait()
