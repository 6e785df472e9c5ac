"""ROS 1 bags. Their messages are converted to CDR while they are read."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

from rosbags.convert.converter import LATCH, STATIC_MSGTYPE_RENAMES, generate_message_converter
from rosbags.interfaces import Connection, ConnectionExtRosbag1
from rosbags.rosbag1 import Reader, ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from sapnet.bags.recording import Findings, Message, Recording, Topic
from sapnet.bags.types import described_topic
from sapnet.errors import BagError, first_line

Convert = Callable[["bytes | memoryview"], memoryview]

# What the library and its decompressors raise for damaged bytes. RuntimeError is lz4's.
_DAMAGE = (ReaderError, KeyError, ValueError, EOFError, IndexError, AssertionError, struct.error, RuntimeError)
_TYPE_DAMAGE = (TypesysError, SerdeError, KeyError, ValueError)


@contextmanager
def open_ros1(path: Path) -> Iterator[Recording]:
    """Open a .bag file. Types that ROS 2 has are converted to those, others keep their definition. Raises BagError."""
    reader = Reader(path)
    try:
        with _damage():
            reader.open()
    except ReaderError as err:
        raise BagError(
            f"{path} cannot be read as a ROS 1 bag: {first_line(err).rstrip('.')}; `rosbag reindex` repairs a bag that "
            "was cut off or not closed (.bag.active)"
        ) from err
    try:
        findings = Findings()
        types = _Types(reader.connections, findings)
        topics = _topics(reader.connections, types)

        def read(wanted: Collection[Topic], start_ns: int, stop_ns: int) -> Iterator[Message]:
            keys = {topic.key for topic in wanted}
            connections = [c for c in reader.connections if c.id in topics and topics[c.id].key in keys]
            try:
                for connection, time_ns, data in _messages(reader, connections, start_ns, stop_ns):
                    converted = types.converted(connection, data)
                    if converted is not None:
                        yield Message(topics[connection.id], time_ns, converted)
            except ReaderError as err:
                findings.lose(f"{path.name} is damaged ({first_line(err)}): read up to there")

        span = (reader.start_time, reader.end_time) if any(topic.count for topic in topics.values()) else (0, 0)
        yield Recording(path, "ros1", "none", tuple(dict.fromkeys(topics.values())), *span, findings, read)
    finally:
        reader.close()


def _messages(
    reader: Reader, connections: list[Connection], start_ns: int, stop_ns: int
) -> Iterator[tuple[Connection, int, bytes]]:
    """As of the library, which takes no connections for all of them. Raises ReaderError, OSError."""
    with _damage():
        yield from reader.messages(connections, start_ns, stop_ns) if connections else ()


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


class _Types:
    """The message types of a bag. names: in ROS 2, by those in ROS 1. store: of ROS 2.

    A type that cannot be read is not among them, and the findings say that its topics are left out.
    """

    def __init__(self, connections: Collection[Connection], findings: Findings) -> None:
        self.names: dict[str, str] = {}
        self._convert: dict[str, Convert] = {}
        self._findings = findings
        self.store = get_typestore(Stores.ROS2_JAZZY)
        self._ros1 = get_typestore(Stores.EMPTY)
        cache: dict[str, object] = {}
        for name, text in {c.msgtype: c.msgdef.data for c in connections}.items():
            try:
                self._ros1.register(get_types_from_msg(text, name))
                self._add(name, cache)
            except _TYPE_DAMAGE as err:
                findings.lose(f"{name} cannot be read or converted ({first_line(err)}): its topics are left out")

    def converted(self, connection: Connection, data: bytes) -> bytes | None:
        """A message as CDR; None if it is not of its type."""
        convert = self._convert[connection.msgtype]
        try:
            return bytes(convert(data))
        except _TYPE_DAMAGE as err:
            said = f"{connection.topic} holds messages that are no {connection.msgtype}"
            self._findings.lose(f"{said} ({first_line(err)}): left out")
            return None

    def _add(self, name: str, cache: dict[str, object]) -> None:
        renamed = STATIC_MSGTYPE_RENAMES.get(name, name)
        if renamed not in self.store.fielddefs:
            types = get_types_from_msg(self._ros1.generate_msgdef(name, ros_version=2)[0], renamed)
            # Types of ROS 2 stay as they are, also within other types.
            self.store.register({key: fields for key, fields in types.items() if key not in self.store.fielddefs})
        described_topic("", renamed, (), self.store)  # fails if a part of the type is missing
        with redirect_stdout(io.StringIO()):  # the library prints its progress
            self._convert[name] = generate_message_converter(
                self._ros1, self.store, name, renamed, cache, src_is2=False, dst_is2=True
            )
        self.names[name] = renamed


def _topics(connections: Collection[Connection], types: _Types) -> dict[int, Topic]:
    """The topic of each connection; connections of one name and type share it."""
    merged: dict[tuple[str, str], Topic] = {}
    known = [(c, (c.topic, types.names[c.msgtype])) for c in connections if c.msgtype in types.names]
    for connection, key in known:
        topic = merged.get(key) or described_topic(*key, (), types.store)
        assert isinstance(connection.ext, ConnectionExtRosbag1)
        # Each publisher that latches keeps a message of its own.
        qos = (*topic.qos, *LATCH) if connection.ext.latching else topic.qos
        merged[key] = replace(topic, count=topic.count + connection.msgcount, qos=qos)
    return {connection.id: merged[key] for connection, key in known}
