"""What serves while engines are made ready, with backends that do as they are told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from waiting import eventually

from sapnet.backends import standby
from sapnet.backends.base import Frames
from sapnet.backends.standby import Standby
from sapnet.errors import BackendError

SHAPE = (1, 48, 64)
FRAMES = np.zeros((*SHAPE, 3), np.uint8)


@pytest.fixture
def engines(make_sized: Any) -> Any:
    return make_sized("engines")


@pytest.fixture
def torch(make_sized: Any) -> Any:
    return make_sized("torch")


@pytest.fixture
def both(engines: Any, torch: Any) -> Standby:
    return Standby(engines, torch)


def test_an_engine_takes_over_and_is_made_ready_again_once_given_up(both: Standby, engines: Any, torch: Any) -> None:
    engines.go.clear()
    both.prepare(*SHAPE)
    both.infer(FRAMES)
    assert both.name == "torch"
    engines.go.set()
    eventually(lambda: engines.is_ready(*SHAPE))
    eventually(lambda: not torch.is_ready(*SHAPE))  # its size is forgotten
    both.infer(FRAMES)
    assert both.name == "engines"
    engines.forget(*SHAPE[1:])
    both.infer(FRAMES)
    eventually(lambda: engines.is_ready(*SHAPE))
    assert len(engines.made) == len(torch.made) == 2


def test_a_failure_is_logged_and_tried_again_later(
    both: Standby, engines: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engines.errors.append(BackendError("no room"))
    both.prepare(*SHAPE)
    eventually(lambda: not both.building)
    assert "48x64 stays with torch (a device): no room" in caplog.text
    both.infer(FRAMES)
    assert not both.building
    both._not_before[SHAPE] -= standby._RETRY_S
    both.infer(FRAMES)
    eventually(lambda: engines.is_ready(*SHAPE))


def test_a_frame_is_not_lost_while_another_thread_changes_over(
    both: Standby, engines: Any, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines.go.clear()
    both.prepare(*SHAPE)

    def change_over(frames: Frames) -> None:
        engines.go.set()
        eventually(lambda: engines.is_ready(*SHAPE))
        raise BackendError("this engine is closed")

    monkeypatch.setattr(torch, "infer", change_over)
    assert both.infer(FRAMES)[0].shape == FRAMES.shape
    assert both.name == "engines"


def test_the_stand_in_is_ready_before_the_engine_is_looked_for(both: Standby, engines: Any, torch: Any) -> None:
    torch.go.clear()
    with ThreadPoolExecutor(1) as another:
        another.submit(both.prepare, *SHAPE)
        assert torch.making.wait(30)
        assert not engines.making.is_set()
        torch.go.set()
    eventually(lambda: engines.is_ready(*SHAPE))


def test_closing_is_no_failure(both: Standby, engines: Any, caplog: pytest.LogCaptureFixture) -> None:
    engines.go.clear()
    engines.errors.append(BackendError("the build was stopped"))
    both.prepare(*SHAPE)
    both.close()
    engines.go.set()
    eventually(lambda: not both.building)
    assert not caplog.records
