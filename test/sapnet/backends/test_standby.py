"""What serves while engines are made ready, with backends that do as they are told."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from waiting import eventually

from sapnet.backends import standby
from sapnet.backends.base import Frames
from sapnet.backends.standby import Standby
from sapnet.errors import BackendError

SHAPE = (1, 48, 64)
FRAMES = np.zeros((*SHAPE, 3), np.uint8)


class Backend:
    """Ready for what was prepared, until it is forgotten."""

    precision = "fp32"
    device = "a device"
    stages = 1

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: set[tuple[int, ...]] = set()
        self.prepared: list[tuple[int, ...]] = []
        self.errors: list[Exception] = []
        self.go = threading.Event()
        self.go.set()
        self.before_infer: Callable[[], None] = lambda: None

    def is_ready(self, *shape: int) -> bool:
        return shape in self.ready

    def prepare(self, *shape: int) -> None:
        self.prepared.append(shape)
        assert self.go.wait(30)
        if self.errors:
            raise self.errors.pop()
        self.ready.add(shape)

    def infer(self, frames: Frames) -> tuple[Frames, Frames]:
        self.before_infer()
        if frames.shape[:3] not in self.ready:
            raise BackendError(f"{self.name} is not ready")
        return frames, frames[..., 0]

    def forget(self, height: int, width: int) -> None:
        self.ready = {shape for shape in self.ready if shape[1:] != (height, width)}

    def close(self) -> None:
        self.ready.clear()


class Both(Standby):
    """Of two backends, which are ``engines`` and ``torch``."""

    def __init__(self) -> None:
        self.engines, self.torch = Backend("engines"), Backend("torch")
        super().__init__(self.engines, self.torch)


@pytest.fixture
def both() -> Both:
    return Both()


def test_an_engine_takes_over_and_is_made_ready_again_once_given_up(both: Both) -> None:
    both.engines.go.clear()
    both.prepare(*SHAPE)
    both.infer(FRAMES)
    assert both.name == "torch"
    both.engines.go.set()
    eventually(lambda: both.engines.ready)
    eventually(lambda: not both.torch.ready)  # its size is forgotten
    both.infer(FRAMES)
    assert both.name == "engines"
    both.engines.ready.clear()
    both.torch.ready.add(SHAPE)
    both.infer(FRAMES)
    eventually(lambda: both.engines.ready)
    assert both.engines.prepared == [SHAPE, SHAPE]


def test_a_failure_is_logged_and_tried_again_later(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    both.engines.errors.append(BackendError("no room"))
    both.prepare(*SHAPE)
    eventually(lambda: not both.building)
    assert "48x64 stays with torch (a device): no room" in caplog.text
    both.infer(FRAMES)
    assert both.engines.prepared == [SHAPE]
    both._not_before[SHAPE] -= standby._RETRY_S
    both.infer(FRAMES)
    eventually(lambda: both.engines.ready)


def test_a_frame_is_not_lost_while_another_thread_changes_over(both: Both) -> None:
    both.engines.go.clear()
    both.prepare(*SHAPE)

    def change_over() -> None:
        both.engines.ready.add(SHAPE)
        both.torch.forget(*SHAPE[1:])

    both.torch.before_infer = change_over
    assert both.infer(FRAMES)[0].shape == FRAMES.shape
    assert both.name == "engines"
    both.engines.go.set()


def test_the_stand_in_is_ready_before_the_engine_is_looked_for(both: Both) -> None:
    both.torch.go.clear()
    preparing = threading.Thread(target=both.prepare, args=SHAPE)
    preparing.start()
    eventually(lambda: both.torch.prepared)
    assert not both.engines.prepared
    both.torch.go.set()
    preparing.join(30)
    eventually(lambda: both.engines.ready)


def test_closing_is_no_failure(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    both.engines.go.clear()
    both.engines.errors.append(BackendError("the build was stopped"))
    both.prepare(*SHAPE)
    both.close()
    both.engines.go.set()
    eventually(lambda: not both.building)
    assert not caplog.records
