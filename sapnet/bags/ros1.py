"""ROS 1 bags, their messages converted to CDR as they are read."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

from rosbags.convert.converter import LATCH, STATIC_MSGTYPE_RENAMES, generate_message_converter
from rosbags.interfaces import Connection, ConnectionExtRosbag1, MessageDefinition, MessageDefinitionFormat
from rosbags.interfaces.typing import Typesdict
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from sapnet.bags.recording import Message, Recording, Topic, note
from sapnet.bags.ros1_reader import Ros1Reader, require_damage
from sapnet.errors import BagError, first_line

Convert = Callable[["bytes | memoryview"], memoryview]


@contextmanager
def open_ros1(path: Path, scratch: Path) -> Iterator[Recording]:
    """Open a .bag file; types that ROS 2 has are written as ROS 2 defines them, others keep their definition.

    scratch: not needed. Raises BagError.
    """
    reader = Ros1Reader(path)
    try:
        reader.open()
    # What the library raises, here and below, depends on the byte that is wrong.
    except Exception as err:
        require_damage(err)
        raise BagError(
            f"{path} cannot be read as a ROS 1 bag: {first_line(err)} `rosbag reindex` mends what is repairable"
        ) from err
    try:
        notes: list[str] = []
        if reader.no_index:
            note(notes, f"{path.name} has no index ({reader.no_index}): read through instead, as far as it goes")
        types = _Types(reader.connections, notes)
        topics = _topics(reader.connections, types)

        def read(wanted: Collection[Topic], start_ns: int | None, stop_ns: int | None) -> Iterator[Message]:
            asked = {(topic.name, topic.type) for topic in wanted}
            connections = [c for c in reader.connections if c.id in topics and _key(topics[c.id]) in asked]
            try:
                # None would be taken as all.
                for connection, time_ns, data in reader.messages(connections, start_ns, stop_ns) if connections else ():
                    try:
                        converted = bytes(types.convert[connection.msgtype](data))
                    except Exception as err:
                        require_damage(err)
                        said = f"{connection.topic} holds messages that are no {connection.msgtype}"
                        note(notes, f"{said} ({first_line(err)}): left out")
                    else:
                        yield Message(topics[connection.id], time_ns, converted)
            except Exception as err:
                require_damage(err)
                note(notes, f"{path.name} is damaged ({first_line(err)}): read as far as it goes")

        span = (reader.start_time, reader.end_time) if any(topic.count for topic in topics.values()) else (0, 0)
        yield Recording(path, "ros1", "none", tuple(dict.fromkeys(topics.values())), span, notes, read)
    finally:
        reader.close()


class _Types:
    """The message types of a bag. names: in ROS 2, by those in ROS 1. convert: what makes CDR, by names in ROS 1.

    A type that cannot be read is not in them, and is said to be left out.
    """

    def __init__(self, connections: Collection[Connection], notes: list[str]) -> None:
        self.names: dict[str, str] = {}
        self.convert: dict[str, Convert] = {}
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._ros1 = get_typestore(Stores.EMPTY)
        definitions: Typesdict = {}
        for name, text in {c.msgtype: c.msgdef.data for c in connections}.items():
            try:
                definitions.update(get_types_from_msg(text, name))
            except Exception as err:
                note(notes, f"the definition of {name} cannot be read ({first_line(err)}): its topics are left out")
        self._ros1.register(definitions)
        cache: dict[str, object] = {}
        for name in dict.fromkeys(c.msgtype for c in connections if c.msgtype in definitions):
            try:
                self._add(name, cache)
            except Exception as err:
                note(notes, f"{name} cannot be converted ({first_line(err)}): its topics are left out")

    def _add(self, name: str, cache: dict[str, object]) -> None:
        renamed = STATIC_MSGTYPE_RENAMES.get(name, name)
        if renamed not in self._store.fielddefs:
            types = get_types_from_msg(self._ros1.generate_msgdef(name, ros_version=2)[0], renamed)
            # What ROS 2 has is as it is there, also within types of one's own.
            self._store.register({key: fields for key, fields in types.items() if key not in self._store.fielddefs})
        self.definition(renamed)
        with redirect_stdout(io.StringIO()):  # the library prints what it does
            self.convert[name] = _converter(self._ros1, self._store, name, renamed, cache)
        self.names[name] = renamed

    def definition(self, name: str) -> tuple[MessageDefinition, str]:
        """The definition of a type of ROS 2, and its hash."""
        text, _ = self._store.generate_msgdef(name, ros_version=2)
        return MessageDefinition(MessageDefinitionFormat.MSG, text), self._store.hash_rihs01(name)


def _converter(ros1: Typestore, ros2: Typestore, name: str, renamed: str, cache: dict[str, object]) -> Convert:
    return generate_message_converter(ros1, ros2, name, renamed, cache, src_is2=False, dst_is2=True)


def _topics(connections: Collection[Connection], types: _Types) -> dict[int, Topic]:
    """The topic of each connection; those of one name and type are one."""
    known = [connection for connection in connections if connection.msgtype in types.names]
    merged: dict[tuple[str, str], Topic] = {}
    for connection in known:
        key = connection.topic, types.names[connection.msgtype]
        if key not in merged:
            definition, digest = types.definition(key[1])
            merged[key] = Topic(*key, (), definition, digest, "cdr", 0)
        merged[key] = replace(merged[key], count=merged[key].count + connection.msgcount)
    for key, topic in merged.items():
        # Each publisher that latches keeps a message of its own.
        latching = {_caller(c) for c in known if (c.topic, types.names[c.msgtype]) == key and _latches(c)}
        merged[key] = replace(topic, qos=tuple(LATCH * len(latching)))
    return {connection.id: merged[connection.topic, types.names[connection.msgtype]] for connection in known}


def _key(topic: Topic) -> tuple[str, str]:
    return topic.name, topic.type


def _latches(connection: Connection) -> bool:
    return isinstance(connection.ext, ConnectionExtRosbag1) and bool(connection.ext.latching)


def _caller(connection: Connection) -> str | int:
    """Its node, or where that was not recorded, the connection alone."""
    assert isinstance(connection.ext, ConnectionExtRosbag1)
    return connection.ext.callerid or connection.id
