"""Topics to a rosbag2 recording: writes what a derain_node published, as it came, and when."""

from __future__ import annotations

import argparse
import json
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, TextIO

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, Image

# The input comes last: who waits for its subscribers then knows that the outputs are listened to.
OUTPUTS = {
    "derained/image": Image,
    "derained/camera_info": CameraInfo,
    "streak_mask/image": Image,
    "frame_status": DiagnosticArray,
}
INPUT = "image"
# Deep, for a bag must not lose what the node gave out.
DEPTH = 50


class Recorder(Node):
    """Writes messages to ``bag`` as they come, and a line per message to ``log``.

    log: topic, header stamp and time of receipt on CLOCK_MONOTONIC (both in nanoseconds), and, for frame_status,
    what became of the frame. on_diagnostics: called with each message of /diagnostics as plain values.
    """

    def __init__(
        self,
        bag: Writer,
        log: TextIO,
        on_diagnostics: Callable[[dict[str, Any]], None],
        **node_options: Any,
    ) -> None:
        super().__init__("recorder", **node_options)
        self._bag = bag
        self._log = log
        self._typestore = get_typestore(Stores.ROS2_JAZZY)
        self._input: Any = None
        self.create_subscription(DiagnosticArray, "/diagnostics", lambda message: on_diagnostics(plain(message)), 10)
        for topic, message_type in OUTPUTS.items():
            self._record(topic, message_type)
        self._discovery = self.create_timer(0.1, self._record_input)

    def _record_input(self) -> None:
        if all(self.count_publishers(topic) for topic in OUTPUTS):
            self._discovery.cancel()
            self._record(INPUT, Image)

    def _record(self, topic: str, message_type: type) -> None:
        type_name = message_type.__module__.split(".")[0] + f"/msg/{message_type.__name__}"
        connection = self._bag.add_connection(self.resolve_topic_name(topic), type_name, typestore=self._typestore)
        callback = partial(self._write, topic, connection)
        self.create_subscription(message_type, topic, callback, QoSProfile(depth=DEPTH), raw=True)

    def _write(self, topic: str, connection: Connection, data: bytes) -> None:
        steady_ns = time.monotonic_ns()
        self._bag.write(connection, time.time_ns(), data)
        outcome = deserialize_message(data, DiagnosticArray).status[0].message if topic == "frame_status" else "-"
        print(topic, serialized_stamp(data), steady_ns, outcome, file=self._log)


def serialized_stamp(data: bytes) -> int:
    """Header stamp, in nanoseconds, of a serialized message that begins with a std_msgs/Header."""
    # CDR: four bytes of encapsulation, the second one odd for little-endian, then seconds and nanoseconds.
    sec, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(sec) * 10**9 + int(nanosec)


def plain(message: DiagnosticArray) -> dict[str, Any]:
    """Diagnostics as plain values: status name -> level, message, hardware_id and values."""
    return {
        status.name: {
            "level": status.level[0] if isinstance(status.level, bytes) else status.level,
            "message": status.message,
            "hardware_id": status.hardware_id,
            "values": {pair.key: pair.value for pair in status.values},
        }
        for status in message.status
    }


def _save(path: Path, statuses: dict[str, Any]) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"steady_ns": time.monotonic_ns(), "statuses": statuses}))
    os.replace(unfinished, path)


def main(argv: list[str] | None = None) -> int:
    """``python -m sapnet_ros.recorder``: records until SIGINT or SIGTERM, then closes the bag and returns 0."""
    parser = argparse.ArgumentParser("recorder", description="Record a derain_node's input and outputs.")
    parser.add_argument("bag", type=Path, help="folder to make")
    parser.add_argument("--received", type=Path, required=True, help="write a line for each message here")
    parser.add_argument("--diagnostics", type=Path, required=True, help="keep the newest diagnostics here, as JSON")
    args = parser.parse_args(remove_ros_args(sys.argv if argv is None else ["recorder", *argv])[1:])
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    writer = Writer(args.bag, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer as bag, args.received.open("w", buffering=1) as log:
        recorder = Recorder(bag, log, partial(_save, args.diagnostics))
        executor = SingleThreadedExecutor()
        executor.add_node(recorder)
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()
        recorder.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
