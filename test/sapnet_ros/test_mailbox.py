"""The newest frame per camera, cameras in turn."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from sapnet_ros.mailbox import MAX_WAITING_BYTES, Mailbox, Received


@dataclass
class Numbered:
    """As much of an image message as the mailbox looks at."""

    number: int
    data: bytes | range = b""


def frame(number: int, camera: str = "", size: int = 1) -> Received:
    return Received(camera, Numbered(number, range(size)), 0.0)


def test_newest_frame_wins_and_the_overtaken_one_is_returned() -> None:
    mailbox = Mailbox([""])
    first = frame(1)
    assert mailbox.put(first, keep_overtaken=False) is None
    assert mailbox.put(frame(2), keep_overtaken=False) is first
    assert mailbox.take().message.number == 2


def test_overtaken_frames_stay_in_line_in_order_and_marked() -> None:
    mailbox = Mailbox([""])
    for number in range(3):
        assert mailbox.put(frame(number), keep_overtaken=True) is None
    taken = [mailbox.take() for _ in range(3)]
    assert [(f.message.number, f.overtaken) for f in taken] == [(0, True), (1, True), (2, False)]


def test_the_line_of_overtaken_frames_is_bounded() -> None:
    mailbox = Mailbox([""])
    lost = [mailbox.put(frame(number, size=MAX_WAITING_BYTES // 3), keep_overtaken=True) for number in range(6)]
    assert [f.message.number for f in lost if f] == [0, 1, 2]
    assert len(mailbox.close()) == 3


def test_one_frame_waits_behind_another_whatever_their_size() -> None:
    mailbox = Mailbox([""])
    lost = [mailbox.put(frame(number, size=2 * MAX_WAITING_BYTES), keep_overtaken=True) for number in range(3)]
    assert [f.message.number for f in lost if f] == [0]
    assert len(mailbox.close()) == 2


def test_cameras_take_turns() -> None:
    mailbox = Mailbox(["fast", "slow"])
    for number in range(3):
        mailbox.put(frame(number, "fast"), keep_overtaken=True)
    mailbox.put(frame(9, "slow"), keep_overtaken=True)
    assert "slow" in [mailbox.take().camera for _ in range(2)]


@pytest.mark.parametrize("camera", ["a", "b", "c"])
def test_one_camera_alone_is_served_whoevers_turn_it_is(camera: str) -> None:
    mailbox = Mailbox(["a", "b", "c"])
    for number in range(4):
        mailbox.put(frame(number, camera), keep_overtaken=False)
        assert mailbox.take().message.number == number


def test_close_wakes_the_taker_and_hands_back_what_is_left() -> None:
    mailbox = Mailbox([""])
    taken: list[Received | None] = []
    taker = threading.Thread(target=lambda: taken.append(mailbox.take()))
    taker.start()
    assert mailbox.close() == []
    taker.join(5)
    assert taken == [None]
    late = frame(1)
    assert mailbox.put(late, keep_overtaken=False) is late


def test_closing_returns_waiting_frames() -> None:
    mailbox = Mailbox(["a", "b"])
    mailbox.put(frame(1, "a"), keep_overtaken=False)
    mailbox.put(frame(2, "b"), keep_overtaken=False)
    assert sorted(f.message.number for f in mailbox.close()) == [1, 2]
    assert mailbox.take() is None
