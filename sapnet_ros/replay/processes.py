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
from types import TracebackType

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


def watch_line(domain: int, topic: str) -> str:
    """The shell command that shows a topic's rate during a run in this domain."""
    return f"ROS_DOMAIN_ID={domain} ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ros2 topic hz {topic}"


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


class Processes:
    """Python modules run as processes, by name; leaving the ``with`` block ends them all.

    folder: receives their output as ``<name>.log``.
    Each has a session of its own, so that Ctrl-C reaches it only through us, in order.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        return self

    def start(self, name: str, module: str, arguments: Sequence[str]) -> None:
        """Run ``python -m module arguments``."""
        command = [sys.executable, "-m", "sapnet.tethered", str(os.getpid()), module, *arguments]
        with self._log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def exit_code(self, name: str) -> int | None:
        """None while it runs."""
        return self._running[name].poll()

    def last_lines(self, name: str) -> str:
        """The end of what it wrote to stdout and stderr."""
        lines = self._log(name).read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def stop(self, name: str) -> int:
        """Interrupt it, as Ctrl-C would; kill it where that does not help. Returns its exit status."""
        process = self._running[name]
        process.send_signal(signal.SIGINT)
        return _end(process)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for process in self._running.values():
                process.send_signal(signal.SIGINT)
            for process in self._running.values():
                _end(process)
        finally:
            # Also after another Ctrl-C, which breaks off the waiting above.
            for process in self._running.values():
                process.kill()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def _end(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
