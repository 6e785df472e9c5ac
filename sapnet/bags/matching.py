"""Pairs the messages of two recordings: both are read side by side, and few messages wait in memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice
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


# The entry of A and that of B; None if nothing corresponds to the other one.
Pair = tuple["Entry | None", "Entry | None"]


def pair_up(recordings: Sequence[Recording], topics: Sequence[list[Topic]]) -> Iterator[Pair]:
    """Pair the messages of some topics of each of two recordings, by topic name.

    Messages with a header are paired by its stamp, and by order if stamps repeat; all others by order.
    """
    shared = {topic.name for topic in topics[0]} & {topic.name for topic in topics[1]}
    waiting = [{name: _Waiting() for name in shared} for _ in recordings]
    places: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    turns = _Turns()
    streams = [recording.messages(some) for recording, some in zip(recordings, topics, strict=True)]
    heads = [next(stream, None) for stream in streams]
    while (message := heads[turns.side] or heads[1 - turns.side]) is not None:
        side = turns.side if heads[turns.side] else 1 - turns.side
        name = message.topic.name
        entry = Entry(message, places[side][name], stamp_of(message))
        places[side][name] += 1
        if name not in shared:
            turns.take()
            yield _in_order(side, entry)
        else:
            partner = waiting[1 - side][name].take(entry.stamp)
            turns.take(side, name, entry.stamp, partner is not None)
            if partner is not None:
                yield _in_order(side, entry, partner)
            else:
                for lost in waiting[side][name].put(entry):
                    yield _in_order(side, lost)
        heads[side] = next(streams[side], None)
    for side, some in enumerate(waiting):
        for queue in some.values():
            yield from (_in_order(side, entry) for entry in queue.rest())


def _in_order(side: int, entry: Entry, partner: Entry | None = None) -> Pair:
    return (entry, partner) if side == 0 else (partner, entry)


class _Turns:
    """Which recording is read next, so that neither runs ahead of the other.

    What a replay shares with its source are the stamps of headers, topic by topic; its log times may be of another day
    and pace.
    """

    def __init__(self) -> None:
        self.side = 0
        self._behind: int | None = None
        self._newest: tuple[dict[str, int], dict[str, int]] = ({}, {})
        # How many stamps of a topic were found in both recordings: once a topic has two, those without tell nothing, as
        # they may be stamped anew in a replay. A single one may be of a latched topic.
        self._found: Counter[str] = Counter()
        self._is_settled = False

    def take(self, side: int = 0, name: str = "", stamp: int | None = None, is_found: bool = False) -> None:
        """Note the message that was read, and go on to the side that is behind, or by turns while neither is."""
        if stamp is not None:
            self._newest[side][name] = stamp
            self._found[name] += is_found
            self._is_settled |= self._found[name] > 1
            if self._found[name] > 1 or not self._is_settled:
                other = self._newest[1 - side].get(name, -1)
                self._behind = None if stamp == other else 1 - side if stamp > other else side
        self.side = 1 - self.side if self._behind is None else self._behind


class _Waiting:
    """Messages of one topic name and one side that wait for those of the other one."""

    def __init__(self) -> None:
        self._queues: dict[int | None, deque[Entry]] = {}  # by stamp, the oldest first
        self._bytes = 0
        self._count = 0

    def put(self, entry: Entry) -> Iterator[Entry]:
        """Add a message, and give up the oldest ones if too much is waiting; those without stamp leave a digest."""
        if entry.stamp is None and self._is_full:
            entry = entry._replace(message=entry.message._replace(data=b""), digest=digest_of(entry.message))
        self._queues.setdefault(entry.stamp, deque()).append(entry)
        self._account(entry, 1)
        while self._is_full and (stamps := [stamp for stamp in islice(self._queues, 2) if stamp is not None]):
            oldest = self.take(stamps[0])
            assert oldest is not None
            yield oldest

    def take(self, stamp: int | None) -> Entry | None:
        """Remove and return the oldest message with this stamp, or None."""
        queue = self._queues.get(stamp)
        if queue is None:
            return None
        entry = queue.popleft()
        if not queue:
            del self._queues[stamp]
        self._account(entry, -1)
        return entry

    def rest(self) -> Iterator[Entry]:
        """Iterate over all messages that are still waiting."""
        return chain.from_iterable(self._queues.values())

    @property
    def _is_full(self) -> bool:
        return self._bytes > MAX_WAITING_BYTES and self._count > MIN_WAITING

    def _account(self, entry: Entry, sign: int) -> None:
        self._bytes += sign * (len(entry.message.data) + _OVERHEAD)
        self._count += sign
