"""Which message of one recording stands for which of another: both are read side by side, and few wait in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

from sapnet.bags.definitions import Definitions
from sapnet.bags.recording import Message as Recorded
from sapnet.bags.recording import Recording, Topic
from sapnet.bags.types import header_stamp

# What may wait for the other recording, for each topic and side: so many bytes, but at least so many messages.
MAX_WAITING_BYTES = 32 * 2**20
MIN_WAITING = 4
_OVERHEAD = 300  # bytes of a message beside its content

SIDES = (0, 1)


class Side(NamedTuple):
    """A recording and the types that it defines."""

    source: Recording
    definitions: Definitions


class Message(NamedTuple):
    """A message of one side.

    place: its number among those of its name. stamp: of its header in nanoseconds, None where it has none.
    data: CDR; None where only its digest, that of its canonical form, has been kept.
    """

    topic: Topic
    place: int
    time_ns: int
    stamp: int | None
    data: bytes | None
    digest: bytes = b""


class Pair(NamedTuple):
    """Messages of both recordings that stand for each other."""

    a: Message
    b: Message


class Single(NamedTuple):
    """A message that nothing stands for in the other recording. side: 0 for A, 1 for B."""

    side: int
    message: Message


def digest_of(message: Message, definitions: Definitions) -> bytes:
    """Equal for messages of equal fields."""
    if message.data is None:
        return message.digest
    return blake2b(definitions.canonical(message.data, message.topic.type), digest_size=32).digest()


def pair_up(sides: tuple[Side, Side], topics: tuple[list[Topic], list[Topic]]) -> Iterator[Pair | Single]:
    """The messages of some topics of each side, in pairs of equal name as far as there are any.

    Those with a header are matched by its stamp, and by order where stamps repeat; those without by order.
    Names that one side alone has are Single from the start. Memory: MAX_WAITING_BYTES for each topic and side.
    """
    shared = {topic.name for topic in topics[0]} & {topic.name for topic in topics[1]}
    waiting = {name: _Waiting(sides) for name in shared}
    counts: dict[tuple[int, str], int] = {}
    clocks = _Clocks(sides)
    streams = tuple(side.source.messages(some) for side, some in zip(sides, topics, strict=True))
    heads = [next(stream, None) for stream in streams]
    while (side := clocks.behind(heads)) is not None:
        recorded = heads[side]
        assert recorded is not None
        name = recorded.topic.name
        place = counts[side, name] = counts.get((side, name), -1) + 1
        message = _message(recorded, place, sides[side].definitions)
        if name in waiting:
            clocks.note(side, message)
            yield from waiting[name].add(side, message, clocks)
        else:
            yield Single(side, message)
        heads[side] = next(streams[side], None)
    for pending in waiting.values():
        yield from pending.rest()


def _message(recorded: Recorded, place: int, definitions: Definitions) -> Message:
    topic, time_ns, data, *_ = recorded
    stamp = None
    if definitions.is_stamped(topic.type):
        try:
            stamp = header_stamp(data)
        except ValueError:  # cut off: matched by order
            stamp = None
    return Message(topic, place, time_ns, stamp, data)


class _Clocks:
    """How the log times of two recordings lie to each other, so that neither is read far ahead of the other.

    A replay is recorded at another time than its source: what both have are the stamps of headers.
    """

    def __init__(self, sides: tuple[Side, Side]) -> None:
        a, b = (side.source for side in sides)
        overlap = a.start_ns < b.end_ns and b.start_ns < a.end_ns
        # Log time of B less that of A, for the same moment.
        self._offset = 0 if overlap else b.start_ns - a.start_ns
        self._delays: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._settled = False

    def behind(self, heads: list[Recorded | None]) -> int | None:
        """The side to read from; None at the end of both."""
        a, b = heads
        if a is None or b is None:
            return 0 if a is not None else 1 if b is not None else None
        return 0 if a.time_ns + self._offset <= b.time_ns else 1

    def note(self, side: int, message: Message) -> None:
        """Until messages have met, the first stamp of a topic tells."""
        name = message.topic.name
        if self._settled or message.stamp is None or name in self._delays[side]:
            return
        self._delays[side][name] = message.time_ns - message.stamp
        if name in self._delays[1 - side]:
            self._offset = self._delays[1][name] - self._delays[0][name]
            self._settled = True

    def meet(self, pair: Pair) -> None:
        """Two messages of one stamp stand for the same moment."""
        if pair.a.stamp is not None:
            self._offset = pair.b.time_ns - pair.a.time_ns
            self._settled = True


class _Waiting:
    """Messages of one topic name that wait for those of the other recording, by stamp, the oldest first."""

    def __init__(self, sides: tuple[Side, Side]) -> None:
        self._sides = sides
        self._queues: tuple[dict[int | None, deque[Message]], ...] = ({}, {})
        self._bytes = [0, 0]
        self._counts = [0, 0]

    def add(self, side: int, message: Message, clocks: _Clocks) -> Iterator[Pair | Single]:
        """What the coming of a message settles."""
        if message.stamp in self._queues[1 - side]:
            other = self._take(1 - side, message.stamp)
            pair = Pair(message, other) if side == 0 else Pair(other, message)
            clocks.meet(pair)
            yield pair
            return
        if message.stamp is None and self._is_full(side):
            message = message._replace(data=None, digest=digest_of(message, self._sides[side].definitions))
        self._queues[side].setdefault(message.stamp, deque()).append(message)
        self._account(side, message, 1)
        while self._is_full(side) and (oldest := self._oldest_stamp(side)) is not None:
            yield Single(side, self._take(side, oldest))

    def rest(self) -> Iterator[Single]:
        """What has waited in vain."""
        for side in SIDES:
            for queue in self._queues[side].values():
                yield from (Single(side, message) for message in queue)

    def _is_full(self, side: int) -> bool:
        return self._bytes[side] > MAX_WAITING_BYTES and self._counts[side] > MIN_WAITING

    def _oldest_stamp(self, side: int) -> int | None:
        return next((stamp for stamp in self._queues[side] if stamp is not None), None)

    def _take(self, side: int, stamp: int | None) -> Message:
        queue = self._queues[side][stamp]
        message = queue.popleft()
        if not queue:
            del self._queues[side][stamp]
        self._account(side, message, -1)
        return message

    def _account(self, side: int, message: Message, sign: int) -> None:
        self._bytes[side] += sign * (len(message.data or b"") + _OVERHEAD)
        self._counts[side] += sign
