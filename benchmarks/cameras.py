"""Cameras and a reader, each a process of its own, for what measures derain_node.

``python benchmarks/cameras.py publish --cameras front rear --shape 360x640 --rate 30 --seconds 60``
``python benchmarks/cameras.py read --cameras front rear``
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from sapnet_ros.camera import image_message
from sapnet_ros.qos import frames_profile

READY_S = 60.0
ACK_S = 5.0
DEPTH = 100
STOP_S = 10.0
CAMERAS = ("front", "left", "right", "rear")


@contextlib.contextmanager
def running_node(*parameters: str) -> Iterator[subprocess.Popen[bytes]]:
    """A derain_node process with these parameters, written ``name:=value``."""
    words = [word for parameter in parameters for word in ("-p", parameter)]
    with _process("-m", "sapnet_ros.derain_node", "--ros-args", "--log-level", "warn", *words) as process:
        yield process


@contextlib.contextmanager
def reading(cameras: Sequence[str]) -> Iterator[None]:
    """One subscriber of every derained frame and mask."""
    with _process(__file__, "read", "--cameras", *cameras):
        yield


def publish(cameras: Sequence[str], shape: tuple[int, int], rate: float, seconds: float) -> subprocess.Popen[bytes]:
    """Start the cameras' process; on its stdout stands JSON in the end: how many frames each camera sent."""
    height, width = shape
    arguments = ["--cameras", *cameras, "--shape", f"{height}x{width}", "--rate", str(rate), "--seconds", str(seconds)]
    return subprocess.Popen([sys.executable, __file__, "publish", *arguments], stdout=subprocess.PIPE)


@contextlib.contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, *arguments])
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Watch(Node):
    """Keeps the newest diagnostics of derain_node, and every latency that its frame_status says."""

    def __init__(self, cameras: Sequence[str]) -> None:
        super().__init__("watch")
        self.statuses: dict[str, dict[str, str]] = {}
        self.latencies_ms: list[float] = []
        self.create_subscription(DiagnosticArray, "/diagnostics", self._keep, 10)
        for camera in cameras:
            self.create_subscription(DiagnosticArray, f"{camera}/frame_status", self.note, 1000)

    def spin_for(self, seconds: float) -> None:
        """Listen for so long."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            rclpy.spin_once(self, timeout_sec=left_s)

    def count(self, camera: str, name: str) -> int:
        """A figure of a camera; 0 before it was told."""
        return int(self.statuses.get(camera, {}).get(name, 0))

    def _keep(self, message: DiagnosticArray) -> None:
        for status in message.status:
            node, _, what = status.name.partition(": ")
            if node.endswith("/derain_node"):
                self.statuses[what] = {pair.key: pair.value for pair in status.values} | {"message": status.message}

    def note(self, message: DiagnosticArray) -> None:
        """Note a frame's status."""
        for pair in message.status[0].values:
            if pair.key == "latency_ms":
                self.latencies_ms.append(float(pair.value))


def _publish(args: argparse.Namespace) -> None:
    height, width = map(int, args.shape.split("x"))
    node = rclpy.create_node("cameras")
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    messages: dict[str, Any] = {}
    # Deep, so that nothing is lost on this side when the machine is busy elsewhere for a moment.
    profile = QoSProfile(depth=DEPTH)
    publishers = {name: node.create_publisher(Image, f"{name}/image", profile) for name in args.cameras}
    for name in args.cameras:
        messages[name] = image_message(Image().header, frame, "bgr8")
        messages[name].header.frame_id = f"{name}_optical"
    end_s = time.monotonic() + READY_S
    while any(publisher.get_subscription_count() == 0 for publisher in publishers.values()):
        if time.monotonic() > end_s:
            sys.exit("nobody subscribes to the cameras")
        time.sleep(0.05)
    sent = dict.fromkeys(args.cameras, 0)
    begin_s, number = time.monotonic(), 0
    pause_s = 1 / (args.rate * len(args.cameras))
    # The cameras one after another: as on a vehicle, where they do not all fire at once.
    while number * pause_s < args.seconds:
        time.sleep(max(0.0, begin_s + number * pause_s - time.monotonic()))
        name = args.cameras[number % len(args.cameras)]
        messages[name].header.stamp = node.get_clock().now().to_msg()
        publishers[name].publish(messages[name])
        sent[name] += 1
        number += 1
    seconds = time.monotonic() - begin_s
    for publisher in publishers.values():
        publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=ACK_S))
    print(json.dumps({"sent": sent, "seconds": round(seconds, 2)}))


def _read(args: argparse.Namespace) -> None:
    node = rclpy.create_node("reader")
    for name in args.cameras:
        for topic in ("derained/image", "streak_mask/image"):
            node.create_subscription(Image, f"{name}/{topic}", lambda message: None, frames_profile())
    with contextlib.suppress(ExternalShutdownException):
        rclpy.spin(node)


def main() -> None:
    """Publish or read, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("publish", "read"))
    parser.add_argument("--cameras", nargs="+", default=CAMERAS)
    parser.add_argument("--shape", default="360x640")
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    isolate()
    rclpy.init()
    (_publish if args.what == "publish" else _read)(args)
    rclpy.try_shutdown()


def isolate() -> None:
    """Keep what this process and its children say on this host, in a domain of its own, and have large frames fit.

    The launch files give derain_node the same Fast DDS profile.
    """
    profile = str(Path(__file__).resolve().parents[1] / "config" / "fastdds.xml")
    for variable in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        os.environ.setdefault(variable, profile)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", "91")


if __name__ == "__main__":
    main()
