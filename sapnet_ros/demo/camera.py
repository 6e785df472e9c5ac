"""Frames to topics: publishes a rainy sequence as a camera would, and hears when its frames come back."""

from __future__ import annotations

import argparse
import array
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Bool, Header

from sapnet.errors import SapnetError
from sapnet.images.frame import Frame
from sapnet.media.sequence import BUILTIN_FRAMES, NO_RAIN, RainySequence
from sapnet.rain import RAIN_PRESETS
from sapnet_ros.demo.source import open_input
from sapnet_ros.qos import frames_profile, latched_profile, overridable
from sapnet_ros.replay.waiting import (
    EXIT_FAILED,
    EXIT_INPUT,
    READINESS_CHANGES_S,
    SETTLE_S,
    PlayerError,
    WaitingNode,
    parse_rate,
    stamp_of,
)

ANNOUNCE_PERIOD_S = 0.2
MISSING_IN_A_ROW = 3


@dataclass(frozen=True)
class Sent:
    """A frame on its way. steady_ns: CLOCK_MONOTONIC just before it was published, one clock for all processes."""

    stamp_ns: int
    steady_ns: int
    height: int
    width: int


class Player(WaitingNode):
    """A camera that plays frames on ``image`` with ``camera_info``; header stamps rise strictly, ``qos_overrides`` win.

    It hears derain_node's readiness and ``frame_status``, both relative to the namespace.
    """

    def __init__(self, frame_id: str = "camera", **node_options: Any) -> None:
        super().__init__("player", **node_options)
        self.ready: bool | None = None
        self._frame_id = frame_id
        self._last_stamp_ns = 0
        self._returned: set[int] = set()
        self._announced: set[tuple[int, int]] = set()
        overrides = {"qos_overriding_options": overridable()}
        self._images = self.create_publisher(Image, "image", frames_profile(), **overrides)
        self._infos = self.create_publisher(CameraInfo, "camera_info", frames_profile(), **overrides)
        self.create_subscription(DiagnosticArray, "frame_status", self._on_status, frames_profile())
        self.create_subscription(Bool, "derain_node/ready", self._on_ready, latched_profile())

    def wait_for_subscribers(self, count: int, timeout_s: float) -> None:
        """Until this many listen to ``image``. Raises PlayerError."""
        if not self.spin_until(lambda: self._images.get_subscription_count() >= count, timeout_s):
            found = self._images.get_subscription_count()
            raise PlayerError(f"{found} of {count} subscribers of {self._images.topic_name} after {timeout_s:g} s")
        self.spin_until(lambda: False, SETTLE_S)

    def announce(self, height: int, width: int, timeout_s: float) -> None:
        """Publish camera_info of a size until derain_node is ready for it; once per size. Raises PlayerError."""
        if (height, width) in self._announced:
            return
        deadline = time.monotonic() + timeout_s
        was_ready = self.ready
        self._publish_info(height, width, self._header())
        if was_ready:
            self.spin_until(lambda: not self.ready, READINESS_CHANGES_S)
        while not self.spin_until(lambda: bool(self.ready), ANNOUNCE_PERIOD_S):
            if time.monotonic() > deadline:
                raise PlayerError(f"derain_node is not ready for {height}x{width} frames after {timeout_s:g} s")
            self._publish_info(height, width, self._header())
        self._announced.add((height, width))

    def send(self, frame: Frame) -> Sent:
        """Publish uint8 (H, W, 3) BGR, after its camera_info of equal stamp."""
        header = self._header()
        height, width = frame.shape[:2]
        message = Image(header=header, height=height, width=width, encoding="bgr8", step=3 * width)
        pixels = array.array("B")
        pixels.frombytes(memoryview(np.ascontiguousarray(frame)).cast("B"))
        message.data = pixels
        self._publish_info(height, width, header)
        sent = Sent(stamp_of(header), time.monotonic_ns(), height, width)
        self._images.publish(message)
        return sent

    def wait_returned(self, sent: Sent, timeout_s: float) -> bool:
        """Whether derain_node published this frame, derained or passed through, within the time."""
        return self.spin_until(lambda: sent.stamp_ns in self._returned, timeout_s)

    def _header(self) -> Header:
        # A clock may stand still, or jump back: the stamp is what tells frames apart.
        stamp_ns = max(self.get_clock().now().nanoseconds, self._last_stamp_ns + 1)
        self._last_stamp_ns = stamp_ns
        header = Header(frame_id=self._frame_id)
        header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)
        return header

    def _publish_info(self, height: int, width: int, header: Header) -> None:
        self._infos.publish(camera_info(height, width, header))

    def _on_status(self, message: DiagnosticArray) -> None:
        self._returned.add(stamp_of(message.header))

    def _on_ready(self, message: Bool) -> None:
        self.ready = message.data


def camera_info(height: int, width: int, header: Header) -> CameraInfo:
    """A plain pinhole camera of 53 degrees across."""
    focal, x, y = float(width), width / 2, height / 2
    return CameraInfo(
        header=header,
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[focal, 0.0, x, 0.0, focal, y, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[focal, 0.0, x, 0.0, 0.0, focal, y, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def play(
    player: Player, frames: Iterable[Frame], rate: float, open_loop: bool, ready_s: float, return_s: float
) -> Iterator[Sent]:
    """Send frames, at most ``rate`` a second; yields each once it is done with.

    Closed loop: the next one goes when the last has come back, or after ``return_s``; open loop: at the fixed rate.
    A new frame size is announced first, for at most ``ready_s``. Raises PlayerError.
    """
    next_s, missing, sent = 0.0, 0, None
    for frame in frames:
        height, width = frame.shape[:2]
        player.announce(height, width, ready_s)
        player.spin_until(lambda: False, next_s - time.monotonic())
        now_s = time.monotonic()
        next_s = (max(next_s, now_s - 1 / rate) if open_loop else now_s) + 1 / rate
        sent = player.send(frame)
        if not open_loop:
            missing = 0 if player.wait_returned(sent, return_s) else missing + 1
            if missing == MISSING_IN_A_ROW:
                raise PlayerError(f"derain_node gave none of the last {missing} frames back within {return_s:g} s each")
        yield sent
    if open_loop and sent is not None:
        # The newest frame wins, so the last one comes back; a publisher that ends takes along what is under way.
        player.wait_returned(sent, return_s)


def main(argv: list[str] | None = None) -> int:
    """``python -m sapnet_ros.demo.camera``: 0 when all is played, 1 where nobody answers, 2 on wrong input."""
    args = _parser().parse_args(remove_ros_args(sys.argv if argv is None else ["player", *argv])[1:])
    sequence = RainySequence(args.input, args.rain, args.frames, args.max_width, opener=open_input)
    try:
        with _player(argv) as player:
            player.wait_for_subscribers(args.subscribers, args.ready_timeout)
            frames = (frame.rainy for frame in sequence)
            with args.sent.open("w", buffering=1) if args.sent else nullcontext(sys.stdout) as log:
                for sent in play(player, frames, args.rate, args.open_loop, args.ready_timeout, args.return_timeout):
                    print(sent.stamp_ns, sent.steady_ns, sent.height, sent.width, file=log)
    except (ExternalShutdownException, KeyboardInterrupt):
        return EXIT_FAILED
    except SapnetError as err:
        print(f"player: {err}", file=sys.stderr)
        return EXIT_FAILED if isinstance(err, PlayerError) else EXIT_INPUT
    return 0


@contextmanager
def _player(argv: list[str] | None) -> Iterator[Player]:
    rclpy.init(args=argv)
    player = Player()
    try:
        yield player
    finally:
        player.destroy_node()
        rclpy.try_shutdown()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("player", description="Publish a rainy sequence on image and camera_info.")
    parser.add_argument(
        "input", nargs="?", type=Path, help="image, folder, video or bag (default: built-in photographs)"
    )
    parser.add_argument("--rain", default=NO_RAIN, choices=[NO_RAIN, *RAIN_PRESETS], help="rain to add")
    parser.add_argument("--frames", type=int, default=BUILTIN_FRAMES, help="frames at most; 0 for all")
    parser.add_argument("--max-width", type=int, default=0, help="scale wider frames down; 0 for native")
    parser.add_argument("--rate", type=parse_rate, default=10.0, help="frames per second at most")
    parser.add_argument("--open-loop", action="store_true", help="play at the fixed rate, whatever comes back")
    parser.add_argument("--subscribers", type=int, default=1, help="subscribers of image to wait for")
    parser.add_argument("--ready-timeout", type=float, default=180.0, metavar="S", help="wait for derain_node")
    parser.add_argument("--return-timeout", type=float, default=15.0, metavar="S", help="wait for a frame")
    parser.add_argument("--sent", type=Path, help="write stamp, steady time (ns), height and width here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
