"""The dispatch alone, in a time of the test's own: cameras that note what they are given, calls that end on time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import numpy as np

from live import image, wait_for
from sapnet import Derainer
from sapnet.steadiness import Steadier
from sapnet_ros.batching import Call
from sapnet_ros.dispatch import Dispatch
from sapnet_ros.fate import RainGate
from sapnet_ros.loader import Loader, StageChoice
from sapnet_ros.mailbox import Received
from sapnet_ros.params import PARAMETERS, NodeParams
from sapnet_ros.stats import CameraStats

DEFAULTS = {declaration.name: declaration.default for declaration in PARAMETERS} | {"batch_wait_ms": 0}
SMALL, LARGE = (16, 20), (24, 20)
MAX_STEPS = 100_000


class Clock:
    """Steady seconds, as a test has them."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class NotingCamera:
    """As much of a camera as the dispatch uses. ``publish_s``: what publishing takes, of a test's own time alone."""

    name: str
    clock: Callable[[], float] = time.monotonic
    publish_s: float = 0.0
    enabled: bool = True
    watched: bool = True
    awaited: set[int] = field(default_factory=set)  # stamps, in ms, whose camera_info is still to come
    size: tuple[int, int] | None = None
    gate: RainGate = field(default_factory=RainGate)
    steadier: Steadier = field(default_factory=Steadier)
    sent: list[tuple[int, str]] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stats = CameraStats(self.clock)

    @property
    def label(self) -> str:
        return self.name

    def awaits_info(self, header: Any) -> bool:
        return header.stamp.nanosec // 1_000_000 + 1000 * header.stamp.sec in self.awaited

    def publish(self, frame: Received, derained: Any, reason: str, params: NodeParams) -> None:
        if isinstance(self.clock, Clock):
            self.clock.now_s += self.publish_s
        frame.parts.publish_s = self.publish_s
        stamp = frame.message.header.stamp
        self.sent.append((stamp.nanosec // 1_000_000 + 1000 * stamp.sec, reason or "derained"))
        self.latencies_s.append(self.clock() - frame.received_s)


class Surroundings:
    """A dispatch and what it has around it. ``options`` are those of the fake backend."""

    clock: Callable[[], float] = time.monotonic
    dispatch: Dispatch

    def __init__(self, cameras: int = 1, options: dict[str, Any] | None = None, **params: Any) -> None:
        names = [f"camera{number}" for number in range(cameras)]
        self.params = NodeParams.check(DEFAULTS | {name.replace("__", "."): value for name, value in params.items()})
        # Stand-ins where a Camera is expected: what the tests are about is what becomes of one.
        self.cameras: dict[str, Any] = {name: NotingCamera(name, self.clock) for name in names}
        self.errors: list[str] = []
        self.batches: list[int] = []
        self.options = options or {}
        self.loader = Loader(self._load, StageChoice(0, 0.0), [SMALL, LARGE], 4, lambda: None, self.errors.append)
        wait_for(lambda: self.loader.ready, "the fake backend")

    def send(self, number: int, camera: int = 0, size: tuple[int, int] = SMALL) -> None:
        name = f"camera{camera}"
        now_s = self.clock()
        self.cameras[name].stats.count_received(now_s)
        message = image(np.full((*size, 3), 7, np.uint8), number)
        self.dispatch.put(Received(name, message, now_s))

    def make_dispatch(self, **more: Any) -> Dispatch:
        return Dispatch(self.cameras, self.loader, lambda: self.params, self.log, **more)

    def figures(self, camera: int = 0) -> Any:
        return self.cameras[f"camera{camera}"].stats

    def sent(self, camera: int = 0) -> list[tuple[int, str]]:
        return list(self.cameras[f"camera{camera}"].sent)

    def settled(self) -> bool:
        return all(camera.stats.values()["in_flight"] == 0 for camera in self.cameras.values())

    def log(self, kind: str, text: str) -> None:
        self.errors.append(text)

    def close(self) -> None:
        self.loader.close()

    def _load(self, stages: int) -> Derainer:
        derainer = Derainer(backend="fake", max_batch=8, fake=self.options)
        infer = derainer._backend.infer

        def note(frames: Any) -> Any:
            self.batches.append(len(frames))
            self.hold()
            return infer(frames)

        derainer._backend.infer = note  # type: ignore[method-assign]
        return derainer

    def hold(self) -> None:
        """Called in each call of the network, before it is at work."""


class HeldInference:
    """Runs nothing by itself: a call lies here until the test says that its time has come."""

    def __init__(self) -> None:
        self.call: Call | None = None
        self.thread = Thread()  # that never lived

    def start(self, call: Call) -> None:
        self.call = call

    def close(self) -> None:
        pass


class Simulation(Surroundings):
    """A dispatch that is stepped. Only ``advance`` moves the time, and publishing where it takes some.

    latency_s: what a call takes from now on. stall_s: so much later than it asked for is each step taken.
    """

    def __init__(self, cameras: int = 1, latency_s: float = 0.0, stall_s: float = 0.0, **more: Any) -> None:
        self.clock = self.time = Clock()
        super().__init__(cameras, **more)
        self.latency_s, self.stall_s = latency_s, stall_s
        self.running: list[HeldInference] = []
        self.dispatch = self.make_dispatch(make_inference=self._make_inference, clock=self.clock)

    def advance(self, seconds: float) -> None:
        """Let time pass, with whatever is to be done in it."""
        end_s = self.time.now_s + seconds
        for _ in range(MAX_STEPS):
            next_s = self.dispatch.step() + self.stall_s
            call_s = self._call_ends_s()
            at_s = min(next_s, call_s, end_s)
            self.time.now_s = max(self.time.now_s, at_s)
            if self.time.now_s >= call_s:
                self._end_call()
            elif self.time.now_s >= end_s and next_s > self.time.now_s:
                return
        raise AssertionError("it never comes to rest")

    def settle(self, at_most_s: float = 60.0) -> None:
        """Until every frame has its fate."""
        end_s = self.time.now_s + at_most_s
        while not self.settled():
            assert self.time.now_s < end_s, "frames have no fate"
            self.advance(0.001)

    def _make_inference(self, on_end: Callable[[], None]) -> HeldInference:
        self.running.append(HeldInference())
        return self.running[-1]

    def _call_ends_s(self) -> float:
        call = self.running[-1].call
        return math.inf if call is None else call.started_s + self.latency_s

    def _end_call(self) -> None:
        ended_s, call = self._call_ends_s(), self.running[-1].call
        assert call is not None
        call.run()
        call.ended_s, self.running[-1].call = ended_s, None
        self.time.now_s += self.stall_s
