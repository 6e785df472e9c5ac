"""A player and a monitor, each a process of its own, for what measures derain_node.

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
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

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
    with _process(__file__, "read", "--cameras", *cameras, stdout=subprocess.DEVNULL):
        yield


@contextlib.contextmanager
def monitoring(cameras: Sequence[str], transport: str) -> Iterator[subprocess.Popen[bytes]]:
    """One subscriber of every derained frame; see ``arrivals``."""
    arguments = ("read", "--frames-only", "--transport", transport, "--cameras", *cameras)
    with _process(__file__, *arguments, stdout=subprocess.PIPE) as process:
        yield process


def arrivals(monitor: subprocess.Popen[bytes]) -> dict[str, list[tuple[int, int]]]:
    """End the monitor: for each camera the stamps of the frames that came, and when they came; nanoseconds."""
    monitor.terminate()
    assert monitor.stdout is not None
    found: dict[str, list[tuple[int, int]]] = json.load(monitor.stdout)
    return found


def publish(
    cameras: Sequence[str], shape: tuple[int, int], rate: float, seconds: float, transport: str = "raw"
) -> subprocess.Popen[bytes]:
    """Start the player. transport: raw or compressed.

    It prints a line when everybody listens, and at the end a line of JSON: ``sent``, the number of frames of each
    camera, and ``seconds``.
    """
    height, width = shape
    arguments = ["--cameras", *cameras, "--shape", f"{height}x{width}", "--rate", str(rate), "--seconds", str(seconds)]
    command = [sys.executable, __file__, "publish", "--transport", transport, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


@contextlib.contextmanager
def _process(*arguments: str, stdout: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, *arguments], stdout=stdout)
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
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    frame = cv2.GaussianBlur(noise, (0, 0), 2)  # noise alone is no JPEG that a camera would send
    messages: dict[str, Any] = {}
    # Deep, so that nothing is lost on this side when the machine is busy elsewhere for a moment.
    profile = QoSProfile(depth=DEPTH)
    kind, suffix = (CompressedImage, "/compressed") if args.transport == "compressed" else (Image, "")
    publishers = {name: node.create_publisher(kind, f"{name}/image{suffix}", profile) for name in args.cameras}
    for name in args.cameras:
        messages[name] = image_message(Image().header, frame, "bgr8") if kind is Image else _jpeg(frame)
        messages[name].header.frame_id = f"{name}_optical"
    end_s = time.monotonic() + READY_S
    while any(publisher.get_subscription_count() == 0 for publisher in publishers.values()):
        if time.monotonic() > end_s:
            sys.exit("nobody subscribes to the cameras")
        time.sleep(0.05)
    print("ready", flush=True)
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
    node = rclpy.create_node("monitor")
    came: dict[str, list[tuple[int, int]]] = {name: [] for name in args.cameras}

    def note(message: Any, name: str) -> None:
        stamp = message.header.stamp
        came[name].append((stamp.sec * 10**9 + stamp.nanosec, time.time_ns()))

    kind, suffix = (CompressedImage, "/compressed") if args.transport == "compressed" else (Image, "")
    for name in args.cameras:
        frames = partial(note, name=name)
        node.create_subscription(kind, f"{name}/derained/image{suffix}", frames, frames_profile())
        if not args.frames_only:
            node.create_subscription(Image, f"{name}/streak_mask/image", lambda message: None, frames_profile())
    with contextlib.suppress(ExternalShutdownException):
        rclpy.spin(node)
    print(json.dumps(came))


def _jpeg(frame: np.ndarray) -> CompressedImage:
    message = CompressedImage(format="bgr8; jpeg compressed bgr8")
    message.data = array("B", cv2.imencode(".jpg", frame)[1].tobytes())
    return message


def main() -> None:
    """Publish or read, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("publish", "read"))
    parser.add_argument("--cameras", nargs="+", default=CAMERAS)
    parser.add_argument("--shape", default="360x640")
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--transport", choices=("raw", "compressed"), default="raw")
    parser.add_argument("--frames-only", action="store_true", help="read no masks")
    args = parser.parse_args()
    isolate()
    rclpy.init()
    (_publish if args.what == "publish" else _read)(args)
    rclpy.try_shutdown()


def isolate() -> None:
    """Keep what this process and its children say on this host, in a domain of its own, and have large frames fit."""
    use_profile(True)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", "91")


def use_profile(wanted: bool) -> None:
    """Give the processes that are started from now on the Fast DDS profile of the launch files, or none."""
    profile = str(Path(__file__).resolve().parents[1] / "config" / "fastdds.xml")
    for variable in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        if wanted:
            os.environ[variable] = profile
        else:
            os.environ.pop(variable, None)


if __name__ == "__main__":
    main()
