"""derain_node as a process over DDS, on this host and in a ROS domain of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sapnet_ros.replay.player import RunError

# The upper range whose ports Linux gives to nobody else; robots keep to the lower one.
DOMAINS = range(215, 233)
TAIL_LINES = 12
STOP_TIMEOUT_S = 10.0


@contextmanager
def own_domain(logs: Path) -> Iterator[int]:
    """Claim a ROS domain that no other run on this machine uses, for this process and those that it starts."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        for domain in DOMAINS:
            try:
                # An abstract address disappears with this process, whatever ends it.
                claim.bind(f"\0sapnet_demo_domain_{domain}")
                break
            except OSError:
                continue
        else:
            raise RunError(f"all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use by other replays; end one")
        before = dict(os.environ)
        os.environ.pop("ROS_DISCOVERY_SERVER", None)
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        os.environ["ROS_LOG_DIR"] = str(logs)
        try:
            yield domain
        finally:
            os.environ.clear()
            os.environ.update(before)


class NodeProcess:
    """derain_node, which ends with this process. log: receives its output.

    It has a session of its own, so that Ctrl-C reaches it only through us, in order.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sapnet.tethered", str(os.getpid()), "sapnet_ros.derain_node", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def require_running(self) -> None:
        """Raises RunError if it has ended."""
        if (code := self._process.poll()) is not None:
            raise RunError(f"derain_node ended with exit status {code}; {self.last_lines}")

    @property
    def last_lines(self) -> str:
        """The end of what it wrote to stdout and stderr."""
        lines = self._log.read_text(errors="replace").strip().splitlines()[-TAIL_LINES:]
        return "\n".join(["its last lines:", *(lines or ["(none)"])])

    def stop(self) -> None:
        """Interrupt it, as Ctrl-C would; kill it where that does not help."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        finally:  # also after another Ctrl-C
            self._process.kill()
            self._process.wait()
