"""Pairs the messages of two recordings: both are read side by side, and few messages wait in memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

from sapnet.bags.definitions import Definitions
from sapnet.bags.recording import Message, Recording, Topic

# Messages that wait for the other recording may take so many bytes per topic and side, but at least so many may wait.
MAX_WAITING_BYTES = 32 * 2**20
MIN_WAITING = 4
_OVERHEAD = 300  # bytes of a message in addition to its content


class Side(NamedTuple):
    """A recording and the types that it defines."""

    recording: Recording
    definitions: Definitions


class Entry(NamedTuple):
    """A message of one side.

    place: its number in its topic name. stamp: of its header in nanoseconds; None without a header.
    digest: of its fields if too much was waiting, and its data was dropped; else empty.
    """

    message: Message
    place: int
    stamp: int | None
    digest: bytes = b""


# The entry of A and that of B; None if nothing corresponds to the other one.
Pair = tuple["Entry | None", "Entry | None"]


def pair_up(sides: tuple[Side, Side], topics: tuple[list[Topic], list[Topic]]) -> Iterator[Pair]:
    """Pair the messages of some topics of each side, by topic name.

    Messages with a header are paired by its stamp, and by order if stamps repeat; all others by order.
    """
    shared = {topic.name for topic in topics[0]} & {topic.name for topic in topics[1]}
    waiting = {name: _Waiting(sides) for name in shared}
    places: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    clocks = _Clocks(sides)
    streams = [side.recording.messages(some) for side, some in zip(sides, topics, strict=True)]
    heads = [next(stream, None) for stream in streams]
    while (side := clocks.behind(heads)) is not None:
        message = heads[side]
        assert message is not None
        name = message.topic.name
        entry = Entry(message, places[side][name], sides[side].definitions.stamp(message))
        places[side][name] += 1
        if name in waiting:
            clocks.note(side, entry)
            for a, b in waiting[name].add(side, entry):
                if a is not None and b is not None and a.stamp is not None:
                    clocks.meet(b.message.time_ns - a.message.time_ns)
                yield a, b
        else:
            yield _alone(side, entry)
        heads[side] = next(streams[side], None)
    for pending in waiting.values():
        yield from pending.rest()


def _alone(side: int, entry: Entry) -> Pair:
    return (entry, None) if side == 0 else (None, entry)


class _Clocks:
    """How the log times of two recordings relate, so that neither is read far ahead of the other.

    A replay is recorded at another time than its source: what they share are the stamps of headers.
    """

    def __init__(self, sides: tuple[Side, Side]) -> None:
        a, b = (side.recording for side in sides)
        overlap = a.start_ns < b.end_ns and b.start_ns < a.end_ns
        # Log time of B minus that of A, for the same moment.
        self._offset = 0 if overlap else b.start_ns - a.start_ns
        # Of each side: log time minus stamp of each topic's first message.
        self._delays: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._settled = False
        # Of each side: the latest log time so far, as times go back where a new file begins, and messages read.
        self._latest_ns = [0, 0]
        self._read = [0, 0]

    def behind(self, heads: list[Message | None]) -> int | None:
        """The side to read from; None at the end of both."""
        left = [side for side, head in enumerate(heads) if head is not None]
        for side in left:
            self._latest_ns[side] = max(self._latest_ns[side], heads[side].time_ns)  # type: ignore[union-attr]
        if len(left) == 2:
            a, b = self._latest_ns[0] + self._offset, self._latest_ns[1]
            left = [0 if (a, self._read[0]) <= (b, self._read[1]) else 1]
        for side in left:
            self._read[side] += 1
        return left[0] if left else None

    def note(self, side: int, entry: Entry) -> None:
        """Until messages have met, compare the first stamps of a topic."""
        name, (a, b) = entry.message.topic.name, self._delays
        if not self._settled and entry.stamp is not None:
            self._delays[side].setdefault(name, entry.message.time_ns - entry.stamp)
            if name in a and name in b:
                self.meet(b[name] - a[name])

    def meet(self, offset_ns: int) -> None:
        """Two messages with one stamp, logged so far apart, belong to the same moment."""
        self._offset = offset_ns
        self._settled = True


class _Waiting:
    """Messages of one topic name that wait for those of the other recording, by stamp, the oldest first."""

    def __init__(self, sides: tuple[Side, Side]) -> None:
        self._sides = sides
        self._queues: tuple[dict[int | None, deque[Entry]], ...] = ({}, {})
        self._bytes = [0, 0]
        self._counts = [0, 0]

    def add(self, side: int, entry: Entry) -> Iterator[Pair]:
        """Add a message, and yield what it decides."""
        if entry.stamp in self._queues[1 - side]:
            other = self._take(1 - side, entry.stamp)
            yield (entry, other) if side == 0 else (other, entry)
            return
        if entry.stamp is None and self._is_full(side):
            digest = self._sides[side].definitions.digest(entry.message)
            entry = entry._replace(message=entry.message._replace(data=b""), digest=digest)
        self._queues[side].setdefault(entry.stamp, deque()).append(entry)
        self._account(side, entry, 1)
        while self._is_full(side):
            oldest = next((stamp for stamp in self._queues[side] if stamp is not None), None)
            if oldest is None:
                return
            yield _alone(side, self._take(side, oldest))

    def rest(self) -> Iterator[Pair]:
        """Yield what is still waiting."""
        for side, queues in enumerate(self._queues):
            for queue in queues.values():
                yield from (_alone(side, entry) for entry in queue)

    def _is_full(self, side: int) -> bool:
        return self._bytes[side] > MAX_WAITING_BYTES and self._counts[side] > MIN_WAITING

    def _take(self, side: int, stamp: int | None) -> Entry:
        queue = self._queues[side][stamp]
        entry = queue.popleft()
        if not queue:
            del self._queues[side][stamp]
        self._account(side, entry, -1)
        return entry

    def _account(self, side: int, entry: Entry, sign: int) -> None:
        self._bytes[side] += sign * (len(entry.message.data) + _OVERHEAD)
        self._counts[side] += sign
