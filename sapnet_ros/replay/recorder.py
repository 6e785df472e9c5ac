"""Records what a derain_node publishes as rosbag2, and logs when each frame's status came."""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any, TextIO

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Bool

from sapnet.bags.types import IMAGE, described_topic, header_stamp
from sapnet.bags.writer import BagWriter
from sapnet.errors import BagError
from sapnet.images.topics import DERAINED_INFO, FRAME_STATUS, RAIN_SCORE, RECORDED, Output
from sapnet_ros.camera import TYPES, Topics
from sapnet_ros.qos import latched_profile
from sapnet_ros.replay.plan import EXIT_INPUT

# Deep, so that no output of the node is lost.
DEPTH = 50


@dataclass
class _Frames:
    """What has come of a camera's frames, by counting: each output keeps the order of frames.

    status: that of the last frame, until all outputs of the frame have come.
    """

    camera: str
    counts: dict[Output, int]
    status: bytes | None = None


class Recorder(Node):
    """Writes the outputs of a derain_node's cameras to ``bag``, if there is one, at the times of the node's clock.

    args: of the command line. log: receives a line for each frame_status: camera, header stamp, time of receipt on
    CLOCK_MONOTONIC (both in nanoseconds), and the outcome.

    The subscription of simulated time is reliable: a player that waits until /clock is acknowledged, as it does in
    lockstep, determines the log time of what it sends next.

    ``~/ready`` is true once all outputs and /clock are connected; ``~/recorded`` repeats a frame_status once all
    outputs of the frame are written.
    """

    def __init__(self, bag: BagWriter | None, log: TextIO | None, args: argparse.Namespace) -> None:
        super().__init__("recorder")
        self._bag, self._log = bag, log
        self._simulated_ns: int | None = None  # before the first message of /clock
        self._is_simulated = bool(self.get_parameter("use_sim_time").value)
        if self._is_simulated:
            # First, so that the time is updated before the messages that came after it are handled. Reliable; the
            # newest counts.
            self.create_subscription(Clock, "/clock", self._note_time, QoSProfile(depth=1))
        self._ready = self.create_publisher(Bool, "~/ready", latched_profile())
        self._recorded = self.create_publisher(DiagnosticArray, "~/recorded", QoSProfile(depth=DEPTH))
        self._subscribed: list[Any] = []
        for camera in args.camera or [""]:
            topics = Topics(self, camera, "raw")
            outputs = [output for output in RECORDED if output is not DERAINED_INFO or camera not in args.without_info]
            outputs = [*(outputs if bag is not None else ()), FRAME_STATUS]
            frames = _Frames(camera or "camera", dict.fromkeys(outputs, 0))
            for output in outputs:
                written = args.status or output is not FRAME_STATUS
                self._record(topics.outputs[output], output.type, partial(self._take_output, frames, output), written)
            if args.input:
                self._record(topics.image, IMAGE, lambda data, came_ns: None)
        # Steady: simulated time may not start before we are ready.
        steady = RosClock(clock_type=ClockType.STEADY_TIME)
        self._discovery = self.create_timer(0.1, self._look_for_publishers, clock=steady)

    def _record(self, topic: str, kind: str, on_message: Callable[[bytes, int], None], written: bool = True) -> None:
        """Subscribe. on_message: called with each message once it is written, and with the steady time of receipt."""
        bag, connection = self._bag if written else None, 0
        if bag is not None:
            connection = bag.add(described_topic(self.resolve_topic_name(topic), kind, ()))

        def take(data: bytes) -> None:
            came_ns = time.monotonic_ns()
            if bag is not None:
                now_ns = self._simulated_ns if self._is_simulated else self.get_clock().now().nanoseconds
                bag.write(connection, now_ns or 0, data)
            on_message(data, came_ns)

        self._subscribed.append(self.create_subscription(TYPES[kind], topic, take, QoSProfile(depth=DEPTH), raw=True))

    def _take_output(self, frames: _Frames, output: Output, data: bytes, came_ns: int) -> None:
        frames.counts[output] += 1
        if output is FRAME_STATUS:
            outcome = deserialize_message(data, DiagnosticArray).status[0].message
            frames.status = data
            if outcome != "derained" and RAIN_SCORE in frames.counts:
                frames.counts[RAIN_SCORE] += 1  # such a frame has none
            if self._log is not None:
                self._log.write(f"{frames.camera} {header_stamp(data)} {came_ns} {outcome}\n")
        if frames.status is not None and len(set(frames.counts.values())) == 1:
            self._recorded.publish(frames.status)
            frames.status = None

    def _look_for_publishers(self) -> None:
        has_time = self._simulated_ns is not None or not self._is_simulated
        if has_time and all(subscription.get_publisher_count() for subscription in self._subscribed):
            self._discovery.cancel()
            self._ready.publish(Bool(data=True))

    def _note_time(self, message: Clock) -> None:
        self._simulated_ns = message.clock.sec * 10**9 + message.clock.nanosec


@contextmanager
def new_bag(path: Path, storage: str) -> Iterator[BagWriter]:
    """A recording to write, mcap compressed, which is moved to ``path`` when it is complete. Raises BagError."""
    if path.exists():
        raise BagError(f"{path} exists already; give another name for the recording")
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{path.name}_", dir=path.absolute().parent) as folder:
            with BagWriter(Path(folder) / path.name, storage, "chunk" if storage == "mcap" else "none") as bag:
                yield bag
            os.rename(Path(folder) / path.name, path)
    except (OSError, sqlite3.Error) as err:
        why = (err.strerror or err) if isinstance(err, OSError) else err
        raise BagError(f"{path} cannot be written ({why})") from err


def main(argv: list[str] | None = None) -> int:
    """``python -m sapnet_ros.replay.recorder``: records until SIGINT or SIGTERM, then closes the bag and returns 0.

    2 if the recording cannot be written.
    """
    args = _parser().parse_args(remove_ros_args(sys.argv if argv is None else ["recorder", *argv])[1:])
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    made = new_bag(args.bag, args.storage) if args.bag else nullcontext()
    noted = args.received.open("w", buffering=1) if args.received else nullcontext()
    try:
        with made as bag, noted as log:
            recorder, executor = Recorder(bag, log, args), SingleThreadedExecutor()
            executor.add_node(recorder)
            while not stop.is_set():
                executor.spin_once(timeout_sec=0.1)
            executor.shutdown()
            recorder.destroy_node()
    except BagError as err:
        print(f"recorder: {err}", file=sys.stderr)
        return EXIT_INPUT
    finally:
        rclpy.try_shutdown()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "recorder", description="Record a derain_node's outputs until Ctrl-C. Remap its topics as those of the node."
    )
    parser.add_argument("bag", nargs="?", type=Path, help="rosbag2 folder to write (default: none)")
    parser.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap")
    parser.add_argument("--camera", action="append", metavar="NAME", help="camera of the node; may be repeated")
    parser.add_argument(
        "--without-info", action="append", default=[], metavar="NAME", help="camera without camera_info"
    )
    parser.add_argument("--status", action="store_true", help="record frame_status, which holds latencies")
    parser.add_argument("--input", action="store_true", help="record the input image")
    parser.add_argument("--received", type=Path, help="log a line for each frame_status")
    return parser


if __name__ == "__main__":
    sys.exit(main())
