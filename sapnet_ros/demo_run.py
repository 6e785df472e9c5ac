"""Player, derain_node and recorder as processes over DDS: runs them to the end, or says which failed and why."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapnet.errors import SapnetError
from sapnet.sequence import RainySequence
from sapnet_ros.player import EXIT_INPUT
from sapnet_ros.processes import Processes

NAMESPACE = "/sapnet_demo"
# The upper range whose ports Linux gives to nobody else; robots keep to the lower one.
DOMAINS = range(215, 233)
# A build of an engine may take minutes, and says so meanwhile.
READY_TIMEOUT_S = 600.0
RETURN_TIMEOUT_S = 20.0
POLL_S = 0.1
# Diagnostics come every second.
DIAGNOSTICS_TIMEOUT_S = 5.0

_ERROR = 2


class DemoError(SapnetError):
    """A process of the demo ended early, or nothing was derained."""


@dataclass(frozen=True)
class DemoSettings:
    """What to play, and how. node_parameters: of derain_node; all are given."""

    sequence: RainySequence
    rate: float
    open_loop: bool
    node_parameters: dict[str, str | int]


@dataclass(frozen=True)
class Sent:
    """A frame that the player published; steady_ns as in player.Sent."""

    index: int
    steady_ns: int
    height: int
    width: int


@dataclass(frozen=True)
class Recording:
    """What the processes left behind; everything is by the frame's stamp in nanoseconds.

    received_ns: when a derained/image came, on the clock of Sent.steady_ns. outcomes: ``derained`` or
    ``passed_through``. camera, backend: the values of derain_node's last diagnostics.
    """

    bag: Path
    sent: dict[int, Sent]
    received_ns: dict[int, int]
    outcomes: dict[int, str]
    camera: dict[str, str]
    backend: dict[str, str]


@contextmanager
def free_domain() -> Iterator[int]:
    """A ROS domain that no other demo on this machine uses, kept for the time of the block."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        for domain in DOMAINS:
            try:
                # An abstract address: gone with this process, whatever ends it.
                claim.bind(f"\0sapnet_demo_domain_{domain}")
            except OSError:
                continue
            yield domain
            return
    raise DemoError(f"all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use by other demos; end one")


def environment(domain: int, folder: Path) -> dict[str, str]:
    """Of the processes: on this host alone, in a domain of their own."""
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


class DemoRun:
    """One run in ``folder``, which is for it alone."""

    def __init__(self, settings: DemoSettings, folder: Path, domain: int) -> None:
        self._settings = settings
        self._bag = folder / "bag"
        self._sent = folder / "sent.log"
        self._received = folder / "received.log"
        self._diagnostics = folder / "diagnostics.json"
        self._processes = Processes(folder, environment(domain, folder))

    def perform(self, on_progress: Callable[[int, str], None]) -> Recording:
        """Run to the end. on_progress: frames that came back, and what is going on. Raises SapnetError."""
        with self._processes:
            self._start()
            while (code := self._processes.exit_code("player")) is None:
                self._check_running()
                on_progress(*self._progress())
                time.sleep(POLL_S)
            if code == EXIT_INPUT:
                raise SapnetError(self._processes.last_lines("player"))
            self._check_running()
            if code:
                raise DemoError(self._describe("player", code) + "\n" + self._describe("derain_node", None))
            self._wait_for_final_diagnostics()
            on_progress(*self._progress())
            if code := self._processes.stop("recorder"):
                raise DemoError(self._describe("recorder", code))
        return self._load()

    def _start(self) -> None:
        settings, sequence = self._settings, self._settings.sequence
        ros = ["--ros-args", "-r", f"__ns:={NAMESPACE}"]
        node = [word for name, value in settings.node_parameters.items() for word in ("-p", f"{name}:={value}")]
        player = [
            *([str(sequence.source)] if sequence.source else []),
            *("--rain", sequence.rain, "--frames", str(sequence.limit), "--max-width", str(sequence.max_width)),
            *("--rate", str(settings.rate), "--sent", str(self._sent), "--subscribers", "2"),
            *("--ready-timeout", str(READY_TIMEOUT_S), "--return-timeout", str(RETURN_TIMEOUT_S)),
            *(["--open-loop"] if settings.open_loop else []),
        ]
        recorder = [str(self._bag), "--received", str(self._received), "--diagnostics", str(self._diagnostics)]
        self._processes.start("derain_node", "sapnet_ros.derain_node", [*ros, *node])
        self._processes.start("recorder", "sapnet_ros.recorder", [*recorder, *ros])
        self._processes.start("player", "sapnet_ros.player", [*player, *ros])

    def _check_running(self) -> None:
        for name in ("derain_node", "recorder"):
            if (code := self._processes.exit_code(name)) is not None:
                raise DemoError(self._describe(name, code))
        backend = self._status("backend")
        if backend.get("level") == _ERROR and not self._returned():
            raise DemoError(f"derain_node cannot derain: {backend['message']}")

    def _progress(self) -> tuple[int, str]:
        if returned := self._returned():
            return returned, "deraining"
        return 0, self._status("backend").get("message") or "starting"

    def _wait_for_final_diagnostics(self) -> None:
        """Until derain_node's figures include the last frame."""
        ended_ns = time.monotonic_ns()
        while time.monotonic_ns() < ended_ns + DIAGNOSTICS_TIMEOUT_S * 1e9:
            self._check_running()
            figures = self._status("camera").get("values", {})
            if self._read_diagnostics().get("steady_ns", 0) > ended_ns and figures.get("in_flight") == "0":
                return
            time.sleep(POLL_S)
        raise DemoError(f"derain_node has sent no complete diagnostics for {DIAGNOSTICS_TIMEOUT_S:g} s")

    def _returned(self) -> int:
        return self._received.read_bytes().count(b"frame_status ") if self._received.exists() else 0

    def _status(self, name: str) -> dict[str, Any]:
        statuses = self._read_diagnostics().get("statuses", {})
        status: dict[str, Any] = statuses.get(f"derain_node: {name}", {})
        return status

    def _read_diagnostics(self) -> dict[str, Any]:
        if not self._diagnostics.exists():
            return {}
        diagnostics: dict[str, Any] = json.loads(self._diagnostics.read_text())
        return diagnostics

    def _describe(self, name: str, code: int | None) -> str:
        happened = "is still running" if code is None else f"ended with exit status {code}"
        return f"{name} {happened}; its last lines:\n{self._processes.last_lines(name) or '(none)'}"

    def _load(self) -> Recording:
        sent = {
            int(stamp): Sent(index, *(int(value) for value in values))
            for index, (stamp, *values) in enumerate(_table(self._sent))
        }
        received = [(topic, int(stamp), int(ns), outcome) for topic, stamp, ns, outcome in _table(self._received)]
        return Recording(
            bag=self._bag,
            sent=sent,
            received_ns={stamp: ns for topic, stamp, ns, _ in received if topic == "derained/image" and stamp in sent},
            outcomes={stamp: word for topic, stamp, _, word in received if topic == "frame_status" and stamp in sent},
            camera=self._status("camera")["values"],
            backend=self._status("backend")["values"],
        )


def _table(path: Path) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in path.read_text().splitlines()]
