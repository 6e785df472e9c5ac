"""A derain_node with every frame on record: each must have one fate, and leave in the order in which it came."""

from __future__ import annotations

import array
import itertools
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Bool

from live import ROOT, NodeProcess, Peer, image, repeating, wait_for
from sapnet_ros.params import BY_NAME

SIZE = HEIGHT, WIDTH = 48, 64
# So deep is every queue of frames, that a busy machine loses none between the test and the node.
DEPTH = 2000
NAMES = ("", "a", "b", "c", "d")  # cameras that a rig may have; the empty one stands alone, without a prefix
OUTPUTS = ("derained/image", "streak_mask/image", "frame_status")
# The node has the profile that the launch file gives it. In Fast DDS's own segment of 512 KB, what one subscriber has
# not read leaves no room for messages to others.
PROFILE = ROOT / "config" / "fastdds.xml"
COMMAND = [
    "env",
    f"FASTDDS_DEFAULT_PROFILES_FILE={PROFILE}",
    f"FASTRTPS_DEFAULT_PROFILES_FILE={PROFILE}",
    *(sys.executable, "-m", "sapnet_ros.derain_node"),
]
_numbers = itertools.count()

Key = tuple[int, int, str]  # sec, nanosec, frame_id


def key(message: Any) -> Key:
    return message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id


def colour(camera: str, number: int) -> np.ndarray:
    """(1, 1, 3) BGR that tells the cameras, and each one's frames, from one another."""
    return np.array([[[10 + 40 * NAMES.index(camera), number // 256, number % 256]]], np.uint8)


def pixels(message: Any) -> np.ndarray:
    """Of a tight 8-bit Image, (H, W, C)."""
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, -1)


@dataclass(frozen=True)
class Fates:
    """What became of a camera's frames, by reason where there are several."""

    sent: int
    derained: int
    passed: Counter[str]
    dropped: Counter[str]
    values: Mapping[str, Any]  # of the camera's diagnostic status, whence these counts are
    latencies_ms: list[float]  # of those that came out
    kinds: list[str]  # "derained" or the reason for passing through, of those that came out, in order

    @property
    def out(self) -> int:
        return self.derained + self.passed.total()


@dataclass
class Feed:
    """One camera: what was sent, and what came out."""

    name: str
    publisher: Any
    sent: list[tuple[Key, np.ndarray | None]] = field(default_factory=list)  # with the BGR pixels to come out, if known
    outputs: dict[str, list[Any]] = field(default_factory=lambda: {topic: [] for topic in OUTPUTS})

    def clear(self) -> None:
        for messages in (self.sent, *self.outputs.values()):
            messages.clear()

    def check_order(self, to_the_end: bool = True) -> None:
        """Asserts that frames came out in the order in which they were sent, and that the outputs belong together.

        to_the_end: not so of a node that has ended, for what it sent last may be lost in part.
        """
        images, masks, statuses = self.outputs.values()
        if not to_the_end:
            least = min(map(len, self.outputs.values()))
            images, masks, statuses = images[:least], masks[:least], statuses[:least]
        came_out = [key(message) for message in images]
        assert [key(message) for message in masks] == [key(message) for message in statuses] == came_out
        in_order = iter(self.sent)
        for shown, mask in zip(images, masks, strict=True):
            expected = next((frame for sent, frame in in_order if sent == key(shown)), "no such frame after the last")
            assert not isinstance(expected, str), f"{key(shown)} is out of order"
            assert expected is None or (pixels(shown) == expected).all(), "a header must stay with its pixels"
            assert (mask.height, mask.width, mask.encoding) == (shown.height, shown.width, "mono8")
            assert not pixels(mask).any(), "the fake backend finds no streaks"

    def check(self, values: Mapping[str, Any]) -> Fates:
        """Asserts order and accounting; ``values`` are those of the diagnostics, once all is quiet."""
        self.check_order()
        statuses = self.outputs["frame_status"]
        told = [{pair.key: pair.value for pair in message.status[0].values} for message in statuses]
        kinds = [value["reason"] or "derained" for value in told]
        fates = Fates(
            sent=len(self.sent),
            derained=int(values["derained"]),
            passed=_by_reason(values, "passed_through_"),
            dropped=_by_reason(values, "dropped_"),
            values=values,
            latencies_ms=[float(value["latency_ms"]) for value in told],
            kinds=kinds,
        )
        assert fates.sent == int(values["received"]) + int(values["lost_in_transport"])
        assert int(values["received"]) == fates.derained + fates.passed.total() + fates.dropped.total()
        assert (fates.passed.total(), fates.dropped.total()) == (int(values["passed_through"]), int(values["dropped"]))
        assert Counter(kinds) == fates.passed + Counter({"derained": fates.derained})
        return fates


class Rig:
    """Use ``running`` to make one. ``configure`` it first, and again for another set of parameters."""

    def __init__(self, peer: Peer, log: Path, *ros_args: str, compressed: bool = False) -> None:
        self.peer = peer
        self.name = f"rig{next(_numbers)}"
        self._image = "image/compressed" if compressed else "image"
        self._always = {"image_transport": "compressed"} if compressed else {}
        self._given: set[str] = set()  # parameters that were set, by ROS name
        deep = []
        for name in NAMES:
            for topic, side in {self._image: "subscription", **dict.fromkeys(OUTPUTS, "publisher")}.items():
                deep += ["-p", f"qos_overrides.{self.topic(topic, name)}.{side}.depth:={DEPTH}"]
        placed = ["-r", f"__ns:=/{self.name}", "-r", f"__node:={self.name}"]
        given = [*placed, *deep, *ros_args]
        self.process = NodeProcess(*given, command=COMMAND, log=log, backend="fake", autostart="false")
        self.feeds: dict[str, Feed] = {}
        self._made: dict[str, Feed] = {}
        self._ready: list[Any] = []

    def topic(self, name: str, camera: str = "") -> str:
        """Full name of one of the node's relative topics."""
        return f"/{self.name}/{camera}/{name}" if camera else f"/{self.name}/{name}"

    def configure(self, cameras: Sequence[str] = ("",), **params: Any) -> None:
        """Have the node active with these parameters and the defaults for all others, its counts at zero."""
        if self.feeds:
            assert self.change(Transition.TRANSITION_DEACTIVATE)
            for feed in self.feeds.values():
                wait_for(lambda f=feed: f.publisher.get_subscription_count() == 0, "the subscription to go")
            assert self.change(Transition.TRANSITION_CLEANUP)
        names = [name for name in cameras if name]
        values = {"warmup_sizes": [f"{HEIGHT}x{WIDTH}"], "cameras": names, **self._always, **params}
        self.set(**({name: BY_NAME[name].default for name in self._given} | _named(values)))
        self._ready.clear()
        assert self.change(Transition.TRANSITION_CONFIGURE)
        assert self.change(Transition.TRANSITION_ACTIVATE)
        if not self._made:
            self._ready = self.peer.collect(Bool, f"/{self.name}/{self.name}/ready", latched=True)
        self.feeds = {name: self._made.get(name) or self._make_feed(name) for name in cameras}
        for feed in self.feeds.values():
            wait_for(lambda f=feed: f.publisher.get_subscription_count() == 1, "the subscription")
            for topic in OUTPUTS:
                full = self.topic(topic, feed.name)
                wait_for(lambda t=full: self.peer.node.count_publishers(t) == 1, f"a publisher of {full}")
            feed.clear()
        wait_for(lambda: self._ready and self._ready[-1].data, "ready")

    def change(self, transition: int) -> bool:
        return self.peer.change(transition, f"/{self.name}/{self.name}")

    def set(self, **values: Any) -> None:
        """Set parameters atomically, which must succeed."""
        messages = []
        for name, value in _named(values).items():
            kind = Parameter.Type.from_parameter_value(value)
            if isinstance(value, list):
                kind = Parameter.Type.STRING_ARRAY  # an empty list would be one of bytes
            messages.append(Parameter(name, kind, value).to_parameter_msg())
        result = self._call(SetParametersAtomically, "set_parameters_atomically", parameters=messages).result
        assert result.successful, result.reason
        self._given |= _named(values).keys()

    def send(
        self,
        camera: str = "",
        size: tuple[int, int] = SIZE,
        frame_id: str | None = None,
        stamp: int | None = None,
    ) -> None:
        """The camera's next frame, in its colour. Its stamp, in ms, is its number unless given."""
        number = len(self.feeds[camera].sent)
        frame = np.broadcast_to(colour(camera, number), (*size, 3))
        named = frame_id or camera or "camera"
        message = image(np.ascontiguousarray(frame), number if stamp is None else stamp, frame_id=named)
        if self._image != "image":
            png = array.array("B", cv2.imencode(".png", frame)[1].tobytes())
            message = CompressedImage(header=message.header, format="png", data=png)
        self.send_message(message, frame, camera)

    def send_message(self, message: Any, expected: np.ndarray | None, camera: str = "") -> None:
        """``expected``: the BGR pixels that must come out, if anything does."""
        feed = self.feeds[camera]
        feed.sent.append((key(message), expected))
        feed.publisher.publish(message)

    def stream(self, hz: Mapping[str, float], seconds: float) -> None:
        """Frames of several cameras, each at its own rate; as many as that makes, however slow the machine is."""
        began_s = time.monotonic()
        for at_s, name in sorted((n / rate, name) for name, rate in hz.items() for n in range(int(seconds * rate))):
            time.sleep(max(0.0, began_s + at_s - time.monotonic()))
            self.send(name)

    def streaming(self, hz: float, *cameras: str) -> AbstractContextManager[None]:
        """Each camera sends at this rate all the while."""
        return repeating(lambda: [self.send(name) for name in cameras or ("",)], hz)

    def status(self, what: str) -> dict[str, Any]:
        """A diagnostic status that was made after this was called."""
        return self.peer.status(what, f"/{self.name}/{self.name}")

    def settle(self, timeout_s: float = 30.0) -> dict[str, Fates]:
        """Wait until every frame sent has its fate; asserts order and accounting, and returns the fates by camera."""
        fates = {}
        for feed in self.feeds.values():
            label, counts = feed.name or "camera", feed.outputs.values()

            def quiet(feed: Feed = feed, label: str = label, counts: Collection[Any] = counts) -> dict[str, Any]:
                values = self.status(label)
                out = int(values["derained"]) + int(values["passed_through"])
                all_came = int(values["received"]) + int(values["lost_in_transport"]) == len(feed.sent)
                settled = values["in_flight"] == "0" and all_came and all(len(messages) == out for messages in counts)
                return values if settled else {}

            try:
                fates[feed.name] = feed.check(wait_for(quiet, "every frame's fate", timeout_s))
            except pytest.fail.Exception:
                came = list(map(len, counts))
                pytest.fail(f"{label}: {len(feed.sent)} sent, came out {came}, diagnostics {self.status(label)}")
        return fates

    def one(self) -> Fates:
        """``settle``, for a node of one camera."""
        (fates,) = self.settle().values()
        return fates

    def new_publisher(self, camera: str = "", reliable: bool = True) -> Any:
        """A publisher of frames, as a camera driver's; it has found the node once this returns."""
        message_type = Image if self._image == "image" else CompressedImage
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        profile = QoSProfile(depth=DEPTH, reliability=reliability)
        publisher = self.peer.node.create_publisher(message_type, self.topic(self._image, camera), profile)
        wait_for(lambda: publisher.get_subscription_count() == 1, "the subscription")
        return publisher

    def _call(self, service_type: Any, name: str, **request: Any) -> Any:
        return self.peer.call(service_type, f"/{self.name}/{self.name}/{name}", service_type.Request(**request))

    def _make_feed(self, camera: str) -> Feed:
        self._made[camera] = feed = Feed(camera, self.new_publisher(camera))
        for topic, messages in feed.outputs.items():
            kind = DiagnosticArray if topic == "frame_status" else Image
            self.peer.node.create_subscription(
                kind, self.topic(topic, camera), messages.append, QoSProfile(depth=DEPTH)
            )
        return feed


@contextmanager
def running(log: Path, *ros_args: str, **more: Any) -> Iterator[Rig]:
    """A rig whose node must end with code 0 and have logged no traceback."""
    peer = Peer()
    rig = None
    try:
        rig = Rig(peer, log, *ros_args, **more)
        yield rig
        if rig.process.process.poll() is None:
            assert rig.process.stop() == 0
        assert "Traceback" not in log.read_text()
    finally:
        if rig is not None and rig.process.process.poll() is None:
            rig.process.process.kill()
        peer.close()


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """By their ROS names."""
    return {name.replace("__", "."): value for name, value in values.items()}


def _by_reason(values: Mapping[str, Any], prefix: str) -> Counter[str]:
    return Counter({name.removeprefix(prefix): int(count) for name, count in values.items() if name.startswith(prefix)})
