"""How the network is loaded and restarted in the background."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from waiting import eventually

from sapnet.errors import BackendError
from sapnet_ros.loader import (
    FIRST_PAUSE_S,
    FORGIVEN_AFTER_S,
    MAX_LEFT_BEHIND,
    MAX_RESTARTS,
    Loader,
    Restarts,
    StageChoice,
)

Size = tuple[int, int]

MAX_SIZES = 4


class StubDerainer:
    """Compiles on command, refuses one size, and keeps the last of them."""

    def __init__(self, stages: int = 0, refuses: Size = (0, 0)) -> None:
        self.stages = stages
        self.go = threading.Event()
        self.go.set()
        self.refuses = refuses
        self.closed = False
        self.sizes: deque[Size] = deque(maxlen=MAX_SIZES)

    def prepare(self, height: int, width: int, batch: int = 1) -> None:
        assert self.go.wait(10)
        if (height, width) == self.refuses:
            raise BackendError(f"cannot compile for {height}x{width}")
        self.sizes.append((height, width))

    def is_ready(self, height: int, width: int, batch: int = 1) -> bool:
        return (height, width) in self.sizes

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def make() -> Iterator[Callable[..., Loader]]:
    made: list[Loader] = []

    def make(load: Callable[[int], object], sizes: Sequence[Size] = (), rate: StageChoice | None = None) -> Loader:
        choice = rate or StageChoice(0, 0.0)
        made.append(Loader(load, choice, sizes, MAX_SIZES, on_change=lambda: None))
        return made[-1]

    yield make
    for loader in made:
        loader.close()


def test_a_new_size_makes_it_unready_until_compiled(make: Callable[..., Loader]) -> None:
    stub = StubDerainer()
    loader = make(lambda stages: stub, [(48, 64)])
    eventually(lambda: loader.ready)
    stub.go.clear()
    loader.request((32, 32))
    assert not loader.ready
    assert loader.ready_for((48, 64))
    eventually(lambda: loader.building == "compiling for 32x32")
    stub.go.set()
    eventually(lambda: loader.ready)


def test_a_size_that_does_not_compile_spoils_no_other(make: Callable[..., Loader]) -> None:
    loader = make(lambda stages: StubDerainer(refuses=(32, 32)), [(32, 32), (48, 64)])
    eventually(lambda: loader.ready_for((48, 64)) and loader.error)
    assert loader.error_for((32, 32)) == "cannot compile for 32x32"
    assert loader.error_for((48, 64)) == ""
    assert not loader.ready


def test_old_sizes_are_forgotten(make: Callable[..., Loader]) -> None:
    loader = make(StubDerainer)
    for height in range(16, 16 + 3 * MAX_SIZES):
        loader.request((height, 64))
    eventually(lambda: loader.ready)
    assert set(loader.derainer.sizes) == {(16 + 3 * MAX_SIZES - n, 64) for n in range(1, MAX_SIZES + 1)}


def test_a_network_that_hung_is_loaded_until_that_succeeds_and_stays_where_other_stages_do_not_load(
    make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapnet_ros.loader.FIRST_PAUSE_S", 0.02)
    loads: list[Any] = [StubDerainer(), BackendError("not back yet"), StubDerainer(), BackendError("no such stages")]
    tries = []

    def load(stages: int) -> StubDerainer:
        tries.append(stages)
        if isinstance(loaded := loads[len(tries) - 1], BackendError):
            raise loaded
        return loaded

    loader = make(load, [(48, 64)])
    eventually(lambda: loader.ready)
    loader.restart(loader.derainer, "it hangs", threading.current_thread(), began_s=0.0)
    eventually(lambda: loader.ready)
    assert loader.last_error[0].startswith("not back yet; restarting it in 0.04 s")
    loader.choose_stages(StageChoice(3, 0.0))
    eventually(lambda: loader.error == "no such stages")
    time.sleep(0.05)
    assert (loader.ready_for((48, 64)), tries) == (True, [0, 0, 0, 3])


class TimedDerainer(StubDerainer):
    """Takes 10 ms for each stage and 48x64 pixels, of a test's own time; six stages are the preset's."""

    building = False
    slowness = 1.0

    def __init__(self, stages: int, clock: list[float]) -> None:
        super().__init__(stages or 6)
        self._clock = clock

    def __call__(self, frames: list[np.ndarray]) -> None:
        height, width, _ = frames[0].shape
        self._clock[0] += 0.01 * self.slowness * self.stages * height * width / (48 * 64)


def test_as_many_stages_run_as_hold_the_rate(make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch) -> None:
    """19 Hz leaves 42 ms of 53: four stages; of a larger size, one; and all where that is fast enough again."""
    clock = [100.0]
    loader = make(lambda stages: TimedDerainer(stages, clock), rate=StageChoice(0, 19.0, lambda: clock[0]))
    loader.request((48, 64))
    eventually(lambda: loader.choice.said == "4 of 6 stages take 40.0 ms at 48x64: they hold 19 frames a second")
    assert loader.derainer.stages == 4
    loader.request((96, 128))
    eventually(lambda: loader.choice.said == "1 of 6 stages take 40.0 ms at 96x128: they hold 19 frames a second")
    loader.request((24, 64))
    eventually(lambda: loader.choice.said == "6 of 6 stages take 30.0 ms at 24x64: they hold 19 frames a second")
    monkeypatch.setattr(TimedDerainer, "slowness", 2.0)  # as a device that has grown hot
    loader.review_stages()
    eventually(lambda: loader.choice.said == "4 of 6 stages take 40.0 ms at 24x64: they hold 19 frames a second")


@pytest.mark.parametrize(
    ("hz", "said", "loaded"), [(1.0, "6 of 6 stages take 60.0 ms", [0]), (19.0, "4 of 6 stages take 40.0 ms", [0, 4])]
)
def test_a_rate_is_measured_also_where_nothing_is_compiled_and_nothing_loaded_without_need(
    make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch, hz: float, said: str, loaded: list[int]
) -> None:
    """As with torch on a CPU."""
    clock, loads = [100.0], []

    def load(stages: int) -> TimedDerainer:
        loads.append(stages)
        return TimedDerainer(stages, clock)

    monkeypatch.setattr(TimedDerainer, "is_ready", lambda *shape: True)
    loader = make(load, [(48, 64)], StageChoice(0, hz, lambda: clock[0]))
    eventually(lambda: loader.choice.said.startswith(f"{said} at 48x64"))
    time.sleep(0.05)
    assert loads == loaded


def test_each_pause_is_twice_the_one_before_until_the_end() -> None:
    restarts = Restarts(lambda: 1000.0)
    for number in range(MAX_RESTARTS):
        pause_s = FIRST_PAUSE_S * 2**number
        told = f"it hangs; restarting it in {pause_s:g} s (try {number + 1} of {MAX_RESTARTS})"
        assert restarts.plan("it hangs", 1000.0) == (True, told)
        assert restarts.pause_s == pause_s
    told = "it hangs, after 5 restarts: given up; clean up and configure to try again"
    assert restarts.plan("it hangs", 1000.0) == (False, told)
    assert restarts.count == MAX_RESTARTS


@pytest.mark.parametrize(("good_s", "tries"), [(FORGIVEN_AFTER_S + 1, [1, 1, 1]), (FORGIVEN_AFTER_S - 1, [1, 2, 3])])
def test_restarts_are_forgiven_after_a_good_while(good_s: float, tries: list[int]) -> None:
    """However long loading takes, and a call hangs before it is abandoned."""
    now_s, seen = [1000.0], []
    restarts = Restarts(lambda: now_s[0])
    for _ in tries:
        now_s[0] += 10 * FORGIVEN_AFTER_S
        restarts.loaded_s = now_s[0]
        began_s = now_s[0] + good_s
        now_s[0] = began_s + 10 * FORGIVEN_AFTER_S
        restarts.plan("it hangs", began_s)
        seen.append(restarts.in_a_row)
    assert seen == tries


def test_calls_that_never_return_add_up_however_well_it_went_between() -> None:
    restarts = Restarts(lambda: 1000.0)
    told = "it hangs, 5 calls have never returned: given up; clean up and configure to try again"
    for number in range(1, MAX_LEFT_BEHIND + 1):
        restarts.loaded_s = 1000.0
        restarts.left_behind += [SimpleNamespace(is_alive=lambda: True), SimpleNamespace(is_alive=lambda: False)]
        again, error = restarts.plan("it hangs", 1000.0 + 10 * FORGIVEN_AFTER_S)
        assert (again, error == told) == (number < MAX_LEFT_BEHIND, number == MAX_LEFT_BEHIND)
