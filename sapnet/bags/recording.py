"""Recordings, their topics and their messages, however they are stored."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mcap.records import Attachment, Metadata
from rosbags.interfaces import Qos

from sapnet.errors import BagError, first_line

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

CDR = "cdr"
STORAGES = {"mcap": ".mcap", "sqlite3": ".db3"}
"""Of rosbag2, with the suffixes of their files."""
METADATA = "metadata.yaml"
METADATA_ROOT = "rosbag2_bagfile_information"
# In the metadata of an mcap channel, and in metadata.yaml.
QOS_KEY = "offered_qos_profiles"

# Before and after whatever is recorded.
FIRST_NS, LAST_NS = -(2**63), 2**64
# The first bytes of a compressed message; CDR begins with 00.
_ZSTD = b"\x28\xb5\x2f\xfd"


class InputError(BagError):
    """The storage that holds a recording failed, or memory ran out. The recording itself may be intact."""


@dataclass(frozen=True)
class Schema:
    """The definition of a type, as recorded. encoding: such as ``ros2msg`` or ``protobuf``; empty if there is none."""

    encoding: str = ""
    data: bytes = b""


@dataclass(frozen=True, eq=False)
class Topic:
    """A topic of a recording. Topics of one name that differ in type, schema or encoding are separate topics.

    type: such as ``sensor_msgs/msg/Image``. qos: profiles of its publishers, empty if unrecorded.
    digest: RIHS01 hash of the type, or empty. encoding: of its messages. count: messages, according to the recording.
    metadata: of its mcap channel; None if it was not stored as mcap.
    """

    name: str
    type: str
    qos: tuple[Qos, ...] = ()
    schema: Schema = Schema()
    digest: str = ""
    encoding: str = CDR
    count: int = 0
    metadata: Mapping[str, str] | None = None

    @property
    def key(self) -> Hashable:
        """Equal for the channels of one topic, also in another reading: everything but counts and QoS profiles."""
        metadata = {key: value for key, value in (self.metadata or {}).items() if key != QOS_KEY}
        return self.name, self.type, self.encoding, self.schema, frozenset(metadata.items())


class Message(NamedTuple):
    """A message. time_ns: log time. data: as its topic is encoded. publish_ns: None if unrecorded."""

    topic: Topic
    time_ns: int
    data: bytes
    publish_ns: int | None = None
    sequence: int = 0


class Findings(dict[str, bool]):
    """What was wrong with a recording: for each problem, a sentence, whether messages are lost by it."""

    def note(self, what: str) -> None:
        """Note a problem without loss, once however often it is found."""
        self.setdefault(what, False)

    def lose(self, what: str) -> None:
        """Note a loss."""
        self[what] = True


class StoredFile:
    """A file of a recording, in one of the storages.

    find: returns where to read it. findings: reading adds to them.
    topics: those in it. span_ns: log times of its first message and of the last, plus one; equal if there are none.
    compression: ``chunk`` or ``none``. profile: of the mcap header.
    Raises BagError if nothing can be read, OSError.
    """

    topics: tuple[Topic, ...]
    span_ns: tuple[int, int]
    compression = "none"
    profile = "ros2"

    def __init__(self, find: Callable[[], Path], findings: Findings) -> None:
        self._find, self._findings = find, findings
        self._name = find().name

    def messages(self, topics: Collection[Topic], start_ns: int, stop_ns: int) -> Iterator[Message]:
        """Read messages of some of its topics, ordered by log time, then by place. Raises OSError."""
        raise NotImplementedError

    def records(self) -> Iterator[Attachment | Metadata]:
        """Read attachments and metadata records, which only mcap has. Raises OSError."""
        return iter(())

    def close(self) -> None:
        """Close what is kept open between readings."""


@dataclass(frozen=True, eq=False)
class Recording:
    """An open recording.

    storage: ``mcap`` or ``sqlite3``, or ``ros1``. compression: ``none``, ``message``, ``file`` or, in mcap, ``chunk``.
    start_ns, end_ns: log times of the first message and of the last, plus one; equal if there are none.
    findings: reading may add to them. custom: custom data of rosbag2.
    """

    path: Path
    storage: str
    compression: str
    topics: tuple[Topic, ...]
    start_ns: int
    end_ns: int
    files: Sequence[StoredFile]
    findings: Findings
    custom: Mapping[str, str]

    @property
    def notes(self) -> list[str]:
        """What was wrong with it so far, one sentence each."""
        return list(self.findings)

    @property
    def missing(self) -> list[str]:
        """Which parts could not be read so far, one sentence each."""
        return [what for what, is_loss in self.findings.items() if is_loss]

    @property
    def count(self) -> int:
        """Messages of all topics."""
        return sum(topic.count for topic in self.topics)

    def messages(
        self, topics: Collection[Topic] | None = None, start_ns: int = FIRST_NS, stop_ns: int = LAST_NS
    ) -> Iterator[Message]:
        """Iterate over messages of all or some topics, ordered by log time within each file of the recording.

        start_ns, stop_ns: from this log time on, and before this one. Iteration ends early at damage, and ``missing``
        says so. Raises InputError if the storage fails.
        """
        wanted = {topic.key: topic for topic in (self.topics if topics is None else topics)}
        with reading(self.path):
            for file in self.files:
                # By the file's own topics; one of the recording may stand for several.
                owners = {own: wanted[own.key] for own in file.topics if own.key in wanted}
                # What is not read is not unpacked.
                if owners and max(start_ns, file.span_ns[0]) < min(stop_ns, file.span_ns[1]):
                    for message in file.messages(owners, start_ns, stop_ns):
                        data = self._unpacked(message)
                        if data is not None:
                            yield message._replace(topic=owners[message.topic], data=data)

    def records(self) -> Iterator[Attachment | Metadata]:
        """Iterate over the attachments and metadata records of mcap, but for that of rosbag2 itself.

        Raises InputError if the storage fails.
        """
        with reading(self.path):
            for file in self.files:
                yield from file.records()

    def _unpacked(self, message: Message) -> bytes | None:
        if message.topic.encoding != CDR or not message.data.startswith(_ZSTD):
            return message.data
        try:
            return zstd.decompress(message.data)
        except zstd.ZstdError as err:
            why = f"cannot be unpacked ({first_line(err)}): left out"
            self.findings.lose(f"{message.topic.name} holds messages that {why}")
            return None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises InputError if the storage of a recording fails in the ``with`` statement, or if memory runs out."""
    try:
        yield
    except (OSError, MemoryError) as err:
        why = (err.strerror or str(err)) if isinstance(err, OSError) else "out of memory"
        raise InputError(f"{path} cannot be read ({why}); check its storage, its rights, and room in TMPDIR") from err
