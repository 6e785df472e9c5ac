"""Reads ROS 1 bags. Their messages are converted to CDR while they are read."""

from __future__ import annotations

import io
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

from rosbags.convert.converter import LATCH, STATIC_MSGTYPE_RENAMES, generate_message_converter
from rosbags.interfaces import Connection, ConnectionExtRosbag1
from rosbags.rosbag1 import Reader, ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from sapnet.bags.recording import Findings, Message, StoredFile, Topic
from sapnet.bags.types import described_topic
from sapnet.errors import BagError, first_line

# What the library and its decompressors raise for damaged bytes. RuntimeError is lz4's.
_DAMAGE = (ReaderError, KeyError, ValueError, EOFError, IndexError, AssertionError, struct.error, RuntimeError)
_TYPE_DAMAGE = (TypesysError, SerdeError, KeyError, ValueError)


# A topic of a message type, yet without a name, and what turns a message as ROS 1 has it into CDR.
_Type = tuple[Topic, Callable[[bytes | memoryview], memoryview]]


class Ros1File(StoredFile):
    """A .bag file with its index, kept open. Types that ROS 2 has become those, others keep their definition."""

    def __init__(self, find: Callable[[], Path], findings: Findings) -> None:
        super().__init__(find, findings)
        self._reader = Reader(find())
        try:
            with _damage():
                self._reader.open()
        except ReaderError as err:
            raise BagError(
                f"{first_line(err)}; `rosbag reindex` repairs a bag that was cut off or not closed (.bag.active)"
            ) from err
        self._types = _types(self._reader.connections, findings)
        known = [connection for connection in self._reader.connections if connection.msgtype in self._types]
        # Each publisher that latches keeps a message of its own.
        latching = Counter(
            (c.topic, c.msgtype) for c in known if isinstance(c.ext, ConnectionExtRosbag1) and c.ext.latching
        )
        self._topics: dict[int, Topic] = {}
        for connection in known:
            topic, _ = self._types[connection.msgtype]
            qos = (*LATCH * latching[connection.topic, connection.msgtype],)
            self._topics[connection.id] = replace(topic, name=connection.topic, qos=qos, count=connection.msgcount)
        self.topics = tuple(self._topics.values())
        has_messages = any(topic.count for topic in self.topics)
        self.span_ns = (self._reader.start_time, self._reader.end_time) if has_messages else (0, 0)

    def messages(self, topics: Collection[Topic], start_ns: int, stop_ns: int) -> Iterator[Message]:
        """Read messages of some of its topics, ordered by log time."""
        wanted = [c for c in self._reader.connections if self._topics.get(c.id) in topics]
        try:
            with _damage():
                for connection, time_ns, data in self._reader.messages(wanted, start_ns, stop_ns):
                    try:
                        converted = bytes(self._types[connection.msgtype][1](data))
                    except _TYPE_DAMAGE as err:
                        said = f"{connection.topic} holds messages that are no {connection.msgtype}"
                        self._findings.lose(f"{said} ({first_line(err)}): left out")
                    else:
                        yield Message(self._topics[connection.id], time_ns, converted)
        except ReaderError as err:
            self._findings.lose(f"{self._name} is damaged ({first_line(err)}): read up to there")

    def close(self) -> None:
        """Close the bag."""
        self._reader.close()


@contextmanager
def _damage() -> Iterator[None]:
    """Turn whatever damaged bytes raise into ReaderError. Raises OSError if the storage fails."""
    try:
        yield
    except OSError as err:
        if err.errno is not None:
            raise
        raise ReaderError(first_line(err)) from err  # bz2's
    except _DAMAGE as err:
        if isinstance(err.__cause__, OSError):
            raise err.__cause__ from None
        raise ReaderError(first_line(err)) from err


def _types(connections: Collection[Connection], findings: Findings) -> dict[str, _Type]:
    """The message types of a bag, by their names in ROS 1.

    A type that cannot be read is not among them, and the findings say that its topics are left out.
    """
    ros1, ros2 = get_typestore(Stores.EMPTY), get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, _Type] = {}
    cache: dict[str, object] = {}
    for name, text in {c.msgtype: c.msgdef.data for c in connections}.items():
        renamed = STATIC_MSGTYPE_RENAMES.get(name, name)
        try:
            ros1.register(get_types_from_msg(text, name))
            if renamed not in ros2.fielddefs:
                defined = get_types_from_msg(ros1.generate_msgdef(name, ros_version=2)[0], renamed)
                # Types of ROS 2 stay as they are, also within other types.
                ros2.register({key: fields for key, fields in defined.items() if key not in ros2.fielddefs})
            topic = described_topic("", renamed, (), ros2)  # fails if a part of the type is missing
            with redirect_stdout(io.StringIO()):  # the library prints its progress
                convert = generate_message_converter(ros1, ros2, name, renamed, cache, src_is2=False, dst_is2=True)
            types[name] = topic, convert
        except _TYPE_DAMAGE as err:
            findings.lose(f"{name} cannot be read or converted ({first_line(err)}): its topics are left out")
    return types
