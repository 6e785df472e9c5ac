"""What measures derain_node: the node, a player of cameras and a monitor, each a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
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
from sapnet_ros.reports import read

READY_S = 60.0
ACK_S = 5.0
DEPTH = 100
STOP_S = 10.0
CAMERAS = ("front", "left", "right", "rear")
COUNTS = ("received", "derained", "passed_through", "dropped", "lost_in_transport", "in_flight")
SUFFIXES = {Image: "", CompressedImage: "/compressed"}  # of topics
SPAWN = multiprocessing.get_context("spawn")  # rclpy does not survive a fork


@contextlib.contextmanager
def running_node(*parameters: str) -> Iterator[subprocess.Popen[bytes]]:
    """A derain_node process with these parameters, written ``name:=value``."""
    words = [word for parameter in parameters for word in ("-p", parameter)]
    command = [sys.executable, "-m", "sapnet_ros.derain_node", "--ros-args", "--log-level", "warn", *words]
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def beside(work: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """``work(connection, *arguments)`` in a ROS process; the other end of the connection, closed with the process."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_with_ros, args=(work, theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()


def _with_ros(work: Callable[..., None], *arguments: Any) -> None:
    rclpy.init()
    work(*arguments)
    rclpy.try_shutdown()


def play(
    ours: Connection, cameras: Sequence[str], shape: tuple[int, int], rate: float, seconds: float, kind: type
) -> None:
    """Play all cameras, by messages of a type. Sends a word when everybody listens, and at the end how many frames."""
    node = rclpy.create_node("cameras")
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    frame = cv2.GaussianBlur(noise, (0, 0), 2)  # noise alone is no JPEG that a camera would send
    # Deep, so that nothing is lost on this side when the machine is busy elsewhere for a moment.
    profile = QoSProfile(depth=DEPTH)
    publishers = {name: node.create_publisher(kind, f"{name}/image{SUFFIXES[kind]}", profile) for name in cameras}
    if kind is Image:
        message = image_message(Image().header, frame, "bgr8")
    else:
        message = CompressedImage(format="bgr8; jpeg compressed bgr8")
        message.data = array("B", cv2.imencode(".jpg", frame)[1].tobytes())
    end_s = time.monotonic() + READY_S
    while any(publisher.get_subscription_count() == 0 for publisher in publishers.values()):
        if time.monotonic() > end_s:
            sys.exit("nobody subscribes to the cameras")
        time.sleep(0.05)
    ours.send("ready")
    begin_s, number = time.monotonic(), 0
    pause_s = 1 / (rate * len(cameras))
    # The cameras one after another: as on a vehicle, where they do not all fire at once.
    while number * pause_s < seconds:
        time.sleep(max(0.0, begin_s + number * pause_s - time.monotonic()))
        name = cameras[number % len(cameras)]
        message.header.frame_id = f"{name}_optical"
        message.header.stamp = node.get_clock().now().to_msg()
        publishers[name].publish(message)
        number += 1
    for publisher in publishers.values():
        publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=ACK_S))
    ours.send(number)


def monitor(ours: Connection, cameras: Sequence[str], kind: type, masks: bool) -> None:
    """Take every derained frame, and every mask, until a word comes.

    Then sends, for each camera, the stamps of the frames that came, and when they came, in nanoseconds; and the sum of
    each figure that the node told of its cameras last.
    """
    node = rclpy.create_node("monitor")
    came: dict[str, list[tuple[int, int]]] = {name: [] for name in cameras}
    told: dict[str, dict[str, str]] = {}

    def note(message: Any, name: str) -> None:
        stamp = message.header.stamp
        came[name].append((stamp.sec * 10**9 + stamp.nanosec, time.time_ns()))

    def keep(message: DiagnosticArray) -> None:
        for report in read(message):
            told.update({label: status.values for label, status in report.cameras.items()})

    node.create_subscription(DiagnosticArray, "/diagnostics", keep, 10)
    for name in cameras:
        frames = partial(note, name=name)
        node.create_subscription(kind, f"{name}/derained/image{SUFFIXES[kind]}", frames, frames_profile())
        if masks:
            node.create_subscription(Image, f"{name}/streak_mask/image", lambda message: None, frames_profile())
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not ours.poll():
        executor.spin_once(timeout_sec=0.1)
    ours.send((came, {count: sum(int(told.get(name, {}).get(count, 0)) for name in cameras) for count in COUNTS}))


class Usage(NamedTuple):
    """Of derain_node's process, ``seconds`` after the first frame. cpu_percent: of a core, since the moment before."""

    seconds: float
    memory_mb: float
    threads: float
    cpu_percent: float


class Run(NamedTuple):
    """What became of the frames of all cameras.

    arrivals: camera -> stamps of its derained frames and when they came, in nanoseconds. counts: of the node's
    diagnostics, over all cameras. cpu_s: processor time of the node while they were played.
    """

    sent: int
    arrivals: dict[str, list[tuple[int, int]]]
    counts: dict[str, int]
    usage: list[Usage]
    cpu_s: float

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
) -> Run:
    """Play cameras through a derain_node. Every process is started anew, so that nothing is left from another run."""
    height, width = shape
    usage = list[Usage]()
    parameters = (*parameters, f"cameras:=[{','.join(cameras)}]", f"warmup_sizes:=[{height}x{width}]")
    with (
        running_node(*parameters) as node,
        beside(monitor, cameras, kind, masks) as arrivals,
        beside(play, cameras, shape, rate, seconds, kind) as player,
    ):
        player.recv()
        begin_s = last_s = time.monotonic()
        used_s = idle_s = process_usage(node.pid)[0]
        is_over = False
        while not is_over:
            is_over = player.poll(1.0)
            now_s, before_s = time.monotonic(), used_s
            used_s, memory_mb, threads = process_usage(node.pid)
            usage.append(Usage(now_s - begin_s, memory_mb, threads, 100 * (used_s - before_s) / (now_s - last_s)))
            last_s = now_s
        sent: int = player.recv()
        time.sleep(settle_s)
        arrivals.send("end")
        return Run(sent, *arrivals.recv(), usage, used_s - idle_s)


def process_usage(process: int) -> tuple[float, float, float]:
    """Seconds of processor time that a process has used, the megabytes that it holds, and its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    user, system, threads, pages = (int(fields[index]) for index in (11, 12, 17, 21))
    return (user + system) / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 1e6, threads


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
