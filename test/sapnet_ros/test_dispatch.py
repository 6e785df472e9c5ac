"""What is decided about frames, in a time of the test's own: deadlines, batches, turns, overload, the gate, the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live import image, millis, wait_for
from sapnet import Derainer
from sapnet.steadiness import Steadier
from sapnet_ros.dispatch import Dispatch
from sapnet_ros.fate import RainGate, Received
from sapnet_ros.inference import Call
from sapnet_ros.loader import Loader, StageChoice
from sapnet_ros.params import PARAMETERS, NodeParams
from sapnet_ros.stats import CameraStats

DEFAULTS = {declaration.name: declaration.default for declaration in PARAMETERS} | {"batch_wait_ms": 0}
SMALL, LARGE = (16, 20), (24, 20)
MAX_STEPS = 100_000


@dataclass
class NotingCamera:
    """As much of a camera as the dispatch uses. ``publish_s``: what publishing takes."""

    label: str
    time: Simulation
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
        self.stats = CameraStats(self.time.clock)

    def awaits_info(self, header: Any) -> bool:
        return millis(SimpleNamespace(header=header)) in self.awaited

    def publish(self, frame: Received, params: NodeParams) -> None:
        self.time.now_s += self.publish_s
        frame.parts.publish_s = self.publish_s
        self.sent.append((millis(frame.message), frame.fate.reason or "derained"))
        self.latencies_s.append(self.time.now_s - frame.received_s)


class Simulation:
    """A dispatch that is stepped. Only ``advance`` moves the time, and publishing where it takes some.

    latency_s: what a call takes from now on. stall_s: so much later than it asked for is each step taken.
    call: the one that is running, until the time of its end has come.
    """

    def __init__(self, cameras: int = 1, latency_s: float = 0.0, **params: Any) -> None:
        self.now_s, self.latency_s, self.stall_s = 1000.0, latency_s, 0.0
        self.params = NodeParams.check(DEFAULTS | {name.replace("__", "."): value for name, value in params.items()})
        # Stand-ins where a Camera is expected: what the tests are about is what becomes of one.
        self.cameras: Any = {str(number): NotingCamera(str(number), self) for number in range(cameras)}
        self.errors: list[str] = []
        self.batches: list[int] = []
        self.call: Call | None = None
        self.loader = Loader(
            lambda stages: Derainer(backend="fake", max_batch=8),
            StageChoice(0, 0.0),
            [SMALL, LARGE],
            4,
            on_change=lambda: None,
        )
        wait_for(lambda: self.loader.ready, "the fake backend")
        inference: Any = SimpleNamespace(start=self._start_call, close=lambda: None)
        self.dispatch = Dispatch(
            self.cameras,
            self.loader,
            lambda: self.params,
            log_error=lambda kind, text: self.errors.append(text),
            make_inference=lambda on_end: inference,
            clock=self.clock,
        )

    def clock(self) -> float:
        return self.now_s

    def send(self, number: int, camera: int = 0, size: tuple[int, int] = SMALL) -> None:
        self.dispatch.receive(str(camera), image(np.full((*size, 3), 7, np.uint8), number))

    def camera(self, number: int = 0) -> NotingCamera:
        return self.cameras[str(number)]

    def settled(self) -> bool:
        return all(camera.stats.values()["in_flight"] == 0 for camera in self.cameras.values())

    def advance(self, seconds: float) -> None:
        """Let time pass, with whatever is to be done in it."""
        end_s = self.now_s + seconds
        for _ in range(MAX_STEPS):
            next_s = self.dispatch.step() + self.stall_s
            call_s = math.inf if self.call is None else self.call.started_s + self.latency_s
            self.now_s = max(self.now_s, min(next_s, call_s, end_s))
            if self.now_s >= call_s:
                self.end_call(call_s)
                self.now_s += self.stall_s
            elif self.now_s >= end_s and next_s > self.now_s:
                return
        raise AssertionError("it never comes to rest")

    def settle(self, at_most_s: float = 60.0) -> None:
        """Until every frame has its fate."""
        end_s = self.now_s + at_most_s
        while not self.settled():
            assert self.now_s < end_s, "frames have no fate"
            self.advance(0.001)

    def end_call(self, ended_s: float) -> None:
        call, self.call = self.call, None
        assert call is not None
        call.run()
        call.ended_s = ended_s

    def close(self) -> None:
        self.loader.close()
        assert not self.errors

    def _start_call(self, call: Call) -> None:
        self.call = call
        self.batches.append(len(call.batch))


Make = Callable[..., Simulation]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Simulation] = []

    def make(*args: Any, **more: Any) -> Simulation:
        made.append(Simulation(*args, **more))
        return made[-1]

    yield make
    for simulation in made:
        simulation.close()


@settings(max_examples=60)
@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.003, 0.03]), st.booleans(), st.sampled_from([0.0, 0.05])),
        max_size=40,
    ),
    deadline_ms=st.sampled_from([0, 20, 60]),
    batch_wait_ms=st.sampled_from([0, 10]),
    on_failure=st.sampled_from(["passthrough", "drop"]),
    on_overload=st.sampled_from(["passthrough", "drop"]),
)
def test_every_frame_has_one_fate_in_order_and_by_its_deadline(
    arrivals: list[tuple[int, float, bool, float]], deadline_ms: int, **params: Any
) -> None:
    publish_s = 0.001
    simulation = Simulation(3, deadline_ms=deadline_ms, **params)
    for camera in simulation.cameras.values():
        camera.publish_s = publish_s
    for number, (camera, pause_s, large, call_s) in enumerate(arrivals):
        simulation.latency_s = call_s
        simulation.send(number, camera, LARGE if large else SMALL)
        simulation.advance(pause_s)
    simulation.settle()
    simulation.close()
    for camera in range(3):
        sent, figures = simulation.camera(camera).sent, simulation.camera(camera).stats
        stamps = [stamp for stamp, _ in sent]
        assert stamps == sorted(set(stamps))
        assert len(sent) == figures.derained + sum(figures.passed_through.values())
        assert figures.received == [where for where, *_ in arrivals].count(camera)
        if deadline_ms and params["on_overload"] == "drop":
            # What publishing takes is not known before the first frames.
            assert max(simulation.camera(camera).latencies_s, default=0.0) <= deadline_ms / 1000 + 3 * publish_s + 1e-9


def test_the_original_goes_out_by_the_deadline_and_the_late_result_does_not(make: Make) -> None:
    simulation = make(latency_s=0.2, deadline_ms=50)
    for number in range(4):
        simulation.send(number)
        simulation.advance(0.1)
    assert simulation.camera().sent == [(number, "deadline") for number in range(4)]
    # A frame that waits behind a call which is late has its own deadline.
    assert max(simulation.camera().latencies_s) == pytest.approx(0.05)
    assert simulation.camera().stats.missed_in_row == 4
    simulation.advance(1.0)
    assert len(simulation.camera().sent) == 4


@pytest.mark.parametrize(("latency_s", "fate", "missed"), [(0.11, "deadline", 2), (0.09, "derained", 0)])
def test_a_result_is_late_by_when_it_came_not_by_when_it_is_looked_at(
    make: Make, latency_s: float, fate: str, missed: int
) -> None:
    simulation = make(latency_s=0.2, deadline_ms=100)
    simulation.send(1)
    simulation.advance(0.3)
    simulation.latency_s, simulation.stall_s = latency_s, 0.05  # the step comes after both result and deadline
    simulation.send(2)
    simulation.advance(1.0)
    assert simulation.camera().sent == [(1, "deadline"), (2, fate)]
    assert simulation.camera().stats.missed_in_row == missed


def test_equal_sizes_share_a_batch_and_others_stand_beside(make: Make) -> None:
    simulation = make(4, latency_s=0.02, batch_wait_ms=500)
    for turn in range(3):
        for camera in range(4):
            simulation.send(turn, camera, LARGE if camera == 3 else SMALL)
        simulation.settle()
    # The first frame waits for nobody, as no camera is known yet; later every one is.
    assert simulation.batches[-2:] in ([3, 1], [1, 3])
    assert all(simulation.camera(camera).sent == [(turn, "derained") for turn in range(3)] for camera in range(4))


def test_a_batch_waits_no_longer_than_it_may(make: Make) -> None:
    simulation = make(2, batch_wait_ms=400)
    for number in range(2):
        simulation.send(number, camera=0)
        simulation.send(number, camera=1)
        simulation.settle()
        simulation.advance(0.1)
    simulation.send(2, camera=0)
    simulation.settle()
    assert simulation.camera().latencies_s[-1] == pytest.approx(0.4)
    simulation.advance(1.1)  # the other counts as stopped now
    simulation.send(3, camera=0)
    simulation.settle()
    assert simulation.batches[-1] == 1
    assert simulation.camera().latencies_s[-1] == 0.0


@pytest.mark.parametrize("calls_s", [[0.05, 0.05, 0.06], [0.08, 0.05, 0.09]])
def test_a_frame_in_a_hurry_waits_for_no_batch(make: Make, calls_s: list[float]) -> None:
    """Its call may take somewhat longer than the longest of late, and its result is in time all the same."""
    simulation = make(2, batch_wait_ms=1000, deadline_ms=300)
    for number, call_s in enumerate(calls_s[:2]):
        simulation.latency_s = call_s
        simulation.send(number, camera=0)
        simulation.send(number, camera=1)
        simulation.settle()
        simulation.advance(0.1)
    simulation.latency_s = calls_s[2]
    simulation.send(3, camera=0)  # the other is about to come, but does not
    simulation.settle()
    assert simulation.camera(0).sent[-1] == (3, "derained")
    assert 0.25 < simulation.camera().latencies_s[-1] < 0.3
    assert simulation.camera().stats.missed_in_row == 0


def test_the_gate_opens_also_when_every_look_is_late(make: Make) -> None:
    simulation = make(
        latency_s=0.08,
        deadline_ms=40,
        rain_gate__enabled=True,
        rain_gate__hold_s=0,
        rain_gate__probe_period_s=0.05,
        rain_gate__on_threshold=0.0,
        rain_gate__off_threshold=0.0,
    )
    gate = simulation.camera().gate
    assert gate.note_score(-1.0, 0.0, simulation.params), "it is dry"
    for number in range(10):
        simulation.send(number)
        simulation.advance(0.02)
    assert gate.state(simulation.params) == "rain"


@pytest.mark.parametrize(("deadline_ms", "latest_s"), [(0, 0.05), (20, 0.02)])
def test_a_camera_info_that_does_not_come_is_waited_for_shortly(make: Make, deadline_ms: int, latest_s: float) -> None:
    simulation = make(enabled=False, deadline_ms=deadline_ms)
    simulation.camera().awaited = {1}
    simulation.send(1)
    simulation.settle()
    assert simulation.camera().latencies_s == pytest.approx([latest_s])


@pytest.mark.parametrize(
    ("on_overload", "limits", "kept"),
    [
        ("drop", {}, 1),
        ("passthrough", {"FRAMES": 3}, 3),
        ("passthrough", {"BYTES": 10_000}, 3),
        ("passthrough", {"BYTES": 1}, 2),
    ],
)
def test_the_newest_frame_is_derained_and_as_many_others_kept_as_there_is_room_for(
    make: Make, monkeypatch: pytest.MonkeyPatch, on_overload: str, limits: dict[str, int], kept: int
) -> None:
    for what, limit in limits.items():
        monkeypatch.setattr(f"sapnet_ros.mailbox.MAX_WAITING_{what}", limit)
    simulation = make(on_overload=on_overload)
    for number in range(5):
        simulation.send(number)
    simulation.settle()
    assert simulation.camera().sent == [*((number, "overload") for number in range(5 - kept, 4)), (4, "derained")]
    assert simulation.camera().stats.dropped == {"overload": 5 - kept}


def test_no_size_starves(make: Make) -> None:
    simulation = make(3, latency_s=0.02)
    for number in range(200):
        for camera in range(3):
            simulation.send(number, camera, LARGE if camera == 2 else SMALL)
        simulation.advance(0.005)
    derained = [simulation.camera(camera).stats.derained for camera in range(3)]
    assert min(derained) >= max(derained) - 1 >= 20


def test_a_frame_that_cannot_be_published_is_dropped(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    simulation, publish = make(), NotingCamera.publish

    def broken(camera: NotingCamera, frame: Received, params: NodeParams) -> None:
        if millis(frame.message) == 1:
            raise RuntimeError("broken")
        publish(camera, frame, params)

    monkeypatch.setattr(NotingCamera, "publish", broken)
    for number in range(3):
        simulation.send(number)
        simulation.settle()
    assert simulation.camera().sent == [(0, "derained"), (2, "derained")]
    assert simulation.camera().stats.dropped == {"failure": 1}
    assert "RuntimeError: broken" in simulation.errors.pop()


@pytest.mark.parametrize("hangs", [False, True])
def test_closing_waits_for_the_call_but_no_longer_than_it_may(make: Make, hangs: bool) -> None:
    """On the dispatch's own thread, where calls end as the test says."""
    simulation = make()
    simulation.dispatch.start()
    simulation.send(1)
    wait_for(lambda: simulation.call, "its call")
    simulation.send(2)
    closing = Thread(target=simulation.dispatch.close, args=(0.05 if hangs else 3600.0,), daemon=True)
    closing.start()
    wait_for(lambda: simulation.camera().stats.dropped["shutdown"], "the end of what waits")
    simulation.send(3)
    if not hangs:
        assert simulation.camera().stats.dropped == {"shutdown": 2}
        assert simulation.camera().sent == []
        simulation.end_call(simulation.now_s)
        simulation.dispatch.wake()
    closing.join(60)
    assert not closing.is_alive()
    assert simulation.settled()
    assert simulation.camera().sent == ([] if hangs else [(1, "derained")])
    assert not hangs or "its frames are dropped" in simulation.errors.pop()


def test_closing_publishes_what_waits_for_its_camera_info(make: Make) -> None:
    simulation = make(enabled=False)
    simulation.camera().awaited = {1}
    simulation.dispatch.start()
    simulation.send(1)
    wait_for(lambda: simulation.camera().size, "the frame to be taken")
    simulation.dispatch.close(3600.0)
    assert simulation.camera().sent == [(1, "disabled")]
