"""The worker with its threads: order, accounting, closing, hanging. What it decides is test_dispatch.py's matter."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import numpy as np
import pytest
from dispatch_bench import LARGE, SMALL, NotingCamera, Surroundings
from hypothesis import given, settings
from hypothesis import strategies as st

from live import wait_for
from sapnet import Derainer
from sapnet.errors import BackendError
from sapnet_ros import cv_bridge_fallback
from sapnet_ros.mailbox import Received
from sapnet_ros.worker import Worker


class Bench(Surroundings):
    """A worker with its surroundings. ``go``: calls of the network wait until it is set, which it is at first."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.go = threading.Event()
        self.go.set()
        super().__init__(*args, **more)
        self.worker = Worker(self.cameras, self.loader, lambda: self.params, self.log, self.threads.append)

    def put(self, frame: Received) -> None:
        self.worker.put(frame)

    def close(self) -> None:
        self.go.set()
        self.worker.close(30.0)
        super().close()

    def hold(self) -> None:
        assert self.go.wait(60)


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


@settings(max_examples=25)
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
    wait_for(bench.settled, "a fate for every frame")
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
    try:
        wait_for(lambda: bench.sent(1), "the result")
    finally:
        flooding = False
        thread.join()


def test_an_error_of_ours_costs_one_frame(make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make()
    publish = NotingCamera.publish

    def broken(self: NotingCamera, frame: Received, *rest: Any) -> None:
        if frame.message.header.stamp.nanosec == 1_000_000:
            raise ValueError("broken")
        publish(self, frame, *rest)

    monkeypatch.setattr(NotingCamera, "publish", broken)
    for number in range(3):
        bench.send(number)
        wait_for(bench.settled, "its fate")
    assert [stamp for stamp, _ in bench.sent()] == [0, 2]
    assert bench.figures().dropped == {"failure": 1}
    assert any("ValueError: broken" in error for error in bench.errors)


def test_a_backend_that_cannot_be_loaded_at_once_is_tried_again(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapnet_ros.loader.FIRST_PAUSE_S", 0.05)
    bench = make(options={"mode": "hang"}, hang_timeout_s=0.1)
    load = bench.loader._load

    def fails_once(stages: int) -> Derainer:
        monkeypatch.setattr(bench.loader, "_load", load)
        raise BackendError("the device is not back yet")

    monkeypatch.setattr(bench.loader, "_load", fails_once)
    bench.send(1)
    wait_for(lambda: bench.loader.restarts == 2 and bench.loader.ready, "another try")
    assert any("not back yet; restarting it" in error for error in bench.errors)


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


def test_closing_waits_for_the_call_and_not_for_the_time_it_has(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.go.clear()
    bench.send(1)
    wait_for(lambda: bench.batches, "its call")
    bench.send(2)
    closing = Thread(target=bench.worker.close, args=(3600.0,))
    closing.start()
    wait_for(lambda: bench.figures().dropped == {"shutdown": 1}, "the end of what waits")
    assert bench.sent() == []
    bench.go.set()
    closing.join(60)
    assert not closing.is_alive()
    assert bench.sent() == [(1, "derained")]


def test_closing_gives_up_a_call_that_takes_too_long(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.go.clear()
    bench.send(1)
    wait_for(lambda: bench.batches, "its call")
    bench.worker.close(0.05)
    wait_for(bench.settled, "its fate")
    assert bench.figures().dropped == {"shutdown": 1}
    assert any("given up" in error for error in bench.errors)


def test_a_backend_that_hangs_is_started_anew(make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sapnet_ros.loader.FIRST_PAUSE_S", 0.01)
    bench = make(options={"mode": "hang"}, hang_timeout_s=0.2)
    bench.send(1)
    wait_for(bench.settled, "the original")
    assert bench.sent() == [(1, "failure")]
    wait_for(lambda: bench.loaded == 2 and bench.loader.ready and not bench.loader.error, "another backend")
    assert bench.loader.restarts == 1


def test_a_backend_that_hangs_again_and_again_is_given_up(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapnet_ros.loader.FIRST_PAUSE_S", 0.001)
    bench = make(options={"mode": "hang"}, hang_timeout_s=0.1)
    for number in range(6):
        wait_for(lambda: bench.loader.ready, "the backend")
        # Freeing the backend ends its call, sooner or later.
        wait_for(lambda: [t.name for t in bench.threads if t.is_alive()].count("inference") == 1, "the hung one's end")
        bench.send(number)
        wait_for(bench.settled, "the original")
    assert "after 5 restarts: given up" in bench.loader.error
    bench.send(9)
    wait_for(bench.settled, "the original")
    assert bench.sent()[-1] == (9, "failure")
    assert bench.loaded == 6


def test_calls_that_never_return_are_the_end_of_restarts(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapnet_ros.loader.FIRST_PAUSE_S", 0.001)
    bench = make(hang_timeout_s=0.1)
    bench.go.clear()  # freeing the backend ends no call
    for number in range(5):
        wait_for(lambda: bench.loader.ready, "the backend")
        bench.send(number)
        wait_for(bench.settled, "the original")
    assert "5 calls have never returned: given up" in bench.loader.error
    assert bench.loaded == 5


def test_nobody_waits_while_cv_bridge_is_tried(make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    class Bridge:
        def encoding_to_cvtype2(self, encoding: str) -> None:
            pass

        def imgmsg_to_cv2(self, message: Any, desired_encoding: str) -> np.ndarray:
            return np.zeros((message.height, message.width, 3), np.uint8)

    tried = threading.Event()
    monkeypatch.setattr(cv_bridge_fallback, "_is_installed", lambda: True)
    monkeypatch.setattr(cv_bridge_fallback, "_open_bridge", lambda: (tried.wait(60) and Bridge(), ""))
    bench = make(2)
    try:
        for number in range(3):
            bench.send(number, camera=0, encoding="rgba16")
            bench.send(number, camera=1)
            wait_for(bench.settled, "their fates")
        assert bench.sent(1) == [(number, "derained") for number in range(3)]
        assert bench.figures(0).dropped == {"unsupported": 3}
        assert "is being tried" in bench.figures(0).last_error
        assert [thread.name for thread in bench.threads].count("cv_bridge") == 1
    finally:
        tried.set()
    wait_for(lambda: not any(t.name == "cv_bridge" and t.is_alive() for t in bench.threads), "the end of the trial")
    bench.send(9, camera=0, encoding="rgba16")
    wait_for(bench.settled, "its fate")
    assert bench.sent(0) == [(9, "derained")]
