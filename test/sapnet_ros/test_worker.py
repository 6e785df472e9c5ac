"""The worker alone, with cameras that note what they are given: order, accounting, deadlines, batches, hanging."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live import image, wait_for
from sapnet import Derainer
from sapnet.errors import BackendError
from sapnet.steadiness import Steadier
from sapnet_ros.failopen import Outcome
from sapnet_ros.gate import RainGate
from sapnet_ros.loader import Loader
from sapnet_ros.mailbox import Received
from sapnet_ros.params import PARAMETERS, NodeParams
from sapnet_ros.stats import CameraStats, Parts, Snapshot
from sapnet_ros.worker import Worker

DEFAULTS = {declaration.name: declaration.default for declaration in PARAMETERS} | {"batch_wait_ms": 0}
SMALL, LARGE = (16, 20), (24, 20)


@dataclass
class NotingCamera:
    """As much of a camera as the worker uses."""

    name: str
    enabled: bool = True
    size: tuple[int, int] | None = None
    gate: RainGate = field(default_factory=RainGate)
    steadier: Steadier = field(default_factory=Steadier)
    stats: CameraStats = field(default_factory=CameraStats)
    sent: list[tuple[int, str]] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    @property
    def label(self) -> str:
        return self.name

    def publish(self, header: Any, outcome: Outcome, params: NodeParams, received_s: float, parts: Parts) -> None:
        self.sent.append((header.stamp.nanosec // 1_000_000 + 1000 * header.stamp.sec, outcome.reason or "derained"))
        self.latencies_s.append(time.monotonic() - received_s)


class Bench:
    """A worker with its surroundings. ``options`` are those of the fake backend."""

    def __init__(self, cameras: int = 1, options: dict[str, Any] | None = None, **params: Any) -> None:
        names = [f"camera{number}" for number in range(cameras)]
        self.params = NodeParams.check(DEFAULTS | {name.replace("__", "."): value for name, value in params.items()})
        self.cameras = {name: NotingCamera(name) for name in names}
        self.errors: list[str] = []
        self.batches: list[int] = []
        self.threads: list[Thread] = []
        self.loaded = 0
        self.options = options or {}
        self.loader = Loader(self._load, 0, [SMALL, LARGE], 4, lambda: None, self.errors.append)
        wait_for(lambda: self.loader.ready, "the fake backend")
        # A stand-in where the worker expects a Camera: what it is about is what the worker does with one.
        self.worker = Worker(self.cameras, self.loader, lambda: self.params, self._log, self.threads.append)  # type: ignore[arg-type]

    def _load(self, stages: int) -> Derainer:
        self.loaded += 1
        derainer = Derainer(backend="fake", max_batch=8, options=self.options)
        infer = derainer._backend.infer

        def note(frames: Any) -> Any:
            self.batches.append(len(frames))
            return infer(frames)

        derainer._backend.infer = note  # type: ignore[method-assign]
        return derainer

    def _log(self, kind: str, text: str) -> None:
        self.errors.append(text)

    def send(self, number: int, camera: int = 0, size: tuple[int, int] = SMALL) -> None:
        name = f"camera{camera}"
        now_s = time.monotonic()
        self.cameras[name].stats.count_received(now_s)
        self.worker.put(Received(name, image(np.full((*size, 3), 7, np.uint8), number), now_s))

    def figures(self, camera: int = 0) -> Snapshot:
        return self.cameras[f"camera{camera}"].stats.snapshot()

    def sent(self, camera: int = 0) -> list[tuple[int, str]]:
        return list(self.cameras[f"camera{camera}"].sent)

    def settled(self) -> bool:
        return all(camera.stats.snapshot().in_flight == 0 for camera in self.cameras.values())

    def close(self) -> None:
        self.worker.close(0.5)
        self.loader.close()


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*args: Any, **more: Any) -> Bench:
        made.append(Bench(*args, **more))
        return made[-1]

    yield make
    for bench in made:
        bench.close()
        assert bench.settled()


FAULTS = st.sampled_from([{}, {"fail_every": 1}, {"fail_every": 3}, {"mode": "nan"}, {"mode": "wrong_shape"}])


@settings(max_examples=25, deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.001, 0.004]), st.booleans()), max_size=40),
    fault=FAULTS,
    latency_ms=st.sampled_from([0.0, 1.0, 5.0]),
    deadline_ms=st.sampled_from([0, 1, 6, 1000]),
    batch_wait_ms=st.sampled_from([0, 3]),
    on_failure=st.sampled_from(["passthrough", "drop"]),
    on_overload=st.sampled_from(["passthrough", "drop"]),
)
def test_every_frame_has_one_fate_and_each_cameras_order_holds(
    arrivals: list[tuple[int, float, bool]], fault: dict[str, Any], latency_ms: float, **params: Any
) -> None:
    bench = Bench(3, {"latency_ms": latency_ms, **fault}, **params)
    for number, (camera, pause_s, large) in enumerate(arrivals):
        bench.send(number, camera, LARGE if large else SMALL)
        time.sleep(pause_s)
    wait_for(bench.settled, "a fate for every frame", 10)
    bench.close()
    for camera in range(3):
        sent, figures = bench.sent(camera), bench.figures(camera)
        stamps = [stamp for stamp, _ in sent]
        assert stamps == sorted(set(stamps))
        assert len(sent) == figures.derained + sum(figures.passed_through.values())
        assert figures.received == [where for where, _, _ in arrivals].count(camera)
        assert set(figures.dropped) <= {"overload", "failure"}
        if params["on_failure"] == "passthrough":
            assert "failure" not in figures.dropped
        if params["on_overload"] == "passthrough":
            assert "overload" not in figures.dropped


def test_the_original_goes_out_by_the_deadline_and_the_late_result_does_not(make: Callable[..., Bench]) -> None:
    bench = make(options={"latency_ms": 200}, deadline_ms=50)
    for number in range(4):
        bench.send(number)
        time.sleep(0.1)
    wait_for(bench.settled, "the originals")
    assert bench.sent() == [(number, "deadline") for number in range(4)]
    # A frame that waits behind a call which is late has its own deadline.
    assert max(bench.cameras["camera0"].latencies_s) < 0.15
    assert bench.figures().missed_in_row == 4
    time.sleep(0.3)
    assert len(bench.sent()) == 4


def test_missed_deadlines_are_dropped_where_that_was_asked_for(make: Callable[..., Bench]) -> None:
    bench = make(options={"latency_ms": 200}, deadline_ms=20, on_failure="drop")
    bench.send(1)
    wait_for(bench.settled, "its fate")
    assert bench.sent() == []
    assert bench.figures().dropped == {"failure": 1}


def test_equal_sizes_share_a_batch_and_others_stand_beside(make: Callable[..., Bench]) -> None:
    bench = make(4, {"latency_ms": 20}, batch_wait_ms=500)
    for turn in range(3):
        for camera in range(4):
            bench.send(turn, camera, LARGE if camera == 3 else SMALL)
        wait_for(bench.settled, "their results")
    # The first frame waits for nobody, as no camera is known yet; later every one is.
    assert bench.batches[-2:] in ([3, 1], [1, 3])
    assert all(bench.sent(camera) == [(turn, "derained") for turn in range(3)] for camera in range(4))


def test_a_batch_waits_no_longer_than_it_may(make: Callable[..., Bench]) -> None:
    bench = make(2, batch_wait_ms=400)
    for number in range(2):
        bench.send(number, camera=0)
        bench.send(number, camera=1)
        wait_for(bench.settled, "both")
    bench.send(2, camera=0)
    wait_for(bench.settled, "the one that is alone")
    assert 0.3 < bench.cameras["camera0"].latencies_s[-1] < 2.0
    time.sleep(1.1)  # the other counts as stopped now
    bench.send(3, camera=0)
    wait_for(bench.settled, "the one that waits for nobody")
    assert bench.batches[-1] == 1
    assert bench.cameras["camera0"].latencies_s[-1] < 0.3


def test_a_batch_does_not_wait_for_a_camera_that_comes_later(make: Callable[..., Bench]) -> None:
    """Two cameras in opposite phase, 100 ms apart: to wait would only cost time."""
    bench = make(2, batch_wait_ms=60)
    for number in range(16):
        bench.send(number, camera=number % 2)
        time.sleep(0.1)
    wait_for(bench.settled, "all")
    late = [latency_s > 0.05 for camera in bench.cameras.values() for latency_s in camera.latencies_s[3:]]
    assert late.count(True) <= 2, "but where the machine was late itself"


def test_slow_cameras_are_not_starved_by_fast_ones(make: Callable[..., Bench]) -> None:
    """Three cameras of sizes that share no batch; one sends at every chance, the others seldom."""
    bench = make(3, {"latency_ms": 10})
    for number in range(60):
        bench.send(number, 0, SMALL)
        if number % 15 == 0:
            bench.send(number, 1, LARGE)
            bench.send(number, 2, (32, 20))
        time.sleep(0.005)
    wait_for(bench.settled, "all")
    for camera in (1, 2):
        derained = [stamp for stamp, fate in bench.sent(camera) if fate == "derained"]
        assert derained[-3:] == [15, 30, 45], "every frame of a slow camera but the first, for which its size compiles"
        assert max(bench.cameras[f"camera{camera}"].latencies_s) < 0.2


def test_a_backend_that_hangs_is_left_behind_and_started_anew(make: Callable[..., Bench]) -> None:
    bench = make(options={"mode": "hang"}, hang_timeout_s=0.2)
    bench.send(1)
    wait_for(bench.settled, "the original")
    assert bench.sent() == [(1, "failure")]
    bench.send(2)  # the backend is away: it passes at once
    wait_for(lambda: len(bench.sent()) == 2, "the next", 0.2)
    assert "try 1 of 5" in bench.loader.error
    wait_for(lambda: bench.loaded == 2 and bench.loader.ready, "another backend")
    assert bench.loader.restarts == 1
    assert bench.loader.error == ""
    assert any("hangs: no result after 0.2 s" in error for error in bench.errors)


def test_a_backend_that_hangs_again_and_again_is_given_up(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapnet_ros.restarts.FIRST_PAUSE_S", 0.01)
    bench = make(options={"mode": "hang"}, hang_timeout_s=0.1)
    for number in range(6):
        wait_for(lambda: bench.loader.ready, "the backend")
        bench.send(number)
        wait_for(bench.settled, "the original")
    assert "given up" in bench.loader.error
    assert bench.loaded == 6
    time.sleep(1.0)
    assert bench.loaded == 6
    bench.send(9)
    wait_for(bench.settled, "the original")
    assert bench.sent()[-1] == (9, "failure")


def test_the_gate_passes_dry_frames_and_looks_now_and_then(make: Callable[..., Bench]) -> None:
    gate = {"rain_gate__enabled": True, "rain_gate__hold_s": 0.05, "rain_gate__probe_period_s": 0.2}
    bench = make(**gate)  # the fake backend finds no rain
    for number in range(60):
        bench.send(number)
        wait_for(bench.settled, "its fate")
        time.sleep(0.01)
    fates = [fate for _, fate in bench.sent()]
    first = fates.index("dry")
    assert 2 <= first < 30
    assert set(fates[first:]) == {"dry"}
    assert first + 2 <= len(bench.batches) < first + 12, "a look every 0.2 s"


def test_a_disabled_camera_passes_while_another_is_derained(make: Callable[..., Bench]) -> None:
    bench = make(2, {"latency_ms": 300})
    bench.cameras["camera1"].enabled = False
    bench.send(1, camera=0)
    time.sleep(0.05)
    bench.send(1, camera=1)
    wait_for(lambda: bench.sent(1), "the one that needs no network", 0.2)
    assert bench.sent(0) == []
    wait_for(bench.settled, "the other")


def test_a_flood_that_passes_through_keeps_nobody_waiting(make: Callable[..., Bench]) -> None:
    """One camera sends as fast as it is settled; a result of another goes out all the same."""
    bench = make(2, {"latency_ms": 20})
    bench.cameras["camera0"].enabled = False
    flooding = True

    def flood() -> None:
        number = 0
        while flooding:
            bench.send(number, camera=0)
            number += 1

    thread = Thread(target=flood)
    thread.start()
    bench.send(1, camera=1)
    wait_for(lambda: bench.sent(1), "the result", 5)
    flooding = False
    thread.join()


def test_a_frame_in_a_hurry_waits_for_no_batch(make: Callable[..., Bench]) -> None:
    bench = make(2, {"latency_ms": 50}, batch_wait_ms=1000, deadline_ms=300)
    for number in range(3):
        bench.send(number, camera=0)
        bench.send(number, camera=1)
        wait_for(bench.settled, "both")
        time.sleep(0.1)
    bench.send(3, camera=0)  # the other is about to come, but does not
    wait_for(bench.settled, "the one that is alone")
    assert bench.sent(0)[-1] == (3, "derained")


def test_closing_waits_for_the_frame_in_hand(make: Callable[..., Bench]) -> None:
    bench = make(options={"latency_ms": 200})
    bench.send(1)
    wait_for(lambda: bench.batches, "its call")
    bench.send(2)
    bench.close()
    assert bench.sent() == [(1, "derained")]
    assert bench.figures().dropped == {"shutdown": 1}


def test_an_error_of_ours_costs_one_frame(make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make()
    publish = NotingCamera.publish

    def broken(self: NotingCamera, header: Any, *rest: Any) -> None:
        if header.stamp.nanosec == 1_000_000:
            raise ValueError("broken")
        publish(self, header, *rest)

    monkeypatch.setattr(NotingCamera, "publish", broken)
    for number in range(3):
        bench.send(number)
        wait_for(bench.settled, "its fate")
    assert [stamp for stamp, _ in bench.sent()] == [0, 2]
    assert bench.figures().dropped == {"failure": 1}
    assert any("ValueError: broken" in error for error in bench.errors)


def test_one_slow_publish_does_not_cost_every_later_frame(make: Callable[..., Bench]) -> None:
    bench = make(deadline_ms=50, on_failure="drop")
    bench.cameras["camera0"].stats.count_received(0.0)
    bench.cameras["camera0"].stats.count_passed_through("building", "", Parts(publish_s=0.06))
    for number in range(10):
        bench.send(number)
        wait_for(bench.settled, "its fate")
    assert bench.figures().derained >= 8


def test_originals_of_several_cameras_leave_in_time_together(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishing takes 20 ms, and all of them are due at once behind a call that is late."""
    publish = NotingCamera.publish

    def slow(self: NotingCamera, header: Any, outcome: Outcome, params: NodeParams, at_s: float, parts: Parts) -> None:
        time.sleep(0.02)
        parts.publish_s = 0.02
        publish(self, header, outcome, params, at_s, parts)

    monkeypatch.setattr(NotingCamera, "publish", slow)
    bench = make(4, {"latency_ms": 1500}, deadline_ms=300)
    for number in range(3):
        for camera in range(4):
            bench.send(number, camera)
        wait_for(bench.settled, "the originals")
    latencies_s = [latency_s for camera in bench.cameras.values() for latency_s in camera.latencies_s[1:]]
    assert max(latencies_s) < 0.35, "20 ms for each of the others would be too late"


def test_a_size_that_is_not_ready_waits_for_no_call(make: Callable[..., Bench]) -> None:
    bench = make(2, {"latency_ms": 700})
    bench.send(1, camera=0)
    wait_for(lambda: bench.batches, "its call")
    for number in range(5):
        bench.send(number, camera=1, size=(8, 8))  # too small for the network, whatever it does
        wait_for(lambda number=number: len(bench.sent(1)) == number + 1, "the original", 0.3)
    assert bench.sent(0) == []


def test_closing_ends_with_the_call_and_not_with_the_time_for_it(make: Callable[..., Bench]) -> None:
    bench = make(options={"latency_ms": 200})
    bench.send(1)
    wait_for(lambda: bench.batches, "its call")
    began_s = time.monotonic()
    bench.worker.close(5.0)
    assert time.monotonic() - began_s < 3.0
    assert bench.sent() == [(1, "derained")]


def test_a_backend_that_cannot_be_loaded_at_once_is_tried_again(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapnet_ros.restarts.FIRST_PAUSE_S", 0.05)
    bench = make(options={"mode": "hang"}, hang_timeout_s=0.1)
    load = bench.loader._load

    def fails_once(stages: int) -> Derainer:
        monkeypatch.setattr(bench.loader, "_load", load)
        raise BackendError("the device is not back yet")

    monkeypatch.setattr(bench.loader, "_load", fails_once)
    bench.send(1)
    wait_for(lambda: bench.loader.restarts == 2 and bench.loader.ready, "another try")
    assert any("not back yet; starting it anew" in error for error in bench.errors)


def test_the_gate_opens_also_when_every_look_is_late(make: Callable[..., Bench]) -> None:
    bench = make(
        options={"latency_ms": 80},
        deadline_ms=40,
        rain_gate__enabled=True,
        rain_gate__hold_s=0,
        rain_gate__probe_period_s=0.05,
        rain_gate__on_threshold=0.0,
        rain_gate__off_threshold=0.0,
    )
    gate, settings = bench.cameras["camera0"].gate, bench.params.gate
    assert gate.note_score(-1.0, 0.0, settings), "it is dry"
    for number in range(40):
        bench.send(number)
        time.sleep(0.02)
    wait_for(bench.settled, "all")
    assert gate.state(settings) == "rain"


def test_an_error_at_first_sight_costs_one_frame(make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make()
    monkeypatch.setattr(bench.loader, "request", lambda size: 1 / 0)
    bench.send(1)
    wait_for(bench.settled, "its fate")
    monkeypatch.undo()
    bench.send(2)
    wait_for(bench.settled, "its fate")
    assert bench.figures().dropped == {"failure": 1}
    assert bench.sent() == [(2, "derained")]
