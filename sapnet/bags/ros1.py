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
from rosbags.typesys.store import Typestore

from sapnet.bags.recording import Findings, Message, Recording, Topic
from sapnet.bags.types import described_topic
from sapnet.errors import BagError, first_line

# What the library and its decompressors raise for damaged bytes. RuntimeError is lz4's.
_DAMAGE = (ReaderError, KeyError, ValueError, EOFError, IndexError, AssertionError, struct.error, RuntimeError)
_TYPE_DAMAGE = (TypesysError, SerdeError, KeyError, ValueError)


# A message type: its name in ROS 2, and what turns a message as ROS 1 has it into CDR.
_Type = tuple[str, Callable[[bytes | memoryview], memoryview]]


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
        types, store = _types(reader.connections, findings)
        known = [connection for connection in reader.connections if connection.msgtype in types]
        topics = _topics(known, types, store)

        def read(wanted: Collection[Topic], start_ns: int, stop_ns: int) -> Iterator[Message]:
            keys = {topic.key for topic in wanted}
            connections = [connection for connection in known if topics[connection.id].key in keys]
            try:
                for connection, time_ns, data in _messages(reader, connections, start_ns, stop_ns):
                    try:
                        converted = bytes(types[connection.msgtype][1](data))
                    except _TYPE_DAMAGE as err:
                        said = f"{connection.topic} holds messages that are no {connection.msgtype}"
                        findings.lose(f"{said} ({first_line(err)}): left out")
                    else:
                        yield Message(topics[connection.id], time_ns, converted)
            except ReaderError as err:
                findings.lose(f"{path.name} is damaged ({first_line(err)}): read up to there")

        span = (reader.start_time, reader.end_time) if any(connection.msgcount for connection in known) else (0, 0)
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


def _types(connections: Collection[Connection], findings: Findings) -> tuple[dict[str, _Type], Typestore]:
    """The message types of a bag by their names in ROS 1, and what defines them in ROS 2.

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
            described_topic("", renamed, (), ros2)  # fails if a part of the type is missing
            with redirect_stdout(io.StringIO()):  # the library prints its progress
                convert = generate_message_converter(ros1, ros2, name, renamed, cache, src_is2=False, dst_is2=True)
            types[name] = renamed, convert
        except _TYPE_DAMAGE as err:
            findings.lose(f"{name} cannot be read or converted ({first_line(err)}): its topics are left out")
    return types, ros2


def _topics(connections: Collection[Connection], types: dict[str, _Type], store: Typestore) -> dict[int, Topic]:
    """The topic of each connection; connections of one name and type share it."""
    merged: dict[tuple[str, str], Topic] = {}
    keys = {connection.id: (connection.topic, types[connection.msgtype][0]) for connection in connections}
    for connection in connections:
        key = keys[connection.id]
        topic = merged.get(key) or described_topic(*key, (), store)
        assert isinstance(connection.ext, ConnectionExtRosbag1)
        # Each publisher that latches keeps a message of its own.
        qos = (*topic.qos, *LATCH) if connection.ext.latching else topic.qos
        merged[key] = replace(topic, count=topic.count + connection.msgcount, qos=qos)
    return {number: merged[key] for number, key in keys.items()}
