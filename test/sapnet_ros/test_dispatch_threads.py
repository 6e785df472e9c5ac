"""The dispatch with its threads: order, accounting, closing, hanging. What it decides is test_dispatch.py's matter."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import pytest
from dispatch_bench import NotingCamera, Surroundings

from live import wait_for
from sapnet import Derainer
from sapnet.errors import BackendError
from sapnet_ros.mailbox import Received


class Bench(Surroundings):
    """A dispatch on its threads. ``go``: calls of the network wait until it is set, which it is at first."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.go = threading.Event()
        self.go.set()
        super().__init__(*args, **more)
        self.dispatch = self.make_dispatch()
        self.dispatch.start()

    def close(self) -> None:
        self.go.set()
        self.dispatch.close(30.0)
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


def test_a_frame_that_cannot_be_published_is_dropped(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    publish = NotingCamera.publish

    def broken(self: NotingCamera, frame: Received, *rest: Any) -> None:
        if frame.message.header.stamp.nanosec == 1_000_000:
            raise RuntimeError("broken")
        publish(self, frame, *rest)

    monkeypatch.setattr(NotingCamera, "publish", broken)
    for number in range(3):
        bench.send(number)
        wait_for(bench.settled, "its fate")
    assert [stamp for stamp, _ in bench.sent()] == [0, 2]
    assert bench.figures().dropped == {"failure": 1}
    assert any("RuntimeError: broken" in error for error in bench.errors)


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
    wait_for(lambda: bench.loader.restarts.count == 2 and bench.loader.ready, "another try")
    assert any("not back yet; restarting it" in error for error in bench.errors)


def test_closing_waits_for_the_call_and_not_for_the_time_it_has(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.go.clear()
    bench.send(1)
    wait_for(lambda: bench.batches, "its call")
    bench.send(2)
    closing = Thread(target=bench.dispatch.close, args=(3600.0,))
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
    bench.dispatch.close(0.05)
    wait_for(bench.settled, "its fate")
    assert bench.figures().dropped == {"shutdown": 1}
    assert any("its frames are dropped" in error for error in bench.errors)
