"""The newest frame per camera, cameras in turn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sapnet_ros.mailbox import MAX_WAITING_BYTES, MAX_WAITING_FRAMES, Mailbox, Received

MIB = 2**20


@dataclass
class Numbered:
    """As much of an image message as the mailbox looks at."""

    number: int
    data: range


def frame(number: int, camera: str = "", size: int = 1) -> Received:
    return Received(camera, Numbered(number, range(size)), 0.0)


def numbers(frames: Iterable[Received | None]) -> list[int]:
    return [frame.message.number for frame in frames if frame is not None]


def taken(mailbox: Mailbox, camera: str = "") -> Received | None:
    """Its oldest frame, which must be there to be taken, and only once."""
    head = mailbox.head(camera)
    assert head is None or (mailbox.take(head) and not mailbox.take(head))
    return head


def test_newest_frame_wins_and_the_overtaken_one_is_returned() -> None:
    mailbox = Mailbox([""])
    first = frame(1)
    assert mailbox.put(first, keep_overtaken=False) == []
    assert mailbox.put(frame(2), keep_overtaken=False) == [first]
    assert not mailbox.take(first)
    assert numbers([taken(mailbox), taken(mailbox)]) == [2]


def test_overtaken_frames_stay_in_line_in_order_and_marked() -> None:
    mailbox = Mailbox([""])
    for number in range(3):
        assert mailbox.put(frame(number), keep_overtaken=True) == []
    frames = [taken(mailbox) for _ in range(3)]
    assert [(f.message.number, f.overtaken) for f in frames if f] == [(0, True), (1, True), (2, False)]


def test_the_line_of_overtaken_frames_is_bounded() -> None:
    mailbox = Mailbox([""])
    lost = [mailbox.put(frame(number, size=MAX_WAITING_BYTES // 3 - MIB), keep_overtaken=True) for number in range(6)]
    assert [numbers(frames) for frames in lost] == [[], [], [], [0], [1], [2]]
    assert numbers(mailbox.close()) == [3, 4, 5]


def test_many_small_frames_are_bounded_too() -> None:
    mailbox = Mailbox([""])
    lost = [mailbox.put(frame(number, size=0), keep_overtaken=True) for number in range(MAX_WAITING_FRAMES + 2)]
    assert [numbers(frames) for frames in lost[-3:]] == [[], [0], [1]]
    assert len(mailbox.close()) == MAX_WAITING_FRAMES


def test_a_closed_mailbox_hands_back_what_waits_and_what_comes() -> None:
    mailbox = Mailbox(["a", "b"])
    mailbox.put(frame(1, "a"), keep_overtaken=False)
    mailbox.put(frame(2, "b"), keep_overtaken=False)
    assert sorted(numbers(mailbox.close())) == [1, 2]
    late = frame(3, "a")
    assert mailbox.put(late, keep_overtaken=False) == [late]
    assert mailbox.head("a") is None
    assert mailbox.closed
