"""Pairs the messages of two recordings: both are read side by side, and few messages wait in memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from sapnet.bags.recording import Message, Recording, Topic
from sapnet.bags.types import digest_of, stamp_of

# Messages that wait for the other recording may take so many bytes per topic and side, but at least so many may wait.
MAX_WAITING_BYTES = 32 * 2**20
MIN_WAITING = 4
_OVERHEAD = 300  # bytes of a message in addition to its content


class Entry(NamedTuple):
    """A message of one side.

    place: its number in its topic name. stamp: of its header in nanoseconds; None without one.
    digest: of its fields if too much was waiting, and its data was dropped; else empty.
    """

    message: Message
    place: int
    stamp: int | None
    digest: bytes = b""


# An entry, the side that it is of (0 for A, 1 for B), and its counterpart; None if nothing corresponds to it.
Pair = tuple[int, Entry, "Entry | None"]


def pair_up(recordings: Sequence[Recording], topics: Sequence[list[Topic]]) -> Iterator[Pair]:
    """Pair the messages of some topics of each of two recordings, by topic name.

    Messages with a header are paired by its stamp, and by order if stamps repeat; all others by order.
    """
    shared = {topic.name for topic in topics[0]} & {topic.name for topic in topics[1]}
    waiting = [{name: _Waiting() for name in shared} for _ in recordings]
    streams = [_entries(recording.messages(some)) for recording, some in zip(recordings, topics, strict=True)]
    # Neither recording may run ahead of the other. What a replay shares with its source are the stamps of headers,
    # topic by topic; its log times may be of another day and pace.
    newest: tuple[dict[str, int], dict[str, int]] = ({}, {})
    # How many stamps of a topic were found in both: once a topic has two, those without tell nothing, as they may be
    # stamped anew in a replay. A single one may be of a latched topic.
    found: Counter[str] = Counter()
    side = 0
    behind: int | None = None
    while True:
        entry = next(streams[side], None)
        if entry is None:
            side = 1 - side
            if (entry := next(streams[side], None)) is None:
                break
        name, stamp = entry.message.topic.name, entry.stamp
        if name not in shared:
            yield side, entry, None
        elif (partner := waiting[1 - side][name].take(stamp)) is not None:
            found[name] += stamp is not None
            yield side, entry, partner
        else:
            yield from ((side, lost, None) for lost in waiting[side][name].put(entry))
        if name in shared and stamp is not None:
            newest[side][name] = stamp
            if found[name] > 1 or max(found.values(), default=0) < 2:
                other = newest[1 - side].get(name, -1)
                behind = None if stamp == other else 1 - side if stamp > other else side
        side = 1 - side if behind is None else behind
    for side, some in enumerate(waiting):
        for queue in some.values():
            yield from ((side, entry, None) for entry in chain.from_iterable(queue.by_stamp.values()))


def _entries(messages: Iterator[Message]) -> Iterator[Entry]:
    places: Counter[str] = Counter()
    for message in messages:
        yield Entry(message, places[message.topic.name], stamp_of(message))
        places[message.topic.name] += 1


class _Waiting:
    """Messages of one topic name and one side that wait for those of the other one. by_stamp: the oldest first."""

    def __init__(self) -> None:
        self.by_stamp: dict[int | None, deque[Entry]] = {}
        self._bytes = 0
        self._count = 0

    def put(self, entry: Entry) -> Iterator[Entry]:
        """Add a message, and give up the oldest ones if too much is waiting; those without stamp leave a digest."""
        if entry.stamp is None and self._is_full:
            entry = entry._replace(message=entry.message._replace(data=b""), digest=digest_of(entry.message))
        self.by_stamp.setdefault(entry.stamp, deque()).append(entry)
        self._account(entry, 1)
        while self._is_full and (oldest := self.take(next(filter(None, self.by_stamp), 0))) is not None:
            yield oldest

    def take(self, stamp: int | None) -> Entry | None:
        """Remove and return the oldest message with this stamp, or None."""
        queue = self.by_stamp.get(stamp)
        if not queue:
            return None
        entry = queue.popleft()
        if not queue:
            del self.by_stamp[stamp]
        self._account(entry, -1)
        return entry

    @property
    def _is_full(self) -> bool:
        return self._bytes > MAX_WAITING_BYTES and self._count > MIN_WAITING

    def _account(self, entry: Entry, sign: int) -> None:
        self._bytes += sign * (len(entry.message.data) + _OVERHEAD)
        self._count += sign
