"""A derain_node with every frame on record: each must have one fate, and leave in the order in which it came."""

from __future__ import annotations

import array
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Bool

from live import DEPTH, ROOT, NodeProcess, Peer, image, named, repeating, wait_for
from sapnet_ros.params import BY_NAME

SIZE = HEIGHT, WIDTH = 48, 64
NAMES = ("", "a", "b", "c", "d")  # cameras that a rig may have; the empty one stands alone, without a prefix
OUTPUTS = {"derained/image": Image, "streak_mask/image": Image, "frame_status": DiagnosticArray}
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
    outputs: dict[str, list[Any]]
    sent: list[tuple[Key, np.ndarray | None]] = field(default_factory=list)  # with the BGR pixels to come out, if known

    def check_order(self) -> None:
        """Asserts that frames came out in the order in which they were sent, and that the outputs belong together.

        What a node sent last may be lost in part when it ends.
        """
        in_order = iter(self.sent)
        for shown, mask, status in zip(*self.outputs.values(), strict=False):
            assert key(mask) == key(status) == key(shown)
            expected = next((frame for sent, frame in in_order if sent == key(shown)), "no such frame after the last")
            assert not isinstance(expected, str), f"{key(shown)} is out of order"
            assert expected is None or (pixels(shown) == expected).all(), "a header must stay with its pixels"
            assert (mask.height, mask.width, mask.encoding) == (shown.height, shown.width, "mono8")
            assert not pixels(mask).any(), "the fake backend finds no streaks"

    def check(self, values: Mapping[str, Any]) -> Fates:
        """Asserts order and accounting; ``values`` are those of the diagnostics, once all is quiet."""
        self.check_order()
        assert len(set(map(len, self.outputs.values()))) == 1
        told = [{pair.key: pair.value for pair in message.status[0].values} for message in self.outputs["frame_status"]]
        kinds = [value["reason"] or "derained" for value in told]
        passed, dropped = (
            Counter({name.removeprefix(fate): int(count) for name, count in values.items() if name.startswith(fate)})
            for fate in ("passed_through_", "dropped_")
        )
        latencies_ms = [float(value["latency_ms"]) for value in told]
        fates = Fates(len(self.sent), int(values["derained"]), passed, dropped, values, latencies_ms, kinds)
        assert fates.sent == int(values["received"]) + int(values["lost_in_transport"])
        assert int(values["received"]) == fates.out + dropped.total()
        assert (passed.total(), dropped.total()) == (int(values["passed_through"]), int(values["dropped"]))
        assert Counter(kinds) == passed + Counter({"derained": fates.derained})
        return fates


class Rig:
    """Use ``running`` to make one. ``configure`` it first, and again for another set of parameters."""

    def __init__(self, peer: Peer, log: Path, compressed: bool = False) -> None:
        self.peer = peer
        self.place = f"/rig{next(_numbers)}"
        self.node = self.place + self.place  # its full name
        self._image, self._type = ("image/compressed", CompressedImage) if compressed else ("image", Image)
        self._transport = "compressed" if compressed else "raw"
        self._given: set[str] = set()  # parameters that were set, by ROS name
        # So deep is every queue of frames, that a busy machine loses none between the test and the node.
        sides = {self._image: "subscription", **dict.fromkeys(OUTPUTS, "publisher")}
        deep = {
            f"qos_overrides.{self.topic(topic, name)}.{side}.depth": DEPTH
            for name in NAMES
            for topic, side in sides.items()
        }
        placed = ("-r", f"__ns:={self.place}", "-r", f"__node:={self.place[1:]}")
        self.process = NodeProcess(*placed, command=COMMAND, log=log, backend="fake", autostart="false", **deep)
        self.feeds: dict[str, Feed] = {}
        self._made: dict[str, Feed] = {}
        self._ready: list[Any] = []

    def topic(self, name: str, camera: str = "") -> str:
        """Full name of one of the node's relative topics."""
        return f"{self.place}/{camera}/{name}" if camera else f"{self.place}/{name}"

    def configure(self, cameras: Sequence[str] = ("",), **params: Any) -> None:
        """Have the node active with these parameters and the defaults for all others, its counts at zero."""
        if self.feeds:
            assert self.peer.change(Transition.TRANSITION_DEACTIVATE, self.node)
            for feed in self.feeds.values():
                wait_for(lambda f=feed: f.publisher.get_subscription_count() == 0, "the subscription to go")
            assert self.peer.change(Transition.TRANSITION_CLEANUP, self.node)
        names = [name for name in cameras if name]
        values = {"warmup_sizes": [f"{HEIGHT}x{WIDTH}"], "cameras": names, "image_transport": self._transport, **params}
        self.set(**({name: BY_NAME[name].default for name in self._given} | named(values)))
        self._ready.clear()
        assert self.peer.change(Transition.TRANSITION_CONFIGURE, self.node)
        assert self.peer.change(Transition.TRANSITION_ACTIVATE, self.node)
        if not self._made:
            self._ready = self.peer.collect(Bool, f"{self.node}/ready", latched=True)
        self.feeds = {name: self._made.get(name) or self._make_feed(name) for name in cameras}
        for feed in self.feeds.values():
            wait_for(lambda f=feed: f.publisher.get_subscription_count() == 1, "the subscription")
            for topic in OUTPUTS:
                full = self.topic(topic, feed.name)
                wait_for(lambda t=full: self.peer.node.count_publishers(t) == 1, f"a publisher of {full}")
            for messages in (feed.sent, *feed.outputs.values()):
                messages.clear()
        wait_for(lambda: self._ready and self._ready[-1].data, "ready")

    def set(self, **values: Any) -> None:
        """Set parameters, which must succeed."""
        result = self.peer.set(self.node, **values)
        assert result.successful, result.reason
        self._given |= named(values).keys()

    def send(
        self, camera: str = "", size: tuple[int, int] = SIZE, frame_id: str | None = None, stamp: int | None = None
    ) -> None:
        """The camera's next frame, in its colour. Its stamp, in ms, is its number unless given."""
        number = len(self.feeds[camera].sent)
        frame = np.broadcast_to(colour(camera, number), (*size, 3))
        name = frame_id or camera or "camera"
        message = image(np.ascontiguousarray(frame), number if stamp is None else stamp, frame_id=name)
        if self._type is CompressedImage:
            png = array.array("B", cv2.imencode(".png", frame)[1].tobytes())
            message = CompressedImage(header=message.header, format="png", data=png)
        self.send_message(message, frame, camera)

    def send_message(self, message: Any, expected: np.ndarray | None, camera: str = "") -> None:
        """``expected``: the BGR pixels that must come out, if anything does."""
        feed = self.feeds[camera]
        feed.sent.append((key(message), expected))
        feed.publisher.publish(message)

    def stream(self, hz: float, seconds: float, *cameras: str) -> None:
        """Each camera sends at this rate; as many frames as that makes, however slow the machine is."""
        began_s = time.monotonic()
        for number, name in itertools.product(range(int(seconds * hz)), cameras or ("",)):
            time.sleep(max(0.0, began_s + number / hz - time.monotonic()))
            self.send(name)

    def streaming(self, hz: float, *cameras: str) -> AbstractContextManager[None]:
        """Each camera sends at this rate all the while."""
        return repeating(lambda: [self.send(name) for name in cameras or ("",)], hz)

    def status(self, what: str = "camera") -> dict[str, Any]:
        """A diagnostic status that was made after this was called."""
        return self.peer.status(what, self.node)

    def settle(self) -> dict[str, Fates]:
        """Wait until every frame sent has its fate; asserts order and accounting, and returns the fates by camera."""
        return {name: self._settle(feed) for name, feed in self.feeds.items()}

    def one(self) -> Fates:
        """``settle``, for a node of one camera."""
        (fates,) = self.settle().values()
        return fates

    def new_publisher(self, camera: str = "", **qos: Any) -> Any:
        """A publisher of frames, as a camera driver's; it has found the node once this returns."""
        return self.peer.publisher(self._type, self.topic(self._image, camera), **qos)

    def _settle(self, feed: Feed) -> Fates:
        label, counts = feed.name or "camera", feed.outputs.values()

        def quiet() -> dict[str, Any]:
            values = self.status(label)
            out = int(values["derained"]) + int(values["passed_through"])
            all_came = int(values["received"]) + int(values["lost_in_transport"]) == len(feed.sent)
            settled = values["in_flight"] == "0" and all_came and all(len(messages) == out for messages in counts)
            return values if settled else {}

        try:
            return feed.check(wait_for(quiet, "every frame's fate"))
        except pytest.fail.Exception:
            came = list(map(len, counts))
            pytest.fail(f"{label}: {len(feed.sent)} sent, came out {came}, diagnostics {self.status(label)}")

    def _make_feed(self, camera: str) -> Feed:
        outputs = {topic: self.peer.collect(kind, self.topic(topic, camera)) for topic, kind in OUTPUTS.items()}
        self._made[camera] = feed = Feed(camera, self.new_publisher(camera), outputs)
        return feed


@contextmanager
def running(log: Path, **more: Any) -> Iterator[Rig]:
    """A rig whose node must end with code 0 and have logged no traceback."""
    peer = Peer()
    rig = Rig(peer, log, **more)
    try:
        yield rig
        if rig.process.process.poll() is None:
            assert rig.process.stop() == 0
        assert "Traceback" not in log.read_text()
    finally:
        rig.process.process.kill()
        peer.close()
