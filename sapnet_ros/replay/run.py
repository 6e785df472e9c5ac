"""One replay: plays a recording to a derain_node that it starts, beside a recorder, and evaluates what came back."""

from __future__ import annotations

import json
import math
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIG_IGN, SIGINT, SIGUSR1, getsignal
from typing import Any, NamedTuple

import numpy as np

from sapnet.bags import Message, Recording
from sapnet.bags.types import MessageError, header_stamp
from sapnet_ros.replay.bag_publisher import Playback, open_playback, parse
from sapnet_ros.replay.plan import NodeCamera, Plan
from sapnet_ros.replay.processes import Process, RunError
from sapnet_ros.replay.publisher_node import PlayerError, PlayerStopped
from sapnet_ros.reports import Status

LOOK_S = 0.1
# Diagnostics come every second.
DIAGNOSTICS_TIMEOUT_S = 5.0
# How many of them say that no frame is in flight before what is missing is given up.
IDLE_REPORTS = 5
# The least specific key, which a file of the user's overrides, and one that overrides every file; see
# launching.parameter_file.
BELOW, ABOVE = "/**", "/**/*"
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class ReplaySettings:
    """What to play, and how.

    play, record: further arguments of ``bag_publisher`` and ``bag_recorder``. node_parameters: override the
    params_file. output: where the recording will be moved; None for none.
    """

    plan: Plan
    output: Path | None
    play: list[str] = field(default_factory=list)
    record: list[str] = field(default_factory=list)
    node_parameters: dict[str, Any] = field(default_factory=dict)
    params_file: Path | None = None


class Answer(NamedTuple):
    """What the recorder notes of a frame_status. came_ns: steady time of receipt."""

    camera: str
    stamp_ns: int
    came_ns: int
    outcome: str


class ReplayRun:
    """One run in ``folder``, which must be empty, in the environment's ROS domain. bag: what it leaves there.

    on_progress: receives the number of frames that came back, and the current phase. warn: receives what is unusual.
    """

    def __init__(
        self,
        source: Recording,
        settings: ReplaySettings,
        folder: Path,
        on_progress: Callable[[int, str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._source, self._settings, self._folder = source, settings, folder
        self._on_progress, self._warn = on_progress, warn
        self._sent: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        self._answers: list[Answer] = []
        self._begun = ""  # a line of the recorder's that is not complete yet
        self.bag = folder / "recording" / (settings.output.name if settings.output is not None else "none")

    def perform(self) -> dict[str, Any]:
        """Run to the end and return the figures; with ``--loop``, Ctrl-C is the end.

        Raises SapnetError for wrong input; RunError where a process failed or no frame was derained.
        """
        settings, plan = self._settings, self._settings.plan
        received = self._folder / "received.log"
        received.touch()
        remaps = ["--ros-args", *plan.remap_arguments()]
        record = [*([str(self.bag)] if settings.output is not None else []), *settings.record]
        record += [*plan.recorder_arguments(), "--received", str(received), *remaps, "-p", "use_sim_time:=true"]
        play = parse([str(self._source.path), *settings.play, *plan.publisher_arguments(recorder=True)])
        with ExitStack() as running:
            self._received = running.enter_context(received.open())
            self._node = self._start(running, "sapnet_ros.derain_node", [*remaps, *self._node_parameters()])
            self._recorder = self._start(running, "sapnet_ros.replay.recorder", record)
            # SIGTERM ends this program as any other of its commands, and an ignored Ctrl-C stays ignored.
            signals = [number for number in (SIGINT, SIGUSR1) if getsignal(number) != SIG_IGN]
            with open_playback(self._source, play, self._warn, [], signals) as playback:
                playback.player.call_every(LOOK_S, lambda: self._look(playback))
                try:
                    playback.run(self._note_sent)
                except PlayerError as err:
                    raise RunError(f"{err}\n{self._node}") from err
                except PlayerStopped:
                    if not play.loop:
                        raise
                self._wait_for_final_diagnostics(playback)
                self._look(playback)
            if self._recorder.stop():
                raise RunError(str(self._recorder))
        return self._summarize(playback)

    def outcomes(self) -> dict[int, str]:
        """``derained`` or ``passed_through``, by the stamps of the frames that came back from all cameras."""
        return {answer.stamp_ns: answer.outcome for answer in self._answers}

    def _start(self, running: ExitStack, module: str, arguments: list[str]) -> Process:
        process = Process(module, arguments, self._folder / f"{module}.log")
        running.callback(process.stop)
        return process

    def _node_parameters(self) -> list[str]:
        settings, plan = self._settings, self._settings.plan
        files = [self._parameter_file("below.yaml", BELOW, {"warmup_sizes": plan.sizes})]
        files += [settings.params_file] if settings.params_file is not None else []
        files.append(self._parameter_file("above.yaml", ABOVE, {**plan.parameters, **settings.node_parameters}))
        return [word for file in files for word in ("--params-file", str(file))]

    def _parameter_file(self, name: str, key: str, values: dict[str, Any]) -> Path:
        # JSON is YAML in which every text is quoted: the node's parser takes a bare 1e5 or no for something else.
        path = self._folder / name
        path.write_text(json.dumps({key: {"ros__parameters": values}}))
        return path

    def _note_sent(self, frame: Message) -> None:
        try:
            stamp_ns = header_stamp(frame.data)
        except MessageError:  # truncated
            stamp_ns = frame.time_ns
        self._sent[frame.topic.name][stamp_ns].append(time.monotonic_ns())

    def _look(self, playback: Playback) -> None:
        """Tell progress. Raises RunError where a process has ended, or the node cannot derain."""
        self._node.check()
        self._recorder.check()
        returned, backend = self._returned(), playback.answers.report.parts.get("backend")
        starting = backend.message if backend is not None else "starting"
        if backend is not None and backend.level == "ERROR" and not returned:
            raise RunError(f"derain_node cannot derain: {backend.message}")
        self._on_progress(returned, "deraining" if returned else starting)

    def _returned(self) -> int:
        """Frames whose status the recorder has noted."""
        *lines, self._begun = (self._begun + self._received.read()).split("\n")
        for line in lines:
            camera, stamp, came, outcome = line.split()
            self._answers.append(Answer(camera, int(stamp), int(came), outcome))
        return len(self._answers)

    def _wait_for_final_diagnostics(self, playback: Playback) -> None:
        """Wait until the node's figures include the last frame, and the recorder has what it could still receive.

        However long a frame takes, the node reports it as in flight.
        """
        answers = playback.answers
        sent = sum(len(times) for frames in self._sent.values() for times in frames.values())
        answers.idle_reports, answers.report_s = 0, time.monotonic()

        def is_complete() -> bool:
            if not answers.idle_reports or answers.total("received", "lost_in_transport") < sent:
                return False
            return self._returned() >= answers.total("derained", "passed_through")

        def has_ended() -> bool:
            is_silent = time.monotonic() - answers.report_s > DIAGNOSTICS_TIMEOUT_S
            return is_complete() or is_silent or answers.idle_reports >= IDLE_REPORTS

        playback.player.spin_until(has_ended, math.inf)
        if not answers.idle_reports:
            raise RunError(f"derain_node has sent no diagnostics for {DIAGNOSTICS_TIMEOUT_S:g} s")

    def _summarize(self, playback: Playback) -> dict[str, Any]:
        settings, report = self._settings, playback.answers.report
        cameras = [self._camera_figures(camera, report.cameras[camera.label]) for camera in settings.plan.cameras]
        if not any(camera["derained"] for camera in cameras):
            reasons = json.dumps([camera["reasons"] for camera in cameras])
            raise RunError(f"none of {sum(c['sent'] for c in cameras)} frames was derained: {reasons}")
        missed = sum(c["derained"] + c["passed_through"] - c["recorded"] for c in cameras)
        backend = report.parts["backend"].values
        return {
            "input": str(self._source.path),
            "output": str(settings.output) if settings.output is not None else None,
            "rate": playback.args.rate,
            "lockstep": settings.plan.lockstep,
            "cameras": cameras,
            "network": {name: backend.get(name, "") for name in ("weights", "backend", "precision", "device")},
            "notes": [f"the recorder missed {missed} frames that came out"] if missed else [],
        }

    def _camera_figures(self, camera: NodeCamera, reported: Status) -> dict[str, Any]:
        topic = camera.source.topic.name
        sent, answers = self._sent[topic], [answer for answer in self._answers if answer.camera == camera.label]
        counts = ("received", "derained", "passed_through", "dropped", "lost_in_transport")
        return {
            "topic": topic,
            "derained_topic": camera.source.output("derained/image"),
            "sent": sum(map(len, sent.values())),
            **{name: int(reported.values[name]) for name in counts},
            "recorded": len(answers),
            "reasons": {fate: _reasons(reported.values, f"{fate}_") for fate in ("passed_through", "dropped")},
            "latency_ms": _percentiles(
                [
                    (answer.came_ns - _last_before(sent[answer.stamp_ns], answer.came_ns)) / 1e6
                    for answer in answers
                    if answer.outcome == "derained"
                ]
            ),
        }


def _reasons(values: dict[str, str], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): int(count) for name, count in values.items() if name.startswith(prefix)}


def _last_before(sent_ns: list[int], time_ns: int) -> int:
    """When a frame was last sent before ``time_ns``; a recording that is looped has sent it several times."""
    return sent_ns[bisect_right(sent_ns, time_ns) - 1]


def _percentiles(latencies: list[float]) -> dict[str, float] | None:
    if not latencies:
        return None
    values = np.percentile(latencies, PERCENTILES)
    return {f"p{percent}": round(float(value), 2) for percent, value in zip(PERCENTILES, values, strict=True)}
