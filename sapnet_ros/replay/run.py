"""One replay: plays a recording to a derain_node that it starts, beside a recorder, and evaluates what came back."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from array import array
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from signal import SIG_IGN, SIGINT, SIGUSR1, getsignal
from typing import Any

import numpy as np

from sapnet.bags import Message
from sapnet.bags.cameras import Camera
from sapnet.bags.types import MessageError, header_stamp
from sapnet.commands.common import progress_bar
from sapnet_ros.replay.bag_publisher import parse
from sapnet_ros.replay.lockstep import open_player
from sapnet_ros.replay.plan import Plan, each
from sapnet_ros.replay.player import Player, PlayerError, PlayerStopped
from sapnet_ros.replay.processes import Process, RunError, own_domain
from sapnet_ros.reports import Status
from sapnet_ros.starting import ABOVE, BELOW, parameter_file, profile_environment

LOOK_S = 0.1
# Diagnostics come every second.
DIAGNOSTICS_TIMEOUT_S = 5.0
# How many of them say that no frame is in flight before what is missing is given up.
IDLE_REPORTS = 5
PERCENTILES = (50, 95, 99)


@dataclass(eq=False)
class _Frames:
    """What became of a camera's frames. sent_ns: when they were sent last, by stamp. latencies_ms: of derained ones."""

    camera: Camera
    sent: int = 0
    recorded: int = 0
    sent_ns: dict[int, int] = field(default_factory=dict)
    latencies_ms: array[float] = field(default_factory=lambda: array("d"))

    def note_sent(self, frame: Message) -> None:
        """A frame is about to be sent."""
        self.sent += 1
        with suppress(MessageError):  # truncated
            self.sent_ns[header_stamp(frame.data)] = time.monotonic_ns()

    def note_answer(self, stamp_ns: int, came_ns: int, outcome: str) -> None:
        """The status of a frame came, at this steady time."""
        self.recorded += 1
        # A latched frame from before the start of what is played has no time; in a short loop, a frame may have been
        # sent again before the answer is read.
        if outcome == "derained" and (sent_ns := self.sent_ns.get(stamp_ns, came_ns)) < came_ns:
            self.latencies_ms.append((came_ns - sent_ns) / 1e6)

    def figures(self, reported: Status) -> dict[str, Any]:
        """For people and programs. reported: the node's own figures."""
        counts = ("received", "derained", "passed_through", "dropped", "lost_in_transport")
        latencies_ms = np.percentile(self.latencies_ms, PERCENTILES).round(2).tolist() if self.latencies_ms else None
        return {
            "topic": self.camera.topic.name,
            "derained_topic": self.camera.output("derained/image"),
            "sent": self.sent,
            **{name: int(reported.values[name]) for name in counts},
            "recorded": self.recorded,
            "reasons": {
                fate: {
                    name.removeprefix(f"{fate}_"): int(count)
                    for name, count in reported.values.items()
                    if name.startswith(f"{fate}_")
                }
                for fate in ("passed_through", "dropped")
            },
            "latency_ms": latencies_ms and dict(zip(("p50", "p95", "p99"), latencies_ms, strict=True)),
        }


@dataclass(eq=False)
class Replay:
    """One run in ``folder``, which must be empty, in a ROS domain of its own.

    bag: what the recorder writes; None for nothing. parameters: of the node, which override the params_file.
    record: further arguments of ``bag_recorder``. play: values of ``bag_publisher`` that stand in for its defaults.
    outcomes: ``derained`` or ``passed_through``, by the stamps of the frames that came back.
    """

    plan: Plan
    folder: Path
    bag: Path | None
    parameters: dict[str, Any]
    record: list[str]
    params_file: Path | None = None
    play: argparse.Namespace | None = None
    outcomes: dict[int, str] = field(default_factory=dict, init=False)
    _begun: str = field(default="", init=False)  # a line of the recorder's that is not complete yet

    def perform(self, total: int | None) -> dict[str, Any]:
        """Run to the end and return the figures; with ``--loop``, Ctrl-C is the end.

        A progress bar of ``total`` frames and warnings go to stderr. Raises SapnetError for wrong input; RunError where
        a process failed or no frame was derained.
        """
        plan, log = self.plan, self.folder / "received.log"
        play = parse([str(plan.source.path), *plan.publisher_arguments(recorder=True)], self.play)
        self._frames = {name or "camera": _Frames(camera) for name, camera in plan.cameras.items()}
        frames_of = {frames.camera.topic: frames for frames in self._frames.values()}
        log.touch()
        record = [*([str(self.bag)] if self.bag else []), *self.record, "--received", str(log)]
        environment, _ = profile_environment("auto", os.environ)
        with ExitStack() as stack:
            domain = stack.enter_context(own_domain(self.folder / "ros"))
            watched = next(iter(plan.cameras.values())).output("derained/image")
            watch = f"ROS_DOMAIN_ID={domain} ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ros2 topic hz {watched}"
            print(f"To watch it, in another terminal:\n  {watch}", file=sys.stderr)
            progress = stack.enter_context(progress_bar(counts=True))
            self._show = partial(progress.update, progress.add_task("starting", total=total))

            def warn(text: str) -> None:
                progress.console.print(f"sapnet: warning: {text}", markup=False, soft_wrap=True)

            def start(module: str, arguments: list[str], environment: Mapping[str, str]) -> Process:
                process = Process(module, arguments, self.folder / f"{module}.log", environment)
                stack.callback(process.stop)
                return process

            self._received = stack.enter_context(log.open())
            node = [*plan.remap_arguments(), *self._node_parameters()]
            self._node = start("sapnet_ros.derain_node", node, environment)
            self._recorder = start("sapnet_ros.replay.recorder", [*record, *plan.recorder_arguments()], {})
            # SIGTERM ends this program as any other of its commands, and an ignored Ctrl-C stays ignored.
            signals = [number for number in (SIGINT, SIGUSR1) if getsignal(number) != SIG_IGN]
            with open_player(plan.source, play, warn, [], signals) as player:
                player.call_every(LOOK_S, lambda: self._look(player))
                try:
                    player.run(lambda frame: frames_of[frame.topic].note_sent(frame))
                except PlayerError as err:
                    raise RunError(f"{err}\n{self._node}") from err
                except PlayerStopped:
                    if not play.loop:
                        raise
                self._wait_for_final_diagnostics(player)
                self._look(player)
            if self._recorder.stop():
                raise RunError(str(self._recorder))
        return self._summarize(player)

    def _node_parameters(self) -> list[str]:
        below = parameter_file(BELOW, {"warmup_sizes": self.plan.sizes}, self.folder)
        above = parameter_file(ABOVE, {**self.plan.parameters, **self.parameters}, self.folder)
        return each("--params-file", [below, *([] if self.params_file is None else [str(self.params_file)]), above])

    def _look(self, player: Player) -> None:
        """Tell progress. Raises RunError where a process has ended, or the node cannot derain."""
        self._node.check()
        self._recorder.check()
        returned, backend = self._returned(), player.report.parts.get("backend")
        starting = backend.message if backend is not None else "starting"
        if backend is not None and backend.level == "ERROR" and not returned:
            raise RunError(f"derain_node cannot derain: {backend.message}")
        self._show(completed=returned, description="deraining" if returned else starting)

    def _returned(self) -> int:
        """Frames whose status the recorder has noted."""
        *lines, self._begun = (self._begun + self._received.read()).split("\n")
        for line in lines:
            camera, stamp, came, outcome = line.split()
            self._frames[camera].note_answer(int(stamp), int(came), outcome)
            self.outcomes[int(stamp)] = outcome
        return sum(frames.recorded for frames in self._frames.values())

    def _wait_for_final_diagnostics(self, player: Player) -> None:
        """Wait until the node's figures include the last frame, and the recorder has what it could still receive.

        However long a frame takes, the node reports it as in flight.
        """
        sent = sum(frames.sent for frames in self._frames.values())
        player.idle_reports, player.report_s = 0, time.monotonic()

        def has_ended() -> bool:
            if time.monotonic() - player.report_s > DIAGNOSTICS_TIMEOUT_S or player.idle_reports >= IDLE_REPORTS:
                return True
            is_counted = player.idle_reports and player.total("received", "lost_in_transport") >= sent
            return is_counted and self._returned() >= player.total("derained", "passed_through")

        player.spin_until(has_ended, math.inf)
        if not player.idle_reports:
            raise RunError(f"derain_node has sent no diagnostics for {DIAGNOSTICS_TIMEOUT_S:g} s")

    def _summarize(self, player: Player) -> dict[str, Any]:
        report = player.report
        cameras = [frames.figures(report.cameras[label]) for label, frames in self._frames.items()]
        if not any(camera["derained"] for camera in cameras):
            reasons = json.dumps([camera["reasons"] for camera in cameras])
            raise RunError(f"none of {sum(c['sent'] for c in cameras)} frames was derained: {reasons}")
        missed = sum(c["derained"] + c["passed_through"] - c["recorded"] for c in cameras)
        backend = report.parts["backend"].values
        return {
            "input": str(self.plan.source.path),
            "output": None,
            "rate": player.args.rate,
            "lockstep": self.plan.lockstep,
            "cameras": cameras,
            "network": {name: backend.get(name, "") for name in ("weights", "backend", "precision", "device")},
            "notes": [f"the recorder missed {missed} frames that came out"] if missed else [],
        }
