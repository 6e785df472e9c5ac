"""A run of the demo: what is played to derain_node, and what the recorder heard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sapnet.media.sequence import RainySequence
from sapnet_ros.replay.live_run import NODE, PLAYER, READY_TIMEOUT_S, RECORDER, LiveRun, table

NAMESPACE = "/sapnet_demo"
RETURN_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class DemoSettings:
    """What to play, and how. node_parameters: of derain_node that are set."""

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


class DemoRun:
    """One run in ``folder``, which is for it alone."""

    def __init__(self, settings: DemoSettings, folder: Path, domain: int) -> None:
        self._settings = settings
        self._run = LiveRun(folder, domain)

    def perform(self, on_progress: Callable[[int, str], None]) -> Recording:
        """Run to the end. on_progress: frames that came back, and what is going on. Raises SapnetError."""
        run, settings, sequence = self._run, self._settings, self._settings.sequence
        ros = ["--ros-args", "-r", f"__ns:={NAMESPACE}"]
        node = [word for name, value in settings.node_parameters.items() for word in ("-p", f"{name}:={value}")]
        player = [
            *([str(sequence.source)] if sequence.source else []),
            *("--rain", sequence.rain, "--frames", str(sequence.limit), "--max-width", str(sequence.max_width)),
            *("--rate", str(settings.rate), "--sent", str(run.sent), "--subscribers", "2"),
            *("--ready-timeout", str(READY_TIMEOUT_S), "--return-timeout", str(RETURN_TIMEOUT_S)),
            *(["--open-loop"] if settings.open_loop else []),
        ]
        recorder = [
            *(str(run.bag), "--received", str(run.received), "--diagnostics", str(run.diagnostics)),
            *("--input", "--status", "--compress"),
        ]
        commands = {
            NODE: ("sapnet_ros.derain_node", [*ros, *node]),
            RECORDER: ("sapnet_ros.replay.recorder", [*recorder, *ros]),
            PLAYER: ("sapnet_ros.demo.camera", [*player, *ros]),
        }
        run.perform(commands, on_progress)
        return self._load()

    def _load(self) -> Recording:
        run = self._run
        sent = {
            int(stamp): Sent(index, *(int(value) for value in values))
            for index, (stamp, *values) in enumerate(table(run.sent))
        }
        received = [(topic, int(stamp), int(ns), outcome) for topic, stamp, ns, outcome in table(run.received)]
        return Recording(
            bag=run.bag,
            sent=sent,
            received_ns={stamp: ns for topic, stamp, ns, _ in received if topic == "derained/image" and stamp in sent},
            outcomes={stamp: word for topic, stamp, _, word in received if topic == "frame_status" and stamp in sent},
            camera=run.status("camera")["values"],
            backend=run.status("backend")["values"],
        )
