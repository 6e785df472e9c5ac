"""Recordings, their topics and their messages, whatever they are stored in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rosbags.interfaces import MessageDefinition, Qos

from sapnet.errors import BagError

# Reads (topic, log time in nanoseconds, CDR) of topics, from a start (inclusive) to a stop (exclusive).
Messages = Iterator["Message"]
Read = Callable[[Collection["Topic"], "int | None", "int | None"], Messages]


class InputError(BagError):
    """What a recording is read from has failed, or memory has: nothing is known to be wrong with the recording."""


@dataclass(frozen=True, eq=False)
class Topic:
    """A topic of a recording; topics of one name and different types are two.

    type: such as ``sensor_msgs/msg/Image``. qos: profiles of its publishers, empty where they were not recorded.
    definition: of format NONE where the recording has none. digest: RIHS01 hash of the type, or empty.
    count: messages, as far as the recording says.
    """

    name: str
    type: str
    qos: tuple[Qos, ...]
    definition: MessageDefinition
    digest: str
    serialization: str
    count: int


class Message(NamedTuple):
    """A message. time_ns: log time. data: CDR."""

    topic: Topic
    time_ns: int
    data: bytes


class Recording:
    """An open recording.

    storage: ``mcap`` or ``sqlite3``, or ``ros1``. compression: ``none``, ``message``, ``file`` or, in mcap, ``chunk``.
    start_ns, end_ns: log times of the first message, and one after that of the last; equal where there is none.
    notes: what was wrong with it, a sentence each; reading may add some. custom: what the recorder was told to keep.
    """

    def __init__(
        self,
        path: Path,
        storage: str,
        compression: str,
        topics: tuple[Topic, ...],
        span_ns: tuple[int, int],
        notes: list[str],
        read: Read,
        custom: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.storage = storage
        self.compression = compression
        self.topics = topics
        self.start_ns, self.end_ns = span_ns
        self.notes = notes
        self.custom = dict(custom or {})
        self._read = read

    @property
    def count(self) -> int:
        """Messages of all topics."""
        return sum(topic.count for topic in self.topics)

    def messages(
        self, topics: Collection[Topic] | None = None, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Messages:
        """Messages of all or some topics, in the order of their log times within each of the recording's files.

        start_ns, stop_ns: from this log time on, and before this one. Where the recording turns out to be damaged,
        they end early, and ``notes`` says so. Raises InputError where what it is read from fails meanwhile.
        """
        wanted = self.topics if topics is None else topics
        try:
            yield from self._read(wanted, start_ns, stop_ns) if wanted else ()
        except (OSError, MemoryError) as err:
            raise InputError(f"{self.path} cannot be read ({why(err)})") from err


def note(notes: list[str], what: str) -> None:
    """Add what was found to be wrong, once, however often it is read."""
    if what not in notes:
        notes.append(what)


def why(err: OSError | MemoryError) -> str:
    """What the system says of a failure."""
    return (err.strerror or str(err)) if isinstance(err, OSError) else "out of memory"
