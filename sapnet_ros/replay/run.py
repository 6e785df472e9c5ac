"""One replay: plays a recording to derain_node, records what comes out, and evaluates that."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from sapnet.bags import Message, Recording, Topic
from sapnet.bags.types import MessageError, header_stamp
from sapnet.errors import BagError
from sapnet_ros.replay.lockstep import LOCKSTEP_DEPTH, Lockstep
from sapnet_ros.replay.plan import READY, NodeCamera, Plan
from sapnet_ros.replay.player import (
    READY_TIMEOUT_S,
    SETTLE_S,
    BagPlayer,
    RunError,
    chosen_topics,
    offered_profile,
    span,
    spinning,
)
from sapnet_ros.replay.processes import NodeProcess
from sapnet_ros.replay.recorder import Frames, Recorder, new_bag

# Diagnostics come every second.
DIAGNOSTICS_TIMEOUT_S = 5.0
# The least specific key, which a file of the user's overrides, and one that overrides every file; see
# launching.override_file.
BELOW, ABOVE = "/**", "/**/*"
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class ReplaySettings:
    """What to play, and how.

    output: the recording to write, in a folder that exists; None for none. rate: times as fast as recorded. start_s,
    duration_s: of the part to play; 0 for all. cameras_alone: leave out the recording's other topics. status, inputs:
    record frame_status, and the frames that go in. node_parameters: override the params_file. attach: play to a node
    that runs already.
    """

    source: Recording
    plan: Plan
    output: Path | None
    rate: float = 1.0
    start_s: float = 0.0
    duration_s: float = 0.0
    max_gap_s: float = 0.0
    loop: bool = False
    cameras_alone: bool = False
    storage: str = "mcap"
    status: bool = False
    inputs: bool = False
    node_parameters: dict[str, Any] = field(default_factory=dict)
    params_file: Path | None = None
    attach: bool = False


class ReplayRun:
    """One run. folder: for its files. on_progress: receives the number of frames that came back, and the phase.

    warn: receives what is wrong with the recording. The ROS domain is the environment's.
    """

    def __init__(
        self,
        settings: ReplaySettings,
        folder: Path,
        on_progress: Callable[[int, str], object],
        warn: Callable[[str], object],
    ) -> None:
        self._settings, self._source, self._plan = settings, settings.source, settings.plan
        self._span = span(self._source, settings.start_s, settings.duration_s)
        self._folder = folder
        self._on_progress, self._warn = on_progress, warn
        self._warned = 0  # of the recording's notes
        self._node: NodeProcess | None = None

    def perform(self) -> dict[str, Any]:
        """Run to the end and return the figures; with ``loop``, Ctrl-C is the end.

        Raises SapnetError for wrong input; RunError if the node failed or no frame was derained.
        """
        settings = self._settings
        with ExitStack() as stack:
            if not settings.attach:
                self._node = NodeProcess(
                    ["--ros-args", *self._plan.remap_arguments(), *self._node_parameters()], self._folder / "node.log"
                )
                stack.callback(self._node.stop)
            bag = stack.enter_context(new_bag(settings.output, settings.storage) if settings.output else nullcontext())
            context = rclpy.Context()
            rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
            stack.callback(rclpy.shutdown, context=context)
            player = self._player = self._make_player(context)
            stack.callback(player.destroy_node)
            self._recorder = Recorder(
                self._plan.cameras,
                bag,
                lambda: player.told_ns,
                player.changed.set,
                status=settings.status,
                inputs=settings.inputs,
                context=context,
            )
            stack.callback(self._recorder.destroy_node)
            self._raise_failure = stack.enter_context(spinning(player, self._recorder))
            is_whole = self._play()
            if is_whole or not settings.attach:  # Ctrl-C has ended an attached node, too
                self._wait_for_final_diagnostics()
            self._look()
        return self._summarize()

    def outcomes(self) -> dict[int, str]:
        """``derained`` or ``passed_through``, by the stamps of the frames that came back from all cameras."""
        return {stamp: word for frames in self._recorder.frames.values() for stamp, word in frames.outcomes.items()}

    def _node_parameters(self) -> list[str]:
        settings, plan = self._settings, self._plan
        files = [self._parameter_file("below.yaml", BELOW, {"warmup_sizes": plan.sizes})]
        files += [settings.params_file] if settings.params_file is not None else []
        files.append(self._parameter_file("above.yaml", ABOVE, {**plan.parameters, **settings.node_parameters}))
        return [word for file in files for word in ("--params-file", str(file))]

    def _parameter_file(self, name: str, key: str, values: dict[str, Any]) -> Path:
        # JSON is YAML in which every text is quoted: the node's parser takes a bare 1e5 or no for something else.
        path = self._folder / name
        path.write_text(json.dumps({key: {"ros__parameters": values}}))
        return path

    def _make_player(self, context: rclpy.Context) -> BagPlayer:
        settings, cameras = self._settings, [camera.source for camera in self._plan.cameras]
        reliable = [topic for camera in cameras for topic in (camera.topic, camera.info) if topic is not None]
        only = [topic.name for topic in reliable] if settings.cameras_alone else []
        player = BagPlayer(
            chosen_topics(self._source, only, self._plan.outputs),
            self._span[0],
            settings.rate,
            {topic: self._reliable_profile(topic) for topic in reliable},
            max_gap_s=settings.max_gap_s,
            warn=self._warn,
            look=self._look,
            context=context,
        )
        player.listen([READY])
        for camera in cameras:
            if camera.topic in player.skipped:
                raise BagError(f"{camera.topic.name} cannot be published: {player.skipped[camera.topic]}")
        return player

    def _reliable_profile(self, topic: Topic) -> QoSProfile:
        """Reliable whatever was recorded, so that no frame is lost."""
        profile = offered_profile(topic)
        profile.reliability = ReliabilityPolicy.RELIABLE
        if self._plan.lockstep:
            profile.depth = LOCKSTEP_DEPTH
        return profile

    def _play(self) -> bool:
        """Play until the end, or with ``loop`` until Ctrl-C; whether the end was reached."""
        player, recorder = self._player, self._recorder
        frames_of = {camera.source.topic: frames for camera, frames in recorder.frames.items()}
        lockstep = Lockstep(player, recorder)
        send_on = lockstep.send if self._plan.lockstep else player.send

        def send(message: Message) -> None:
            if frames := frames_of.get(message.topic):
                frames.note_sent(_stamp(message))
            send_on(message)

        try:
            player.wait_ready()
            self._wait_connected()
            if self._plan.lockstep:
                lockstep.begin(self._source)
            while True:
                player.play(self._source, self._span, send)
                if not self._settings.loop:
                    return True
        except KeyboardInterrupt:
            if not self._settings.loop or not recorder.answered:
                raise
            return False

    def _wait_connected(self) -> None:
        player, topics = self._player, [camera.source.topic for camera in self._plan.cameras]

        def connected() -> bool:
            return self._recorder.connected and all(map(player.subscribers, topics))

        if not player.wait(connected, READY_TIMEOUT_S):
            raise RunError(f"the topics of derain_node are not connected within {READY_TIMEOUT_S:g} s")
        player.wait(lambda: False, SETTLE_S)

    def _look(self) -> None:
        """Report progress and warnings; raises what has failed."""
        self._raise_failure()
        if self._node is not None:
            self._node.require_running()
        backend, answered = self._recorder.diagnostics.get("backend"), self._recorder.answered
        if backend is not None and backend.level == DiagnosticStatus.ERROR and not answered:
            raise RunError(f"derain_node cannot derain: {backend.message}")
        starting = backend.message if backend is not None else "starting"
        self._on_progress(answered, "deraining" if answered else starting)
        for note in self._source.notes[self._warned :]:
            self._warned += 1
            self._warn(note)

    def _wait_for_final_diagnostics(self) -> None:
        """Wait until the node's figures include the last frame, and the recorder has what it could still receive.

        However long a frame takes, the node reports it as in flight.
        """
        recorder, ended_ns = self._recorder, time.monotonic_ns()
        sent = sum(frames.sent for frames in recorder.frames.values())

        def is_settled() -> bool:
            is_told = recorder.heard_ns > ended_ns and not recorder.total("in_flight")
            came, returned = ("received", "lost_in_transport"), ("derained", "passed_through")
            return is_told and recorder.total(*came) >= sent and recorder.answered >= recorder.total(*returned)

        while not self._player.wait(is_settled, DIAGNOSTICS_TIMEOUT_S):
            if recorder.heard_ns < time.monotonic_ns() - DIAGNOSTICS_TIMEOUT_S * 1e9:
                raise RunError(f"derain_node has sent no diagnostics for {DIAGNOSTICS_TIMEOUT_S:g} s")
            if not recorder.total("in_flight"):
                return  # what is missing does not come any more

    def _summarize(self) -> dict[str, Any]:
        backend = {pair.key: pair.value for pair in self._recorder.diagnostics["backend"].values}
        cameras = [self._camera_figures(camera, frames) for camera, frames in self._recorder.frames.items()]
        if not any(camera["derained"] for camera in cameras):
            reasons = json.dumps([camera["reasons"] for camera in cameras])
            raise RunError(f"none of {sum(c['sent'] for c in cameras)} frames was derained: {reasons}")
        missed = sum(c["derained"] + c["passed_through"] - c["recorded"] for c in cameras)
        return {
            "rate": self._settings.rate,
            "lockstep": self._plan.lockstep,
            "cameras": cameras,
            "network": {name: backend.get(name, "") for name in ("weights", "backend", "precision", "device")},
            "notes": [f"the recorder missed {missed} frames that came out"] if missed else [],
        }

    def _camera_figures(self, camera: NodeCamera, frames: Frames) -> dict[str, Any]:
        values = self._recorder.values(camera)
        counts = ("received", "derained", "passed_through", "dropped", "lost_in_transport")
        return {
            "topic": camera.source.topic.name,
            "derained_topic": camera.source.output("derained/image"),
            "sent": frames.sent,
            **{name: int(values[name]) for name in counts},
            "recorded": frames.answered,
            "reasons": {fate: _reasons(values, f"{fate}_") for fate in ("passed_through", "dropped")},
            "latency_ms": _percentiles(frames.latencies_ms),
        }


def _stamp(message: Message) -> int:
    """Of a frame, or the log time of one that is cut."""
    try:
        return header_stamp(message.data)
    except MessageError:
        return message.time_ns


def _reasons(values: dict[str, str], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): int(count) for name, count in values.items() if name.startswith(prefix)}


def _percentiles(latencies: list[float]) -> dict[str, float] | None:
    if not latencies:
        return None
    values = np.percentile(latencies, PERCENTILES)
    return {f"p{percent}": round(float(value), 2) for percent, value in zip(PERCENTILES, values, strict=True)}
