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
def free_domain() -> Iterator[int]:
    """Claim a ROS domain that no other run on this machine uses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        for domain in DOMAINS:
            try:
                # An abstract address disappears with this process, whatever ends it.
                claim.bind(f"\0sapnet_demo_domain_{domain}")
            except OSError:
                continue
            yield domain
            return
    raise RunError(f"all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use by other demos and replays; end one")


def environment(domain: int, folder: Path) -> dict[str, str]:
    """Environment variables that keep the processes on this host and in ``domain``."""
    package = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    inherited = {name: value for name, value in os.environ.items() if name != "ROS_DISCOVERY_SERVER"}
    return inherited | {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(folder / "ros"),
        "RCUTILS_COLORIZED_OUTPUT": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": path,
    }


class Process:
    """``python -m module arguments``, which ends with this process. log: receives its output.

    It has a session of its own, so that Ctrl-C reaches it only through us, in order.
    """

    def __init__(self, module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sapnet.tethered", str(os.getpid()), module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def last_lines(self) -> str:
        """The end of what it wrote to stdout and stderr."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-TAIL_LINES:])

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
