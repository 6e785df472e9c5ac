"""What measures derain_node: the node, a player of cameras and a monitor, each a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from sapnet_ros.camera import image_message
from sapnet_ros.qos import frames_profile
from sapnet_ros.replay.plan import each
from sapnet_ros.replay.processes import Process, own_domain
from sapnet_ros.reports import Report, read
from sapnet_ros.starting import PROFILE_VARIABLES, find_profile

READY_S = 60.0
# Subscriptions know a publisher before it knows them, and what it sends until then is lost.
KNOWN_S = 0.5
ACK_S = 5.0
DEPTH = 100
CAMERAS = ("front", "left", "right", "rear")
COUNTS = ("received", "derained", "passed_through", "dropped", "lost_in_transport", "in_flight")
SUFFIXES = {Image: "", CompressedImage: "/compressed"}  # of topics
SPAWN = multiprocessing.get_context("spawn")  # rclpy does not survive a fork


@contextmanager
def beside(work: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """``work(connection, *arguments)`` in a process, which ends with the connection; its other end."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=work, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    with ours:
        yield ours
    process.join()


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """End the process with a message where a condition does not come true."""
    end_s = time.monotonic() + READY_S
    while not condition():
        if time.monotonic() > end_s:
            sys.exit(otherwise)
        time.sleep(0.05)


def play(
    ours: Connection, cameras: Sequence[str], shape: tuple[int, int], rate: float, seconds: float, kind: type
) -> None:
    """Play all cameras, by messages of a type. Sends a word when the node listens, begins at a word, and sends how many
    frames there were.
    """
    rclpy.init()
    node = rclpy.create_node("cameras")
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    frame = cv2.GaussianBlur(noise, (0, 0), 2)  # noise alone is no JPEG that a camera would send
    # Deep, so that nothing is lost on this side when the machine is busy elsewhere for a moment.
    profile = QoSProfile(depth=DEPTH)
    publishers = [node.create_publisher(kind, f"{name}/image{SUFFIXES[kind]}", profile) for name in cameras]
    if kind is Image:
        message = image_message(Image().header, frame, "bgr8")
    else:
        message = CompressedImage(format="bgr8; jpeg compressed bgr8")
        message.data = array("B", cv2.imencode(".jpg", frame)[1].tobytes())
    wait_until(lambda: all(each.get_subscription_count() for each in publishers), "nobody subscribes to the cameras")
    ours.send("ready")
    ours.recv()
    begin_s, number = time.monotonic(), 0
    pause_s = 1 / (rate * len(cameras))
    # The cameras one after another: as on a vehicle, where they do not all fire at once.
    while number * pause_s < seconds:
        time.sleep(max(0.0, begin_s + number * pause_s - time.monotonic()))
        camera = number % len(cameras)
        message.header.frame_id = f"{cameras[camera]}_optical"
        message.header.stamp = node.get_clock().now().to_msg()
        publishers[camera].publish(message)
        number += 1
    for publisher in publishers:
        publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=ACK_S))
    ours.send(number)
    rclpy.shutdown()


def monitor(ours: Connection, cameras: Sequence[str], kind: type, masks: bool) -> None:
    """Take every derained frame, and every mask. Sends a word when the node publishes them, and ends at a word.

    Then sends, for each camera, the stamps of the frames that came, and when they came, in nanoseconds; and what the
    node reported and when, in seconds of the monotonic clock.
    """
    rclpy.init()
    node = rclpy.create_node("monitor")
    came: dict[str, list[tuple[int, int]]] = {name: [] for name in cameras}
    reports: list[tuple[float, Report]] = []

    def note(message: Any, name: str) -> None:
        stamp = message.header.stamp
        came[name].append((stamp.sec * 10**9 + stamp.nanosec, time.time_ns()))

    def keep(message: DiagnosticArray) -> None:
        reports.extend((time.monotonic(), report) for report in read(message))

    taken = [(DiagnosticArray, "/diagnostics", keep)]
    for name in cameras:
        taken.append((kind, f"{name}/derained/image{SUFFIXES[kind]}", partial(note, name=name)))
        if masks:
            taken.append((Image, f"{name}/streak_mask/image", lambda message: None))
    subscriptions = [node.create_subscription(*each, frames_profile()) for each in taken]
    wait_until(lambda: all(each.get_publisher_count() for each in subscriptions), "nobody derains the cameras")
    ours.send("ready")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not ours.poll():
        executor.spin_once(timeout_sec=0.1)
    ours.send((came, reports))
    rclpy.shutdown()


class Usage(NamedTuple):
    """Of derain_node's process in a second, which ended ``seconds`` after the first frame. cpu_percent: of a core."""

    seconds: float
    memory_mb: float
    threads: float
    cpu_percent: float


class Run(NamedTuple):
    """What became of the frames of all cameras.

    arrivals: camera -> stamps of its derained frames and when they came, in nanoseconds. usage: second by second while
    they were played, and counts over all cameras, by the node's diagnostics.
    """

    sent: int
    arrivals: dict[str, list[tuple[int, int]]]
    counts: dict[str, int]
    usage: list[Usage]

    @property
    def lost(self) -> int:
        """Frames that did not arrive."""
        return self.sent - sum(map(len, self.arrivals.values()))


def run(
    cameras: Sequence[str],
    shape: tuple[int, int],
    rate: float,
    seconds: float,
    *parameters: str,
    kind: type = Image,
    masks: bool = False,
    settle_s: float = 1.0,
    profile: bool = True,
) -> Run:
    """Play cameras through a derain_node. Every process is started anew, so that nothing is left from another run.

    parameters: of the node, written ``name:=value``. settle_s: for what comes after the last frame. profile: use the
    Fast DDS profile of the launch files.
    """
    height, width = shape
    parameters = (*parameters, f"cameras:=[{','.join(cameras)}]", f"warmup_sizes:=[{height}x{width}]")
    words = ["--ros-args", "--log-level", "warn", *each("-p", parameters)]
    with TemporaryDirectory() as logs, own_domain(Path(logs)), ExitStack() as stack:
        if profile:
            os.environ |= dict.fromkeys(PROFILE_VARIABLES, str(find_profile()))
        node = Process("sapnet_ros.derain_node", words, Path(logs) / "node.log", {})
        stack.callback(node.stop)
        listener = stack.enter_context(beside(monitor, cameras, kind, masks))
        player = stack.enter_context(beside(play, cameras, shape, rate, seconds, kind))
        try:
            player.recv()
            listener.recv()
            time.sleep(KNOWN_S)
            player.send("begin")
            begin_s = time.monotonic()
            sent, end_s = player.recv(), time.monotonic()
            time.sleep(settle_s)
            listener.send("end")
            arrivals, reports = listener.recv()
        except (EOFError, BrokenPipeError):  # one of them has ended, and said why
            sys.exit(str(node))
    _, last = reports[-1]
    counts = {name: sum(int(camera.values[name]) for camera in last.cameras.values()) for name in COUNTS}
    usage = [
        Usage(at_s - begin_s, *(float(report.parts["process"].values[name]) for name in Usage._fields[1:]))
        for at_s, report in reports
        if begin_s + 1 <= at_s <= end_s
    ]
    return Run(sent, arrivals, counts, usage)
